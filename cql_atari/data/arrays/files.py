"""The files of play as plain arrays: finds the suffixes, opens and checks them.

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
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE, Extent, UserError
from cql_atari.data.arrays.columns import Columns
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
from cql_atari.data.untrusted import (
    FIX,
    MAX_DEFLATE_RATIO,
    ArrayReader,
    blaming,
    check_regular,
    fingerprint,
    open_file,
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
_DAMAGE = (EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)


class Rows(ArrayReader):
    """An open array, read row by row towards its end; never more at once than is asked for."""

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
        super().__init__(where, file, *LAYOUT[name], most_bytes, _DAMAGE)
        self._begin = file.tell()
        claimed = self._begin + math.prod(self.shape) * self.dtype.itemsize
        if claimed != size:
            raise UserError(f"{where} has {size:,} bytes; its header says {claimed:,}. {FIX}")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), behind those that were read before.

        Raises:
          UserError: if the file is damaged or ends before.
        """
        array = np.empty((stop - start, *self.shape[1:]), self.dtype)
        with blaming(self._where, *_DAMAGE):
            self._file.seek(self._begin + start * math.prod(self.shape[1:]) * self.dtype.itemsize)
        self.read_into(array)
        return array


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
        with contextlib.ExitStack() as stack:
            archive = _open_archive(here, stack)
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
        rows = (_open_members if here.suffix == ".npz" else _open_folder)(here, stack)
        lengths = {name: r.shape[0] for name, r in rows.items() if r.shape}
        if len(set(lengths.values())) > 1:
            raise UserError(
                f"{here}: its arrays differ in length: {lengths}; each has a value for "
                "every step (no frame after the last one). Save them again."
            )
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


def spans(columns: Columns, kept: Ranges) -> Iterator[tuple[int, Extent]]:
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


def _open_archive(path: Path, stack: contextlib.ExitStack) -> zipfile.ZipFile:
    with blaming(path, *_DAMAGE):
        check_regular(path)
        return stack.enter_context(zipfile.ZipFile(path))


def _open_members(path: Path, stack: contextlib.ExitStack) -> dict[str, Rows]:
    """The arrays of an archive."""
    archive, size = _open_archive(path, stack), os.path.getsize(path)
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    _check_names(path, sorted(members))
    rows = {}
    for name in LAYOUT:
        info, where = members[name], f"{path}: {name}"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{where} is packed in another way than np.savez's. {FIX}")
        packed = min(info.compress_size, size)
        most = packed * (MAX_DEFLATE_RATIO if info.compress_type else 1)
        with blaming(where, *_DAMAGE):
            file = stack.enter_context(archive.open(info))
        rows[name] = Rows(where, file, most, info.file_size, name)
    return rows


def _open_folder(path: Path, stack: contextlib.ExitStack) -> dict[str, Rows]:
    """The arrays of a folder."""
    names = list_folder(path)
    _check_names(path, [name.removesuffix(".npy") for name in names if name.endswith(".npy")])
    rows = {}
    for name in LAYOUT:
        where = str(path / f"{name}.npy")
        file, size = stack.enter_context(open_file(where))
        rows[name] = Rows(where, file, size, size, name)
    return rows


def _check_names(path: Path, there: Sequence[str]) -> None:
    if missing := [name for name in LAYOUT if name not in there]:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(there) or 'nothing'}. "
            "docs/data.md lists the arrays."
        )
