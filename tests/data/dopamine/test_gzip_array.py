"""Broken and hostile files: each is a clear error that names the file; none hangs."""

from __future__ import annotations

import gzip
import os
import struct

import numpy as np
import pytest
from dopamine_files import CAPACITY, check_error, file_of, load, read_all, store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cql_atari.core.types import UserError

pytestmark = pytest.mark.timeout(60)

MEMBERS = (
    "$store$_observation",
    "$store$_action",
    "$store$_reward",
    "$store$_terminal",
    "add_count",
    "invalid_range",
)
ALL = (*MEMBERS, "episode_end_indices")


def header(dtype: str, shape: str) -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def cut_stream(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_trailer(data: bytes) -> bytes:
    return data[:-1]


def without_trailer(data: bytes) -> bytes:
    return data[:-8]


def wrong_checksum(data: bytes) -> bytes:
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


def wrong_length(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def garbage_behind(data: bytes) -> bytes:
    return data + b"garbage"


def not_gzip(data: bytes) -> bytes:
    return gzip.decompress(data)


def empty(data: bytes) -> bytes:
    return b""


def empty_stream(data: bytes) -> bytes:
    return gzip.compress(b"")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "damage",
    [
        cut_stream,
        cut_trailer,
        without_trailer,
        wrong_checksum,
        wrong_length,
        garbage_behind,
        not_gzip,
        empty,
        empty_stream,
    ],
)
def test_damaged_stream(run, name, damage):
    path = file_of(run, name)
    path.write_bytes(damage(path.read_bytes()))
    check_error(run, str(path))


@pytest.mark.parametrize("name", MEMBERS)
def test_array_that_goes_on(run, name):
    path = file_of(run, name)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(10**7)))
    check_error(run, str(path), "goes on")


@pytest.mark.parametrize("name", MEMBERS)
def test_array_that_is_not_complete(run, name):
    path = file_of(run, name)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    check_error(run, str(path), "ends before its array")


@settings(
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(ALL), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_flipped_bits_change_nothing_or_are_an_error(sound, run, name, place, mask):
    path = file_of(run, name)
    intact = file_of(sound, name).read_bytes()
    data = bytearray(intact)
    data[int(place * len(data))] ^= mask
    path.write_bytes(data)
    try:
        episodes = read_all(run)
    except UserError as error:
        assert str(path) in str(error)
    else:  # bytes of gzip's header that say nothing of the data, such as its time
        np.testing.assert_equal(episodes, read_all(sound))
    finally:
        path.write_bytes(intact)


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("$store$_observation", "|u1", "(10000000000, 84, 84)"),
        ("$store$_observation", "|u1", f"({2**62}, 84, 84)"),
        ("$store$_action", "<i4", "(1000000000000,)"),
        ("invalid_range", "<i8", f"({2**63},)"),
    ],
)
def test_forged_shape(run, name, dtype, shape):
    path = file_of(run, name)
    path.write_bytes(gzip.compress(header(dtype, shape) + bytes(100)))
    check_error(run, str(path), "can hold")


@pytest.mark.parametrize(
    "stream",
    [
        header("|u1", "(-1, 84, 84)"),
        header("|u1", "(0, 84, 84)"),
        header("|u1", "(40, 84, 84.0)"),
        header("|u1", "(40, 84, 84, 1)"),
        header("|u1", "()"),
        header("|O", "(40, 84, 84)"),
        header("nonsense", "(40, 84, 84)"),
        header("|u1", "(" * 9000),
        header("|u1", "-" * 9000 + "1"),
        header("|u1", "(40, 84, 84)" + " " * 20000),
        header("|u1", "__import__('os').abort()"),
        b"\x93NUMPY\x02\x00" + b"\xff" * 1000,
        b"\x93NUMPY\x01\x00\xff\xff" + bytes(70_000),
        b"\x80\x04N.",
        bytes(1000),
    ],
)
def test_forged_header(run, stream):
    path = file_of(run, "$store$_observation")
    path.write_bytes(gzip.compress(stream))
    check_error(run, str(path))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("$store$_observation", "int8"),
        ("$store$_observation", "float32"),
        ("$store$_action", ">i4"),
        ("$store$_action", "uint8"),
        ("$store$_reward", ">f4"),
        ("$store$_reward", "int32"),
        ("$store$_terminal", "bool"),
        ("add_count", ">i8"),
        ("add_count", "float64"),
        ("invalid_range", "complex64"),
    ],
)
def test_wrong_dtype(run, name, dtype):
    path = file_of(run, name)
    array = load(path)
    with np.errstate(invalid="ignore"):  # NaN in a stale slot
        store(path, array.astype(dtype))
    check_error(run, str(path), str(np.dtype(dtype)), "expected")


def test_fortran_order(run):
    path = file_of(run, "$store$_observation")
    store(path, np.asfortranarray(load(path)))
    check_error(run, str(path), "Fortran")


@pytest.mark.parametrize("name", MEMBERS)
def test_object_array_is_never_unpickled(run, name):
    class Trap:
        def __reduce__(self):
            return os.abort, ()

    path = file_of(run, name)
    store(path, np.array([Trap()] * CAPACITY, object), allow_pickle=True)
    check_error(run, str(path), "object")


@pytest.mark.parametrize("name", ALL)
def test_directory_instead_of_file(run, name):
    path = file_of(run, name)
    path.unlink()
    path.mkdir()
    check_error(run, str(path), "not a regular file")


@pytest.mark.parametrize("name", ALL)
def test_pipe_instead_of_file(run, name):
    path = file_of(run, name)
    path.unlink()
    os.mkfifo(path)
    check_error(run, str(path), "not a regular file")


@pytest.mark.parametrize("name", ALL)
def test_symbolic_link_loop(run, name):
    path = file_of(run, name)
    path.unlink()
    path.symlink_to(path.name)
    check_error(run, str(path), "symbolic links")
