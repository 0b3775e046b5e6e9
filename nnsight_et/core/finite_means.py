"""Bounds of the mean over all of a finite number of values, from those seen so far: drawn at random, none twice.

A bet against "the mean is at most m" (Waudby-Smith and Ramdas 2024, section 4, sampling without replacement): if the
mean is that, then the values still to come have a mean of at most

    rest = (count * m - sum of those seen) / (count - how many were seen)

and capital * (1 + stake * (value - rest)) is expected not to grow with the next value, whatever the stake was, if it
was chosen before and no value can take more than there is. So the capital ever exceeds c with a probability of at
most 1 / c (Ville 1939), at any time, for any values that are at least `floor`, however they are distributed.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

MOST = 0.95  # of the capital that a value at the floor may take
LEAST = torch.finfo(torch.float64).tiny
HALVINGS = 40


def log_capital(values: Tensor, first: int, count: int, mean: Tensor, floor: Tensor) -> Tensor:
    """[head]: the logarithm of the largest capital won by bets that the mean of `count` values is above `mean` [head].

    values [head, seen] are those seen, in the order they were drawn; bets begin after the `first` of them. floor
    [head]: what none of the values after these is below. Infinite where what was seen alone says that the mean is
    above.
    """
    seen = values.double()
    total, squares = seen[:, :first].sum(-1), seen[:, :first].square().sum(-1)
    capital, largest = torch.zeros_like(total), torch.zeros_like(total)
    for done in range(first, seen.shape[-1]):
        rest = (count * mean - total) / (count - done)
        largest = largest.masked_fill(rest < floor, torch.inf)
        middle = total / done
        gap, spread = (middle - rest).clamp(min=0), (squares / done - middle.square()).clamp(min=0)
        stake = torch.minimum(MOST / (rest - floor).clamp(min=LEAST), gap / (spread + gap.square()).clamp(min=LEAST))
        value = seen[:, done]
        capital = capital + (1 + stake * (value - rest)).clamp(min=0).log()
        largest = torch.maximum(largest, capital)
        total, squares = total + value, squares + value.square()
    left = count - seen.shape[-1]
    above = (count * mean - total) / left < floor if left else total > count * mean
    return largest.masked_fill(above, torch.inf)


def lower_bounds(values: Tensor, first: int, count: int, floor: Tensor, level: float) -> Tensor:
    """[head]: what the mean of all `count` values is above, wrong with a probability of at most `level`; see above.

    It holds at all numbers of values seen at once. -inf where the floor is.
    """
    seen = values.double()
    lowest = (seen.sum(-1) + (count - seen.shape[-1]) * floor) / count
    low, high = lowest - 1e-12 * (1 + lowest.abs()), seen.mean(-1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = log_capital(values, first, count, middle, floor) >= -log(level)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(floor.isinf(), -torch.inf, low)
