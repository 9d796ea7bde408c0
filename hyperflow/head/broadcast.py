"""Large buffers that many nodes need: the head sends them to a few, and these pass them on (a broadcast tree).

Here is the account of who has each block, or gets it from whom. The launchers do the rest (launcher/peers.py).

- The first ROOTS nodes that need a block get it from the head, each later one from a node that was there before it.
  A node has at most FAN_OUT children at a time.
- A node waits only for one that began before it, or has all of it, or gets it from the head: so none waits for itself.
- When a parent is lost, its children get another one, and go on where they were. A node that cannot have the block from
  two parents gets it from the head.
- Where nobody could be reached (a firewall) after FAILURES_TO_STOP tries, the head sends all itself from then on.
- A node with which the head shares memory gets nothing sent, and hands nothing on.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Protocol

from hyperflow.head.link import Link
from hyperflow.wire import messages, proving
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import Fetch, Fetched, Listen, Listening
from hyperflow.wire.numbers import DefinitionNumber
from hyperflow.wire.shared_memory import Block

logger = logging.getLogger("hyperflow")

ROOTS = 2
"""Nodes that get a block from the head: a second one, so that the loss of the first stops nobody."""

FAN_OUT = 8
"""Nodes to which one hands a block on at a time."""

TRIES = 2
"""Parents that a node has, one after the other, before it gets a block from the head."""

FAILURES_TO_STOP = 3


class Content(Protocol):
    """What is spread: a block, or a file (node_files.py)."""

    is_file: bool

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def digest(self) -> str:
        """Its SHA-256."""
        ...

    def send(self, link: Link, number: DefinitionNumber) -> None:
        """Begin to send it to a node from here."""
        ...


OnFetched = Callable[[str, DefinitionNumber, str], object]


def _nobody(node: str, number: DefinitionNumber, cause: str) -> None:
    """Do nothing."""


class _OfBlock:
    """A block as something that is spread."""

    is_file = False

    def __init__(self, block: Block) -> None:
        self._block = block
        self._digest = ""

    @property
    def size(self) -> int:
        return self._block.size

    @property
    def digest(self) -> str:
        if not self._digest:
            self._digest = hashlib.sha256(self._block.view()).hexdigest()
        return self._digest

    def send(self, link: Link, number: DefinitionNumber) -> None:
        link.write_block(number, self._block)


class _Spread:
    """One content on its way."""

    def __init__(self, number: DefinitionNumber, content: Content) -> None:
        self.number = number
        self.content = content
        self.roots = ROOTS
        self.begun: dict[str, int] = {}  # nodes that have it or get it, in their order
        self.places: deque[str] = deque()  # each node as often as it can have another child
        self.parents: dict[str, str] = {}  # of those that are getting it
        self.came_from: dict[str, str] = {}
        self.tries: dict[str, int] = {}
        self.sure: set[str] = set()  # nodes that have all of it, or get it from the head

    def place(self, child: str, hidden: Container[str]) -> str | None:
        """Take a place for a child at one that does not wait for it, and is not hidden from others."""
        for at, node in enumerate(self.places):
            if node == child or node in hidden:
                continue
            if node in self.sure or self.begun[node] < self.begun[child]:
                del self.places[at]
                return node
        return None

    def remove(self, node: str) -> None:
        """A node hands it on no longer."""
        self.places = deque(each for each in self.places if each != node)

    def order(self, hosts: tuple[str, ...], port: int) -> Fetch:
        content = self.content
        return Fetch(self.number, content.size, content.digest, hosts, port, content.is_file)


class Broadcast:
    """All blocks on their way to the nodes that are up. Switched off, the head sends everything itself."""

    def __init__(self, links: Mapping[str, Link], enabled: bool) -> None:
        self.enabled = enabled
        self.on_fetched: OnFetched = _nobody
        """Gets the node, a content that is there now, or cannot be there, and why not."""
        self._links = links
        self._secret = os.urandom(proving.SECRET).hex()
        self._spreads: dict[DefinitionNumber, _Spread] = {}
        self._told: set[str] = set()  # nodes that know the secret
        self._asked: set[str] = set()  # nodes that are to say where they listen
        self._listening: dict[str, Listening] = {}
        self._hidden: set[str] = set()  # nodes that others cannot find
        self._failures = 0
        self._succeeded = False

    def give(self, node: str, number: DefinitionNumber, block: Block) -> None:
        """Have a node get a block, from wherever. What is written to it later can count on that."""
        link = self._links[node]
        if not self.enabled or link.shares_memory:
            link.write_block(number, block)
        else:
            known = self._spreads.get(number)
            self.spread(node, number, _OfBlock(block) if known is None else known.content)

    def has(self, node: str, number: DefinitionNumber, content: Content) -> None:
        """A node has a content that is not here: others get it from there."""
        spread = self._spreads[number] = _Spread(number, content)
        spread.roots = 0
        spread.begun[node] = 0
        spread.sure.add(node)
        spread.places.extend([node] * FAN_OUT)

    def spread(self, node: str, number: DefinitionNumber, content: Content) -> None:
        """Have a node get a content that has to travel."""
        link = self._links[node]
        if not self.enabled or link.shares_memory:
            content.send(link, number)
            return
        spread = self._spreads.get(number)
        if spread is None:
            spread = self._spreads[number] = _Spread(number, content)
        spread.begun[node] = 1 + max(spread.begun.values(), default=0)
        if len(spread.sure) < spread.roots:
            self._send(spread, node)
        else:
            self._find_parent(spread, node)

    def _send(self, spread: _Spread, node: str) -> None:
        """Send a block from here."""
        spread.parents.pop(node, None)
        spread.content.send(self._links[node], spread.number)
        spread.sure.add(node)
        spread.remove(node)
        spread.places.extendleft([node] * FAN_OUT)

    def _find_parent(self, spread: _Spread, node: str) -> None:
        """Have a node fetch a block from another one, or send it."""
        parent = None
        if self.enabled and spread.tries.get(node, 0) < TRIES:
            parent = spread.place(node, self._hidden)
        if parent is None:
            self._send(spread, node)
            return
        if node not in spread.tries:
            spread.places.extend([node] * FAN_OUT)
        spread.tries[node] = spread.tries.get(node, 0) + 1
        spread.parents[node] = parent
        self._listen(node, False)
        where = self._listening.get(parent)
        if where is None:
            self._listen(parent, True)
            self._links[node].write([messages.framed(spread.order((), 0))])
        else:
            self._links[node].write([messages.framed(spread.order(where.hosts, where.port))])

    def _listen(self, node: str, others_come: bool) -> None:
        if node not in (self._asked if others_come else self._told):
            self._told.add(node)
            if others_come:
                self._asked.add(node)
            self._links[node].write([messages.framed(Listen(self._secret, others_come))])

    def on_message(self, node: str, kind: int, body: memoryview) -> None:
        """A launcher listens now, or has got a block, or has not."""
        if node not in self._links:
            return
        if kind == Kind.LISTENING:
            where = self._listening[node] = messages.read(Listening, body)
            if not where.port or not where.hosts:
                self._hidden.add(node)
            for spread in list(self._spreads.values()):
                for child in [child for child, parent in spread.parents.items() if parent == node]:
                    if node not in self._hidden:
                        self._links[child].write([messages.framed(spread.order(where.hosts, where.port))])
                    else:
                        self._failed(spread, child, "its parent has no address that is known")
            return
        said = messages.read(Fetched, body)
        number = DefinitionNumber(said.number)
        found = self._spreads.get(number)
        if found is not None and said.own:
            self._leave(found, node)
        if said.own or not said.cause:
            self.on_fetched(node, number, said.cause)
        if found is None or node not in found.parents:
            return  # forgotten meanwhile, or sent meanwhile
        if said.cause:
            self._failed(found, node, said.cause)
        else:
            self._succeeded = True
            found.sure.add(node)
            parent = found.parents.pop(node)
            found.came_from[node] = parent
            if parent in found.begun:
                found.places.append(parent)

    def _failed(self, spread: _Spread, node: str, cause: str) -> None:
        """A node could not get a block from its parent."""
        self._failures += 1
        parent = spread.parents[node]
        logger.info("%s could not get %s bytes from %s: %s", node, spread.content.size, parent, cause)
        spread.remove(parent)
        if self.enabled and not self._succeeded and self._failures >= FAILURES_TO_STOP:
            self.enabled = False
            logger.info("nodes do not reach each other: the head sends everything itself")
        self._find_parent(spread, node)

    def lost(self, node: str) -> None:
        """A node has gone: those that were getting something from it get it from another one."""
        self._told.discard(node)
        self._asked.discard(node)
        self._hidden.discard(node)
        self._listening.pop(node, None)
        for spread in list(self._spreads.values()):
            self._leave(spread, node)

    def _leave(self, spread: _Spread, node: str) -> None:
        """A node has a content no more, and does not get it."""
        if node not in spread.begun:
            return
        spread.remove(node)
        spread.sure.discard(node)
        spread.parents.pop(node, None)
        spread.tries.pop(node, None)
        del spread.begun[node]
        for child in [child for child, parent in spread.parents.items() if parent == node]:
            spread.tries[child] -= 1  # no fault of its own
            if child in self._links:
                self._find_parent(spread, child)

    def source_of(self, node: str, number: DefinitionNumber) -> str:
        """Return from which node another one has got a content; "" for the head."""
        found = self._spreads.get(number)
        return "" if found is None else found.came_from.get(node, "")

    def forget(self, numbers: Iterable[DefinitionNumber]) -> None:
        """These blocks are not used any more."""
        for number in numbers:
            self._spreads.pop(number, None)
