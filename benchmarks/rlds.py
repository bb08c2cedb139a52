"""Reading RLDS: frames/s beside the `.gz` reader's, on the same play, and the size on disk.

Real play (uniformly random, sticky actions) is collected, converted and read, all in a temporary
folder; both readers decode every frame and check every checksum. TensorFlow is loaded before.

Usage: python benchmarks/rlds.py [--rounds 5] [--steps 5000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import tensorflow as tf
import tensorflow_datasets as tfds

from cql_atari.core.types import Episode
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.rlds import reader as rlds
from cql_atari.data.rlds.format import RLDS
from cql_atari.data.shared import LONGEST
from cql_atari.recording import scripted
from cql_atari.recording.folder import Job
from cql_atari.system.progress import Progress, over
from cql_atari.tools import convert
from cql_atari.tools.selection import select_sources

GAMES = ("Seaquest", "Breakout")  # one that compresses poorly, one that does well


def frames_per_second(read: Callable[[], Iterator[Episode]]) -> float:
    start, frames = time.perf_counter(), 0
    for episode in read():
        frames += len(episode.frames)
    return frames / (time.perf_counter() - start)


def tfds_frames_per_second(folder: Path) -> float:
    """The same frames through TFDS's own pipeline, an episode's steps as one batch."""
    builder = tfds.builder_from_directory(str(folder))
    start, frames = time.perf_counter(), 0
    for episode in builder.as_dataset("checkpoint_00"):
        for steps in episode["steps"].batch(LONGEST + 1):
            frames += len(steps["observation"])
    return frames / (time.perf_counter() - start)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def measure(game: str, steps: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        data, out = Path(name, "gz"), Path(name, "rlds")
        job = Job(game, 1, steps, "random", (1.0,), slots_per_file=10**6, seed=0)
        (data / game / "1").mkdir(parents=True)
        with Progress(f"playing {game}", "steps", steps) as line:
            scripted.play_job(job, data / game / "1", line.add)
        (conversion,) = convert.runs_to_convert(select_sources(data, out), out)
        start = time.perf_counter()
        convert.convert_run(conversion, lambda steps: None)
        convert_seconds = time.perf_counter() - start
        logs, target = conversion.source, conversion.target

        results: dict[str, list[float]] = {"rlds": [], "gz": [], "tfds": [], "count": []}
        for _ in over(range(rounds), f"read {game}", "rounds"):
            results["gz"].append(frames_per_second(lambda: DOPAMINE.read_episodes(logs, game)))
            results["rlds"].append(frames_per_second(lambda: RLDS.read_episodes(target, game)))
            results["tfds"].append(tfds_frames_per_second(target))
            start = time.perf_counter()
            rlds.count(target, game, 0)
            results["count"].append(steps / (time.perf_counter() - start))
        common.emit(
            "rlds",
            game=game,
            frames=steps,
            bytes_per_frame_rlds=size_of(target) / steps,
            bytes_per_frame_gz=size_of(logs) / steps,
            convert_frames_per_s=steps / convert_seconds,
            **{f"{name}_frames_per_s": common.summarise(x) for name, x in results.items()},
            ratio_to_gz=common.summarise([a / b for a, b in zip(results["rlds"], results["gz"])]),
            ratio_to_tfds=common.summarise(
                [a / b for a, b in zip(results["rlds"], results["tfds"])]
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5_000)
    arguments = parser.parse_args()
    tf.constant(0)
    for game in GAMES:
        measure(game, arguments.steps, arguments.rounds)


if __name__ == "__main__":
    main()
