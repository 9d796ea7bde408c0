"""What sends files to one node in pieces, so that whatever else goes there need not wait for more than a few of them.

Guarantees: a piece is written when the link is not full, so what is written meanwhile (a task, an order) has at most
what a stream holds (transports/process.WRITE_AHEAD) and one piece before it. The head holds one piece of each file that
goes to the node. Files that go there at the same time take turns.

Rejected: `Link.write_block`, which hands a whole block to the link: it would lie before all that follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from hyperflow.head.file_sources import Source, Unreadable
from hyperflow.head.link import Link
from hyperflow.wire import frames, messages
from hyperflow.wire.messages import FileOrder
from hyperflow.wire.numbers import NO_WORKER, DefinitionNumber

PIECE = 1 << 20
"""Bytes that are read at a time: a thread for each piece costs some 0.1 ms."""


class Sendable(Protocol):
    """A file that can be sent."""

    number: DefinitionNumber

    @property
    def size(self) -> int: ...

    @property
    def source(self) -> Source: ...


class Pump:
    """Sends files to one node."""

    def __init__(self, link: Link, broken: Callable[[DefinitionNumber, Unreadable], object]) -> None:
        self._link = link
        self._broken = broken
        self._sending: dict[DefinitionNumber, tuple[Sendable, int]] = {}  # and how much of it was sent
        self._task: asyncio.Task[None] | None = None

    def add(self, file: Sendable) -> None:
        """Send this, from its beginning."""
        # What is there of it may be from another node, with no word of how much.
        self._link.write([messages.framed(FileOrder(file.number, file.size, 0, True, ""))])
        self._sending[file.number] = file, 0
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def drop(self, number: DefinitionNumber) -> None:
        """Do not send the rest."""
        self._sending.pop(number, None)

    def close(self) -> asyncio.Task[None] | None:
        """Send nothing more; return what is to be awaited."""
        self._sending.clear()
        if self._task is not None:
            self._task.cancel()
        return self._task

    async def _run(self) -> None:
        while self._sending:
            for number, (file, at) in list(self._sending.items()):
                if not await self._link.room():
                    return
                try:
                    data = await file.source.read(at, min(PIECE, file.size - at))
                    if at + len(data) >= file.size:
                        await file.source.check()
                except Unreadable as error:
                    self._sending.pop(number, None)
                    self._broken(number, error)
                    continue
                if self._sending.get(number) == (file, at):  # else it was dropped meanwhile, or begun again
                    self._write(file, at, data)

    def _write(self, file: Sendable, at: int, data: bytes) -> None:
        for parts in frames.content(file.number, NO_WORKER, memoryview(data)):
            self._link.write(parts)
        if at + len(data) < file.size:
            self._sending[file.number] = file, at + len(data)
        else:
            del self._sending[file.number]
