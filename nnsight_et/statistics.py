"""Intervals and the like, from numbers already measured: no forward pass happens here."""

from __future__ import annotations

import torch
from torch import Tensor

RESAMPLES = 2000


def bootstrap_interval(values: Tensor, seed: int, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Low and high [...] of the mean of values [..., example]: a percentile bootstrap over the examples.

    The same resamples are used for all leading indices, so that heads can be compared.
    """
    count = values.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
    weights = torch.zeros(RESAMPLES, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(drawn.shape).double()
    )
    means = values.double() @ weights.T / count  # [..., resample]
    tail = (1 - level) / 2
    bounds = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=-1)
    return bounds[0], bounds[1]
