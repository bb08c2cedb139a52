"""TFRecord files: read as TensorFlow writes them, refused where anything is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cql_atari.core.types import UserError
from cql_atari.data.rlds import files
from cql_atari.data.rlds.crc32c import crc32c

RECORDS = [b"first", b"", b"the third record"]
STARTS = (0, 16 + 5, 32 + 5)


def read(path: Path, keep=(True, True, True)) -> list[tuple[int, bytes]]:
    return list(files.records(str(path), keep))


@pytest.fixture
def path(tmp_path) -> Path:
    name = tmp_path / "file.tfrecord"
    write(name, RECORDS)
    return name


def write(path: Path, records: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(path)) as file:
        for data in records:
            file.write(data)


def test_checksum_of_known_messages():
    """RFC 3720, B.4, and the catalogue's check value."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.integers(0, 70_000))
def test_reads_what_tensorflow_writes(tmp_path_factory, records, size):
    records.append(np.random.default_rng(size).bytes(size))
    path = tmp_path_factory.mktemp("tfrecord") / "file"
    write(path, records)
    assert read(path, [True] * len(records)) == list(enumerate(records))


def test_passes_over_records_unread(path):
    data = bytearray(path.read_bytes())
    data[STARTS[0] + 13] ^= 1  # the first record's data
    data[STARTS[2] + 1] ^= 1  # the third one's length
    path.write_bytes(data)
    assert read(path, [False, True, False]) == [(1, b"")]
    assert read(path.with_name("absent"), [False, False]) == []
    with pytest.raises(UserError, match="record 0 of 3: its checksum"):
        read(path)


def test_every_flipped_bit_is_found(path):
    sound = path.read_bytes()
    for bit in range(8 * len(sound)):
        data = bytearray(sound)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"record \d of 3.*checksum") as info:
            read(path)
        assert str(path) in str(info.value)


def test_every_cut_is_found(path):
    """Between two records too, which TensorFlow takes for the file's end."""
    sound = path.read_bytes()
    for size in range(len(sound)):
        path.write_bytes(sound[:size])
        with pytest.raises(UserError, match=r"record \d of 3.*the file is cut"):
            read(path)


def test_goes_on(path):
    write(path, [*RECORDS, b"more"])
    with pytest.raises(UserError, match="goes on after its 3 records"):
        read(path)
    assert len(read(path, [True, True, True, False])) == 3


@pytest.mark.parametrize("length", [10**3, 10**14, 2**62, 2**64 - 1])
def test_forged_length_with_its_checksum(path, length):
    """TensorFlow's reader ends the process at some of these."""
    header = length.to_bytes(8, "little")
    crc = crc32c(header)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    path.write_bytes(header + masked.to_bytes(4, "little") + bytes(50))
    with pytest.raises(UserError, match="record 0 of 3 goes beyond the file's end"):
        read(path)


def test_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("loop", tmp_path / "loop")
    for path, reason in (
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "loop", "Too many levels"),
        (tmp_path / "absent", "No such file"),
    ):
        with pytest.raises(UserError, match=reason) as info:
            read(path)
        assert str(path) in str(info.value)


def test_local_files_need_no_tensorflow(path):
    script = (
        "import sys; from cql_atari.data.rlds import files;"
        "assert len(list(files.records(sys.argv[1], [True] * 3))) == 3;"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)
