"""Aggregates over games: hand numbers, rliable as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rliable import library, metrics

from cql_atari.evaluation import aggregate


def test_iqm_by_hand():
    assert aggregate.iqm(np.arange(40.0)) == np.arange(10, 30).mean()  # the middle 20 of 40
    assert aggregate.iqm(np.array([100.0, 1.0, 3.0, -50.0])) == 2.0
    assert aggregate.iqm(np.array([1.0, 2.0, 6.0])) == 3.0  # nothing to cut below four
    rows = np.array([[9.0, 1.0, 2.0, 0.0], [0.0, 5.0, 7.0, 99.0]])
    assert aggregate.iqm(rows, axis=1).tolist() == [1.5, 6.0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 10**6))
def test_iqm_equals_rliable(runs, tasks, seed):
    scores = np.random.default_rng(seed).normal(size=(runs, tasks))
    assert aggregate.iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores))


def test_aggregates_and_intervals_agree_with_rliable():
    """Episodes in the place of rliable's runs; its IQM is given the games' means, as ours."""
    generator = np.random.default_rng(1)
    matrix = generator.gamma(2.0, size=(10, 7)) * np.arange(1, 8)
    ours = aggregate.aggregate(list(matrix.T))
    functions = {
        "mean": metrics.aggregate_mean,
        "median": metrics.aggregate_median,
        "iqm": lambda scores: metrics.aggregate_iqm(scores.mean(0, keepdims=True)),
    }
    np.random.seed(0)  # rliable ignores random_state
    for name, function in functions.items():
        point, interval = library.get_interval_estimates(
            {"x": matrix}, lambda scores, f=function: np.array([f(scores)]), reps=2_000
        )
        assert ours[name]["value"] == pytest.approx(point["x"][0])
        width = interval["x"][1, 0] - interval["x"][0, 0]
        np.testing.assert_allclose(ours[name]["ci95"], interval["x"][:, 0], atol=0.08 * width)


def test_games_with_different_numbers_of_episodes():
    result = aggregate.aggregate([np.array([1.0, 3.0]), np.array([10.0])])
    assert result["mean"]["value"] == 6.0  # games weigh the same: (2 + 10) / 2
    assert result["mean"]["ci95"] is None  # a single episode says nothing of chance
