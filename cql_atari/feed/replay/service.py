"""The replay's tables: a Reverb server in this process with one table a game.

Reverb can't be bound to loopback: the server listens on all interfaces, without authentication.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf
from absl import logging

from cql_atari.core.types import UserError
from cql_atari.feed.replay.segments import ROWS

RECORD = "record"  # the table that says what a server of recorded play serves
_SIOCGIFADDR = 0x8915
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
    games: Sequence[str],
    *,
    n_step: int,
    transitions_per_game: int,
    samples_per_insert: float = 8.0,
    port: int = 0,
    record: Mapping[str, Any] | None = None,
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
      port: to listen on; 0: any free one.
      record: what other processes are told of it, JSON-ready; see `read_record`.

    Raises:
      UserError: if the port is taken.
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
        check_free(port)
    server = reverb.Server(tables, port=port or None)
    warn_if_open(server.port)
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


def check_free(port: int) -> None:
    """Reverb would share a port with another server without a word.

    Raises:
      UserError: if something listens there, or nobody may.
    """
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(
            f"can't listen on port {port}: {error.strerror}. Choose another one (serve_replay: "
            "--port; an online run: online.port), or stop what listens there."
        ) from error


def warn_if_open(port: int) -> None:
    """Warns of others who can reach a port that is open on every interface; names public ones."""
    found = [a for a in map(ipaddress.ip_address, _own_addresses()) if not a.is_loopback]
    if public := [str(address) for address in found if address.is_global]:
        logging.warning(
            "Reverb listens on port %d of PUBLIC addresses (%s), without authentication: close the "
            "port in the firewall to all but this run's hosts", port, ", ".join(public)
        )  # fmt: skip
    elif found:
        logging.warning("Reverb listens on port %d of every interface, open to all", port)


def _own_addresses() -> Iterator[str]:
    """IPv4 and IPv6 addresses of this host's interfaces."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an IPv4 address
                request = struct.pack("256s", name.encode())
                reply = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
                yield socket.inet_ntoa(reply[20:24])
    with suppress(OSError):  # a kernel without IPv6
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            yield socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0]))
