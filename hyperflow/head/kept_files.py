"""Files that evaluations have left on their nodes (`keep="node"`), as the head knows them: what, where, for how long.

Guarantees: a file stays there until the last File object of it at the head is gone. When all nodes that have kept one
are lost, whoever needs it is told which file was on which node.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping

import attrs

from hyperflow.head.file_sources import PATIENCE, Unreadable
from hyperflow.head.link import Link
from hyperflow.staging.keeping import KeptAt
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import FileReleased
from hyperflow.wire.numbers import DefinitionNumber

MOST_RELEASED = 1000
"""Files that are remembered although nobody holds a File object of them."""


@attrs.define
class _Kept:
    """One content that was kept."""

    places: dict[str, str] = attrs.field(factory=dict[str, str])
    """By node: where it is there."""
    users: int = 0
    """File objects of it."""
    lost: str = ""
    """The last node that had it, and has gone."""


class KeptFiles:
    """All of them."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        self._links = links
        self._kept: dict[str, _Kept] = {}
        self._released: dict[str, _Kept] = {}  # an evaluation may be on its way with one of them
        self._pulls: dict[tuple[DefinitionNumber, int], asyncio.Future[bytes]] = {}

    def note(self, kept: KeptAt) -> None:
        """An evaluation leaves a file on its node."""
        self._of(kept.digest).places[kept.node] = kept.path

    def _of(self, digest: str) -> _Kept:
        if digest not in self._kept:
            self._kept[digest] = self._released.pop(digest) if digest in self._released else _Kept()
        return self._kept[digest]

    def used(self, digest: str) -> None:
        """There is another File object of it."""
        self._of(digest).users += 1

    def unused(self, digest: str) -> None:
        """One of them has gone; with the last one, the file may go."""
        kept = self._kept.get(digest)
        if kept is None:
            return
        kept.users -= 1
        if kept.users <= 0:
            self._released[digest] = self._kept.pop(digest)
            while len(self._released) > MOST_RELEASED:
                del self._released[next(iter(self._released))]
            for node, path in kept.places.items():
                if node in self._links:
                    self._links[node].write([messages.framed(FileReleased(path))])

    def holder(self, digest: str, source: str) -> tuple[str, str] | None:
        """Return a node that has a content, and where; None if none was asked to keep it; raises Unreadable."""
        kept = self._kept.get(digest) or self._released.get(digest)
        for node, path in kept.places.items() if kept is not None else ():
            if node in self._links:
                return node, path
        if kept is not None and kept.lost and not source.startswith("/"):
            raise self.gone(digest, kept.lost, "the node has gone")
        return None

    def gone(self, digest: str, node: str, cause: str) -> Unreadable:
        """Return what says that a kept file cannot be had any more."""
        if (kept := self._kept.get(digest) or self._released.get(digest)) is not None:
            kept.places.pop(node, None)
            kept.lost = node
        return Unreadable(errno.EREMOTEIO, f"{node}\n{cause}")

    def lost(self, node: str) -> None:
        """A node has gone, with all that it has kept."""
        for kept in (*self._kept.values(), *self._released.values()):
            if kept.places.pop(node, None) is not None:
                kept.lost = node

    # ---- through the head -------------------------------------------------------------------------------------------

    async def pull(self, node: str, number: DefinitionNumber, offset: int, count: int) -> bytes:
        """Get a piece of a file that a node holds; raises Unreadable."""
        if node not in self._links:
            raise Unreadable(errno.EREMOTEIO, f"{node}\nthe node has gone")
        future = self._pulls.get((number, offset))
        if future is None:
            future = self._pulls[number, offset] = asyncio.get_running_loop().create_future()
            self._links[node].write([frames.frame(Kind.FILE_PULL, body=frames.FILE_PULL.pack(number, offset, count))])
        try:
            async with asyncio.timeout(PATIENCE):
                data = await asyncio.shield(future)
        except TimeoutError:
            raise Unreadable(errno.ETIMEDOUT, f"{node} has not sent anything of it for {PATIENCE:.0f} s") from None
        finally:
            self._pulls.pop((number, offset), None)
        if len(data) < count:
            raise Unreadable(errno.EREMOTEIO, f"{node}\nit ends there after {offset + len(data)} bytes")
        return data

    def piece(self, body: memoryview) -> None:
        """A launcher has sent one."""
        number, offset = frames.FILE_PIECE.unpack_from(body)
        future = self._pulls.get((DefinitionNumber(number), offset))
        if future is not None and not future.done():
            future.set_result(bytes(body[frames.FILE_PIECE.size :]))

    def close(self) -> None:
        """All nodes have gone."""
        self._links = {}
        self._kept.clear()
        for future in self._pulls.values():
            future.cancel()


@attrs.frozen
class Pulled:
    """A file on a node, read through the head in pieces, for other nodes."""

    _kept: KeptFiles
    _node: str
    _number: DefinitionNumber

    async def read(self, offset: int, count: int) -> bytes:
        return await self._kept.pull(self._node, self._number, offset, count)

    async def check(self) -> None:
        """Nobody changes what is in a cache; the digest shows the rest."""

    def close(self) -> None:
        """The holder is told to forget it."""
