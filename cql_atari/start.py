"""How a run begins: where it was stopped, else with a pre-trained encoder, else from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import tensorflow as tf
from absl import logging

from cql_atari import checkpoint, workdir
from cql_atari.agent import ScaledQAgent
from cql_atari.config import Config, Network
from cql_atari.types import UserError

FILE = "start.json"
# What makes one kind of encoder differ from another of its kind.
_SETTINGS = {
    "nature": (),
    "impala": ("impala_width",),
    "resnet": ("block", "depths", "widths", "strides", "stem_kernel", "stem_stride", "stem_pool",
               "groups"),
}  # fmt: skip


def begin(agent: ScaledQAgent, state: tf.train.Checkpoint, config: Config, directory: Path) -> int:
    """Brings the agent to where the run stands; its own checkpoint comes before anything else.

    A new run with `start.encoder_from` takes that run's encoder and notes in `start.json` where it
    is from.

    Args:
      agent: with fresh weights.
      state: what a checkpoint of this agent holds.
      config: the run's.
      directory: the run's folder.

    Returns:
      The step at which the run goes on; 0: it is new.

    Raises:
      UserError: where the own checkpoints don't fit, or the encoder can't be had.
    """
    step = checkpoint.restore_latest(directory / "checkpoints", state)
    if step is None:
        if config.start.encoder_from is not None:
            _take_encoder(agent, config.network, Path(config.start.encoder_from), directory)
        agent.initialize()
    logging.info("starting at step %d", step or 0)
    return step or 0


def _take_encoder(agent: ScaledQAgent, network: Network, run: Path, directory: Path) -> None:
    theirs = workdir.read_config(run).network
    problems = [
        f"network.{name} = {getattr(theirs, name)!r} there, {getattr(network, name)!r} here"
        for name in ("encoder", *_SETTINGS[network.encoder], "pooling", "embedding_blocks")
        if getattr(theirs, name) != getattr(network, name)
    ]
    step = None
    try:
        step = checkpoint.restore_latest(
            run / "checkpoints", agent.network.encoder, checkpoint.restore_encoder
        )
        if step is None:
            problems = ["that run has no checkpoint yet; train it first"]
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError(
            "\n  ".join([f"start.encoder_from = {str(run)!r} can't give its encoder:", *problems])
            + f"\nUse the gin files of its network (all of it stands in {run / 'config.gin'})."
        )
    note = {"encoder_from": str(run.resolve()), "step": step}
    logging.info("encoder of %s at step %d", note["encoder_from"], step)
    partial = directory / f"{FILE}.partial"
    partial.write_text(json.dumps(note) + "\n")
    partial.rename(directory / FILE)
