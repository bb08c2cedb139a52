"""A NumPy array in a gzip file, read as a checked stream, never trusting the file.

The header is held against what the file should and can hold before anything is allocated; pickles
are never loaded; a stream that is read to its end has had its checksum and length verified, and the
file has not changed meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from isal import igzip, isal_zlib

from cql_atari.core.types import UserError
from cql_atari.data import npy

FIX = "Replace the file by a sound copy, or leave its suffix out."

_BLOCK = 1 << 20  # bytes decompressed at a time; more no longer fit the processor's cache
_DAMAGE = (OSError, EOFError, cast(type[Exception], isal_zlib.error))


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turns whatever reading raises into a UserError that names the file."""
    try:
        yield
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}. {FIX}") from error


def _open(path: Path) -> igzip.IGzipFile:
    """Opens a gzip file if it is a regular file: a pipe would block for ever."""
    with _blaming(path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a regular file. {FIX}")
        return igzip.open(path, "rb")


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What differs once a file has been written to, cut or replaced."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_unchanged(path: Path, file: igzip.IGzipFile, before: tuple[int, ...]) -> None:
    with _blaming(path):
        if not before == _state(os.fstat(file.fileno())) == _state(os.stat(path)):
            raise UserError(f"{path} changed while it was read. Wait until its writer is done.")


def read_bytes(path: Path, limit: int) -> bytes:
    """All that a gzip file holds.

    Raises:
      UserError: if it is damaged, changes meanwhile, or holds more than `limit` bytes.
    """
    with _open(path) as file, _blaming(path):
        before = _state(os.fstat(file.fileno()))
        data = b""
        while block := file.read(_BLOCK):
            data += block
            if len(data) > limit:
                raise UserError(f"{path} holds more than {limit:,} bytes. {FIX}")
        _check_unchanged(path, file, before)
        return data


class GzipArray:
    """An open file of one array, read once from its start to its end.

    Attributes:
      path: the file.
      dtype: the array's dtype.
      shape: the array's shape.
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
        self.path = path
        self._file = _open(path)
        status = os.fstat(self._file.fileno())
        self.size, self._state = status.st_size, _state(status)
        try:
            with _blaming(path):
                self.shape, self.dtype = npy.read_header(
                    self._file, dtypes, shape, npy.MAX_DEFLATE_RATIO * self.size
                )
        except npy.BadArray as error:
            self.close()
            raise UserError(f"{path} {error}. {FIX}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        self._file.close()

    def read_into(self, array: np.ndarray) -> None:
        """Fills a contiguous array of the same dtype with the next elements.

        Raises:
          UserError: if the stream is damaged or ends before.
        """
        view = array.reshape(-1).view(np.uint8).data
        done = 0
        with _blaming(self.path):
            while done < len(view):
                count = self._file.readinto(view[done : done + _BLOCK])
                if not count:
                    raise EOFError("it ends before its array does")
                done += count

    def read_all(self) -> np.ndarray:
        """The whole array, its checksum verified. Only for a stream that was not read before."""
        array = np.empty(self.shape, self.dtype)
        self.read_into(array)
        self.finish(0)
        return array

    def finish(self, remaining: int) -> None:
        """Passes over the `remaining` rows, checks that the stream ends there intact, and closes.

        Raises:
          UserError: if the stream is damaged, ends before or goes on, or the file has changed
            since it was opened.
        """
        row = np.empty(self.shape[1:], self.dtype)
        for _ in range(remaining):
            self.read_into(row)
        with _blaming(self.path):
            if self._file.read(1):
                raise UserError(f"{self.path} goes on after its array. {FIX}")
        _check_unchanged(self.path, self._file, self._state)
        self.close()
