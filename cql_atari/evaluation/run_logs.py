"""What a run logged: its `metrics.jsonl`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from absl import logging

from cql_atari.runs import folder
from cql_atari.system.files import parse_json

SCORE = "evaluation/score/"  # and a game or variant: its mean score


def read_metrics(workdir: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars that a run logged, by name, each [(step, value)] in order of steps; {} without a log.

    Where a step stands twice (after a resume) the later line counts. A line that a crash has cut
    is left out with a warning.
    """
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(_lines(workdir), 1):
        try:
            row = dict(parse_json(line))
            step = int(row.pop("step"))
            row.pop("time", None)
            values = {name: float(value) for name, value in row.items()}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            logging.warning("%s, line %d is left out: %r", workdir / folder.METRICS, number, error)
            continue
        for name, value in values.items():
            curves.setdefault(name, {})[step] = value
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def read_times(workdir: Path) -> list[float]:
    """Unix seconds of the log's lines, sorted; lines that can't be read are left out."""
    times = []
    for line in _lines(workdir):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            times.append(float(parse_json(line)["time"]))
    return sorted(times)


def _lines(workdir: Path) -> list[bytes]:  # a power cut may leave what is no text
    path = workdir / folder.METRICS
    return path.read_bytes().splitlines() if path.is_file() else []
