"""Intervals, tests and stability, from numbers already measured: no forward pass happens here.

docs/statistics.md says which results carry which of them, and how they are read.
"""

from __future__ import annotations

from math import comb, nan, sqrt
from typing import Any

import torch
from torch import Tensor

RESAMPLES = 2000
LEVEL = 0.05  # at which a head is called beyond chance
LEAST_FLIPS = 10_000
FLIPS_PER_HEAD = 64  # so that Holm over m heads can get down to m / (64 m + 1), 0.016, well below LEVEL
FLIPS_AT_ONCE = 1024  # of memory alone: the draws do not depend on it
ROWS_AT_ONCE = 4096  # torch has no quantiles of more than 16 million numbers
ROUNDING = 1e-12  # sums that differ by less than this share of the terms' sizes are ties


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Low and high of a share: Wilson's 95% interval (1927) of `right` among `count`, which is wide where few are."""
    z, share = 1.959964, right / count
    middle, width = share + z * z / (2 * count), z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - width) / (1 + z * z / count)), min(1.0, (middle + width) / (1 + z * z / count))


def resampled_means(values: Tensor, seed: int) -> Tensor:
    """[..., resample]: means of values [..., example] over bootstrap resamples of the examples.

    The same resamples are used for all leading indices, so that heads can be compared.
    """
    count = values.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
    weights = torch.zeros(RESAMPLES, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(drawn.shape).double()
    )
    return values.double() @ weights.T / count


def bootstrap_interval(values: Tensor, seed: int, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Low and high [...] of the mean of values [..., example]: a percentile bootstrap over the examples."""
    return _percentiles(resampled_means(values, seed), level)


def ratio_interval(over: Tensor, under: Tensor, seed: int, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Low and high [...] of mean(over) / mean(under), both [..., example] on the same, jointly resampled examples.

    NaN where a resample has no ratio, its mean(under) being 0.
    """
    return _percentiles((resampled_means(over, seed) / resampled_means(under, seed)).nan_to_num(nan, nan, nan), level)


def intervals(values: Tensor, seed: int) -> list[Any]:
    """[low, high] of bootstrap_interval as plain numbers, nested as values [..., example] are: what summaries hold."""
    return torch.stack(bootstrap_interval(values, seed), -1).tolist()


def log_ratios(patched: Tensor, base: Tensor) -> Tensor:
    """[sender, example]: log(p_patched / p_base), from [sender, example] and [example].

    A p_patched of 0 counts as the smallest normal number of its dtype, the least that it is told from: the effect is
    then understated. NaN where p_base is not above 0, and where p_patched is NaN.
    """
    least = torch.finfo(patched.dtype).tiny
    ratios = patched.clamp(min=least).double().log() - base.double().log()
    return ratios.masked_fill(~(base > 0), nan)


def flips_for(heads: int) -> int:
    """How many random flips test this many heads: enough for Holm's correction over them to reach LEVEL.

    An add-one p-value is at least 1 / (flips + 1), and Holm multiplies the smallest by the number of heads.
    """
    return max(LEAST_FLIPS, FLIPS_PER_HEAD * heads)


def sign_flip_p_values(effects: Tensor, seed: int) -> Tensor:
    """[head]: one-sided p-values of effects [head, example], log ratios, by random flips of the examples' signs.

    Statistic: the mean over examples. Hypothesis: a head's log ratios are symmetric about 0, as they are where base
    and patched run are exchangeable; alternative: their mean is below 0, the head mattered. Log ratios, as x and 1/x
    are then equally far from 0; the ratio (p_patched - p_base) / p_base is bounded by -1 on one side alone.
    p = (1 + flips whose mean is at most the observed one) / (1 + flips), so never 0; ties count. Every head has the
    same flips, which leaves what heads share in place. A head with a value that is not finite has the p-value NaN.
    """
    heads, count = effects.shape
    values, flips = effects.double(), flips_for(heads)
    reached = values.sum(-1, keepdim=True) + ROUNDING * values.abs().sum(-1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    as_low = torch.zeros(heads, dtype=torch.long)
    for first in range(0, flips, FLIPS_AT_ONCE):
        signs = torch.randint(2, (min(FLIPS_AT_ONCE, flips - first), count), generator=generator).double() * 2 - 1
        as_low += (values @ signs.T <= reached).sum(-1)
    return ((1 + as_low).double() / (1 + flips)).masked_fill(~values.isfinite().all(-1), nan)


def holm(p_values: Tensor) -> Tensor:
    """[head]: Holm's adjusted p-values (1979); those at most a are the heads rejected at family-wise error rate a.

    Valid however the heads depend on each other. NaN, a head that was not tested, stays NaN and is not counted.
    """
    order = p_values.argsort()  # NaN last
    ascending = p_values[order]
    tested = int((~p_values.isnan()).sum())
    factors = torch.arange(len(ascending)).neg().add(tested).clamp(min=1)
    adjusted = (ascending[:tested] * factors[:tested]).clamp(max=1).cummax(-1).values
    return _in_place(adjusted, order)


def benjamini_hochberg(p_values: Tensor) -> Tensor:
    """[head]: Benjamini and Hochberg's adjusted p-values (1995); at most a: rejected at false discovery rate a.

    Valid for independent or positively dependent heads. NaN, a head that was not tested, stays NaN and is not counted.
    """
    order = p_values.argsort()  # NaN last
    tested = int((~p_values.isnan()).sum())
    raised = p_values[order][:tested] * tested / torch.arange(1, tested + 1)
    return _in_place(raised.clamp(max=1).flip(-1).cummin(-1).values.flip(-1), order)


def rank_stability(values: Tensor, top: int, seed: int) -> tuple[float, Tensor]:
    """How firmly the `top` heads with the lowest means of values [head, example] are that: two numbers of resamples.

    The mean Jaccard index of the `top` lowest of a bootstrap resample with those of all examples; and [head] the share
    of resamples that have the head among their `top` lowest. Ties go to the earlier head.
    """
    found = _lowest(values.double().mean(-1, keepdim=True), top)
    again = _lowest(resampled_means(values, seed), top)  # [head, resample]
    shared = (found & again).sum(0).double()
    return (shared / (2 * top - shared)).mean().item(), again.double().mean(-1)


def random_circuit_p_value(circuit: float, others: Tensor) -> float:
    """(1 + random circuits [circuit] at least as good) / (1 + random circuits); NaN where there is none.

    Hypothesis: the circuit is one more draw of as many heads at the same positions.
    """
    return (1 + int((others >= circuit).sum())) / (1 + len(others)) if len(others) else nan


def is_more_often(right: Tensor, other: Tensor, level: float = LEVEL) -> bool:
    """Whether `right` [example] is true beyond chance more often than `other` on the same examples.

    A one-sided sign test of the examples in which they differ (McNemar's, exact): so many wins or more among them have
    a probability of at most `level` if either is as likely.
    """
    wins, losses = int((right > other).sum()), int((other > right).sum())
    differ = wins + losses
    return sum(comb(differ, more) for more in range(wins, differ + 1)) / 2**differ <= level


def _percentiles(samples: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """The bounds [...] between which `level` of samples [..., resample] lie, as many beyond either; NaN if one is."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    rows = samples.reshape(-1, samples.shape[-1]).split(ROWS_AT_ONCE)
    bounds = torch.cat([some.quantile(tails, dim=-1) for some in rows], -1).reshape(2, *samples.shape[:-1])
    return bounds[0], bounds[1]


def _lowest(means: Tensor, top: int) -> Tensor:
    """[head, resample]: which heads have one of the `top` lowest of means [head, resample]."""
    best = means.argsort(dim=0, stable=True)[:top]
    return torch.zeros(means.shape, dtype=torch.bool).scatter_(0, best, value=True)


def _in_place(adjusted: Tensor, order: Tensor) -> Tensor:
    """The adjusted values of the first heads of `order`, each where its head is; NaN for the others."""
    whole = adjusted.new_full((len(order),), nan)
    whole[order[: len(adjusted)]] = adjusted
    return whole
