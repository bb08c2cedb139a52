"""Real runs are killed, stopped, and meet a full disk; they end as without."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import tensorflow as tf
import tiny
from dopamine_files import steps_of, write_run

from cql_atari.runs import checkpoint
from cql_atari.system import signals

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
GAMES = ("Breakout", "Pong")
STEPS = 100
FULL = 30_000  # bytes a file may have: logs stay below, the variables don't


def start(folder, data):
    bindings = (
        *tiny.BINDINGS,
        f"data.games = {GAMES}",
        f"data.dir = '{data}'",
        "data.suffixes = None",
        f"train.steps = {STEPS}",
        "train.save_every = 10",
        "train.log_every = 50",
        "evaluation.episodes = 1",
        "evaluation.envs_per_game = 1",
        "evaluation.max_frames = 40",
    )
    return processes.Popen(
        [sys.executable, "-m", "cql_atari.train", f"--workdir={folder}",
         *(f"--gin_bindings={binding}" for binding in bindings)]
    )  # fmt: skip


def finished(process):
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors


def weights(folder):
    """Every variable of the last checkpoint."""
    (newest,) = checkpoint.steps(folder / "checkpoints")[-1:]
    assert newest == STEPS
    reader = tf.train.load_checkpoint(str(folder / "checkpoints" / f"{STEPS:010d}" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in name]
    return {name: reader.get_tensor(name) for name in names}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for game in GAMES:
        logs = folder / game / "1" / "replay_logs"
        logs.mkdir(parents=True)
        write_run(logs, steps_of(*[50] * 6), 400)
    return folder


def start_and_wait(folder, data, condition):
    """A process that has just come to where the condition holds."""
    process = start(folder, data)
    until = time.monotonic() + 500
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)
    return process


def test_killed_in_a_save_stopped_and_with_a_full_disk_it_ends_as_without(tmp_path, data):
    """The short form of twenty faults: each kind once, on the memory feed. On a replay:
    tests/feed/test_recorded.py.
    """
    folder, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    process = start_and_wait(
        folder, data,
        lambda: checkpoint.steps(checkpoints) and list(checkpoints.glob("partial-*")),
    )  # fmt: skip
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at = checkpoint.steps(checkpoints)[-1]
    assert 0 < killed_at < STEPS

    process = start_and_wait(folder, data, lambda: checkpoint.steps(checkpoints)[-1] > killed_at)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == signals.EXIT_INTERRUPTED and "Traceback" not in errors, errors
    saved = checkpoint.steps(checkpoints)
    assert killed_at < saved[-1] < STEPS

    process = start(folder, data)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL, FULL))
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 2 and "Traceback" not in errors, errors
    assert f"can't save step {10 * (saved[-1] // 10 + 1)}" in errors
    assert "Free some space" in errors
    assert checkpoint.steps(checkpoints) == saved  # what there was is whole and still there
    assert not list(checkpoints.glob("partial-*"))

    finished(start(folder, data))
    finished(start(tmp_path / "whole", data))
    expected, found = weights(tmp_path / "whole"), weights(folder)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(values, found[name], err_msg=name)


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["memory", "replay"])
def test_twenty_faults_cost_nothing(kind):
    ended = subprocess.run(
        [sys.executable, "benchmarks/faults.py", f"--kind={kind}"], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert sum(found["ends"].values()) == 20
    assert "traceback" not in found
    assert (found["saves_lost"], found["places_gone_back"]) == (0, 0)
    if kind == "memory":
        assert found["equal_bit_for_bit"] and found["variables"] > 10
