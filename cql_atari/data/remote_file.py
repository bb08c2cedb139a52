"""Files on disk or in a bucket (`gs://`), opened without trusting them."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from typing import Any

from cql_atari.core.types import UserError

FIX = "Replace the file by a sound copy (prepare or record it again), or leave its suffix out."

_SAMPLE = 1 << 16  # bytes at either end of a file that its fingerprint is taken of


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
      UserError: where it can't be opened or isn't a regular file (a pipe would block for ever).
    """
    with contextlib.ExitStack() as stack:
        with blaming(path):
            if "://" in path:
                import tensorflow as tf

                file = stack.enter_context(tf.io.gfile.GFile(path, "rb"))
                size = tf.io.gfile.stat(path).length
            else:
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    raise UserError(f"{path} is not a regular file. {FIX}")
                file, size = stack.enter_context(open(path, "rb")), status.st_size
        yield file, size


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
def blaming(path: str) -> Iterator[None]:
    """Turns whatever reading raises into a UserError that names the file."""
    damage: tuple[type[Exception], ...] = (OSError,)
    if "://" in path:
        import tensorflow as tf

        damage += (tf.errors.OpError,)
    try:
        yield
    except damage as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", error)
        raise UserError(f"{path} cannot be read: {reason}. {FIX}") from error
