"""Both feeds: transitions/s against a plain NumPy gather, bytes a transition, time to first batch.

The gather copies windows of 4 + n consecutive frames, one by one at random, out of an array into a
preallocated batch, on one thread: the least that any feed must do. Every feed runs in a process of
its own; its bytes a transition are how far that process's resident memory grows over what a feed
of a few episodes left behind.

Usage: python benchmarks/feeds.py [--rounds 7] [--n_step 1] [--steps_per_call 10]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import common
import numpy as np
import reading
import reverb
from tqdm import tqdm

from cql_atari.data.dopamine import read_episodes
from cql_atari.feed import memory, replay_reader, replay_service, replay_writer
from cql_atari.feed.sampling import BatchLaw
from cql_atari.feed.transitions import block
from cql_atari.types import FRAME_SHAPE, STACK, Episode

GAMES = reading.GAMES
SLOTS = 50_000  # a game, where speed and memory are measured
MANY_SLOTS = 1_000_000  # one game, where the first batch is timed
WINDOW = 250_000  # transitions a game, the configuration's default
TRANSITIONS_PER_DRAW = 4
DISCOUNT = 0.99
ROWS = 30_000  # transitions a round, rounded up to whole super-batches


Passes = dict[str, Callable[[], Iterable[Episode]]]


@contextlib.contextmanager
def open_memory(passes: Passes, n_step: int, **options) -> Iterator:
    """Yields a function that makes data sets of a law, and one that waits until all is loaded."""
    store = memory.load(
        itertools.chain.from_iterable(start() for start in passes.values()),
        list(passes),
        n_step=n_step,
        discount=DISCOUNT,
        capacity=2 * SLOTS + 10_000,
    )
    yield lambda law: memory.dataset(store, law, **options), lambda: None


@contextlib.contextmanager
def open_replay(passes: Passes, n_step: int, **options) -> Iterator:
    """The same for the replay."""
    with (
        replay_service.serve(list(passes), n_step=n_step, transitions_per_game=WINDOW) as replay,
        replay_writer.stream(replay, passes, discount=DISCOUNT) as check,
    ):
        client = reverb.Client(replay.address)

        def settle() -> None:
            """Until every writer is done, or has filled its table and waits for the learner."""
            while any(thread.name.startswith("write-") for thread in threading.enumerate()):
                if all(t.current_size == t.max_size for t in client.server_info().values()):
                    break
                time.sleep(0.1)

        yield lambda law: replay_reader.dataset(replay, law, check=check, **options), settle


FEEDS = {"memory": open_memory, "replay": open_replay}


def law_of(batch_size: int) -> BatchLaw:
    return BatchLaw(batch_size // TRANSITIONS_PER_DRAW, TRANSITIONS_PER_DRAW)


def gather_per_second(frames: np.ndarray, batch_size: int, n_step: int) -> float:
    """Transitions/s of the plain gather."""
    window = STACK + n_step
    batch = np.empty((batch_size, window, *FRAME_SHAPE), np.uint8)
    batches = -(-ROWS // batch_size)
    rows = np.random.default_rng(0).integers(len(frames) - window, size=(batches, batch_size))
    start = time.perf_counter()
    for at in rows:
        for i, row in enumerate(at):
            batch[i] = frames[row : row + window]
    return rows.size / (time.perf_counter() - start)


def feed_per_second(iterator: Iterator, rows: int) -> float:
    """Transitions/s of super-batches of `rows` transitions; those made in advance don't count."""
    for _ in range(3):
        next(iterator)
    calls = -(-ROWS // rows)
    start = time.perf_counter()
    for _ in range(calls):
        next(iterator)
    return calls * rows / (time.perf_counter() - start)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure_speed(
    kind: str, directories: dict[str, Path], n_step: int, k: int, rounds: int
) -> None:
    """For a process of its own: one line a batch size, one for memory."""
    options = {"seed": 0, "start_step": 0, "steps_per_call": k}
    passes: Passes = {g: partial(read_episodes, path, g) for g, path in directories.items()}
    transitions = sum(
        int(block(episode, n_step, DISCOUNT).valid.sum())
        for start in passes.values()
        for episode in start()
    )
    frames = np.random.default_rng(0).integers(256, size=(20_000, *FRAME_SHAPE), dtype=np.uint8)
    few = {game: lambda start=start: itertools.islice(start(), 2) for game, start in passes.items()}
    with FEEDS[kind](few, n_step, **options) as (make_dataset, settle):
        settle()
        next(iter(make_dataset(law_of(32))))  # what any feed takes once, whatever it holds
    before = resident_bytes()
    with FEEDS[kind](passes, n_step, **options) as (make_dataset, settle):
        settle()
        grown = resident_bytes() - before
        common.emit(
            f"feed_{kind}_memory",
            transitions=transitions,
            n_step=n_step,
            bytes_per_transition=grown / transitions,
        )
        for batch_size in (32, 256):
            iterator = iter(make_dataset(law_of(batch_size)))
            ours, gathers = [], []
            for _ in tqdm(range(rounds), desc=f"{kind}, batch {batch_size}"):
                gathers.append(gather_per_second(frames, batch_size, n_step))
                ours.append(feed_per_second(iterator, k * batch_size))
            common.emit(
                f"feed_{kind}",
                batch_size=batch_size,
                n_step=n_step,
                steps_per_call=k,
                transitions_per_s=common.summarise(ours),
                gather_per_s=common.summarise(gathers),
                ratio_to_gather=common.summarise([a / b for a, b in zip(ours, gathers)]),
            )


def first_batch(kind: str, directory: Path, n_step: int, k: int, started: float) -> tuple:
    """For a process of its own: seconds from its start and from opening the feed, peak MB."""
    opened = time.monotonic()
    options = {"seed": 0, "start_step": 0, "steps_per_call": k}
    passes: Passes = {GAMES[0]: partial(read_episodes, directory, GAMES[0])}
    with FEEDS[kind](passes, n_step, **options) as (make_dataset, settle):
        next(iter(make_dataset(law_of(32))))
        now = time.monotonic()
        settle()
    return now - started, now - opened, reading.peak_mb()


def measure_first_batch(kind: str, slots: int, n_step: int, k: int, rounds: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    with reading.files(GAMES[0], slots) as directory:
        results = []
        for _ in tqdm(range(rounds), desc=f"{kind}, first batch"):
            reading.forget(directory)
            with spawn.Pool(1) as pool:
                arguments = (kind, directory, n_step, k, time.monotonic())
                results.append(pool.apply(first_batch, arguments))
        from_start, from_opening, peak = (common.summarise(values) for values in zip(*results))
        common.emit(
            f"feed_{kind}_first_batch",
            slots=reading.count_frames(directory),
            array_mb=slots * FRAME_SHAPE[0] * FRAME_SHAPE[1] / 1e6,
            seconds_from_process_start=from_start,
            seconds_from_opening=from_opening,
            peak_mb=peak,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--n_step", type=int, default=1)
    parser.add_argument("--steps_per_call", type=int, default=10)
    arguments = parser.parse_args()
    n_step, k, rounds = arguments.n_step, arguments.steps_per_call, arguments.rounds
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        directories = {game: stack.enter_context(reading.files(game, SLOTS)) for game in GAMES}
        for kind in FEEDS:
            with spawn.Pool(1) as pool:
                pool.apply(measure_speed, (kind, directories, n_step, k, rounds))
    measure_first_batch("replay", MANY_SLOTS, n_step, k, 3)
    measure_first_batch("memory", SLOTS, n_step, k, 3)


if __name__ == "__main__":
    main()
