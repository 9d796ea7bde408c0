"""Host keys: which known_hosts file has a node's key, if any."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path

import attrs

from hyperflow.config import Settings
from hyperflow.transports.ssh import known_hosts_files

FETCH_SECONDS = 5.0
"""Timeout for fetching a node's host key, in seconds."""


@attrs.frozen
class KnownKeys:
    """What is known about a node's host key.

    Args:
        host: The name to look up: the user's ssh configuration may give the node another one.
        port: The port; with a port other than 22 the entry is `[host]:port`.
        files: The known_hosts files that have its key, or that of a certificate authority for it.
        pinned: The only file that counts, if the configuration names one.
    """

    host: str
    port: int
    files: tuple[str, ...]
    pinned: str = ""

    @property
    def places(self) -> list[str]:
        """The files as users type them."""
        return [typed(path) for path in self.files]

    @property
    def entry(self) -> str:
        """The node's name as known_hosts files write it."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


def typed(path: str) -> str:
    """Return a path as users type it into a shell: with ~ for the home directory."""
    home = os.path.expanduser("~/")
    if path.startswith(home):
        return "~/" + shlex.quote(path.removeprefix(home))
    return shlex.quote(path)


async def known_keys(node: str, settings: Settings) -> KnownKeys:
    """Look a node up in the known_hosts files, in the same way as the ssh transport does."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    name, host, port = node, node, settings.ssh_port or 22
    with contextlib.suppress(
        OSError, ValueError, asyncssh.Error
    ):  # asyncssh may not understand the user's configuration
        options = asyncssh.SSHClientConnectionOptions(host=node, port=settings.ssh_port or ())
        host, port = options.host or node, options.port or 22
        name = options.host_key_alias or host
    address = ""
    with contextlib.suppress(OSError):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        address = str(found[0][4][0])
    return KnownKeys(
        name,
        port,
        tuple(files_that_know(name, address, port, known_hosts_files(settings.known_hosts))),
        settings.known_hosts,
    )


def files_that_know(host: str, address: str, port: int, files: Sequence[str]) -> list[str]:
    """Return those files that have a key of the host, or of a certificate authority for it."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    knowing: list[str] = []
    for path in files:
        known = asyncssh.import_known_hosts("")
        with contextlib.suppress(OSError):  # a file that cannot be read has no keys
            for line in Path(path).read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):  # nor has a damaged line
                    known.load(line)
        if any(asyncssh.match_known_hosts(known, host, address, port)[:2]):
            knowing.append(path)
    return knowing


async def shown_key(node: str, settings: Settings) -> str:
    """Return the fingerprint of a node's host key, "" if it does not send one in time. This needs no login."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    try:
        async with asyncio.timeout(FETCH_SECONDS):
            key = await asyncssh.get_server_host_key(node, settings.ssh_port or ())
    except (OSError, asyncssh.Error, TimeoutError, ValueError):
        return ""
    return f"{key.algorithm.decode()} {key.get_fingerprint()}" if key is not None else ""
