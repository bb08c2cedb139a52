"""How a run begins: where it was stopped, else with a pre-trained encoder, else from scratch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from cql_atari.core.settings import Config
from cql_atari.core.types import UserError
from cql_atari.methods.scaled_q import ScaledQAgent
from cql_atari.runs import checkpoint, folder

FILE = "start.json"
# What makes one kind of encoder differ from another of its kind.
_SETTINGS = {
    "nature": (),
    "impala": ("impala_width",),
    "resnet": ("block", "depths", "widths", "strides", "stem_kernel", "stem_stride", "stem_pool",
               "groups"),
}  # fmt: skip
# What the rest of the network must have in common.
_WHOLE = ["network.feed_forward", "network.feature_norm"]
_WHOLE += ["loss.kind", "loss.num_atoms", "loss.v_max"]


def begin(agent: ScaledQAgent, state: tf.train.Checkpoint, config: Config, directory: Path) -> int:
    """Brings the agent to where the run stands; its own checkpoint comes before anything else.

    A new run with `start.encoder_from` takes that run's encoder, or all, and notes in `start.json`
    where it is from.

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
            _take_encoder(agent, config, Path(config.start.encoder_from), directory)
        agent.initialize()
    logging.info("starting at step %d", step or 0)
    return step or 0


def _take_encoder(agent: ScaledQAgent, config: Config, run: Path, directory: Path) -> None:
    theirs, whole = folder.read_config(run), config.start.whole_network
    settings = ["encoder", *_SETTINGS[config.network.encoder], "pooling", "embedding_blocks"]
    names = [f"network.{name}" for name in settings] + (_WHOLE if whole else [])
    pairs = [(name, _setting(theirs, name), _setting(config, name)) for name in names]
    problems = [f"{name} = {a!r} there, {b!r} here" for name, a, b in pairs if a != b]
    if whole and not set(theirs.data.games) & set(config.data.games):
        problems.append(f"it knows {', '.join(theirs.data.games)}; start.whole_network needs one")
    step = None
    try:
        step = checkpoint.restore_latest(
            run / "checkpoints", agent.network.encoder, checkpoint.restore_encoder
        )
        if step is None:
            problems = ["that run has no checkpoint yet; train it first"]
        elif whole and not problems:
            newest = run / "checkpoints" / f"{step:010d}"
            checkpoint.restore_rest(newest, agent.network, theirs.data.games, config.data.games)
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError(
            "\n  ".join([f"start.encoder_from = {str(run)!r} can't give its encoder:", *problems])
            + f"\nUse the gin files of its network (all of it stands in {run / 'config.gin'})."
        )
    note = {"encoder_from": str(run.resolve()), "step": step, "whole_network": whole}
    logging.info("%s of %s at step %d", "network" if whole else "encoder", run.resolve(), step)
    partial = directory / f"{FILE}.partial"
    partial.write_text(json.dumps(note) + "\n")
    partial.rename(directory / FILE)


def _setting(config: Config, name: str) -> Any:
    section, setting = name.split(".")
    return getattr(getattr(config, section), setting)
