"""Reads a file of observations to its end, in a megabyte of memory, and describes its frames."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import FRAME_SHAPE, UserError
from cql_atari.data.untrusted import GzipArray

_BLOCK = 148  # frames at a time, 1 MB: more would not stay in the processor's cache
_LONGEST_HEADER = 1 << 17  # bytes before the data of a .npy file, and more


class Frames(NamedTuple):
    """What was found in an observation file.

    Attributes:
      zero: bool [N], whether a frame is all zero.
      blank: bool [N], whether it is of one colour.
      still: bool [N], whether it equals the one before.
      read: whole frames that were read.
      error: why reading ended before the file was found sound; None if it is sound.
      cut: whether the file only ends too early.
    """

    zero: np.ndarray
    blank: np.ndarray
    still: np.ndarray
    read: int
    error: UserError | None
    cut: bool


def scan(file: GzipArray, report: Callable[[int], None], rows: int = _BLOCK) -> Frames:
    """Reads an open observation file to its end.

    Args:
      file: nothing of it has been read.
      report: called now and then with the bytes of the file done since the last call.
      rows: how many frames at a time.
    """
    slots = file.shape[0]
    zero, blank, still = (np.zeros(slots, bool) for _ in range(3))
    block = np.zeros((1 + rows, math.prod(FRAME_SHAPE)), np.uint8)  # led by the frame before
    start = 0
    try:
        for start in range(0, slots, rows):
            stop = min(start + rows, slots)
            new = block[1 : 1 + stop - start]
            file.read_into(new)
            highest = new.max(axis=1)
            zero[start:stop] = highest == 0
            blank[start:stop] = highest == new.min(axis=1)
            words = block[: 1 + stop - start].view(np.uint64)
            still[start:stop] = (words[1:] == words[:-1]).all(axis=1)
            block[0] = new[-1]
            report(file.size * stop // slots - file.size * start // slots)
        start = slots
        file.finish(0)
    except UserError as error:
        cut = _is_cut(file, error)
        if not cut or rows == 1:
            return Frames(zero, blank, still, start, error, cut)
        again = GzipArray(file.path, [file.dtype.name], file.shape)
        with contextlib.closing(again):  # frame by frame, to find the last whole one
            return scan(again, lambda _: None, rows=1)
    return Frames(zero, blank, still, slots, None, cut=False)


def _is_cut(file: GzipArray, error: UserError) -> bool:
    """Whether a file just ends too early; one that still ends with its own length is damaged."""
    if not isinstance(error.__cause__, EOFError):
        return False
    try:
        with open(file.path, "rb") as raw:
            raw.seek(-4, os.SEEK_END)
            length = int.from_bytes(raw.read(4), "little")
    except OSError:  # gone meanwhile
        return False
    return (length - math.prod(file.shape)) % 2**32 > _LONGEST_HEADER
