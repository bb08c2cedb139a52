"""Several hosts for real: processes on loopback train as one does, from memory and a replay."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import multi_worker_roles
import numpy as np
import pytest
import strategy_runs
import tiny

from cql_atari import strategy

ROOT = Path(__file__).resolve().parents[1]


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
    process = subprocess.Popen(
        [sys.executable, multi_worker_roles.__file__, *arguments], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What each worker was left with after each call, by feed, way and name."""
    folder = tmp_path_factory.mktemp("left")
    with role("server") as server:
        address = server.stdout.readline().strip()
        with role("writer", address), contextlib.ExitStack() as stack:
            files = [folder / f"{index}.npz" for index in range(2)]
            workers = [
                stack.enter_context(role("worker", address, str(file), env=environment))
                for file, environment in zip(files, clusters(2))
            ]
            for worker in workers:
                assert worker.communicate(timeout=300) and worker.returncode == 0, errors(workers)
    return [dict(np.load(file)) for file in files]


def errors(workers):
    for worker in workers:
        worker.kill()
    return [worker.stderr.read()[-3000:] if not worker.stderr.closed else "" for worker in workers]


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
    assert (left[0]["memory/False/2/total"] != left[0]["replay/False/2/total"]).any()
