"""The replay's queues: a Reverb server in this process with one table a game.

Reverb can't be bound to loopback: the server listens on all interfaces, without authentication.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf

from cql_atari.system import ports

RECORD = "record"  # the table that says what a server of recorded play serves
QUEUE = 64  # drawn segments that wait for a reader


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
def serve_draws(
    games: Sequence[str],
    *,
    n_step: int,
    port: int = 0,
    record: Mapping[str, Any] | None = None,
) -> Iterator[Replay]:
    """Runs the server for as long as the context lasts.

    Each table is a queue, read first in, first out, each segment once: what is drawn, and how
    often, its writer decides. So two runs read the same, and several readers share the draws.

    Args:
      games: names of the tables.
      n_step: the n of the transitions.
      port: to listen on; 0: any free one.
      record: what other processes are told of it, JSON-ready; see `read_record`.

    Raises:
      UserError: if the port is taken.
    """
    signature = {"segment": tf.TensorSpec((), tf.string)}
    tables = [reverb.Table.queue(game, QUEUE, signature=signature) for game in games]
    if record is not None:
        tables.append(
            reverb.Table(
                name=RECORD,
                sampler=reverb.selectors.Fifo(),
                remover=reverb.selectors.Fifo(),
                max_size=1,
                rate_limiter=reverb.rate_limiters.MinSize(1),
            )
        )
    if port:
        ports.check_free(port)
    server = reverb.Server(tables, port=port or None)
    ports.warn_if_open(server.port)
    address = f"localhost:{server.port}"
    try:
        if record is not None:
            text = np.array(json.dumps(record).encode(), object)
            reverb.Client(address).insert([text], {RECORD: 1.0})
        with ExitStack() as readers:
            yield Replay(address, tuple(games), n_step, readers)
    finally:
        server.stop()


def read_record(client: reverb.Client) -> Any:
    """The record of a server that has the table."""
    return json.loads(bytes(next(client.sample(RECORD))[0].data[0].item()))
