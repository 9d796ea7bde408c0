"""The cache of a node: definitions, which the head sends once and workers get by number; large buffers of results.

A large buffer of arguments comes from the head, or from another node (peers.py); then frames that need it wait for it.
Large buffers of results wait here until the head has mapped them. Nothing is unpickled here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from hyperflow.launcher.node_files import NodeFiles
from hyperflow.launcher.peers import Peers
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import Fetch
from hyperflow.wire.numbers import BlockNumber, DefinitionNumber, WorkerNumber
from hyperflow.wire.shared_memory import Block, Offer, Proof, is_shared


class NodeCache:
    """Definitions and blocks. Files that come go the same ways, and to a place of their own (node_files.py)."""

    def __init__(self, peers: Peers, files: NodeFiles) -> None:
        self._peers = peers
        self._files = files
        self._awaited: set[DefinitionNumber] = set()  # blocks that other nodes are to hand on
        self.proof = Proof()
        self.shares_memory = False
        """Whether the head can open what we hold, and we what it holds."""
        self._definitions: dict[DefinitionNumber, bytes] = {}
        self._blocks: dict[DefinitionNumber, Block] = {}
        self._passed: dict[tuple[WorkerNumber, BlockNumber], Block] = {}

    def settle(self, offer: Offer | None) -> None:
        """The head offers to share memory, or does not."""
        self.proof.close()
        self.shares_memory = is_shared(offer)

    def define(self, body: memoryview) -> None:
        """Keep a function or class."""
        number, *_ = frames.DEFINITION.unpack_from(body)
        self._definitions[number] = bytes(body)

    def keep_block(self, body: memoryview) -> None:
        """Open a large buffer of the head's, or begin one whose content follows."""
        number, size, pid, fd = frames.BLOCK.unpack(body)
        with contextlib.suppress(OSError):  # the worker that misses it will say so
            if pid:
                self._blocks[number] = Block.at(pid, fd, size)
            else:
                self._begin(number, size)

    def _begin(self, number: DefinitionNumber, size: int) -> None:
        if number in self._blocks:
            self._blocks.pop(number).close()
        self._blocks[number] = Block(os.memfd_create("block"), 0)
        self._peers.hold(frames.NUMBER.pack(number), self._blocks[number], size)

    def expect(self, order: Fetch) -> None:
        """A block comes from another node: from this one, or from one that is named later."""
        number = DefinitionNumber(order.number)
        if order.is_file:
            if order.hosts and number in self._files:  # else it has failed meanwhile, and the head hears of it
                self._peers.fetch(frames.NUMBER.pack(number), order.digest, order.hosts, order.port)
            return
        if number not in self._blocks:
            self._awaited.add(number)
            self._begin(number, order.size)
        if number in self._awaited and order.hosts:
            self._peers.fetch(frames.NUMBER.pack(number), order.digest, order.hosts, order.port)

    def awaits(self, body: memoryview) -> bool:
        """Whether one of these is still to come from another node."""
        return bool(self._awaited) and any(number in self._awaited for (number,) in frames.NUMBER.iter_unpack(body))

    def has_come(self, number: DefinitionNumber) -> None:
        """What frames waited for is here, or will not come."""
        self._awaited.discard(number)

    def fill(self, body: memoryview) -> DefinitionNumber | None:
        """Add to a block that has begun; return its number if something waits for it and it is whole now."""
        (number,) = frames.NUMBER.unpack_from(body)
        if number in self._files:
            self._files.fill(number, body[frames.NUMBER.size :])
            return None
        if number not in self._blocks:
            return None
        self._blocks[number].append(body[frames.NUMBER.size :])
        name = frames.NUMBER.pack(number)
        self._peers.grown(name)
        content = self._peers.find(name)
        whole = content is not None and content.size == content.block.size
        return DefinitionNumber(number) if whole and number in self._awaited else None

    def forget(self, body: memoryview) -> None:
        """Let go of what will not be wanted again."""
        for (number,) in frames.NUMBER.iter_unpack(body):
            self._definitions.pop(number, None)
            if not self._files.forget(number) and number in self._blocks:
                self._peers.drop(frames.NUMBER.pack(number))
                self._blocks.pop(number).close()

    def given(self, worker: WorkerNumber, body: memoryview) -> Iterator[bytes]:
        """Yield the frames that give a worker what it is to have."""
        for (number,) in frames.NUMBER.iter_unpack(body):
            if number in self._definitions:
                yield frames.frame(Kind.DEFINE, worker, self._definitions[number])
            elif number in self._blocks:  # else it could not be opened, and the worker will say so
                block = self._blocks[number]
                yield frames.frame(Kind.BLOCK, worker, frames.BLOCK.pack(number, block.size, os.getpid(), block.fd))

    def passed_on(self, worker: WorkerNumber, body: memoryview, fd: int) -> Iterator[frames.Bytes]:
        """Yield what tells the head of a result's large buffer: where it is, or else all that is in it."""
        number, size, _, _ = frames.BLOCK.unpack(body)
        block = Block(fd, size)
        if os.fstat(fd).st_size < size:  # a process that maps more than there is dies when it reads that
            block.close()
            raise frames.ProtocolError("a block that is smaller than its worker says")
        place = (os.getpid(), block.fd) if self.shares_memory else (0, -1)
        yield frames.frame(Kind.BLOCK, worker, frames.BLOCK.pack(number, size, *place))
        if self.shares_memory:
            self._passed[worker, number] = block
        else:
            with contextlib.closing(block):
                for parts in frames.content(number, worker, block.view()):
                    yield from parts

    def taken(self, worker: WorkerNumber, body: memoryview) -> None:
        """The head has mapped buffers of a result."""
        for (number,) in frames.NUMBER.iter_unpack(body):
            self._passed.pop((worker, number)).close()

    def close(self) -> None:
        """In a forked worker: let go of all blocks, or its copies of the descriptors would keep their memory."""
        self._files.close()
        for block in (*self._blocks.values(), *self._passed.values()):
            block.close()
