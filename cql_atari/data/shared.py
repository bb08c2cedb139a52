"""What the formats of recorded play share: folders, ranges, returns, implausible frames."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import FRAME_SKIP, MAX_FRAMES, STACK, Episode, Extent, UserError

PathLike = str | os.PathLike[str]
Ranges = Sequence[tuple[int, int]]  # each [start, stop); of slots, episodes or steps
Fingerprints = dict[str, list[int | str]]  # file name: [bytes, checksum in hexadecimal]
Report = Callable[[int], None]  # called with how much was done since its last call

PADS = STACK - 1  # frames before an episode's first one that its first states need
LONGEST = MAX_FRAMES // FRAME_SKIP  # steps of an episode that was cut at Dopamine's cap: 27,000
EVERYTHING = (0, 2**62)  # the range that leaves a whole suffix out
# Episodes with at least so many steps are implausible if their frames show nothing or never change:
# a second of play, and a bit over a minute.
_SECOND, _MINUTE = 16, 1_000
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")
# What reading JSON of unknown content may raise.
BAD_JSON = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


class Recording(NamedTuple):
    """A folder with one run of one game; it may be incomplete or broken.

    Attributes:
      game: CamelCase name.
      run: number of the run.
      path: its folder, as the format's other functions take it.
      root: the folder that `data.dir` must be for this recording to be found.
    """

    game: str
    run: int
    path: str
    root: str


def whole_number(name: str) -> int | None:
    """The number that a name writes; None for other names, also for "01" and "²"."""
    return int(name) if _NUMBER.fullmatch(name) else None


def list_folder(directory: Path) -> list[str]:
    """What a folder holds, short names first, so that 2 comes before 10.

    Raises:
      UserError: where it can't be listed.
    """
    try:
        return sorted(os.listdir(directory), key=lambda name: (len(name), name))
    except OSError as error:
        raise UserError(f"cannot list {directory}: {error.strerror}.") from error


def size_of(path: PathLike) -> int:
    """Bytes of a local file; 0 where there is none."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def first_part(number: int, fraction: float) -> int:
    """How many of `number` things make up the first `fraction` of them, rounded up."""
    # Rounded first: 0.07 of 100 is 7, not the 7.000000000000001 that floats make of it.
    return math.ceil(round(number * fraction, 6))


def kept_ranges(number: int, fraction: float, gaps: Ranges) -> list[tuple[int, int]]:
    """The ranges [start, stop) of the first part of `number` things, without the gaps."""
    kept, start, end = [], 0, first_part(number, fraction)
    for low, high in [*sorted(gaps), (end, end)]:
        if start < min(low, end):
            kept.append((start, min(low, end)))
        start = max(start, high)
    return kept


def looks_wrong(blank: np.ndarray, still: np.ndarray, whole: bool) -> tuple[str, bool] | None:
    """(what is implausible about an episode's frames, whether it is only a warning), or None.

    Frames that never change may be real: an agent that never serves in Breakout sees such ones.

    Args:
      blank: bool [T], whether a frame is of one colour.
      still: bool [T - 1], whether a frame, from the second on, equals the one before.
      whole: whether the recording holds the episode from its start to the game's end.
    """
    if len(blank) >= (1 if whole else _SECOND) and blank.all():
        return "of one colour", False
    if len(blank) >= (_SECOND if whole else _MINUTE) and still.all():
        return "the same", True
    return None


def blank_and_still(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The arguments of `looks_wrong` for frames [T, 84, 84]."""
    flat = frames.reshape(len(frames), -1)
    return flat.max(axis=1) == flat.min(axis=1), (flat[1:] == flat[:-1]).all(axis=1)


def total_reward(rewards: np.ndarray, terminal: bool, starts: bool) -> float | None:
    """An episode's return; None where the recording holds only a part of the game."""
    return float(rewards.sum(dtype=np.float64)) if terminal and starts else None


def extent_of(episode: Episode) -> Extent:
    """An episode's extent, with its return."""
    terminal, starts = bool(episode.terminal), bool(episode.starts)
    return Extent(
        len(episode.frames), terminal, starts, total_reward(episode.rewards, terminal, starts)
    )


def merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of the ranges, as ascending ranges that don't touch."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged


def pieces(bounds: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """[start, stop) between neighbouring bounds, cut where one is longer than `longest`."""
    for start, stop in itertools.pairwise(bounds):
        for first in range(start, stop, longest):
            yield first, min(first + longest, stop)
