"""Intervals, tests and stability: known cases, exact ones by enumeration, and error rates on data without effects."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import log, nan

import pytest
import torch
from torch import Tensor

from nnsight_et.core import statistics
from nnsight_et.core.statistics import (
    LEVEL,
    benjamini_hochberg,
    bootstrap_interval,
    flips_for,
    holm,
    intervals,
    log_ratios,
    random_circuit_p_value,
    rank_stability,
    ratio_interval,
    sign_flip_p_values,
)

# the p-values of Benjamini and Hochberg (1995), section 3.2: of 15 they reject 4, Holm's and Bonferroni's procedures 3
PAPER = (
    0.0001,
    0.0004,
    0.0019,
    0.0095,
    0.0201,
    0.0278,
    0.0298,
    0.0344,
    0.0459,
    0.324,
    0.4262,
    0.5719,
    0.6528,
    0.759,
    1,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def without_effect(heads: int, examples: int, draw: torch.Generator) -> Tensor:
    """[head, example]: log ratios of mean 0 that are not 0: heads of all sizes share much of what an example does."""
    shared, own = torch.randn(1, examples, generator=draw), torch.randn(heads, examples, generator=draw)
    hardness = torch.randn(examples, generator=draw).exp()  # the same for all heads: tails far heavier than a normal's
    size = 10 ** (3 * torch.rand(heads, 1, generator=draw) - 2)
    return size * hardness * (0.7 * shared + 0.7 * own)


def test_the_interval_of_equal_values_is_the_value():
    low, high = bootstrap_interval(torch.full((2, 3, 40), -0.25), seed=0)
    assert low.shape == high.shape == (2, 3)
    torch.testing.assert_close(low, torch.full((2, 3), -0.25).double())
    torch.testing.assert_close(high, torch.full((2, 3), -0.25).double())


def test_the_interval_of_coin_flips_is_about_two_standard_errors_wide():
    values = torch.tensor([0.0, 1.0]).repeat(200)  # mean 0.5, standard error 0.025
    low, high = bootstrap_interval(values, seed=3)
    assert abs(low.item() - (0.5 - 1.96 * 0.025)) < 0.006
    assert abs(high.item() - (0.5 + 1.96 * 0.025)) < 0.006


def test_a_higher_level_is_a_wider_interval():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    (low, high), (lower, higher) = bootstrap_interval(values, 1), bootstrap_interval(values, 1, level=0.99)
    assert lower < low < values.mean() < high < higher


def test_a_95_percent_interval_holds_the_true_mean_about_95_times_in_100():
    samples = torch.randn(400, 60, generator=torch.Generator().manual_seed(5)) + 2
    low, high = bootstrap_interval(samples, seed=9)
    held = ((low <= 2) & (high >= 2)).double().mean().item()
    assert 0.90 <= held <= 0.98


def test_all_heads_share_their_resamples_and_the_seed_decides_them():
    values = torch.randn(30, generator=torch.Generator().manual_seed(1))
    low, high = bootstrap_interval(torch.stack([values, values + 1, values]), seed=4)
    assert low[0] == low[2]
    assert high[0] == high[2]
    torch.testing.assert_close(low[1] - low[0], torch.tensor(1.0).double(), atol=1e-6, rtol=0)
    again, other = bootstrap_interval(values, seed=4), bootstrap_interval(values, seed=5)
    assert again[0] == low[0]
    assert other[0] != low[0]


def test_flags_have_intervals_too():
    low, high = bootstrap_interval(torch.tensor([True, True, True, False]), seed=0)
    assert 0 <= low <= 0.75 <= high <= 1


def test_rows_are_cut_for_their_quantiles_without_a_trace(monkeypatch):
    values = torch.randn(2, 5, 20, generator=generator(2))
    whole = intervals(values, seed=1)
    monkeypatch.setattr(statistics, "ROWS_AT_ONCE", 3)
    assert intervals(values, seed=1) == whole
    assert whole[1][3] == [bound.item() for bound in bootstrap_interval(values[1, 3], seed=1)]


def test_the_interval_of_a_ratio_resamples_both_together():
    under = torch.tensor([1.0, 1, 0, 1] * 25)
    low, high = ratio_interval(under / 2, under, seed=0)
    assert low == high == 0.5
    over = under[torch.randperm(100, generator=generator(0))]
    low, high = ratio_interval(over, under, seed=0)
    assert 0.8 < low < 1 < high < 1.25


def test_a_ratio_to_what_may_be_0_has_no_interval():
    low, high = ratio_interval(torch.ones(2, 3), torch.tensor([[1.0, 0, 0], [1, 1, 1]]), seed=0)
    assert low.isnan().tolist() == high.isnan().tolist() == [True, False]


def test_log_ratios_are_as_far_from_0_for_a_half_as_for_a_double():
    found = log_ratios(torch.tensor([[0.25, 0.5], [1.0, 0.125]]), torch.tensor([0.5, 0.25]))
    expected = torch.tensor([[-log(2), log(2)], [log(2), -log(2)]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_answer_that_lost_all_probability_counts_as_the_least_number_there_is(dtype):
    (found,) = log_ratios(
        torch.tensor([[0.0, 0.5, nan, 0.5]], dtype=dtype), torch.tensor([0.5, 0.5, 0.5, 0], dtype=dtype)
    )
    assert found[0].item() == pytest.approx(log(torch.finfo(dtype).tiny) - log(0.5))
    assert found[1] == 0
    assert found[2:].isnan().all()


EXACT = {
    "one_sign": [-1.0] * 5,
    "mixed": [-0.9, 0.31, -0.47, -0.05, 0.2, -1.3, 0.02],
    "ties": [-0.1, -0.2, 0.3, -0.1, 0.1, -0.3, 0.2],
    "upward": [0.4, 0.1, 0.7, -0.2],
    "nothing": [0.0] * 6,
}


@pytest.mark.parametrize("values", EXACT.values(), ids=EXACT)
def test_p_values_are_those_of_all_sign_flips(values):
    """Exact in fractions: 0.1 + 0.2 and 0.3 are a tie."""
    exact = [Fraction(str(value)) for value in values]
    sums = [sum(s * v for s, v in zip(signs, exact, strict=True)) for signs in product((-1, 1), repeat=len(exact))]
    share = sum(one <= sum(exact) for one in sums) / len(sums)
    (found,) = sign_flip_p_values(torch.tensor([values]), seed=2)
    assert abs(found - share) <= 4 * (share * (1 - share) / flips_for(1)) ** 0.5


def test_a_p_value_is_never_0_and_that_of_no_effect_is_1():
    found = sign_flip_p_values(torch.tensor([[-1.0], [0.0]]).expand(2, 60), seed=0)
    assert found.tolist() == [1 / 10_001, 1]


def test_p_values_depend_on_the_seed_alone_not_on_chunks_or_other_heads(monkeypatch):
    values = without_effect(5, 30, generator(3))
    found = sign_flip_p_values(values, seed=7)
    assert torch.equal(sign_flip_p_values(values, seed=7), found)
    assert torch.equal(sign_flip_p_values(values[2:4], seed=7), found[2:4])
    assert torch.equal(sign_flip_p_values(1000 * values, seed=7), found)
    assert not torch.equal(sign_flip_p_values(values, seed=8), found)
    monkeypatch.setattr(statistics, "FLIPS_AT_ONCE", 777)
    assert torch.equal(sign_flip_p_values(values, seed=7), found)


def test_a_head_with_a_value_that_does_not_exist_has_no_p_value_and_does_not_count():
    values = without_effect(4, 20, generator(1))
    values[1, 3], values[2, 0] = nan, torch.inf
    found = sign_flip_p_values(values, seed=0)
    assert found.isnan().tolist() == [False, True, True, False]
    for adjusted in (holm(found), benjamini_hochberg(found)):
        assert adjusted.isnan().tolist() == [False, True, True, False]
    assert holm(found).nan_to_num(0).max() <= 2 * found.nan_to_num(0).max()


def test_holm_and_benjamini_hochberg_by_hand():
    p_values = torch.tensor([0.01, 0.04, nan, 0.03, 0.005])
    torch.testing.assert_close(holm(p_values), torch.tensor([0.03, 0.06, nan, 0.06, 0.02]), equal_nan=True)
    expected = torch.tensor([0.02, 0.04, nan, 0.04, 0.02])
    torch.testing.assert_close(benjamini_hochberg(p_values), expected, equal_nan=True)
    ties = torch.tensor([0.5, 0.5, 0.9])
    assert holm(ties).tolist() == [1, 1, 1]
    torch.testing.assert_close(benjamini_hochberg(ties), torch.tensor([0.75, 0.75, 0.9]))
    assert holm(torch.tensor([nan, nan])).isnan().all()


def test_holm_and_benjamini_hochberg_reject_what_they_reject_in_the_paper():
    mixed = torch.randperm(15, generator=generator(0))
    p_values = torch.tensor(PAPER, dtype=torch.float64)[mixed]
    assert sorted(p_values[holm(p_values) <= 0.05].tolist()) == list(PAPER[:3])
    assert sorted(p_values[benjamini_hochberg(p_values) <= 0.05].tolist()) == list(PAPER[:4])


def test_without_effects_a_head_is_beyond_chance_in_at_most_18_of_200_trials():
    """One-sided, mean log ratio; and the uncorrected p-values are neither too small nor too large."""
    draw, wrong, small = generator(11), 0, 0
    for trial in range(200):
        p_values = sign_flip_p_values(without_effect(40, 50, draw), seed=trial)
        wrong += bool((holm(p_values) <= LEVEL).any())
        small += int((p_values <= LEVEL).sum())
    assert wrong <= 18
    assert 0.03 <= small / (200 * 40) <= 0.07


def test_planted_effects_are_found_among_heads_without():
    draw, planted = generator(5), torch.arange(40) < 4
    found = torch.zeros(40)
    for trial in range(30):
        values = without_effect(40, 200, draw)
        values[planted] = 0.5 * torch.randn(4, 200, generator=draw) - 0.2
        found += holm(sign_flip_p_values(values, seed=trial)) <= LEVEL
    assert found[planted].min() >= 27
    assert found[~planted].sum() <= 4


def test_a_strong_head_among_a_thousand_is_beyond_chance_and_one_in_the_other_direction_is_not():
    values = without_effect(1024, 40, generator(4))
    values[17], values[18] = -1, 1
    adjusted = holm(sign_flip_p_values(values, seed=0))
    assert adjusted[17] < LEVEL / 2
    assert adjusted[18] == 1


def test_heads_far_apart_are_kept_in_every_resample():
    values = torch.tensor([[0.0], [-1.0], [-2.0], [3.0]]) + 0.1 * torch.randn(4, 50, generator=generator(0))
    stability, frequency = rank_stability(values, 2, seed=0)
    assert stability == 1
    assert frequency.tolist() == [0, 1, 1, 0]


def test_the_last_place_between_two_like_heads_is_a_matter_of_chance():
    """Kept are head 0 and one of 1 and 2: the Jaccard index is 1, or with the other one 1/3."""
    own = torch.randn(40, generator=generator(6))
    own -= own.mean() + 0.001
    values = torch.stack([own - 5, own, -own, own + 5])
    stability, frequency = rank_stability(values, 2, seed=1)
    assert frequency[[0, 3]].tolist() == [1, 0]
    assert 0.4 < frequency[1] < 0.6
    assert frequency.sum() == 2
    assert stability == pytest.approx((frequency[1] + (1 - frequency[1]) / 3).item())


def test_ties_go_to_the_earlier_head_in_every_resample():
    stability, frequency = rank_stability(torch.zeros(5, 9), 3, seed=0)
    assert stability == 1
    assert frequency.tolist() == [1, 1, 1, 0, 0]


def test_a_circuit_is_compared_with_random_ones_and_counts_as_one():
    others = torch.tensor([0.1, 0.3, 0.5, 0.2])
    assert random_circuit_p_value(0.6, others) == 1 / 5
    assert random_circuit_p_value(0.3, others) == 3 / 5
    assert random_circuit_p_value(0.0, others) == 1
    assert random_circuit_p_value(0.5, others[:0]) != random_circuit_p_value(0.5, others[:0])
