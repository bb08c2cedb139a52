"""The one place that logs: scalars and pictures to TensorBoard and to the run's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from cql_atari.runs import folder
from cql_atari.system import files


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


def make_picture_log(workdir: Path) -> Callable[[int, dict[str, np.ndarray]], None]:
    """A function (step, pictures uint8 [height, width, 1 or 3] by name) that appends to TensorBoard
    and writes `pictures/<name>_<step>.png`.
    """
    writer = tf.summary.create_file_writer(str(workdir / folder.TENSORBOARD))

    def log(step: int, pictures: dict[str, np.ndarray]) -> None:
        (workdir / folder.PICTURES).mkdir(exist_ok=True)
        for name, picture in pictures.items():
            with writer.as_default(step):
                tf.summary.image(name, picture[None])
            path = workdir / folder.PICTURES / f"{name}_{step:010d}.png"
            files.write_whole(path, tf.io.encode_png(picture).numpy())
        writer.flush()

    return log
