"""Data sets of batches drawn from a store of whole episodes, in memory or packed.

Every batch is a pure function of (seed, step): nothing is kept between batches, so that a run which
restarts at step s gets the batches of an uninterrupted run bit for bit. Stores of the same episodes
give the same batches, whether from memory or from disk.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from cql_atari.core.types import FRAME_SHAPE, STACK, Batch, SequenceBatch, UserError
from cql_atari.feed import positions
from cql_atari.feed.positions import Episodes, Positions
from cql_atari.feed.sampling import BatchLaw, draw_transitions
from cql_atari.feed.transitions import LEAD, empty_frames
from cql_atari.methods.method import Sequences, Transitions

_SHARE_ROWS = 64  # rows that a thread fetches at a time


class Steps(NamedTuple):
    """W consecutive steps of an episode for each of R rows; zeros before its first and after its
    last.

    Attributes:
      frames: uint8 [R, W, 84, 84], starting on a multiple of 64 bytes; of a store that shares its
        frames their numbers, int64 [R, W].
      actions: uint8 [R, W], of the full 18.
      rewards: float32 [R, W].
      returns: float32 [R, W], the sum of the rewards from each step to the episode's last.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    returns: np.ndarray


class Store(Protocol):
    """Where whole episodes are kept."""

    @property
    def episodes(self) -> Episodes:
        """The table of the episodes."""

    @property
    def shared(self) -> np.ndarray | None:
        """All frames, uint8 [N + 1, 84, 84], the last one zeros, on a multiple of 64 bytes, where
        TensorFlow is to gather them itself: half the processor time of any copy that Python makes.
        """

    def read(self, episode: np.ndarray, first: np.ndarray, out: Steps) -> None:
        """Reads the steps `first[r], first[r] + 1, ...` of episode `episode[r]` into row r of
        `out`, which holds garbage; several threads call it at a time.
        """


def find_positions(table: Episodes, reads: Transitions | Sequences) -> Positions:
    """The positions that batches of a method are drawn from; errors as in `positions`."""
    if isinstance(reads, Transitions):
        return positions.transitions(table, reads.n_step)
    return positions.windows(table, reads.length)


def dataset(
    store: Store, law: BatchLaw, reads: Transitions | Sequences, **position: Any
) -> tf.data.Dataset:
    """The batches that a method reads; `position`: as `transitions`, whose arguments it has."""
    if isinstance(reads, Transitions):
        return transitions(store, law, reads.n_step, reads.discount, **position)
    return sequences(store, law, reads.length, **position)


def transitions(
    store: Store,
    law: BatchLaw,
    n_step: int,
    discount: float,
    *,
    seed: int,
    start_step: int,
    steps_per_call: int,
    rows: slice = slice(None),
    failures: list[UserError] | None = None,
) -> tf.data.Dataset:
    """An endless data set of `Batch` with leading axes [K, B]; element i begins at step s + i * K.

    Args:
      store: the episodes.
      law: the batch law.
      n_step: the n of the transitions.
      discount: gamma.
      seed: non-negative.
      start_step: s, the learner step of the first batch.
      steps_per_call: K.
      rows: this host's rows of the global batch.
      failures: where a damaged store is told: what iterating raises is TensorFlow's.

    Raises:
      UserError: if a game has no transition.
    """
    table = store.episodes
    factors = [np.float32(discount**k) for k in range(n_step + 1)]

    def make(games: np.ndarray, episode: np.ndarray, step: np.ndarray) -> Batch:
        steps = read_steps(store, episode, step - LEAD, STACK + n_step)
        rewards = np.zeros(games.shape, np.float32)
        for k in range(n_step):
            rewards += factors[k] * steps.rewards[..., LEAD + k]
        ended = table.terminal[episode] & (step + n_step >= table.steps[episode])
        discounts = np.where(ended, np.float32(0), factors[n_step])
        actions = steps.actions[..., LEAD].astype(np.int32)
        return Batch(steps.frames, actions, rewards, discounts, games)

    found = positions.transitions(table, n_step)
    shape = (steps_per_call, len(range(law.batch_size)[rows]))
    spec = Batch(
        frames=tf.TensorSpec((*shape, STACK + n_step, *FRAME_SHAPE), tf.uint8),
        actions=tf.TensorSpec(shape, tf.int32),
        rewards=tf.TensorSpec(shape, tf.float32),
        discounts=tf.TensorSpec(shape, tf.float32),
        games=tf.TensorSpec(shape, tf.int32),
    )
    draw = _draws(
        law, found, seed=seed, start_step=start_step, steps_per_call=steps_per_call, rows=rows
    )
    return _dataset(store, make, spec, draw, failures=failures)


def sequences(
    store: Store,
    law: BatchLaw,
    length: int,
    *,
    seed: int,
    start_step: int,
    steps_per_call: int,
    rows: slice = slice(None),
    failures: list[UserError] | None = None,
) -> tf.data.Dataset:
    """An endless data set of `SequenceBatch` with leading axes [K, B], as `transitions`.

    The last step of a row's window is uniform over the steps of its game that `positions.windows`
    allows: an episode that the recording cuts gives none, as its returns to go aren't known.

    Args:
      store: the episodes.
      law: the batch law; its transitions are windows here.
      length: T, the steps of a window.
      seed, start_step, steps_per_call, rows, failures: as for `transitions`.

    Raises:
      UserError: if a game has no window.
    """

    def make(games: np.ndarray, episode: np.ndarray, step: np.ndarray) -> SequenceBatch:
        first = step - (length - 1)
        steps = read_steps(store, episode, first, length)
        mask = first[..., None] + np.arange(length) >= 0
        actions = steps.actions.astype(np.int32)
        return SequenceBatch(steps.frames, actions, steps.rewards, steps.returns, games, mask)

    found = positions.windows(store.episodes, length)
    shape = (steps_per_call, len(range(law.batch_size)[rows]))
    window = (*shape, length)
    spec = SequenceBatch(
        frames=tf.TensorSpec((*window, *FRAME_SHAPE), tf.uint8),
        actions=tf.TensorSpec(window, tf.int32),
        rewards=tf.TensorSpec(window, tf.float32),
        returns=tf.TensorSpec(window, tf.float32),
        games=tf.TensorSpec(shape, tf.int32),
        mask=tf.TensorSpec(window, tf.bool),
    )
    draw = _draws(
        law, found, seed=seed, start_step=start_step, steps_per_call=steps_per_call, rows=rows
    )
    return _dataset(store, make, spec, draw, failures=failures)


Draw = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]


def _draws(
    law: BatchLaw,
    found: Positions,
    *,
    seed: int,
    start_step: int,
    steps_per_call: int,
    rows: slice,
) -> Draw:
    """A function from the number of a call to games, episodes and steps, each [K, B]."""

    def draw(call: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first = start_step + call * steps_per_call
        drawn = [draw_transitions(law, found.sizes, seed, first + k) for k in range(steps_per_call)]
        games, nth = (np.stack(column)[:, rows] for column in zip(*drawn))
        return games, *found.find(games, nth)

    return draw


def _dataset(
    store: Store,
    make: Callable[..., Any],
    spec: Any,
    draw: Draw,
    *,
    failures: list[UserError] | None,
) -> tf.data.Dataset:
    shared, types = None, [each.dtype for each in spec]
    if store.shared is not None:  # without a copy
        shared = tf.experimental.dlpack.from_dlpack(store.shared.__dlpack__())
        types = [tf.int64, *types[1:]]

    def read(nth: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return tuple(make(*draw(int(nth))))
        except UserError as error:  # TensorFlow passes on its text alone, in a long one of its own
            if failures is not None:
                failures.append(error)
            raise

    def batch(call: tf.Tensor) -> Any:
        frames, *rest = tf.numpy_function(read, [call], types)
        if shared is not None:
            frames = tf.gather(shared, tf.ensure_shape(frames, spec.frames.shape[:-2]))
        columns = zip((frames, *rest), spec)
        return type(spec)(*(tf.ensure_shape(column, each.shape) for column, each in columns))

    # The default optimisations copy what a function has captured: all frames, a second time.
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    return tf.data.Dataset.counter().map(batch).prefetch(1).with_options(options)


def read_steps(store: Store, episode: np.ndarray, first: np.ndarray, count: int) -> Steps:
    """The steps of rows of any shape, read by all cores; each column [..., count]."""
    shape, episode, first = episode.shape, episode.reshape(-1), first.reshape(-1)
    rows = len(episode)
    numbers_only = store.shared is not None
    steps = Steps(
        np.empty((rows, count), np.int64) if numbers_only else empty_frames(rows, count),
        np.empty((rows, count), np.uint8),
        np.empty((rows, count), np.float32),
        np.empty((rows, count), np.float32),
    )

    def read(begin: int) -> None:
        here = slice(begin, begin + _SHARE_ROWS)
        store.read(episode[here], first[here], Steps(*(column[here] for column in steps)))

    for _ in _threads().map(read, range(0, rows, _SHARE_ROWS)):
        pass  # an error of a thread is raised here
    return Steps(*(column.reshape(*shape, *column.shape[1:]) for column in steps))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="read")
