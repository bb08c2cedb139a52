"""Intervals, aggregates and scores files: hand numbers, scipy and rliable as oracles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from rliable import library, metrics

from cql_atari.core import games
from cql_atari.core.types import EpisodeScore, UserError
from cql_atari.evaluation import aggregate


def episode(game, score, *, seed=0, mode=0, difficulty=0, actions=(0,), truncated=False):
    counts = np.bincount(actions, minlength=18)
    return EpisodeScore(
        game, float(score), len(actions), truncated, seed, 0, mode, difficulty, "md5",
        tuple(counts.tolist()),
    )  # fmt: skip


def test_interval_by_hand():
    low, high = aggregate.mean_interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2.0)
    assert (high - low) / 2 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)  # t table, 2 d.o.f.
    assert aggregate.mean_interval([5.0]) is None
    assert aggregate.mean_interval([5.0, 5.0]) == (5.0, 5.0)


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 15, 99, 5_000])
def test_t_quantile_agrees_with_scipy(degrees):
    expected = scipy.stats.t.ppf(0.975, degrees)
    assert aggregate._t_quantile(degrees) == pytest.approx(expected, rel=1e-5)


def test_difference_by_hand_and_as_scipy():
    first, second = [10.0, 12.0, 14.0], [1.0, 1.0, 4.0]  # means 12, 2; variances 4, 3
    low, high = aggregate.difference_interval(first, second)
    # error^2 = 4/3 + 3/3 = 7/3; degrees = (7/3)^2 / ((4/3)^2 / 2 + 1 / 2) = 3.92
    expected = scipy.stats.t.ppf(0.975, 3.92) * (7 / 3) ** 0.5
    assert (low, high) == pytest.approx((10 - expected, 10 + expected), rel=1e-5)
    unequal = [*second, 9.0, -3.0]
    theirs = scipy.stats.ttest_ind(first, unequal, equal_var=False).confidence_interval()
    mine = aggregate.difference_interval(first, unequal)
    assert mine == pytest.approx((theirs.low, theirs.high), rel=1e-5)


def test_difference_without_spread_and_without_seeds():
    assert aggregate.difference_interval([5.0, 5.0], [2.0, 2.0, 2.0]) == (3.0, 3.0)
    assert aggregate.difference_interval([5.0], [2.0, 3.0]) is None
    assert aggregate.difference_interval([5.0, 6.0], [2.0]) is None
    one_sided = aggregate.difference_interval([5.0, 5.0], [1.0, 3.0])  # all degrees the second's
    assert one_sided == pytest.approx((3 - 12.7062, 3 + 12.7062), rel=1e-4)


def test_interval_covers_the_mean_95_times_in_100():
    generator = np.random.default_rng(0)
    intervals = [aggregate.mean_interval(generator.normal(size=4)) for _ in range(2_000)]
    covered = np.mean([low < 0 < high for low, high in intervals])
    assert abs(covered - 0.95) < 0.015


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
    assert result["mean"]["ci95"] == (5.5, 6.5)  # 2 +- 1 resampled, 10 fixed


def test_summary_by_hand():
    breakout = games.spec("Breakout")
    episodes = [
        episode("Breakout", breakout.random, actions=[0, 0, 3]),
        episode("Breakout", breakout.human, actions=[1], truncated=True),
        episode("Carnival", 1_000.0, actions=[1]),
    ]
    summary = aggregate.summarise(episodes)
    row = summary["games"]["Breakout"]
    assert row["n"] == 2 and row["truncated"] == 1 and row["length"] == 2.0
    assert row["mean"] == row["median"] == pytest.approx((breakout.random + breakout.human) / 2)
    assert (row["min"], row["max"]) == (breakout.random, breakout.human)
    assert row["human_normalised"] == pytest.approx(0.5)
    assert row["action_share"] == {"NOOP": 0.5, "FIRE": 0.25, "RIGHT": 0.25, "LEFT": 0.0}
    assert summary["games"]["Carnival"]["human_normalised"] is None
    assert summary["games"]["Carnival"]["ci95"] is None
    assert summary["human_normalised"]["games"] == 1
    assert summary["human_normalised"]["iqm"]["value"] == pytest.approx(0.5)
    assert summary["dqn_normalised"]["games"] == 2
    json.dumps(summary, allow_nan=False)


def test_variants_are_apart_and_have_no_normalised_score():
    episodes = [
        episode("Freeway", 20),
        episode("Freeway", 5, mode=1),
        episode("Pooyan", 1, mode=10),
    ]
    summary = aggregate.summarise(episodes)
    assert list(summary["games"]) == ["Freeway", "Freeway (mode 1, difficulty 0)", "Pooyan"]
    variant = summary["games"]["Freeway (mode 1, difficulty 0)"]
    assert variant["mean"] == 5.0 and variant["human_normalised"] is None
    assert summary["human_normalised"]["games"] == 1
    assert summary["games"]["Pooyan"]["dqn_normalised"] is not None  # its default mode is 10


def test_no_reference_at_all():
    assert aggregate.summarise([episode("Carnival", 1)])["human_normalised"] == {"games": 0}


def test_default_modes_are_those_of_ale():
    ale_py = pytest.importorskip("ale_py")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    for name in (*aggregate._DEFAULT_MODES, "Breakout", "Freeway", "Pong", "Qbert"):
        ale = ale_py.ALEInterface()
        ale.loadROM(ale_py.roms.get_rom_path(games.spec(name).rom))
        default = ale.getAvailableModes()[0]
        assert aggregate.is_default(episode(name, 0, mode=default)), name


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "scores.json"
    episodes = [episode("Pong", -21.0, seed=i, actions=[i, 3]) for i in range(3)]
    protocol, run = {"epsilon": 0.001, "sticky": 0.0}, {"label": "agent", "step": 5}
    aggregate.write_scores(path, episodes, protocol, run)
    assert aggregate.read_scores(path) == (episodes, protocol, run)
    content = json.loads(path.read_text())
    assert content["summary"]["games"]["Pong"]["mean"] == -21.0
    assert len(content["episodes"]) == 3
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    aggregate.write_scores(path, [episode("Pong", 1)], {}, {})
    before = path.read_text()
    monkeypatch.setattr(aggregate.os, "replace", _no_space)
    with pytest.raises(UserError, match="No space left"):
        aggregate.write_scores(path, [episode("Pong", 2)], {}, {})
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


def _no_space(*_):
    raise OSError(28, "No space left on device")


GOOD = {"format": 1, "run": {}, "protocol": {}, "episodes": [episode("Pong", 1)._asdict()]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 2}, "format 2"),
        ({"episodes": [{"game": "Pong"}]}, "action_counts"),
        ({"episodes": [{**GOOD["episodes"][0], "action_counts": [1]}]}, "1 action counts"),
        ({"episodes": [{**GOOD["episodes"][0], "score": "many"}]}, "scores.json"),
        ({"episodes": [{**GOOD["episodes"][0], "colour": 1}]}, "colour"),
        ({"episodes": [{**GOOD["episodes"][0], "game": "Pongg"}]}, "Pong"),
        ({"episodes": 3}, "scores.json"),
        ({"run": None}, "scores.json"),
    ],
)
def test_malformed_files_are_named(tmp_path, change, message):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(UserError, match=message) as caught:
        aggregate.read_scores(path)
    assert str(path) in str(caught.value) or "Pongg" in str(caught.value)


def test_missing_cut_and_foreign_files(tmp_path):
    path = tmp_path / "scores.json"
    with pytest.raises(UserError, match="No such file"):
        aggregate.read_scores(path)
    path.write_text(json.dumps(GOOD)[:40])
    with pytest.raises(UserError, match="not JSON"):
        aggregate.read_scores(path)
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="no scores file"):
        aggregate.read_scores(path)
