"""Reads play that is stored as plain arrays as episodes, streaming; see `files.py` for the layout.

Memory is one episode (at most 27,003 steps = 191 MB; a longer one is cut there and goes on as a
fragment) beside those that the caller holds, and some 15 bytes a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cql_atari.core.types import Episode, Extent, UserError
from cql_atari.data.arrays import files
from cql_atari.data.arrays.columns import Columns, find_wrong
from cql_atari.data.shared import PathLike, Ranges, kept_ranges
from cql_atari.data.untrusted import FIX


def read_suffix(
    path: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> Iterator[Episode]:
    """Streams the episodes of one suffix.

    The checksum of an archive is verified once its last step has been read, so episodes before may
    be wrong where it is damaged; folders of `.npy` files have none.

    Args:
      path: the folder of the suffixes, `<data_dir>/<Game>/<run>/arrays`.
      game: CamelCase name; it must be the one that the files name.
      suffix: K.
      fraction: the share of the steps, from the first one on (0 < fraction <= 1).
      gaps: steps to pass over unchecked. An episode is cut where a gap begins; what comes after the
        gap goes on as a fragment.

    Raises:
      UserError: naming the file and the array: a missing or damaged one; another dtype, shape or
        length; play of another game; an action that the game doesn't have, a reward that is NaN or
        outside [-1, 1], a flag other than 0 and 1.
    """
    with files.open_suffix(path, game, suffix) as (columns, frames):
        kept = _check(path, suffix, columns, fraction, gaps)

        def read(span: tuple[int, Extent]) -> Episode:
            start, extent = span
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
        yield from map(read, files.spans(columns, kept))
        if kept and kept[-1][1] == len(columns.actions):
            frames.finish()


def survey(
    path: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> list[Extent]:
    """The extents of the episodes that `read_suffix` yields; reads no frame.

    For arguments and errors see `read_suffix`.
    """
    with files.open_suffix(path, game, suffix) as (columns, _):
        kept = _check(path, suffix, columns, fraction, gaps)
        return [extent for _, extent in files.spans(columns, kept)]


def _check(
    path: PathLike, suffix: int, columns: Columns, fraction: float, gaps: Ranges
) -> list[tuple[int, int]]:
    """The ranges of steps to read, every value in them checked."""
    kept = kept_ranges(len(columns.actions), fraction, gaps)
    for start, stop in kept:
        for _, text in find_wrong(columns, start, stop):
            raise UserError(f"{files.suffix_path(path, suffix)}: {text} {FIX}")
    return kept
