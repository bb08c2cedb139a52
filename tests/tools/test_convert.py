"""Converting: real processes stopped in every way, and what is refused."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.arrays import reader as arrays
from cql_atari.data.arrays.format import ARRAYS
from cql_atari.data.dopamine import files as replay_files
from cql_atari.data.dopamine import reader as dopamine
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.rlds import files as rlds_files
from cql_atari.data.rlds import reader as rlds
from cql_atari.data.rlds.format import RLDS
from cql_atari.recording import scripted
from cql_atari.recording.folder import Job
from cql_atari.system import cli, signals
from cql_atari.system.files import hold_folder
from cql_atari.tools import convert, pack
from cql_atari.tools.selection import count_steps, select_sources

pytestmark = pytest.mark.slow

GAME = "SpaceInvaders"
SUFFIXES = list(range(7))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven files of real play, the last one in part; episodes are cut at their edges."""
    directory = tmp_path_factory.mktemp("data")
    job = Job(GAME, 1, 1_000, "random", (1.0,), slots_per_file=150, seed=4)
    (directory / GAME / "1").mkdir(parents=True)
    scripted.play_job(job, directory / GAME / "1", lambda steps: None)
    assert replay_files.list_suffixes(directory / GAME / "1" / "replay_logs") == SUFFIXES
    return directory


def start(data: Path, out: Path, *flags: str, **options) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "cql_atari.tools.convert",
        f"--data_dir={data}",
        f"--out_dir={out}",
    ]
    return subprocess.Popen(
        [*command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def target_of(out: Path) -> Path:
    return out / "rlu_atari_checkpoints_ordered" / f"{GAME}_run_1" / "1.1.0"


def job_of(data: Path, out: Path) -> convert.RunToConvert:
    (job,) = convert.runs_to_convert(select_sources(data, out), out)
    return job


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_same_episodes(data: Path, out: Path) -> None:
    expected = list(DOPAMINE.read_episodes(data / GAME / "1" / "replay_logs", GAME))
    found = list(RLDS.read_episodes(target_of(out), GAME))
    assert len(expected) >= 8 and any(not e.starts for e in expected)
    for ours, theirs in zip(found, expected, strict=True):
        defined = len(theirs.frames) - (not theirs.terminal)
        np.testing.assert_equal(ours.frames, theirs.frames)
        np.testing.assert_equal(ours.actions[:defined], theirs.actions[:defined])
        np.testing.assert_equal(ours.rewards[:defined], theirs.rewards[:defined])
        assert ours[4:] == theirs[4:]
    for suffix in SUFFIXES:
        logs = data / GAME / "1" / "replay_logs"
        assert rlds.survey(target_of(out), GAME, suffix) == dopamine.survey(logs, GAME, suffix)


def test_killed_at_any_time_then_resumed(data, tmp_path):
    """kill -9 after the first split shows; its worker goes too; the same command ends the work."""
    target = target_of(tmp_path)
    process = start(data, tmp_path)
    wait_for((target / "dataset_info.json").exists, process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while not is_free(target):  # the worker notices that its parent is gone
        assert time.monotonic() < deadline
        time.sleep(0.01)
    there = rlds_files.list_suffixes(target)
    assert there and there != SUFFIXES
    (target / ".partial").mkdir(exist_ok=True)
    stale = f"rlu_atari_checkpoints_ordered-checkpoint_{len(there):02d}.tfrecord-00007"
    (target / ".partial" / stale).touch()
    before = {path.name: path.stat() for path in target.glob("*checkpoint_00*")}

    out, error = start(data, tmp_path).communicate()
    assert f"{len(SUFFIXES) - len(there)} to convert, {len(there)} there already" in out, error
    assert {path.name: path.stat() for path in target.glob("*checkpoint_00*")} == before
    assert not (target / ".partial").exists() and not (target / stale).exists()
    assert_same_episodes(data, tmp_path)

    third = start(data, tmp_path)
    out, error = third.communicate()
    assert (third.returncode, error) == (0, "")
    assert f"0 to convert, {len(SUFFIXES)} there already" in out
    steps = sum(len(e.frames) for e in RLDS.read_episodes(target, GAME))
    assert f"{steps} steps, {target}" in out


def is_free(target: Path) -> bool:
    lock = os.open(target, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def test_sigterm_leaves_nothing_half_written(data, tmp_path):
    process = start(data, tmp_path)
    partial = target_of(tmp_path) / ".partial"
    wait_for(lambda: any(partial.glob("*tfrecord*")), process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == signals.EXIT_INTERRUPTED, error
    assert "the same command goes on" in error and "Traceback" not in error
    assert not partial.exists()
    convert.convert_run(job_of(data, tmp_path), lambda steps: None)
    assert_same_episodes(data, tmp_path)


def test_a_conversion_at_every_point_of_its_last_steps(data, tmp_path, monkeypatch):
    """The files move one by one; wherever it ends there, the next one makes it whole."""
    from cql_atari.data.rlds import writer

    move, job = writer.files.move, job_of(data, tmp_path)
    for survived in range(4):
        moves = iter(range(survived))

        def die_later(source, target, moves=moves):
            if next(moves, None) is None:
                raise KeyboardInterrupt
            move(source, target)

        monkeypatch.setattr(writer.files, "move", die_later)
        with pytest.raises(KeyboardInterrupt):
            convert.convert_run(job, lambda steps: None)
        assert convert.unfinished(job) == SUFFIXES
    monkeypatch.setattr(writer.files, "move", move)
    reports: list[int] = []
    convert.convert_run(job, reports.append)
    assert sum(reports) == sum(count_steps(job.source, suffix) for suffix in SUFFIXES)
    assert convert.unfinished(job) == []
    assert_same_episodes(data, tmp_path)


def test_damaged_source_names_the_file(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    path = copy / GAME / "1" / "replay_logs" / "$store$_observation_ckpt.1.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # its checksum, the last thing to be read
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        convert.convert_run(job_of(copy, tmp_path / "out"), lambda steps: None)
    assert rlds_files.list_suffixes(target_of(tmp_path / "out")) == [0]
    assert not (target_of(tmp_path / "out") / ".partial").exists()


def test_no_space_is_one_line(data, tmp_path):
    process = start(
        data,
        tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    _, error = process.communicate()
    assert process.returncode == 2
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: can't write") and "free some space" in last, error
    assert not (target_of(tmp_path) / "dataset_info.json").exists()
    assert not (target_of(tmp_path) / ".partial").exists()


def test_another_process_is_refused(data, tmp_path):
    job = job_of(data, tmp_path)
    held = hold_folder(job.target, "held", "--out_dir")
    with held, pytest.raises(UserError, match="another process"):
        convert.convert_run(job, lambda steps: None)


def test_other_data_in_the_target_is_refused(data, tmp_path):
    job = job_of(data, tmp_path)
    job = job._replace(source=job.source._replace(suffixes=(2,)))
    convert.convert_run(job, lambda steps: None)
    assert convert.unfinished(job_of(data, tmp_path)) == [k for k in SUFFIXES if k != 2]
    path = job.target / "conversion.json"
    content = json.loads(path.read_text())
    content["splits"]["2"]["source"]["add_count_ckpt.2.gz"] = [1, "0"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="suffix 2 converted from other files"):
        convert.unfinished(job)
    path.unlink()
    with pytest.raises(UserError, match="suffix 2 that wasn't converted here"):
        convert.unfinished(job)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ((["Breakut"], [], []), "unknown game"),
        ((["Pong"], [], []), "no recorded play of Pong.*There are: SpaceInvaders"),
        (([], [2], []), "no recorded play of run 2"),
        (([GAME], [1, 2], []), rf"no recorded play of {GAME}, run 2, .*There are: {GAME} .run 1."),
        (([], [], [0, 9]), r"suffix \[9\].*there are \[0, 1, .*6\]"),
    ],
)
def test_what_is_not_there(data, tmp_path, wanted, reason):
    with pytest.raises(UserError, match=reason):
        names, runs, suffixes = wanted
        select_sources(data, tmp_path, names, runs=runs, suffixes=suffixes)
    with pytest.raises(UserError, match=r"(?s)no recorded play in --data_dir.*replay_logs"):
        select_sources(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="is --data_dir"):
        select_sources(data, data / GAME / "..")


def test_an_address_stays_one_and_needs_games_and_runs(tmp_path, monkeypatch):
    """As a path, gs://bucket would be the folder bucket in a folder gs:."""
    asked = []
    monkeypatch.setattr(sources, "find_sources", lambda data: asked.append(data.dir) or [])
    select_sources("gs://bucket/dqn", tmp_path, [GAME], runs=[1])
    assert asked == ["gs://bucket/dqn"]
    for names, runs in (([], [1]), ([GAME], [])):
        with pytest.raises(UserError, match=r"gs://bucket/dqn.*give --games and --runs"):
            select_sources("gs://bucket/dqn", tmp_path, names, runs=runs)


@pytest.mark.parametrize("tool", [convert, pack])
def test_the_tools_pass_an_address_on_as_it_is(tool, monkeypatch):
    def stop(data_dir, *_, **__):
        raise UserError(str(data_dir))

    given = SimpleNamespace(data_dir="gs://bucket/dqn", out_dir="o", games=[GAME], exclude=None)
    monkeypatch.setattr(tool, "select_sources", stop)
    monkeypatch.setattr(tool, "flags", SimpleNamespace(FLAGS=given))
    monkeypatch.setattr(cli, "named_folder", lambda flag: Path("o"))
    monkeypatch.setattr(cli, "numbers", lambda flag: [1])
    with pytest.raises(UserError, match=r"^gs://bucket/dqn$"):
        tool.main([])


@pytest.mark.parametrize("form", ["dopamine", "rlds"])
def test_a_folder_may_be_written_with_two_dots(data, tmp_path, monkeypatch, form):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = os.path.relpath(data)
    if form == "rlds":
        convert.convert_run(job_of(data, tmp_path / "rlds"), lambda steps: None)
        folder = "../rlds"
    assert ".." in folder
    assert select_sources(Path(folder), tmp_path / "out")[0].game == GAME


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--suffixes=0,x", "different whole numbers"),
        ("--runs=1,1", "different whole numbers"),
        ("--processes=0", "processes"),
        ("more", "unexpected argument 'more'"),
    ],
)
def test_wrong_flags_are_refused(data, tmp_path, flag, reason):
    process = start(data, tmp_path, flag)
    _, error = process.communicate()
    assert process.returncode not in (0, 75)
    assert reason in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_without_flags_it_says_how_it_is_called():
    command = [sys.executable, "-m", "cql_atari.tools.convert"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "FATAL" not in done.stderr
    assert "--data_dir=DIR --out_dir=OUT" in done.stderr


def test_to_arrays_and_on_to_rlds(data, tmp_path):
    """From `.gz` to arrays to RLDS: the same episodes, the same extents, each way resumable."""
    out = tmp_path / "arrays"
    (there,) = convert.runs_to_convert(select_sources(data, out, suffixes=[0, 3]), out, "arrays")
    convert.convert_run(there, lambda steps: None)
    assert convert.unfinished(there) == []
    (back,) = convert.runs_to_convert(select_sources(out, tmp_path / "rlds"), tmp_path / "rlds")
    assert (back.source.format, back.source.suffixes) == ("arrays", (0, 3))
    convert.convert_run(back, lambda steps: None)
    logs = data / GAME / "1" / "replay_logs"
    for suffix in (0, 3):
        expected = list(DOPAMINE.read_episodes(logs, GAME, [suffix]))
        found = list(ARRAYS.read_episodes(there.target, GAME, [suffix]))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_equal(ours._asdict(), theirs._asdict())
        assert arrays.survey(there.target, GAME, suffix) == dopamine.survey(logs, GAME, suffix)
        assert rlds.survey(back.target, GAME, suffix) == dopamine.survey(logs, GAME, suffix)
    np.load(there.target / "0" / "frames.npy", mmap_mode="r", allow_pickle=False)
