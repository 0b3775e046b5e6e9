"""Intervals, tests and stability, from numbers already measured: no forward pass happens here.

docs/statistics.md says which results carry which of them, and how they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import comb, inf, nan, pi, sqrt
from typing import Any

import torch
from torch import Tensor

RESAMPLES = 2000
LEVEL = 0.05  # at which a head is called beyond chance
LEAST_P = 1e-13  # a smaller p-value is rounding
ROUNDING = 1e-12  # values that differ by less than this share of their size are alike
Z = 1.959964  # the normal distribution's 97.5%


def wilson_interval(right: float, count: float) -> tuple[float, float]:
    """Low and high of a share: Wilson's 95% interval (1927) of `right` among `count`, which is wide where few are."""
    share, room = right / count, Z * Z / count
    middle, width = share + room / 2, Z * sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return max(0.0, min(share, (middle - width) / (1 + room))), max(share, (middle + width) / (1 + room))


def accuracy_intervals(right: Tensor) -> list[Any]:
    """[low, high], nested as right [..., example] is: Wilson's 95% intervals of the mean over examples.

    `right` is true or false, or a share of several draws. Shares that vary less than ones and zeros of their mean count
    as that many more examples, by the ratio of the two sums of squares; one more in each keeps few examples from
    saying that nothing varies.
    """
    values = right.double()
    count = values.shape[-1]
    means = values.mean(-1)
    varies = (values - means[..., None]).square().sum(-1) * count / max(count - 1, 1)
    counts = (count * (count * means * (1 - means) + 1) / (varies + 1)).clamp(min=count)
    found = [
        wilson_interval(share * number, number) if share == share else (nan, nan)
        for share, number in zip(means.flatten().tolist(), counts.flatten().tolist(), strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64).reshape(*means.shape, 2).tolist()


def ratio_interval(over: Tensor, under: Tensor) -> list[float]:
    """[low, high] of the accuracy of `over` by that of `under`, both right or wrong [example] on the same examples.

    The 95% score interval of a ratio of paired shares (Nam and Blackwelder 2002): the ratios r that the test of
    share(over) = r * share(under) does not reject. Examples that neither answers have no say. NaN where `under`
    is never right.
    """
    over, under = over.bool(), under.bool()
    both, alone, other = (int(one.sum()) for one in (over & under, over & ~under, under & ~over))
    if both + other == 0:
        return [nan, nan]
    found = (both + alone) / (2 * both + alone + other)  # r / (1 + r), which is between 0 and 1

    def is_rejected(place: float) -> bool:
        return _ratio_score(place / (1 - place), both, alone, other) > Z * Z

    low, high = _edge(is_rejected, 0.0, found) if found else 0.0, _edge(is_rejected, 1.0, found)
    return [low / (1 - low), high / (1 - high)]


def difference_interval(first: Tensor, second: Tensor) -> list[float]:
    """[low, high] of the first accuracy minus the second, both right or wrong [example] on the same examples.

    Bonett and Price's 95% interval (2012): Wald's, with one more example of either way to differ.
    """
    first, second, count = first.bool(), second.bool(), len(first) + 2
    more, less = (1 + int(one.sum()) for one in (first & ~second, second & ~first))
    middle = (more - less) / count
    width = Z * sqrt(((more + less) / count - middle * middle) / count)
    return [max(-1.0, middle - width), min(1.0, middle + width)]


def mean_interval(values: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high [...] of the mean of values [..., example]: Student's 95% interval; NaN of a single example."""
    count, means = values.shape[-1], values.double().mean(-1)
    if count == 1:
        return means * nan, means * nan
    width = student_quantile(count - 1) * values.double().std(-1) / sqrt(count)
    return means - width, means + width


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


def log_ratios(patched: Tensor, base: Tensor) -> Tensor:
    """[sender, example]: log(p_patched / p_base), from [sender, example] and [example].

    A p_patched of 0 counts as the smallest normal number of its dtype, the least that it is told from: the effect is
    then understated. NaN where p_base is not above 0, and where p_patched is NaN.
    """
    least = torch.finfo(patched.dtype).tiny
    ratios = patched.clamp(min=least).double().log() - base.double().log()
    return ratios.masked_fill(~(base > 0), nan)


def effect_p_values(effects: Tensor) -> Tensor:
    """[head]: one-sided p-values of effects [head, example], log ratios or differences. Hypothesis: their mean is 0.

    Alternative: it is below 0, the head mattered. Student's t of the examples and of one more, which speaks against it
    half as loudly as the loudest; where the effects are skewed to the right, corrected by Hall's transformation (1992).
    Both keep a few prompts that would have spoken against the head, and were not drawn, from being taken for none.
    A head with a value that is not finite has the p-value NaN; one that changes nothing, 1.
    """
    values, count = effects.double(), effects.shape[-1]
    against = values.abs().amax(-1) / 2
    mean = (values.sum(-1) + against) / (count + 1)
    size = ((values.square().sum(-1) + against.square()) / (count + 1) - mean.square()).clamp(min=0).sqrt()
    apart = values - values.mean(-1, keepdim=True)
    spread = apart.square().mean(-1).sqrt()
    # what is left by rounding of values that are all alike has no shape
    alike = spread <= ROUNDING * values.abs().amax(-1)
    skew = (apart.pow(3).mean(-1) / spread.pow(3)).clamp(min=0).masked_fill(alike, 0.0)
    ratio = mean / size
    hall = ratio + skew * ratio.square() / 3 + skew.square() * ratio.pow(3) / 27 + skew / (6 * (count + 1))
    p_values = student_below(torch.maximum(hall, ratio) * sqrt(count), count)
    p_values = p_values.masked_fill(against == 0, 1.0)
    return p_values.masked_fill(~values.isfinite().all(-1), nan)


def too_few(examples: int, heads: int) -> str:
    """What to say where so few examples can put no head beyond chance; empty where they can.

    The smallest p-value is that of effects that are all alike.
    """
    least = student_below(torch.tensor((0.5 - examples) / 1.5, dtype=torch.float64), examples).item()
    if least * heads <= LEVEL:
        return ""
    few = f"{examples} example{'s' * (examples != 1)}"
    return (
        f"With {few} no head can be beyond chance: no p is below {least:.2g}, before the correction for {heads} heads."
    )


def student_below(values: Tensor, freedom: int) -> Tensor:
    """[...]: the probability that Student's t with so many degrees of freedom is at most the values [...].

    The finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4; at least LEAST_P, below which they are rounding.
    """
    angle = (values.double() / sqrt(freedom)).atan()
    cosine, odd = angle.cos(), freedom % 2
    term = cosine if odd else torch.ones_like(cosine)
    total = torch.zeros_like(cosine) if freedom == 1 else term.clone()
    for power in range(2 + odd, freedom - 1, 2):
        term = term * cosine.square() * (power - 1) / power
        total = total + term
    between = (
        2 / pi * (angle + angle.sin() * total) if odd else angle.sin() * total
    )  # the share from -|t| to |t|, signed
    return ((1 + between) / 2).clamp(min=LEAST_P)


@cache
def student_quantile(freedom: int) -> float:
    """The value that Student's t with so many degrees of freedom exceeds with a probability of 0.025."""
    return -_edge(
        lambda value: student_below(torch.tensor(value, dtype=torch.float64), freedom).item() < 0.025, -13.0, 0.0
    )


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


def _ratio_score(ratio: float, both: int, alone: int, other: int) -> float:
    """Chi-squared of the hypothesis that the ratio of shares is that, from how many examples both and one only answer.

    Of the examples that are answered at all, `least` is the likeliest share of those that only the first answers if it
    is true: the larger root of a quadratic.
    """
    count = both + alone + other
    square = count * ratio * (1 + ratio)
    linear = both * (1 - ratio**2) - other * ratio**2 - alone * (2 * ratio**2 - 1)
    rest = alone * ratio * (1 - ratio)
    least = (sqrt(max(linear**2 + 4 * square * rest, 0.0)) - linear) / (2 * square)
    variance = ratio * count * (1 - ratio + (1 + ratio) * least)
    difference = both + alone - ratio * (both + other)
    return difference**2 / variance if variance > 0 else inf


def _edge(is_outside: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where what is outside begins, between a value outside and one inside; by bisection, to 15 digits."""
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if is_outside(middle) else (outside, middle)
    return inside


def _lowest(means: Tensor, top: int) -> Tensor:
    """[head, resample]: which heads have one of the `top` lowest of means [head, resample]."""
    best = means.argsort(dim=0, stable=True)[:top]
    return torch.zeros(means.shape, dtype=torch.bool).scatter_(0, best, value=True)


def _in_place(adjusted: Tensor, order: Tensor) -> Tensor:
    """The adjusted values of the first heads of `order`, each where its head is; NaN for the others."""
    whole = adjusted.new_full((len(order),), nan)
    whole[order[: len(adjusted)]] = adjusted
    return whole
