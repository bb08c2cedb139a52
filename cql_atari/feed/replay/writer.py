"""Fills the replay's queues with recorded play: one background thread a game.

A game's thread reads several parts of its data in turns (`interleave`), keeps a window of
compressed segments (`window`), and puts what is drawn from it into the game's queue; it waits while
the queue is full. Only `_DECODERS` threads hold frames. So, however much data there are, memory is
that of the windows and at most

* `_DECODERS` episodes, twice each (read, padded): 1.5 GB if all had 27,000 steps, the reader's
  longest; 80 MB at the 1,400 steps that are usual;
* for each game a compressed episode, what replaces the oldest of its window at the period's end,
  and for each part that is open what its reader keeps (`.gz`: 5 MB of buffers, 9 MB of columns for
  a million slots).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import reverb

from cql_atari.core.types import Episode, UserError
from cql_atari.feed import tables
from cql_atari.feed.replay import window
from cql_atari.feed.replay.interleave import (
    START,
    OpenPart,
    PackedSegment,
    Part,
    StreamPosition,
    interleave,
)
from cql_atari.feed.replay.segments import ROWS, pack_segments
from cql_atari.feed.replay.service import Replay
from cql_atari.feed.transitions import pad
from cql_atari.system.progress import Progress

_DECODERS = 4  # few: each has an arena of the allocator, which keeps some freed memory
_PENDING = 32  # segments a writer may be ahead of its queue
_POLL_SECONDS = 0.05


class Place(NamedTuple):
    """The place in a game's draws from which they can go on; in JSON nested lists.

    Attributes:
      period: of the window.
      start: where in the stream that period's window begins.
      drawn: segments of the period that have been drawn.
      lead, dealt: of the reader; see `reader.Dealt`.
    """

    period: int = 0
    start: StreamPosition = START
    drawn: int = 0
    lead: int = 0
    dealt: int = 0


def read_place(saved: Sequence[Any], num_parts: int) -> Place:
    """A place from JSON; also as it once was kept.

    When parts were read one after the other, that was (passes done, parts of this pass done,
    episodes of the next one done). Later positions lacked `given`; any but the start is of data
    that were enough to go on without end.

    Raises:
      ValueError, TypeError, IndexError: if it is neither.
    """
    if isinstance(saved[1], int):
        pass_, part, episodes = map(int, saved)
        nth = pass_ * num_parts + part
        if not episodes:
            return Place(start=StreamPosition(nth))
        return Place(start=StreamPosition(nth + 1, (OpenPart(nth, episodes),)))
    period, (opened, open_, skip, *given), *rest = saved
    start = StreamPosition(
        int(opened),
        tuple(OpenPart(*map(int, part)) for part in open_),
        int(skip),
        int(given[0] if given else sys.maxsize if opened else 0),
    )
    return Place(int(period), start, *map(int, rest))


class Writers(NamedTuple):
    """Writers at work.

    Attributes:
      check: raises the first error of any of them.
      filled: (segments that the windows hold, segments that they will hold) of each game.
      place: the place of a game from which its draws go on, so many draws after the first of these
        writers; None: after all so far.
    """

    check: Callable[[], None]
    filled: Callable[[], dict[str, tuple[int, int]]]
    place: Callable[[str, int | None], Place]


class _Stopped(Exception):
    """A thread was told to stop."""


class _Progress:
    """The progress of a writer's thread, read by other threads."""

    def __init__(self, place: Place, size: int):
        self._first, self._lock = place, threading.Lock()
        self._starts = {place.period: place.start}
        self._size = 0
        self.filled = (0, size)
        self.drawn = 0

    def note(self, period: int, size: int, start: StreamPosition) -> None:
        with self._lock:
            self._size, self.filled = size, (size, size)
            self._starts[period] = start

    def place(self, drawn: int | None) -> Place:
        with self._lock:
            drawn = self.drawn if drawn is None else drawn
            if not self._size:
                return self._first
            periods, rest = divmod(self._first.drawn + drawn, self._size)
            period = self._first.period + periods
            if period not in self._starts:  # all of the last one is drawn, the next not begun
                period, rest = period - 1, rest + self._size
            for past in [number for number in self._starts if number < period]:
                del self._starts[past]
            return Place(period, self._starts[period], rest)


@contextmanager
def stream(
    replay: Replay,
    parts: Mapping[str, Sequence[Part]],
    *,
    discount: float,
    seed: int,
    transitions_per_game: int,
    samples_per_insert: float = 8.0,
    parts_at_once: int = 4,
    places: Mapping[str, Place] | None = None,
) -> Iterator[Writers]:
    """Writes for as long as the context lasts.

    Nothing of a game is drawn before its window is full (or holds all of its data), so draws
    come from the whole window from the first one on, also where a run goes on: then its window is
    read again from where it began.

    Args:
      replay: where to.
      parts: what each game's data are made of.
      discount: gamma.
      seed: decides the order of parts and draws.
      transitions_per_game: of a window (rounded to whole segments of 16).
      samples_per_insert: how often each of them is drawn before newer data replace it.
      parts_at_once: of a game, that are open at a time.
      places: where to begin; a game that it lacks begins at the start.

    Yields:
      The writers. The first error of one is raised on leaving, too: it takes the place of whatever
      followed from it.

    Raises:
      UserError: if a game has no valid transition.
    """
    stop, decoders = threading.Event(), ThreadPoolExecutor(_DECODERS, "decode")
    errors: list[Exception] = []
    begin = {game: (places or {}).get(game, Place()) for game in replay.games}
    size = max(transitions_per_game // ROWS, 1)
    progress = {game: _Progress(begin[game], size) for game in replay.games}

    def check() -> None:
        if errors:
            raise errors[0]

    def encode_next(episodes: Iterator[Episode], wanted: bool) -> list[PackedSegment] | None:
        if stop.is_set():
            raise _Stopped
        episode = next(episodes, None)
        if episode is None or not wanted:
            return None if episode is None else []
        padded = pad(episode, replay.n_step, discount)
        del episode
        return list(pack_segments(padded, replay.n_step))

    def take(episodes: Iterator[Episode], wanted: bool) -> list[PackedSegment] | None:
        return decoders.submit(encode_next, episodes, wanted).result()

    def segments(game: str) -> Iterator[tuple[bytes, StreamPosition]]:
        found = interleave(
            parts[game], begin[game].start,
            at_once=parts_at_once, enough=size, seed=seed, game=game, take=take,
        )  # fmt: skip
        for nth, segment in enumerate(found, 1):
            progress[game].filled = (min(nth, size), size)
            yield segment

    def run(game: str) -> None:
        try:
            draws = window.draws(
                segments(game), size=size, times=samples_per_insert, seed=seed, game=game,
                period=begin[game].period, note=progress[game].note,
            )  # fmt: skip
            _write(replay, game, draws, skip=begin[game].drawn, progress=progress[game], stop=stop)
        except _Stopped:
            pass
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(game,), name=f"write-{game}", daemon=True)
        for game in replay.games
    ]
    for thread in threads:
        thread.start()
    try:
        yield Writers(
            check,
            lambda: {game: mine.filled for game, mine in progress.items()},
            lambda game, drawn: progress[game].place(drawn),
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        decoders.shutdown()
        check()


def wait_until_filled(writers: Writers, should_stop: Callable[[], bool]) -> None:
    """Waits until every window is full, and shows how far they are.

    Raises:
      KeyboardInterrupt: if told to stop before.
      Exception: as `Writers.check`.
    """
    total = sum(size for _, size in writers.filled().values()) * ROWS
    with Progress("filling the replay", "transitions", total) as line:
        while True:
            writers.check()
            if should_stop():
                raise KeyboardInterrupt
            filled = writers.filled().values()
            line.show(sum(held for held, _ in filled) * ROWS)
            if all(held == size for held, size in filled):
                return
            time.sleep(_POLL_SECONDS)


def _write(
    replay: Replay,
    game: str,
    draws: Iterator[bytes],
    *,
    skip: int,
    progress: _Progress,
    stop: threading.Event,
) -> None:
    writer = reverb.Client(replay.address).trajectory_writer(num_keep_alive_refs=1)
    nth = -1
    try:
        for nth, packed in enumerate(draws):
            if nth >= skip:
                _insert(writer, game, packed, stop)
                progress.drawn = nth + 1 - skip
        if nth < 0:
            raise UserError(
                f"no transition of {game} in the data (n_step={replay.n_step}): give files with "
                f"episodes longer than {replay.n_step} steps, or leave the game out."
            )
    finally:
        writer.close()


def _insert(
    writer: reverb.TrajectoryWriter, game: str, packed: bytes, stop: threading.Event
) -> None:
    """Puts a segment into the queue; waits while it is full, and raises if told to stop."""
    writer.append({"segment": np.array(packed, object)})
    item = {"segment": writer.history["segment"][-1]}
    writer.create_item(game, priority=1.0, trajectory=item)
    if not tables.flush(writer, _PENDING, stop.is_set):
        raise _Stopped
