"""Checks DQN-Replay files without stopping at the first problem, and says what to leave out.

Each file is read to its end, in bounded memory, every value held against what the reader demands.
Left out is the least that lets the reader pass and is safe:

* a file that is missing, damaged or of another form: its whole suffix, as a checksum doesn't say
  where the damage is;
* observations that are merely cut (an unfinished copy): what lies behind the last whole frame, with
  a small margin, as the decoder reads ahead. The frames before the cut stand without a checksum;
* wrong values, missing padding, implausible frames: the episodes that hold them. Where padding is
  missing, the episode before it too: its end may be the mistake.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data.dopamine import files as replay_files
from cql_atari.data.dopamine import frame_scan
from cql_atari.data.dopamine.frame_scan import OBSERVATION, Frames
from cql_atari.data.dopamine.gzip_array import GzipArray
from cql_atari.data.dopamine.reader import EVERYTHING, PADS

_COLUMNS = ACTION, REWARD, TERMINAL = "$store$_action", "$store$_reward", "$store$_terminal"
_MARGIN = 2  # frames; the decoder reads up to 8 KiB ahead of what it is asked for
# Steps from which frames that show nothing or never change are no accident of the game: a second
# of play, over a minute.
_SECOND, _MINUTE = 16, 1_000

T = TypeVar("T")


class Problem(NamedTuple):
    """What is wrong with a file.

    Attributes:
      entry: the first bad one; None where the damage tells no place.
      text: what was found and what was expected.
    """

    entry: int | None
    text: str


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


class SuffixCheck(NamedTuple):
    """What came out for one suffix.

    Attributes:
      files: one for each file that is or should be there.
      left_out: ranges [start, stop) of slots (RLDS: episodes) that the reader must leave out.
    """

    files: list[FileCheck]
    left_out: list[tuple[int, int]]


class _Problems(dict[str, list[Problem]]):
    """Problems by the name of the file, as they are found."""

    def add(self, name: str, entry: int | None, text: str) -> None:
        self.setdefault(name, []).append(Problem(entry, text))

    def catch(self, name: str, call: Callable[[], T]) -> T | None:
        """What `call` returns; None where it raises a UserError, which becomes a problem."""
        try:
            return call()
        except UserError as error:
            self.add(name, None, str(error))
            return None


def total_bytes(directory: Path, suffix: int) -> int:
    """Size of a suffix's observation file, 0 if there is none: the work of `check_suffix`."""
    try:
        return os.path.getsize(_path(directory, OBSERVATION, suffix))
    except OSError:
        return 0


def check_suffix(
    directory: Path, game: str, suffix: int, report: Callable[[int], None]
) -> SuffixCheck:
    """Checks one file group of `<Game>/<run>/replay_logs`; some 30 bytes of memory a slot.

    Args:
      directory: where the files are.
      game: CamelCase name; actions must be in its minimal set.
      suffix: K of `_ckpt.K.gz`.
      report: called now and then with the bytes of the observation file read since the last call.
    """
    problems = _Problems()
    paths = {name: _path(directory, name, suffix) for name in replay_files.LAYOUT}
    with contextlib.ExitStack() as stack:
        files = {}
        for name, layout in replay_files.LAYOUT.items():
            file = problems.catch(name, functools.partial(GzipArray, paths[name], *layout))
            if file is not None:
                files[name] = file
                stack.callback(file.close)
        slots = _compare_lengths(files, problems)
        readable = {n: f for n, f in files.items() if n not in problems and n != OBSERVATION}
        read = {name: problems.catch(name, file.read_all) for name, file in readable.items()}
        frames = None
        if OBSERVATION not in problems:
            scan = functools.partial(frame_scan.scan, files[OBSERVATION], report)
            frames = problems.catch(OBSERVATION, scan)
    lengths = {name: math.prod(file.shape[:1]) for name, file in files.items()}
    valid = _count_valid(read.get("add_count"), slots, problems)
    columns = {n: array[:valid] for n in _COLUMNS if (array := read.get(n)) is not None}
    ends = np.flatnonzero(columns.get(TERMINAL, ()))
    seventh = _path(directory, replay_files.ENDS, suffix)
    if os.path.lexists(seventh):
        find = functools.partial(replay_files.read_unmarked_ends, seventh, valid)
        paths[replay_files.ENDS] = seventh
        if (unmarked := problems.catch(replay_files.ENDS, find)) is not None:
            lengths[replay_files.ENDS] = len(unmarked)
            ends = np.union1d(ends, unmarked)
    left_out = [EVERYTHING] if problems else []
    if frames is not None and frames.error is not None:
        left_out.append(_judge_damage(frames, valid, problems))
    wrong = [
        *_check_values(columns, len(games.to_full_actions(game)), problems),
        *_check_padding(columns, frames, ends, valid, problems),
        *_check_frames(frames, ends, valid, problems),
    ]
    left_out += _episodes_around(np.concatenate([[], *wrong]).astype(np.int64), ends, valid)
    checks = [FileCheck(p, lengths.get(n), tuple(problems.get(n, ()))) for n, p in paths.items()]
    return SuffixCheck(checks, merge(left_out))


def _path(directory: Path, name: str, suffix: int) -> Path:
    return directory / f"{name}_ckpt.{suffix}.gz"


def _compare_lengths(files: Mapping[str, GzipArray], problems: _Problems) -> int:
    """The slots of the group, as most of its files have it; the others get a problem."""
    lengths = {name: file.shape[0] for name, file in files.items() if name.startswith("$")}
    ((slots, _),) = collections.Counter(lengths.values()).most_common(1) or [(0, 0)]
    for name, length in lengths.items():
        if length != slots:
            text = f"it has {length} entries; others of its suffix have {slots}."
            problems.add(name, min(length, slots), text)
    ranges = files.get("invalid_range")
    if ranges is not None and slots and ranges.shape[0] > slots:
        text = f"it has {ranges.shape[0]} entries, more than the {slots} slots it is about."
        problems.add("invalid_range", slots, text)
    return slots


def _count_valid(add_count: np.ndarray | None, slots: int, problems: _Problems) -> int:
    """Slots [0, result) are valid, so their values count; none if that can't be told."""
    if add_count is None or not slots:
        return 0
    count = int(add_count)
    if count < 0:
        problems.add("add_count", 0, f"it holds {count}; expected a count.")
        return 0
    return slots if count and count % slots == 0 else count % slots


def _judge_damage(frames: Frames, valid: int, problems: _Problems) -> tuple[int, int]:
    """Notes what ended the reading; returns what to leave out for it."""
    assert frames.error is not None
    slots = len(frames.zero)
    if not frames.cut:
        cause = frames.error.__cause__
        nowhere = cause is None or isinstance(cause, OSError)  # a checksum tells no place
        problems.add(OBSERVATION, None if nowhere else frames.read, str(frames.error))
        return EVERYTHING
    text = f"it is cut: {frames.read} of {slots} frames are whole. Copy it again."
    problems.add(OBSERVATION, min(frames.read, slots - 1), text)
    # At least one valid slot, as a reader of all of them also reads on to the checksum.
    return max(min(frames.read - _MARGIN, valid - 1), 0), EVERYTHING[1]


def _check_values(
    columns: Mapping[str, np.ndarray], num_actions: int, problems: _Problems
) -> Iterator[np.ndarray]:
    """Notes actions, rewards and terminals that are none; yields where they are."""
    wrong: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
        ACTION: (lambda x: (x < 0) | (x >= num_actions), f"an index from 0 to {num_actions - 1}"),
        REWARD: (lambda x: ~(np.abs(x) <= 1), "a clipped reward in [-1, 1]"),
        TERMINAL: (lambda x: x > 1, "0 or 1"),
    }
    for name, values in columns.items():
        is_wrong, expected = wrong[name]
        found = np.flatnonzero(is_wrong(values))
        if found.size:
            first = found[0]
            text = f"entry {first} is {values[first]} ({found.size} such); expected {expected}."
            problems.add(name, int(first), text)
            yield found


def _check_padding(
    columns: Mapping[str, np.ndarray],
    frames: Frames | None,
    ends: np.ndarray,
    valid: int,
    problems: _Problems,
) -> Iterator[np.ndarray]:
    """Notes steps where padding must be; yields where they are and the ends before them."""
    pads = np.unique(ends[:, None] + np.arange(1, 1 + PADS))
    pads = pads[pads < valid]
    filled = {name: pads[values[pads] != 0] for name, values in columns.items()}
    if frames is not None:
        read = pads[pads < frames.read]
        filled[OBSERVATION] = read[~frames.zero[read]]
    for name, found in filled.items():
        if found.size:
            text = f"entry {found[0]} is a step ({found.size} such); expected all-zero padding, "
            text += f"{PADS} entries after an episode's end."
            problems.add(name, int(found[0]), text)
            yield found
            yield ends[np.searchsorted(ends, found) - 1]


def _check_frames(
    frames: Frames | None, ends: np.ndarray, valid: int, problems: _Problems
) -> Iterator[np.ndarray]:
    """Notes episodes that show nothing or never change; yields where they begin."""
    if frames is None:
        return
    found = []
    bounds = [0, *(ends + 1).tolist(), valid]
    for k, (start, stop) in enumerate(itertools.pairwise(bounds)):
        first, last = start + (PADS if start else 0), min(stop, frames.read)
        whole = 0 < k < len(ends) and last == stop
        what = looks_wrong(frames.blank[first:last], frames.still[first + 1 : last], whole)
        if what:
            found.append((first, last, what))
    if found:
        first, last, what = found[0]
        text = f"frames {first} to {last - 1}, an episode, are all {what} ({len(found)} such)."
        problems.add(OBSERVATION, first, text)
        yield np.array([first for first, _, _ in found])


def looks_wrong(blank: np.ndarray, still: np.ndarray, whole: bool) -> str:
    """What is implausible about the frames of an episode; "" if nothing is.

    Args:
      blank: bool [T], whether a frame is of one colour.
      still: bool [T - 1], whether a frame, from the second on, equals the one before.
      whole: whether the recording holds the episode from its start to the game's end.
    """
    if len(blank) >= (1 if whole else _SECOND) and blank.all():
        return "of one colour"
    if len(blank) >= (_SECOND if whole else _MINUTE) and still.all():
        return "the same"
    return ""


def _episodes_around(wrong: np.ndarray, ends: np.ndarray, valid: int) -> list[tuple[int, int]]:
    """Slots [start, stop) of the episodes, padding included, that hold the given slots."""
    bounds = np.unique([0, *(ends + 1), valid])
    which = np.unique(np.searchsorted(bounds, wrong, side="right"))
    return [(int(bounds[k - 1]), int(bounds[k])) for k in which]


def merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What the ranges hold, in ascending ranges that don't touch."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged
