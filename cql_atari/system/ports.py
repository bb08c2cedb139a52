"""Ports of servers: whether one is free, one answers, and a warning of who can reach it."""

from __future__ import annotations

import ipaddress
import itertools
import socket

import psutil
from absl import logging

from cql_atari.core.types import UserError


def check_free(port: int) -> None:
    """Refuses a port that is taken: Reverb would silently share it with another server.

    Raises:
      UserError: if another server listens there, or the port is reserved.
    """
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(
            f"can't listen on port {port}: {error.strerror}. Choose another one (serve_replay: "
            "--port; an online run: online.port), or stop what listens there."
        ) from error


def reach(address: str, seconds: float) -> None:
    """Connects to a server, and closes again.

    Args:
      address: "host:port", or "[host]:port" as IPv6 has it.
      seconds: how long to try.

    Raises:
      OSError: where none answers, or the host's name is none.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except UnicodeError as error:
        raise OSError(f"{host} is no host's name") from error


def warn_if_open(port: int) -> None:
    """Warns if others can reach a port that is open on every interface; names public addresses."""
    found = [a for a in map(ipaddress.ip_address, _own_addresses()) if not a.is_loopback]
    if public := [str(address) for address in found if address.is_global]:
        logging.warning(
            "Reverb listens on port %d of PUBLIC addresses (%s), without authentication: close the "
            "port in the firewall to all but this run's hosts", port, ", ".join(public)
        )  # fmt: skip
    elif found:
        logging.warning("Reverb listens on port %d of every interface, open to all", port)


def _own_addresses() -> list[str]:
    """IPv4 and IPv6 addresses of this host's interfaces."""
    families = (socket.AF_INET, socket.AF_INET6)
    every = itertools.chain.from_iterable(psutil.net_if_addrs().values())
    return [one.address for one in every if one.family in families]
