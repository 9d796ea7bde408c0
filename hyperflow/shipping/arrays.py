"""Large buffers of arguments: each is sent to a node once, as a block of shared memory, however many calls have it.

Guarantees:
- A call gets the contents as they are when it is submitted: they are copied into a block then.
- An array that comes again is sent again only if it has changed: all of it is compared with the block, which takes a
  tenth of the time of a copy. An array that is marked read-only, and owns its data, is not compared.
- When an array is deleted or changed, its block goes, too. Of the other unused blocks, the most recently used are kept.

Rejected: to know an array by its identity alone, even within one turn of the event loop. A loop that fills one array
again for each call would compute with the wrong numbers, and nobody would notice. Also rejected: a hash of the
contents. It takes as long as the comparison, and proves less.
"""

from __future__ import annotations

import os
import pickle
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hyperflow.shipping.stock import Stock
from hyperflow.wire import frames, shared_memory
from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber
from hyperflow.wire.shared_memory import Block

KEPT_BYTES = max(1 << 29, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
"""Bytes that are kept although no call uses them now: a quarter of the memory, because their arrays are still there."""

MOST_BLOCKS = 256
"""Blocks at a time: each needs a file descriptor here and on each node. Beyond, buffers travel with their calls."""


class SharedBuffer:
    """A large buffer of an argument."""

    __slots__ = ("block", "number", "spoiled", "users")

    def __init__(self, number: DefinitionNumber, block: Block) -> None:
        self.number = number  # its name on the wire
        self.block = block  # where its contents are
        self.users = 0  # calls under way that use it
        self.spoiled = False  # a worker that had it has ended, or was lost and may go on for a while


class SharedBuffers:
    """Which buffers have become blocks."""

    def __init__(self, next_number: Callable[[], DefinitionNumber], most_blocks: int) -> None:
        self.known: dict[DefinitionNumber, SharedBuffer] = {}
        self._most_blocks = most_blocks
        self._next_number = next_number
        self.stock = Stock()
        self.leaving: list[SharedBuffer] = []
        """Of those that were evicted: whoever asked for that says who still has them, see `leave`."""
        self._by_source: dict[int, tuple[weakref.ref[Any], SharedBuffer]] = {}  # by the id of the array
        self._idle: dict[DefinitionNumber, SharedBuffer] = {}  # unused ones; the last was used most recently
        self._idle_bytes = 0
        # Of deleted arrays; the garbage collector adds them, in any thread.
        self._orphans: deque[DefinitionNumber] = deque()

    def share(self, buffers: Sequence[pickle.PickleBuffer]) -> tuple[list[frames.Buffer], list[SharedBuffer]]:
        """Return what a call has in place of its buffers (the number of a block, or a copy), and the blocks."""
        standing: list[frames.Buffer] = []
        shared: list[SharedBuffer] = []
        for buffer in buffers:
            data = buffer.raw()
            found = self.find(data)
            if found is None:
                standing.append(memoryview(bytes(data)))  # a copy, because its owner may change it
            else:
                standing.append(found.number)
                shared.append(found)
        return standing, shared

    def find(self, data: memoryview) -> SharedBuffer | None:
        """Return the block with this content; None if it is small, or there can be none."""
        if data.nbytes < shared_memory.LARGE:
            return None
        source = data.obj
        known = self._by_source.get(id(source))
        if known is not None and known[0]() is source:
            block = known[1].block
            if block.size == data.nbytes and (is_constant(source) or block.equals(data)):
                return known[1]
            self._orphans.append(known[1].number)  # nobody has this content any more
        if len(self.known) >= self._most_blocks:
            return None
        try:
            block = self._filled(data)
        except OSError:  # too many open files, no memfd here, no memory
            return None
        made = self._add(block)
        try:
            self._by_source[id(source)] = (weakref.ref(source, self._forgetter(id(source), made.number)), made)
        except TypeError:  # it takes no weak references, and may be deleted at any time
            self._orphans.append(made.number)
        return made

    def _filled(self, data: memoryview) -> Block:
        """Copy a buffer into a block: one that is there, if it can be."""
        block = self.stock.take(data.nbytes)
        if block is None:
            return Block.of(data)
        block.fill(data)
        return block

    def adopt(self, block: Block) -> SharedBuffer | None:
        """Return a buffer for a block that somebody else has made; None if there can be none. Released, it goes."""
        if len(self.known) >= self._most_blocks:
            return None
        try:
            made = self._add(Block(os.dup(block.fd), block.size))
        except OSError:  # too many open files
            return None
        self._orphans.append(made.number)
        return made

    def _add(self, block: Block) -> SharedBuffer:
        made = SharedBuffer(self._next_number(), block)
        self.known[made.number] = made
        return made

    def _forgetter(self, key: int, number: DefinitionNumber) -> Callable[[object], None]:
        def forget(ref: object) -> None:
            self._orphans.append(number)
            known = self._by_source.get(key)
            if known is not None and known[0] is ref:  # else another array has got its id
                del self._by_source[key]

        return forget

    def hold(self, buffer: SharedBuffer) -> None:
        buffer.users += 1
        if self._idle.pop(buffer.number, None) is not None:
            self._idle_bytes -= buffer.block.size

    def release(self, buffer: SharedBuffer) -> None:
        buffer.users -= 1
        if buffer.users == 0:
            self._idle[buffer.number] = buffer
            self._idle_bytes += buffer.block.size

    def evict(self) -> list[DefinitionNumber]:
        """Close blocks that no call uses: those of deleted arrays, and the least recently used beyond the limit."""
        gone: list[SharedBuffer] = []
        for _ in range(len(self._orphans)):
            number = self._orphans.popleft()
            if number in self._idle:
                gone.append(self._take_idle(number))
            elif number in self.known:
                self._orphans.append(number)
        while self._idle_bytes > KEPT_BYTES or len(self._idle) > MOST_BLOCKS // 2:
            gone.append(self._take_idle(next(iter(self._idle))))
        for buffer in gone:
            del self.known[buffer.number]
        self.leaving += gone
        if gone:
            self._by_source = {key: known for key, known in self._by_source.items() if known[1].number in self.known}
        return [buffer.number for buffer in gone]

    def _take_idle(self, number: DefinitionNumber) -> SharedBuffer:
        buffer = self._idle.pop(number)
        self._idle_bytes -= buffer.block.size
        return buffer

    def leave(self, holders: Callable[[DefinitionNumber], set[WorkerNumber] | None] = lambda _: None) -> None:
        """Let go of what was evicted. `holders` says who was told to forget it; None if that is not known."""
        for buffer in self.leaving:
            self.stock.put(buffer.number, buffer.block, None if buffer.spoiled else holders(buffer.number))
        self.leaving.clear()

    def worker_gone(self, worker: WorkerNumber, numbers: Iterable[DefinitionNumber]) -> None:
        """A worker has ended that had these, among others; if its node was lost, nobody knows when it looks no more."""
        for number in numbers:
            if number in self.known:
                self.known[number].spoiled = True
        self.stock.worker_gone(worker)

    def close(self) -> None:
        self.leave()
        self.stock.close()
        for buffer in self.known.values():
            buffer.block.close()


def is_constant(source: Any) -> bool:
    """Whether an array says that it does not change: it is read-only, and so is all that it is a view of."""
    while getattr(getattr(source, "flags", None), "writeable", True) is False:
        source = source.base
        if source is None:
            return True
    return type(source) is bytes
