"""Data sets of batches drawn from a store of whole episodes, in memory or packed.

Every batch is a pure function of (seed, step): nothing is kept between batches, so that a run that
restarts at step s gets the batches of an uninterrupted run bit for bit. Stores of the same episodes
give the same batches, in memory or on disk.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from cql_atari.core.types import FRAME_SHAPE, STACK, Batch, SequenceBatch, UserError
from cql_atari.data.steps import Steps
from cql_atari.feed import positions
from cql_atari.feed.positions import Episodes, Positions
from cql_atari.feed.sampling import BatchLaw, draw_transitions
from cql_atari.feed.transitions import LEAD, empty_frames
from cql_atari.methods.method import Sequences, Transitions

_SHARE_ROWS = 64  # rows that a thread fetches at a time


class Store(Protocol):
    """Where whole episodes are kept."""

    @property
    def episodes(self) -> Episodes:
        """The table of the episodes."""

    @property
    def shared(self) -> np.ndarray | None:
        """All frames, uint8 [N + 1, 84, 84], the last one zeros, on a multiple of 64 bytes: then
        TensorFlow gathers them itself, in half the processor time of Python's copy. None: `read`
        copies frames.
        """

    def read(self, episode: np.ndarray, first: np.ndarray, out: Steps) -> None:
        """Reads the steps `first[r], first[r] + 1, ...` of episode `episode[r]` into row r of
        `out`; zeros before the episode's first step and after its last.

        `out` is uninitialised, [R, W]; its frames begin on a multiple of 64 bytes or, where frames
        are `shared`, are numbers of frames, int64 [R, W]. Several threads call this at a time.
        """


def find_positions(table: Episodes, reads: Transitions | Sequences) -> Positions:
    """The positions that batches of a method are drawn from; errors as in `positions`."""
    if isinstance(reads, Transitions):
        return positions.transitions(table, reads.n_step)
    return positions.windows(table, reads.length)


def dataset(
    store: Store,
    law: BatchLaw,
    reads: Transitions | Sequences,
    *,
    seed: int,
    start_step: int,
    steps_per_call: int,
    rows: slice = slice(None),
    failures: list[UserError] | None = None,
) -> tf.data.Dataset:
    """An endless data set of what a method reads, `Batch` or `SequenceBatch`, with leading axes
    [K, B]; element i begins at step s + i * K.

    Args:
      store: the episodes.
      law: the batch law; with sequences its transitions are windows.
      reads: transitions or windows.
      seed: non-negative.
      start_step: s, the learner step of the first batch.
      steps_per_call: K.
      rows: this host's rows of the global batch.
      failures: takes the errors of a damaged store: iterating raises an error of TensorFlow's.

    Raises:
      UserError: if a game has no transition or window.
    """
    found = find_positions(store.episodes, reads)
    shape = (steps_per_call, len(range(law.batch_size)[rows]))
    make: Callable[..., Any]
    spec: Any
    if isinstance(reads, Transitions):
        make, spec = _make_transitions(store, reads), batch_spec(shape, reads.n_step)
    else:
        make, spec = _make_windows(store, reads.length), _sequence_spec(shape, reads.length)
    shared, types = None, [each.dtype for each in spec]
    if store.shared is not None:  # without a copy
        shared = tf.experimental.dlpack.from_dlpack(store.shared.__dlpack__())
        types = [tf.int64, *types[1:]]

    def read(call: np.ndarray) -> tuple[np.ndarray, ...]:
        first = start_step + int(call) * steps_per_call
        drawn = [draw_transitions(law, found.sizes, seed, first + k) for k in range(steps_per_call)]
        games, nth = (np.stack(column)[:, rows] for column in zip(*drawn))
        try:
            return tuple(make(games, *found.find(games, nth)))
        except UserError as error:  # TensorFlow wraps its text in a long one of its own
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


def _make_transitions(store: Store, reads: Transitions) -> Callable[..., Batch]:
    """A function (games, episodes, steps, each [K, B]) -> the transitions of these steps."""
    table, n_step = store.episodes, reads.n_step
    factors = [np.float32(reads.discount**k) for k in range(n_step + 1)]

    def make(games: np.ndarray, episode: np.ndarray, step: np.ndarray) -> Batch:
        steps = read_steps(store, episode, step - LEAD, STACK + n_step)
        rewards = np.zeros(games.shape, np.float32)
        for k in range(n_step):
            rewards += factors[k] * steps.rewards[..., LEAD + k]
        ended = table.terminal[episode] & (step + n_step >= table.steps[episode])
        discounts = np.where(ended, np.float32(0), factors[n_step])
        actions = steps.actions[..., LEAD].astype(np.int32)
        return Batch(steps.frames, actions, rewards, discounts, games)

    return make


def _make_windows(store: Store, length: int) -> Callable[..., SequenceBatch]:
    """A function (games, episodes, steps, each [K, B]) -> the windows that end at these steps."""

    def make(games: np.ndarray, episode: np.ndarray, step: np.ndarray) -> SequenceBatch:
        first = step - (length - 1)
        steps = read_steps(store, episode, first, length)
        mask = first[..., None] + np.arange(length) >= 0
        actions = steps.actions.astype(np.int32)
        return SequenceBatch(steps.frames, actions, steps.rewards, steps.returns, games, mask)

    return make


def batch_spec(shape: tuple[int, int], n_step: int) -> Batch:
    """The `tf.TensorSpec`s of transitions with leading axes [K, B]."""
    return Batch(
        frames=tf.TensorSpec((*shape, STACK + n_step, *FRAME_SHAPE), tf.uint8),
        actions=tf.TensorSpec(shape, tf.int32),
        rewards=tf.TensorSpec(shape, tf.float32),
        discounts=tf.TensorSpec(shape, tf.float32),
        games=tf.TensorSpec(shape, tf.int32),
    )


def _sequence_spec(shape: tuple[int, int], length: int) -> SequenceBatch:
    window = (*shape, length)
    return SequenceBatch(
        frames=tf.TensorSpec((*window, *FRAME_SHAPE), tf.uint8),
        actions=tf.TensorSpec(window, tf.int32),
        rewards=tf.TensorSpec(window, tf.float32),
        returns=tf.TensorSpec(window, tf.float32),
        games=tf.TensorSpec(shape, tf.int32),
        mask=tf.TensorSpec(window, tf.bool),
    )


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
