"""One content on its way to nodes, as the head sees it: who waits for it, where it is, where it comes from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import attrs

from hyperflow.head.file_sources import Source
from hyperflow.head.link import Link
from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber


@attrs.define(eq=False)
class NodeFile:
    """One content on its way."""

    number: DefinitionNumber
    digest: str
    size: int
    ready: asyncio.Future[None]
    alone: bool = False
    """It goes to one node, from here."""
    is_file: bool = True
    opened: Source | None = None
    place: tuple[int, int] | None = None
    """The process and descriptor that hold it on this machine."""
    holder: str = ""
    """The node that has kept it."""
    pump: Callable[[Link, NodeFile], object] = attrs.field(default=lambda link, file: None)
    coming: int = 0
    """Requests that wait for it to be opened."""
    waiting: dict[str, list[tuple[WorkerNumber, int]]] = attrs.field(factory=dict[str, list[tuple[WorkerNumber, int]]])
    """Workers, by node, that have not got it, with the numbers of their requests."""
    given: set[str] = attrs.field(factory=set[str])
    """Nodes to which it is on its way, or where it is."""
    idle: float = 0.0
    """Since when nobody waits."""

    @property
    def source(self) -> Source:
        assert self.opened is not None, self.digest
        return self.opened

    @property
    def in_use(self) -> bool:
        return bool(self.coming or self.waiting)

    def send(self, link: Link, number: DefinitionNumber) -> None:
        """Begin to send it to a node from here."""
        del number
        self.pump(link, self)
