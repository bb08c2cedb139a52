"""The files of a DQN-Replay log: finds them, opens and checks a suffix's group, reads its columns.

`reader.py` describes a group and makes episodes of it. The rules of what is wrong with a group are
here: the reader stops at the first violation, `check.py` lists all.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core.types import FRAME_SHAPE, STACK, UserError
from cql_atari.data.shared import LONGEST, PADS, Fingerprints, PathLike, Ranges
from cql_atari.data.untrusted import FIX, LEAVE_OUT, GzipArray, blaming, read_bytes

# What each file may hold: dtypes, and the shape with None for any length.
OBSERVATION = "$store$_observation"
LAYOUT: dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]] = {
    OBSERVATION: (("uint8",), (None, *FRAME_SHAPE)),
    "$store$_action": (("int32", "int64"), (None,)),
    "$store$_reward": (("float32", "float64"), (None,)),
    "$store$_terminal": (("uint8",), (None,)),
    "add_count": (("int64", "int32"), ()),
    "invalid_range": (("int64", "int32", "float64"), (None,)),
}
COLUMNS = ACTION, REWARD, TERMINAL = "$store$_action", "$store$_reward", "$store$_terminal"
ENDS = "episode_end_indices"
# All the names in a pickled set of NumPy integers.
_ENDS_WORDS = {"builtins", "set", "numpy", "dtype", "i8", "<", "scalar"}
_ENDS_WORDS |= {"numpy.core.multiarray", "numpy._core.multiarray"}
_ENDS_LIMIT = 1 << 25  # bytes of a pickled set of a million slots, and more
_FILE_NAME = re.compile(rf"(?:{'|'.join(map(re.escape, (*LAYOUT, ENDS)))})_ckpt\.([0-9]+)\.gz")
_EXPECTED = (
    "expected DQN-Replay files such as $store$_observation_ckpt.0.gz in "
    "<data_dir>/<Game>/<run>/replay_logs"
)


class FileGroup(NamedTuple):
    """One suffix's files, open, their headers checked.

    Attributes:
      files: by the part of their names before `_ckpt`.
      valid: slots [0, valid) hold play.
    """

    files: dict[str, GzipArray]
    valid: int

    @property
    def observations(self) -> GzipArray:
        return self.files[OBSERVATION]


class Columns(NamedTuple):
    """The small arrays of one group's valid slots; checked where they are kept.

    Attributes:
      actions: int32 or int64 [valid], indices into the game's minimal set.
      rewards: float32 or float64 [valid].
      terminals: uint8 [valid].
      ends: int64, ascending, the slots where an episode ends, with a terminal or without.
    """

    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    ends: np.ndarray


def list_suffixes(replay_logs_dir: PathLike) -> list[int]:
    """The suffixes K of which at least one file is there, in numerical order.

    Raises:
      UserError: if the directory cannot be listed, holds no such file, or one with a number such
        as 01, which Dopamine doesn't write and its readers don't see.
    """
    matches = filter(None, map(_FILE_NAME.fullmatch, _list_names(replay_logs_dir)))
    numbers = {match[1]: match[0] for match in matches}
    if padded := sorted(name for k, name in numbers.items() if k != str(int(k))):
        raise UserError(
            f"{padded[0]} in {replay_logs_dir} has a number that begins with 0; rename it as "
            "Dopamine does (_ckpt.1.gz), or remove it."
        )
    found = set(map(int, numbers))
    if not found:
        raise UserError(f"no replay files in {replay_logs_dir}; {_EXPECTED}.")
    return sorted(found)


def fingerprints(replay_logs_dir: PathLike, suffix: int) -> Fingerprints:
    """Size in bytes and CRC-32 (hexadecimal) of the contents of each of a suffix's files.

    The checksum is the one that ends the gzip file: nothing is decompressed.
    """
    found: Fingerprints = {}
    for name in (*LAYOUT, ENDS):
        path = Path(replay_logs_dir) / f"{name}_ckpt.{suffix}.gz"
        if not path.is_file():
            continue
        with blaming(path), open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 8, 0))
            found[path.name] = [size, f"{int.from_bytes(file.read(4), 'little'):08x}"]
    return found


@contextlib.contextmanager
def open_group(directory: Path, suffix: int) -> Iterator[FileGroup]:
    """Opens a suffix's six files and checks all headers, before anything is allocated.

    Raises:
      UserError: naming the file that is missing or wrong.
    """
    names = {name: f"{name}_ckpt.{suffix}.gz" for name in LAYOUT}
    missing = sorted(set(names.values()) - set(_list_names(directory)))
    if missing:
        raise UserError(
            f"suffix {suffix} in {directory} lacks {', '.join(missing)}. "
            f"Add the file, or {LEAVE_OUT}"
        )
    with contextlib.ExitStack() as stack:
        files = {}
        for name, layout in LAYOUT.items():
            files[name] = GzipArray(directory / names[name], *layout)
            stack.callback(files[name].close)
        slots, wrong = compare_lengths(files)
        for name, (_, text) in wrong.items():  # before anything is allocated
            raise UserError(f"{files[name].path}: {text} {FIX}")
        count, listed = files["add_count"].read_all(), files["invalid_range"].read_all()
        valid, fault = count_valid(int(count), listed, slots)
        if fault:
            raise UserError(f"{files['add_count'].path}: {fault} {FIX}")
        yield FileGroup(files, valid)


def compare_lengths(files: Mapping[str, GzipArray]) -> tuple[int, dict[str, tuple[int, str]]]:
    """(slots, wrong): how many slots most of the group's files have; for each file of another
    length, the first entry that is missing or too much, and a description.
    """
    lengths = {name: file.shape[0] for name, file in files.items() if name.startswith("$")}
    ((slots, _),) = collections.Counter(lengths.values()).most_common(1) or [(0, 0)]
    wrong = {
        name: (min(length, slots), f"it has {length} entries; others of its suffix have {slots}.")
        for name, length in lengths.items()
        if length != slots
    }
    ranges = files.get("invalid_range")
    if ranges is not None and slots and ranges.shape[0] > slots:
        text = f"it has {ranges.shape[0]} entries, more than the {slots} slots it is about."
        wrong["invalid_range"] = slots, text
    return slots, wrong


def count_valid(count: int, invalid_range: np.ndarray | None, slots: int) -> tuple[int, str]:
    """(valid, fault): slots [0, valid) hold play; `fault` describes a wrong count, else "".

    Dopamine stores its cursor twice: `invalid_range` lists the slots from cursor - n to cursor + 3,
    or four zeros before anything was added.
    """
    if count < 0:
        return 0, f"it holds {count}; expected a count."
    if invalid_range is not None:
        first, length = invalid_range[0], len(invalid_range)
        listed = length >= STACK and np.array_equal(
            invalid_range, (first + np.arange(length)) % slots
        )
        cursor = int(first + length - STACK) % slots if listed else None
        if (invalid_range.any() or count) and cursor != count % slots:
            said = "no cursor at all" if cursor is None else f"that it is {cursor}"
            text = f"it holds {count}, so the cursor is {count % slots}, but invalid_range says "
            return 0, f"{text}{said}."
    return (slots if count and count % slots == 0 else count % slots), ""


def read_columns(group: FileGroup, kept: Ranges, num_actions: int) -> Columns:
    """Reads the small arrays whole and checks them in the `kept` ranges.

    Raises:
      UserError: naming the file and the first wrong entry, or what is damaged.
    """
    files, valid = group.files, group.valid

    def read(name: str) -> np.ndarray:
        values = files[name].read_all()[:valid]
        for start, stop in kept:
            found, text = find_wrong(name, values, num_actions, start, stop)
            if found.size:
                raise UserError(f"{files[name].path}: {text} {FIX}")
        return values

    terminals = read(TERMINAL)
    beside = files["add_count"].path
    unmarked = read_unmarked_ends(beside.with_name(beside.name.replace("add_count", ENDS)), valid)
    ends = np.union1d(np.flatnonzero(terminals), unmarked)
    if kept and (text := lacks_ends(ends, valid)):
        raise UserError(f"{files[TERMINAL].path}: {text} {FIX}")
    return Columns(read(ACTION), read(REWARD), terminals, ends)


def find_wrong(
    name: str, values: np.ndarray, num_actions: int, start: int = 0, stop: int | None = None
) -> tuple[np.ndarray, str]:
    """The entries in [start, stop) of a column that are invalid, and a description of them."""
    rules: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
        ACTION: (
            lambda x: (x < 0) | (x >= num_actions),
            f"an index into the game's minimal set, 0 to {num_actions - 1}",
        ),
        REWARD: (lambda x: ~(np.abs(x) <= 1), "a clipped reward in [-1, 1]"),
        TERMINAL: (lambda x: x > 1, "0 or 1"),
    }
    is_wrong, expected = rules[name]
    found = start + np.flatnonzero(is_wrong(values[start:stop]))
    if not found.size:
        return found, ""
    first = found[0]
    return found, f"entry {first} is {values[first]} ({found.size} such); expected {expected}."


def lacks_ends(ends: np.ndarray, valid: int) -> str:
    """Describes a group in which no episode ends; "" if it may be the middle of one episode."""
    if len(ends) or valid <= PADS + LONGEST:
        return ""
    return f"no episode ends among {valid:,} entries; the longest takes {LONGEST:,} steps."


def find_inner_padding(zero: np.ndarray) -> np.ndarray:
    """Positions of padding within an episode: the end before it must be missing.

    Args:
      zero: bool [T], whether frame, action, reward and terminal are all zero.

    Returns:
      The first entry of each run of exactly as many zero entries as padding has, with others on
      both sides.
    """
    # Zeros continue on both sides: runs that touch a side are not counted.
    edges = np.diff(zero.astype(np.int8), prepend=1, append=1)
    stops = np.flatnonzero(edges == -1)[1:]
    starts = np.flatnonzero(edges == 1)[: len(stops)]
    return starts[stops - starts == PADS]


def read_unmarked_ends(path: Path, valid: int) -> np.ndarray:
    """Slots where an episode ended, int64, from the optional seventh file; none if it isn't there.

    Dopamine pickles a set of NumPy integers. Loading a pickle can run anything, so only its
    literals are looked at: each integer's eight bytes, or plain Python integers.

    Raises:
      UserError: where it is damaged or holds anything else.
    """
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
        raise UserError(f"{path} is no pickled set of integers: {error}. {FIX}") from error
    packed = b"".join(arg for name, arg in literals if name == "SHORT_BINBYTES" and len(arg) == 8)
    plain = [arg for name, arg in literals if name.startswith("BININT")]
    ends = np.frombuffer(packed, "<i8") if packed else np.array(plain, np.int64)
    return ends[(ends >= 0) & (ends < valid)]


def _list_names(directory: PathLike) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        raise UserError(f"cannot list {directory} ({error.strerror}); {_EXPECTED}.") from error
