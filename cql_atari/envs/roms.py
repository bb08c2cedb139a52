"""Finds a game's ROM: ale-py's own, or a file of the user's that is known to load.

ALE ends the process if a ROM is missing or isn't a cartridge, and may hang on a file of the right
size that isn't one. So files that it doesn't know, such as the older versions of the ROMs that
collected part of DQN-Replay, are tried in another process first.

The MD5 identifies a ROM. `rom_md5.csv`, beside this file, names those that recorded DQN-Replay
(`recorded`: atari-py 0.2.5, whose ROMs its authors played; MD5s computed from its source package)
and, where they differ, the ROMs of ale-py 0.12.1 (`ale_py`): 30 of these 61 games, and Kaboom,
which has no recorded play; 23 of the 46 games of RLDS. Surround came after atari-py.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import ale_py
import ale_py.roms
from absl import logging

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.system.files import parse_json

_TRIAL_SECONDS = 10
_TRIAL = """
import ale_py, sys
ale = ale_py.ALEInterface()
ale.loadROM(sys.argv[1])
ale.reset_game()
for _ in range(60):
    ale.act(0)
"""


def rom_path(game: str, rom_dir: str | Path | None) -> Path:
    """The ROM file of a game: `<rom_dir>/<rom>.bin`, or ale-py's where `rom_dir` is None.

    Raises:
      UserError: where there is no ROM, or it is another game's, or it doesn't load.
    """
    path = locate(game, rom_dir)
    if rom_dir is not None and ale_py.ALEInterface.isSupportedROM(path) is None:
        _try(path)
    return path


def locate(game: str, rom_dir: str | Path | None) -> Path:
    """As `rom_path`, but doesn't try a file that ale-py doesn't know."""
    rom = games.spec(game).rom
    if rom_dir is None:
        if path := ale_py.roms.get_rom_path(rom):
            return Path(path)
        raise UserError(f"ale-py brings no ROM {rom!r} for {game}; put {rom}.bin in a rom_dir")
    path = Path(rom_dir) / f"{rom}.bin"
    if not path.is_file():
        raise UserError(f"no ROM for {game}: {path} doesn't exist; rom_dir must hold {rom}.bin")
    known = ale_py.ALEInterface.isSupportedROM(path)
    if known not in (None, rom):
        raise UserError(f"{path} is the ROM of {known!r}; {game} needs that of {rom!r}")
    return path


def md5(game: str, rom_dir: str | Path | None) -> str:
    """MD5, in hexadecimal, of the ROM that `locate` gives; errors as there."""
    return hashlib.md5(locate(game, rom_dir).read_bytes()).hexdigest()


@functools.cache
def md5_table() -> dict[str, dict[str, str]]:
    """The rows of `rom_md5.csv` by game."""
    with open(Path(__file__).with_name("rom_md5.csv")) as file:
        return {row["game"]: row for row in csv.DictReader(file)}


def recorded_md5(game: str, run: Path) -> str | None:
    """MD5 of the ROM that recorded a game's run, or None where it isn't known.

    What `python -m cql_atari.collect` played says so in `<run>/episodes.jsonl`; anything else is
    taken for DQN-Replay.
    """
    try:
        with open(run / "episodes.jsonl") as file:
            return parse_json(file.readline())["rom_md5"]
    except (OSError, ValueError, KeyError):
        return md5_table().get(game, {}).get("recorded")


class Recorded(Protocol):
    """The part of `settings.Data` that is used here: importing it would lengthen many chains."""

    @property
    def dir(self) -> str | None: ...

    @property
    def games(self) -> tuple[str, ...]: ...

    @property
    def runs(self) -> tuple[int, ...]: ...


def find_others(data: Recorded, rom_dir: str | Path | None) -> list[str]:
    """The games whose ROM isn't the one that recorded their data.

    Args:
      data: what a policy learns from. Where that isn't on this machine, it is taken for DQN-Replay.
      rom_dir: folder of the ROMs to be played; None: ale-py's own.

    Raises:
      UserError: as `locate`, for any of the games.
    """
    others = []
    for game in data.games:
        folder = Path(data.dir or "") / game
        recorded = {recorded_md5(game, folder / str(run)) for run in data.runs}
        if recorded - {md5(game, rom_dir), None}:
            others.append(game)
    return others


def warn_where_other(data: Recorded, rom_dir: str | Path | None) -> list[str]:
    """Tries every ROM; logs a warning that names `find_others`, and returns them."""
    for game in data.games:
        rom_path(game, rom_dir)
    if others := find_others(data, rom_dir):
        logging.warning(
            "%d of %d games are evaluated with other ROMs than recorded their data, which may cost "
            "score: %s. If you have the recorded ones (DQN-Replay: of atari-py 0.2.5), give their "
            "folder as evaluation.rom_dir.",
            len(others), len(data.games), ", ".join(others),
        )  # fmt: skip
    return others


@functools.cache
def _try(path: Path) -> None:
    command = [sys.executable, "-c", _TRIAL, str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_TRIAL_SECONDS)
    except subprocess.SubprocessError as error:
        raise UserError(f"{path} doesn't load as a ROM; is it the right file?") from error
