"""Host keys: which file vouches for a node, if any."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from hyperflow.config import Settings
from hyperflow.transports.ssh import known_hosts_files
from hyperflow.transports.ssh_advice import KnownKeys, files_that_know

FETCH_SECONDS = 5.0
"""Seconds to ask a node for the key that it shows."""


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


async def shown_key(node: str, settings: Settings) -> str:
    """Return the fingerprint of the key that a node shows, "" if it shows none soon. Nobody logs in for this."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    try:
        async with asyncio.timeout(FETCH_SECONDS):
            key = await asyncssh.get_server_host_key(node, settings.ssh_port or ())
    except (OSError, asyncssh.Error, TimeoutError, ValueError):
        return ""
    return f"{key.algorithm.decode()} {key.get_fingerprint()}" if key is not None else ""
