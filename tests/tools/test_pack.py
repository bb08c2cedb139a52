"""Packing real play: killed and gone on with, what is refused, and a run that trains on it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.packed import files
from cql_atari.data.packed.format import PACKED
from cql_atari.recording import scripted
from cql_atari.recording.folder import Job
from cql_atari.tools import pack
from cql_atari.tools.selection import select_sources

ROOT = Path(__file__).resolve().parents[2]
GAMES = tiny.GAMES


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four files a game of real play, the last one in part; episodes are cut at their edges."""
    directory = tmp_path_factory.mktemp("data")
    for game in GAMES:
        job = Job(game, 1, 500, "random", (1.0,), slots_per_file=150, seed=4)
        (directory / game / "1").mkdir(parents=True)
        scripted.play_job(job, directory / game / "1", lambda steps: None)
    return directory


def start(data, out, *flags, driver=("-m", "cql_atari.tools.pack")):
    return subprocess.Popen(
        [sys.executable, *driver, f"--data_dir={data}", f"--out_dir={out}", *flags],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(data, out, *flags, **options):
    process = start(data, out, *flags, **options)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def check(data, out):
    for game in GAMES:
        logs = data / game / "1" / "replay_logs"
        ours = list(PACKED.read_episodes(files.folder(out, game, 1), game))
        theirs = list(DOPAMINE.read_episodes(logs, game))
        assert len(ours) == len(theirs) > 3
        for a, b in zip(ours, theirs):
            assert (a.terminal, a.starts) == (b.terminal, b.starts)
            for x, y in zip(a[1:4], b[1:4]):
                np.testing.assert_array_equal(x, y)


# Stops for good in the midst of the third suffix, as if a process there were slow.
DRIVER = """
import sys, time
from cql_atari.data.packed import writer
from cql_atari.system import cli
from cql_atari.tools import pack
compress, written = writer.compress, []

def slow(steps):
    if len(written) > 50:
        print("midst", flush=True)
        time.sleep(1000)
    written.append(steps)
    return compress(steps)

writer.compress = slow

def here(work, jobs, processes, total, title):
    for job in jobs:
        work(job, lambda steps: None)

from cql_atari.system import worker_pool
worker_pool.run_jobs = here
pack._define_flags()
cli.run(pack.main)
"""


def test_a_killed_one_goes_on_and_gives_what_the_files_hold(data, tmp_path):
    process = start(data, tmp_path, driver=("-c", DRIVER))
    for line in process.stdout:
        if line == "midst\n":
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.index")}
    assert 0 < len(there) < 8
    assert list(tmp_path.rglob("*.partial"))

    code, output, errors = run(data, tmp_path)
    assert code == 0, errors
    assert f"{8 - len(there)} suffixes to pack, {len(there)} there already." in output
    assert all(path.stat().st_mtime_ns == before for path, before in there.items())
    assert not list(tmp_path.rglob("*.partial"))
    check(data, tmp_path)


@pytest.fixture(scope="module")
def packed(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    for job in jobs_of(data, out):
        pack.pack_suffix(job, lambda steps: None)
    return out


def jobs_of(data, out):
    return pack.suffixes_to_pack(select_sources(data, out, runs=[1]), out)


def test_a_changed_source_is_noticed(data, packed):
    jobs = jobs_of(data, packed)
    assert all(map(pack.is_packed, jobs))
    other = {suffix: {"observation": [1, "ab"]} for suffix in jobs[0].source.files}
    jobs = [job._replace(source=job.source._replace(files=other)) for job in jobs]
    with pytest.raises(UserError, match=r"0.index was packed from other files.*--out_dir"):
        pack.pack_all(jobs, 1)


def test_other_exclusions_are_another_source(data, packed):
    job = jobs_of(data, packed)[0]
    other = job._replace(source=job.source._replace(left_out={0: [(3, 9)]}))
    with pytest.raises(UserError, match="packed from other files"):
        pack.is_packed(other)


def test_its_own_folder_is_refused(data):
    with pytest.raises(UserError, match="a folder of its own"):
        jobs_of(data, data)


def test_a_folder_without_play_is_refused(tmp_path):
    with pytest.raises(UserError, match="no recorded play of run 1"):
        jobs_of(tmp_path, tmp_path / "out")


def test_only_one_process_packs_into_a_folder(data, tmp_path):
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    code, _, errors = run(data, tmp_path)
    os.close(lock)
    assert code == 2 and "another process is packing" in errors and "Traceback" not in errors


@pytest.mark.slow
def test_a_damaged_segment_ends_a_run_with_one_clear_error(packed, tmp_path):
    """Also where nothing was drawn from it until the middle of the run."""
    copy = tmp_path / "data"
    for path in packed.rglob("*.*"):
        (copy / path.relative_to(packed)).parent.mkdir(parents=True, exist_ok=True)
        content = bytearray(path.read_bytes())
        if path.suffix == ".segments":
            content[len(content) // 2] ^= 1
        (copy / path.relative_to(packed)).write_bytes(content)
    config = tiny.config(f"data.dir = '{copy}'", "data.suffixes = None", "feed.kind = 'packed'")
    bindings = [f"--gin_bindings={b}" for b in tiny.BINDINGS if "feed.kind" not in b]
    done = subprocess.run(
        [sys.executable, "-m", "cql_atari.train", f"--workdir={tmp_path / 'run'}", *bindings,
         f"--gin_bindings=data.dir = '{copy}'", "--gin_bindings=data.suffixes = None",
         "--gin_bindings=feed.kind = 'packed'", "--gin_bindings=train.steps = 400"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert sources.find_sources(config.data)[0].format == "packed"
    assert done.returncode == 2, done.stderr
    assert ".segments is damaged" in done.stderr and "pack it again" in done.stderr
    assert "Traceback" not in done.stderr
