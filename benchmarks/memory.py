"""Peak memory of the feeds on data and on tenfold data, and the rate from file into Reverb.

The data are real play, a suffix of which is linked under more numbers: what is read grows, the disk
doesn't. Every figure is from a process of its own that opens the feed as training does. `replay`
runs until each writer has gone over all of its data once. `memory` with `feed.cache_dir` reads and
writes all of them, then draws as many frames as there are: beside the peak of resident memory it
says what of it is anonymous, for pages of a mapped file are the kernel's to take back.

Usage: python benchmarks/memory.py [--slots 10000] [--rounds 3] [--only size|insert]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import common
import reading

from cql_atari.system.progress import over

SUFFIXES = 2  # of the smaller data
TIMES = 10  # as many in the larger
TABLE = 5_000  # transitions a game, a quarter of the smaller data
INSERTED = 100_000  # slots a game, where the rate into Reverb is measured


@contextlib.contextmanager
def data_sets(slots: int) -> Iterator[tuple[Path, Path]]:
    """Two data folders of the same games; the second has TIMES the suffixes of the first."""
    with tempfile.TemporaryDirectory() as name:
        for game in reading.GAMES:
            first = Path(name) / "files" / game
            first.mkdir(parents=True)
            reading.write_run(first, game, slots)
            for folder, suffixes in (("small", SUFFIXES), ("large", SUFFIXES * TIMES)):
                logs = Path(name) / folder / game / "1" / "replay_logs"
                logs.mkdir(parents=True)
                for suffix in range(suffixes):
                    for path in first.iterdir():
                        os.link(path, logs / path.name.replace(".0.gz", f".{suffix}.gz"))
        yield Path(name) / "small", Path(name) / "large"


def anonymous_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e6


@contextlib.contextmanager
def peak_anonymous() -> Iterator[list[float]]:
    """Fills a list with samples, one every 20 ms: the kernel keeps no peak of this part."""
    samples, done = [anonymous_mb()], threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            samples.append(anonymous_mb())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def run_feed(kind: str, data: Path, cache: Path) -> dict[str, float]:
    """For a process of its own: opens the feed, goes over all data, returns its peaks in MB."""
    from cql_atari import config as config_lib
    from cql_atari.data import sources
    from cql_atari.feed import recorded
    from cql_atari.methods.method import Transitions

    bindings = [f"data.dir = '{data}'", f"data.games = {reading.GAMES!r}", "data.suffixes = None",
                f"feed.kind = '{kind}'", f"feed.transitions_per_game = {TABLE}",
                "feed.samples_per_insert = 1.0", "feed.draws = 64", "feed.n_step = 1",
                f"feed.cache_dir = '{cache}'"]  # fmt: skip
    config = config_lib.load((), bindings)
    reads = Transitions(config.feed.n_step, config.feed.discount)
    found = sources.find_sources(config.data)
    frames = sum(len(source.suffixes) for source in found) * reading.count_frames(
        Path(found[0].path)
    )
    call = config.train.steps_per_call * config.batch_size
    with (
        peak_anonymous() as samples,
        recorded.open_feed(
            config, found, 0, reads=reads, state={}, should_stop=lambda: False
        ) as feed,
    ):
        batches = iter(feed.batches(slice(None)))
        drawn = 0
        while drawn < frames:  # each once, on average
            next(batches)
            drawn += call
    return {"frames": frames, "peak_mb": reading.peak_mb(), "peak_anonymous_mb": max(samples)}


def measure_size(slots: int, rounds: int) -> None:
    """A line a feed: peaks on both data sets, and their ratio within each round."""
    with data_sets(slots) as folders:
        cache = folders[0].parent / "cache"
        for kind in ("replay", "memory"):
            results: list[list[dict[str, float]]] = []
            for _ in over(range(rounds), f"{kind}, peak memory", "rounds"):
                results.append([])
                for data in folders:
                    shutil.rmtree(cache, ignore_errors=True)
                    results[-1].append(common.apart(run_feed, kind, data, cache))
            values = {}
            for name in ("peak_mb", "peak_anonymous_mb"):
                for i, size in enumerate(("small", "large")):
                    values[f"{name}_{size}"] = common.summarise([r[i][name] for r in results])
                values[f"{name}_ratio"] = common.summarise([b[name] / a[name] for a, b in results])
            common.emit(
                f"{kind}_peak_memory" + ("_mapped" if kind == "memory" else ""),
                games=len(reading.GAMES),
                table_transitions=TABLE if kind == "replay" else None,
                frames_small=results[0][0]["frames"],
                frames_large=results[0][1]["frames"],
                **values,
            )


def insert_per_second(directories: dict[str, Path]) -> float:
    """For a process of its own: frames/s of the games' files into their windows, all at once."""
    from cql_atari.data.dopamine.format import DOPAMINE
    from cql_atari.feed.replay import service, writer

    parts = {
        game: [functools.partial(DOPAMINE.read_episodes, path, game)]
        for game, path in directories.items()
    }
    frames = sum(reading.count_frames(path) for path in directories.values())
    with service.serve_draws(list(parts), n_step=1) as replay:
        start = time.perf_counter()
        with writer.stream(
            replay, parts, discount=0.99, seed=0, transitions_per_game=2 * INSERTED
        ) as writers:
            writer.wait_until_filled(writers, lambda: False)
            return frames / (time.perf_counter() - start)


def measure_insert(rounds: int) -> None:
    """A line for each game alone and one for both at once, against `gzip -dc` of the same files."""
    with contextlib.ExitStack() as stack:
        every = {game: stack.enter_context(reading.files(game, INSERTED)) for game in reading.GAMES}
        for chosen in [*([game] for game in every), list(every)]:
            directories = {game: every[game] for game in chosen}
            frames = sum(reading.count_frames(path) for path in directories.values())
            ours, gzips = [], []
            for _ in over(range(rounds), f"into Reverb, {', '.join(chosen)}", "rounds"):
                observations = [path / reading.OBSERVATION for path in directories.values()]
                gzips.append(frames / sum(map(reading.gzip_seconds, observations)))
                ours.append(common.apart(insert_per_second, directories))
            common.emit(
                "file_into_reverb",
                games=chosen,
                frames=frames,
                frames_per_s=common.summarise(ours),
                gzip_dc_frames_per_s=common.summarise(gzips),
                ratio_to_gzip_dc=common.summarise([a / b for a, b in zip(ours, gzips)]),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=10_000, help="of a suffix")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("size", "insert"))
    arguments = parser.parse_args()
    if arguments.only != "insert":
        measure_size(arguments.slots, arguments.rounds)
    if arguments.only != "size":
        measure_insert(arguments.rounds)


if __name__ == "__main__":
    main()
