"""Evaluates checkpoints of a run: existing ones, or each one as training saves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cql_atari.core.settings import Config
from cql_atari.core.types import UserError
from cql_atari.evaluation import score_files
from cql_atari.methods.method import crossed
from cql_atari.runs import checkpoint, folder
from cql_atari.runs.log import make_evaluation_log
from cql_atari.training import load, scores

POLL_SECONDS = 1.0


class EvaluationPlan(NamedTuple):
    """How to evaluate checkpoints.

    Attributes:
      run: the run.
      config: the run's, with the settings of `evaluation` that are asked for.
      games: those to play.
      out: the folder for the scores; it may be the run's own.
      should_stop: turns true when the process is asked to stop.
      say: shows a line to the user.
    """

    run: load.Run
    config: Config
    games: tuple[str, ...]
    out: Path
    should_stop: Callable[[], bool]
    say: Callable[[str], object]


def evaluate_checkpoint(todo: EvaluationPlan, step: int | None) -> tuple[int, dict[str, Any]]:
    """Evaluates one checkpoint (None: the newest), unless its scores are there already.

    Returns:
      Its step, and the summary of its scores.

    Raises:
      UserError: where it is missing or damaged, or holds weights that are not finite.
      KeyboardInterrupt: where the process is asked to stop; what was played is kept.
    """
    run, out = todo.run, todo.out
    step = load.restore_run(run, step)
    weights = scores.weights_checksum(run.method.network)
    task = scores.Task(step, weights, todo.games, scores.protocol_of(todo.config))
    newest = not step < _newest_step(out / folder.SCORES) <= _last_step(run.directory)
    if (known := scores.known(out, task, newest)) is not None:
        todo.say(f"step {step:,}: the scores are there ({folder.scores_of(out, step)})")
        return step, known
    todo.say(f"step {step:,} of {run.directory}")
    return step, scores.evaluate(
        todo.config,
        run.act(),
        run.method.network,
        out,
        task,
        should_stop=todo.should_stop,
        newest=newest,
    )


def evaluate_each(todo: EvaluationPlan, steps: Iterable[int]) -> list[str]:
    """Evaluates checkpoints; an error in one doesn't stop the evaluation of the others.

    Returns:
      The errors, as messages.

    Raises:
      KeyboardInterrupt: as `evaluate_checkpoint`.
    """
    log = make_evaluation_log(todo.out)
    wrong = []
    for step in steps:
        try:
            _, summary = evaluate_checkpoint(todo, step)
        except UserError as error:
            if step in checkpoint.steps(todo.run.directory / folder.CHECKPOINTS):
                wrong.append(str(error))
            todo.say(f"step {step:,} is left out: {error}")
            continue
        log(step, scores.scalars(summary))
    return wrong


def follow(todo: EvaluationPlan) -> tuple[bool, list[str]]:
    """Evaluates every checkpoint once, as training saves it, until no process trains any more.

    A training process holds the lock of its folder until it ends. Until then the steps that it
    evaluates itself are left to it.

    Returns:
      Whether the training is finished; errors, as `evaluate_each`.

    Raises:
      UserError: where nobody trains and there is no checkpoint.
      KeyboardInterrupt: as `evaluate_checkpoint`.
    """
    directory = todo.run.directory
    seen: set[int] = set()
    wrong: list[str] = []
    waiting = False
    while True:
        training = folder.is_held(directory)  # before looking: what it saves until its end is seen
        there = checkpoint.steps(directory / folder.CHECKPOINTS)
        new = [step for step in there if step not in seen and not _is_done(todo, step, training)]
        if new:
            wrong += evaluate_each(todo, new[:1])  # then look again: they come and go
            seen.add(new[0])
            waiting = False
            continue
        if not training:
            break
        if not waiting:
            waiting = True
            todo.say(f"waiting for checkpoints of {directory}")
        if todo.should_stop():
            raise KeyboardInterrupt
        time.sleep(POLL_SECONDS)
    if not there:
        raise UserError(f"{directory} has no checkpoint, and no process trains there.")
    return there[-1] >= todo.run.config.train.steps, wrong


def _is_done(todo: EvaluationPlan, step: int, training: bool) -> bool:
    """Whether a step was evaluated in the folder, or the training process will do so."""
    if todo.out.resolve() != todo.run.directory.resolve():
        return False  # `evaluate_checkpoint` looks whether its scores are there
    config = todo.run.config
    every, calls = config.evaluation.every, config.train.steps_per_call
    is_trainers = step >= config.train.steps or crossed(every, step - calls, step)
    return folder.scores_of(todo.out, step).exists() or (training and is_trainers)


def _last_step(directory: Path) -> int:
    """Of a run's checkpoints; scores of a later step are of weights that were removed."""
    return max(checkpoint.steps(directory / folder.CHECKPOINTS), default=0)


def _newest_step(path: Path) -> int:
    """The step of a `scores.json`, -1 where there is none."""
    try:
        step = score_files.read(path).run.get("step")
    except UserError:
        return -1
    return step if isinstance(step, int) else -1
