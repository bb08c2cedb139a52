"""Hostile and broken files, against the reader and `verify`: neither hangs, trusts or allocates."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import test_gzip_array as streams
from dopamine_files import CAPACITY, GAME, check_error, file_of, load, read_all, steps_of, store
from dopamine_files import write_run as write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cql_atari.core.types import UserError
from cql_atari.data.dopamine import check as verify
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.shared import EVERYTHING

pytestmark = pytest.mark.timeout(60)

DAMAGES = (
    streams.cut_stream,
    streams.cut_trailer,
    streams.without_trailer,
    streams.wrong_checksum,
    streams.wrong_length,
    streams.garbage_behind,
    streams.not_gzip,
    streams.empty,
    streams.empty_stream,
)


def wrong_files(run: Path) -> list[Path]:
    """The files in which `verify` finds something; what it leaves out must let the reader pass."""
    files, left_out = verify.check_suffix(run, GAME, 0, lambda _: None)
    list(DOPAMINE.read_episodes(run, GAME, [0], left_out={0: left_out}))
    return [file.path for file in files if file.problems]


@pytest.mark.parametrize("name", streams.ALL)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_streams_are_told(run, name, damage):
    path = file_of(run, name)
    path.write_bytes(damage(path.read_bytes()))
    assert wrong_files(run) == [path]


def remove(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(10**6)))


def forged_shape(path: Path) -> None:
    path.write_bytes(gzip.compress(streams.header("|u1", f"({2**62}, 84, 84)") + bytes(100)))


def objects(path: Path) -> None:
    store(path, np.array([streams.ALL] * CAPACITY, object), allow_pickle=True)


def big_endian(path: Path) -> None:
    store(path, load(path).astype(">i8"))


def complex_numbers(path: Path) -> None:
    store(path, load(path).astype(complex))


@pytest.mark.parametrize("name", streams.MEMBERS)
@pytest.mark.parametrize(
    "damage",
    [
        remove,
        directory,
        pipe,
        link_loop,
        longer,
        forged_shape,
        objects,
        big_endian,
        complex_numbers,
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_forged_files_are_told(run, name, damage):
    damage(file_of(run, name))
    assert wrong_files(run) == [file_of(run, name)]


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(streams.ALL), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_flipped_bits_are_told_or_change_nothing(sound, run, name, place, mask):
    path = file_of(run, name)
    intact = path.read_bytes()
    data = bytearray(intact)
    data[int(place * len(data))] ^= mask
    path.write_bytes(data)
    try:
        if not wrong_files(run):
            np.testing.assert_equal(read_all(run, [0]), read_all(sound, [0]))
    finally:
        path.write_bytes(intact)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", [None, *streams.ALL])
def test_no_read_permission(sound, name):
    """Of the folder itself (None), or of one of its files."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as parent:  # others are root's alone
        os.chmod(parent, 0o755)
        run = Path(shutil.copytree(sound, Path(parent) / "replay_logs"))
        run.chmod(0o755)
        path = file_of(run, name) if name else run
        path.chmod(0)
        with as_nobody():
            check_error(run, str(path), "Permission denied")
            if name:
                assert wrong_files(run) == [path]
        path.chmod(stat.S_IRWXU)


class Race:
    """Ways in which another process may interfere with a file that is being read."""

    @staticmethod
    def truncate(path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)

    @staticmethod
    def append(path: Path) -> None:
        with open(path, "ab") as file:
            file.write(b"more")

    @staticmethod
    def replace(path: Path) -> None:
        other = path.with_name("other")
        shutil.copy2(path, other)  # the same size, time and contents
        os.replace(other, path)

    @staticmethod
    def rewrite(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        with open(path, "r+b") as file:
            file.write(data)
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**7))  # as a clock tick later

    @staticmethod
    def remove(path: Path) -> None:
        path.unlink()


RACES = [getattr(Race, name) for name in vars(Race) if not name.startswith("_")]


@pytest.mark.parametrize("interfere", RACES)
def test_a_file_that_changes_while_it_is_read(run, interfere):
    path = file_of(run, "$store$_observation")
    episodes = DOPAMINE.read_episodes(run, GAME, [0])
    next(episodes)
    interfere(path)
    with pytest.raises(UserError, match=r"changed while it was read|cannot be read") as info:
        list(episodes)
    assert str(path) in str(info.value)


@pytest.mark.parametrize("interfere", RACES)
def test_verify_tells_of_a_file_that_changes(run, interfere):
    path = file_of(run, "$store$_observation")
    files, left_out = verify.check_suffix(run, GAME, 0, lambda _: interfere(path))
    assert [file.path for file in files if file.problems] == [path]
    assert left_out == [EVERYTHING]


def test_a_large_file_cut_while_it_is_read(tmp_path):
    """More than fits the decoder's buffer: the end itself goes missing."""
    write(tmp_path, steps_of(10, 400), 420)
    path = file_of(tmp_path, "$store$_observation")
    frames = np.random.default_rng(0).integers(1, 255, (420, 84, 84), np.uint8)
    store(path, np.where(load(path).any((1, 2), keepdims=True), frames, 0))
    episodes = DOPAMINE.read_episodes(tmp_path, GAME, [0])
    next(episodes)
    os.truncate(path, 1_000_000)
    with pytest.raises(UserError, match="ended before"):
        list(episodes)


_BOUNDED = """
import json, resource, sys
from pathlib import Path
from cql_atari.data.dopamine import check
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.core.types import UserError

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for run in json.loads(sys.argv[1]):
    try:
        list(DOPAMINE.read_episodes(run, "Breakout"))
        print("read")
    except UserError as error:
        pass
    files, left_out = check.check_suffix(Path(run), "Breakout", 0, lambda _: None)
    print([f.path.name for f in files if f.problems], left_out)
"""


def test_bombs_and_forged_shapes_in_64_mb(sound, tmp_path):
    """Gigabytes claimed or hidden in small files: refused within 64 MB of address space."""
    zeros = gzip.compress(bytes(1 << 20), 9)
    claims = {  # claimed dtype and shape, and whether a gigabyte of zeros follows
        "observation": ("|u1", "(10000000, 84, 84)", False),
        "action": ("<i4", "(1000000000,)", False),
        "reward": ("<f4", f"({CAPACITY},)", True),
        "terminal": ("|u1", "(1000000000,)", True),
        "invalid_range": ("<i8", "(125000000,)", True),
        "add_count": ("<i8", "()", True),
    }
    jobs, expected = [], []
    for name, (dtype, shape, follows) in claims.items():
        run = Path(shutil.copytree(sound, tmp_path / name))
        for path in run.glob("*_ckpt.1.gz"):
            path.unlink()
        member = name if name in ("invalid_range", "add_count") else f"$store$_{name}"
        path = file_of(run, member)
        body = zeros * (1 << 10) if follows else b""
        path.write_bytes(gzip.compress(streams.header(dtype, shape)) + body)
        jobs.append(str(run))
        expected.append(f"{[path.name]} {[EVERYTHING]}")
    command = [sys.executable, "-c", _BOUNDED, json.dumps(jobs)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout.splitlines() == expected, found.stderr
