"""Files of unknown origin, local or in a bucket (`gs://`), opened and read without trusting them.

The header of an array is checked before anything is allocated for what it claims, and pickles are
never loaded. Once a gzip stream was read to its end, its checksum and length are verified, and the
file has not changed meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from isal import igzip, isal_zlib
from numpy.lib import format as npy_format

from cql_atari.core.types import UserError

# `verify` writes the file that data.exclude names.
LEAVE_OUT = (
    "leave its suffix out: `python -m cql_atari.tools.verify DATA_DIR --repair=FILE`, then "
    "bind data.exclude = 'FILE'."
)
FIX = f"Replace the file by a sound copy (prepare or record it again), or {LEAVE_OUT}"
_SAVE = f"Save it again in that form, or {LEAVE_OUT}"

_SAMPLE = 1 << 16  # bytes at either end of a file that its fingerprint is taken of
BLOCK = 1 << 20  # bytes read at a time; more no longer fit the processor's cache
MAX_DEFLATE_RATIO = 1032  # deflate's limit: 258 bytes from two bits

_LONGEST_TEXT = 64  # characters of a string
# As NumPy writes it; on Python 2 with an L behind each length.
_PLAIN = re.compile(
    rb"\{'descr': '([|<>=]?[a-zA-Z]\d{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}L?(?:, ?|(?=\))))*)\), \} *\n"
)
_GZIP_DAMAGE = (EOFError, cast(type[Exception], isal_zlib.error))


def fingerprint(path: str) -> list[int | str]:
    """Size in bytes and the CRC-32 (hexadecimal) of the first and the last 64 KiB.

    For files without a checksum of their own, as reading all of them takes too long.

    Raises:
      UserError: as `open_file`.
    """
    with open_file(path) as (file, size), blaming(path):
        checksum = zlib.crc32(file.read(_SAMPLE))
        file.seek(max(size - _SAMPLE, 0))
        checksum = zlib.crc32(file.read(_SAMPLE), checksum)
    return [size, f"{checksum:08x}"]


@contextlib.contextmanager
def open_file(path: str) -> Iterator[tuple[Any, int]]:
    """Opens a file for reading bytes; yields it and its size.

    Raises:
      UserError: where it can't be opened or isn't a regular file.
    """
    with contextlib.ExitStack() as stack:
        with blaming(path):
            if "://" in path:
                import tensorflow as tf

                file = stack.enter_context(tf.io.gfile.GFile(path, "rb"))
                size = tf.io.gfile.stat(path).length
            else:
                size = check_regular(path).st_size
                file = stack.enter_context(open(path, "rb"))
        yield file, size


def check_regular(path: str | os.PathLike[str]) -> os.stat_result:
    """A local file's status; a UserError if it isn't a regular file (a pipe would block)."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file. {FIX}")
    return status


def exists(path: str) -> bool:
    """Whether there is anything at a path or address.

    Raises:
      UserError: where an address can't be asked.
    """
    if "://" not in path:
        return os.path.lexists(path)
    import tensorflow as tf

    with blaming(path):
        return tf.io.gfile.exists(path)


@contextlib.contextmanager
def blaming(
    path: str | os.PathLike[str], *damage: type[Exception], fix: str = FIX
) -> Iterator[None]:
    """Turns what reading raises, an OSError or `damage`, into a UserError that names the file."""
    damage = (OSError, *damage)
    if "://" in str(path):
        import tensorflow as tf

        damage += (tf.errors.OpError,)
    try:
        yield
    except damage as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", error)
        raise UserError(f"{path} cannot be read: {reason}. {fix}") from error


def read_header(
    path: str | os.PathLike[str],
    file: Any,
    dtypes: Sequence[str],
    shape: tuple[int | None, ...],
    most_bytes: int,
) -> tuple[tuple[int, ...], np.dtype]:
    """Reads and checks the header; the array's bytes come next.

    Args:
      path: names the array in errors.
      file: open for reading bytes, at its start. What reading raises passes through.
      dtypes: the dtypes it may have, in native byte order; "str" is a short string.
      shape: the shape it must have; None stands for any length from 1.
      most_bytes: what a file of this size can hold.

    Raises:
      UserError: if it is no plain array, another one, or claims more than it can hold.
    """
    # NumPy's parser gets a bounded copy: a forged header cannot make it read on and on.
    start = file.read(10)
    rest = file.read(int.from_bytes(start[8:], "little"))
    try:
        head = io.BytesIO(start + rest)
        if npy_format.read_magic(head) != (1, 0):
            raise ValueError("not version 1.0 of the format")
        if plain := _PLAIN.fullmatch(rest):
            # Not NumPy's parser: it makes a syntax tree, and where several threads do (files are
            # read by threads, AutoGraph is in another), Python 3.11 can raise a SystemError.
            found = tuple(int(length) for length in re.findall(rb"\d+", plain[3]))
            fortran_order, dtype = plain[2] == b"True", np.dtype(plain[1].decode())
        else:
            found, fortran_order, dtype = npy_format.read_array_header_1_0(head)
    except Exception as error:  # whatever a forged header makes the parser raise
        raise UserError(f"{path} is no plain .npy array: {error}. {FIX}") from error
    if fortran_order and len(found) > 1:
        raise UserError(f"{path} is in Fortran order; expected C order. {_SAVE}")
    fits = len(found) == len(shape) and all(
        length >= 1 if wanted is None else length == wanted for length, wanted in zip(found, shape)
    )
    is_text = dtype.kind == "U" and dtype.itemsize <= 4 * _LONGEST_TEXT
    if not fits or not any(
        is_text if name == "str" else dtype == np.dtype(name) for name in dtypes
    ):
        expected = f"{' or '.join(dtypes)} {str(shape).replace('None', 'N')}"
        raise UserError(f"{path} holds {dtype} {found}; expected {expected}. {_SAVE}")
    claimed = math.prod(found) * dtype.itemsize
    if claimed > most_bytes:
        raise UserError(
            f"{path} claims {claimed:,} bytes, more than the {most_bytes:,} that it can hold. {FIX}"
        )
    return found, dtype


def fill_array(file: Any, array: np.ndarray) -> None:
    """Fills a contiguous array with the next bytes of a file.

    Raises:
      EOFError: where the file ends before; what reading raises passes through.
    """
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        if not (count := file.readinto(view[done : done + BLOCK])):
            raise EOFError("it ends before its array does")
        done += count


def _open_gzip(path: Path) -> igzip.IGzipFile:
    with blaming(path):
        check_regular(path)
        return igzip.open(path, "rb")


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What differs once a file has been written to, cut or replaced."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_unchanged(path: Path, file: igzip.IGzipFile, before: tuple[int, ...]) -> None:
    with blaming(path):
        if not before == _state(os.fstat(file.fileno())) == _state(os.stat(path)):
            raise UserError(f"{path} changed while it was read. Wait until its writer is done.")


def read_bytes(path: Path, limit: int) -> bytes:
    """All that a gzip file holds.

    Raises:
      UserError: if it is damaged, changes meanwhile, or holds more than `limit` bytes.
    """
    with _open_gzip(path) as file, blaming(path, *_GZIP_DAMAGE):
        before = _state(os.fstat(file.fileno()))
        data = b""
        while block := file.read(BLOCK):
            data += block
            if len(data) > limit:
                raise UserError(f"{path} holds more than {limit:,} bytes. {FIX}")
        _check_unchanged(path, file, before)
        return data


class ArrayReader:
    """An array in the `.npy` format, read from an open file towards its end.

    Attributes:
      dtype: the array's dtype.
      shape: the array's shape.
    """

    def __init__(  # noqa: PLR0917
        self,
        where: str | Path,
        file: Any,
        dtypes: Sequence[str],
        shape: tuple[int | None, ...],
        most_bytes: int,
        damage: tuple[type[Exception], ...],
    ) -> None:
        """Reads and checks the header.

        Args:
          where: names the array in errors.
          file: open for reading bytes, at its start.
          dtypes, shape, most_bytes: as `read_header`.
          damage: what reading a damaged file raises, beside OSError.

        Raises:
          UserError: if it isn't such an array, or can't be read.
        """
        self._where, self._file, self._damage = where, file, damage
        with blaming(where, *damage):
            self.shape, self.dtype = read_header(where, file, dtypes, shape, most_bytes)

    def read_into(self, array: np.ndarray) -> None:
        """Fills a contiguous array of the same dtype with the next elements.

        Raises:
          UserError: if the file is damaged or ends before.
        """
        with blaming(self._where, *self._damage):
            fill_array(self._file, array)

    def read_all(self) -> np.ndarray:
        """The whole array, its checksum verified. Only for a file that was not read before."""
        array = np.empty(self.shape, self.dtype)
        self.read_into(array)
        self.finish()
        return array

    def finish(self) -> None:
        """Verifies the checksum, where there is one and every element was read."""
        with blaming(self._where, *self._damage):
            self._file.read(1)


class GzipArray(ArrayReader):
    """An open gzip file of one array, read once from its start to its end.

    Attributes:
      path: the file.
      size: bytes of the file itself.
    """

    def __init__(self, path: Path, dtypes: Sequence[str], shape: tuple[int | None, ...]) -> None:
        """Opens the file and checks its header.

        Args:
          path: the file.
          dtypes: the dtypes it may have, in native byte order.
          shape: the shape it must have; None stands for any length from 1.

        Raises:
          UserError: if it is not a regular file, not readable, not a plain `.npy` array, has
            another dtype or shape, or claims more than a file of its size can hold.
        """
        self.path, file = path, _open_gzip(path)
        status = os.fstat(file.fileno())
        self.size, self._state = status.st_size, _state(status)
        try:
            super().__init__(path, file, dtypes, shape, MAX_DEFLATE_RATIO * self.size, _GZIP_DAMAGE)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        self._file.close()

    def finish(self, remaining: int = 0) -> None:
        """Passes over the `remaining` rows, checks that the stream ends there intact, and closes.

        Raises:
          UserError: if the stream is damaged, ends before or goes on, or the file has changed
            since it was opened.
        """
        row = np.empty(self.shape[1:], self.dtype)
        for _ in range(remaining):
            self.read_into(row)
        with blaming(self.path, *_GZIP_DAMAGE):
            if self._file.read(1):
                raise UserError(f"{self.path} goes on after its array. {FIX}")
        _check_unchanged(self.path, self._file, self._state)
        self.close()
