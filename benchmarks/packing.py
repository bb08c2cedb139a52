"""Packing: steps/s against `gzip -dc`, bytes a step, and what drawing from much play takes.

The same observation files are inflated by as many `gzip -dc` as there are files, all at once, and
packed by one process a core.

What is resident is measured on a thousand links to one packed suffix, 100 million transitions: the
indices in memory are those of so much play, the bytes on disk are not.

Drawing from a disk is measured on a hundred copies of it, 10 million transitions: with the page
cache emptied of them before each round ("cold"), and once all have been read ("warm").

Usage: python benchmarks/packing.py [--rounds 3] [--only pack|resident|disk]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import numpy as np
import reading
from feeds import DISCOUNT, law_of, resident_bytes

from cql_atari.core.types import STACK
from cql_atari.data.dopamine.files import fingerprints
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.format import Source
from cql_atari.data.packed import files
from cql_atari.data.packed import writer as packed_writer
from cql_atari.feed import drawing, packed
from cql_atari.feed.transitions import LEAD
from cql_atari.methods.method import Transitions
from cql_atari.system.progress import over
from cql_atari.tools import pack


def measure_pack(directories: dict[str, Path], rounds: int) -> None:
    """One line: steps/s of packing on all cores, and of `gzip -dc` of as many files at a time."""
    processes = len(os.sched_getaffinity(0))
    games = list(directories)
    sources_of = [
        Source(game, 1, str(path), "dopamine", (0,), 1.0, {}, {0: fingerprints(path, 0)})
        for game, path in directories.items()
    ]
    steps = sum(reading.count_frames(path) for path in directories.values())
    ours, gzips, sizes = [], [], {}
    spawn = multiprocessing.get_context("spawn")
    for _ in over(range(rounds), "pack", "rounds"):
        with tempfile.TemporaryDirectory() as folder, spawn.Pool(processes) as pool:
            jobs = [
                pack.SuffixToPack(source, 0, files.folder(folder, source.game, 1))
                for source in sources_of
            ]
            pool.map(abs, range(processes))  # the processes are there
            start = time.perf_counter()
            pool.map(pack_quietly, jobs, chunksize=1)
            ours.append(steps / (time.perf_counter() - start))
            for game, job in zip(games, jobs):
                packed_bytes = files.paths(job.directory, 0)[1].stat().st_size
                gz = directories[game] / reading.OBSERVATION
                frames = reading.count_frames(directories[game])
                sizes[game] = [packed_bytes / frames, gz.stat().st_size / frames]
        start = time.perf_counter()
        running = [
            subprocess.Popen(["gzip", "-dc", path / reading.OBSERVATION], stdout=subprocess.DEVNULL)
            for path in directories.values()
        ]
        for process in running:
            process.wait()
        gzips.append(steps / (time.perf_counter() - start))
    common.emit(
        "pack",
        steps=steps,
        processes=processes,
        steps_per_s=common.summarise(ours),
        gzip_dc_steps_per_s=common.summarise(gzips),
        ratio_to_gzip_dc=common.summarise([a / b for a, b in zip(ours, gzips)]),
        bytes_a_step_packed_and_gz=sizes,
    )


def pack_quietly(job: pack.SuffixToPack) -> None:
    pack.pack_suffix(job, lambda steps: None)


@contextlib.contextmanager
def packed_copies(
    directory: Path, game: str, count: int, copy: Callable[[Path, Path], object]
) -> Iterator[Source]:
    """A suffix, packed, and copies of it under the next numbers."""
    with tempfile.TemporaryDirectory() as folder:
        target = files.folder(folder, game, 1)
        target.mkdir(parents=True)
        played = DOPAMINE.read_episodes(directory, game)
        packed_writer.write_suffix(target, 0, played, {"left_out": []})
        for suffix in range(1, count):
            for first, other in zip(files.paths(target, 0), files.paths(target, suffix)):
                copy(first, other)
        yield Source(game, 1, str(target), "packed", tuple(range(count)), 1.0, {}, {})


def measure_resident(directory: Path, game: str) -> None:
    """For a process of its own: one line, what drawing from 50M transitions takes."""
    with packed_copies(directory, game, 1_000, os.link) as source:
        before = resident_bytes()
        start = time.perf_counter()
        store = packed.open_packed([game], [source])
        opened = time.perf_counter() - start
        after_opening = resident_bytes()
        batches = iter(
            drawing.dataset(
                store, law_of(512), Transitions(3, DISCOUNT), seed=0, start_step=0, steps_per_call=4
            )
        )
        for _ in range(20):
            next(batches)
        common.emit(
            "feed_packed_resident",
            transitions=int(
                drawing.find_positions(store.episodes, Transitions(3, DISCOUNT)).sizes.sum()
            ),
            segments=sum(len(index.lengths) for index in store.indices),
            seconds_to_open=opened,
            indices_mb=(after_opening - before) / 1e6,
            drawing_mb=(resident_bytes() - after_opening) / 1e6,
            peak_mb=reading.peak_mb(),
        )
        store.close()


def measure_disk(directory: Path, game: str, rounds: int) -> None:
    """For a process of its own: one line, transitions/s from 10M transitions on the disk."""
    batch = 256
    with packed_copies(directory, game, 100, shutil.copyfile) as source:
        os.sync()  # only clean pages leave the cache
        store = packed.open_packed([game], [source])
        reads = Transitions(3, DISCOUNT)
        found = drawing.find_positions(store.episodes, reads)
        generator = np.random.default_rng(0)

        def per_second(rows: int) -> float:
            nth = generator.integers(found.sizes[0], size=rows)
            start = time.perf_counter()
            for begin in range(0, rows, batch):
                drawn = found.find(np.zeros(batch, int), nth[begin : begin + batch])
                drawing.read_steps(store, drawn[0], drawn[1] - LEAD, STACK + reads.n_step)
            return rows / (time.perf_counter() - start)

        cold, warm = [], []
        for _ in over(range(rounds), "cold", "rounds"):
            for descriptor in store.descriptors:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            cold.append(per_second(20 * batch))
        for descriptor in store.descriptors:
            while os.read(descriptor, 1 << 24):
                pass
        warm = [per_second(40 * batch) for _ in over(range(rounds), "warm", "rounds")]
        common.emit(
            "feed_packed_disk",
            transitions=int(found.sizes.sum()),
            gigabytes=sum(index.segments.stat().st_size for index in store.indices) / 1e9,
            batch_size=batch,
            cold_per_s=common.summarise(cold),
            warm_per_s=common.summarise(warm),
            peak_mb=reading.peak_mb(),
        )
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("pack", "resident", "disk"))
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directories = {
            game: stack.enter_context(reading.files(game, reading.SLOTS)) for game in reading.GAMES
        }
        game, wanted = reading.GAMES[0], arguments.only
        if wanted in (None, "pack"):
            measure_pack(directories, arguments.rounds)
        if wanted in (None, "resident"):
            common.apart(measure_resident, directories[game], game)
        if wanted in (None, "disk"):
            common.apart(measure_disk, directories[game], game, arguments.rounds)


if __name__ == "__main__":
    main()
