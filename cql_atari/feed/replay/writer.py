"""Streams episodes into the replay's tables: one background thread a game.

Each pass of a game goes over its parts in an order of its own (`feed.order`), part after part,
opening one at a time. An episode is compressed into segments before its thread waits for the table,
by one of `_DECODERS` threads, which alone hold frames. So memory, however much data there are, is
at most that of the tables and

* `_DECODERS` episodes, twice each (read, padded): 1.5 GB if all had 27,000 steps, the reader's
  longest; 80 MB at the 1,400 steps that are usual;
* for each game its compressed episode and `_PENDING` segments (0.4 KB a step or so), and what its
  reader keeps (`.gz`: 5 MB of buffers, 9 MB of columns for a million slots).
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import reverb

from cql_atari.core.types import Episode, UserError
from cql_atari.feed.replay.order import Part, Place, order
from cql_atari.feed.replay.segments import ROWS, pack
from cql_atari.feed.replay.service import Replay
from cql_atari.feed.transitions import block, count

_DECODERS = 4  # each has an arena of the allocator, so few of them keep its leftovers few, too
_PENDING = 32  # segments a writer may be ahead of its table
_PATIENCE_MS = 200  # how soon a writer that waits for the learner sees that it should stop

Segments = list[tuple[bytes, int]]  # what `segments.pack` yields of one episode


class Writers(NamedTuple):
    """Writers at work.

    Attributes:
      check: raises the first error of any of them.
      places: where each game's stands, for `stream` to go on from.
    """

    check: Callable[[], None]
    places: Callable[[], dict[str, Place]]


@contextmanager
def stream(
    replay: Replay,
    parts: Mapping[str, Sequence[Part]],
    *,
    discount: float,
    seed: int,
    places: Mapping[str, Place] | None = None,
) -> Iterator[Writers]:
    """Writes for as long as the context lasts; the games' threads fill their tables together.

    A game that is known to fit in its table is written once from the start, wherever its place was
    (or as whole passes until it is ready to be drawn from). Any other is written over and over, as
    a window that slides over the data from its place on: earlier parts aren't opened, earlier
    episodes of the same part are read over. An episode is written when the last of its segments is
    on its way to the table, so no window is repeated; what an interrupted learner had yet to draw
    of the old one isn't made up for.

    Args:
      replay: where to.
      parts: what each game's data are made of.
      discount: gamma.
      seed: decides the order of the parts.
      places: where the writers begin; a game that it lacks begins at the start.

    Yields:
      The writers. The first error of one is raised on leaving, too: it takes the place of whatever
      followed from it.

    Raises:
      UserError: if a game has no valid transition.
    """
    stop, decoders = threading.Event(), ThreadPoolExecutor(_DECODERS, "decode")
    errors: list[Exception] = []
    current = {game: (places or {}).get(game, Place()) for game in replay.games}

    def check() -> None:
        if errors:
            raise errors[0]

    def encode_next(episodes: Iterator[Episode], wanted: bool) -> Segments | None:
        episode = next(episodes, None)
        if episode is None or not wanted:
            return None if episode is None else []
        padded = block(episode, replay.n_step, discount)
        del episode
        return list(pack(padded, replay.n_step))

    def take(episodes: Iterator[Episode], wanted: bool) -> Segments | None:
        return decoders.submit(encode_next, episodes, wanted).result()

    def run(game: str) -> None:
        def start_pass(place: Place) -> Iterator[tuple[Place, Segments]]:
            ordered = order(len(parts[game]), seed=seed, game=game, pass_=place.pass_)
            return _read_pass([parts[game][i] for i in ordered], place, take)

        try:
            _write(
                replay, game, parts=parts[game], start_pass=start_pass, places=current, stop=stop
            )
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(game,), name=f"write-{game}", daemon=True)
        for game in replay.games
    ]
    for thread in threads:
        thread.start()
    try:
        yield Writers(check, lambda: dict(current))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        decoders.shutdown()
        check()


def _read_pass(
    parts: Sequence[Part],
    start: Place,
    take: Callable[[Iterator[Episode], bool], Segments | None],
) -> Iterator[tuple[Place, Segments]]:
    """The rest of a pass, compressed: each episode with the place that follows it.

    Args:
      parts: in the order of the pass.
      start: where to begin; episodes that are read over come without segments.
      take: reads the next episode and compresses it, if it is wanted; None after the last.
    """
    skipped = start.episode
    for nth in range(start.part, len(parts)):
        episodes = iter(parts[nth].read())
        for number in itertools.count(1):
            segments = take(episodes, number > skipped)
            if segments is None:
                break
            yield Place(start.pass_, nth, max(number, skipped)), segments
        skipped = 0
        yield Place(start.pass_, nth + 1), []


def _write(
    replay: Replay,
    game: str,
    *,
    parts: Sequence[Part],
    start_pass: Callable[[Place], Iterator[tuple[Place, Segments]]],
    places: dict[str, Place],
    stop: threading.Event,
) -> None:
    client = reverb.Client(replay.address)
    table = client.server_info()[game]
    fits = _fit(parts, replay.n_step, table.max_size)
    enough = table.rate_limiter_info.min_size_to_sample if fits else math.inf
    place = Place() if fits else places[game]
    writer = client.trajectory_writer(num_keep_alive_refs=1)
    written = 0
    try:
        while written < enough:
            whole, before = place == Place(place.pass_), written
            for after, segments in start_pass(place):
                if not _insert(writer, game, segments, stop):
                    return
                written += len(segments)
                places[game] = Place() if fits else after
            if whole and written == before:
                raise UserError(
                    f"no transition of {game} in the data (n_step={replay.n_step}): give files "
                    f"with episodes longer than {replay.n_step} steps, or leave the game out."
                )
            place = Place(place.pass_ + 1)
        _flush(writer, 0, stop)
    finally:
        writer.close()


def _fit(parts: Sequence[Part], n_step: int, segments: int) -> bool:
    """Whether all parts are known to fit in a table of so many segments."""
    total = 0
    for part in parts:
        extents = part.survey() if total <= segments else None
        if extents is None:
            return False
        total += sum(-(-count(extent, n_step) // ROWS) for extent in extents)
    return total <= segments


def _insert(
    writer: reverb.TrajectoryWriter, game: str, segments: Segments, stop: threading.Event
) -> bool:
    """Writes an episode's segments; False if told to stop before."""
    for packed, rows in segments:
        writer.append({"segment": np.array(packed, object)})
        item = {"segment": writer.history["segment"][-1]}
        writer.create_item(game, priority=float(rows), trajectory=item)
        if not _flush(writer, _PENDING, stop):
            return False
    return not stop.is_set()


def _flush(writer: reverb.TrajectoryWriter, pending: int, stop: threading.Event) -> bool:
    """Waits until at most `pending` items are unconfirmed; False if told to stop before."""
    while not stop.is_set():
        try:
            writer.flush(pending, timeout_ms=_PATIENCE_MS)
            return True
        except reverb.errors.DeadlineExceededError:
            pass
    return False
