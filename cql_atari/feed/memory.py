"""The `memory` feed: every frame once in RAM, batches a pure function of (seed, step).

A transition costs its frame (7,056 bytes), 20 bytes of columns and index, and its share of the
3 zero frames between episodes. Nothing is kept between batches, so a run that restarts at step s
gets the batches of an uninterrupted run bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from cql_atari.feed.sampling import BatchLaw, draw_transitions
from cql_atari.feed.transitions import LEAD, block, empty_frames
from cql_atari.types import STACK, Batch, Episode, UserError


class Store(NamedTuple):
    """Transitions in memory. Row r is the window `frames[r : r + 4 + n_step]` and its columns.

    Attributes:
      frames: uint8 [N, 84, 84], starts on a multiple of 64 bytes.
      actions: int32 [N].
      rewards: float32 [N], n-step returns.
      discounts: float32 [N].
      rows: int64 [transitions], the valid rows, game by game.
      sizes: int64 [games], transitions of each game.
      n_step: the n of the windows, returns and discounts.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    rows: np.ndarray
    sizes: np.ndarray
    n_step: int


def load(
    episodes: Iterable[Episode],
    games: Sequence[str],
    *,
    n_step: int,
    discount: float,
    capacity: int,
) -> Store:
    """Reads all episodes into one store.

    Args:
      episodes: of any of the games, in any order.
      games: the run's list of games; `Batch.games` are indices into it.
      n_step: steps of the n-step return.
      discount: gamma.
      capacity: upper bound of the steps, padding of the files included. Only address space is
        reserved: memory that no episode reaches costs nothing.

    Raises:
      UserError: if a game has no valid transition.
      ValueError: if the episodes exceed the capacity by more than an eighth (zero frames between
        very short episodes), or one is of a game that isn't listed.
    """
    slots = capacity + capacity // 8 + 1024
    frames = empty_frames(slots)
    actions = np.empty(slots, np.int32)
    rewards, discounts = np.empty(slots, np.float32), np.empty(slots, np.float32)
    rows: list[list[np.ndarray]] = [[] for _ in games]
    start = end = 0
    with tqdm.tqdm(total=capacity, desc="loading", unit="frame", unit_scale=True, delay=2) as bar:
        for episode in episodes:
            new = block(episode, n_step, discount)
            end = start + len(new.frames)
            if end > slots:
                raise ValueError(f"{end} frames with padding exceed {capacity=} by over an eighth")
            frames[start:end] = new.frames
            steps = slice(start, start + len(new.actions))
            actions[steps], rewards[steps] = new.actions, new.rewards
            discounts[steps] = new.discounts
            rows[games.index(episode.game)].append(start + np.flatnonzero(new.valid))
            start = end - min(LEAD, n_step)  # neighbours share their zeros
            bar.update(len(new.actions))

    sizes = np.array([sum(map(len, parts)) for parts in rows], np.int64)
    if empty := [game for game, size in zip(games, sizes) if size == 0]:
        raise UserError(
            f"no transition of {', '.join(empty)} in the data ({n_step=}): give files with "
            f"episodes longer than {n_step} steps, or leave the game out."
        )
    return Store(
        frames=frames[:end],
        actions=actions[:end],
        rewards=rewards[:end],
        discounts=discounts[:end],
        rows=np.concatenate([part for parts in rows for part in parts]).astype(np.int64),
        sizes=sizes,
        n_step=n_step,
    )


def dataset(
    store: Store,
    law: BatchLaw,
    *,
    seed: int,
    start_step: int,
    steps_per_call: int,
    rows: slice = slice(None),
) -> tf.data.Dataset:
    """An endless data set of `Batch` with leading axes [K, B]; element i begins at step s + i * K.

    Args:
      store: what `load` returned; TensorFlow shares its frames without a copy.
      law: the batch law.
      seed: non-negative.
      start_step: s, the learner step of the first batch.
      steps_per_call: K.
      rows: this host's rows of the global batch.
    """
    windows = np.arange(STACK + store.n_step)
    frames = tf.experimental.dlpack.from_dlpack(store.frames.__dlpack__())
    offsets = np.cumsum(store.sizes) - store.sizes

    def draw(call: np.ndarray) -> tuple[np.ndarray, ...]:
        first = start_step + int(call) * steps_per_call
        drawn = [draw_transitions(law, store.sizes, seed, first + k) for k in range(steps_per_call)]
        games, nth = (np.stack(column)[:, rows] for column in zip(*drawn))
        at = store.rows[offsets[games] + nth]
        return at, store.actions[at], store.rewards[at], store.discounts[at], games

    shape = (steps_per_call, len(range(law.batch_size)[rows]))
    types = (tf.int64, tf.int32, tf.float32, tf.float32, tf.int32)

    def batch(call: tf.Tensor) -> Batch:
        columns = tf.numpy_function(draw, [call], types)
        at, *columns = [tf.ensure_shape(column, shape) for column in columns]
        return Batch(tf.gather(frames, at[..., None] + windows), *columns)

    return tf.data.Dataset.counter().map(batch).prefetch(1)
