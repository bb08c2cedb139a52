"""Reads packed play as episodes, in order; `feed/packed.py` reads it in any order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE, Episode, Extent, UserError
from cql_atari.data.packed.files import FIX, SEGMENT_STEPS, Index, decompress, read_index
from cql_atari.data.shared import PathLike, Ranges, first_part
from cql_atari.data.steps import Steps
from cql_atari.data.untrusted import blaming


def read_suffix(
    directory: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> Iterator[Episode]:
    """Streams the episodes of one suffix; holds one of them.

    Args:
      directory: the folder of the packed files.
      game: CamelCase name.
      suffix: K.
      fraction: the share of the steps, from the first one on; an episode that is cut by it counts
        as one that the recording cut.
      gaps: see `select`.

    Raises:
      UserError: for a missing or damaged file, when it is reached.
    """
    for file, index, first, whole, extent in _selected(directory, game, suffix, fraction, gaps):
        # No variable may keep an episode while the next is read.
        yield _read(file, index, first, whole, game=game, extent=extent)


def survey(
    directory: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> list[Extent]:
    """The extents of the episodes that `read_suffix` yields; reads the index only."""
    games.spec(game)
    return select(directory, suffix, fraction, gaps)[1]


def count(
    directory: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> list[Extent]:
    """As `survey`, with the returns of whole games, which are read from their first segments."""
    counted = []
    for file, index, first, whole, extent in _selected(directory, game, suffix, fraction, gaps):
        total = None
        if extent.terminal and extent.starts:
            total = 0.0  # of a game without steps, which has no segment
            if whole:
                total = float(_segment(file, index, first, min(SEGMENT_STEPS, whole)).returns[0])
        counted.append(extent._replace(total=total))
    return counted


def check_segments(index: Index) -> Iterator[tuple[int, int, str]]:
    """Of each segment: the number of its first step in the suffix, its bytes, what is wrong or "".

    Raises:
      UserError: where the file can't be read.
    """
    number = before = 0
    with blaming(index.segments, fix=FIX), open(index.segments, "rb") as file:
        for extent in index.extents:
            for begin in range(0, extent.steps, SEGMENT_STEPS):
                problem = ""
                try:
                    _segment(file, index, number, min(SEGMENT_STEPS, extent.steps - begin))
                except UserError as error:
                    problem = str(error)
                yield before + begin, int(index.lengths[number]), problem
                number += 1
            before += extent.steps


def select(
    directory: PathLike, suffix: int, fraction: float, gaps: Ranges
) -> tuple[Index, list[Extent]]:
    """A suffix's index, and the extents of what is selected: the first of its episodes.

    Args:
      directory: the folder of the packed files.
      suffix: K.
      fraction: the share of the steps, from the first one on.
      gaps: what `data.exclude` leaves out, in slots or episodes of the source. It must be what was
        left out when the suffix was packed.

    Raises:
      UserError: as `read_index`, or where something else was left out when it was packed.
    """
    index = read_index(directory, suffix)
    wanted = [list(map(int, each)) for each in gaps]
    if wanted and wanted != index.source["left_out"]:
        raise UserError(
            f"{index.segments} was packed without {index.source['left_out']}, and data.exclude "
            f"names {wanted}. Set data.exclude to None, or pack it again with --exclude."
        )
    left = first_part(sum(extent.steps for extent in index.extents), fraction)
    kept = []
    for extent in index.extents:
        if left <= 0:
            break
        cut = extent.steps > left
        kept.append(Extent(left, False, extent.starts) if cut else extent)
        left -= extent.steps
    return index, kept


def _selected(
    directory: PathLike, game: str, suffix: int, fraction: float, gaps: Ranges
) -> Iterator[tuple[BinaryIO, Index, int, int, Extent]]:
    """Of each episode that is selected: the open file of its segments, the index, the number of its
    first segment, its steps as it was packed, and its extent.
    """
    games.spec(game)
    index, kept = select(directory, suffix, fraction, gaps)
    with open(index.segments, "rb") as file:
        first = 0
        for whole, extent in zip(index.extents, kept):
            yield file, index, first, whole.steps, extent
            first += -(-whole.steps // SEGMENT_STEPS)


def _read(
    file: BinaryIO, index: Index, first: int, whole: int, *, game: str, extent: Extent
) -> Episode:
    """The first `extent.steps` of an episode of `whole` steps; `first` is its first segment."""
    frames = np.empty((extent.steps, *FRAME_SHAPE), np.uint8)
    actions = np.empty(extent.steps, np.int32)
    rewards = np.empty(extent.steps, np.float32)
    for begin in range(0, extent.steps, SEGMENT_STEPS):
        steps = min(SEGMENT_STEPS, whole - begin)
        found = _segment(file, index, first + begin // SEGMENT_STEPS, steps)
        wanted = min(steps, extent.steps - begin)
        here = slice(begin, begin + wanted)
        frames[here] = found.frames[:wanted]
        actions[here] = found.actions[:wanted]
        rewards[here] = found.rewards[:wanted]
    return Episode(game, frames, actions, rewards, extent.terminal, extent.starts)


def _segment(file: BinaryIO, index: Index, number: int, steps: int) -> Steps:
    """A segment's `steps` steps."""
    file.seek(index.offsets[number])
    packed = file.read(index.lengths[number])
    return decompress(packed, index.checksums[number], steps, index.segments)
