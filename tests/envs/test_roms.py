"""ROMs of the user's own: the same, older, missing, another game's, and files that are none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ale_py
import ale_py.roms
import numpy as np
import pytest
from tensorflow_datasets.rl_unplugged import atari_utils

from cql_atari.core import games
from cql_atari.core.settings import Data
from cql_atari.core.types import UserError
from cql_atari.envs import roms
from cql_atari.envs.atari import AtariEnv, make_vector


@pytest.fixture
def breakout_rom() -> bytes:
    return Path(ale_py.roms.get_rom_path("breakout")).read_bytes()


def test_a_rom_dir_with_the_same_rom_plays_the_same(tmp_path, breakout_rom):
    (tmp_path / "breakout.bin").write_bytes(breakout_rom)
    ours, theirs = AtariEnv("Breakout", seed=1, rom_dir=tmp_path), AtariEnv("Breakout", seed=1)
    assert ours.rom_md5 == theirs.rom_md5 == hashlib.md5(breakout_rom).hexdigest()
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    for action in np.random.default_rng(0).integers(0, 18, 50):
        np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0])


def test_a_rom_unknown_to_ale_py_is_played_and_told_by_its_md5(tmp_path, breakout_rom):
    """As are the older ROMs that collected DQN-Replay; here it is one byte of the graphics."""
    changed = bytearray(breakout_rom)
    changed[2014] ^= 0x08
    (tmp_path / "breakout.bin").write_bytes(changed)
    assert ale_py.ALEInterface.isSupportedROM(tmp_path / "breakout.bin") is None
    one = AtariEnv("Breakout", seed=1, rom_dir=tmp_path)
    two = make_vector("Breakout", 2, seed=1, sticky=0.0, rom_dir=tmp_path)
    assert one.rom_md5 == two.switches.rom_md5 == hashlib.md5(changed).hexdigest()
    assert one.reset().any() and two.reset().any()


def test_a_rom_dir_without_the_rom(tmp_path):
    with pytest.raises(UserError, match=r"space_invaders\.bin doesn't exist"):
        AtariEnv("SpaceInvaders", seed=0, rom_dir=tmp_path)


def test_a_game_for_which_ale_py_has_no_rom(monkeypatch):
    monkeypatch.setattr(ale_py.roms, "get_rom_path", lambda name: None)
    with pytest.raises(UserError, match=r"no ROM 'breakout' .*breakout\.bin in a rom_dir"):
        AtariEnv("Breakout", seed=0)


def test_another_games_rom(tmp_path, breakout_rom):
    (tmp_path / "pong.bin").write_bytes(breakout_rom)
    with pytest.raises(UserError, match=r"pong\.bin is the ROM of 'breakout'"):
        AtariEnv("Pong", seed=0, rom_dir=tmp_path)


@pytest.mark.parametrize("size", [0, 100, 2048])
@pytest.mark.slow
def test_a_file_that_is_no_rom_is_an_error_where_ale_would_end_the_process_or_hang(
    tmp_path, monkeypatch, size
):
    monkeypatch.setattr(roms, "_TRIAL_SECONDS", 4)
    (tmp_path / "breakout.bin").write_bytes(np.random.default_rng(0).bytes(size))
    with pytest.raises(UserError, match=r"breakout\.bin doesn't load as a ROM"):
        AtariEnv("Breakout", seed=0, rom_dir=tmp_path)


# Which ROM recorded the data.


def test_the_table_names_ale_pys_own_roms():
    for game, row in roms.md5_table().items():
        assert roms.md5(game, None) == (row["ale_py"] or row["recorded"]), game
        assert row["ale_py"] != row["recorded"] and len(row["recorded"]) == 32
    assert set(games.table()) - set(roms.md5_table()) == {"Surround"}


def test_half_of_the_games_of_rlds_were_recorded_with_other_roms():
    """The numbers that others have counted: 31 of atari-py's 63 ROMs, 23 of RLDS's 46 games."""
    other = {game for game, row in roms.md5_table().items() if row["ale_py"]}
    assert len(other) == 31 - 1 and len(roms.md5_table()) == 63 - 2  # Kaboom; and Adventure
    assert len(other & set(atari_utils._GAMES)) == 23 and len(atari_utils._GAMES) == 46


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(roms.logging, "warning", lambda text, *values: said.append(text % values))
    return said


def warn(games, runs, data_dir, rom_dir=None):
    data = Data(dir=str(data_dir), games=tuple(games), runs=tuple(runs))
    return roms.warn_where_other(data, rom_dir)


def test_one_warning_names_the_games_whose_rom_did_not_record_the_public_data(tmp_path, warnings):
    names = ["Pong", "Amidar", "Boxing", "Riverraid"]
    assert warn(names, [1], tmp_path) == ["Amidar", "Riverraid"]
    assert len(warnings) == 1
    assert "2 of 4" in warnings[0] and "Amidar, Riverraid." in warnings[0]
    assert "evaluation.rom_dir" in warnings[0]
    assert warn(["Pong", "Surround"], [1, 2], tmp_path) == []
    assert len(warnings) == 1


def test_play_of_ones_own_is_measured_by_its_own_roms(tmp_path, warnings):
    """What `collect` writes beside the files decides, not the public table."""
    for run, md5 in ((1, roms.md5("Amidar", None)), (2, "0" * 32)):
        folder = tmp_path / "Amidar" / str(run)
        folder.mkdir(parents=True)
        (folder / "episodes.jsonl").write_text(f'{{"score": 3, "rom_md5": "{md5}"}}\n{{}}\n')
    assert warn(["Amidar"], [1], tmp_path) == warnings == []
    assert warn(["Amidar"], [2], tmp_path) == ["Amidar"]
    assert warn(["Amidar"], [1, 2], tmp_path) == ["Amidar"]
    (tmp_path / "Amidar" / "1" / "episodes.jsonl").write_text("{")
    assert warn(["Amidar"], [1], tmp_path) == ["Amidar"]


def test_the_recorded_rom_in_a_rom_dir_ends_the_warning(
    tmp_path, warnings, breakout_rom, monkeypatch
):
    """With Breakout for a game whose ROM has changed since: the "older" one differs in a byte."""
    changed = bytearray(breakout_rom)
    changed[2014] ^= 0x08
    (tmp_path / "breakout.bin").write_bytes(changed)
    recorded = {"recorded": hashlib.md5(changed).hexdigest()}
    monkeypatch.setattr(roms, "md5_table", lambda: {"Breakout": recorded})
    assert warn(["Breakout"], [1], tmp_path) == ["Breakout"]
    assert warn(["Breakout"], [1], tmp_path, tmp_path) == []
    with pytest.raises(UserError, match=r"pong\.bin doesn't exist"):
        warn(["Breakout", "Pong"], [1], tmp_path, tmp_path)
