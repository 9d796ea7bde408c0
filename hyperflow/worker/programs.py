"""The worker's end of what an evaluation starts on its other nodes (head/ranks.py): by itself, or for an agent.

An agent (rank_agent.py) is what mpirun runs in the place of ssh. It connects to a socket of ours that has a name of its
own and is in no directory (`unix(7)`: abstract), so that no path is too long for it; the kernel says whose it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hyperflow.wire import messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import RanksEnded, RanksWanted
from hyperflow.worker.lock_client import LockClient

ENDED = 10.0
"""Seconds to wait for programs on other nodes that are to end."""

LONGEST = 1 << 24
"""Bytes of what an agent asks for; most of it is its environment."""

_serials = itertools.count(1)


class Programs:
    """The programs of one evaluation on other nodes, for a scope (`opened`).

    Args:
        secret: What the name of the socket is made of, and agents have in their environment.
        portable: Returns those variables that mean on another node what they mean here.
    """

    def __init__(
        self, client: LockClient, secret: str, portable: Callable[[Mapping[str, str]], dict[str, str]]
    ) -> None:
        self._client = client
        self._secret = secret
        self._portable = portable
        self._running: dict[int, tuple[str, asyncio.Future[RanksEnded]]] = {}

    def start(
        self, node: str, argv: Sequence[str], cwd: str, variables: Mapping[str, str]
    ) -> tuple[int, asyncio.Future[RanksEnded]]:
        """Start a program on another node; return its number, and what gets its end."""
        serial = next(_serials)
        ended: asyncio.Future[RanksEnded] = asyncio.get_running_loop().create_future()
        self._running[serial] = node, ended
        self._say(serial, node, argv, cwd, self._portable(variables))
        return serial, ended

    def stop(self, serial: int) -> None:
        """Let it end, if it runs."""
        if serial in self._running:
            self._say(serial, self._running[serial][0])

    def _say(
        self,
        serial: int,
        node: str,
        argv: Sequence[str] = (),
        cwd: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._client.say(RanksWanted(self._client.task, serial, node, tuple(argv), cwd, dict(variables or {})))

    def _on_ended(self, body: memoryview) -> None:
        ended = messages.read(RanksEnded, body)
        _, waiting = self._running.pop(ended.serial, (None, None))
        if waiting is not None and not waiting.done():
            waiting.set_result(ended)

    async def _on_agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An agent asks for a program; the end of its stream ends that."""
        with contextlib.closing(writer), contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", peer)[1] != os.getuid():
                return
            wanted: Any = json.loads(await reader.readline())
            serial, ended = self.start(wanted["node"], wanted["argv"], wanted["cwd"], wanted["environment"])
            gone: asyncio.Future[bytes] = asyncio.ensure_future(reader.read())
            await asyncio.wait((gone, ended), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self.stop(serial)
            gone.cancel()
            _, status, text = await ended
            writer.write(json.dumps([status, text]).encode() + b"\n")
            await writer.drain()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Take orders of agents within a scope, and end all programs with it."""
        self._client.at_once[Kind.RANKS_ENDED] = self._on_ended
        try:
            with self._client.listening():
                server = await asyncio.start_unix_server(self._on_agent, f"\0hyperflow-{self._secret}", limit=LONGEST)
                try:
                    yield
                finally:
                    server.close()
                    await self._end_all()
        finally:
            del self._client.at_once[Kind.RANKS_ENDED]

    async def _end_all(self) -> None:
        """Wait until nothing is left, also if this is cancelled meanwhile."""
        cancelled: asyncio.CancelledError | None = None
        deadline = asyncio.get_running_loop().time() + ENDED
        for serial in list(self._running):
            self.stop(serial)
        while waiting := [ended for _, ended in self._running.values()]:
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.wait(waiting)
            except asyncio.CancelledError as error:
                cancelled = error
            except TimeoutError:
                break  # of a node that hangs; the head ends them when this worker ends, or that node does
        if cancelled is not None:
            raise cancelled
