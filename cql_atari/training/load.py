"""Loads the network of a recorded or exported run, ready to act."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from cql_atari.core.settings import Config
from cql_atari.core.types import Policy, UserError
from cql_atari.methods import build
from cql_atari.methods.method import Method
from cql_atari.runs import checkpoint, folder, recorded_config, weights


class Loaded(NamedTuple):
    """A run whose weights are restored.

    Attributes:
      act: makes a policy that remembers nothing yet; each evaluation or actor takes its own.
      config: what the run was made from; a row's game is a position in `config.data.games`.
      step: the checkpoint's, in gradient steps.
      method: its network and what else can be done with it: `method.outputs` are its Q-values.
    """

    act: Callable[[], Policy]
    config: Config
    step: int
    method: Method


class Run(NamedTuple):
    """A recorded run whose weights `restore_run` brings in.

    Attributes:
      directory: its folder.
      config: its configuration.
      method: its network has random weights before `restore_run`.
    """

    directory: Path
    config: Config
    method: Method

    @property
    def act(self) -> Callable[[], Policy]:
        """Makes policies, which follow what is restored later."""
        assert self.method.act is not None  # `open_run` looks
        return self.method.act


def load(directory: Path, step: int | None = None, seed: int | None = None) -> Loaded:
    """A recorded run's checkpoint, that of `step` or the newest intact one, or an exported run.

    Reads JSON and plain arrays only, never gin files or saved models: those are code.

    Args:
      directory: the run's or the export's folder.
      step: of the checkpoint; None: the newest intact one.
      seed: as for `open_run`.

    Raises:
      UserError: where the run or its checkpoints are missing or damaged, its weights are not
        finite, or its method doesn't act.
    """
    run = open_run(directory, seed)
    return Loaded(run.act, run.config, restore_run(run, step), run.method)


def open_run(directory: Path, seed: int | None = None) -> Run:
    """A recorded run's network, without its weights.

    Args:
      directory: the run's folder.
      seed: in place of `evaluation.seed`, by which a transformer draws its actions.

    Raises:
      UserError: where there is no run, or its method doesn't act.
    """
    config = recorded_config.read_config(directory)
    if seed is not None:
        evaluation = dataclasses.replace(config.evaluation, seed=seed)
        config = dataclasses.replace(config, evaluation=evaluation)
    method = build.build(config)
    if method.act is None:
        raise UserError(
            f"{directory} was trained with train.method = {config.train.method!r}, which doesn't "
            "act; start another run from its encoder (start.encoder_from)."
        )
    return Run(directory, config, method)


def restore_run(run: Run, step: int | None = None) -> int:
    """Restores the weights of the checkpoint of `step`, or of the newest intact one.

    Returns:
      Its step.

    Raises:
      UserError: where it is missing or damaged, or its weights are not finite.
    """
    directory, network = run.directory, run.method.network
    is_export = weights.is_export(directory)
    if is_export:
        there = [_restore_export(directory / weights.FILE, network)]
    else:
        there = checkpoint.steps(directory / folder.CHECKPOINTS)
    if not there:
        raise UserError(f"{directory} has no checkpoint yet; train first.")
    if step is not None and step not in there:
        raise UserError(
            f"{directory} has no checkpoint of step {step}; there are {', '.join(map(str, there))}."
        )
    step = there[0] if is_export else _restore_checkpoint(directory, network, step)
    variables = network.variables
    if wrong := checkpoint.not_finite(variables):
        others = [other for other in there if other != step]
        raise UserError(
            f"{directory} has diverged by step {step}: {len(wrong)} of {len(variables)} weights "
            f"are not finite, {wrong[0]} among them. "
            + (f"Take an earlier checkpoint, of {', '.join(map(str, others))}." if others else
               "There is no earlier checkpoint; train again with a lower optimizer.learning_rate.")
        )  # fmt: skip
    return step


def _restore_export(path: Path, network: tf.keras.Model) -> int:
    """Restores an export's weights; returns their step."""
    step = weights.read_into(path, network).get("step", "")
    if not step.isdecimal():
        raise UserError(
            f"{path} doesn't say of which step it is (step: {step!r}); export it again."
        )
    return int(step)


def _restore_checkpoint(directory: Path, network: tf.keras.Model, step: int | None) -> int:
    """Restores the checkpoint of a step, or the newest intact one; returns its step."""
    checkpoints = directory / folder.CHECKPOINTS
    if step is None:
        newest = checkpoint.restore_latest(checkpoints, network, checkpoint.restore_network)
        assert newest is not None  # there are some
        return newest
    try:
        checkpoint.restore_network(checkpoints / f"{step:010d}", network)
    except checkpoint.DAMAGE as error:
        raise UserError(
            f"the checkpoint of step {step} in {directory} is damaged: {error}"
        ) from error
    return step
