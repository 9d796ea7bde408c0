"""The port at which a pool listens: as the user says it, as a socket, and how others call it.

A port by itself means all IPv4 addresses of this machine: who says `listen=` wants to be reached from elsewhere, often
from a network of its own (containers, pods), and nobody is let in without the key. "address:port" means just that one.
"""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

from hyperflow.errors import ConfigurationError

ALL = "0.0.0.0"
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})")
_NOWHERE = "192.0.2.1"  # reserved for documentation: nothing is sent there
_LARGEST = 65535


class Address(NamedTuple):
    """Where to listen; port 0 for a free one."""

    host: str
    port: int


def parse(value: object) -> Address:
    """Return what `listen=` means; raises ConfigurationError."""
    host, port = ALL, -1
    if isinstance(value, int) and not isinstance(value, bool):
        port = value
    elif isinstance(value, str) and value.strip().isdigit():
        port = int(value)
    elif isinstance(value, str) and (match := _ADDRESS.fullmatch(value.strip())):
        host, port = match[1] or match[2], int(match[3])
    if not 0 <= port <= _LARGEST:
        raise ConfigurationError(
            f'NodePool(listen={value!r}): a port is needed, or an address with a port: 0, 7070, "10.0.0.5:7070"'
        )
    return Address(host, port)


def bind(address: Address) -> socket.socket:
    """Return a socket that has the port; raises ConfigurationError."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
        except BaseException:
            sock.close()
            raise
    except (OSError, UnicodeError) as error:  # the second: what can be no name of a host
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"NodePool(listen=...): cannot listen at {address.host} port {address.port}: {why}; 0 takes a free port"
        ) from error
    return sock


def names(host: str) -> tuple[str, ...]:
    """Return how other machines may call this one, which listens at that address."""
    if host != ALL:
        return (host,)
    found = [socket.gethostname()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((_NOWHERE, 9))  # the kernel chooses the address by which one leaves this machine
            found.append(sock.getsockname()[0])
        except OSError:  # there is no way out
            found.append("127.0.0.1")
    return tuple(dict.fromkeys(found))
