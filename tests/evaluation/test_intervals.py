"""Intervals of means and differences: hand numbers, scipy as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from cql_atari.evaluation import intervals


def test_interval_by_hand():
    low, high = intervals.mean([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2.0)
    assert (high - low) / 2 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)  # t table, 2 d.o.f.
    assert intervals.mean([5.0]) is None
    assert intervals.mean([5.0, 5.0]) == (5.0, 5.0)


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 15, 99, 5_000])
def test_t_quantile_agrees_with_scipy(degrees):
    expected = scipy.stats.t.ppf(0.975, degrees)
    assert intervals.t_quantile(degrees) == pytest.approx(expected, rel=1e-5)


def test_difference_by_hand_and_as_scipy():
    first, second = [10.0, 12.0, 14.0], [1.0, 1.0, 4.0]  # means 12, 2; variances 4, 3
    low, high = intervals.difference(first, second)
    # error^2 = 4/3 + 3/3 = 7/3; degrees = (7/3)^2 / ((4/3)^2 / 2 + 1 / 2) = 3.92
    expected = scipy.stats.t.ppf(0.975, 3.92) * (7 / 3) ** 0.5
    assert (low, high) == pytest.approx((10 - expected, 10 + expected), rel=1e-5)
    unequal = [*second, 9.0, -3.0]
    theirs = scipy.stats.ttest_ind(first, unequal, equal_var=False).confidence_interval()
    mine = intervals.difference(first, unequal)
    # Ours approximates the quantile of few degrees of freedom.
    assert mine == pytest.approx((theirs.low, theirs.high), rel=1e-3)


def test_difference_without_spread_and_without_seeds():
    assert intervals.difference([5.0, 5.0], [2.0, 2.0, 2.0]) == (3.0, 3.0)
    assert intervals.difference([5.0], [2.0, 3.0]) is None
    assert intervals.difference([5.0, 6.0], [2.0]) is None
    one_sided = intervals.difference([5.0, 5.0], [1.0, 3.0])  # all degrees the second's
    assert one_sided == pytest.approx((3 - 12.7062, 3 + 12.7062), rel=1e-4)


def test_interval_covers_the_mean_95_times_in_100():
    generator = np.random.default_rng(0)
    drawn = [intervals.mean(generator.normal(size=4)) for _ in range(2_000)]
    covered = np.mean([low < 0 < high for low, high in drawn])
    assert abs(covered - 0.95) < 0.015


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [-1.0, 2.0, 3.0, 0.5, 0.1], [9.0, 9.1, 9.3]])
def test_p_values_agree_with_scipy(values):
    paired = scipy.stats.ttest_1samp(values, 0).pvalue
    assert intervals.p_paired(values) == pytest.approx(paired, rel=1e-3)
    others = [0.0, 1.0, 7.0, 2.0]
    welch = scipy.stats.ttest_ind(values, others, equal_var=False).pvalue
    assert intervals.p_welch(values, others) == pytest.approx(welch, rel=1e-2)


def test_p_is_below_5_percent_where_the_interval_leaves_out_0():
    for shift in np.linspace(0, 3, 31):
        values = [shift - 1, shift, shift + 1.5]
        low, high = intervals.mean(values)
        assert (intervals.p_paired(values) < 0.05) == (not low <= 0 <= high)


def test_p_values_without_spread_and_without_seeds():
    assert intervals.p_paired([0.0, 0.0]) == 1
    assert intervals.p_paired([2.0, 2.0]) == 2 * 0.5**2  # two of two signs, either way
    assert intervals.p_paired([-2.0] * 6) == pytest.approx(2 * 0.5**6)
    # Of the 10 ways to choose 2 of 5 values two are as far apart.
    assert intervals.p_welch([2.0, 2.0], [1.0, 1.0, 1.0]) == 0.2
    assert intervals.p_welch([2.0, 2.0], [2.0, 2.0]) == 1
    # Equal but for rounding: their deviation is 1e-16, and t would say 1e-47.
    assert intervals.p_paired([(10 + k) / 10 - (7 + k) / 10 for k in range(4)]) == 2 * 0.5**4
    assert intervals.p_paired([0.3 - 0.1 - 0.2, 0.7 - 0.6 - 0.1]) == 1
    assert intervals.p_welch([0.1] * 3, [0.3] * 3) == 0.1
    assert intervals.p_paired([1.0]) is None and intervals.p_welch([1.0], [1.0, 2.0]) is None


def test_holm_by_hand():
    """Times 4, 3, 2 and 1 in order; never below the one before, never above 1."""
    found = intervals.holm([0.04, 0.01, 0.03, 0.6])
    assert found == pytest.approx([0.09, 0.04, 0.09, 0.6])
    assert intervals.holm([0.5, 0.9]) == [1.0, 1.0] and intervals.holm([]) == []
