"""The numbers of an evaluation: a row a game by hand, variants apart, ALE's default modes."""

from __future__ import annotations

import json

import pytest
from made_up import episode

from cql_atari.core import games
from cql_atari.evaluation import summary
from cql_atari.evaluation.summary import summarise


def test_summary_by_hand():
    breakout = games.spec("Breakout")
    episodes = [
        episode("Breakout", breakout.random, actions=[0, 0, 3]),
        episode("Breakout", breakout.human, actions=[1], truncated=True),
        episode("Carnival", 1_000.0, actions=[1]),
    ]
    summary = summarise(episodes)
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
    summary = summarise(episodes)
    assert list(summary["games"]) == ["Freeway", "Freeway (mode 1, difficulty 0)", "Pooyan"]
    variant = summary["games"]["Freeway (mode 1, difficulty 0)"]
    assert variant["mean"] == 5.0 and variant["human_normalised"] is None
    assert summary["human_normalised"]["games"] == 1
    assert summary["games"]["Pooyan"]["dqn_normalised"] is not None  # its default mode is 10


def test_no_reference_at_all():
    assert summarise([episode("Carnival", 1)])["human_normalised"] == {"games": 0}


def test_default_modes_are_those_of_ale():
    ale_py = pytest.importorskip("ale_py")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    for name in (*summary._DEFAULT_MODES, "Breakout", "Freeway", "Pong", "Qbert"):
        ale = ale_py.ALEInterface()
        ale.loadROM(ale_py.roms.get_rom_path(games.spec(name).rom))
        default = ale.getAvailableModes()[0]
        assert summary.is_default(episode(name, 0, mode=default)), name
