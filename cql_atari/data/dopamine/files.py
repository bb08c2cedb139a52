"""The files of a DQN-Replay log: which there are, each group opened, checked, its columns read.

`dopamine.py` says what a group holds and makes episodes of it.
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

from cql_atari.core.types import FRAME_SHAPE, UserError
from cql_atari.data.dopamine.gzip_array import MEND, GzipArray, read_bytes

PathLike = str | os.PathLike[str]
Ranges = Sequence[tuple[int, int]]  # of slots, each [start, stop)

# What each file may hold: dtypes, and the shape with None for any length.
LAYOUT: dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]] = {
    "$store$_observation": (("uint8",), (None, *FRAME_SHAPE)),
    "$store$_action": (("int32", "int64"), (None,)),
    "$store$_reward": (("float32", "float64"), (None,)),
    "$store$_terminal": (("uint8",), (None,)),
    "add_count": (("int64", "int32"), ()),
    "invalid_range": (("int64", "int32", "float64"), (None,)),
}
ENDS = "episode_end_indices"
# All the names in a pickled set of NumPy integers.
_ENDS_WORDS = {"builtins", "set", "numpy", "dtype", "i8", "<", "scalar"}
_ENDS_WORDS |= {"numpy.core.multiarray", "numpy._core.multiarray"}
_ENDS_LIMIT = 1 << 25  # bytes of a pickled set of a million slots, and more
_FILE_NAME = re.compile(
    rf"(?:{'|'.join(map(re.escape, (*LAYOUT, ENDS)))})_ckpt\.(0|[1-9][0-9]*)\.gz"
)
_EXPECTED = (
    "expected DQN-Replay files such as $store$_observation_ckpt.0.gz in "
    "<data_dir>/<Game>/<run>/replay_logs"
)


class Group(NamedTuple):
    """One suffix's files, open, their headers checked.

    Attributes:
      files: by the part of their names before `_ckpt`.
      valid: slots [0, valid) hold play.
    """

    files: dict[str, GzipArray]
    valid: int

    @property
    def observations(self) -> GzipArray:
        return self.files["$store$_observation"]


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
      UserError: if the directory cannot be listed or holds no such file.
    """
    matches = map(_FILE_NAME.fullmatch, _list_names(replay_logs_dir))
    found = {int(match[1]) for match in matches if match}
    if not found:
        raise UserError(f"no replay files in {replay_logs_dir}; {_EXPECTED}.")
    return sorted(found)


def choose_suffixes(replay_logs_dir: PathLike, suffixes: Sequence[int] | None) -> list[int]:
    """The given suffixes, or all of them, each checked to have a file.

    Raises:
      UserError: as `list_suffixes`, or where one has none.
    """
    present = list_suffixes(replay_logs_dir)
    chosen = present if suffixes is None else list(suffixes)
    absent = [suffix for suffix in chosen if suffix not in present]
    if absent:
        raise UserError(f"no files of suffix {absent} in {replay_logs_dir}; there are {present}.")
    return chosen


def fingerprints(replay_logs_dir: PathLike, suffix: int) -> dict[str, list[int | str]]:
    """Size in bytes and CRC-32 (hexadecimal) of the contents of each of a suffix's files.

    The checksum is the one that ends the gzip file: nothing is decompressed.
    """
    found: dict[str, list[int | str]] = {}
    for name in (*LAYOUT, ENDS):
        path = Path(replay_logs_dir) / f"{name}_ckpt.{suffix}.gz"
        if not path.is_file():
            continue
        try:
            with open(path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - 8, 0))
                found[path.name] = [size, f"{int.from_bytes(file.read(4), 'little'):08x}"]
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}. {MEND}") from error
    return found


@contextlib.contextmanager
def open_group(directory: Path, suffix: int) -> Iterator[Group]:
    """Opens a suffix's six files and checks all headers, before anything is allocated.

    Raises:
      UserError: naming the file that is missing or wrong.
    """
    names = {name: f"{name}_ckpt.{suffix}.gz" for name in LAYOUT}
    missing = sorted(set(names.values()) - set(_list_names(directory)))
    if missing:
        raise UserError(
            f"suffix {suffix} in {directory} lacks {', '.join(missing)}. "
            "Add the file or leave the suffix out."
        )
    with contextlib.ExitStack() as stack:
        files = {}
        for name, layout in LAYOUT.items():
            files[name] = GzipArray(directory / names[name], *layout)
            stack.callback(files[name].close)
        lengths = {f.path.name: f.shape[0] for f in files.values() if f.path.name[0] == "$"}
        if len(set(lengths.values())) > 1:
            raise UserError(f"files in {directory} differ in length: {lengths}. {MEND}")
        invalid, slots = files["invalid_range"], min(lengths.values())
        if invalid.shape[0] > slots:  # before it is allocated
            raise UserError(
                f"{invalid.path} has {invalid.shape[0]} entries for {slots} slots. {MEND}"
            )
        yield Group(files, _count_valid(files))


def _count_valid(files: dict[str, GzipArray]) -> int:
    """Reads `add_count`; slots [0, result) are valid."""
    count = int(files["add_count"].read_all())
    slots = files["$store$_terminal"].shape[0]
    if count < 0:
        raise UserError(f"{files['add_count'].path} holds {count}; expected a count. {MEND}")
    return slots if count and count % slots == 0 else count % slots


def read_columns(group: Group, kept: Ranges, num_actions: int) -> Columns:
    """Reads the small arrays whole and checks them in the `kept` ranges.

    Raises:
      UserError: naming the file and the first wrong entry, or what is damaged.
    """
    files, valid = group.files, group.valid
    files["invalid_range"].read_all()  # adds nothing to add_count; only checked

    def read(name: str, wrong: Any, expected: str) -> np.ndarray:
        values = files[name].read_all()[:valid]
        for start, stop in kept:
            found = start + np.flatnonzero(wrong(values[start:stop]))
            if found.size:
                raise UserError(
                    f"{files[name].path}: entry {found[0]} is {values[found[0]]} ({found.size} "
                    f"such); expected {expected}. {MEND}"
                )
        return values

    actions = f"an index into the game's minimal set, 0 to {num_actions - 1}"
    terminals = read("$store$_terminal", lambda x: x > 1, "0 or 1")
    beside = files["add_count"].path
    unmarked = read_unmarked_ends(beside.with_name(beside.name.replace("add_count", ENDS)), valid)
    return Columns(
        read("$store$_action", lambda x: (x < 0) | (x >= num_actions), actions),
        read("$store$_reward", lambda x: ~(np.abs(x) <= 1), "a clipped reward in [-1, 1]"),
        terminals,
        np.union1d(np.flatnonzero(terminals), unmarked),
    )


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
        raise UserError(f"{path} is no pickled set of integers: {error}. {MEND}") from error
    packed = b"".join(arg for name, arg in literals if name == "SHORT_BINBYTES" and len(arg) == 8)
    plain = [arg for name, arg in literals if name.startswith("BININT")]
    ends = np.frombuffer(packed, "<i8") if packed else np.array(plain, np.int64)
    return ends[(ends >= 0) & (ends < valid)]


def _list_names(directory: PathLike) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        raise UserError(f"cannot list {directory} ({error.strerror}); {_EXPECTED}.") from error
