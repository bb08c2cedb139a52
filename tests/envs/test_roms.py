"""ROMs of the user's own: the same, older, missing, another game's, and files that are none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ale_py
import ale_py.roms
import numpy as np
import pytest

from cql_atari.envs import roms
from cql_atari.envs.atari import AtariEnv, make_vector
from cql_atari.types import UserError


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
    for env in (
        AtariEnv("Breakout", seed=1, rom_dir=tmp_path),
        make_vector("Breakout", 2, seed=1, sticky=0.0, rom_dir=tmp_path),
    ):
        assert env.rom_md5 == hashlib.md5(changed).hexdigest()
        assert env.reset().any()


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
def test_a_file_that_is_no_rom_is_an_error_where_ale_would_end_the_process_or_hang(
    tmp_path, monkeypatch, size
):
    monkeypatch.setattr(roms, "_TRIAL_SECONDS", 4)
    (tmp_path / "breakout.bin").write_bytes(np.random.default_rng(0).bytes(size))
    with pytest.raises(UserError, match=r"breakout\.bin doesn't load as a ROM"):
        AtariEnv("Breakout", seed=0, rom_dir=tmp_path)
