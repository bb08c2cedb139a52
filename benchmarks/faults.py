"""Faults: a training process ended over and over at random moments, and what that cost.

`python -m cql_atari.train` is ended by SIGKILL (which is also what the out-of-memory killer
sends), SIGTERM or SIGINT, at moments drawn uniformly from its start to some steps after its first
save, every other one while a checkpoint is being written; and by a disk that is full for all its
files (RLIMIT_FSIZE). It is started again until it has finished.

With the memory feed the final weights are compared, bit for bit, with those of a run without a
fault. With the replay feed what is compared is: the steps that each start goes on from (never fewer
than the newest save had), and the writers' places (never back at the start, never behind the save).

Usage: python benchmarks/faults.py [--faults 20] [--kind memory] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from subprocess import Popen
from typing import Any

import common
import numpy as np

from cql_atari.system.progress import over

GAMES = ("Breakout", "Freeway")
STEPS, SAVE_EVERY = 3_000, 20
FAULTS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGKILL", "disk full")
START_SECONDS = 10  # some more than a process needs until its first step
FULL = 200_000  # bytes that a file may have where the disk is "full": less than a checkpoint
TINY = (
    f"data.games = {GAMES!r}",
    "data.suffixes = None",
    "feed.draws = 4",
    "feed.transitions_per_draw = 2",
    "feed.transitions_per_game = 320",
    "network.encoder = 'nature'",
    "network.feed_forward = (16,)",
    "loss.num_atoms = 11",
    "train.steps_per_call = 2",
    "train.target_period = 100",
    "train.log_every = 100",
    f"train.save_every = {SAVE_EVERY}",
    "evaluation.every = 0",
    "evaluation.episodes = 1",
    "evaluation.envs_per_game = 1",
    "evaluation.max_frames = 400",
)


def start(data: Path, workdir: Path, kind: str) -> Popen:
    """The command, in a process of its own."""
    bindings = (*TINY, f"train.steps = {STEPS}", f"data.dir = '{data}'", f"feed.kind = '{kind}'")
    command = [sys.executable, "-m", "cql_atari.train", f"--workdir={workdir}",
               *(f"--gin_bindings={binding}" for binding in bindings)]  # fmt: skip
    with open(f"{workdir}.log", "a") as log:
        return Popen(command, stdout=log, stderr=log)


def saved(workdir: Path) -> tuple[int, dict[str, list[int]]]:
    """Step and places of the newest checkpoint; (0, {}) without one."""
    steps = [p for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    if not steps:
        return 0, {}
    newest = max(steps, key=lambda path: int(path.name))
    text = (newest / "extra.json").read_text()
    return int(newest.name), json.loads(text[text.index("{") :]).get("places", {})


def end(process: Popen, workdir: Path, fault: str, random: np.random.Generator) -> str:
    """Waits for the moment, causes the fault; returns how the process ended."""
    if fault == "disk full":
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL, FULL))
        return f"disk full, exit {process.wait(600)}"
    before, _ = saved(workdir)
    if random.random() < 0.2:  # anywhere in its start
        time.sleep(random.uniform(0, START_SECONDS))
    else:
        target = before + int(random.integers(1, 6)) * SAVE_EVERY
        pattern = f"partial-{target:010d}" if random.random() < 0.5 else f"{target:010d}"
        while process.poll() is None and saved(workdir)[0] < target:
            if (workdir / "checkpoints" / pattern).exists():
                break
            time.sleep(0.004)
    during_save = bool(list((workdir / "checkpoints").glob("partial-*")))
    process.send_signal(signal.Signals[fault])
    code = process.wait(600)
    return f"{fault}{' during a save' if during_save else ''}, exit {code}"


def weights(workdir: Path) -> dict[str, np.ndarray]:
    """Every variable of the newest checkpoint."""
    import tensorflow as tf

    path = workdir / "checkpoints" / f"{saved(workdir)[0]:010d}" / "variables"
    reader = tf.train.load_checkpoint(str(path))
    names = [name for name in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in name]
    return {name: reader.get_tensor(name) for name in names}


def tracebacks(log: str) -> list[str]:
    """All but Python's own, where a signal came before the command's first line."""
    found = log.split("Traceback (most recent call last):\n")[1:]
    ends = [next((line for line in text.splitlines() if line[:1] != " "), "") for text in found]
    return [text for text, end in zip(found, ends) if end != "KeyboardInterrupt"]


def finish(data: Path, workdir: Path, kind: str) -> None:
    if code := start(data, workdir, kind).wait(3600):
        raise RuntimeError(f"it ended with {code}: " + Path(f"{workdir}.log").read_text()[-3000:])


def inject(data: Path, workdir: Path, kind: str, faults: int, seed: int) -> dict[str, Any]:
    """Faults until there were enough; then the run may finish, a little after."""
    random, ends, lost, back = np.random.default_rng(seed), [], 0, 0
    before: tuple[int, dict[str, list[int]]] = (0, {})
    for nth in over(range(faults), f"faults, {kind}", "rounds"):
        fault = FAULTS[nth % len(FAULTS)]
        process = start(data, workdir, kind)
        ends.append(end(process, workdir, fault, random))
        now = saved(workdir)
        lost += now[0] < before[0]
        back += any(tuple(now[1][game]) < tuple(place) for game, place in before[1].items())
        before = now
    return {"ends": dict(Counter(ends)), "saves_lost": lost, "places_gone_back": back,
            "step": before[0]}  # fmt: skip


def measure(folder: Path, kind: str, faults: int, seed: int) -> dict[str, Any]:
    """What so many faults did to a run in this folder."""
    data, run = folder / "data", folder / "run"
    subprocess.run(
        [sys.executable, "-m", "cql_atari.collect", f"--data_dir={data}",
         f"--games={','.join(GAMES)}", "--steps_per_game=1500", "--behaviour=random",
         "--slots_per_file=500"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    values = inject(data, run, kind, faults, seed)
    if values["step"] >= STEPS:
        raise RuntimeError("the run ended before the faults did; raise STEPS")
    finish(data, run, kind)
    if kind == "memory":
        finish(data, folder / "whole", kind)
        one, other = weights(folder / "whole"), weights(run)
        values["equal_bit_for_bit"] = one.keys() == other.keys() and all(
            np.array_equal(one[name], other[name]) for name in one
        )
        values["variables"] = len(one)
    if found := tracebacks(Path(f"{run}.log").read_text()):
        values["traceback"] = found[0][:2000]
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--kind", choices=("memory", "replay"), default="memory")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    kind, faults = arguments.kind, arguments.faults
    with tempfile.TemporaryDirectory() as name:
        values = measure(Path(name), kind, faults, arguments.seed)
    common.emit("faults", kind=kind, faults=faults, **values)


if __name__ == "__main__":
    main()
