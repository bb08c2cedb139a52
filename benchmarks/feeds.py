"""The feeds: transitions/s against a plain NumPy gather, bytes a transition, time to first batch.

The gather copies windows of 4 + n consecutive frames, one by one at random, out of an array into a
preallocated batch, on one thread: the least that any feed must do. Every feed runs in a process of
its own; its bytes a transition are how far that process's resident memory grows over what a feed
of a few episodes left behind, after a first batch of each.

"memory_windows" and "packed_windows" are windows of 4 steps (`--n_step` doesn't count there); their
gather copies as many frames. The packed play lies in the page cache.

The first batch of a million frames is timed beside dopamine-rl's own loader, once: it takes 7.7 GB.

Usage: python benchmarks/feeds.py [--rounds 7] [--n_step 1] [--steps_per_call 10]
       [--only speed|first_batch] [--feeds memory packed ...]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import reading

from cql_atari.core.types import FRAME_SHAPE, STACK, Extent
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.dopamine.reader import survey
from cql_atari.data.format import Source
from cql_atari.data.packed import files
from cql_atari.data.packed import writer as packed_writer
from cql_atari.feed import drawing, packed, positions
from cql_atari.feed.memory import store as memory
from cql_atari.feed.replay import reader, service, writer
from cql_atari.feed.replay.interleave import Part
from cql_atari.feed.sampling import BatchLaw
from cql_atari.feed.transitions import count_transitions
from cql_atari.methods.method import Sequences, Transitions
from cql_atari.system.progress import over

GAMES = reading.GAMES
SLOTS = 50_000  # a game, where speed and memory are measured
MANY_SLOTS = 1_000_000  # one game, where the first batch is timed
WINDOW = 250_000  # transitions a game, the configuration's default
TRANSITIONS_PER_DRAW = 4
DISCOUNT = 0.99
ROWS = 30_000  # transitions a round, rounded up to whole super-batches


class Recorded(NamedTuple):
    """A game's first suffix, or its first few episodes."""

    extents: list[Extent]
    read: Part


Parts = dict[str, Recorded]


def parts_of(directories: dict[str, Path], episodes: int | None = None) -> Parts:
    def part(game: str, path: Path) -> Recorded:
        return Recorded(
            survey(path, game, 0)[:episodes],
            lambda: itertools.islice(DOPAMINE.read_episodes(path, game, [0]), episodes),
        )

    return {game: part(game, path) for game, path in directories.items()}


def load(parts: Parts) -> memory.MemoryStore:
    table = positions.episodes({game: mine.extents for game, mine in parts.items()})
    episodes = (mine.read() for mine in parts.values())
    return memory.load(itertools.chain.from_iterable(episodes), table)


@contextlib.contextmanager
def open_packed_play(parts: Parts) -> Iterator[packed.PackedStore]:
    """The parts, packed."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for game, mine in parts.items():
            directory = files.folder(folder, game, 1)
            directory.mkdir(parents=True)
            packed_writer.write_suffix(directory, 0, mine.read(), {"left_out": []})
            found.append(Source(game, 1, str(directory), "packed", (0,), 1.0, {}, {}))
        store = packed.open_packed(list(parts), found)
        yield store
        store.close()


@contextlib.contextmanager
def open_store(kind: str, parts: Parts, n_step: int, **options) -> Iterator:
    """Yields a function that makes data sets of a law, once all is loaded or packed."""
    reads = Sequences(STACK) if kind.endswith("windows") else Transitions(n_step, DISCOUNT)
    packs = kind.startswith("packed")
    with open_packed_play(parts) if packs else contextlib.nullcontext(load(parts)) as store:
        yield lambda law: drawing.dataset(store, law, reads, **options)


@contextlib.contextmanager
def open_replay(parts: Parts, n_step: int, **options) -> Iterator:
    """The same for the replay, once its windows are full."""
    reads = {game: [mine.read] for game, mine in parts.items()}
    with (
        service.serve_draws(list(parts), n_step=n_step) as replay,
        writer.stream(
            replay, reads, discount=DISCOUNT, seed=0, transitions_per_game=WINDOW
        ) as writers,
    ):
        writer.wait_until_filled(writers, lambda: False)
        yield lambda law: reader.dataset(replay, law, check=writers.check, **options)


STORES = ("memory", "memory_windows", "packed", "packed_windows")
FEEDS = {kind: functools.partial(open_store, kind) for kind in STORES} | {"replay": open_replay}


def law_of(batch_size: int) -> BatchLaw:
    return BatchLaw(batch_size // TRANSITIONS_PER_DRAW, TRANSITIONS_PER_DRAW)


def gather_per_second(frames: np.ndarray, batch_size: int, window: int) -> float:
    """Windows/s of the plain gather."""
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
    parts = parts_of(directories)
    transitions = sum(count_transitions(e, n_step) for mine in parts.values() for e in mine.extents)
    frames = np.random.default_rng(0).integers(256, size=(20_000, *FRAME_SHAPE), dtype=np.uint8)
    window = STACK if kind.endswith("windows") else STACK + n_step
    with FEEDS[kind](parts_of(directories, 2), n_step, **options) as make_dataset:
        next(iter(make_dataset(law_of(32))))  # what any feed takes once, whatever it holds
    before = resident_bytes()
    with FEEDS[kind](parts, n_step, **options) as make_dataset:
        next(iter(make_dataset(law_of(32))))
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
            for _ in over(range(rounds), f"{kind}, batch {batch_size}", "rounds"):
                gathers.append(gather_per_second(frames, batch_size, window))
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
    with FEEDS[kind](parts_of({GAMES[0]: directory}), n_step, **options) as make_dataset:
        next(iter(make_dataset(law_of(32))))
        now = time.monotonic()
    return now - started, now - opened, reading.peak_mb()


def dopamine_first_batch(directory: Path, slots: int, n_step: int, started: float) -> tuple:
    """The same for dopamine-rl's buffer."""
    from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer

    opened = time.monotonic()
    buffer = OutOfGraphReplayBuffer(FRAME_SHAPE, STACK, slots, 32, n_step, DISCOUNT)
    buffer.load(str(directory), "0")
    buffer.sample_transition_batch()
    now = time.monotonic()
    return now - started, now - opened, reading.peak_mb()


def measure_first_batch(kind: str, slots: int, n_step: int, k: int, rounds: int) -> None:
    """One line for ours; with a round of dopamine-rl's where `slots` are many."""

    def run(function: Callable[..., tuple], *arguments) -> tuple:
        reading.forget(directory)
        return common.apart(function, *arguments, time.monotonic())

    def emit(name: str, results: list[tuple], **more) -> None:
        from_start, from_opening, peak = (common.summarise(values) for values in zip(*results))
        common.emit(
            name,
            slots=frames,
            array_mb=frames * FRAME_SHAPE[0] * FRAME_SHAPE[1] / 1e6,
            seconds_from_process_start=from_start,
            seconds_from_opening=from_opening,
            peak_mb=peak,
            **more,
        )

    with reading.files(GAMES[0], slots) as directory:
        frames = reading.count_frames(directory)
        theirs = []
        if slots == MANY_SLOTS:
            theirs = [run(dopamine_first_batch, directory, frames + 1, n_step)]
            emit("dopamine_first_batch", theirs)
        ours = [
            run(first_batch, kind, directory, n_step, k)
            for _ in over(range(rounds), f"{kind}, first batch", "rounds")
        ]
        more = {}
        if theirs:
            middle = [common.summarise(values)["median"] for values in zip(*ours)]
            more = dict(zip(("times_sooner", "times_sooner_from_opening", "times_less_memory"),
                            [a / b for a, b in zip(theirs[0], middle)]))  # fmt: skip
        emit(f"feed_{kind}_first_batch", ours, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--n_step", type=int, default=1)
    parser.add_argument("--steps_per_call", type=int, default=10)
    parser.add_argument("--only", choices=("speed", "first_batch"))
    parser.add_argument("--feeds", nargs="+", choices=tuple(FEEDS), default=tuple(FEEDS))
    arguments = parser.parse_args()
    n_step, k, rounds = arguments.n_step, arguments.steps_per_call, arguments.rounds
    if arguments.only != "first_batch":
        with contextlib.ExitStack() as stack:
            directories = {game: stack.enter_context(reading.files(game, SLOTS)) for game in GAMES}
            for kind in arguments.feeds:
                common.apart(measure_speed, kind, directories, n_step, k, rounds)
    if arguments.only != "speed":
        measure_first_batch("replay", MANY_SLOTS, n_step, k, 3)
        measure_first_batch("memory", SLOTS, n_step, k, 3)


if __name__ == "__main__":
    main()
