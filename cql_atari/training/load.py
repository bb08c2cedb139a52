"""A recorded run's network, ready to act."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from cql_atari.core.settings import Config
from cql_atari.core.types import Policy, UserError
from cql_atari.methods import build
from cql_atari.runs import checkpoint, folder


class Loaded(NamedTuple):
    """A maker of the run's policies, its configuration, and the step of the checkpoint."""

    act: Callable[[], Policy]
    config: Config
    step: int


def load(directory: Path, step: int | None = None) -> Loaded:
    """A checkpoint of a recorded run: that of `step`, or the newest intact one.

    Reads JSON and variables only, never gin files: those are code.

    Raises:
      UserError: where the run or its checkpoints are missing or damaged, its weights are not
        finite, or its method doesn't act.
    """
    config = folder.read_config(directory)
    method = build.build(config)
    if method.act is None:
        raise UserError(
            f"{directory} was trained with train.method = {config.train.method!r}, which doesn't "
            "act; start another run from its encoder (start.encoder_from)."
        )
    checkpoints = directory / folder.CHECKPOINTS
    there = checkpoint.steps(checkpoints)
    if not there:
        raise UserError(f"{directory} has no checkpoint yet; train first.")
    if step is None:
        step = checkpoint.restore_latest(checkpoints, method.network, _restore)
        assert step is not None
    else:
        if step not in there:
            raise UserError(
                f"{directory} has no checkpoint of step {step}; there are "
                f"{', '.join(map(str, there))}."
            )
        try:
            _restore(checkpoints / f"{step:010d}", method.network)
        except checkpoint.DAMAGE as error:
            raise UserError(
                f"the checkpoint of step {step} in {directory} is damaged: {error}"
            ) from error
    wrong = sum(not bool(tf.reduce_all(tf.math.is_finite(v))) for v in method.network.variables)
    if wrong:
        others = [other for other in there if other != step]
        raise UserError(
            f"{directory} has diverged by step {step}: {wrong} of {len(method.network.variables)} "
            "weights are not finite. "
            + (f"Take an earlier checkpoint, of {', '.join(map(str, others))}." if others else
               "There is no earlier checkpoint; train again with a lower optimizer.learning_rate.")
        )  # fmt: skip
    return Loaded(method.act, config, step)


def _restore(path: Path, network: tf.keras.Model) -> None:
    """Restores a network alone: what else the checkpoint holds isn't missed."""
    checkpoint.restore(path, tf.train.Checkpoint(network=network), partial=True)
