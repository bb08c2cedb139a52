"""The replay's tables: an in-process Reverb server with one table a game.

Reverb can't be bound to loopback: the server listens on all interfaces, without authentication.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import reverb
import tensorflow as tf
from absl import logging

from cql_atari.feed.segments import ROWS

_FIRST_FILL = 50  # a fiftieth of the window; Dopamine's DQN starts at 20,000 of 1,000,000


class Replay(NamedTuple):
    """What writers and readers must know of a replay.

    Attributes:
      address: host:port of the Reverb server.
      games: the run's list of games, which are the names of the tables.
      n_step: the n of the transitions.
      readers: closed before the server stops; a sampler of a stopped server would wait for ever.
    """

    address: str
    games: tuple[str, ...]
    n_step: int
    readers: ExitStack


@contextmanager
def serve(
    games: Sequence[str], *, n_step: int, transitions_per_game: int, samples_per_insert: float = 8.0
) -> Iterator[Replay]:
    """Runs the server for as long as the context lasts.

    A table holds the newest segments of its game and draws them in proportion to their
    transitions, so draws are uniform over transitions. Drawing starts when a table holds a fiftieth
    of the window, and never waits from then on. Writers fill the window at full speed; after
    that they wait until each segment has been drawn `samples_per_insert` times on average.

    Args:
      games: names of the tables.
      n_step: the n of the transitions.
      transitions_per_game: what each table holds (rounded to whole segments of 16).
      samples_per_insert: draws of each before newer data replace it, on average.
    """
    size = max(transitions_per_game // ROWS, 1)
    tables = [
        reverb.Table(
            name=game,
            sampler=reverb.selectors.Prioritized(priority_exponent=1.0),
            remover=reverb.selectors.Fifo(),
            max_size=size,
            rate_limiter=reverb.rate_limiters.RateLimiter(
                samples_per_insert=samples_per_insert,
                min_size_to_sample=max(size // _FIRST_FILL, 1),
                min_diff=-sys.float_info.max,
                max_diff=size * samples_per_insert,
            ),
            signature={"segment": tf.TensorSpec((), tf.string)},
        )
        for game in games
    ]
    server = reverb.Server(tables)
    if any(name != "lo" for _, name in socket.if_nameindex()):
        logging.warning("Reverb listens on port %d of every interface, open to all", server.port)
    try:
        with ExitStack() as readers:
            yield Replay(f"localhost:{server.port}", tuple(games), n_step, readers)
    finally:
        server.stop()
