"""Files on their way to nodes that do not see them: from here, or from node to node.

    worker > head      FILE_WANTED: this content, which you find there
    head > worker      a small one: its content (FILE_HERE); or where the head holds it, if they share memory
    head > launcher    FILE_COMES, and the content: from here in pieces (pump.py), or in a tree (broadcast.py)
    launcher > worker  FILE_HERE: where the launcher holds it

A file that was kept on a node (`keep="node"`) is held there while others want it, and comes from there: from node to
node, or through the head in pieces where nodes do not reach each other.

Guarantees: whoever asks gets an answer: where the file is, or why it cannot be had. A worker that has got wrong bytes
gets the file once more, from here. What nobody needs any more is forgotten after LINGER, here and on the nodes, at once
when there are more than MOST_IDLE: descriptors and memory follow what is on its way, not what has been.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from hyperflow.head.broadcast import Broadcast
from hyperflow.head.file_sources import PATIENCE, Opened, Unreadable, compared, opened
from hyperflow.head.kept_files import KeptFiles, Pulled
from hyperflow.head.later import Later
from hyperflow.head.link import Link
from hyperflow.head.node_file import NodeFile
from hyperflow.head.pump import Pump
from hyperflow.scheduling.state import Worker
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import FileHere, Kind
from hyperflow.wire.messages import FileHeld, FileHold, FileOrder, FileWanted
from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber

logger = logging.getLogger("hyperflow")

LINGER = 5.0
"""Seconds for which a file is there for others after the last one got it."""

MOST_IDLE = 64
"""Files that are there although nobody waits for them."""

MOST_OPEN = 256
"""Files on their way at a time; who wants another one waits for one of them."""

LOOK = 1.0
"""Seconds between looks at what nobody needs."""


class NodeFiles:
    """All files on their way."""

    def __init__(
        self, links: Mapping[str, Link], broadcast: Broadcast, next_number: Callable[[], DefinitionNumber]
    ) -> None:
        self.kept = KeptFiles(links)
        self._links = links
        self._broadcast = broadcast
        self._next_number = next_number
        self._files: dict[DefinitionNumber, NodeFile] = {}
        self._by_digest: dict[str, NodeFile] = {}
        self._pumps: dict[str, Pump] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held: dict[DefinitionNumber, asyncio.Future[FileHeld]] = {}
        self._room: asyncio.Future[None] | None = None
        self._dropping = Later(self._drop_idle, LOOK)
        broadcast.on_fetched = self._fetched

    # ---- who asks ---------------------------------------------------------------------------------------------------

    def wanted(self, worker: Worker, body: memoryview) -> None:
        """A worker asks for a file."""
        self._start(self._answer(worker, messages.read(FileWanted, body)))

    async def _answer(self, worker: Worker, wanted: FileWanted) -> None:
        try:
            file = await (self._get_again(wanted) if wanted.wrong else self._get(wanted))
        except Unreadable as error:
            self._refuse(worker.node, worker.number, wanted.serial, error)
            return
        file.coming -= 1
        if worker.node in self._links:
            self._give(file, worker, wanted)
        self._look_at(file)

    async def _get(self, wanted: FileWanted) -> NodeFile:
        """Return the content that is wanted, for a request that counts as coming."""
        while (file := self._by_digest.get(wanted.digest)) is None and len(self._files) >= MOST_OPEN:
            await self._until_room()
        if file is not None:
            file.coming += 1
            try:
                await asyncio.shield(file.ready)
            except BaseException:
                file.coming -= 1
                raise
            return file
        file = self._by_digest[wanted.digest] = self._new(wanted)
        return await self._open(file, wanted)

    async def _get_again(self, wanted: FileWanted) -> NodeFile:
        """Return it for one that has got something else the first time, straight from where it is."""
        file = self._new(wanted)
        file.alone = True
        await self._open(file, wanted)
        if isinstance(file.opened, Opened) and file.opened.data is None:
            try:
                await compared(file.opened, wanted.digest)
            except Unreadable as error:
                self._break(file, error)
                if (shared := self._by_digest.get(wanted.digest)) is not None:
                    self._break(shared, error)
                raise
        return file

    def _new(self, wanted: FileWanted) -> NodeFile:
        number, ready = self._next_number(), asyncio.get_running_loop().create_future()
        file = NodeFile(number, wanted.digest, wanted.size, ready, pump=self._pump)
        self._files[number] = file
        file.coming = 1
        return file

    async def _open(self, file: NodeFile, wanted: FileWanted) -> NodeFile:
        try:
            holder = self.kept.holder(wanted.digest, wanted.source)
            if holder is not None:
                await self._open_kept(file, *holder)
            else:
                file.opened = source = await opened(wanted.source, wanted.size, wanted.digest)
                if source.data is None:
                    file.place = source.place
        except BaseException as error:
            file.coming -= 1
            self._forget([file])
            if not file.ready.done():
                file.ready.set_exception(error if isinstance(error, Unreadable) else asyncio.CancelledError())
                file.ready.exception()  # maybe nobody else waits for it
            raise
        file.ready.set_result(None)
        return file

    async def _open_kept(self, file: NodeFile, node: str, path: str) -> None:
        """Have the node that has kept a file hold it for others."""
        held = self._held[file.number] = asyncio.get_running_loop().create_future()
        file.holder = node
        file.given.add(node)
        self._write(node, messages.framed(FileHold(file.number, path, file.size)))
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await held
        except TimeoutError:
            raise Unreadable(errno.ETIMEDOUT, f"{path} on {node}: no answer for {PATIENCE:.0f} s") from None
        finally:
            del self._held[file.number]
        if answer.cause:
            raise self.kept.gone(file.digest, node, answer.cause)
        link = self._links[node]
        if link.shares_memory:
            file.place = answer.pid, answer.fd
            path = f"/proc/{answer.pid}/fd/{answer.fd}"
            file.opened = await opened(path, file.size, file.digest)
        else:
            file.opened = Pulled(self.kept, node, file.number)
            if self._broadcast.enabled and not file.alone:
                self._broadcast.has(node, file.number, file)

    # ---- to the nodes -----------------------------------------------------------------------------------------------

    def _give(self, file: NodeFile, worker: Worker, wanted: FileWanted) -> None:
        """Have a worker get a content, which is open."""
        link, node, serial = self._links[worker.node], worker.node, wanted.serial
        before = self._came_from(wanted, node) if wanted.wrong else ""
        if isinstance(file.opened, Opened) and file.opened.data is not None:
            link.write([FileHere(serial, text=before, content=file.opened.data).framed(worker.number)])
            return
        if link.shares_memory and file.place is not None:
            link.write([FileHere(serial, *file.place, text=before).framed(worker.number)])
            return
        known = node in file.given
        link.write([messages.framed(FileOrder(file.number, file.size, serial, known, before), worker.number)])
        file.waiting.setdefault(node, []).append((worker.number, serial))
        if not known:
            file.given.add(node)
            if file.alone:
                self._pump(link, file)
            else:
                self._broadcast.spread(node, file.number, file)

    def _came_from(self, wanted: FileWanted, node: str) -> str:
        shared = self._by_digest.get(wanted.digest)
        parent = self._broadcast.source_of(node, shared.number) if shared is not None else ""
        return parent or "the head"

    def _pump(self, link: Link, file: NodeFile) -> None:
        pump = self._pumps.get(link.node)
        if pump is None:
            pump = self._pumps[link.node] = Pump(link, self._broken)
        pump.add(file)

    def _broken(self, number: DefinitionNumber, error: Unreadable) -> None:
        if (file := self._files.get(number)) is not None:
            self._break(file, error)

    def _break(self, file: NodeFile, error: Unreadable) -> None:
        """A content cannot be had any more: tell all who wait."""
        logger.info("a file of %s bytes cannot be sent on: %s", file.size, error.why)
        for node, waiting in file.waiting.items():
            for worker, serial in waiting:
                self._refuse(node, worker, serial, error)
        self._forget([file])

    # ---- what launchers say -----------------------------------------------------------------------------------------

    def on_message(self, node: str, kind: int, body: memoryview) -> None:
        """A launcher says something about what it gets from others, or has for them."""
        if kind == Kind.FILE_HELD:
            said = messages.read(FileHeld, body)
            held = self._held.get(DefinitionNumber(said.number))
            if held is not None and not held.done():
                held.set_result(said)
        elif kind == Kind.FILE_PIECE:
            self.kept.piece(body)
        else:
            self._broadcast.on_message(node, kind, body)

    def _fetched(self, node: str, number: DefinitionNumber, cause: str) -> None:
        """A content is on a node now, or cannot be there; its launcher has told the workers."""
        file = self._files.get(number)
        if file is None:
            return
        file.waiting.pop(node, None)
        if cause:
            logger.info("%s cannot have a file of %s bytes: %s", node, file.size, cause)
            file.given.discard(node)
            if (pump := self._pumps.get(node)) is not None:
                pump.drop(number)
        self._look_at(file)

    def lost(self, node: str) -> None:
        """A node has gone."""
        if (pump := self._pumps.pop(node, None)) is not None and (task := pump.close()) is not None:
            self._follow(task)
        self.kept.lost(node)
        for file in list(self._files.values()):
            file.given.discard(node)
            file.waiting.pop(node, None)
            if file.holder == node:
                if (held := self._held.get(file.number)) is not None and not held.done():
                    held.set_result(FileHeld(file.number, 0, -1, "the node has gone"))
                elif file.ready.done():
                    self._break(file, self.kept.gone(file.digest, node, "the node has gone"))
            else:
                self._look_at(file)

    # ---- what nobody needs ------------------------------------------------------------------------------------------

    def _look_at(self, file: NodeFile) -> None:
        if not file.in_use and file.number in self._files:
            file.idle = time.monotonic()
            self._dropping.ask()
            self._tell_room()
            if len(self._files) > MOST_IDLE:
                self._drop_idle()

    def _drop_idle(self) -> None:
        """Forget what nobody has needed for a while, and the oldest of what are too many."""
        idle = sorted((file for file in self._files.values() if not file.in_use), key=lambda file: file.idle)
        old = time.monotonic() - LINGER
        self._forget([file for at, file in enumerate(idle) if file.idle < old or len(idle) - at > MOST_IDLE])
        if self._files:
            self._dropping.ask()

    def _forget(self, files: list[NodeFile]) -> None:
        gone: dict[str, list[bytes]] = {}
        for file in files:
            if self._files.pop(file.number, None) is None:
                continue
            if self._by_digest.get(file.digest) is file:
                del self._by_digest[file.digest]
            if file.opened is not None:
                file.opened.close()
            for node in file.given:
                gone.setdefault(node, []).append(frames.NUMBER.pack(file.number))
                if (pump := self._pumps.get(node)) is not None:
                    pump.drop(file.number)
            self._broadcast.forget([file.number])
        for node, numbers in gone.items():
            self._write(node, frames.frame(Kind.FORGET, body=b"".join(numbers)))
        if files:
            self._tell_room()

    async def _until_room(self) -> None:
        idle = [file for file in self._files.values() if not file.in_use]
        if idle:
            self._forget(idle)
            return
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._room)

    def _tell_room(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    # ---- all the same -----------------------------------------------------------------------------------------------

    def _write(self, node: str, data: bytes) -> None:
        if node in self._links:
            self._links[node].write([data])

    def _refuse(self, node: str, worker: WorkerNumber, serial: int, error: Unreadable) -> None:
        self._write(node, FileHere(serial, error=error.number, text=error.why).framed(worker))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._follow(asyncio.get_running_loop().create_task(coroutine))

    def _follow(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Send nothing more."""
        self._dropping.close()
        pumps = [task for pump in self._pumps.values() if (task := pump.close()) is not None]
        for task in self._tasks:
            task.cancel()
        if left := [*self._tasks, *pumps]:
            await asyncio.wait(left)
        self._links = {}
        self._forget(list(self._files.values()))
        self.kept.close()
