"""The replay in a process of its own, over loopback, against the replay in the learner's process.

Both hold the same real play; rounds alternate, so each ratio is of neighbours in time. Timed are
transitions/s that reach the learner's process as batches; nothing learns from them.

Usage: python benchmarks/remote_replay.py [--rounds 7] [--batch_sizes 32,256]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import common
import reading

from cql_atari import config as config_lib
from cql_atari.core.settings import Config
from cql_atari.data import sources
from cql_atari.feed.recorded import open_feed
from cql_atari.methods.method import Transitions
from cql_atari.system.progress import over

SLOTS = 20_000  # a game
ROWS = 40_960  # transitions that are timed at a time
BINDINGS = (
    f"data.games = {reading.GAMES!r}",
    "data.suffixes = None",
    "feed.kind = 'replay'",
    "feed.transitions_per_draw = 4",
    "train.seed = 0",
)


@contextlib.contextmanager
def server(data: Path, workdir: Path) -> Iterator[str]:
    """`serve_replay` in a process of its own; yields its address."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
    bindings = (*BINDINGS, f"data.dir = '{data}'")
    command = [sys.executable, "-m", "cql_atari.tools.serve_replay", f"--port={port}",
               f"--workdir={workdir}", *(f"--gin_bindings={b}" for b in bindings)]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait(60)


def batches(stack: contextlib.ExitStack, config: Config) -> Iterator:
    """Batches of the feed, once it gives any."""
    reads = Transitions(config.feed.n_step, config.feed.discount)
    found = [] if config.feed.servers else sources.find_sources(config.data)
    feed = stack.enter_context(
        open_feed(config, found, 0, reads=reads, state={}, should_stop=lambda: False)
    )
    iterator = iter(feed.batches(slice(None)))
    next(iterator)
    return iterator


def per_second(iterator: Iterator, rows: int) -> float:
    """Transitions/s; super-batches that were made in advance don't count."""
    for _ in range(3):
        next(iterator)
    calls = max(ROWS // rows, 4)
    start = time.perf_counter()
    for _ in range(calls):
        next(iterator)
    return calls * rows / (time.perf_counter() - start)


def measure(config: Config, address: str, rounds: int) -> None:
    """One JSON line."""
    elsewhere = dataclasses.replace(config.feed, servers=(address,))
    rows = config.batch_size * config.train.steps_per_call
    with contextlib.ExitStack() as stack:
        here = batches(stack, config)
        there = batches(stack, dataclasses.replace(config, feed=elsewhere))
        rates = [
            (per_second(there, rows), per_second(here, rows))
            for _ in over(range(rounds), f"batch {config.batch_size}", "rounds")
        ]
    remote, local = zip(*rates)
    common.emit(
        "remote_replay",
        batch_size=config.batch_size,
        n_step=config.feed.n_step,
        steps_per_call=config.train.steps_per_call,
        remote_per_s=common.summarise(remote),
        in_process_per_s=common.summarise(local),
        ratio=common.summarise([a / b for a, b in rates]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch_sizes", default="32,256")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        for game in reading.GAMES:
            logs = data / game / "1" / "replay_logs"
            logs.mkdir(parents=True)
            reading.write_run(logs, game, SLOTS)
        with server(data, Path(name) / "served") as address:
            for size in map(int, arguments.batch_sizes.split(",")):
                bindings = (*BINDINGS, f"data.dir = '{data}'", f"feed.draws = {size // 4}")
                measure(config_lib.load((), bindings), address, arguments.rounds)


if __name__ == "__main__":
    main()
