"""Headers of .npy streams: as NumPy wrote them, on Python 2 too, without its parser."""

from __future__ import annotations

import io

import numpy as np
import pytest

from cql_atari.data import untrusted


def header_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def read(content: bytes, dtype: str, shape: tuple):
    return untrusted.read_header("x.npy", io.BytesIO(content), [dtype], shape, 1 << 20)


@pytest.mark.parametrize("shape", [(5,), (3, 84, 84), (1, 2)])
@pytest.mark.parametrize("dtype", ["u1", "i4", "f4"])
def test_plain_headers_are_read_without_a_syntax_tree(monkeypatch, shape, dtype):
    """Python 3.11 can raise a SystemError where two threads make one at a time."""
    content = header_of(np.zeros(shape, dtype))
    theirs = np.load(io.BytesIO(content))
    monkeypatch.setattr(untrusted.npy_format, "read_array_header_1_0", None)
    assert read(content, dtype, shape) == (theirs.shape, theirs.dtype)


def test_lengths_of_python_2_and_other_writers_blanks():
    content = header_of(np.zeros((7, 84, 84), np.uint8))
    for old, new in ((b"(7, 84, 84)", b"(7L,84L,84)"), (b"'shape': (", b"'shape':  (")):
        assert read(content.replace(old, new), "u1", (None, 84, 84))[0] == (7, 84, 84)
