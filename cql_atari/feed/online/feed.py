"""The online phase's feed: acts in ALE, writes to the replay, draws from it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from absl import logging

from cql_atari.core.settings import Config
from cql_atari.core.types import FRAME_SKIP
from cql_atari.envs.vector_acting import VectorStep
from cql_atari.feed.feed import Feed
from cql_atari.feed.online import exchange, pace, replay
from cql_atari.feed.online.actor import Tally, act
from cql_atari.methods.method import Method
from cql_atari.system.progress import Progress

_SILENCE_SECONDS = 30  # between messages that no actor is there
_LOOK_SECONDS = 0.1  # between looks for what remote actors have written
_WEIGHTS_SECONDS = 5  # between new weights for remote actors
_GOODBYE_SECONDS = 5  # more than between an actor's looks for new weights


class Recorder(Protocol):
    """Keeps all that the actor in this process does; `recording.agent_log` has one."""

    def go_on(self, extra: Mapping[str, Any]) -> None:
        """Goes back to the mark of a checkpoint; {}: a new run."""

    def add(self, step: VectorStep) -> None:
        """Takes a step of all copies."""

    def mark(self) -> dict[str, Any]:
        """What the next checkpoint must keep of it, `frames` included."""

    def publish(self) -> None:
        """The checkpoint with the last mark is on disk."""


@contextmanager
def open_feed(
    config: Config,
    open_recorded: Callable[..., AbstractContextManager[Feed]] | None,
    method: Method,
    start_step: int,
    *,
    state: Mapping[str, Any],
    should_stop: Callable[[], bool],
    recorder: Recorder | None = None,
) -> Iterator[Feed]:
    """Replay, actors and recorded play, for as long as the context lasts.

    Args:
      config: as `complete.complete` returns it.
      open_recorded: opens the feed of recorded play of another configuration, as
        `recorded.open_feed`; needed with an `online.offline_share`.
      method: acts, with the weights that it has at the time.
      start_step: the learner step of the first batch.
      state: what the checkpoint at that step has of the feed; {}: a new run.
      should_stop: whether to stop waiting for the replay.
      recorder: records every step, where the actor is in this process.
    """
    tally = Tally(state.get("frames", 0))
    if recorder:
        recorder.go_on(state)
        tally.record = recorder.add
    if tally.frames:
        logging.warning(
            "the replay of the earlier process (%d frames, step %d) is gone: refilling it with %d "
            "transitions of the current policy, which count as frames",
            tally.frames, start_step, config.online.first_fill,
        )  # fmt: skip
    _warn_of_another_variant(config)
    with ExitStack() as stack:
        leaving = threading.Event()

        def stop() -> bool:
            return leaving.is_set() or should_stop()

        recorded = None
        if rows := pace.rows(config)[1]:
            assert open_recorded is not None
            part = dataclasses.replace(config.feed, draws=rows, transitions_per_draw=1)
            mixed_in = dataclasses.replace(config, feed=part)
            recorded = stack.enter_context(
                open_recorded(
                    mixed_in, start_step, reads=method.reads, state=state, should_stop=stop
                )
            )
        batches = stack.enter_context(
            _batches(config, method, tally, start_step, recorded=recorded, should_stop=should_stop)
        )
        stack.callback(leaving.set)  # before anything waits for what draws from recorded play

        def mark(step: int) -> dict[str, Any]:
            rest = recorded.state(step) if recorded else {"places": {}}
            return {"frames": tally.frames, **rest, **(recorder.mark() if recorder else {})}

        yield Feed(
            lambda rows: batches,
            mark,
            recorder.publish if recorder else lambda: None,
            lambda: tally.scalars(config.online),
            recorded.check if recorded else lambda: None,
        )


def _warn_of_another_variant(config: Config) -> None:
    played = {"mode": config.online.mode, "difficulty": config.online.difficulty}
    for name, value in played.items():
        scored = getattr(config.evaluation, name)
        if scored != value:
            logging.warning(
                "evaluation.%s = %r, but the run plays online.%s = %r: scores will be of another "
                "variant than the one that is learned", name, scored, name, value,
            )  # fmt: skip


@contextmanager
def _batches(
    config: Config,
    method: Method,
    tally: Tally,
    step: int,
    *,
    recorded: Feed | None,
    should_stop: Callable[[], bool],
) -> Iterator[Iterator[Any]]:
    """Batches of what actors have written to the replay."""
    online, frames = config.online, tally.frames
    remote = online.actors == "remote"
    with ExitStack() as stack:
        address = stack.enter_context(
            replay.serve_play(
                config.feed.n_step,
                config.feed.transitions_per_game,
                pace.make_pace(config, frames, step),
                port=online.port,
                more=exchange.make_tables() if remote else (),
            )
        )
        actors = (_remote_actors if remote else _local_actor)(
            config, address, method, tally, should_stop
        )
        tick = stack.enter_context(actors)
        line = Progress("filling the replay", "transitions", online.first_fill)

        def tick_and_show(waiting: bool) -> None:
            tick(waiting)
            acted = (tally.frames - frames) // FRAME_SKIP
            if line.done < line.total:
                line.show(min(acted, line.total))

        yield stack.enter_context(
            replay.batches(
                address,
                config.feed.n_step,
                (config.train.steps_per_call, pace.rows(config)[0]),
                recorded=recorded and iter(recorded.batches(slice(None))),
                tick=tick_and_show,
                should_stop=should_stop,
            )
        )


@contextmanager
def _local_actor(
    config: Config, address: str, method: Method, tally: Tally, should_stop: Callable[[], bool]
) -> Iterator[Callable[[bool], None]]:
    """Runs an actor in a thread; yields a function that raises the actor's error, if any."""
    ended, errors = threading.Event(), []
    assert method.act is not None
    policy = method.act()

    def run() -> None:
        try:
            act(
                config,
                address,
                policy,
                frames=lambda: tally.frames,
                report=tally.add,
                record=tally.record,
                seed=(config.train.seed, tally.frames),
                should_stop=lambda: ended.is_set() or should_stop(),
                budget=pace.budget(config, tally.frames),
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
    config: Config, address: str, method: Method, tally: Tally, should_stop: Callable[[], bool]
) -> Iterator[Callable[[bool], None]]:
    """Serves actors in other processes; yields a function that counts their steps, sends weights to
    them, and warns if there is none.

    A step counts when its transition arrives, so what a killed actor hadn't written doesn't count.
    """
    link = exchange.LearnerEnd(address, config)
    sender = concurrent.futures.ThreadPoolExecutor(1, "weights")
    sent = sender.submit(lambda: None)
    before, last_arrival = tally.frames, time.monotonic()
    last_look = last_weights = 0.0
    port = address.rsplit(":", 1)[1]
    command = f"python -m cql_atari.tools.act --learner={socket.gethostname()}:{port}"
    logging.warning("actors connect by: %s", command)

    def send(weights: list[Any], frames: int) -> None:
        link.publish([value.numpy() for value in weights], frames)

    def tick(waiting: bool) -> None:
        nonlocal last_arrival, last_look, last_weights, sent
        now = time.monotonic()
        if not waiting:
            last_arrival = now
        if now - last_look < _LOOK_SECONDS:
            return
        last_look = now
        if now - last_weights > _WEIGHTS_SECONDS and sent.done():
            sent.result()  # raises what sending raised
            last_weights = now
            # Read between two steps, copied and sent while the learner goes on.
            weights = [variable.read_value() for variable in method.network.variables]
            sent = sender.submit(send, weights, tally.frames)
        frames = before + FRAME_SKIP * link.inserted()
        if frames > tally.frames:
            last_arrival = now
        tally.add(frames - tally.frames, link.take_scores())
        if now - last_arrival > _SILENCE_SECONDS:
            logging.log_every_n_seconds(
                logging.WARNING, "no actor has written anything for %.0f s; start one: %s",
                _SILENCE_SECONDS, now - last_arrival, command,
            )  # fmt: skip

    with sender:
        tick(False)
        yield tick
    if not should_stop():
        link.finish()
        time.sleep(_GOODBYE_SECONDS)
