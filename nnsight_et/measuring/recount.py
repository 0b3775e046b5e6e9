"""Intervals, p-values and stability once more, from their definitions in docs/statistics.md and by NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

RESAMPLES, LEVEL, LEAST_P, Z = 2000, 0.05, 1e-13, 1.959964
ROUNDING = 1e-12  # of the terms' sizes
Array = np.ndarray[Any, Any]


@lru_cache(maxsize=4)
def _resamples(count: int, seed: int) -> Array:
    """[example, resample]: how often each resample has each example."""
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed)).numpy()
    numbered = drawn + count * np.arange(RESAMPLES)[:, None]
    return np.bincount(numbered.ravel(), minlength=count * RESAMPLES).reshape(RESAMPLES, count).T / count


def _means(values: Tensor, seed: int) -> Array:
    """[..., resample]: means of values [..., example] over the resamples."""
    return values.double().numpy() @ _resamples(values.shape[-1], seed)


def mean_interval(values: Tensor) -> Tensor:
    """[..., 2]: low and high of the mean of values [..., example], by Student's t; NaN of one example."""
    each = values.double().numpy()
    count = each.shape[-1]
    if count == 1:
        return torch.full((*values.shape[:-1], 2), nan, dtype=torch.float64)
    width = _student(count - 1) * (np.square(each - each.mean(-1, keepdims=True)).sum(-1) / (count - 1) / count) ** 0.5
    return torch.from_numpy(np.stack([each.mean(-1) - width, each.mean(-1) + width], -1))


def means_of_resamples(values: Tensor, seed: int) -> Tensor:
    """[..., resample]: means of the resamples of values [..., example]."""
    return torch.from_numpy(_means(values, seed))


def interval(values: Tensor) -> list[Any]:
    """Low and high of accuracies [..., example], nested as they are: the shares p with n (x - p)^2 = z^2 p (1 - p)."""
    if values.ndim > 1:
        return [interval(one) for one in values]
    each = values.double().numpy()
    count, mean = len(each), each.mean()
    if not np.isfinite(mean):
        return [nan, nan]
    varies = np.square(each - mean).sum() * count / max(count - 1, 1)
    count = max(count, count * (count * mean * (1 - mean) + 1) / (varies + 1))
    ends = np.roots([count + Z**2, -2 * count * mean - Z**2, count * mean**2]).real
    return [max(0.0, ends.min()), min(1.0, ends.max())]


def ratio_interval(over: Tensor, under: Tensor) -> list[float]:
    """The ratios of accuracy(over) to accuracy(under), from [example] each, that a score test does not reject."""
    both, first, second = (int(one.sum()) for one in (over * under, over * (1 - under), under * (1 - over)))
    if not both + second:
        return [nan, nan]

    def excess(place: float) -> float:
        ratio = place / (1 - place)
        least, most = max(0.0, (ratio - 1) / ratio), ratio / (1 + ratio)
        alone = _root(lambda w: _slope(w, ratio, both, first, second), least, most)
        variance = ratio * (both + first + second) * (1 - ratio + (1 + ratio) * alone)
        return (both + first - ratio * (both + second)) ** 2 - Z**2 * variance

    found = (both + first) / (2 * both + first + second)
    low, high = _root(excess, found, 1e-15) if found else 0.0, _root(excess, found, 1 - 1e-15)
    return [low / (1 - low), high / (1 - high)]


def _slope(alone: float, ratio: float, both: int, first: int, second: int) -> float:
    """How the log likelihood falls with the share of examples, of those answered, that only the first answers."""
    parts = ((both, ratio - (1 + ratio) * alone, -1 - ratio), (second, 1 - ratio + ratio * alone, ratio))
    return -sum(n * by / max(share, 1e-300) for n, share, by in (*parts, (first, alone, 1.0)) if n)


def difference_interval(first: Tensor, second: Tensor) -> list[float]:
    """Low and high of accuracy(first) - accuracy(second): Wald's after one more example of either way to differ."""
    each = np.concatenate([(first - second).double().numpy(), [1.0, -1.0]])
    width = Z * (each.var() / len(each)) ** 0.5
    return [max(-1.0, each.mean() - width), min(1.0, each.mean() + width)]


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function changes its sign from below 0 at `low` to above."""
    for _ in range(42):
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return (low + high) / 2


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Their mean, and their standard deviation as a population; NaN if there are none."""
    if not values:
        return nan, nan
    mean = sum(values) / len(values)
    return mean, (sum((one - mean) ** 2 for one in values) / len(values)) ** 0.5


def most_won(values: Array, first: int, count: int, mean: Array | float, floor: Array) -> Array:
    """[head]: the most that one has of 1 by betting that the mean of `count` values is above `mean`, from values [head,
    seen] of which the `first` are looked at alone and no later one is below the floor; infinite where it must be above.
    """
    have, most = np.ones(len(values)), np.ones(len(values))
    with np.errstate(all="ignore"):
        for seen in range(first, values.shape[1] + 1):
            before = values[:, :seen]
            rest = (count * mean - before.sum(1)) / (count - seen) if seen < count else np.full(len(values), np.nan)
            most[before.sum(1) > count * mean if seen == count else rest < floor] = np.inf
            if seen == values.shape[1]:
                return most
            hoped = before.mean(1) - rest
            stake = hoped / np.maximum(before.var(1) + hoped**2, 1e-300)
            stake = np.where(hoped > 0, np.minimum(stake, 0.95 / np.maximum(rest - floor, 1e-300)), 0.0)
            have = have * np.maximum(1 + stake * (values[:, seen] - rest), 0)
            most = np.maximum(most, have)
    return most


def finite_bound(values: Array, first: int, count: int, floor: Array, level: float) -> Array:
    """[head]: the largest mean of all values against which betting wins 1 / level."""
    least, most = (values.sum(1) + (count - values.shape[1]) * floor) / count, values.mean(1)
    known, least = np.isfinite(floor), np.where(np.isfinite(floor), least, most - 1)
    least = least - 1e-12 * (1 + abs(least))
    for _ in range(40):
        between = (least + most) / 2
        won = most_won(values, first, count, between, floor) >= 1 / level
        least, most = np.where(won, between, least), np.where(won, most, between)
    return np.where(known, least, -np.inf)


@lru_cache(maxsize=1)
def _nodes() -> tuple[Array, Array]:
    """Points and weights of an integral from -1 to 1."""
    return np.polynomial.legendre.leggauss(300)


@lru_cache(maxsize=64)
def _student(freedom: int) -> float:
    """What Student's t exceeds with a probability of 0.025."""
    return _root(lambda t: 0.025 - t_below(np.array(-t), freedom).item(), 0.0, 13.0)


def t_below(values: Array, freedom: int) -> Array:
    """The probability that Student's t is at most the values: of its angle, whose density is a power of the cosine."""
    points, weights = _nodes()

    def area(end: Array) -> Array:
        half = (end + np.pi / 2) / 2
        return half * (np.cos(half[..., None] * (points + 1) - np.pi / 2) ** (freedom - 1) @ weights)

    return area(np.arctan(values / freedom**0.5)) / area(np.array(np.pi / 2))


def p_values(values: Tensor) -> Tensor:
    """[head]: one-sided, of values [head, example] having the mean 0, allowing for skew to the right."""
    each = values.double().numpy()
    count, loudest = each.shape[1], np.abs(each).max(-1)
    with np.errstate(all="ignore"):
        more = np.concatenate([each, loudest[:, None] / 2], 1)
        ratio = more.mean(-1) / more.std(-1)
        spread = each.std(-1)
        skew = np.power(each - each.mean(-1, keepdims=True), 3).mean(-1) / spread**3
        skew = np.where((spread <= ROUNDING * loudest) | (skew < 0), 0, skew)
        hall = ratio + skew * ratio**2 / 3 + skew**2 * ratio**3 / 27 + skew / 6 / (count + 1)
        p = np.maximum(t_below(np.maximum(hall, ratio) * count**0.5, count), LEAST_P)
    return torch.from_numpy(np.where(np.isfinite(each).all(-1), np.where(loudest > 0, p, 1.0), nan))


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
