"""The one place that logs: scalars to TensorBoard and to metrics.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from cql_atari.runs import folder


def make_log(workdir: Path) -> Callable[[int, dict[str, float]], None]:
    """A function (step, scalars) that appends to both logs of a run and flushes them.

    metrics.jsonl holds one object a call: `step`, `time` (Unix seconds) and the scalars under
    flat names such as `loss/td`. After a resume a step may stand twice; the later line counts.
    """
    writer = tf.summary.create_file_writer(str(workdir / folder.TENSORBOARD))

    def log(step: int, scalars: dict[str, float]) -> None:
        with writer.as_default(step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        writer.flush()
        with open(workdir / folder.METRICS, "a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **scalars}) + "\n")

    return log
