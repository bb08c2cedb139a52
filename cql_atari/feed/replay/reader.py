"""Batches from the replay, by the batch law, as a function of the seed and the queues' segments.

How the draws depend on each other. The games of a step come from the batch law, independent of
everything else. A game's segments arrive in a shuffled order, each segment of the window once a
period, and each row of an arriving segment is dealt once. So draws are uniform over the window,
without replacement within a period.

Rows of one segment (16 neighbouring steps) are dealt far apart: rows are taken in turn from 16
segments that are `spacing` arrivals apart, so that at least 16 * spacing - 15 other rows of the
game lie between two rows of a segment (fewer where segments are shorter). `spacing` shares `_OPEN`
segments among the games (2 for 40 games, 26 for 3); a batch has two rows of a segment only if it
has more rows of one game than that.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cql_atari.core.types import FRAME_SHAPE, STACK, Batch, UserError
from cql_atari.feed import tables
from cql_atari.feed.drawing import batch_spec
from cql_atari.feed.replay import service
from cql_atari.feed.replay.segments import ROWS, Segment, unpack_segment
from cql_atari.feed.replay.service import Replay
from cql_atari.feed.sampling import BatchLaw, draw_games
from cql_atari.feed.transitions import empty_frames

_OPEN = 1_280  # segments that all games together keep open, 0.16 MB each


class Dealt(NamedTuple):
    """How far a game's segments have been dealt.

    Attributes:
      lead: the newest segment that rows were dealt at, counted in arrivals.
      rows: that were dealt at it.
    """

    lead: int = 0
    rows: int = 0


def spacing(num_games: int) -> int:
    """Arrivals between the segments that are dealt from at a time."""
    return max(_OPEN // (ROWS * num_games), 1)


def lag(num_games: int) -> int:
    """Segments before the newest that a reader needs again to go on."""
    return (ROWS - 1) * spacing(num_games)


def dataset(
    replay: Replay,
    law: BatchLaw,
    *,
    seed: int,
    start_step: int,
    steps_per_call: int,
    rows: slice = slice(None),
    private: bool = True,
    dealt: Sequence[Dealt] | None = None,
    note: Callable[[int, list[Dealt]], None] = lambda step, dealt: None,
    check: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
    failures: list[UserError] | None = None,
) -> tf.data.Dataset:
    """A data set of `Batch` with leading axes [K, B], as `drawing.dataset`; ends with the replay.

    Args:
      replay: the queues.
      law: the batch law.
      seed: non-negative; decides the games of every step.
      start_step: the learner step of the first batch.
      steps_per_call: K.
      rows: this host's rows of the global batch.
      private: whether no other host reads these queues. Then rows of other hosts are dealt, too,
        and left out: the hosts' batches together are what one host would draw.
      dealt: how far each game has been dealt; the queues begin at its first segment that is still
        needed.
      note: called for each step, before its super-batch is given, with the next step's number and
        how far all games are dealt then. Called from another thread.
      check: raises if a writer failed; called while nothing arrives.
      should_stop: whether to end; asked while nothing arrives.
      failures: takes the errors of bytes that are no segment: iterating raises TensorFlow's own.
    """
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def make() -> Iterator[Batch]:
        streams = {game: arrivals(replay.address, game, ended.is_set) for game in replay.games}
        return batches(
            streams, law, replay.n_step, seed=seed, start_step=start_step,
            steps_per_call=steps_per_call, rows=rows, private=private, dealt=dealt, note=note,
        )  # fmt: skip

    def wait() -> bool:
        check()
        return not should_stop()

    def close() -> None:
        ended.set()
        for thread in threads:
            thread.join()

    def elements() -> Iterator[Batch]:
        try:
            yield from tables.prefetch(make, ended, wait, threads.append)
        except UserError as error:
            if failures is not None:
                failures.append(error)
            raise

    replay.readers.callback(close)
    signature = batch_spec((steps_per_call, len(range(law.batch_size)[rows])), replay.n_step)
    return tf.data.Dataset.from_generator(elements, output_signature=signature)


def batches(
    streams: Mapping[str, Iterator[bytes]],
    law: BatchLaw,
    n_step: int,
    *,
    seed: int,
    start_step: int,
    steps_per_call: int,
    rows: slice,
    private: bool,
    dealt: Sequence[Dealt] | None = None,
    note: Callable[[int, list[Dealt]], None] = lambda step, dealt: None,
) -> Iterator[Batch]:
    """Super-batches without end, as NumPy arrays.

    Args:
      streams: each game's endless draws, in the run's order of games.
      law: the batch law.
      n_step: the n of the transitions.
      seed, start_step, steps_per_call, rows, private, dealt, note: as `dataset`.
    """
    reached = list(dealt or [Dealt()] * len(streams))
    between = spacing(len(streams))
    dealers = [
        deal(stream, n_step, between, start, game)
        for (game, stream), start in zip(streams.items(), reached)
    ]
    for first in itertools.count(start_step, steps_per_call):
        draws = [draw_games(law, len(streams), seed, first + k) for k in range(steps_per_call)]
        games = np.repeat(np.stack(draws), law.transitions_per_draw, axis=1)
        mine = np.zeros(games.shape, bool)
        mine[:, rows] = True
        if not private:
            games, mine = games[:, rows], mine[:, rows]
        yield _assemble(games, mine, dealers, n_step, first=first, reached=reached, note=note)


def _assemble(
    games: np.ndarray,
    mine: np.ndarray,
    dealers: Sequence[Iterator[tuple[Segment, int, Dealt]]],
    n_step: int,
    *,
    first: int,
    reached: list[Dealt],
    note: Callable[[int, list[Dealt]], None],
) -> Batch:
    """A super-batch.

    Args:
      games: int32 [K, B], the game of each row to deal.
      mine: bool [K, B], which to keep, equally many of each batch.
      dealers: each game's rows.
      n_step: the n of the transitions.
      first: the step of its first batch.
      reached: of each game, how far it is dealt; brought up to date.
      note: as `dataset`.
    """
    window, size = STACK + n_step, int(mine.sum())
    frames = empty_frames(size, window)
    actions = np.empty(size, np.int32)
    rewards, discounts = np.empty(size, np.float32), np.empty(size, np.float32)
    slot = 0
    for after, (drawn, kept) in enumerate(zip(games.tolist(), mine.tolist()), first + 1):
        for game, keep in zip(drawn, kept):
            segment, row, reached[game] = next(dealers[game])
            if keep:
                frames[slot] = segment.frames[row : row + window]
                actions[slot] = segment.actions[row]
                rewards[slot] = segment.rewards[row]
                discounts[slot] = segment.discounts[row]
                slot += 1
        note(after, list(reached))
    shape = (len(games), size // len(games))
    return Batch(
        frames=frames.reshape(*shape, window, *FRAME_SHAPE),
        actions=actions.reshape(shape),
        rewards=rewards.reshape(shape),
        discounts=discounts.reshape(shape),
        games=games[mine].reshape(shape),
    )


def deal(
    draws: Iterator[bytes], n_step: int, between: int, start: Dealt, game: str
) -> Iterator[tuple[Segment, int, Dealt]]:
    """Every row of every segment once: (segment, row in it, how far that is).

    With each arrival a row of the newest segment is due, the next one of the segment `between`
    arrivals before, and so on to the 16th. Which row of a segment is its first, its draw says.

    Args:
      draws: as `window.draws`, from the first that is still needed.
      n_step: the n of the transitions.
      between: arrivals between neighbouring rows of a segment.
      start: how far the rows were dealt before.
      game: whose they are.

    Raises:
      UserError: for bytes that are no draw.
    """
    opened: deque[tuple[Segment, int]] = deque(maxlen=(ROWS - 1) * between + 1)
    for arrival, drawn in enumerate(draws):
        opened.append(_open(drawn, n_step, game))
        if arrival < start.lead:
            continue
        due = []
        for nth, at in enumerate(range(len(opened) - 1, -1, -between)):
            segment, turn = opened[at]
            length = len(segment.actions)
            if nth < length:
                due.append((segment, (turn + nth) % length))
        skip = start.rows if arrival == start.lead else 0
        for nth, (segment, row) in enumerate(due[skip:], skip + 1):
            yield segment, row, Dealt(arrival, nth)


def _open(drawn: bytes, n_step: int, game: str) -> tuple[Segment, int]:
    try:
        return unpack_segment(drawn[1:], n_step), drawn[0]
    except (ValueError, IndexError) as error:
        raise UserError(
            f"the replay's table {game} holds what is no segment of this run ({error}): another "
            "program wrote it there. Close the replay's port to all but this run's hosts, start "
            "the replay again, then the run: the last checkpoint is good."
        ) from error


def arrivals(address: str, game: str, ended: Callable[[], bool]) -> Iterator[bytes]:
    """The draws in a game's queue, in their order.

    Raises:
      Ended: when told to.
    """
    items = tables.read_items(address, game, service.SIGNATURE, 2 * tables.FETCH, ended)
    return (drawn for (drawn,) in items)
