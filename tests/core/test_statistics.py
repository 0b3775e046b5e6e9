"""Intervals, tests and stability: known cases, and error rates on data without effects."""

from __future__ import annotations

from math import log, nan

import pytest
import torch
from torch import Tensor

from nnsight_et.core.statistics import (
    LEVEL,
    accuracy_intervals,
    benjamini_hochberg,
    difference_interval,
    effect_p_values,
    holm,
    log_ratios,
    mean_interval,
    random_circuit_p_value,
    rank_stability,
    ratio_interval,
    student_below,
    student_quantile,
    too_few,
    wilson_interval,
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


def flags(right: int, count: int) -> Tensor:
    return torch.arange(count) < right


def paired(both: int, first: int, second: int, neither: int) -> tuple[Tensor, Tensor]:
    """Right or wrong, twice: both are right on so many examples, the first alone, the second alone, neither."""
    kinds = torch.tensor([0, 1, 2, 3]).repeat_interleave(torch.tensor([both, first, second, neither]))
    return kinds < 2, (kinds == 0) | (kinds == 2)


def test_the_interval_of_an_accuracy_is_wilsons_also_where_all_are_right():
    found = accuracy_intervals(torch.stack([flags(10, 40), flags(0, 40), flags(40, 40)]))
    assert found == [list(wilson_interval(right, 40)) for right in (10, 0, 40)]
    assert found[2][1] == 1
    assert found[2][0] == pytest.approx(0.9124, abs=1e-4)
    assert accuracy_intervals(flags(10, 40)) == found[0]


def test_shares_of_draws_that_vary_less_count_as_more_examples():
    alike, ones = torch.full((30,), 0.5), flags(15, 30)
    (narrow, wide) = (high - low for low, high in (accuracy_intervals(alike), accuracy_intervals(ones)))
    assert 0.05 < narrow < wide / 2
    assert accuracy_intervals(ones.double()) == accuracy_intervals(ones)
    assert all(bound != bound for bound in accuracy_intervals(torch.zeros(0, 5).mean(0)))  # NaN: no draws


def test_the_lower_end_of_a_ratio_of_nested_answers_is_wilsons():
    """Where the circuit is right only if the model is, the ratio is the share of the model's answers that are left."""
    over, under = paired(19, 0, 3, 8)
    assert ratio_interval(over, under)[0] == pytest.approx(wilson_interval(19, 22)[0], abs=1e-9)
    assert ratio_interval(under, over) == pytest.approx([1 / bound for bound in ratio_interval(over, under)[::-1]])


def test_the_ends_of_a_ratios_interval_are_just_not_rejected_by_the_likeliest_shares():
    """The hypothesis' likeliest shares by a search of all, not by a formula."""
    both, first, second, neither = 20, 4, 9, 7
    over, under = paired(both, first, second, neither)
    for ratio in ratio_interval(over, under):
        share, alone = torch.meshgrid(torch.linspace(0.001, 1, 1500), torch.linspace(0.001, 0.5, 1500), indexing="ij")
        cells = torch.stack([ratio * share - alone, alone, (1 - ratio) * share + alone, 1 - share - alone]).double()
        seen = torch.tensor([both, first, second, neither]).double()[:, None, None]
        likely = (seen * cells.clamp(min=1e-300).log()).sum(0).masked_fill((cells <= 0).any(0), -torch.inf)
        best = cells.flatten(1)[:, likely.argmax()]
        variance = 40 * ratio * (best[1] + best[2]).item()
        assert (both + first - ratio * (both + second)) ** 2 / variance == pytest.approx(1.96**2, rel=0.02)


def test_ratios_at_their_ends():
    low, high = ratio_interval(*paired(100, 0, 0, 0))
    assert low == pytest.approx(100 / (100 + 1.96**2), abs=1e-4)
    assert high == pytest.approx(1 + 1.96**2 / 100, abs=1e-4)
    assert ratio_interval(*paired(0, 0, 5, 5))[0] == 0
    assert all(bound != bound for bound in ratio_interval(*paired(0, 5, 0, 5)))  # NaN: the model answers nothing


def test_the_interval_of_a_difference_is_bonett_and_prices():
    low, high = difference_interval(*paired(50, 12, 4, 34))
    middle, width = 8 / 102, 1.96 * ((18 / 102 - (8 / 102) ** 2) / 102) ** 0.5
    assert (low, high) == pytest.approx((middle - width, middle + width), abs=1e-5)
    assert difference_interval(*paired(5, 0, 0, 5))[0] < 0 < difference_interval(*paired(5, 0, 0, 5))[1]


# 97.5% points of Student's t, from tables
@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (10, 2.2281), (99, 1.9842), (500, 1.9647)]
)
def test_students_distribution_is_that_of_tables(freedom, expected):
    assert student_quantile(freedom) == pytest.approx(expected, abs=1e-4)
    both = student_below(torch.tensor([-expected, expected, 0.0]), freedom)
    torch.testing.assert_close(both, torch.tensor([0.025, 0.975, 0.5]).double(), atol=1e-5, rtol=0)


def test_the_interval_of_a_mean_is_students():
    values = torch.tensor([[1.0, 2, 3, 4], [2, 2, 2, 2]])
    low, high = mean_interval(values)
    width = 3.1824 * (5 / 3) ** 0.5 / 2
    torch.testing.assert_close(low, torch.tensor([2.5 - width, 2]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(high, torch.tensor([2.5 + width, 2]).double(), atol=1e-4, rtol=0)
    assert mean_interval(values[:, :1])[0].isnan().all()


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


def test_the_p_value_is_students_of_the_examples_and_one_that_speaks_against_the_head():
    """Skewed to the left, so that nothing is corrected."""
    values = torch.tensor([-0.9, 0.31, -0.47, -0.05, 0.2, -1.3, 0.02]).double()
    more = torch.cat([values, torch.tensor([0.65]).double()])
    expected = student_below(more.mean() / more.std() * 8**0.5, 7)
    torch.testing.assert_close(effect_p_values(values[None]), expected[None])


def test_skew_to_the_right_raises_the_p_value_and_skew_to_the_left_does_not_lower_it():
    draw = generator(0)
    values = -0.3 - 0.5 * torch.empty(50, 60).exponential_(generator=draw).sub(1).double()
    mirrored = 2 * values.mean(-1, keepdim=True) - values
    left, right = effect_p_values(values), effect_p_values(mirrored)
    assert (right > left).double().mean() > 0.9
    assert (left < 0.01).double().mean() > 0.5


def test_effects_that_are_all_alike_have_the_smallest_p_value_there_is_and_no_effect_has_1():
    found = effect_p_values(torch.tensor([[-1.0], [0.0], [1.0], [-1e-9]]).expand(4, 12))
    assert found[0].item() == pytest.approx(student_below(torch.tensor(-11.5 / 1.5), 12).item())
    assert found[3] == pytest.approx(found[0].item())
    assert found[1] == 1
    assert found[2] > 1 - 1e-5
    draw = generator(1)
    others = effect_p_values(-(1 - 0.3 * torch.rand(500, 12, generator=draw).pow(8)))
    assert others.min() >= found[0] * (1 - 1e-9)
    assert too_few(12, 40) == ""
    assert "no p is below 0.0052, before the correction for 40 heads" in too_few(6, 40)


def test_p_values_depend_on_no_other_heads_and_no_unit():
    values = without_effect(5, 30, generator(3))
    found = effect_p_values(values)
    torch.testing.assert_close(effect_p_values(values[2:4]), found[2:4])
    torch.testing.assert_close(effect_p_values(1000 * values), found)


def test_a_head_with_a_value_that_does_not_exist_has_no_p_value_and_does_not_count():
    values = without_effect(4, 20, generator(1))
    values[1, 3], values[2, 0] = nan, torch.inf
    found = effect_p_values(values)
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


def right_skewed(heads: int, examples: int, draw: torch.Generator) -> Tensor:
    """[head, example]: an exponential's long right tail, of mean 0; its skew is 2."""
    return torch.empty(heads, examples, dtype=torch.float64).exponential_(generator=draw) - 1


@pytest.mark.parametrize(("kind", "most"), [(without_effect, 18), (right_skewed, 29)])
def test_without_effects_a_head_is_seldom_beyond_chance(kind, most):
    """In about 5% of 200 trials; of heads that are all skewed to the right, where sign flips err in 30%, 10%."""
    draw = generator(11)
    wrong = sum(bool((holm(effect_p_values(kind(40, 50, draw))) <= LEVEL).any()) for _ in range(200))
    assert wrong <= most


def test_planted_effects_are_found_among_heads_without():
    draw, planted = generator(5), torch.arange(40) < 4
    found = torch.zeros(40)
    for _ in range(30):
        values = without_effect(40, 200, draw)
        values[planted] = 0.5 * torch.randn(4, 200, generator=draw) - 0.2
        found += holm(effect_p_values(values)) <= LEVEL
    assert found[planted].min() >= 27
    assert found[~planted].sum() <= 4


def test_a_strong_head_among_a_thousand_is_beyond_chance_and_one_in_the_other_direction_is_not():
    values = without_effect(1024, 40, generator(4))
    values[17], values[18] = -1, 1
    adjusted = holm(effect_p_values(values))
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
