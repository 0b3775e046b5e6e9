"""Bootstrap intervals: known cases, coverage, and the same resamples for all heads."""

from __future__ import annotations

import torch

from nnsight_et.statistics import bootstrap_interval


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
