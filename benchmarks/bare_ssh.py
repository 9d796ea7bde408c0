"""A bare asyncssh channel to a node: what ssh itself costs, without hyperflow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncssh

from benchmarks.on_cluster import node
from hyperflow.transports.ssh import ciphers


class Stream(asyncssh.SSHClientSession[bytes]):
    """A session that collects what comes."""

    def __init__(self) -> None:
        self.received = bytearray()
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, chan: Any) -> None:
        """The session is there."""
        self.channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002 (asyncssh has it so)
        """Bytes have come."""
        self.received += data
        if self._waiter is not None and len(self.received) >= self._wanted:
            self._waiter.set_result(None)
            self._waiter = None

    def pause_writing(self) -> None:
        """Asyncssh holds enough."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Asyncssh has room again."""
        self._room.set()

    async def send(self, data: bytes | memoryview, piece: int = 1 << 18) -> None:
        """Send bytes, in pieces, as fast as asyncssh takes them."""
        for start in range(0, len(data), piece):
            self.channel.write(data[start : start + piece])
            await self._room.wait()

    async def receive(self, count: int) -> bytearray:
        """Wait until so many bytes have come, and return them."""
        if len(self.received) < count:
            self._wanted = count
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        taken, self.received = self.received, bytearray()
        return taken


@asynccontextmanager
async def channel(command: str) -> AsyncIterator[Stream]:
    """Hold a channel to a command on the allocation's first node."""
    # With the cipher that hyperflow prefers: asyncssh's own choice is slower, and would flatter.
    async with asyncssh.connect(node(), encryption_algs=await ciphers(node())) as connection:
        stream = Stream()
        await connection.create_session(lambda: stream, command, encoding=None)
        try:
            yield stream
        finally:
            stream.channel.close()
