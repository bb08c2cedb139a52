"""The `memory` feed: every frame once, in RAM or in mapped files; batches a pure function of
(seed, step).

A transition costs its frame (7,056 bytes), 20 bytes of columns and index, and its share of the
3 zero frames between episodes. How much that is in all is known from the extents of the episodes,
before any is read; beside it, reading takes two copies of one episode. Nothing is kept between
batches, so a run that restarts at step s gets the batches of an uninterrupted run bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from cql_atari.core.types import FRAME_SHAPE, STACK, Batch, Episode, Extent, UserError
from cql_atari.feed.sampling import BatchLaw, draw_transitions
from cql_atari.feed.transitions import LEAD, block, count, empty_frames

_RESIDENT = 64  # windows between letting go: Linux may map 2 MB around each page that is read
Write = Callable[[str, int, np.ndarray], None]  # field of a `Store`, first element, values


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
      let_go: gives back the pages of mapped files that are resident, to be found again when next
        used; None in RAM.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    rows: np.ndarray
    sizes: np.ndarray
    n_step: int
    let_go: Callable[[], None] | None = None


class Plan(NamedTuple):
    """What a store will hold, known before an episode is read.

    Attributes:
      frames: N.
      sizes: transitions of each game.
      n_step: the n of the transitions.
    """

    frames: int
    sizes: Mapping[str, int]
    n_step: int

    def arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shapes and dtypes of the store's large arrays."""
        frames = (self.frames,)
        return {
            "frames": ((*frames, *FRAME_SHAPE), np.uint8),
            "actions": (frames, np.int32),
            "rewards": (frames, np.float32),
            "discounts": (frames, np.float32),
            "rows": ((sum(self.sizes.values()),), np.int64),
        }

    @property
    def num_bytes(self) -> int:
        return sum(math.prod(s) * np.dtype(d).itemsize for s, d in self.arrays().values())


def plan(extents: Mapping[str, Iterable[Extent]], n_step: int) -> Plan:
    """The plan of a store.

    Args:
      extents: of each game's episodes; the order of the games is that of `Batch.games`.
      n_step: steps of the n-step return.

    Raises:
      UserError: if a game has no valid transition.
    """
    frames, sizes = 0, {}
    for game, mine in extents.items():
        sizes[game] = 0
        for extent in mine:
            frames += extent.steps + max(LEAD, n_step)
            sizes[game] += count(extent, n_step)
    if empty := [game for game, size in sizes.items() if not size]:
        raise UserError(
            f"no transition of {', '.join(empty)} in the data ({n_step=}): give files with "
            f"episodes longer than {n_step} steps, or leave the game out."
        )
    return Plan(frames + min(LEAD, n_step), sizes, n_step)


def load(episodes: Iterable[Episode], planned: Plan, *, discount: float) -> Store:
    """Reads all episodes into RAM; arguments and errors as `fill`."""
    arrays: dict[str, Any] = {
        name: np.empty(shape, dtype)
        for name, (shape, dtype) in planned.arrays().items()
        if name != "frames"
    }
    arrays["frames"] = empty_frames(planned.frames)

    def write(name: str, start: int, values: np.ndarray) -> None:
        arrays[name][start : start + len(values)] = values

    fill(write, episodes, planned, discount=discount)
    sizes = np.array([*planned.sizes.values()], np.int64)
    return Store(**arrays, sizes=sizes, n_step=planned.n_step)


def fill(write: Write, episodes: Iterable[Episode], planned: Plan, *, discount: float) -> None:
    """Writes every element of a store's arrays that is ever read.

    Args:
      write: stores values; frames and columns come in order, rows game by game.
      episodes: those whose extents were planned, in any order.
      planned: the plan.
      discount: gamma.

    Raises:
      UserError: if the episodes aren't those that were planned.
    """
    n_step, sizes = planned.n_step, [*planned.sizes.values()]
    ends = dict(zip(planned.sizes, np.cumsum(sizes).tolist()))
    next_row = {game: ends[game] - size for game, size in planned.sizes.items()}
    start = end = 0

    def check(fits: bool) -> None:
        if not fits:
            raise UserError(
                "the data changed while they were read: other episodes than were counted before. "
                "Run the same command once they are at rest."
            )

    def add(episode: Episode) -> int:
        nonlocal start, end
        new, game = block(episode, n_step, discount), episode.game
        end = start + len(new.frames)
        rows = start + np.flatnonzero(new.valid)
        check(end <= planned.frames and next_row[game] + len(rows) <= ends[game])
        write("frames", start, new.frames)
        for name in ("actions", "rewards", "discounts"):
            write(name, start, getattr(new, name))
        write("rows", next_row[game], rows)
        next_row[game] += len(rows)
        start = end - min(LEAD, n_step)  # neighbours share their zeros
        return len(new.actions)

    total = planned.frames
    with tqdm.tqdm(total=total, desc="loading", unit="frame", unit_scale=True, delay=2) as bar:
        # Not a loop over episodes: its variable would keep one while the next is read.
        for steps in map(add, episodes):
            bar.update(steps)
    check(end == planned.frames and next_row == ends)


def check_budget(planned: Plan, limit: float, source: str) -> None:
    """Refuses what wouldn't fit, before anything is read.

    Args:
      planned: the plan.
      limit: bytes that the store may take.
      source: where the limit comes from.

    Raises:
      UserError: with the bytes that it would take.
    """
    if planned.num_bytes > limit:
        share = limit / planned.num_bytes
        raise UserError(
            f"feed.kind = 'memory' would take {planned.num_bytes / 1e9:.3g} GB for "
            f"{sum(planned.sizes.values()):,} transitions; it may take {limit / 1e9:.3g} GB "
            f"({source}). Set feed.kind = 'replay', which takes little whatever the data; or "
            f"data.fraction to {share:.2g} of what it is or less; or feed.cache_dir to a folder "
            "for memory-mapped files; or feed.memory_gb, if there is more."
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
      store: what `load` returned.
      law: the batch law.
      seed: non-negative.
      start_step: s, the learner step of the first batch.
      steps_per_call: K.
      rows: this host's rows of the global batch.
    """
    gather = _gather(store)
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
        return Batch(gather(at), *columns)

    # The default optimisations copy what a function has captured: all frames, a second time.
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    return tf.data.Dataset.counter().map(batch).prefetch(1).with_options(options)


def _gather(store: Store) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from rows, int64 [...], to their windows, uint8 [..., 4 + n, 84, 84]."""
    window, let_go = STACK + store.n_step, store.let_go
    if let_go is None:  # TensorFlow shares the memory
        frames = tf.experimental.dlpack.from_dlpack(store.frames.__dlpack__())
        return lambda rows: tf.gather(frames, rows[..., None] + np.arange(window))

    def copy(rows: np.ndarray) -> np.ndarray:
        windows = empty_frames(*rows.shape, window)
        for i, at in enumerate(np.ndindex(rows.shape)):
            if i % _RESIDENT == 0:
                let_go()
            windows[at] = store.frames[rows[at] : rows[at] + window]
        return windows

    def gather(rows: tf.Tensor) -> tf.Tensor:
        windows = tf.numpy_function(copy, [rows], tf.uint8)
        return tf.ensure_shape(windows, (*rows.shape, window, *FRAME_SHAPE))

    return gather
