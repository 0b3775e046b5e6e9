"""Bounds of finite means: how often they are wrong, on values made to fool them, and how close they come."""

from __future__ import annotations

from math import comb, inf, log

import pytest
import torch
from torch import Tensor

from nnsight_et.core.finite_means import log_capital, lower_bounds

LEVEL, TIMES = 0.05, 1000


def of_all(count: int, kind: str) -> Tensor:
    """[count]: values of at least -1."""
    draw = torch.Generator().manual_seed(count)
    return {
        "rare": torch.where(torch.arange(count) < count // 20, -1.0, 0.0),
        "halves": torch.where(torch.arange(count) < count // 2, -1.0, 1.0),
        "normal": (0.3 * torch.randn(count, generator=draw) - 0.1).clamp(min=-1),
        "skewed": 2 * torch.rand(count, generator=draw).pow(6) - 1,
        "outlier": torch.where(torch.arange(count) == 0, 50.0, -0.2),
        "alike": torch.full((count,), -0.25),
    }[kind].double()


def drawn(values: Tensor, seed: int) -> Tensor:
    """[TIMES, count]: the values in so many orders."""
    order = torch.rand(TIMES, len(values), generator=torch.Generator().manual_seed(seed)).argsort(-1)
    return values[order]


@pytest.mark.parametrize("count", [24, 200])
@pytest.mark.parametrize("kind", ["rare", "halves", "normal", "skewed", "outlier", "alike"])
def test_a_bet_against_what_is_true_is_seldom_won_at_any_time(kind: str, count: int):
    values = of_all(count, kind)
    won = log_capital(
        drawn(values, 1), 4, count, values.mean().expand(TIMES) + 1e-12, torch.full((TIMES,), -1.0).double()
    )
    assert (won >= -log(LEVEL)).double().mean() <= LEVEL + 3 * (LEVEL / TIMES) ** 0.5


@pytest.mark.parametrize("kind", ["rare", "normal", "skewed"])
def test_the_bound_is_where_a_bet_is_just_won_and_seldom_above_the_mean(kind: str):
    values, floor = of_all(96, kind), torch.full((TIMES,), -1.0).double()
    seen = drawn(values, 2)[:, :40]
    low = lower_bounds(seen, 8, 96, floor, LEVEL)
    assert (low > values.mean() + 1e-9).double().mean() <= LEVEL + 3 * (LEVEL / TIMES) ** 0.5
    assert (low > -1).all()
    for room, wins in ((-1e-6, True), (1e-6, False)):
        assert torch.equal(log_capital(seen, 8, 96, low + room, floor) >= -log(LEVEL), torch.full((TIMES,), wins))


def test_prompts_that_say_nothing_win_as_much_as_any_test_could_and_no_more():
    """Of 99 values at least 10 had to be at the floor, and 39 draws show none: so do C(89, 39) of C(99, 39) orders. No
    test wins more than one over that, and a bet not much less.
    """
    won = log_capital(torch.zeros(1, 40), 1, 100, torch.tensor([-0.1]).double(), torch.tensor([-1.0]).double())
    exact = log(comb(99, 39) / comb(89, 39))
    assert 0.9 * exact < won.item() <= exact + 1e-9


def test_what_is_seen_can_decide_for_certain():
    far = torch.zeros(1, 8).double()
    certain = log_capital(far, 8, 100, torch.tensor([-0.1]).double(), torch.tensor([-0.05]).double())
    assert certain.item() == inf
    open_still = log_capital(far, 8, 100, torch.tensor([-0.1]).double(), torch.tensor([-0.2]).double())
    assert open_still.item() == 0
    every = torch.tensor([[-1.0, 0.5, 0.2]]).double()
    for mean, above in ((-0.11, True), (-0.09, False)):
        won = log_capital(every, 2, 3, torch.tensor([mean]).double(), torch.tensor([-9.0]).double())
        assert (won.item() == inf) == above


def test_a_value_below_the_floor_ends_all_bets():
    values = torch.tensor([[0.0, 0.0, -3.0, 0.0, 0.0, 0.0, 0.0]]).double()
    before, after = (
        log_capital(values[:, :seen], 2, 20, torch.tensor([-0.3]).double(), torch.tensor([-0.5]).double())
        for seen in (2, 7)
    )
    assert before.item() == 0
    assert after.item() == 0


def test_without_a_floor_there_is_no_bound():
    low = lower_bounds(torch.zeros(2, 10), 4, 20, torch.tensor([-inf, -1.0]).double(), LEVEL)
    assert low[0].item() == -inf
    assert -1 < low[1].item() < 0
