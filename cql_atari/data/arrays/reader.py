"""Reads play that is stored as plain arrays as episodes, streaming; `files.py` says what they are.

Memory is one episode (at most 27,003 steps = 191 MB; a longer one is cut there and goes on as a
fragment) beside those that the caller holds, and some 15 bytes a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import Episode, Extent, UserError
from cql_atari.data.arrays import files
from cql_atari.data.arrays.columns import Columns, find_wrong
from cql_atari.data.arrays.files import Rows, segments
from cql_atari.data.remote_file import FIX
from cql_atari.data.shared import (
    EVERYTHING,
    LeftOut,
    PathLike,
    Ranges,
    kept_ranges,
)


def read_episodes(
    path: PathLike,
    game: str,
    suffixes: Sequence[int] | None = None,
    *,
    fraction: float = 1.0,
    left_out: LeftOut | None = None,
) -> Iterator[Episode]:
    """Streams the episodes of one game's run, suffix after suffix.

    The checksum of an archive is verified once its last step has been read, so episodes before may
    be wrong where it is damaged; folders of `.npy` files have none.

    Args:
      path: the folder of the suffixes, `<data_dir>/<Game>/<run>/arrays`.
      game: CamelCase name; it must be the one that the files name.
      suffixes: which to read, in this order; all, in numerical order, if None.
      fraction: the share of each suffix's steps, from its first on (0 < fraction <= 1).
      left_out: steps to pass over unchecked. An episode is cut where they begin; what comes after
        them goes on as a fragment.

    Returns:
      An iterator over episodes. The folder, the game and the suffixes are checked at once, the
      rest when reached.

    Raises:
      UserError: naming the file and the array: a missing or damaged one; another dtype, shape or
        length; play of another game; an action that the game doesn't have, a reward that is NaN or
        outside [-1, 1], a flag other than 0 and 1.
    """
    games.spec(game)
    chosen = files.choose_suffixes(path, suffixes)

    def stream() -> Iterator[Episode]:
        for suffix in chosen:
            gaps = (left_out or {}).get(suffix, ())
            if EVERYTHING in gaps:
                continue
            with files.open_suffix(path, game, suffix) as (columns, frames):
                kept = _check(path, suffix, columns, fraction, gaps)
                yield from _read(game, columns, frames, kept)

    return stream()


def survey(
    path: PathLike,
    game: str,
    suffix: int,
    *,
    fraction: float = 1.0,
    left_out: LeftOut | None = None,
) -> list[Extent]:
    """The extents of the episodes that `read_episodes` yields of one suffix; reads no frame.

    For arguments and errors see `read_episodes`.
    """
    files.choose_suffixes(path, [suffix])
    gaps = (left_out or {}).get(suffix, ())
    if EVERYTHING in gaps:
        return []
    with files.open_suffix(path, game, suffix) as (columns, _):
        kept = _check(path, suffix, columns, fraction, gaps)
        return [extent for _, extent in segments(columns, kept)]


def _check(
    path: PathLike, suffix: int, columns: Columns, fraction: float, gaps: Ranges
) -> list[tuple[int, int]]:
    """The ranges of steps to read, every value in them checked."""
    kept = kept_ranges(len(columns.actions), fraction, gaps)
    for start, stop in kept:
        for _, text in find_wrong(columns, start, stop):
            raise UserError(f"{files.suffix_path(path, suffix)}: {text} {FIX}")
    return kept


def _read(game: str, columns: Columns, frames: Rows, kept: Ranges) -> Iterator[Episode]:
    def read(segment: tuple[int, Extent]) -> Episode:
        start, extent = segment
        here = slice(start, start + extent.steps)
        return Episode(
            game=game,
            frames=frames.read(here.start, here.stop),
            actions=columns.lookup[columns.actions[here]],
            rewards=columns.rewards[here].astype(np.float32),
            terminal=extent.terminal,
            starts=extent.starts,
        )

    # Not a loop: its variable would keep an episode alive while the next is read.
    yield from map(read, segments(columns, kept))
    if kept and kept[-1][1] == len(columns.actions):
        frames.finish()
