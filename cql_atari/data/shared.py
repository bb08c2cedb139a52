"""What the formats of recorded play share: names of folders, ranges, JSON, looks of frames."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import STACK, UserError

PathLike = str | os.PathLike[str]
Ranges = Sequence[tuple[int, int]]  # each [start, stop); of slots, episodes or steps
LeftOut = Mapping[int, Ranges]  # by suffix
Fingerprints = dict[str, list[int | str]]  # file name: [bytes, checksum in hexadecimal]
Report = Callable[[int], None]  # told how much was done since its last call

PADS = STACK - 1  # frames before an episode's first one that its first states need
LONGEST = 27_000  # steps of an episode at Dopamine's cap of 108,000 emulator frames
EVERYTHING = (0, 2**62)  # the range that leaves a whole suffix out
# Steps from which frames that show nothing or never change are no accident of the game: a second
# of play, over a minute.
_SECOND, _MINUTE = 16, 1_000
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")
# What taking the content of unknown JSON apart may raise.
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
    """The number that a name is, None where it isn't one: neither "01" nor "²" is."""
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


def find_runs(folder: Path, inside: str, games: Iterable[str]) -> list[Recording]:
    """Recordings `<root>/<Game>/<run>/<inside>`, of a folder at any of these levels.

    Of a known game a run's folder counts that is empty, too: its data are missing.

    Raises:
      UserError: where a folder can't be listed, or a symbolic link leads nowhere.
    """
    known = set(games)
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
    """What is implausible about the frames of an episode, and whether it is but a warning.

    Frames that never change may be play: an agent that never serves in Breakout sees such ones.

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
    """What `looks_wrong` takes of frames [T, 84, 84]."""
    flat = frames.reshape(len(frames), -1)
    return flat.max(axis=1) == flat.min(axis=1), (flat[1:] == flat[:-1]).all(axis=1)


def total_reward(rewards: np.ndarray, terminal: bool, starts: bool) -> float | None:
    """An episode's return; None where the recording holds only a part of the game."""
    return float(rewards.sum(dtype=np.float64)) if terminal and starts else None


def merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What the ranges hold, in ascending ranges that don't touch."""
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
