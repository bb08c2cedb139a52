"""Several hosts for real: processes on loopback train as one does, from memory and a replay."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time

import multi_worker_roles
import numpy as np
import processes
import pytest
import strategy_runs
import tiny
from dopamine_files import GAME, steps_of, write_run

from cql_atari.runs import checkpoint
from cql_atari.training import strategy

pytestmark = pytest.mark.slow


def clusters(hosts):
    """The environment of each host's process, on ports that are free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(hosts)]
        for one in sockets:
            one.bind(("localhost", 0))
        addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for index in range(hosts):
        told = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        yield {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": json.dumps(told)}


@contextlib.contextmanager
def role(*arguments, **options):
    command = [sys.executable, "-m", multi_worker_roles.__name__, *arguments]
    process = processes.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What each worker was left with after each call, by feed, way and name."""
    folder = tmp_path_factory.mktemp("left")
    with role("server") as server:
        until = time.monotonic() + 60
        while not (address := server.said()[0].strip()):
            assert server.poll() is None and time.monotonic() < until, server.said()
            time.sleep(0.02)
        with contextlib.ExitStack() as stack:
            files = [folder / f"{index}.npz" for index in range(2)]
            workers = [
                stack.enter_context(role("worker", address, str(file), env=environment))
                for file, environment in zip(files, clusters(2))
            ]
            for worker in workers:
                assert worker.communicate(timeout=300) and worker.returncode == 0, errors(workers)
    return [dict(np.load(file)) for file in files]


def errors(workers):
    return [worker.said()[1][-3000:] for worker in workers]


def test_workers_hold_equal_weights_after_every_call(left):
    one, other = left
    assert one.keys() == other.keys()
    assert {key.split("/")[0] for key in one} == {"memory", "replay"}
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_workers_train_as_one_process_on_the_same_batches(left):
    config, alone = tiny.config(*multi_worker_roles.BINDINGS), strategy.make_strategy("none")
    train = strategy_runs.trainer(alone, config)
    batches = strategy_runs.place(alone, config)
    for call, sums in enumerate(train(batches, multi_worker_roles.CALLS)):
        for name, value in sums.items():
            for way in (False, True):
                found = left[0][f"memory/{way}/{call}/{name}"]
                np.testing.assert_allclose(found, value, atol=2e-5, rtol=1e-4, err_msg=name)


def test_the_replay_gives_workers_other_batches_of_the_same_games(left):
    for call in range(multi_worker_roles.CALLS):
        memory, replay = (left[0][f"{feed}/False/{call}/count"] for feed in ("memory", "replay"))
        np.testing.assert_array_equal(memory, replay)
    assert (left[0]["memory/False/2/loss/total"] != left[0]["replay/False/2/loss/total"]).any()


def start(folder, data):
    """The real command on two hosts."""
    bindings = (
        *tiny.BINDINGS, f"data.games = ('{GAME}',)", f"data.dir = '{data}'", "data.suffixes = None",
        "train.steps = 100000",
        "train.save_every = 20", "train.log_every = 20", "train.strategy = 'multi_worker'",
    )  # fmt: skip
    command = [sys.executable, "-m", "cql_atari.train", f"--workdir={folder}",
               *(f"--gin_bindings={binding}" for binding in bindings)]  # fmt: skip
    return [processes.Popen(command, env=environment) for environment in clusters(2)]


def wait_for_step(folder, step, processes):
    until = time.monotonic() + 300
    while max(checkpoint.steps(folder / "checkpoints"), default=0) < step:
        assert all(process.poll() is None for process in processes), errors(processes)
        assert time.monotonic() < until
        time.sleep(0.1)


def test_hosts_miss_one_that_is_killed_resume_together_and_stop_together(tmp_path):
    """Of a killed one the other tells within a minute; started again both go on from the newest
    checkpoint; SIGTERM to either stops both at one step.
    """
    data, folder = tmp_path / "data", tmp_path / "run"
    run = data / GAME / "1" / "replay_logs"
    run.mkdir(parents=True)
    write_run(run, steps_of(60, 60), capacity=200)
    processes = start(folder, data)
    try:
        wait_for_step(folder, 20, processes)
        processes[1].kill()
        killed = time.monotonic()
        _, told = processes[0].communicate(timeout=120)
        assert processes[0].returncode == 2, told
        assert "another host is gone" in told
        assert time.monotonic() - killed < 60
        newest = checkpoint.steps(folder / "checkpoints")[-1]
        assert newest >= 20

        processes = start(folder, data)
        wait_for_step(folder, newest + 20, processes)
        processes[1].send_signal(signal.SIGTERM)
        told = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [75, 75], told
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(set(steps)), "two hosts wrote, or a step was made twice"
    finally:
        for process in processes:
            process.kill()
            process.wait()
