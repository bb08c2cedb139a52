"""The learner: k gradient steps a call of one compiled function, and the loop that says when."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from cql_atari.core.settings import Train
from cql_atari.core.types import Batch, UserError
from cql_atari.methods.scaled_q import ScaledQAgent
from cql_atari.training import strategy as strategy_lib

Scalars = dict[str, float]
TrainCall = Callable[[Batch], tuple[tf.Tensor, dict[str, tf.Tensor]]]


def make_train_call(
    agent: ScaledQAgent, strategy: tf.distribute.Strategy, jit_compile: bool
) -> TrainCall:
    """The compiled function: takes K batches at once, makes K gradient steps.

    It stops early after a step whose loss is not finite.

    Returns:
      A function of a Batch [K, B, ...] (per replica) that returns the steps made, int32 [], and
      sums over steps and replicas: "count", "td", "cql", "total", "q_data" (each float32 [G], by
      game) and "gradient_norm" (float32 [], a sum over steps).
    """
    step = functools.partial(replica_step, agent)
    if jit_compile and not isinstance(strategy, tf.distribute.TPUStrategy):  # it compiles itself
        step = tf.function(step, jit_compile=True)

    def one_step(batches: Batch, k: tf.Tensor) -> dict[str, tf.Tensor]:
        sums, norm = strategy.run(step, (batches, k))
        sums = {n: strategy.reduce(tf.distribute.ReduceOp.SUM, s, None) for n, s in sums.items()}
        return {**sums, "gradient_norm": strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, None)}

    @tf.function
    def train_call(batches: Batch):
        num_steps = tf.nest.flatten(strategy.experimental_local_results(batches.games))[0].shape[0]
        made = tf.constant(0)
        sums = {
            name: tf.zeros(len(agent.games)) for name in ("count", "q_data", "td", "cql", "total")
        }
        sums["gradient_norm"] = tf.constant(0.0)
        for k in tf.range(num_steps):
            new = one_step(batches, k)
            sums = {name: total + new[name] for name, total in sums.items()}
            made += 1
            if not tf.reduce_all(tf.math.is_finite(sums["total"])):
                break
        return made, sums

    return train_call


def replica_step(
    agent: ScaledQAgent, batches: Batch, k: tf.Tensor
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """What a replica does in a gradient step: all of it can be compiled by XLA, for a TPU too.

    Args:
      agent: the agent.
      batches: this replica's [K, b, ...], frames packed or not.
      k: int32 [], which of the K.

    Returns:
      This replica's sums by game, and the global gradient norm.
    """
    batch = Batch(*(part[k] for part in batches))
    info = agent.train(batch._replace(frames=strategy_lib.unpack(batch.frames)))
    return info.extra["sums"], info.extra["gradient_norm"]


def learn(
    agent: ScaledQAgent,
    train_call: TrainCall,
    batches: Iterator[Batch],
    config: Train,
    *,
    save: Callable[[int], None],
    log: Callable[[int, Scalars], None],
    evaluate: Callable[[int], object],
    evaluate_every: int,
    should_stop: Callable[[], bool],
    agree: Callable[[bool], bool] = bool,
) -> bool:
    """The main loop, from the agent's own step counter to `config.steps`.

    Args:
      agent: what learns.
      train_call: as `make_train_call`.
      batches: placed on the devices.
      config: when what is done.
      save: of a step.
      log: of a step.
      evaluate: of a step; called every `evaluate_every` steps, from the first step here on, but not
        at the end. It returns early where the process is asked to stop.
      evaluate_every: 0: never.
      should_stop: whether this process is asked to stop.
      agree: (whether this host would stop) -> whether any would; all hosts call it together.

    Returns:
      True when finished, False when asked to stop; a checkpoint is saved either way.

    Raises:
      UserError: on a loss that is not finite. Nothing is saved then: the last checkpoint is good.
      KeyboardInterrupt: where it was asked to stop while it waited for a batch. It is saved then,
        but other hosts don't know.
    """
    step = int(agent.optimizer.iterations.numpy())
    meter = _Meter(agent.games)
    bar = tqdm(total=config.steps, initial=step, unit="step", desc="training", mininterval=1)
    while step < config.steps:
        if evaluate_every and _every(evaluate_every, step):
            evaluate(step)
            if agree(should_stop()):
                save(step)
                break
            meter.restart_clock()
        asked = time.perf_counter()
        try:
            batch = next(batches)
        except (StopIteration, tf.errors.OpError, KeyboardInterrupt) as error:
            if not should_stop():
                raise
            save(step)
            raise KeyboardInterrupt from error
        meter.wait_seconds += time.perf_counter() - asked
        made, sums = train_call(batch)
        meter.add(step, int(made), sums)
        step += int(made)
        bar.update(int(made))

        if _every(config.target_period, step):
            agent.update_target()
        if _every(config.log_every, step):
            learning_rate = float(agent.optimizer.learning_rate.numpy())
            log(step, {**meter.read(), "learning_rate": learning_rate})
        stop = agree(should_stop())
        if _every(config.save_every, step) or stop or step >= config.steps:
            save(step)
        if stop:
            break
    bar.close()
    return step >= config.steps


def _every(period: int, step: int) -> bool:
    return step % period == 0


class _Meter:
    """Sums over the steps since the last log line, and where the time went."""

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
        bad = ~np.isfinite(sums["total"].numpy())
        if bad.any():
            names = ", ".join(game for game, is_bad in zip(self._games, bad) if is_bad)
            raise UserError(
                f"the loss is not finite at step {step + made} (games: {names}). The last "
                "checkpoint is good; lower optimizer.learning_rate or check the data's rewards."
            )
        self._steps += made
        self._steps_timed += made

    def read(self) -> Scalars:
        """Means since the last call, as flat names."""
        seconds = time.perf_counter() - self._since
        sums, count = self._sums, self._sums["count"]
        scalars = {f"loss/{name}": float(sums[name].sum() / count.sum())
                   for name in ("td", "cql", "total")}  # fmt: skip
        scalars["gradient_norm"] = float(sums["gradient_norm"]) / self._steps
        for game, n, q, loss in zip(self._games, count, sums["q_data"], sums["total"]):
            if n:
                scalars[f"q_data/{game}"] = float(q / n)
                scalars[f"loss_by_game/{game}"] = float(loss / n)
        scalars["speed/steps_per_second"] = self._steps_timed / seconds
        scalars["speed/samples_per_second"] = (
            float(count.sum()) / self._steps * self._steps_timed / seconds
        )
        scalars["speed/data_wait_share"] = self.wait_seconds / seconds
        self._sums, self._steps = {}, 0
        self.restart_clock()
        return scalars
