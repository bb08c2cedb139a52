"""Reads DQN-Replay logs (Dopamine's `.gz` replay files) as episodes, streaming.

One suffix K of `<data_dir>/<Game>/<run>/replay_logs/` is a group of six files, each gzip over a
NumPy `.npy` stream, that hold one state of Dopamine's ring buffer of N slots (N = 1,000,000):

    $store$_observation_ckpt.K.gz  uint8 [N, 84, 84]   $store$_action_ckpt.K.gz    int32 [N]
    $store$_reward_ckpt.K.gz       float32 [N]         $store$_terminal_ckpt.K.gz  uint8 [N]
    add_count_ckpt.K.gz            0-d integer         invalid_range_ckpt.K.gz     small [M]

and, from later Dopamine versions, `episode_end_indices_ckpt.K.gz`, a pickled set of the slots where
an episode ended, with a terminal or without. How a group becomes episodes:

* Valid slots are [0, cursor), cursor = add_count mod N; all N where a lap has just been completed.
  DQN-Replay's collector saves at cursor N - 1 and goes on, so the last slot of a full file is stale
  (uninitialised in the first file, then the entry that belongs between the previous file and this
  one): it is dropped and may hold anything. So are a last, partial file's slots from the cursor on,
  which the previous file holds already.
* After each end Dopamine writes three all-zero entries before the next episode's first step; they
  are checked and stripped. So are up to three such entries at a file's start, where one to three
  may be missing: they lie at the previous file's end. If none is left, the file's first episode
  counts as a fragment (`starts=False`), which costs its first three states. A fragment that begins
  with black frames, no-ops and no reward looks the same; its stacks are zeros there either way.
* An episode is cut at a file's end (`terminal=False`) and goes on as a fragment in the next file.
"""

from __future__ import annotations

import contextlib
import os
import pickletools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cql_atari import games
from cql_atari.data.gzip_array import MEND, GzipArray, read_bytes
from cql_atari.types import FRAME_SHAPE, STACK, Episode, UserError

PADS = STACK - 1  # all-zero entries before an episode's first step
LONGEST = 27_000  # steps of an episode at Dopamine's cap of 108,000 emulator frames

PathLike = str | os.PathLike[str]

# What each file may hold: dtypes, and the shape with None for any length.
_LAYOUT: dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]] = {
    "$store$_observation": (("uint8",), (None, *FRAME_SHAPE)),
    "$store$_action": (("int32", "int64"), (None,)),
    "$store$_reward": (("float32", "float64"), (None,)),
    "$store$_terminal": (("uint8",), (None,)),
    "add_count": (("int64", "int32"), ()),
    "invalid_range": (("int64", "int32", "float64"), (None,)),
}
_ENDS = "episode_end_indices"
# All the names in a pickled set of NumPy integers.
_ENDS_WORDS = {"builtins", "set", "numpy", "dtype", "i8", "<", "scalar"}
_ENDS_WORDS |= {"numpy.core.multiarray", "numpy._core.multiarray"}
_ENDS_LIMIT = 1 << 25  # bytes of a pickled set of a million slots, and more
_FILE_NAME = re.compile(
    rf"(?:{'|'.join(map(re.escape, (*_LAYOUT, _ENDS)))})_ckpt\.(0|[1-9][0-9]*)\.gz"
)
_EXPECTED = (
    "expected DQN-Replay files such as $store$_observation_ckpt.0.gz in "
    "<data_dir>/<Game>/<run>/replay_logs"
)


def list_suffixes(replay_logs_dir: PathLike) -> list[int]:
    """The suffixes K of which at least one file is there, in numerical order.

    Raises:
      UserError: if the directory cannot be listed or holds no such file.
    """
    matches = map(_FILE_NAME.fullmatch, _list_names(replay_logs_dir))
    found = {int(match[1]) for match in matches if match}
    if not found:
        raise UserError(f"no replay files in {replay_logs_dir}; {_EXPECTED}.")
    return sorted(found)


def count_slots(replay_logs_dir: PathLike, suffixes: Sequence[int] | None = None) -> int:
    """Valid slots of the suffixes (default: all), padding included: at least as many as steps.

    Reads headers and `add_count` only, a few milliseconds a suffix.

    Raises:
      UserError: as `read_episodes` does, as far as headers tell.
    """
    total = 0
    for suffix in _choose(replay_logs_dir, suffixes):
        with _open_group(Path(replay_logs_dir), suffix) as files:
            total += _count_valid(files)
    return total


def read_episodes(
    replay_logs_dir: PathLike, game: str, suffixes: Sequence[int] | None = None
) -> Iterator[Episode]:
    """Streams the episodes of one game's run, in the files' order, suffix after suffix.

    Memory: one episode (at most 27,000 steps = 191 MB; a longer one is cut there and continues as
    a fragment) beside those that the caller holds, one suffix's actions, rewards and terminals
    (9 MB for a million slots) and 5 MB of buffers; never a whole observation file.

    A checksum comes at the end of a file, so damage to frames shows only when that file has been
    read to its end: episodes yielded before may be wrong. Whoever needs all or nothing must exhaust
    the iterator before using any episode; who stops early has not checked the last file.

    Args:
      replay_logs_dir: the directory that holds the files of one game and run.
      game: CamelCase name; its minimal action set maps stored actions to the full 18.
      suffixes: which file groups to read, in this order; all, in numerical order, if None.

    Returns:
      An iterator over episodes. The directory, the game and the suffixes are checked at once, the
      rest when reached.

    Raises:
      UserError: naming the file, for a missing directory, suffix or file; anything but a regular
        file; a file that is damaged, cut, or goes on after its array; another dtype, shape or
        length; an action outside the game's set, a reward that is NaN or outside [-1, 1],
        a terminal other than 0 and 1; missing padding.
    """
    lookup = games.to_full_actions(game)
    chosen = _choose(replay_logs_dir, suffixes)

    def stream() -> Iterator[Episode]:
        for suffix in chosen:
            with _open_group(Path(replay_logs_dir), suffix) as files:
                yield from _read_group(files, game, lookup)

    return stream()


def _list_names(directory: PathLike) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        raise UserError(f"cannot list {directory} ({error.strerror}); {_EXPECTED}.") from error


def _choose(replay_logs_dir: PathLike, suffixes: Sequence[int] | None) -> list[int]:
    present = list_suffixes(replay_logs_dir)
    chosen = present if suffixes is None else list(suffixes)
    absent = [suffix for suffix in chosen if suffix not in present]
    if absent:
        raise UserError(f"no files of suffix {absent} in {replay_logs_dir}; there are {present}.")
    return chosen


@contextlib.contextmanager
def _open_group(directory: Path, suffix: int) -> Iterator[dict[str, GzipArray]]:
    """Opens a suffix's six files and checks all headers, before anything is allocated."""
    names = {name: f"{name}_ckpt.{suffix}.gz" for name in _LAYOUT}
    missing = sorted(set(names.values()) - set(_list_names(directory)))
    if missing:
        raise UserError(
            f"suffix {suffix} in {directory} lacks {', '.join(missing)}. "
            "Add the file or leave the suffix out."
        )
    with contextlib.ExitStack() as stack:
        files = {}
        for name, layout in _LAYOUT.items():
            files[name] = GzipArray(directory / names[name], *layout)
            stack.callback(files[name].close)
        lengths = {f.path.name: f.shape[0] for f in files.values() if f.path.name[0] == "$"}
        if len(set(lengths.values())) > 1:
            raise UserError(f"files in {directory} differ in length: {lengths}. {MEND}")
        yield files


def _count_valid(files: dict[str, GzipArray]) -> int:
    """Reads `add_count`; slots [0, result) are valid."""
    count = int(files["add_count"].read_all())
    slots = files["$store$_terminal"].shape[0]
    if count < 0:
        raise UserError(f"{files['add_count'].path} holds {count}; expected a count. {MEND}")
    return slots if count and count % slots == 0 else count % slots


class _Steps(NamedTuple):
    """The small arrays of one group's valid slots, checked."""

    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray


def _read_group(files: dict[str, GzipArray], game: str, lookup: np.ndarray) -> Iterator[Episode]:
    valid = _count_valid(files)
    files["invalid_range"].read_all()  # adds nothing to add_count; only checked
    steps = _read_steps(files, valid, len(lookup))
    ends = np.union1d(np.flatnonzero(steps.terminals), _unmarked_ends(files["add_count"], valid))
    observations = files["$store$_observation"]

    def read(segment: _Segment) -> Episode | None:
        here = slice(segment.start, segment.stop)
        frames = np.empty((segment.stop - segment.start, *FRAME_SHAPE), np.uint8)
        observations.read_into(frames)
        pads = _count_pads(frames, _Steps(*(array[here] for array in steps)), segment, observations)
        if pads == len(frames):
            return None
        return Episode(
            game=game,
            frames=frames[pads:],
            actions=lookup[steps.actions[here]][pads:],
            rewards=steps.rewards[here][pads:].astype(np.float32),
            terminal=bool(steps.terminals[segment.stop - 1]),
            starts=pads > 0,
        )

    # Not a loop: its variable would keep an episode alive while the next is read.
    yield from filter(None, map(read, _segments(ends, valid)))
    observations.finish(observations.shape[0] - valid)


class _Segment(NamedTuple):
    """Slots [start, stop) that lie in one episode, its padding included."""

    start: int
    stop: int
    follows: str  # what lies before: "end" of an episode, "cut" of a long one, or "file" start


def _segments(ends: np.ndarray, valid: int) -> Iterator[_Segment]:
    start, follows = 0, "file"
    for stop in [*(ends + 1).tolist(), valid]:
        for first in range(start, stop, PADS + LONGEST):
            last = min(first + PADS + LONGEST, stop)
            yield _Segment(first, last, follows if first == start else "cut")
        start, follows = stop, "end"


def _read_steps(files: dict[str, GzipArray], valid: int, num_actions: int) -> _Steps:
    """Reads the small arrays whole and checks their valid slots."""

    def read(name: str, wrong: Any, expected: str) -> np.ndarray:
        values = files[name].read_all()[:valid]
        found = np.flatnonzero(wrong(values))
        if found.size:
            raise UserError(
                f"{files[name].path}: entry {found[0]} is {values[found[0]]} ({found.size} such); "
                f"expected {expected}. {MEND}"
            )
        return values

    actions = f"an index into the game's minimal set, 0 to {num_actions - 1}"
    return _Steps(
        read("$store$_action", lambda x: (x < 0) | (x >= num_actions), actions),
        read("$store$_reward", lambda x: ~(np.abs(x) <= 1), "a clipped reward in [-1, 1]"),
        read("$store$_terminal", lambda x: x > 1, "0 or 1"),
    )


def _count_pads(
    frames: np.ndarray, steps: _Steps, segment: _Segment, observations: GzipArray
) -> int:
    """How many all-zero entries open the segment: three after an end, else up to three."""
    most = 0 if segment.follows == "cut" else min(PADS, len(frames))
    pads = 0
    while pads < most and not frames[pads].any() and not any(array[pads] for array in steps):
        pads += 1
    if segment.follows == "end" and pads < most:
        raise UserError(
            f"{observations.path}: entry {segment.start + pads} is a step; expected {PADS} "
            f"all-zero entries from {segment.start} on, after an episode's end. {MEND}"
        )
    return pads


def _unmarked_ends(add_count: GzipArray, valid: int) -> np.ndarray:
    """Slots where an episode ended, int64, from the optional seventh file.

    Dopamine pickles a set of NumPy integers. Loading a pickle can run anything, so only its
    literals are looked at: each integer's eight bytes, or plain Python integers.
    """
    path = add_count.path.with_name(add_count.path.name.replace("add_count", _ENDS))
    if not os.path.lexists(path):
        return np.zeros(0, np.int64)
    data = read_bytes(path, _ENDS_LIMIT)
    try:
        literals: list[tuple[str, Any]] = [
            (op.name, arg) for op, arg, _ in pickletools.genops(data)
        ]
        words = {word for _, arg in literals if isinstance(arg, str) for word in arg.split()}
        if words - _ENDS_WORDS:
            raise ValueError(f"it names {sorted(words - _ENDS_WORDS)}")
    except Exception as error:  # whatever a damaged pickle makes the parser raise
        raise UserError(f"{path} is no pickled set of integers: {error}. {MEND}") from error
    packed = b"".join(arg for name, arg in literals if name == "SHORT_BINBYTES" and len(arg) == 8)
    plain = [arg for name, arg in literals if name.startswith("BININT")]
    ends = np.frombuffer(packed, "<i8") if packed else np.array(plain, np.int64)
    return ends[(ends >= 0) & (ends < valid)]
