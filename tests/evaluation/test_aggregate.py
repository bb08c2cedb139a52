"""Aggregates over games: hand numbers, rliable as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from rliable import library, metrics

from cql_atari.evaluation import aggregate


def test_iqm_by_hand():
    assert aggregate.iqm(np.arange(40.0)[None]) == np.arange(10, 30).mean()  # middle 20 of 40
    assert aggregate.iqm(np.array([[100.0, 1.0, 3.0, -50.0]])) == 2.0
    assert aggregate.iqm(np.array([[1.0, 2.0, 6.0]])) == 3.0  # nothing to cut below four
    many = np.array([[[9.0, 1.0, 2.0, 0.0]], [[0.0, 5.0, 7.0, 99.0]]])  # [2, runs, games]
    assert aggregate.iqm(many).tolist() == [1.5, 6.0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 10**6))
def test_point_estimates_equal_rliables(runs, tasks, seed):
    scores = np.random.default_rng(seed).normal(0.8, 1, size=(runs, tasks))
    theirs = {
        "iqm": metrics.aggregate_iqm(scores),
        "mean": metrics.aggregate_mean(scores),
        "median": metrics.aggregate_median(scores),
        "optimality_gap": metrics.aggregate_optimality_gap(scores),
    }
    ours = aggregate.aggregate(scores)
    assert {name: cell["value"] for name, cell in ours.items()} == pytest.approx(theirs)
    thresholds = np.linspace(-1, 2, 7)
    shares = [cell["value"] for cell in aggregate.profile(scores, thresholds)]
    (expected,) = library.create_performance_profile({"x": scores}, thresholds, reps=2)[0].values()
    np.testing.assert_allclose(shares, expected)
    others = np.random.default_rng(seed + 1).integers(0, 2, size=(3, tasks)).astype(float)
    better = aggregate.improvement(scores, others)["value"]
    assert better == pytest.approx(metrics.probability_of_improvement(scores, others))


def test_an_interval_of_a_mean_is_welchs():
    """Where the statistic is linear nothing is left to the draws but their number."""
    scores = [np.array([1.0, 3.0]), np.array([10.0, 11.0, 12.0])]  # squared errors 1 and 1/3
    low, high = aggregate.aggregate(scores)["mean"]["ci95"]
    degrees = (4 / 3) ** 2 / (1 / 1 + (1 / 9) / 2)
    half = scipy.stats.t.ppf(0.975, degrees) * (4 / 3) ** 0.5 / 2
    assert (low + high) / 2 == pytest.approx(6.5, abs=0.1 * half)
    assert (high - low) / 2 == pytest.approx(half, rel=0.07)


def test_bias_of_noisy_means_lengthens_its_own_side():
    """Nine sure games at 0 and a noisy one: the gap's chance is one-sided, below 1 only."""
    scores = [np.ones(2)] * 9 + [np.array([0.0, 2.0])]
    gap = aggregate.aggregate(scores)["optimality_gap"]
    assert gap["value"] == 0.0
    assert -gap["ci95"][0] > gap["ci95"][1] > 0
    # A tenth of what normal noise of size 1 falls below 0 on average, 1 / sqrt(2 pi); twice.
    longer = -gap["ci95"][0] - gap["ci95"][1]
    assert longer == pytest.approx(2 * 0.1 / (2 * np.pi) ** 0.5, rel=0.1)


def test_no_interval_below_two_episodes_or_runs():
    alone = aggregate.aggregate([np.array([1.0, 3.0]), np.array([10.0])])
    assert alone["mean"] == {"value": 6.0, "ci95": None}  # games weigh the same: (2 + 10) / 2
    assert all(cell["ci95"] is None for cell in alone.values())
    one_run = np.array([[1.0, 2.0]])
    assert aggregate.aggregate(one_run)["iqm"] == {"value": 1.5, "ci95": None}
    assert aggregate.profile(one_run, np.array([1.5])) == [{"value": 0.5, "ci95": None}]
    assert aggregate.improvement(one_run, one_run + 1) == {"value": 0.0, "ci95": None}
    assert aggregate.aggregate([np.array([2.0, 2.0])])["iqm"]["ci95"] == (2.0, 2.0)


def test_over_runs_by_hand():
    """The mean's jackknife error is its standard error; runs count once, however many games."""
    scores = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    low, high = aggregate.aggregate(scores)["mean"]["ci95"]
    half = 4.302653 / 3**0.5  # t table, 2 degrees of freedom; standard deviation 1
    assert (low, high) == pytest.approx((2 - half, 2 + half), rel=1e-5)


def test_profile_by_hand():
    scores = [np.array([0.4, 0.6]), np.array([1.0, 1.0])]
    shares = aggregate.profile(scores, np.array([0.0, 0.75, 1.0]))
    assert [cell["value"] for cell in shares] == [1.0, 0.5, 0.0]
    assert shares[2]["ci95"] == (0.0, 0.0)
    low, high = shares[1]["ci95"]  # the first game may be above 0.75, the second surely is
    assert 0 <= low <= 0.5 < high <= 1


def test_improvement_by_hand():
    first = [np.array([3.0, 1.0]), np.array([5.0, 5.0])]
    second = [np.array([2.0, 2.0, 0.0]), np.array([5.0, 4.0])]
    # Game 1: 3 beats all three, 1 beats one: 4/6. Game 2: ties 2, wins 2 of 4: 3/4.
    assert aggregate.improvement(first, second)["value"] == pytest.approx((4 / 6 + 3 / 4) / 2)
    sure = aggregate.improvement([np.array([2.0, 3.0])], [np.array([0.0, 1.0])])
    assert sure == {"value": 1.0, "ci95": None}  # of equal players one in three pairs looks so
    wins = np.array([[1.0, 1.0, 1.0, 1.0, -1.0]] * 3)  # above in four of five games, in each seed
    assert aggregate.improvement(wins, 0 * wins) == {"value": pytest.approx(0.8), "ci95": None}


def test_the_interval_of_an_improvement_by_hand():
    """Eight times the two games above, so that it stays within 0 and 1."""
    first = [np.array([3.0, 1.0]), np.array([5.0, 5.0])] * 8
    second = [np.array([2.0, 2.0, 0.0]), np.array([5.0, 4.0])] * 8
    # Shares that each score is above or below: 1, 1/3 | 1/2, 1/2, 1 | 3/4, 3/4 | 1/2, 1. Their
    # variances by the numbers of scores: 2/9 / 2, 1/12 / 3, 0, 1/8 / 2.
    squares = np.array([1 / 9, 1 / 36, 0, 1 / 16])
    degrees = 8 * squares.sum() ** 2 / (squares**2 / [1, 2, 1, 1]).sum()
    half = scipy.stats.t.ppf(0.975, degrees) * (8 * squares.sum()) ** 0.5 / 16
    value = (4 / 6 + 3 / 4) / 2
    found = aggregate.improvement(first, second)
    assert found["ci95"] == pytest.approx((value - half, value + half), rel=1e-3)


def test_the_interval_of_an_improvement_holds_a_truth_near_one():
    """Three seeds of three games; in a quarter of such comparisons no score of the second is above
    any of the first, and DeLong's variance is 0.
    """
    rng, held = np.random.default_rng(0), []
    truth = scipy.stats.norm.cdf(2 / 2**0.5)
    for _ in range(300):
        first, second = rng.normal(2.0, size=(3, 3)), rng.normal(size=(3, 3))
        if (found := aggregate.improvement(first, second))["ci95"] is None:
            assert found["value"] == 1
        else:
            held.append(found["ci95"][0] <= truth <= found["ci95"][1])
    assert 200 < len(held) < 260 and np.mean(held) > 0.92


def test_intervals_hold_the_truth_19_times_in_20():
    """One cell of the table in docs/statistics.md: 40 games, 4 episodes, noise 0.6, skewed."""
    held = {name: [] for name in ("iqm", "mean", "optimality_gap")}
    rng = np.random.default_rng(0)
    for _ in range(150):
        truth = rng.gamma(0.8, 1.0, 40)
        scores = truth[:, None] * (0.4 + 0.6 * rng.exponential(size=(40, 4)))
        for name, cell in aggregate.aggregate(list(scores)).items():
            if name in held:
                true = float(aggregate.AGGREGATES[name].statistic(truth[None]))
                held[name].append(cell["ci95"][0] <= true <= cell["ci95"][1])
    assert all(np.mean(values) > 0.88 for values in held.values()), held
