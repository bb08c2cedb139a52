"""A run's folder (`--workdir`): every path in it, who writes it and who reads it.

    path                   written by                 read by
    lock                   `lock_workdir`             a second process, which is refused
    config.json            runs/recorded_config.py    the same: evaluation, transfer, play, export
    config.gin             runs/recorded_config.py    the same, when the run goes on; people
    system.json            runs/provenance.py         evaluation/run_facts.py
    manifest.json          runs/manifest.py           the same, when the run goes on;
                                                      evaluation/run_facts.py
    start.json             training/start.py          people: where the first weights came from
    checkpoints/<step>/    runs/checkpoint.py         training/start.py to go on or to transfer,
                                                      training/load.py to act
    metrics.jsonl          runs/log.py                evaluation/run_logs.py
    tensorboard/           runs/log.py                TensorBoard
    pictures/              runs/log.py                people: what a method that doesn't act makes
    scores/<step>.json     training/scores.py         evaluation/curves.py, training/follow.py
    scores/*.unfinished.jsonl   evaluation/journal.py      the same, when the evaluation goes on
    scores.json            training/scores.py         evaluation/score_files.py: report;
                                                      training/export.py
    places.json            tools/serve_replay.py      the same, started again

A folder of `evaluate --policy` has scores.json alone, and scores.unfinished.jsonl until it is over.

Only the chief host writes. `--accept_config_change` replaces config.json and config.gin. Removing
the newest folder in checkpoints/ makes the run go on from the one before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cql_atari.core.types import UserError
from cql_atari.system import files

LOCK = "lock"
CONFIG = "config.json"
CONFIG_GIN = "config.gin"
MANIFEST = "manifest.json"
SYSTEM = "system.json"
START = "start.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
PICTURES = "pictures"
SCORES = "scores.json"
PLACES = "places.json"


def scores_of(workdir: Path, step: int) -> Path:
    """Where a run keeps the scores of one step, beside the newest ones in `SCORES`."""
    return workdir / "scores" / f"{step:010d}.json"


def scores_by_step(workdir: Path) -> dict[int, Path]:
    """All that `scores_of` has for a run, in order."""
    paths = sorted((workdir / "scores").glob("*.json"))
    return {int(path.stem): path for path in paths if path.stem.isdecimal()}


def unfinished_of(scores: Path) -> Path:
    """Where the episodes of an evaluation are until its scores can be written."""
    return scores.with_suffix(".unfinished.jsonl")


def holding(name: str, tops: Iterable[Path]) -> list[Path]:
    """Folders at or below `tops` with a file of this name, each once, as it is written there."""
    found: dict[Path, Path] = {}  # the tops may lie in one another
    for top in tops:
        for path in sorted(top.rglob(name)):
            found.setdefault(path.parent.resolve(), path.parent)
    return list(found.values())


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Holds the run's folder for this process; the kernel lets go of it however the process ends.

    Raises:
      UserError: where another process holds it, or the folder can't be made.
    """
    path = workdir / LOCK
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        path.touch()
        holder = path.read_text()
    except OSError as error:
        raise UserError(
            f"can't use --workdir {workdir} ({error.strerror}); give a folder that can be written."
        ) from error
    with files.locked(
        path,
        f"--workdir {workdir} is in use by process {holder or '?'}; wait for it, stop it, or "
        "choose another --workdir.",
    ):
        path.write_text(str(os.getpid()))
        yield


def is_held(workdir: Path) -> bool:
    """Whether a process holds the folder: `lock_workdir` there."""
    return files.is_locked(workdir / LOCK)


def has_begun(workdir: Path) -> bool:
    """Whether a run has saved anything there that another configuration or data would spoil."""
    return any((workdir / CHECKPOINTS).glob("[0-9]*"))
