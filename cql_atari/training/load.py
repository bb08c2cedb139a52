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


def load(directory: Path) -> Loaded:
    """The newest checkpoint of a recorded run.

    Reads JSON and variables only, never gin files: those are code.

    Raises:
      UserError: where the run or its checkpoints are missing or damaged, or its method doesn't act.
    """
    config = folder.read_config(directory)
    method = build.build(config)
    if method.act is None:
        raise UserError(
            f"{directory} was trained with train.method = {config.train.method!r}, which doesn't "
            "act; start another run from its encoder (start.encoder_from)."
        )
    step = checkpoint.restore_latest(
        directory / "checkpoints", tf.train.Checkpoint(network=method.network)
    )
    if step is None:
        raise UserError(f"{directory} has no checkpoint yet; train first.")
    return Loaded(method.act, config, step)
