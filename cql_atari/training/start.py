"""How a run begins: at its newest checkpoint, with a pre-trained encoder, or from scratch."""

from __future__ import annotations

import functools
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
from cql_atari.runs import checkpoint, folder, recorded_config, weights
from cql_atari.system import files

# The settings that must agree, by kind of encoder.
_SETTINGS = {
    "nature": (),
    "impala": ("impala_width",),
    "resnet": ("block", "depths", "widths", "strides", "stem_kernel", "stem_stride", "stem_pool",
               "groups"),
}  # fmt: skip


def begin(
    method: Method,
    config: Config,
    directory: Path,
    scope: Callable[[], AbstractContextManager],
    is_chief: bool = True,
) -> tuple[Learner, int]:
    """Restores a run's newest checkpoint; a new run begins with what `start` says.

    A new run with `start.encoder_from` takes that run's encoder, or all, and notes in `start.json`
    where it is from.

    Args:
      method: with fresh weights.
      config: the run's.
      directory: the run's folder.
      scope: the strategy's.
      is_chief: whether this host writes.

    Returns:
      The learner, and the step at which the run goes on, 0 for a new one.

    Raises:
      UserError: where the own checkpoints don't fit, hold weights that are not finite or are from
        beyond the run's end, or the encoder can't be taken over.
    """
    checkpoints = directory / folder.CHECKPOINTS
    checkpoint.put_back(checkpoints)
    if not checkpoint.steps(checkpoints) and config.start.encoder_from is not None:
        note = _take_over(method, config, Path(config.start.encoder_from))
        if is_chief:
            files.write_whole(directory / folder.START, json.dumps(note) + "\n")
    with scope():
        learner = method.learner()
    # Adam's rates and betas are variables, which a checkpoint holds: the configured ones win.
    configured = [group.optimizer.get_config() for group in learner.parameter_groups]
    step = checkpoint.restore_latest(checkpoints, tf.train.Checkpoint(**learner.saved)) or 0
    for group, values in zip(learner.parameter_groups, configured):
        for name in group.optimizer._hyper:
            value = values.get(name, {})  # a schedule has no state: it is a dict, or isn't there
            if not isinstance(value, dict):
                setattr(group.optimizer, name, value)
    if step > config.train.steps:  # it would be evaluated as if it were at its end
        raise UserError(
            f"{directory} is at step {step} already, beyond train.steps = {config.train.steps}: "
            f"raise that, or remove the later folders in {checkpoints} to end at an earlier one."
        )
    if step:
        remedy = f"remove {checkpoints / f'{step:010d}'} to go on from an earlier one"
        check_finite(learner, f"the run can't go on from step {step}", remedy)
    logging.info("starting at step %d", step)
    return learner, step


def check_finite(learner: Learner, consequence: str, remedy: str) -> None:
    """Raises a UserError where a weight or an optimizer's moment is not finite.

    Losses and Q-values can stay finite then: on CPUs TensorFlow's ReLU makes 0 of NaN.

    Args:
      learner: whose variables.
      consequence: for the message: what isn't done because of it.
      remedy: for the message: what to do.
    """
    variables = [variable for part in learner.saved.values() for variable in _variables(part)]
    if wrong := checkpoint.not_finite(variables):
        raise UserError(
            f"the network has diverged: {len(wrong)} of {len(variables)} variables are not finite, "
            f"{wrong[0]} among them. So {consequence}; {remedy}. Lower optimizer.learning_rate."
        )


def _variables(part: Any) -> list[tf.Variable]:
    found = part.variables
    return list(found() if callable(found) else found)


def _take_over(method: Method, config: Config, run: Path) -> dict[str, Any]:
    """Takes over what `start` names from another run; what `start.json` says of it."""
    if weights.is_export(run):
        raise UserError(
            f"start.encoder_from = {str(run)!r} is an export; give the run that it was made from."
        )
    theirs, whole = recorded_config.read_config(run), config.start.whole_network
    problems, step = _differences(theirs, config, method.network), None
    what = "whole_network" if whole else "encoder"
    if _shared(what, theirs, config):
        try:
            step = _restore(method.network, run, theirs, config, whole=whole and not problems)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(
            f"start.encoder_from = {str(run)!r} can't give its {what.replace('_', ' ')}:"
            + "".join(f"\n  {problem}" for problem in problems)
            + f"\nUse the gin files of its network (they are all in {run / folder.CONFIG_GIN})."
        )
    logging.info("%s of %s at step %d", what.replace("_", " "), run.resolve(), step)
    return {"encoder_from": str(run.resolve()), "step": step, "whole_network": whole}


def _differences(theirs: Config, config: Config, network: tf.keras.Model) -> list[str]:
    """Why a network can't take over what `start` names, as far as the settings show it."""
    whole = config.start.whole_network
    what = "whole_network" if whole else "encoder"
    if not _shared(what, theirs, config):
        problem = (
            f"train.method = {theirs.train.method!r} there, {config.train.method!r} here: these "
            f"don't share the {what.replace('_', ' ')}"
        )
        if not whole and _shared("whole_network", theirs, config):
            problem += "; with start.whole_network = True all of it is taken"
        return [problem]
    wanted = build.kind(config).gives
    names = list(wanted[what])
    if "encoder" in wanted:
        sizes = ("encoder", *_SETTINGS[config.network.encoder], "pooling", "embedding_blocks")
        names += [f"network.{name}" for name in sizes]
    differ = [name for name in names if _setting(theirs, name) != _setting(config, name)]
    shown = [name.replace("has_", "") for name in differ]  # a property isn't bindable
    problems = [
        f"{name} = {_setting(theirs, name)!r} there, {_setting(config, name)!r} here"
        for name in shown
    ]
    known = set(theirs.data.games) & set(config.data.games)
    # A network without heads has nothing that belongs to a game.
    if whole and hasattr(network, "heads") and not known:
        problems.append(f"it knows {', '.join(theirs.data.games)}; start.whole_network needs one")
    return problems


def _shared(what: str, theirs: Config, config: Config) -> bool:
    """Whether both methods have such a part, and mean the same by it."""
    given, wanted = (build.kind(each).gives.get(what) for each in (theirs, config))
    return given is not None and given == wanted


def _restore(
    network: tf.keras.Model, run: Path, theirs: Config, config: Config, *, whole: bool
) -> int:
    """Restores the encoder, or the whole network, from a run's newest checkpoint; its step."""
    checkpoints = run / folder.CHECKPOINTS
    if not hasattr(network, "encoder"):
        step = checkpoint.restore_latest(checkpoints, network, checkpoint.restore_network)
    elif whole:
        games = {"there": theirs.data.games, "here": config.data.games}
        parts = functools.partial(checkpoint.restore_parts, **games)
        step = checkpoint.restore_latest(checkpoints, network, parts)
    else:
        step = checkpoint.restore_latest(checkpoints, network.encoder, checkpoint.restore_encoder)
    if step is None:
        raise UserError("that run has no checkpoint yet; train it first")
    return step


def _setting(config: Config, name: str) -> Any:
    section, setting = name.split(".")
    return getattr(getattr(config, section), setting)
