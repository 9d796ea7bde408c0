"""Host keys: which known_hosts file has a node's key, if any."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from hyperflow.config import Settings
from hyperflow.transports.ssh import known_hosts_files
from hyperflow.transports.ssh_advice import KnownKeys, files_that_know

FETCH_SECONDS = 5.0
"""Timeout for fetching a node's host key, in seconds."""


async def known_keys(node: str, settings: Settings) -> KnownKeys:
    """Look a node up in the known_hosts files, in the same way as the ssh transport does."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    name, host, port = node, node, settings.ssh_port or 22
    with contextlib.suppress(OSError, ValueError, asyncssh.Error):  # asyncssh may not read the user's configuration
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


async def shown_key(node: str, settings: Settings) -> str:
    """Return the fingerprint of a node's host key, "" if it does not send one in time. This needs no login."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    try:
        async with asyncio.timeout(FETCH_SECONDS):
            key = await asyncssh.get_server_host_key(node, settings.ssh_port or ())
    except (OSError, asyncssh.Error, TimeoutError, ValueError):
        return ""
    return f"{key.algorithm.decode()} {key.get_fingerprint()}" if key is not None else ""
