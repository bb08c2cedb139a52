"""Streams episodes into the replay's tables: one background thread a game."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import reverb

from cql_atari.feed.replay_service import Replay
from cql_atari.feed.segments import pack
from cql_atari.feed.transitions import block
from cql_atari.types import Episode, UserError

_PENDING = 32  # segments a writer may be ahead of its table
_PATIENCE_MS = 200  # how soon a writer that waits for the learner sees that it should stop


@contextmanager
def stream(
    replay: Replay, episodes: Mapping[str, Callable[[], Iterable[Episode]]], *, discount: float
) -> Iterator[Callable[[], None]]:
    """Writes for as long as the context lasts; the games' threads fill their tables together.

    A game's episodes are written once if they fit in its table (or as whole passes until it is
    ready to be drawn from); otherwise over and over, as a window that slides over the data.

    Args:
      replay: where to.
      episodes: for each game, a function that starts a pass over its episodes.
      discount: gamma.

    Yields:
      `check()`, which raises the first error of a writer. It is called on leaving, too, so an
      error of a writer takes the place of whatever followed from it.

    Raises:
      UserError: if a game has no valid transition.
    """
    stop = threading.Event()
    errors: list[Exception] = []

    def check() -> None:
        if errors:
            raise errors[0]

    def run(game: str) -> None:
        try:
            _write(replay, game, episodes[game], discount, stop)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(game,), name=f"write-{game}", daemon=True)
        for game in replay.games
    ]
    for thread in threads:
        thread.start()
    try:
        yield check
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        check()


def _write(
    replay: Replay,
    game: str,
    start_pass: Callable[[], Iterable[Episode]],
    discount: float,
    stop: threading.Event,
) -> None:
    client = reverb.Client(replay.address)
    table = client.server_info()[game]
    writer = client.trajectory_writer(num_keep_alive_refs=1)
    written = 0
    try:
        while not table.rate_limiter_info.min_size_to_sample <= written <= table.max_size:
            for episode in start_pass():
                for packed, rows in pack(block(episode, replay.n_step, discount), replay.n_step):
                    writer.append({"segment": np.array(packed, object)})
                    item = {"segment": writer.history["segment"][-1]}
                    writer.create_item(game, priority=float(rows), trajectory=item)
                    if not _flush(writer, _PENDING, stop):
                        return
                    written += 1
            if not written:
                raise UserError(
                    f"no transition of {game} in the data (n_step={replay.n_step}): give files "
                    f"with episodes longer than {replay.n_step} steps, or leave the game out."
                )
        _flush(writer, 0, stop)
    finally:
        writer.close()


def _flush(writer: reverb.TrajectoryWriter, pending: int, stop: threading.Event) -> bool:
    """Waits until at most `pending` items are unconfirmed; False if told to stop before."""
    while not stop.is_set():
        try:
            writer.flush(pending, timeout_ms=_PATIENCE_MS)
            return True
        except reverb.errors.DeadlineExceededError:
            pass
    return False
