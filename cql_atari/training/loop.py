"""The compiled function that makes k gradient steps a call, and the main loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cql_atari.core.settings import Train
from cql_atari.core.types import UserError
from cql_atari.methods import gradient
from cql_atari.methods.method import Learner, crossed
from cql_atari.system.progress import Progress
from cql_atari.training import strategy as strategy_lib

Scalars = dict[str, float]
# (batches [K, B, ...], the most steps to make) -> (steps made, sums over them by name).
TrainCall = Callable[[Any, tf.Tensor], tuple[tf.Tensor, dict[str, tf.Tensor]]]
_TOTAL, _COUNT, _NORM = "loss/total", "count", "gradient_norm"


def make_train_call(
    learner: Learner, strategy: tf.distribute.Strategy, jit_compile: bool
) -> TrainCall:
    """The compiled function: takes K batches at once, makes K gradient steps.

    It stops early after a step whose loss or gradient is not finite.

    Args:
      learner: what learns; its variables lie in the strategy's scope.
      strategy: the devices.
      jit_compile: whether XLA compiles the step (on TPUs it does anyway).

    Returns:
      A function of batches [K, B, ...] (per replica) and the most steps to make, int32 [], that
      returns the steps made, int32 [], and sums over steps and replicas: "count" and all names of
      the learner's loss (each float32 [G], by game), and "gradient_norm" (float32 [], a sum over
      steps).
    """

    def step(batches: Any, k: tf.Tensor) -> gradient.Sums:
        return replica_step(learner, batches, k)

    if jit_compile and not isinstance(strategy, tf.distribute.TPUStrategy):  # it compiles itself
        step = tf.function(step, jit_compile=True, autograph=False)

    # AutoGraph turns the loop below into TensorFlow's; no step has Python's control flow over
    # tensors, and converting all that it calls took most of a start.
    @tf.autograph.experimental.do_not_convert
    def one_step(batches: Any, k: tf.Tensor) -> dict[str, tf.Tensor]:
        sums, norm = strategy.run(step, (batches, k))
        sums = {n: strategy.reduce(tf.distribute.ReduceOp.SUM, s, None) for n, s in sums.items()}
        return {**sums, _NORM: strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, None)}

    @tf.function
    def train_call(batches: Any, most: tf.Tensor):
        num_steps = tf.nest.flatten(strategy.experimental_local_results(batches.games))[0].shape[0]
        made = tf.constant(0)
        names: list[str] = []
        by_game = tf.TensorArray(tf.float32, num_steps, infer_shape=False)
        norms = tf.TensorArray(tf.float32, num_steps, element_shape=())
        for k in tf.range(tf.minimum(num_steps, most)):
            new = one_step(batches, k)
            norm = new.pop(_NORM)
            names[:] = new  # known once the step is traced
            by_game, norms = by_game.write(k, tf.stack(list(new.values()))), norms.write(k, norm)
            made += 1
            if not tf.math.is_finite(tf.reduce_sum(new[_TOTAL]) + norm):
                break
        there = tf.range(made)
        sums = tf.reduce_sum(by_game.gather(there), axis=0)
        sums = tf.ensure_shape(sums, [len(names), len(learner.games)])
        norm = tf.reduce_sum(norms.gather(there))
        return made, {**dict(zip(names, tf.unstack(sums))), _NORM: norm}

    return train_call


def replica_step(learner: Learner, batches: Any, k: tf.Tensor) -> gradient.Sums:
    """One replica's part of a gradient step; XLA can compile all of it, for a TPU too.

    Args:
      learner: what learns.
      batches: this replica's [K, b, ...], frames packed or not.
      k: int32 [], which of the K.
    """
    batch = type(batches)(*(part[k] for part in batches))
    batch = batch._replace(frames=strategy_lib.unpack_frames(batch.frames))
    return gradient.gradient_step(learner, batch)


def learn(
    learner: Learner,
    train_call: TrainCall,
    batches: Iterator[Any],
    config: Train,
    *,
    save: Callable[[int], None],
    log: Callable[[int, Scalars], None],
    evaluate: Callable[[int], object],
    evaluate_every: int,
    should_stop: Callable[[], bool],
    agree: Callable[[bool], bool] = bool,
) -> bool:
    """The main loop, from the learner's own step counter to `config.steps`.

    Whatever has a period is done when a call of the training function reaches or passes a multiple
    of it, as a run may go on from a step that is no multiple of `steps_per_call`.

    Args:
      learner: what learns.
      train_call: as `make_train_call`.
      batches: placed on the devices.
      config: steps and periods.
      save: (step) writes a checkpoint.
      log: (step, scalars by flat names).
      evaluate: (step), called every `evaluate_every` steps, from the first step here on, but not at
        the end. It returns early if the process is asked to stop.
      evaluate_every: 0: never.
      should_stop: whether this process is asked to stop.
      agree: (whether this host would stop) -> whether any would; all hosts call it together.

    Returns:
      True when finished, False when asked to stop; a checkpoint is saved either way.

    Raises:
      UserError: on a loss or gradient that is not finite: nothing is saved then, and the last
        checkpoint is good. Also where the batches end before the run does; that is saved.
      KeyboardInterrupt: where it was asked to stop while it waited for a batch. It is saved then,
        but other hosts don't know.
    """
    optimizer = learner.parameter_groups[0].optimizer
    step = int(optimizer.iterations.numpy())
    before = step - 1
    meter = _Meter(learner.games)
    line = Progress("training", "steps", config.steps, done=step)
    while step < config.steps:
        if crossed(evaluate_every, before, step):
            began = time.perf_counter()
            evaluate(step)
            line.pause(time.perf_counter() - began)
            if agree(should_stop()):
                save(step)
                break
            meter.restart_clock()
        asked = time.perf_counter()
        try:
            batch = next(batches)
        except (Exception, KeyboardInterrupt) as error:  # actors' threads raise errors of any kind
            if should_stop():
                save(step)
                raise KeyboardInterrupt from error
            if isinstance(error, StopIteration):
                save(step)
                raise UserError(
                    f"the data ended at step {step}, which is saved; the same command goes on."
                ) from error
            if step and not isinstance(error, (KeyboardInterrupt, *strategy_lib.LOST_HOST)):
                save(step)  # the feed failed, the weights are good
            raise
        meter.wait_seconds += time.perf_counter() - asked
        made, sums = train_call(batch, tf.constant(config.steps - step))
        meter.add(step, int(made), sums)
        before, step = step, step + int(made)
        line.show(step, f"loss {meter.loss():.4g}")

        learner.after_steps(before, step)
        if crossed(config.log_every, before, step):
            log(step, {**meter.read(), "learning_rate": float(optimizer._decayed_lr(tf.float32))})
        stop = agree(should_stop())
        if crossed(config.save_every, before, step) or stop or step >= config.steps:
            save(step)
        if stop:
            break
    line.end()
    return step >= config.steps


class _Meter:
    """Sums over the steps since the last log line, and the time that they took."""

    def __init__(self, games: tuple[str, ...]):
        self._games = games
        self._sums: dict[str, np.ndarray] = {}
        self._steps = 0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves out the time since the last log line (an evaluation)."""
        self._since = time.perf_counter()
        self._steps_timed, self.wait_seconds = 0, 0.0

    def add(self, step: int, made: int, sums: dict[str, tf.Tensor]) -> None:
        """Adds one call's sums.

        Raises:
          UserError: where a game's loss is not finite; names the step and the games.
        """
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.numpy()
        bad = ~np.isfinite(sums[_TOTAL].numpy())
        if bad.any() or not np.isfinite(sums[_NORM].numpy()):
            what = "loss" if bad.any() else "gradient"
            games = [game for game, is_bad in zip(self._games, bad) if is_bad or not bad.any()]
            raise UserError(
                f"the {what} is not finite at step {step + made} (games: {', '.join(games)}). The "
                "last checkpoint is good; lower optimizer.learning_rate or check the data's "
                "rewards."
            )
        self._steps += made
        self._steps_timed += made

    def loss(self) -> float:
        """The mean of the minimised loss since the last log line."""
        return float(self._sums[_TOTAL].sum() / self._sums[_COUNT].sum())

    def read(self) -> Scalars:
        """Means since the last call: `name` over all rows, `name/<Game>` over the game's rows."""
        seconds = time.perf_counter() - self._since
        count, norm = self._sums.pop(_COUNT), self._sums.pop(_NORM)
        scalars = {name: float(sums.sum() / count.sum()) for name, sums in self._sums.items()}
        for name, sums in self._sums.items():
            scalars |= {f"{name}/{game}": float(total / n)
                        for game, total, n in zip(self._games, sums, count) if n}  # fmt: skip
        scalars[_NORM] = float(norm) / self._steps
        scalars["speed/steps_per_second"] = self._steps_timed / seconds
        scalars["speed/samples_per_second"] = (
            float(count.sum()) / self._steps * self._steps_timed / seconds
        )
        scalars["speed/data_wait_share"] = self.wait_seconds / seconds
        self._sums, self._steps = {}, 0
        self.restart_clock()
        return scalars
