"""The replay's queues: a Reverb server in this process with one table per game."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import reverb
import tensorflow as tf

from cql_atari.feed import tables

RECORD = "record"  # the table that says what a server of recorded play serves
QUEUE = 64  # drawn segments that wait for a reader
SIGNATURE = {"segment": tf.TensorSpec((), tf.string)}  # of the queues' items


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
      record: a description for other processes, ready for JSON; see `read_record`.

    Raises:
      UserError: if the port is taken.
    """
    served = [reverb.Table.queue(game, QUEUE, signature=SIGNATURE) for game in games]
    if record is not None:
        served.append(tables.newest(RECORD))
    with tables.serve(served, port) as address:
        if record is not None:
            tables.put_text(reverb.Client(address), RECORD, json.dumps(record))
        with ExitStack() as readers:
            yield Replay(address, tuple(games), n_step, readers)


def read_record(client: reverb.Client) -> Any:
    """The record of a server that has the table."""
    return json.loads(tables.get_text(client, RECORD))
