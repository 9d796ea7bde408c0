"""Host keys: which file vouches for a node, if any."""

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
"""Seconds to ask a node for the key that it shows."""


@attrs.frozen
class KnownKeys:
    """What is known about a node's host key.

    Args:
        host: The name under which it is looked up: the user's ssh configuration may give a node another one.
        port: The port; names of others than 22 are written `[host]:port`.
        files: The files of known hosts that have a key of it, or of who vouches for it.
        pinned: The one file whose keys count, if the configuration names one.
    """

    host: str
    port: int
    files: tuple[str, ...]
    pinned: str = ""

    @property
    def places(self) -> list[str]:
        """The files as one types them."""
        return [typed(path) for path in self.files]

    @property
    def entry(self) -> str:
        """The node's name as it is written in such a file."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


def typed(path: str) -> str:
    """Return a path as one types it into a shell: with ~ for the home directory."""
    home = os.path.expanduser("~/")
    if path.startswith(home):
        return "~/" + shlex.quote(path.removeprefix(home))
    return shlex.quote(path)


async def known_keys(node: str, settings: Settings) -> KnownKeys:
    """Look a node up in the files of known hosts, in the same way as the ssh transport does."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    name, host, port = node, node, settings.ssh_port or 22
    with contextlib.suppress(OSError, ValueError, asyncssh.Error):  # the user's configuration may be beyond asyncssh
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
    """Return those of the files that have a key for a host, or of who vouches for it."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    knowing: list[str] = []
    for path in files:
        known = asyncssh.import_known_hosts("")
        with contextlib.suppress(OSError):  # what cannot be read vouches for nobody
            for line in Path(path).read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):  # nor does a damaged line
                    known.load(line)
        if any(asyncssh.match_known_hosts(known, host, address, port)[:2]):
            knowing.append(path)
    return knowing


async def shown_key(node: str, settings: Settings) -> str:
    """Return the fingerprint of the key that a node shows, "" if it shows none soon. Nobody logs in for this."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    try:
        async with asyncio.timeout(FETCH_SECONDS):
            key = await asyncssh.get_server_host_key(node, settings.ssh_port or ())
    except (OSError, asyncssh.Error, TimeoutError, ValueError):
        return ""
    return f"{key.algorithm.decode()} {key.get_fingerprint()}" if key is not None else ""
