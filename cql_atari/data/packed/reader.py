"""Reads packed play as episodes, in order; `cql_atari.feed.packed` reads it in any order."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE, Episode, Extent, UserError
from cql_atari.data.packed.files import (
    SEGMENT_STEPS,
    Index,
    Steps,
    decompress,
    fingerprints,
    list_suffixes,
    read_index,
)

__all__ = ["count", "fingerprints", "list_suffixes", "read_episodes", "select", "survey"]

PathLike = str | os.PathLike[str]
LeftOut = Mapping[int, Sequence[tuple[int, int]]]


def read_episodes(
    directory: PathLike,
    game: str,
    suffixes: Sequence[int] | None = None,
    *,
    fraction: float = 1.0,
    left_out: LeftOut | None = None,
) -> Iterator[Episode]:
    """Streams the episodes of one game's run, suffix after suffix; holds one of them.

    Args:
      directory: that of the packed files.
      game: CamelCase name.
      suffixes: which to read, in this order; all, in numerical order, if None.
      fraction: the share of each suffix's steps, from its first on; the episode that it cuts
        counts as one that the recording cut.
      left_out: as `select`.

    Raises:
      UserError: for a missing or damaged file, when it is reached.
    """
    games.spec(game)

    def stream() -> Iterator[Episode]:
        for suffix in list_suffixes(directory) if suffixes is None else suffixes:
            index, kept = select(directory, suffix, fraction=fraction, left_out=left_out)
            with open(index.segments, "rb") as file:
                first = 0
                # Not a loop over episodes: its variable would keep one while the next is read.
                for whole, extent in zip(index.extents, kept):
                    yield _read(file, index, first, whole.steps, game=game, extent=extent)
                    first += -(-whole.steps // SEGMENT_STEPS)

    return stream()


def survey(
    directory: PathLike,
    game: str,
    suffix: int,
    *,
    fraction: float = 1.0,
    left_out: LeftOut | None = None,
) -> list[Extent]:
    """The extents of the episodes that `read_episodes` yields of one suffix; reads its index."""
    games.spec(game)
    return select(directory, suffix, fraction=fraction, left_out=left_out)[1]


def count(
    directory: PathLike,
    game: str,
    suffix: int,
    *,
    fraction: float = 1.0,
    left_out: LeftOut | None = None,
) -> list[Extent]:
    """As `survey`, with the returns of whole games, which stand in their first segments."""
    games.spec(game)
    index, kept = select(directory, suffix, fraction=fraction, left_out=left_out)
    counted, first = [], 0
    with open(index.segments, "rb") as file:
        for whole, extent in zip(index.extents, kept):
            total = None
            if extent.terminal and extent.starts:
                total = 0.0  # that of a game of no step, which has no segment
                if whole.steps:
                    steps = _segment(file, index, first, min(SEGMENT_STEPS, whole.steps))
                    total = float(steps.returns[0])
            counted.append(extent._replace(total=total))
            first += -(-whole.steps // SEGMENT_STEPS)
    return counted


def select(
    directory: PathLike, suffix: int, *, fraction: float = 1.0, left_out: LeftOut | None = None
) -> tuple[Index, list[Extent]]:
    """A suffix's index, and the extents of what is selected: the first of its episodes.

    Args:
      directory: that of the packed files.
      suffix: which.
      fraction: the share of its steps, from the first on.
      left_out: what `data.exclude` leaves out, which names slots or episodes of the source.

    Raises:
      UserError: as `read_index`, or where something else was left out when it was packed.
    """
    index = read_index(directory, suffix)
    wanted = [list(map(int, each)) for each in (left_out or {}).get(suffix, ())]
    if wanted and wanted != index.source["left_out"]:
        raise UserError(
            f"{index.segments} was packed without {index.source['left_out']}, and data.exclude "
            f"names {wanted}. Set data.exclude to None, or pack it again with --exclude."
        )
    # Rounded first: 0.07 of 100 is 7, not the 7.000000000000001 that floats make of it.
    left = math.ceil(round(sum(extent.steps for extent in index.extents) * fraction, 6))
    kept = []
    for extent in index.extents:
        if left <= 0:
            break
        cut = extent.steps > left
        kept.append(Extent(left, False, extent.starts) if cut else extent)
        left -= extent.steps
    return index, kept


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
    file.seek(index.starts[number])
    packed = file.read(index.lengths[number])
    return decompress(packed, index.checksums[number], steps, index.segments)
