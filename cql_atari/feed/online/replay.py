"""The online phase's replay: one transition an item, drawn as often as its rate limiter says.

Reverb can't be bound to loopback: the server listens on all interfaces, without authentication.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import reverb
import tensorflow as tf

from cql_atari.core.types import FRAME_SHAPE, STACK, Batch
from cql_atari.feed.online.limits import IN_FLIGHT, PENDING, Pace
from cql_atari.feed.transitions import LEAD, empty_frames
from cql_atari.system import ports

TRANSITIONS = "transitions"  # the table's name
_PATIENCE_MS = 200  # how soon one that waits sees that it should stop
_FETCH = 16  # items that cross from Reverb to Python at a time
_STARVED_MS = 1_000  # how soon a reader that waits sees that it should stop


@contextmanager
def serve_play(
    n_step: int, capacity: int, pace: Pace, *, port: int = 0, more: Sequence[reverb.Table] = ()
) -> Iterator[str]:
    """Runs the server for as long as the context lasts; yields its address on this host.

    Args:
      n_step: the n of the transitions.
      capacity: transitions that the table holds; the oldest leave.
      pace: what the rate limiter holds.
      port: to listen on; 0: any free one.
      more: further tables.

    Raises:
      UserError: if the port is taken.
    """
    table = reverb.Table(
        name=TRANSITIONS,
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=capacity,
        rate_limiter=reverb.rate_limiters.RateLimiter(
            pace.samples_per_insert, pace.first_fill, *pace.allowed
        ),
        signature=_signature(n_step),
    )
    if port:
        ports.check_free(port)
    server = reverb.Server([table, *more], port=port or None)
    ports.warn_if_open(server.port)
    try:
        yield f"localhost:{server.port}"
    finally:
        server.stop()


class Writer:
    """Turns one environment's steps into transitions, each written as soon as it is complete.

    The same ones as `transitions.block` makes of the whole episode. Each frame is sent once.

    Args:
      client: of the replay.
      n_step: the n of the transitions.
      discount: gamma.
    """

    def __init__(self, client: reverb.Client, n_step: int, discount: float):
        self._writer = client.trajectory_writer(num_keep_alive_refs=STACK + n_step)
        self._n_step = n_step
        self._gammas = np.array([discount**k for k in range(n_step + 1)], np.float32)
        self._begin()

    def add(
        self, frame: np.ndarray, action: int, reward: float, terminal: bool, truncated: bool
    ) -> None:
        """Takes a step of an `Episode`; the reward is clipped already."""
        self._actions.append(action)
        self._rewards.append(reward)
        self._append(frame, self._gammas[-1])
        if terminal:
            for _ in range(self._n_step):
                self._rewards.append(0.0)
                self._append(np.zeros(FRAME_SHAPE, np.uint8), np.float32(0))
        if terminal or truncated:  # Reverb's own end of an episode would wait for the table
            self._begin()

    def flush(self, should_stop: Callable[[], bool], pending: int = PENDING) -> None:
        """Waits until at most `pending` transitions are unconfirmed, or until told to stop."""
        while not should_stop():
            try:
                self._writer.flush(pending, timeout_ms=_PATIENCE_MS)
                return
            except reverb.errors.DeadlineExceededError:
                pass

    def close(self) -> None:
        self._writer.close()

    def _begin(self) -> None:
        self._actions: list[int] = []
        self._rewards: list[float] = []
        self._length = 0
        for _ in range(LEAD):
            self._append(np.zeros(FRAME_SHAPE, np.uint8), np.float32(0))

    def _append(self, frame: np.ndarray, discount: np.float32) -> None:
        """Appends a frame and, if one is complete with it, the transition n steps back."""
        n = self._n_step
        row = self._length - LEAD - n
        complete = row >= 0
        action = self._actions.pop(0) if complete else 0
        rewards = np.array(self._rewards[:n] if complete else [0], np.float32)
        if complete:
            self._rewards.pop(0)
        self._writer.append({
            "frame": frame,
            "action": np.int32(action),
            "reward": np.dot(self._gammas[: len(rewards)], rewards),
            "discount": discount,
        })  # fmt: skip
        self._length += 1
        if complete:
            history = self._writer.history
            item = {name: history[name][-1] for name in ("action", "reward", "discount")}
            item["frames"] = history["frame"][-(STACK + n) :]
            self._writer.create_item(TRANSITIONS, priority=1.0, trajectory=item)


@contextmanager
def batches(
    address: str,
    n_step: int,
    shape: tuple[int, int],
    *,
    recorded: Iterator[Batch] | None = None,
    tick: Callable[[bool], None] = lambda waiting: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Iterator[Batch]]:
    """Batches [K, B, ...] of one game, the next one drawn while the learner is busy.

    Args:
      address: of the replay.
      n_step: the n of the transitions.
      shape: (K, rows of each batch that are drawn from the replay).
      recorded: batches of K steps whose rows come after the rows of the replay.
      tick: called with False before each batch, and with True several times a second while
        waiting for it.
      should_stop: whether to stop waiting.

    Yields:
      An iterator that ends where recorded play does; it raises KeyboardInterrupt if told to stop
      while it waits.
    """
    ready: queue.Queue[Batch | Exception | None] = queue.Queue(1)  # None: there is no more
    ended = threading.Event()

    def put(what: Batch | Exception | None) -> None:
        while not ended.is_set():
            try:
                return ready.put(what, timeout=_PATIENCE_MS / 1000)
            except queue.Full:
                pass

    def draw() -> None:
        try:
            rows = _draw(address, n_step, ended)
            while (batch := _assemble(rows, n_step, shape)) is not None:
                rest = None if recorded is None else next(recorded, None)
                if recorded is not None and rest is None:
                    return put(None)
                put(batch if rest is None else _join(batch, rest))
        except Exception as error:
            put(error)

    def drawn() -> Iterator[Batch]:
        waiting = False
        while True:
            tick(waiting)
            try:
                batch = ready.get(timeout=_PATIENCE_MS / 1000)
            except queue.Empty:
                if should_stop():
                    raise KeyboardInterrupt from None
                waiting = True
                continue
            if batch is None:
                return
            if isinstance(batch, Exception):
                raise batch
            yield batch
            waiting = False

    thread = threading.Thread(target=draw, name="draw", daemon=True)
    thread.start()
    try:
        yield drawn()
    finally:
        ended.set()
        thread.join()


def _draw(address: str, n_step: int, ended: threading.Event) -> Iterator[tuple[Any, ...]]:
    """(frames, action, reward, discount) of independent draws, until the end."""
    signature = _signature(n_step)
    draws = reverb.TrajectoryDataset(
        address,
        TRANSITIONS,
        dtypes={name: spec.dtype for name, spec in signature.items()},
        shapes={name: spec.shape for name, spec in signature.items()},
        max_in_flight_samples_per_worker=IN_FLIGHT,
        num_workers_per_iterator=1,
        rate_limiter_timeout_ms=_STARVED_MS,  # the data set ends then; nothing drawn is lost
    ).batch(_FETCH)
    while not ended.is_set():
        for sample in draws:
            if ended.is_set():
                return
            yield from zip(*(sample.data[name].numpy() for name in signature))


def _assemble(rows: Iterator[tuple[Any, ...]], n_step: int, shape: tuple[int, int]) -> Batch | None:
    size = shape[0] * shape[1]
    frames = empty_frames(size, STACK + n_step)
    columns = np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, np.float32)
    for slot in range(size):
        row = next(rows, None)
        if row is None:
            return None
        for array, value in zip((frames, *columns), row):
            array[slot] = value
    parts = (frames, *columns, np.zeros(size, np.int32))
    return Batch(*(tf.constant(part.reshape(*shape, *part.shape[1:])) for part in parts))


def _join(first: Batch, second: Batch) -> Batch:
    return Batch(*(tf.concat(parts, axis=1) for parts in zip(first, second)))


def _signature(n_step: int) -> dict[str, tf.TensorSpec]:
    return {
        "frames": tf.TensorSpec((STACK + n_step, *FRAME_SHAPE), tf.uint8),
        "action": tf.TensorSpec((), tf.int32),
        "reward": tf.TensorSpec((), tf.float32),
        "discount": tf.TensorSpec((), tf.float32),
    }
