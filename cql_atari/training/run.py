"""Builds the parts of a run in order and hands them to the main loop: method, feed, learner."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from cql_atari.core import settings
from cql_atari.core.settings import Config
from cql_atari.core.types import UserError
from cql_atari.feed.feed import Feed
from cql_atari.methods import build
from cql_atari.methods.method import Learner, Method
from cql_atari.runs import checkpoint, folder, provenance, recorded_config
from cql_atari.runs import log as logs
from cql_atari.system import devices as devices_lib
from cql_atari.system import hosts as cluster
from cql_atari.training import loop, scores, strategy
from cql_atari.training.start import begin, check_finite

_PATHS = ("data.dir", "data.exclude", "feed.cache_dir", "evaluation.rom_dir", "start.encoder_from")
# (method, learner step of the first batch, state=..., should_stop=...) -> the open feed.
OpenFeed = Callable[..., AbstractContextManager[Feed]]


def train(
    config: Config,
    open_feed: OpenFeed,
    directory: Path,
    should_stop: Callable[[], bool],
    *,
    tpu: str | None = None,
    data: str = "",
) -> bool:
    """Trains, from recorded play or from what the agent plays, evaluates, writes scores.json.

    Args:
      config: what to do.
      open_feed: where batches come from.
      directory: the run's folder, which the caller holds; all hosts see it, the chief writes.
      should_stop: turns true when the process is asked to stop; all hosts stop together.
      tpu: as `strategy.make_strategy`.
      data: what tells the files that are read apart from others; all hosts must have the same.

    Returns:
      Whether the run is finished; False when it was asked to stop (it is saved then).

    Raises:
      UserError: also where another host is gone, or the network has diverged.
    """
    if config.train.phase == "offline" and not config.feed.servers:
        tf.config.experimental.enable_op_determinism()

    # 1. Devices, then everything that owns variables.
    here = cluster.find_hosts(config.train.strategy)
    devices = strategy.make_strategy(config.train.strategy, tpu=tpu)
    split = strategy.divide(
        config.feed.draws,
        config.feed.transitions_per_draw,
        devices.num_replicas_in_sync,
        here.hosts,
    )
    with devices.scope():
        method = build.build(config)
    if here.is_chief:
        provenance.record(directory, devices_lib.accelerators(), here.hosts)

    # 2. Start policy: go on with this folder's own run; else pre-trained encoder, else scratch.
    checkpoints = directory / folder.CHECKPOINTS
    learner, start = begin(method, config, directory, devices.scope, here.is_chief)
    strategy.check_same_start(devices, start, _of_all_hosts(config), data)
    state = checkpoint.read_extra(checkpoints, start)

    # 3. Data to batches to devices, from the step where the run stands.
    if here.is_chief:
        recorded_config.record_config(directory, config)
        logs.describe_run(directory, config)
    log = with_warnings(learner, logs.make_log(directory)) if here.is_chief else lambda *_: None
    evaluate_agent = make_evaluate(config, method, directory, start, should_stop)
    remember, show = make_show(method.pictures if here.is_chief else None, devices, directory)
    feed = Feed(lambda rows: ())

    def log_all(step: int, scalars: dict[str, float]) -> None:
        log(step, {**scalars, **feed.scalars()})

    def evaluate_now(step: int, episodes: int | None = None) -> bool:
        scalars = evaluate_agent(step, episodes) if here.is_chief else {}
        if here.is_chief:
            show(step)
        if scalars:
            log_all(step, scalars)
        return scalars is not None

    def save(step: int) -> None:
        if not here.is_chief:
            return
        check_finite(learner, f"step {step} is not saved", "an earlier checkpoint is good")
        checkpoint.save(
            checkpoints,
            tf.train.Checkpoint(**learner.saved),
            step,
            config.train.keep,
            feed.state(step),
        )
        feed.saved()

    try:
        if start < config.train.steps:
            with open_feed(method, start, state=state, should_stop=should_stop) as feed:
                finished = loop.learn(
                    learner,
                    loop.make_train_call(learner, devices, use_xla(config.train.jit_compile)),
                    remember(strategy.place_batches(devices, feed.batches, split)),
                    config.train,
                    save=save,
                    log=log_all,
                    evaluate=lambda step: evaluate_now(step, config.evaluation.curve_episodes),
                    evaluate_every=config.evaluation.every,
                    should_stop=should_stop,
                    agree=lambda stop: any(strategy.across_hosts(devices, stop)),
                )
                strategy.across_hosts(devices, start)  # the chief has saved: now all may leave
            if not finished:
                return False

        # 4. Full episodes with the final weights; the other hosts wait for the chief.
        done = evaluate_now(config.train.steps)
        return all(strategy.across_hosts(devices, done))
    except KeyboardInterrupt:
        return False
    except tf.errors.OpError as error:
        feed.check()
        if not isinstance(error, strategy.LOST_HOST):
            raise
        if here.hosts == 1:
            raise
        raise UserError(strategy.lost_host_message(error)) from error


def _of_all_hosts(config: Config) -> str:
    """The settings that hosts must share: all but the paths, which each may have of its own."""
    named = settings.by_name(config).items()
    return repr([(name, value) for name, value in named if name not in _PATHS])


def with_warnings(
    learner: Learner, log: Callable[[int, loop.Scalars], None]
) -> Callable[[int, loop.Scalars], None]:
    """A function that logs, and says what the learner warns of, each once."""
    said: set[str] = set()

    def log_and_warn(step: int, scalars: loop.Scalars) -> None:
        log(step, scalars)
        new = {key: w for key, w in learner.warnings(scalars).items() if key not in said}
        said.update(new)
        for warning in new.values():
            logging.warning("%s", warning)

    return log_and_warn


def use_xla(jit_compile: bool | None) -> bool:
    """XLA on accelerators only, by default: on CPUs it is slower than oneDNN."""
    return devices_lib.on_accelerator() if jit_compile is None else jit_compile


def make_evaluate(
    config: Config,
    method: Method,
    directory: Path,
    start: int,
    should_stop: Callable[[], bool],
) -> Callable[[int, int | None], dict[str, float] | None]:
    """A function (step, episodes) that evaluates the agent and returns scalars for the logs.

    It returns {} if the method doesn't act, or if these very scores of the step at which a run goes
    on are there already; None if it was asked to stop before it was done (a run that goes on with
    the same weights plays the rest).
    """
    if method.act is None:
        logging.warning(
            "train.method = %r doesn't act: there are no evaluations and no scores. Start another "
            "run from its encoder (start.encoder_from).", config.train.method,
        )  # fmt: skip

    def evaluate_agent(step: int, episodes: int | None) -> dict[str, float] | None:
        if method.act is None:
            return {}
        weights = scores.weights_checksum(method.network)
        protocol = scores.protocol_of(config, episodes)
        task = scores.Task(step, weights, config.data.games, protocol)
        if step == start > 0 and scores.known(directory, task) is not None:
            return {}
        try:
            summary = scores.evaluate(
                config, method.act(), method.network, directory, task, should_stop=should_stop,
                insist=False,
            )  # fmt: skip
        except KeyboardInterrupt:
            return None
        shares = {name: row["action_share"] for name, row in summary["games"].items()}
        logs.log_actions(directory, step, shares)
        return scores.scalars(summary)

    return evaluate_agent


def make_show(
    make: Callable[[Any], dict[str, tf.Tensor]] | None,
    devices: tf.distribute.Strategy,
    directory: Path,
) -> tuple[Callable[[Iterator[Any]], Iterator[Any]], Callable[[int], None]]:
    """Two functions for a method's pictures: one passes batches on and remembers the last one, the
    other logs the pictures of that batch at a step.

    Args:
      make: the method's `pictures`.
      devices: the strategy.
      directory: the run's folder.
    """
    if make is None:
        return lambda batches: batches, lambda step: None
    log, last = logs.make_picture_log(directory), collections.deque[Any](maxlen=1)

    def remember(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            last.append(batch)
            yield batch

    def show(step: int) -> None:
        if last:  # none before the first step
            here = (devices.experimental_local_results(part)[0] for part in last[0])
            rows = type(last[0])(*(tf.reshape(part, [-1, *part.shape[2:]]) for part in here))
            log(step, make(rows._replace(frames=strategy.unpack_frames(rows.frames))))

    return remember, show
