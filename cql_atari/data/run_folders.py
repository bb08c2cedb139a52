"""Recordings that lie in folders `<data_dir>/<Game>/<run>/<inside>`, for the formats that do so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data.shared import PathLike, Recording, list_folder, whole_number


def locate_run(inside: str, directory: PathLike, game: str, run: int) -> str | None:
    """The folder `<Game>/<run>/<inside>` below a data folder, if there is one."""
    folder = Path(directory) / game / str(run) / inside
    return str(folder) if folder.is_dir() else None


def find_runs(inside: str, folder: Path) -> list[Recording]:
    """Recordings `<root>/<Game>/<run>/<inside>`, in a folder at any of these levels.

    Raises:
      UserError: where a folder can't be listed, or a symbolic link leads nowhere.
    """
    found = find_runs_or_gaps(inside, folder)
    return [recording for recording in found if Path(recording.path).is_dir()]


def find_runs_or_gaps(inside: str, folder: Path) -> list[Recording]:
    """As `find_runs`, and also runs whose data are missing: a file is in the folder's place, or
    the run's folder is empty.
    """
    known = games.table()
    base = Path(os.path.abspath(folder))

    def runs_of(game: Path) -> Iterator[Path]:
        for name in list_folder(game):
            run = game / name
            if whole_number(name) is None or not run.is_dir():
                continue
            empty = game.name in known and not os.listdir(run)
            if os.path.lexists(run / inside) or empty:
                yield run / inside

    if base.name == inside and whole_number(base.parent.name) is not None:
        paths = [base]
    elif os.path.lexists(base / inside):
        paths = [base / inside]
    elif base.name in known:
        paths = list(runs_of(base))
    else:
        paths = []
        for name in list_folder(base):
            child = base / name
            if os.path.islink(child) and not child.exists():
                raise UserError(f"{child} is a symbolic link that leads nowhere; correct it.")
            if child.is_dir() and not name.startswith("."):
                paths += runs_of(child)
    return [
        Recording(path.parents[1].name, run, str(path), str(path.parents[2]))
        for path in paths
        if (run := whole_number(path.parent.name)) is not None
    ]
