"""Batches from the replay, by the batch law; games are a pure function of (seed, step).

How the draws depend on each other. Segments are drawn independently of each other, in proportion
to their transitions, and a row's transition is uniform over its segment's; so every row is uniform
over the transitions of its game's table. The rows of one batch come from different draws of
segments: given the tables, they are independent. Only batches of the same super-batch depend on
each other: a drawn segment gives at most one row to each of them and 8 to all. For each game a
super-batch draws as many segments as the game has rows in the batch where it has most, so speed
comes from K: with K = 1 each row costs a segment.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import reverb
import tensorflow as tf
import tqdm

from cql_atari.core.types import FRAME_SHAPE, STACK, Batch
from cql_atari.feed.replay.segments import ROWS, unpack
from cql_atari.feed.replay.service import Replay
from cql_atari.feed.sampling import BatchLaw, draw_games
from cql_atari.feed.transitions import empty_frames

_FETCH = 16  # segments that cross from Reverb to Python at a time
_POLL_SECONDS = 0.05
_ROWS_PER_DRAW = 8  # half of a full segment's: more would save little, and repeat much


def dataset(
    replay: Replay,
    law: BatchLaw,
    *,
    seed: int,
    start_step: int,
    steps_per_call: int,
    rows: slice = slice(None),
    check: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tf.data.Dataset:
    """Waits for the first fill, then returns what `memory.dataset` does: `Batch` of [K, B].

    The data set ends when the replay closes.

    Args:
      replay: the tables.
      law: the batch law.
      seed: non-negative; decides the games of every step. Reverb's draws take no seed.
      start_step: the learner step of the first batch.
      steps_per_call: K.
      rows: this host's rows of the global batch.
      check: raises if the tables' writers failed; called while waiting and once an element.
      should_stop: whether to stop waiting.

    Raises:
      KeyboardInterrupt: if told to stop before the first fill.
    """
    _wait_for_first_fill(replay, check, should_stop)
    streams = [segments(replay.address, game) for game in replay.games]
    assembling = threading.Lock()

    def super_batches() -> Iterator[Batch]:
        drawn = batches(
            streams, law, replay.n_step,
            seed=seed, start_step=start_step, steps_per_call=steps_per_call, rows=rows,
        )  # fmt: skip
        while True:
            check()
            with assembling:
                if not streams:
                    return
                batch = next(drawn)
            yield batch

    def close() -> None:
        with assembling:
            while streams:
                streams.pop().close()

    replay.readers.callback(close)
    signature = spec(law, replay.n_step, steps_per_call, rows)
    return tf.data.Dataset.from_generator(super_batches, output_signature=signature).prefetch(1)


def spec(law: BatchLaw, n_step: int, steps_per_call: int, rows: slice) -> Batch:
    """The `tf.TensorSpec`s of a data set's elements; arguments as `batches`."""
    shape = (steps_per_call, len(range(law.batch_size)[rows]))
    return Batch(
        frames=tf.TensorSpec((*shape, STACK + n_step, *FRAME_SHAPE), tf.uint8),
        actions=tf.TensorSpec(shape, tf.int32),
        rewards=tf.TensorSpec(shape, tf.float32),
        discounts=tf.TensorSpec(shape, tf.float32),
        games=tf.TensorSpec(shape, tf.int32),
    )


def batches(
    streams: Sequence[Iterator[bytes]],
    law: BatchLaw,
    n_step: int,
    *,
    seed: int,
    start_step: int,
    steps_per_call: int,
    rows: slice,
) -> Iterator[Batch]:
    """Super-batches without end, as NumPy arrays.

    Args:
      streams: each game's endless segments.
      law: the batch law.
      n_step: the n of the transitions.
      seed, start_step, steps_per_call, rows: as `dataset`.
    """
    random = np.random.default_rng([seed, start_step])
    for first in itertools.count(start_step, steps_per_call):
        draws = [draw_games(law, len(streams), seed, first + k) for k in range(steps_per_call)]
        games = np.repeat(np.stack(draws), law.transitions_per_draw, axis=1)[:, rows]
        yield _assemble(games, streams, n_step, random)


def _assemble(
    games: np.ndarray, streams: Sequence[Iterator[bytes]], n_step: int, random: np.random.Generator
) -> Batch:
    """A super-batch whose rows are of the given games, int32 [K, B]."""
    window = STACK + n_step
    frames = empty_frames(games.size, window)
    actions = np.empty(games.size, np.int32)
    rewards, discounts = np.empty(games.size, np.float32), np.empty(games.size, np.float32)
    for game in np.unique(games):
        for packed, slots in _deal(games == game, streams[game]):
            segment = unpack(packed, n_step)
            length = len(segment.actions)
            picks = random.permutation(length)[np.arange(len(slots)) % length]
            for slot, pick in zip(slots, picks):
                frames[slot] = segment.frames[pick : pick + window]
            actions[slots] = segment.actions[picks]
            rewards[slots] = segment.rewards[picks]
            discounts[slots] = segment.discounts[picks]
    shape = games.shape
    return Batch(
        frames=frames.reshape(*shape, window, *FRAME_SHAPE),
        actions=actions.reshape(shape),
        rewards=rewards.reshape(shape),
        discounts=discounts.reshape(shape),
        games=games,
    )


def _deal(wanted: np.ndarray, segments: Iterator[bytes]) -> Iterator[tuple[bytes, np.ndarray]]:
    """Deals a game's slots to segments like cards, so that no batch has two of one segment.

    Args:
      wanted: bool [K, B], the slots (indices into K * B) that are the game's.
      segments: the game's segments; as many are taken as the fullest batch has slots, or more
        if each would have to serve over 8.
    """
    slots = np.flatnonzero(wanted)
    count = max(wanted.sum(axis=1).max(), -(-len(slots) // _ROWS_PER_DRAW))
    for i, packed in enumerate(itertools.islice(segments, int(count))):
        yield packed, slots[i::count]


def segments(address: str, game: str) -> Generator[bytes, None, None]:
    """An endless stream of independent draws from a game's table."""
    draws = reverb.TrajectoryDataset(
        address,
        game,
        dtypes={"segment": tf.string},
        shapes={"segment": tf.TensorShape(())},
        max_in_flight_samples_per_worker=2 * _FETCH,
        num_workers_per_iterator=1,
    )
    for sample in draws.batch(_FETCH):
        yield from sample.data["segment"].numpy()


def _wait_for_first_fill(
    replay: Replay, check: Callable[[], None], should_stop: Callable[[], bool]
) -> None:
    client = reverb.Client(replay.address)

    def tables() -> list[reverb.reverb_types.TableInfo]:
        return [table for name, table in client.server_info().items() if name in replay.games]

    needed = [table.rate_limiter_info.min_size_to_sample for table in tables()]
    with tqdm.tqdm(
        total=sum(needed) * ROWS, desc="filling the replay", unit="transition", delay=2
    ) as bar:
        filled: list[int] = []
        while filled != needed:
            check()
            if should_stop():
                raise KeyboardInterrupt
            filled = [min(table.current_size, n) for table, n in zip(tables(), needed)]
            bar.update(sum(filled) * ROWS - bar.n)
            time.sleep(_POLL_SECONDS)
