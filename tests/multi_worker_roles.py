"""The processes of the multi-worker test.

Usage: python -m multi_worker_roles server              fills a replay, prints its address
       python -m multi_worker_roles worker ADDRESS OUT  trains, by TF_CONFIG, on both feeds
"""

from __future__ import annotations

import contextlib
import signal
import sys

import numpy as np
import pytest
import strategy_runs
import tiny

from cql_atari.core.types import UserError
from cql_atari.feed.replay import reader, service, writer
from cql_atari.feed.sampling import BatchLaw
from cql_atari.system import hosts as cluster
from cql_atari.training import strategy

BINDINGS = ("feed.draws = 8",)
CALLS = 3


def serve():
    def part(game):
        return lambda: [e for e in tiny.episodes() if e.game == game]

    parts = {game: [part(game)] for game in tiny.GAMES}
    with (
        service.serve_draws(tiny.GAMES, n_step=3) as replay,
        writer.stream(replay, parts, discount=0.99, seed=0, transitions_per_game=160),
    ):
        sys.stdout.write(f"{replay.address}\n")
        sys.stdout.flush()
        signal.pause()


def work(address, out):
    replay = service.Replay(address, tiny.GAMES, 3, contextlib.ExitStack())
    devices = strategy.make_strategy("multi_worker")  # before any TensorFlow operation
    here, config = cluster.find_hosts("multi_worker"), tiny.config(*BINDINGS)
    split = strategy.divide(8, 2, devices.num_replicas_in_sync, here.hosts)
    assert split == (16, 8, 8)
    asked = []

    def from_replay(rows):
        asked.append(rows)
        law = BatchLaw(8, 2)
        return reader.dataset(replay, law, seed=0, start_step=0, steps_per_call=2, rows=rows,
                              private=False)  # fmt: skip

    train = strategy_runs.trainer(devices, config)
    left = {}
    for by_coordinator in (False, True):
        for feed, make in (("memory", tiny.dataset(config)), ("replay", from_replay)):
            batches = strategy.place_batches(devices, make, split, by_coordinator)
            for call, sums in enumerate(train(batches, CALLS)):
                for name, value in sums.items():
                    left[f"{feed}/{by_coordinator}/{call}/{name}"] = value
    assert asked == [slice(8 * here.host, 8 * here.host + 8)] * 2
    assert strategy.across_hosts(devices, 10 + here.host) == [10, 11]
    for what, given in {
        "different settings": (5, f"of {here.host}", ""),
        "different data": (5, "", f"of {here.host}"),
        "different steps": (here.host, "", ""),
    }.items():
        with pytest.raises(UserError, match=what):
            strategy.check_same_start(devices, *given)
    strategy.check_same_start(devices, 5, "the same", "the same")
    np.savez(out, **left)
    replay.readers.close()


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    {"server": serve, "worker": work}[role](*arguments)
