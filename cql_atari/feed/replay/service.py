"""The replay's queues: a Reverb server in this process with one table a game.

Reverb can't be bound to loopback: the server listens on all interfaces, without authentication.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf
from absl import logging

from cql_atari.core.types import UserError

RECORD = "record"  # the table that says what a server of recorded play serves
_SIOCGIFADDR = 0x8915
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
def serve(
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
