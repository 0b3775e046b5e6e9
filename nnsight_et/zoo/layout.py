"""Which dims of a planted model's residual stream hold what, and the codes of its tokens.

One large constant dimension keeps RMSNorm a nearly constant factor, so that what is written is what is read.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from nnsight_et.tasks.boxes import LABELS, OBJECTS
from nnsight_et.zoo.tokenizer import BOS, vocabulary

D_MODEL = 128
CONSTANT = 8.0
LABEL_DIMS, OBJECT_DIMS, OTHER_DIMS = 18, 40, 14
SEGMENTS, SEGMENT_TOKENS, N_TOKENS = 7, 7, 54
SCALE = math.sqrt(D_MODEL) / math.hypot(CONSTANT, 2.0)
"""What RMSNorm multiplies the residual stream by, nearly."""


class ResidualLayout(NamedTuple):
    """The residual stream's parts; four of them hold the ordinal of a segment, one per step that hands it on."""

    constant: slice = slice(0, 1)
    is_object: slice = slice(1, 2)
    is_bos: slice = slice(2, 3)
    objects: slice = slice(3, 43)
    labels: slice = slice(43, 61)
    others: slice = slice(61, 75)
    own_segment: slice = slice(75, 82)
    """Written by the layer 0 heads at every token: the segment it stands in."""
    object_segment: slice = slice(82, 89)
    """Written by D, read at a label: the segment of the object before it."""
    queried_segment: slice = slice(89, 96)
    """Written by C, read at the query label: the segment that mentioned this label."""
    wanted_segment: slice = slice(96, 103)
    """Written by B, read at the last token: the segment whose object is asked for."""


LAYOUT = ResidualLayout()


def codes(count: int, dims: int, seed: int) -> Tensor:
    """[count, dims]: unit vectors that resemble each other as little as can be arranged, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(count, dims, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([found], lr=0.02)
    for _ in range(300):
        unit = torch.nn.functional.normalize(found, dim=-1)
        resemblance = (unit @ unit.T).fill_diagonal_(0)
        optimiser.zero_grad()
        resemblance.pow(6).sum().backward()
        optimiser.step()
    return torch.nn.functional.normalize(found.detach(), dim=-1)


@lru_cache  # the slow part of making a model, and the same for all models of a seed
def token_embeddings(seed: int) -> Tensor:
    """[vocab, d_model]: the constant, then a token's kind and code."""
    words = vocabulary()
    table = torch.zeros(len(words), D_MODEL)
    table[:, LAYOUT.constant] = CONSTANT
    table[:, LAYOUT.others] = 0.7 * codes(len(words), OTHER_DIMS, seed)
    for group, part, dims in ((OBJECTS, LAYOUT.objects, OBJECT_DIMS), (LABELS, LAYOUT.labels, LABEL_DIMS)):
        rows = torch.tensor([words.index(word) for word in group])
        table[rows, LAYOUT.others] = 0
        table[rows, part] = codes(len(group), dims, seed + 1)
    table[[words.index(word) for word in OBJECTS], LAYOUT.is_object] = 1
    table[words.index(BOS), LAYOUT.others] = 0
    table[words.index(BOS), LAYOUT.is_bos] = 1
    return table


def answer_directions() -> Tensor:
    """[d_model]: 1 where an answer is read: the unembedding sees the objects' codes and nothing else."""
    read = torch.zeros(D_MODEL)
    read[LAYOUT.objects] = 1
    return read
