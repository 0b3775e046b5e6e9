"""Intervals, p-values and stability once more, from their definitions in docs/statistics.md and by NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

RESAMPLES, LEVEL, LEAST_FLIPS, FLIPS_PER_HEAD = 2000, 0.05, 10_000, 64
ROUNDING = 1e-12  # of the terms' sizes
Array = np.ndarray[Any, Any]


@lru_cache(maxsize=4)
def _resamples(count: int, seed: int) -> Array:
    """[example, resample]: how often each resample has each example."""
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed)).numpy()
    numbered = drawn + count * np.arange(RESAMPLES)[:, None]
    return np.bincount(numbered.ravel(), minlength=count * RESAMPLES).reshape(RESAMPLES, count).T / count


def _means(values: Tensor, seed: int) -> Array:
    """[..., resample]"""
    return values.double().numpy() @ _resamples(values.shape[-1], seed)


def mean_interval(values: Tensor, seed: int) -> Tensor:
    """[..., 2]: low and high of the mean of values [..., example]."""
    return _ends(_means(values, seed))


def interval(values: Tensor, seed: int) -> list[Any]:
    """The same as plain numbers, of accuracies too."""
    return mean_interval(values, seed).tolist()


def ratio_interval(over: Tensor, under: Tensor, seed: int) -> list[float]:
    """Low and high of mean(over) / mean(under), from [example] each; NaN if a resample has no ratio."""
    above, below = _means(over, seed), _means(under, seed)
    return [nan, nan] if (below == 0).any() else _ends(above / below).tolist()


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Their mean, and their standard deviation as a population; NaN if there are none."""
    if not values:
        return nan, nan
    mean = sum(values) / len(values)
    return mean, (sum((one - mean) ** 2 for one in values) / len(values)) ** 0.5


def _ends(samples: Array) -> Tensor:
    kept = np.where(np.isfinite(samples).all(-1, keepdims=True), samples, np.nan)
    return torch.from_numpy(np.moveaxis(np.quantile(kept, [0.025, 0.975], axis=-1), 0, -1))


def flips_for(heads: int) -> int:
    """How many sign flips test so many heads."""
    return max(LEAST_FLIPS, FLIPS_PER_HEAD * heads)


def p_values(values: Tensor, seed: int) -> Tensor:
    """[head]: one-sided, of values [head, example] being symmetric about 0, by random flips of the examples' signs."""
    each, flips = values.double().numpy(), flips_for(len(values))
    most = each.sum(-1) + ROUNDING * np.abs(each).sum(-1)
    generator, reached = torch.Generator().manual_seed(seed), np.ones(len(each))
    for first in range(0, flips, 1024):
        drawn = torch.randint(2, (min(1024, flips - first), each.shape[1]), generator=generator).numpy()
        flipped = np.where(drawn == 1, 1.0, -1.0)
        reached += (each @ flipped.T <= most[:, None]).sum(-1)
    return torch.from_numpy(np.where(np.isfinite(each).all(-1), reached / (1 + flips), nan))


def holm(p: Tensor) -> Tensor:
    """Holm's adjusted p-values: of the k-th smallest among m, the largest (m - j) p_j up to it; never above 1."""
    adjusted, worst = p.clone(), 0.0
    order = sorted((i for i in range(len(p)) if p[i] == p[i]), key=lambda i: float(p[i]))
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * float(p[index])))
        adjusted[index] = worst
    return adjusted


def benjamini_hochberg(p: Tensor) -> Tensor:
    """Their adjusted p-values: of the k-th smallest among m, the smallest m p_j / j from it on; never above 1."""
    adjusted, least = p.clone(), 1.0
    order = sorted((i for i in range(len(p)) if p[i] == p[i]), key=lambda i: float(p[i]))
    for rank in range(len(order), 0, -1):
        least = min(least, len(order) * float(p[order[rank - 1]]) / rank)
        adjusted[order[rank - 1]] = least
    return adjusted


def stability_bounds(values: Tensor, kept: list[int], seed: int) -> tuple[Tensor, Tensor, float, float]:
    """Between what the selection frequencies [head], and the mean Jaccard index with `kept`, must lie.

    values [head, example], the lowest means being kept. The two bounds are one number unless resampled means tie.
    """
    means, top = _means(values, seed), len(kept)
    order = np.sort(means, axis=0)
    room = ROUNDING * (1 + np.abs(means))
    last = order[top - 1]
    after = order[top] if top < len(order) else np.full_like(last, np.inf)
    surely, perhaps = means < after - room, means <= last + room
    low, high = (one[kept].sum(0) for one in (surely, perhaps))
    jaccard = [float((shared / (2 * top - shared)).mean()) for shared in (low, np.minimum(high, top))]
    return torch.from_numpy(surely.mean(-1)), torch.from_numpy(perhaps.mean(-1)), jaccard[0], jaccard[1]
