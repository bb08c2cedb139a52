"""What a format of recorded play must offer, and what the formats share.

A format is a folder beside this file and one entry in `sources.FORMATS`; nothing else asks which
formats there are. A *recording* is one run of one game; it consists of *suffixes*, numbered parts
that are read, surveyed and left out by themselves.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from cql_atari.core.types import STACK, Episode, Extent, UserError

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
_JSON_LIMIT = 1 << 26  # bytes; the extents of 50 suffixes take about one million
# What taking unknown JSON apart may raise, and what `json` itself does for deep nesting.
BAD_JSON = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


class Recording(NamedTuple):
    """One run of one game that lies somewhere; it may be incomplete or broken.

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


class Problem(NamedTuple):
    """What is wrong with a file, or merely strange.

    Attributes:
      entry: the first bad one; None where the damage tells no place.
      text: what was found and what was expected.
      is_warning: whether it may be sound nevertheless; nothing is left out for it.
    """

    entry: int | None
    text: str
    is_warning: bool = False


class FileCheck(NamedTuple):
    """What came out for one file.

    Attributes:
      path: the file.
      entries: its length; None where it can't be told.
      problems: in no order; none if the file is sound.
    """

    path: Path
    entries: int | None
    problems: tuple[Problem, ...]

    @property
    def is_wrong(self) -> bool:
        return not all(problem.is_warning for problem in self.problems)


class SuffixCheck(NamedTuple):
    """What came out for one suffix.

    Attributes:
      files: one for each file that is or should be there.
      left_out: ranges [start, stop) that the reader must leave out, in the format's own unit.
    """

    files: list[FileCheck]
    left_out: list[tuple[int, int]]


class Read(Protocol):
    def __call__(
        self,
        path: PathLike,
        game: str,
        suffixes: Sequence[int] | None = None,
        /,
        *,
        fraction: float = 1.0,
        left_out: LeftOut | None = None,
    ) -> Iterator[Episode]: ...


class Survey(Protocol):
    def __call__(
        self,
        path: PathLike,
        game: str,
        suffix: int,
        /,
        *,
        fraction: float = 1.0,
        left_out: LeftOut | None = None,
    ) -> list[Extent] | None: ...


class Write(Protocol):
    def __call__(
        self,
        folder: Path,
        partial: Path,
        *,
        game: str,
        run: int,
        suffix: int,
        episodes: Iterable[Episode],
        source: Mapping[str, Any],
        report: Report,
    ) -> list[Extent]: ...


class Writing(NamedTuple):
    """How `tools.convert` writes a format.

    Attributes:
      folder: (out_dir, game, run) -> the recording's folder.
      suffixes_there: which suffixes such a folder holds whole; none where it isn't there.
      write: adds a suffix of episodes; it is there whole or not at all, and noted in
        `conversion.json` with the fingerprints of what it was made of. `partial` is an empty
        folder on the same disk for unfinished files.
    """

    folder: Callable[[Path, str, int], Path]
    suffixes_there: Callable[[Path], list[int]]
    write: Write


@dataclass(frozen=True)
class Format:
    """One way in which recorded play lies on disk.

    Attributes:
      name: as tables and manifests show it.
      layout: what is expected below `data.dir`, for messages.
      locate: (data_dir, game, run) -> the recording's path, None where there is none.
      find: the recordings in a local folder, which may be a data folder, a recording or in between.
      list_suffixes: of a recording, in numerical order; there is at least one.
      read_episodes: streams the episodes; `fraction` is the first part of each suffix, `left_out`
        what `check_suffix` says. All else is refused: what doesn't raise a UserError is sound.
      survey: the extents of the episodes that `read_episodes` yields of one suffix, with their
        returns, without reading it; None where that can't be done.
      count: the same by reading, if need be.
      fingerprints: size and checksum of each of a suffix's files, without reading them whole.
      total_bytes: the work of `check_suffix`.
      check_suffix: checks one suffix without stopping at the first problem.
      writing: how it is written; None where it can't be.
    """

    name: str
    layout: str
    locate: Callable[[str, str, int], str | None]
    find: Callable[[Path], list[Recording]]
    list_suffixes: Callable[[PathLike], list[int]]
    read_episodes: Read
    survey: Survey
    count: Survey
    fingerprints: Callable[[PathLike, int], Fingerprints]
    total_bytes: Callable[[Path, int], int]
    check_suffix: Callable[[Path, str, int, Report], SuffixCheck]
    writing: Writing | None = None


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


def parse_json(data: bytes) -> Any:
    """What JSON text holds; raises one of `BAD_JSON` for anything else, however long or deep."""
    if len(data) > _JSON_LIMIT:
        raise ValueError(f"it has {len(data):,} bytes")
    return json.loads(data)


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
