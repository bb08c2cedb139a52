"""Finds a game's ROM: ale-py's own, or a file of the user's that is known to load.

ALE ends the process where a ROM is missing or no cartridge, and may never return from a file of the
right size that is none. So files that it doesn't know are tried in a process apart. Among these are
older versions of the ROMs, which collected part of DQN-Replay.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import ale_py
import ale_py.roms

from cql_atari import games
from cql_atari.types import UserError

_TRIAL_SECONDS = 10
_TRIAL = """
import ale_py, sys
ale = ale_py.ALEInterface()
ale.loadROM(sys.argv[1])
ale.reset_game()
for _ in range(60):
    ale.act(0)
"""


def find(game: str, rom_dir: str | Path | None) -> Path:
    """The ROM file of a game: `<rom_dir>/<rom>.bin`, or ale-py's where `rom_dir` is None.

    Raises:
      UserError: where there is none, or it is another game's, or it doesn't load.
    """
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
    if known is None:
        _try(path)
    return path


@functools.cache
def _try(path: Path) -> None:
    command = [sys.executable, "-c", _TRIAL, str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_TRIAL_SECONDS)
    except subprocess.SubprocessError as error:
        raise UserError(f"{path} doesn't load as a ROM; is it the right file?") from error
