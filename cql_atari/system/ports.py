"""Ports of servers: whether one is free, and a warning of who can reach it."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from absl import logging

from cql_atari.core.types import UserError

_SIOCGIFADDR = 0x8915


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
