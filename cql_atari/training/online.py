"""The online phase: acts in ALE, writes to the replay, learns from it, evaluates on the variant."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from absl import logging
from tqdm import tqdm

from cql_atari.core.settings import Config
from cql_atari.core.types import Batch
from cql_atari.data import sources
from cql_atari.envs import atari
from cql_atari.feed import recorded as opening
from cql_atari.feed.online import exchange, pace, replay
from cql_atari.feed.online.actor import Ledger, act
from cql_atari.feed.replay.order import Place
from cql_atari.methods import build
from cql_atari.methods.method import Method, Transitions
from cql_atari.recording.agent_log import Experience
from cql_atari.runs import checkpoint
from cql_atari.runs import log as logs
from cql_atari.training import loop, start, strategy
from cql_atari.training import run as experiment

_SILENCE_SECONDS = 30  # between messages that no actor is there
_LOOK_SECONDS = 0.1  # between looks for what remote actors have written
_WEIGHTS_SECONDS = 5  # between new weights for remote actors


def train(
    config: Config,
    found: Sequence[sources.Source],
    directory: Path,
    should_stop: Callable[[], bool],
    experience: Experience | None = None,
) -> bool:
    """Acts and learns until `online.frames` are used up, evaluates, writes scores.json.

    Args:
      config: what to do, as `pace.complete` returns it.
      found: recorded play to mix in, as `sources.find`; needed with an `online.offline_share`.
      directory: the run's folder, which the caller holds.
      should_stop: turns true when the process is asked to stop.
      experience: logs every step, where the actor is in this process.

    Returns:
      Whether the run is finished; False when it was asked to stop (it is saved then).
    """
    # 1. One device, and everything that owns variables.
    devices = strategy.make_strategy(config.train.strategy)
    method = build.build(config)

    # 2. Start policy: go on with this folder's own run; else a pre-trained encoder; else scratch.
    checkpoints = directory / "checkpoints"
    learner, state, first = start.begin(method, config, directory, devices.scope)
    before = checkpoint.read_extra(checkpoints, first)
    places = {game: Place(*place) for game, place in before.get("places", {}).items()}
    ledger = Ledger(before.get("frames", 0))
    if experience:
        experience.go_on(before)
        ledger.record = experience.add
    if ledger.frames:
        logging.warning(
            "the replay of the earlier process (%d frames, step %d) is gone: refilling it with %d "
            "transitions of the current policy, which count as frames",
            ledger.frames, first, config.online.first_fill,
        )  # fmt: skip

    _warn_of_another_variant(config)

    # 3. Actors to replay to batches, from where the run stands.
    log = logs.make_log(directory)
    evaluate_agent = experiment.make_evaluate(config, method, directory, first, should_stop)

    def evaluate(step: int, episodes: int) -> bool:
        scalars = evaluate_agent(step, episodes)
        if scalars:
            log(step, {**scalars, "online/frames": ledger.frames})
        return scalars is not None

    try:
        if first < config.train.steps:
            with _open_feed(
                config, found, method, ledger, step=first, places=places, should_stop=should_stop
            ) as feed:

                def save(step: int) -> None:
                    extra = {"frames": ledger.frames, "places": feed.places()}
                    extra |= experience.mark() if experience else {}
                    checkpoint.save(checkpoints, state, step, config.train.keep, extra)
                    if experience:
                        experience.publish()

                finished = loop.learn(
                    learner,
                    loop.make_train_call(
                        learner, devices, experiment.use_xla(config.train.jit_compile)
                    ),
                    feed.batches,
                    config.train,
                    save=save,
                    log=lambda step, new: log(step, {**new, **ledger.scalars(config.online)}),
                    evaluate=lambda step: evaluate(step, config.evaluation.curve_episodes),
                    evaluate_every=config.evaluation.every,
                    should_stop=should_stop,
                )
            if not finished:
                return False

        # 4. Full episodes with the final weights.
        return evaluate(config.train.steps, config.evaluation.episodes)
    except KeyboardInterrupt:
        return False


def _warn_of_another_variant(config: Config) -> None:
    played = {"mode": config.online.mode, "difficulty": config.online.difficulty}
    for name, value in played.items():
        scored = getattr(config.evaluation, name)
        if scored != value:
            logging.warning(
                "evaluation.%s = %r, but the run plays online.%s = %r: scores will be of another "
                "variant than the one that is learned", name, scored, name, value,
            )  # fmt: skip


class _Feed(NamedTuple):
    """Batches, and where the writers of recorded play stand."""

    batches: Iterator[Batch]
    places: Callable[[], dict[str, Place]]


@contextmanager
def _open_feed(
    config: Config,
    found: Sequence[sources.Source],
    method: Method,
    ledger: Ledger,
    *,
    step: int,
    places: Mapping[str, Place],
    should_stop: Callable[[], bool],
) -> Iterator[_Feed]:
    """Replay, actors and recorded play, for as long as the context lasts."""
    online, frames = config.online, ledger.frames
    remote = online.actors == "remote"
    with ExitStack() as stack:
        recorded = None
        if pace.rows(config)[1]:
            opened = _recorded(config, found, step, places, should_stop)
            recorded = stack.enter_context(opened)
        address = stack.enter_context(
            replay.serve(
                config.feed.n_step,
                config.feed.transitions_per_game,
                pace.make_pace(config, frames, step),
                port=online.port,
                more=exchange.tables() if remote else (),
            )
        )
        actors = (_remote_actors if remote else _local_actor)(config, address, method, ledger)
        tick = stack.enter_context(actors)
        bar = stack.enter_context(
            tqdm(total=online.first_fill, desc="filling the replay", unit="transition", delay=2,
                 leave=False)
        )  # fmt: skip

        def tick_and_show(waiting: bool) -> None:
            tick(waiting)
            acted = (ledger.frames - frames) // atari.FRAME_SKIP
            bar.update(min(acted, online.first_fill) - bar.n)

        batches = stack.enter_context(
            replay.batches(
                address,
                config.feed.n_step,
                (config.train.steps_per_call, pace.rows(config)[0]),
                recorded=recorded and iter(recorded.dataset(slice(None))),
                tick=tick_and_show,
                should_stop=should_stop,
            )
        )
        yield _Feed(batches, recorded.places if recorded else dict)


def _recorded(
    config: Config,
    found: Sequence[sources.Source],
    step: int,
    places: Mapping[str, Place],
    should_stop: Callable[[], bool],
) -> AbstractContextManager[opening.Feed]:
    """The feed of recorded play, with as many rows a batch as come from there."""
    rows = pace.rows(config)[1]
    part = dataclasses.replace(config.feed, draws=rows, transitions_per_draw=1)
    return opening.open_feed(
        dataclasses.replace(config, feed=part),
        found,
        step,
        reads=Transitions(part.n_step, part.discount),
        places=places,
        should_stop=should_stop,
    )


@contextmanager
def _local_actor(
    config: Config, address: str, method: Method, ledger: Ledger
) -> Iterator[Callable[[bool], None]]:
    """An actor in a thread of this process; yields a function that raises what it raised."""
    ended, errors = threading.Event(), []
    assert method.act is not None
    policy = method.act()

    def run() -> None:
        try:
            act(
                config,
                address,
                policy,
                frames=lambda: ledger.frames,
                report=ledger.add,
                record=ledger.record,
                seed=(config.train.seed, ledger.frames),
                should_stop=ended.is_set,
                budget=pace.budget(config, ledger.frames),
            )
        except Exception as error:
            errors.append(error)

    def check(_: bool) -> None:
        if errors:
            raise errors[0]

    thread = threading.Thread(target=run, name="act", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()


@contextmanager
def _remote_actors(
    config: Config, address: str, method: Method, ledger: Ledger
) -> Iterator[Callable[[bool], None]]:
    """Actors that come and go; yields what counts for them, sends weights, warns if none is there.

    Every transition that arrives counts as a step: what an actor that is killed hadn't written yet
    doesn't count.
    """
    wire = exchange.LearnerEnd(address, config)
    before, last_arrival = ledger.frames, time.monotonic()
    last_look = last_message = last_weights = 0.0
    port = address.rsplit(":", 1)[1]
    command = f"python -m cql_atari.tools.act --learner={socket.gethostname()}:{port}"
    logging.warning("actors connect by: %s", command)

    def tick(waiting: bool) -> None:
        nonlocal last_arrival, last_look, last_message, last_weights
        now = time.monotonic()
        if not waiting:
            last_arrival = now
        if now - last_look < _LOOK_SECONDS:
            return
        last_look = now
        if now - last_weights > _WEIGHTS_SECONDS:
            last_weights = now
            wire.publish([variable.numpy() for variable in method.network.variables], ledger.frames)
        frames = before + atari.FRAME_SKIP * wire.inserted()
        if frames > ledger.frames:
            last_arrival = now
        ledger.add(frames - ledger.frames, wire.take_scores())
        silent = now - max(last_arrival, last_message)
        if silent > _SILENCE_SECONDS:
            last_message = now
            logging.warning(
                "no actor has written anything for %.0f s; start one: %s",
                now - last_arrival, command,
            )  # fmt: skip

    tick(False)
    yield tick
