"""The files of play as plain arrays: which suffixes there are, each opened and checked.

A suffix K of `<data_dir>/<Game>/<run>/arrays/` is `K.npz` (`np.savez` or `np.savez_compressed`) or
a folder `K/` of `.npy` files (`np.save`), with these arrays of T steps, of one episode or of many
one after the other:

    frames      uint8 [T, 84, 84]          what was seen, each frame once (not stacked)
    actions     integer [T]                chosen at that frame; indices into `action_set`
    rewards     float32 or float64 [T]     received after it, clipped to [-1, 1]
    terminals   bool or uint8 [T]          whether the game ended after the step
    starts      bool or uint8 [T]          whether the step is the first of a game
    game        string                     CamelCase name, as "Breakout"
    action_set  string                     "minimal" (the game's own actions, ALE's default) or
                                           "full" (all 18)

A step that neither starts a game nor follows a terminal goes on with the episode before it; the
first step of a file may be in mid-game.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE, Extent, UserError
from cql_atari.data import npy
from cql_atari.data.arrays.columns import Columns
from cql_atari.data.remote_file import FIX, fingerprint
from cql_atari.data.shared import (
    LONGEST,
    PADS,
    Fingerprints,
    PathLike,
    Ranges,
    list_folder,
    pieces,
    total_reward,
    whole_number,
)

LAYOUT: dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]] = {
    "frames": (("uint8",), (None, *FRAME_SHAPE)),
    "actions": (("int64", "int32", "int16", "int8", "uint8"), (None,)),
    "rewards": (("float32", "float64"), (None,)),
    "terminals": (("bool", "uint8"), (None,)),
    "starts": (("bool", "uint8"), (None,)),
    "game": (("str",), ()),
    "action_set": (("str",), ()),
}
ACTION_SETS = ("minimal", "full")

_EXPECTED = "expected <Game>/<run>/arrays/K.npz, or K/frames.npy and the others, for K = 0, 1, ..."
_DAMAGE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)
_BLOCK = 1 << 20  # bytes


class Rows:
    """An open array, read row by row towards its end; never more at once than is asked for.

    Attributes:
      shape: the array's shape.
    """

    def __init__(self, where: str, file: Any, most_bytes: int, size: int | None, name: str) -> None:
        """Reads and checks the header.

        Args:
          where: names it in errors.
          file: open for reading bytes, at its start.
          most_bytes: what can be behind the header.
          size: bytes of the stream, header included.
          name: a key of `LAYOUT`.

        Raises:
          UserError: if it isn't such an array, or can't be read.
        """
        self._where, self._file = where, file
        with _blaming(where):
            self.shape, self._dtype = npy.read_header(file, *LAYOUT[name], most_bytes)
            self._begin = file.tell()
            claimed = self._begin + math.prod(self.shape) * self._dtype.itemsize
            if claimed != size:
                raise npy.BadArray(f"has {size:,} bytes; its header says {claimed:,}")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), behind those that were read before.

        Raises:
          UserError: if the file is damaged or ends before.
        """
        array = np.empty((stop - start, *self.shape[1:]), self._dtype)
        view = array.reshape(-1).view(np.uint8).data
        row_bytes = math.prod(self.shape[1:]) * self._dtype.itemsize
        with _blaming(self._where):
            self._file.seek(self._begin + start * row_bytes)
            self._fill(view)
        return array

    def read_all(self) -> np.ndarray:
        """The whole array, of any number of axes; a checksum, where there is one, verified."""
        array = np.empty(self.shape, self._dtype)
        with _blaming(self._where):
            self._fill(array.reshape(-1).view(np.uint8).data)
            self._file.read(1)
        return array

    def finish(self) -> None:
        """Verifies the checksum, where there is one and every row was read."""
        with _blaming(self._where):
            self._file.read(1)

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            if not (count := self._file.readinto(view[done : done + _BLOCK])):
                raise EOFError("it ends before its array does")
            done += count


def list_suffixes(path: PathLike) -> list[int]:
    """The K of `K.npz` and of the folders `K/`, in numerical order.

    Raises:
      UserError: if there is no suffix, one is there twice, or is written as 01.
    """
    folder, found = Path(path), []
    for name in list_folder(folder):
        stem = name.removesuffix(".npz")
        if not stem.isdecimal() or (stem == name and not (folder / name).is_dir()):
            continue
        if (suffix := whole_number(stem)) is None:
            raise UserError(f"{folder / name}: rename it to a plain number, as 0, 1 or 12.")
        if suffix in found:
            raise UserError(f"{folder} has {suffix}.npz and {suffix}/; remove one of them.")
        found.append(suffix)
    if not found:
        raise UserError(f"no arrays in {folder}; {_EXPECTED}.")
    return sorted(found)


def choose_suffixes(path: PathLike, suffixes: Sequence[int] | None) -> list[int]:
    """The given suffixes, or all of them, each checked to be there.

    Raises:
      UserError: as `list_suffixes`, or where one isn't there.
    """
    present = list_suffixes(path)
    chosen = present if suffixes is None else list(suffixes)
    if absent := [suffix for suffix in chosen if suffix not in present]:
        raise UserError(f"no arrays of suffix {absent} in {path}; there are {present}.")
    return chosen


def suffix_path(path: PathLike, suffix: int) -> Path:
    """A suffix's `K.npz` if it is there, else its folder."""
    archive = Path(path) / f"{suffix}.npz"
    return archive if os.path.lexists(archive) else Path(path) / str(suffix)


def fingerprints(path: PathLike, suffix: int) -> Fingerprints:
    """Size and checksum of a suffix's files.

    That of an archive is made of its arrays' own checksums; that of a `.npy` file of its first and
    last 64 KiB.

    Raises:
      UserError: where a file can't be read.
    """
    here = suffix_path(path, suffix)
    if here.suffix == ".npz":
        with _open_archive(here) as archive:
            members = [(i.filename, i.CRC, i.file_size) for i in archive.infolist()]
        checksum = zlib.crc32(repr(members).encode())
        return {here.name: [os.path.getsize(here), f"{checksum:08x}"]}
    names = [name for name in LAYOUT if os.path.lexists(here / f"{name}.npy")]
    return {f"{suffix}/{name}.npy": fingerprint(str(here / f"{name}.npy")) for name in names}


@contextlib.contextmanager
def open_suffix(path: PathLike, game: str, suffix: int) -> Iterator[tuple[Columns, Rows]]:
    """Opens a suffix, checks every header, then reads all but the frames.

    Raises:
      UserError: naming the file and what is missing or wrong.
    """
    here = suffix_path(path, suffix)
    with contextlib.ExitStack() as stack:
        opener = _open_members if here.suffix == ".npz" else _open_folder
        rows = {name: Rows(*opened, name) for name, opened in opener(here, stack).items()}
        lengths = {name: r.shape[0] for name, r in rows.items() if r.shape}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{here}: its arrays differ in length: {lengths}. {FIX}")
        arrays = {name: r.read_all() for name, r in rows.items() if name != "frames"}
        found, action_set = str(arrays.pop("game")), str(arrays.pop("action_set"))
        if found != game:
            raise UserError(f"{here} holds play of {found!r}, not of {game}; move it there.")
        if action_set not in ACTION_SETS:
            raise UserError(f"{here}: action_set is {action_set!r}; choose one of {ACTION_SETS}.")
        lookup = games.to_full_actions(game)
        if action_set == "full":
            lookup = np.where(np.isin(np.arange(18), lookup), np.arange(18), -1).astype(np.int32)
        yield Columns(**arrays, lookup=lookup), rows["frames"]


def segments(columns: Columns, kept: Ranges) -> Iterator[tuple[int, Extent]]:
    """(first step, extent) of each episode in the kept steps."""
    length = len(columns.actions)
    ends = np.flatnonzero(columns.terminals) + 1
    bounds = np.unique(np.concatenate([[0, length], ends, np.flatnonzero(columns.starts)]))
    for start, stop in pieces(bounds.tolist(), LONGEST + PADS):
        for low, high in kept:
            first, last = max(start, low), min(stop, high)
            if first < last:
                terminal, starts = bool(columns.terminals[last - 1]), bool(columns.starts[first])
                total = total_reward(columns.rewards[first:last], terminal, starts)
                yield first, Extent(last - first, terminal, starts, total)


@contextlib.contextmanager
def _blaming(where: str) -> Iterator[None]:
    """Turns whatever reading raises into a UserError that names the file."""
    try:
        yield
    except npy.BadArray as error:
        raise UserError(f"{where} {error}. {FIX}") from error
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{where} cannot be read: {reason}. {FIX}") from error


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with contextlib.ExitStack() as stack:
        with _blaming(str(path)):
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise UserError(f"{path} is not a regular file. {FIX}")
            archive = stack.enter_context(zipfile.ZipFile(path))
        yield archive


def _open_members(path: Path, stack: contextlib.ExitStack) -> dict[str, tuple[str, Any, int, int]]:
    """The arguments of `Rows` for each array of an archive."""
    archive, size = stack.enter_context(_open_archive(path)), os.path.getsize(path)
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    _check_names(path, sorted(members))
    opened = {}
    for name in LAYOUT:
        info, where = members[name], f"{path}: {name}"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{where} is packed in another way than np.savez's. {FIX}")
        packed = min(info.compress_size, size)
        most = packed * (npy.MAX_DEFLATE_RATIO if info.compress_type else 1)
        with _blaming(where):
            file = stack.enter_context(archive.open(info))
        opened[name] = (where, file, most, info.file_size)
    return opened


def _open_folder(path: Path, stack: contextlib.ExitStack) -> dict[str, tuple[str, Any, int, int]]:
    """The arguments of `Rows` for each array of a folder."""
    names = list_folder(path)
    _check_names(path, [name.removesuffix(".npy") for name in names if name.endswith(".npy")])
    opened = {}
    for name in LAYOUT:
        where = str(path / f"{name}.npy")
        with _blaming(where):
            status = os.stat(where)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{where} is not a regular file. {FIX}")
            file = stack.enter_context(open(where, "rb"))  # noqa: SIM115
        opened[name] = (where, file, status.st_size, status.st_size)
    return opened


def _check_names(path: Path, there: Sequence[str]) -> None:
    if missing := [name for name in LAYOUT if name not in there]:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(there) or 'nothing'}. "
            "docs/data.md lists the arrays."
        )
