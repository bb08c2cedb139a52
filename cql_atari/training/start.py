"""How a run begins: where it was stopped, else with a pre-trained encoder, else from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from cql_atari.core.settings import Config
from cql_atari.core.types import UserError
from cql_atari.methods import build
from cql_atari.methods.method import Learner, Method
from cql_atari.runs import checkpoint, folder
from cql_atari.system import files

# What makes one kind of encoder differ from another of its kind.
_SETTINGS = {
    "nature": (),
    "impala": ("impala_width",),
    "resnet": ("block", "depths", "widths", "strides", "stem_kernel", "stem_stride", "stem_pool",
               "groups"),
}  # fmt: skip


def begin(
    method: Method, config: Config, directory: Path, scope: Callable[[], AbstractContextManager]
) -> tuple[Learner, int]:
    """Brings a run to where it stands; its own checkpoint comes before anything else.

    A new run with `start.encoder_from` takes that run's encoder, or all, and notes in `start.json`
    where it is from.

    Args:
      method: with fresh weights.
      config: the run's.
      directory: the run's folder.
      scope: the strategy's.

    Returns:
      The learner, and the step at which the run goes on, 0 for a new one.

    Raises:
      UserError: where the own checkpoints don't fit or hold weights that are not finite, or the
        encoder can't be had.
    """
    checkpoints = directory / folder.CHECKPOINTS
    if not checkpoint.steps(checkpoints) and config.start.encoder_from is not None:
        _take_encoder(method, config, Path(config.start.encoder_from), directory)
    with scope():
        learner = method.learner()
    # Adam's rates and betas are variables, which a checkpoint holds: the configured ones win.
    configured = [part.optimizer.get_config() for part in learner.parts]
    step = checkpoint.restore_latest(checkpoints, tf.train.Checkpoint(**learner.saved)) or 0
    for part, values in zip(learner.parts, configured):
        for name in part.optimizer._hyper:
            value = values.get(name, {})  # a schedule has no state: it is a dict, or isn't there
            if not isinstance(value, dict):
                setattr(part.optimizer, name, value)
    if step:
        remedy = f"remove {checkpoints / f'{step:010d}'} to go on from an earlier one"
        check_finite(learner, f"the run can't go on from step {step}", remedy)
    logging.info("starting at step %d", step)
    return learner, step


def check_finite(learner: Learner, consequence: str, remedy: str) -> None:
    """Raises a UserError where a weight or an optimizer's moment is not finite.

    Losses and Q-values can stay finite then: on CPUs TensorFlow's ReLU makes 0 of NaN.
    """
    variables = [variable for part in learner.saved.values() for variable in _variables(part)]
    wrong = [v.name for v in variables if v.dtype.is_floating and not _is_finite(v)]
    if wrong:
        raise UserError(
            f"the network has diverged: {len(wrong)} of {len(variables)} variables are not finite, "
            f"{wrong[0]} among them. So {consequence}; {remedy}. Lower optimizer.learning_rate."
        )


def _variables(part: Any) -> list[tf.Variable]:
    found = part.variables
    return list(found() if callable(found) else found)


def _is_finite(variable: tf.Variable) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(variable)))


def _take_encoder(method: Method, config: Config, run: Path, directory: Path) -> None:
    theirs, whole = folder.read_config(run), config.start.whole_network
    what = "whole_network" if whole else "encoder"
    given, wanted = build.kind(theirs).gives, build.kind(config).gives
    settings = ["encoder", *_SETTINGS[config.network.encoder], "pooling", "embedding_blocks"]
    names = [f"network.{name}" for name in settings] + list(wanted.get(what, ()))
    pairs = [(name, _setting(theirs, name), _setting(config, name)) for name in names]
    problems = [f"{name} = {a!r} there, {b!r} here" for name, a, b in pairs if a != b]
    if what not in given or what not in wanted:
        problems.append(
            f"train.method = {theirs.train.method!r} there, {config.train.method!r} here: these "
            f"don't share the {what.replace('_', ' ')}"
        )
    if whole and not set(theirs.data.games) & set(config.data.games):
        problems.append(f"it knows {', '.join(theirs.data.games)}; start.whole_network needs one")
    step = None
    try:
        step = checkpoint.restore_latest(
            run / folder.CHECKPOINTS, method.network.encoder, checkpoint.restore_encoder
        )
        if step is None:
            problems = ["that run has no checkpoint yet; train it first"]
        elif whole and not problems:
            newest = run / folder.CHECKPOINTS / f"{step:010d}"
            checkpoint.restore_rest(newest, method.network, theirs.data.games, config.data.games)
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError(
            "\n  ".join([f"start.encoder_from = {str(run)!r} can't give its encoder:", *problems])
            + f"\nUse the gin files of its network (all of it stands in {run / folder.CONFIG_GIN})."
        )
    note = {"encoder_from": str(run.resolve()), "step": step, "whole_network": whole}
    logging.info("%s of %s at step %d", "network" if whole else "encoder", run.resolve(), step)
    files.write_whole(directory / folder.START, json.dumps(note) + "\n")


def _setting(config: Config, name: str) -> Any:
    section, setting = name.split(".")
    return getattr(getattr(config, section), setting)
