"""The one place that logs: scalars and pictures to TensorBoard and to the run's folder."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from cql_atari.core import games, settings
from cql_atari.runs import folder
from cql_atari.system import files


@functools.cache
def _writer(workdir: Path, run: str = "") -> tf.summary.SummaryWriter:
    """One a folder: where a folder has several files, TensorBoard goes on with the newest only."""
    return tf.summary.create_file_writer(str(workdir / folder.TENSORBOARD / run))


def describe_run(workdir: Path, config: settings.Config) -> None:
    """Shows the configuration in TensorBoard: as text, and as hyper-parameters to compare runs by.

    Hyper-parameters are the values that differ from the paper's run, and the seed.
    """
    from tensorboard.plugins.hparams import api

    paper = settings.by_name(settings.Config())
    values = {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in settings.by_name(config).items()
        if value != paper[name] or name == "train.seed"
    }
    text = "".join(f"    {line}\n" for line in settings.to_gin(config).splitlines())
    writer = _writer(workdir)
    with writer.as_default(0):
        tf.summary.text("configuration", text)
        api.hparams(values, trial_id=str(workdir.resolve()))
    writer.flush()


def log_actions(workdir: Path, step: int, shares: Mapping[str, Mapping[str, float]]) -> None:
    """Shows in TensorBoard how often each action was chosen in an evaluation, as histograms.

    Args:
      workdir: the run's folder.
      step: of the weights that played.
      shares: of each game, the share of each action by name. In the histogram an action is its
        number in the full set of 18.
    """
    writer, buckets = _writer(workdir), len(games.ACTION_NAMES)
    with writer.as_default(step):
        for game, share in shares.items():
            numbers = [games.ACTION_NAMES.index(name) for name in share]
            drawn = np.repeat(numbers, [round(1000 * part) for part in share.values()])
            tf.summary.histogram(f"evaluation/actions/{game}", drawn, buckets=buckets)
    writer.flush()


def make_log(workdir: Path) -> Callable[[int, dict[str, float]], None]:
    """A function (step, scalars) that appends to both logs of a run and flushes them.

    metrics.jsonl holds one object a call: `step`, `time` (Unix seconds) and the scalars under
    flat names such as `loss/td`. After a resume a step may stand twice; the later line counts.
    """
    writer, path = _writer(workdir), workdir / folder.METRICS
    if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):  # a kill has cut a line
        with open(path, "a") as file:
            file.write("\n")

    def log(step: int, scalars: dict[str, float]) -> None:
        _write(writer, step, scalars)
        with open(path, "a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **scalars}) + "\n")

    return log


def make_evaluation_log(workdir: Path) -> Callable[[int, dict[str, float]], None]:
    """A function (step, scalars) for an evaluation that runs beside the training: in TensorBoard it
    is a run of its own, `evaluation`.
    """
    return functools.partial(_write, _writer(workdir, "evaluation"))


def _write(writer: tf.summary.SummaryWriter, step: int, scalars: dict[str, float]) -> None:
    with writer.as_default(step):
        for name, value in scalars.items():
            tf.summary.scalar(name, value)
    writer.flush()


def make_picture_log(workdir: Path) -> Callable[[int, dict[str, np.ndarray]], None]:
    """A function (step, pictures uint8 [height, width, 1 or 3] by name) that appends to TensorBoard
    and writes `pictures/<name>_<step>.png`.
    """
    writer = _writer(workdir)

    def log(step: int, pictures: dict[str, np.ndarray]) -> None:
        (workdir / folder.PICTURES).mkdir(exist_ok=True)
        for name, picture in pictures.items():
            with writer.as_default(step):
                tf.summary.image(name, picture[None])
            path = workdir / folder.PICTURES / f"{name}_{step:010d}.png"
            files.write_whole(path, tf.io.encode_png(picture).numpy())
        writer.flush()

    return log
