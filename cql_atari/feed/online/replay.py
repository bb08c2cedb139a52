"""The online phase's replay: an item is a transition, drawn as often as its rate limiter says."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import reverb
import tensorflow as tf

from cql_atari.core.types import FRAME_SHAPE, STACK, Batch
from cql_atari.feed import tables
from cql_atari.feed.online.limits import IN_FLIGHT, PENDING, Pace
from cql_atari.feed.transitions import LEAD, empty_frames

TRANSITIONS = "transitions"  # the table's name


def serve_play(
    n_step: int, capacity: int, pace: Pace, *, port: int = 0, more: Sequence[reverb.Table] = ()
) -> AbstractContextManager[str]:
    """Runs the server, see `tables.serve`.

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
    return tables.serve([table, *more], port)


class Writer:
    """Turns one environment's steps into transitions, each written as soon as it is complete.

    They equal what `transitions.pad` gives for the whole episode. Each frame is sent once.

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
        """Takes a step: frame uint8 [84, 84], action of the full 18, reward clipped already."""
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
        tables.flush(self._writer, pending, should_stop)

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
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def make() -> Iterator[Batch]:
        items = tables.read_items(address, TRANSITIONS, _signature(n_step), IN_FLIGHT, ended.is_set)
        while True:
            batch = _assemble(items, n_step, shape)
            if recorded is None:
                yield batch
            elif (rest := next(recorded, None)) is not None:
                yield _join(batch, rest)
            else:
                return

    def wait() -> bool:
        if should_stop():
            raise KeyboardInterrupt
        tick(True)
        return True

    def drawn() -> Iterator[Batch]:
        while True:
            tick(False)
            if (batch := next(made, None)) is None:
                return
            yield batch

    made = tables.prefetch(make, ended, wait, threads.append)
    try:
        yield drawn()
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _assemble(items: Iterator[tuple[Any, ...]], n_step: int, shape: tuple[int, int]) -> Batch:
    size = shape[0] * shape[1]
    frames = empty_frames(size, STACK + n_step)
    columns = np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, np.float32)
    for slot, item in enumerate(itertools.islice(items, size)):
        for array, value in zip((frames, *columns), item):
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
