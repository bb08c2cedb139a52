"""Checks DQN-Replay files without stopping at the first problem, and says what to leave out.

Each file is read to its end, in bounded memory, and every value is checked as the reader does.
What is left out is the least that lets the reader pass and is safe:

* a file that is missing, damaged or of another form: its whole suffix, as a checksum doesn't say
  where the damage is;
* observations that are merely cut (an unfinished copy): what comes after the last whole frame, with
  a small margin, as the decoder reads ahead. The frames before the cut stand without a checksum;
* wrong values, missing padding, implausible frames: the episodes that hold them. Where padding is
  missing, the episode before it too: its end may be the mistake.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data.dopamine import files as replay_files
from cql_atari.data.dopamine import frame_scan
from cql_atari.data.dopamine.files import COLUMNS, OBSERVATION, TERMINAL
from cql_atari.data.dopamine.frame_scan import Frames
from cql_atari.data.format import FileCheck, Problem, SuffixCheck
from cql_atari.data.shared import EVERYTHING, PADS, looks_wrong, merge, size_of
from cql_atari.data.untrusted import GzipArray

_MARGIN = 2  # frames; the decoder reads up to 8 KiB ahead of what it is asked for

T = TypeVar("T")


class _Problems(dict[str, list[Problem]]):
    """Problems by the name of the file, as they are found."""

    def add(self, name: str, entry: int | None, text: str) -> None:
        self.setdefault(name, []).append(Problem(entry, text))

    def warn(self, name: str, entry: int, text: str) -> None:
        self.setdefault(name, []).append(Problem(entry, text, is_warning=True))

    def catch(self, name: str, call: Callable[[], T]) -> T | None:
        """What `call` returns; None where it raises a UserError, which becomes a problem."""
        try:
            return call()
        except UserError as error:
            self.add(name, None, str(error))
            return None


def total_bytes(directory: Path, suffix: int) -> int:
    """Size of a suffix's observation file, 0 if there is none: the work of `check_suffix`."""
    return size_of(_path(directory, OBSERVATION, suffix))


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
        slots, lengths_wrong = replay_files.compare_lengths(files)
        for name, fault in lengths_wrong.items():
            problems.add(name, *fault)
        readable = {n: f for n, f in files.items() if n not in problems and n != OBSERVATION}
        read = {name: problems.catch(name, file.read_all) for name, file in readable.items()}
        frames = None
        if OBSERVATION not in problems:
            scan = functools.partial(frame_scan.scan, files[OBSERVATION], report)
            frames = problems.catch(OBSERVATION, scan)
    lengths = {name: math.prod(file.shape[:1]) for name, file in files.items()}
    valid = _count_valid(read, slots, problems)
    whole = {n: array for n in COLUMNS if (array := read.get(n)) is not None}
    columns = {name: array[:valid] for name, array in whole.items()}
    ends = np.flatnonzero(columns.get(TERMINAL, ()))
    seventh = _path(directory, replay_files.ENDS, suffix)
    if os.path.lexists(seventh):
        find = functools.partial(replay_files.read_unmarked_ends, seventh, valid)
        paths[replay_files.ENDS] = seventh
        if (unmarked := problems.catch(replay_files.ENDS, find)) is not None:
            lengths[replay_files.ENDS] = len(unmarked)
            ends = np.union1d(ends, unmarked)
    if TERMINAL in columns and (text := replay_files.lacks_ends(ends, valid)):
        problems.add(TERMINAL, None, text)
    left_out = [EVERYTHING] if problems else []
    if (count := read.get("add_count")) is not None and 0 <= int(count) < slots:
        _check_behind_cursor(whole, frames, valid, slots, problems)
    if frames is not None and frames.error is not None:
        left_out.append(_judge_damage(frames, valid, problems))
    wrong = [
        *_check_values(columns, len(games.to_full_actions(game)), problems),
        *_check_padding(columns, frames, ends, valid, problems),
        *_check_missing_ends(columns, frames, ends, valid, problems),
        *_check_frames(frames, ends, valid, problems),
    ]
    left_out += _episodes_around(np.concatenate([[], *wrong]).astype(np.int64), ends, valid)
    checks = [FileCheck(p, lengths.get(n), tuple(problems.get(n, ()))) for n, p in paths.items()]
    return SuffixCheck(checks, merge(left_out))


def _path(directory: Path, name: str, suffix: int) -> Path:
    return directory / f"{name}_ckpt.{suffix}.gz"


def _count_valid(read: Mapping[str, np.ndarray | None], slots: int, problems: _Problems) -> int:
    """Slots [0, result) are valid, so their values count; none if their number isn't known."""
    add_count = read.get("add_count")
    if add_count is None or not slots:
        return 0
    valid, fault = replay_files.count_valid(int(add_count), read.get("invalid_range"), slots)
    if fault:
        problems.add("add_count", 0, fault)
    return valid


def _check_behind_cursor(
    columns: Mapping[str, np.ndarray],
    frames: Frames | None,
    valid: int,
    slots: int,
    problems: _Problems,
) -> None:
    """Warns of play in slots that the count says are unused; the last slot is stale."""
    filled = np.zeros(max(slots - 1 - valid, 0), bool)
    for values in columns.values():
        filled |= values[valid : slots - 1] != 0
    if frames is not None:
        filled[: max(frames.read - valid, 0)] |= ~frames.zero[valid : min(frames.read, slots - 1)]
    if filled.any():
        first = valid + int(filled.argmax())
        text = f"entry {first} holds something ({filled.sum()} such), but the count ends at {valid}"
        problems.warn("add_count", first, f"{text}: what comes after isn't read.")


def _judge_damage(frames: Frames, valid: int, problems: _Problems) -> tuple[int, int]:
    """Notes the damage that ended the reading; returns what to leave out for it."""
    assert frames.error is not None
    slots = len(frames.zero)
    if not frames.cut:
        cause = frames.error.__cause__
        nowhere = cause is None or isinstance(cause, OSError)  # a checksum doesn't say where
        problems.add(OBSERVATION, None if nowhere else frames.read, str(frames.error))
        return EVERYTHING
    text = f"it is cut: {frames.read} of {slots} frames are whole. Copy it again."
    problems.add(OBSERVATION, min(frames.read, slots - 1), text)
    # At least one valid slot, as a reader of all of them also reads on to the checksum.
    return max(min(frames.read - _MARGIN, valid - 1), 0), EVERYTHING[1]


def _check_values(
    columns: Mapping[str, np.ndarray], num_actions: int, problems: _Problems
) -> Iterator[np.ndarray]:
    """Notes actions, rewards and terminals that can't be; yields where they are."""
    for name, values in columns.items():
        found, text = replay_files.find_wrong(name, values, num_actions)
        if found.size:
            problems.add(name, int(found[0]), text)
            yield found


def _check_padding(
    columns: Mapping[str, np.ndarray],
    frames: Frames | None,
    ends: np.ndarray,
    valid: int,
    problems: _Problems,
) -> Iterator[np.ndarray]:
    """Notes steps in places of padding; yields these places and the episodes' ends before them."""
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


def _check_missing_ends(
    columns: Mapping[str, np.ndarray],
    frames: Frames | None,
    ends: np.ndarray,
    valid: int,
    problems: _Problems,
) -> Iterator[np.ndarray]:
    """Notes padding in the middle of an episode, whose end must be missing; yields where it is."""
    if frames is None or len(columns) < len(COLUMNS):
        return
    zero = frames.zero[:valid].copy()
    zero[frames.read :] = False
    for values in columns.values():
        zero &= values == 0
    found = [
        start + replay_files.find_inner_padding(zero[start:stop])
        for start, stop in itertools.pairwise([0, *(ends + 1).tolist(), valid])
    ]
    if (entries := np.concatenate(found)).size:
        text = f"entry {entries[0] - 1} isn't 1 ({entries.size} such), but padding follows, "
        problems.add(TERMINAL, int(entries[0]) - 1, text + "which only an episode's end precedes.")
        yield entries


def _check_frames(
    frames: Frames | None, ends: np.ndarray, valid: int, problems: _Problems
) -> Iterator[np.ndarray]:
    """Notes episodes of blank or constant frames; yields the first steps of those to leave out."""
    if frames is None:
        return
    found: dict[tuple[str, bool], list[tuple[int, int]]] = {}
    bounds = [0, *(ends + 1).tolist(), valid]
    for k, (start, stop) in enumerate(itertools.pairwise(bounds)):
        first, last = start + (PADS if start else 0), min(stop, frames.read)
        whole = 0 < k < len(ends) and last == stop
        if what := looks_wrong(frames.blank[first:last], frames.still[first + 1 : last], whole):
            found.setdefault(what, []).append((first, last))
    for (looks, is_warning), episodes in found.items():
        first, last = episodes[0]
        text = f"frames {first} to {last - 1}, an episode, are all {looks} ({len(episodes)} such)."
        (problems.warn if is_warning else problems.add)(OBSERVATION, first, text)
        if not is_warning:
            yield np.array([first for first, _ in episodes])


def _episodes_around(wrong: np.ndarray, ends: np.ndarray, valid: int) -> list[tuple[int, int]]:
    """Slots [start, stop) of the episodes, padding included, that hold the given slots."""
    bounds = np.unique([0, *(ends + 1), valid])
    which = np.unique(np.searchsorted(bounds, wrong, side="right"))
    return [(int(bounds[k - 1]), int(bounds[k])) for k in which]
