"""A soak: how fast the resident memory of a training process grows, MB an hour, at full speed.

`python -m cql_atari.train` learns with the replay feed from a small set that its window of 1,600
transitions a game slides over again and again, and saves every few seconds; its resident memory
is read every 10 s. The slope is that of a straight line by least squares through what follows the
warm-up (by default the first fifth: TensorFlow's arenas and Reverb's tables fill). Neighbouring
samples resemble each other, so the 95 % interval counts the residuals as fewer than they are, by
their first autocorrelation. The process is stopped by SIGTERM at the end and must exit with 75.

Usage: python benchmarks/soak.py [--minutes 60] [--warm_up_minutes 12] [--samples FILE.csv]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import common
import numpy as np
import scipy.stats

from cql_atari.system.progress import over
from cql_atari.system.signals import EXIT_INTERRUPTED

GAMES = ("Breakout", "Freeway")
STEPS = 6_000  # a game
PERIOD = 10.0  # seconds between samples
FASTEST = (
    f"data.games = {GAMES!r}",
    "data.suffixes = None",
    "feed.kind = 'replay'",
    "feed.draws = 8",
    "feed.transitions_per_game = 1600",
    "network.encoder = 'nature'",
    "network.feed_forward = (64,)",
    "loss.num_atoms = 11",
    "train.steps = 1000000000",
    "train.steps_per_call = 10",
    "train.target_period = 2000",
    "train.log_every = 200",
    "train.save_every = 200",
    "evaluation.every = 0",
)


def play(folder: Path) -> None:
    """Writes the set: random play, several suffixes a game."""
    command = [sys.executable, "-m", "cql_atari.collect", f"--data_dir={folder}",
               f"--games={','.join(GAMES)}", f"--steps_per_game={STEPS}", "--behaviour=random",
               "--slots_per_file=2000"]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def training(data: Path, workdir: Path) -> Iterator[subprocess.Popen]:
    """The training process, from its first saved steps on; asked to stop on leaving."""
    bindings = (*FASTEST, f"data.dir = '{data}'")
    command = [sys.executable, "-m", "cql_atari.train", f"--workdir={workdir}",
               *(f"--gin_bindings={binding}" for binding in bindings)]  # fmt: skip
    with open(workdir.parent / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not list((workdir / "checkpoints").glob("0*")):
            if process.poll() is not None:
                raise RuntimeError((workdir.parent / "log").read_text()[-2000:])
            time.sleep(0.2)
        yield process
        process.send_signal(signal.SIGTERM)
        if (code := process.wait(300)) != EXIT_INTERRUPTED:
            text = (workdir.parent / "log").read_text()
            raise RuntimeError(f"it ended with {code}: {text[-2000:]}")
    finally:
        process.kill()


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def slope(seconds: Sequence[float], values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Least squares' slope an hour, and its 95 % interval from the effective number of samples."""
    x, y = np.array(seconds) / 3600, np.array(values)
    line = scipy.stats.linregress(x, y)
    residuals = y - line.intercept - line.slope * x
    spread = residuals @ residuals
    correlation = residuals[1:] @ residuals[:-1] / spread if spread else 0.0
    correlation = min(max(correlation, 0.0), 0.99)
    effective = max(len(x) * (1 - correlation) / (1 + correlation), 3.0)
    error = np.sqrt(spread / (effective - 2) / (np.var(x) * effective))
    half = scipy.stats.t.ppf(0.975, effective - 2) * error
    return line.slope, (line.slope - half, line.slope + half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--warm_up_minutes", type=float, default=None, help="a fifth by default")
    parser.add_argument("--samples", type=Path, default=None, help="file for every sample (CSV)")
    arguments = parser.parse_args()
    warm_up = arguments.warm_up_minutes
    warm_up = arguments.minutes / 5 if warm_up is None else warm_up
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the training process ends with us
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        play(folder / "data")
        with training(folder / "data", folder / "run") as process:
            started, samples = time.monotonic(), []
            for nth in over(range(int(arguments.minutes * 60 / PERIOD) + 1), "soaking", "rounds"):
                time.sleep(max(started + nth * PERIOD - time.monotonic(), 0))
                if process.poll() is not None:
                    raise RuntimeError((folder / "log").read_text()[-2000:])
                samples.append((time.monotonic() - started, resident_mb(process.pid)))
        last = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    if arguments.samples:
        rows = [f"{seconds:.1f},{megabytes:.2f}\n" for seconds, megabytes in samples]
        arguments.samples.write_text("".join(["seconds,resident_mb\n", *rows]))
    seconds, values = zip(*(sample for sample in samples if sample[0] >= warm_up * 60))
    per_hour, interval = slope(seconds, values)
    common.emit(
        "soak",
        minutes=arguments.minutes,
        warm_up_minutes=warm_up,
        samples=len(values),
        steps=last["step"],
        mb_per_hour=float(per_hour),
        interval_95=[float(edge) for edge in interval],
        resident_mb={"first": values[0], "last": values[-1], "max": max(values)},
    )


if __name__ == "__main__":
    main()
