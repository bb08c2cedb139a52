"""Time from a command's start to its first steps; time to save and to restore a checkpoint.

The start is that of `python -m cql_atari.train`, with the replay feed on a small set and a small
network: interpreter, imports, survey of the data, first fill, tracing, and the first 10 steps until
they are logged. Saving and restoring is that of everything a run of a configuration goes on from
(by default `gin_configs/multigame.gin`: ResNet-101, 40 heads, target network, Adam's slots), synced
to disk; restoring is from the page cache.

Usage: python benchmarks/checkpoints.py [--rounds 3] [--gin_file gin_configs/multigame.gin]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import soak

from cql_atari import config as config_lib
from cql_atari.system.progress import over


def seconds_to_first_step(data: Path, workdir: Path) -> float:
    """From starting the process to its first log line."""
    bindings = (*soak.FASTEST, "train.log_every = 10", f"data.dir = '{data}'")
    command = [sys.executable, "-m", "cql_atari.train", f"--workdir={workdir}",
               *(f"--gin_bindings={binding}" for binding in bindings)]  # fmt: skip
    start = time.perf_counter()
    with open(f"{workdir}.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not (workdir / "metrics.jsonl").exists():
            if process.poll() is not None:
                raise RuntimeError(Path(f"{workdir}.log").read_text()[-2000:])
            time.sleep(0.01)
        return time.perf_counter() - start
    finally:
        process.kill()
        process.wait()


def measure_checkpoint(gin_file: str, folder: Path, rounds: int) -> None:
    """One JSON line: seconds to save and restore, size."""
    import tensorflow as tf

    from cql_atari.methods import build
    from cql_atari.runs import checkpoint

    config = config_lib.load((gin_file,))
    state = tf.train.Checkpoint(**build.build(config).learner().saved)
    saves, restores = [], []
    for nth in over(range(rounds), "saving and restoring", "rounds"):
        start = time.perf_counter()
        path = checkpoint.save(folder, state, nth, 1)
        saves.append(time.perf_counter() - start)
        start = time.perf_counter()
        checkpoint.restore_latest(folder, state)
        restores.append(time.perf_counter() - start)
    trunk, heads = build.count_parameters(config)
    common.emit(
        "checkpoint",
        configuration=gin_file,
        parameters=trunk + heads,
        megabytes=sum(file.stat().st_size for file in path.iterdir()) / 1e6,
        save_seconds=common.summarise(saves),
        restore_seconds=common.summarise(restores),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gin_file", default="gin_configs/multigame.gin")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        soak.play(folder / "data")
        starts = [
            seconds_to_first_step(folder / "data", folder / f"run{nth}")
            for nth in over(range(arguments.rounds), "starting", "rounds")
        ]
        common.emit("first_step", seconds_from_process_start=common.summarise(starts))
        measure_checkpoint(arguments.gin_file, folder / "checkpoints", arguments.rounds)


if __name__ == "__main__":
    main()
