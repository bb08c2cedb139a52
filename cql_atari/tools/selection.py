"""The recorded play that the flags of `convert` and `pack` select."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cql_atari.core import games
from cql_atari.core.settings import Data
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.format import Source
from cql_atari.data.shared import PathLike


def select_sources(
    data_dir: PathLike,
    out_dir: Path,
    names: Sequence[str] = (),
    *,
    runs: Sequence[int] = (),
    suffixes: Sequence[int] = (),
    exclude: str | None = None,
) -> list[Source]:
    """The sources in the order of games and runs; an empty list selects all there are.

    Args:
      data_dir: the data folder; or its address, of which games and runs must be named.
      out_dir: the folder to write to; it must be another one.
      names: of games; all: those that have the first run that is asked for.
      runs: their numbers.
      suffixes: their numbers.
      exclude: as `data.exclude`.

    Raises:
      UserError: as `sources.find_sources`; where there is no recorded play, or the folders are one.
    """
    for name in names:
        games.spec(name)
    data_dir = os.fspath(data_dir)  # no Path of it: that would take an address for a folder
    if "://" in data_dir:
        if not names or not runs:
            raise UserError(
                f"what there is in --data_dir={data_dir} can't be listed: give --games and --runs."
            )
    elif out_dir.resolve() == Path(data_dir).resolve():
        raise UserError(f"--out_dir={out_dir} is --data_dir, too; give a folder of its own.")
    there: dict[str, set[int]] = {}
    if not names or not runs:
        for _, recording in sources.recordings(Path(data_dir)):
            if recording.root == os.path.abspath(data_dir):
                there.setdefault(recording.game, set()).add(recording.run)
        names = names or sorted(game for game in there if not runs or runs[0] in there[game])
    if not names:
        of_run = f" of run {runs[0]}" if runs else ""
        raise UserError(
            f"no recorded play{of_run} in --data_dir={data_dir}. Expected:\n     "
            + sources.layouts()
        )
    found: list[Source] = []
    for game in names:
        found += sources.find_sources(
            Data(
                dir=data_dir,
                games=(game,),
                runs=tuple(runs or sorted(there.get(game, {1}))),
                suffixes=tuple(suffixes) or None,
                exclude=exclude,
            )
        )
    return found


def count_steps(source: Source, suffix: int) -> int:
    """Steps of a suffix, for the line of progress; 0 where counting would take reading."""
    return sum(extent.steps for extent in sources.survey(source, suffix) or ())
