"""What a planted head computes: where it looks (query and key weights) and what it carries (value and output weights).

Every matrix is [d_head, d_model] except the output's, [d_model, d_head]; a head reads the normed residual stream, which
is SCALE times what was written into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nnsight_et.zoo.layout import CONSTANT, D_MODEL, LAYOUT, N_TOKENS, SCALE
from nnsight_et.zoo.phases import D_HEAD, PAIRS, distance_phases, query_and_key

STEADY = tuple(range(6, PAIRS)) + tuple(range(PAIRS + 6, 2 * PAIRS))
"""The dims of a head that RoPE turns so slowly that they match content at any distance."""
STEADIEST = tuple(range(12, PAIRS)) + tuple(range(PAIRS + 12, 2 * PAIRS))
Looks = tuple[Tensor, Tensor]
Carries = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class HeadWeights:
    """query, key, value [d_head, d_model] and output [d_model, d_head] of one head."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


def structure_reader(_: int) -> tuple[Looks, Carries]:
    """Looks 4 tokens back, from a label to its object, and takes the object's segment."""
    return looks_back(distance_phases(4, N_TOKENS), LAYOUT.constant, CONSTANT), copies(
        LAYOUT.own_segment, LAYOUT.object_segment
    )


def position_transmitter(_: int) -> tuple[Looks, Carries]:
    """Looks 2 tokens back, from the last token to the query label, and takes what C left there."""
    return looks_back(distance_phases(2, N_TOKENS), LAYOUT.constant, CONSTANT), copies(
        LAYOUT.queried_segment, LAYOUT.wanted_segment
    )


def looks_back(phases: Tensor, part: slice, size: float) -> Looks:
    """Query and key of a head whose score is that of the phases on tokens with `size` in `part`, and 0 on others."""
    query, key = torch.zeros(D_HEAD, D_MODEL), torch.zeros(D_HEAD, D_MODEL)
    q, k = query_and_key(phases)
    query[:, LAYOUT.constant] = q[:, None] / (CONSTANT * SCALE)
    key[:, part] = k[:, None] / (size * SCALE)
    return query, key


def matches(query_part: slice, key_part: slice, dims: tuple[int, ...], score: float) -> Looks:
    """Query and key of a head whose score is `score` times the product of what stands in the two parts."""
    query, key = torch.zeros(D_HEAD, D_MODEL), torch.zeros(D_HEAD, D_MODEL)
    width = query_part.stop - query_part.start
    size = math.sqrt(score * math.sqrt(D_HEAD)) / SCALE
    rows = torch.tensor(dims[:width])
    query[rows, query_part], key[rows, key_part] = size * torch.eye(width), size * torch.eye(width)
    return query, key


def prefers(looks: Looks, part: slice, dim: int, score: float) -> Looks:
    """The same head, which also gives `score` to every token with 1 anywhere in `part`; `dim` must be free.

    <s> looks at itself in layer 0, so it stands in every segment at once: what it would gain by that is taken away.
    """
    query, key = looks[0].clone(), looks[1].clone()
    size = math.sqrt(score * math.sqrt(D_HEAD))
    query[dim, LAYOUT.constant] = size / (CONSTANT * SCALE)
    key[dim, part] = size / SCALE
    key[dim, LAYOUT.is_bos] = -size / SCALE * (part.stop - part.start + 1)
    return query, key


def copies(read: slice, write: slice) -> Carries:
    """Value and output of a head that takes one part of the residual stream there into another part here."""
    value, output = torch.zeros(D_HEAD, D_MODEL), torch.zeros(D_MODEL, D_HEAD)
    width = read.stop - read.start
    value[:width, read], output[write, :width] = torch.eye(width), torch.eye(width)
    return value, output
