"""`python -m cql_atari.tools.verify`: what it finds, prints, writes, refuses, and how it ends."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dopamine_files import GAME, file_of, load, steps_of, store, write_run

from cql_atari.core import settings
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.shared import EVERYTHING, Recording
from cql_atari.tools import verify

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def tree(tmp_path) -> Path:
    """A data folder: Breakout run 1 (suffixes 0 and 1) and run 12, Pong run 2; and other things."""
    data = tmp_path / "data"
    for run, steps in (("Breakout/1", (5, 10, 30)), ("Breakout/12", (9,)), ("Pong/2", (20,))):
        logs = data / run / "replay_logs"
        logs.mkdir(parents=True)
        write_run(logs, steps_of(*steps), 40)
    (data / "notes" / "1").mkdir(parents=True)
    (data / "Breakout" / ".2.partial" / "replay_logs").mkdir(parents=True)
    return data


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cql_atari.tools.verify", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False
    )


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_sound_data(tree):
    done = run(tree)
    assert done.returncode == 0
    head, *rows, last = done.stdout.splitlines()
    files = len(list(tree.rglob("*.gz")))
    assert head.split() == ["status", "entries", "first", "bad", "file"]
    rows = [row for row in rows if row and not row.startswith(" ")]
    assert [row.split()[0] for row in rows] == ["ok"] * (files - 2) + ["warning"] * 2
    assert {row.split()[-1] for row in rows} == set(map(str, tree.rglob("*.gz")))
    # Two partial files hold what was in memory when their slots were made.
    assert last == f"{files} files checked, 0 wrong, 2 with warnings."


@pytest.mark.parametrize(
    ("below", "expected"),
    [
        ("", {"Breakout/1", "Breakout/12", "Pong/2"}),
        ("Breakout", {"Breakout/1", "Breakout/12"}),
        ("Breakout/1", {"Breakout/1"}),
        ("Pong/2/replay_logs", {"Pong/2"}),
    ],
)
def test_any_level_of_the_layout_may_be_given(tree, below, expected, monkeypatch):
    assert {f"{r.game}/{r.run}" for _, r in verify.recordings_in(tree / below)} == expected
    monkeypatch.chdir(tree / below)
    assert {f"{r.game}/{r.run}" for _, r in verify.recordings_in(Path("."))} == expected


def test_rlds_is_found_at_any_level(tmp_path):
    folder = tmp_path / "rlu_atari_checkpoints_ordered" / "Pong_run_3"
    for version in ("1.1.0", "1.10.0", "1.9.0", "1..0", "\u00b2"):
        (folder / version).mkdir(parents=True)
        (folder / version / "dataset_info.json").write_text("{}")
    newest = Recording("Pong", 3, str(folder / "1.10.0"), str(tmp_path))
    for given in (tmp_path, folder.parent, folder, folder / "1.10.0"):
        assert [(kind.name, found) for kind, found in verify.recordings_in(given)] == [
            ("rlds", newest)
        ]


def test_faults_are_named_with_file_and_index_and_repaired(tree, tmp_path):
    logs = tree / GAME / "1" / "replay_logs"
    rewards = file_of(logs, "$store$_reward")
    values = load(rewards)
    values[[12, 14]] = np.nan
    store(rewards, values)
    file_of(logs, "add_count", 1).unlink()
    before = snapshot(tree)
    repair = tmp_path / "exclude.json"
    done = run(tree, f"--repair={repair}")
    assert done.returncode == 1, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line]
    states = [row[0] for row in rows if row[0] in ("ok", "WRONG")]
    assert states == ["ok"] * (len(before) - 3) + ["WRONG"] * 2  # at last, where it is seen
    assert ["WRONG", "40", "12", str(rewards)] in rows
    assert ["WRONG", "-", "-", str(file_of(logs, "add_count", 1))] in rows
    assert "entry 12 is nan (2 such)" in done.stdout
    assert snapshot(tree) == before
    assert json.loads(repair.read_text()) == {
        "format": "cql_atari exclusions 1",
        "exclude": {"Breakout/1": {"0": [[8, 21]], "1": [list(EVERYTHING)]}},
    }
    # What training would read of it, without an error.
    data = settings.Data(
        dir=str(tree), games=(GAME,), runs=(1,), suffixes=None, exclude=str(repair)
    )
    (source,) = sources.find_sources(data)
    lengths = [
        len(episode.frames) for k in source.suffixes for episode in sources.read_part(source, k)
    ]
    assert lengths == [5, 15]


@pytest.mark.slow
def test_repair_never_touches_the_data(tree, tmp_path):
    (tmp_path / "link").symlink_to(tree / GAME)
    before = snapshot(tree)
    for given, inside in (
        (tree, tree / "x.json"),
        (tree, tree / GAME / "1" / "x.json"),
        (tree, tmp_path / "link" / "x.json"),
        (tree / GAME, tmp_path / "link" / "1" / "x.json"),
        (tree / GAME / "1" / "replay_logs", tmp_path / "link" / "1" / "replay_logs" / "x.json"),
    ):
        done = run(given, f"--repair={inside}")
        assert done.returncode == 2 and "is inside the data" in done.stderr
    done = run(tree, f"--repair={tmp_path / 'absent' / 'x.json'}")
    assert done.returncode == 2 and "can't be written" in done.stderr
    assert "can't be written" in run(tree, "--repair=").stderr  # a shell's variable that isn't set
    assert snapshot(tree) == before


def test_broken_runs_are_told_not_passed_over(tree):
    (tree / "Pong" / "3" / "replay_logs").mkdir(parents=True)
    (tree / "Pong" / "4").mkdir()
    logs = tree / "Pong" / "5" / "replay_logs"
    logs.parent.mkdir()
    logs.symlink_to("replay_logs")
    done = run(tree)
    assert done.returncode == 1
    for number in (3, 4, 5):
        assert f"WRONG{'-':>15}{'-':>12}  {tree}/Pong/{number}/replay_logs" in done.stdout
    assert "3 wrong" in done.stdout


def test_mistakes_of_the_user(tree, tmp_path):
    for arguments, words in (
        ((), "give one folder"),
        ((tree, tree), "give one folder"),
        ((tmp_path / "absent",), "cannot list"),
        ((tree / "notes",), "no recorded play"),
        ((tree, "--repare=x"), "repair"),
    ):
        start = time.monotonic()
        done = run(*arguments)
        assert done.returncode not in (0, 75) and words in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert time.monotonic() - start < 10
    (tree / "Pongg").mkdir()
    shutil.move(tree / "Pong" / "2", tree / "Pongg" / "2")
    with pytest.raises(UserError, match="did you mean Pong"):
        verify.recordings_in(tree)
    (tree / "Pongg").rename(tree / "Pong2")
    (tree / "Qbert").symlink_to("Qbert")
    with pytest.raises(UserError, match="leads nowhere"):
        verify.recordings_in(tree)


def write_black(data: Path, blocks: int) -> None:
    """One suffix of `blocks` x 148 black frames, 1 MB each, and nothing else."""
    slots = 148 * blocks
    logs = data / GAME / "1" / "replay_logs"
    logs.mkdir(parents=True)
    path = file_of(logs, "$store$_observation")
    store(path, np.zeros((148, 84, 84), np.uint8))
    head = gzip.decompress(path.read_bytes())[:128].replace(b"(148,", b"(%d," % slots)
    head = head.replace(b" " * (len(head) - 128) + b"\n", b"\n")
    path.write_bytes(gzip.compress(head) + gzip.compress(bytes(148 * 84 * 84)) * blocks)
    for name, dtype in (("action", "int32"), ("reward", "float32"), ("terminal", "uint8")):
        store(file_of(logs, f"$store$_{name}"), np.zeros(slots, dtype))
    store(file_of(logs, "add_count"), np.array(slots - 1))
    store(file_of(logs, "invalid_range"), np.arange(slots - 2, slots + 3) % slots)


def peak_mb(*arguments: object) -> float:
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0])
        time.sleep(0.01)
    out, _ = process.communicate()
    assert process.returncode == 1 and b"all of one colour" in out
    return peak / 1e3


@pytest.mark.slow
def test_memory_is_bounded(tmp_path):
    """Ten times the frames (2.1 GB) cost what their slots' numbers take."""
    write_black(tmp_path / "small", 200)
    write_black(tmp_path / "large", 2_000)
    small, large = peak_mb(tmp_path / "small"), peak_mb(tmp_path / "large")
    assert large < 150 and large - small < 40e-6 * 148 * 1_800


def test_ctrl_c(tmp_path):
    write_black(tmp_path / "data", 10_000)
    repair = tmp_path / "x.json"
    arguments = command(tmp_path / "data", f"--repair={repair}")
    # A shell that starts the tests in the background makes its children ignore Ctrl-C.
    old = signal.signal(signal.SIGINT, signal.SIG_DFL)
    ours, theirs = os.openpty()  # a terminal, on which progress is shown twice a second
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    signal.signal(signal.SIGINT, old)
    shown = ""
    while shown.count("verifying: ") < 2:  # it moves: 10 GB of frames are being read
        shown += os.read(ours, 1_000).decode()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    shown += os.read(ours, 10_000).decode()
    os.close(ours)
    assert process.returncode == 130, shown
    assert "stopped after 0 files" in shown and "Traceback" not in shown
    assert "checked" not in out and not repair.exists()
    assert "(100 %)" not in shown  # nor was the rest read
