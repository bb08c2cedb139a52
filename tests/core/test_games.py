"""Invariants of the game table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from ale_py import ALEInterface, LoggerMode, roms

from cql_atari.core import games
from cql_atari.core.types import UserError

HELD_OUT = ("Alien", "MsPacman", "Pong", "SpaceInvaders", "StarGunner")


def test_forty_train_and_five_are_held_out():
    assert len(games.training_games()) == 40
    assert {games.spec(name).role for name in games.training_games()} == {"train"}
    assert tuple(g.name for g in games.table().values() if g.role == "held_out") == HELD_OUT


@pytest.mark.slow
def test_action_sets_are_those_of_ale():
    ALEInterface.setLoggerMode(LoggerMode.Error)
    for name in (*games.training_games(), *HELD_OUT):
        ale = ALEInterface()
        ale.loadROM(roms.get_rom_path(games.spec(name).rom))
        assert games.spec(name).actions == tuple(int(a.value) for a in ale.getMinimalActionSet())


def test_action_map_and_mask_agree():
    assert games.to_full_actions("Breakout").tolist() == [0, 1, 3, 4]
    mask = games.action_mask(["Breakout", "Boxing"])
    assert np.flatnonzero(mask[0]).tolist() == [0, 1, 3, 4]
    assert mask[1].all()


def test_normalisation_by_hand():
    assert games.human_normalised("Breakout", 1.7) == 0
    assert games.human_normalised("Breakout", 30.5) == pytest.approx(1)
    assert games.human_normalised("Pong", 14.6 + 35.3) == pytest.approx(2)
    assert games.human_normalised("Carnival", 3800) is None
    assert games.human_normalised("Pooyan", 100) is None
    assert games.dqn_normalised("Pong", 16.6) == pytest.approx(1)


@pytest.mark.parametrize("form", [games.human_normalised, games.dqn_normalised])
def test_more_points_are_never_worth_less(form):
    """DQN scores as random play in MontezumaRevenge, and less in PrivateEye: there is no scale."""
    for name in games.table():
        low, high = form(name, 0.0), form(name, 100.0)
        assert (low is None and high is None) or low < high
    assert games.dqn_normalised("MontezumaRevenge", 0.0) is None
    assert games.dqn_normalised("PrivateEye", 0.0) is None


def test_all_training_games_have_a_reference_but_two():
    without = [g for g in games.training_games() if games.human_normalised(g, 0.0) is None]
    assert without == ["Carnival", "Pooyan"]
    assert all(games.dqn_normalised(g, 0.0) is not None for g in games.training_games())


def test_the_table_is_well_formed():
    path = Path(games.__file__).with_name("atari_games.csv")
    rows = list(csv.DictReader(path.open()))
    assert [row["game"] for row in rows] == sorted(row["game"] for row in rows)
    assert all(set(map(int, row["minimal_action_set"].split())) <= set(range(18)) for row in rows)


@pytest.mark.parametrize(
    "typo, meant", [("breakout", "Breakout"), ("space_invaders", "SpaceInvaders")]
)
def test_a_typo_names_the_nearest(typo, meant):
    with pytest.raises(UserError, match=meant):
        games.spec(typo)
