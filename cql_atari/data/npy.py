"""The header of a `.npy` stream, held against what the array should and can be.

Nothing is allocated for what a forged header claims, and pickles are never loaded.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy

MAX_DEFLATE_RATIO = 1032  # deflate's limit: 258 bytes from two bits

_LONGEST_TEXT = 64  # characters of a string
# As NumPy writes it; on Python 2 with an L behind each length.
_PLAIN = re.compile(
    rb"\{'descr': '([|<>=]?[a-zA-Z]\d{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}L?(?:, ?|(?=\))))*)\), \} *\n"
)


class BadArray(Exception):
    """What a stream is or does that it shouldn't: a predicate to put behind the file's name."""


def read_header(
    file: Any, dtypes: Sequence[str], shape: tuple[int | None, ...], most_bytes: int
) -> tuple[tuple[int, ...], np.dtype]:
    """Reads and checks the header; the array's bytes come next.

    Args:
      file: open for reading bytes, at its start. What reading raises passes through.
      dtypes: the dtypes it may have, in native byte order; "str" is a short string.
      shape: the shape it must have; None stands for any length from 1.
      most_bytes: what a file of this size can hold.

    Raises:
      BadArray: if it is no plain array, another one, or claims more than it can hold.
    """
    # NumPy's parser gets a bounded copy: a forged header cannot make it read on and on.
    start = file.read(10)
    rest = file.read(int.from_bytes(start[8:], "little"))
    try:
        head = io.BytesIO(start + rest)
        if npy.read_magic(head) != (1, 0):
            raise ValueError("not version 1.0 of the format")
        if plain := _PLAIN.fullmatch(rest):
            # Not NumPy's parser: it makes a syntax tree, and where several threads do (files are
            # read by threads, AutoGraph is in another), Python 3.11 can raise a SystemError.
            found = tuple(int(length) for length in re.findall(rb"\d+", plain[3]))
            fortran_order, dtype = plain[2] == b"True", np.dtype(plain[1].decode())
        else:
            found, fortran_order, dtype = npy.read_array_header_1_0(head)
    except Exception as error:  # whatever a forged header makes the parser raise
        raise BadArray(f"is no plain .npy array: {error}") from error
    if fortran_order and len(found) > 1:
        raise BadArray("is in Fortran order; expected C order")
    fits = len(found) == len(shape) and all(
        length >= 1 if wanted is None else length == wanted for length, wanted in zip(found, shape)
    )
    is_text = dtype.kind == "U" and dtype.itemsize <= 4 * _LONGEST_TEXT
    if not fits or not any(
        is_text if name == "str" else dtype == np.dtype(name) for name in dtypes
    ):
        expected = f"{' or '.join(dtypes)} {str(shape).replace('None', 'N')}"
        raise BadArray(f"holds {dtype.str} {found}; expected {expected}")
    claimed = math.prod(found) * dtype.itemsize
    if claimed > most_bytes:
        raise BadArray(f"claims {claimed:,} bytes, more than the {most_bytes:,} that it can hold")
    return found, dtype
