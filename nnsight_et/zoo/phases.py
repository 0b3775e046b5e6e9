"""What attention can know about distance alone: RoPE phases fitted so that a head looks where it should.

With a constant query and a constant key the score of a head depends on the distance d between the two tokens only:
score(d) = sum_i a_i cos(f_i d) + b_i sin(f_i d), one term per frequency pair. The functions here choose a and b.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

THETA = 1e6
D_HEAD = 32
PAIRS = D_HEAD // 2
FREQUENCIES = THETA ** (-torch.arange(PAIRS, dtype=torch.float64) / PAIRS)
"""Radians per token, fast to slow: 1, 0.42, 0.18, ..., 2e-6. Pair i is the dims i and i + PAIRS of a head."""


def waves(distances: Tensor) -> Tensor:
    """[distance, 2 * pair]: cosines, then sines, of every pair at the given distances."""
    angles = distances.double()[:, None] * FREQUENCIES
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@lru_cache
def segment_phases(first: int, length: int, n_tokens: int) -> Tensor:
    """[2 * pair]: a and b with which a token at first .. first + length - 1 looks at token 0, and any other does not.

    The key is nonzero on token 0 only, so a token at t shares its attention between score(t) and t zeros. The first and
    the last token of a segment ("the" and the comma) may go either way.
    """
    place = torch.arange(1, n_tokens)
    inside = ((place >= first) & (place < first + length)).double()
    edge = ((place - 1) % length == 0) | ((place - 1) % length == length - 1)
    goal = 0.02 + 0.96 * inside  # the share of attention that goes to token 0

    def loss(phases: Tensor) -> Tensor:
        margin = waves(place) @ phases - place.double().log()
        weight = torch.where(edge, 0.02, 1.0)
        miss = torch.nn.functional.binary_cross_entropy_with_logits(margin, goal, weight)
        return miss + 1e-6 * phases.square().sum()

    return fit_phases(loss)


@lru_cache
def distance_phases(distance: int, n_tokens: int) -> Tensor:
    """[2 * pair]: a and b with which a token looks `distance` tokens back, by the fast half of the pairs."""
    fast = (FREQUENCIES > 0.01).repeat(2)

    def loss(phases: Tensor) -> Tensor:
        scores = waves(torch.arange(n_tokens)) @ (phases * fast)
        return -scores.log_softmax(0)[distance] + 3e-5 * phases.square().sum()

    return fit_phases(loss) * fast


def fit_phases(loss) -> Tensor:
    """[2 * pair]: the minimum of a convex function of the phases."""
    phases = torch.zeros(2 * PAIRS, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([phases], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(phases)
        value.backward()
        return value

    optimiser.step(closure)
    return phases.detach()


def query_and_key(phases: Tensor) -> tuple[Tensor, Tensor]:
    """Two [d_head] vectors, before rotation, that give score(d), the division by sqrt(d_head) included."""
    a, b = phases.chunk(2)
    size = (math.sqrt(D_HEAD) * torch.hypot(a, b)).sqrt().clamp(min=1e-9)  # shared evenly by query and key
    query = torch.cat([a, -b]) * math.sqrt(D_HEAD) / size.repeat(2)
    return query.float(), torch.cat([size, torch.zeros_like(size)]).float()
