"""Stock: blocks of arguments that are filled again, which takes a third of the time that a new one takes.

Guarantees: a block is filled again only when each worker that was told of it has said that it has no view of it any
more. What is not returned in time, or was with a worker that has ended, is closed: who still maps it keeps it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber
from hyperflow.wire.shared_memory import Block
from hyperflow.wire.views import KEPT_BYTES, KEPT_SECONDS

MOST = 8
"""Blocks at a time: each is a file descriptor, too."""


class _Out(NamedTuple):
    """A block that was forgotten, and who may still look at it."""

    block: Block
    workers: set[WorkerNumber]
    since: float


class Stock:
    """Blocks that no call needs."""

    def __init__(self) -> None:
        self._out: dict[DefinitionNumber, _Out] = {}
        self._spare: list[tuple[Block, float]] = []  # since when

    def __len__(self) -> int:
        return len(self._out) + len(self._spare)

    def take(self, size: int) -> Block | None:
        """Return a block that has room for so much, and not for much more."""
        for index, (block, _) in enumerate(self._spare):
            if size <= block.capacity <= 2 * size:
                del self._spare[index]
                return block
        return None

    def put(self, number: DefinitionNumber, block: Block, workers: set[WorkerNumber] | None) -> None:
        """Keep a block that these workers were told to forget; None: who has it is not known."""
        if workers is None or len(self) >= MOST or self._bytes() + block.capacity > KEPT_BYTES:
            block.close()
        elif workers:
            self._out[number] = _Out(block, workers, time.monotonic())
        else:
            self._spare.append((block, time.monotonic()))

    def _bytes(self) -> int:
        return sum(out.block.capacity for out in self._out.values()) + sum(block.capacity for block, _ in self._spare)

    def returned(self, worker: WorkerNumber, number: DefinitionNumber, kept: bool) -> None:
        """A worker has no view of a block any more; if not `kept`, a process that it has forked may have one."""
        out = self._out.get(number)
        if out is None:
            return
        out.workers.discard(worker)
        if not kept:
            self._out.pop(number).block.close()
        elif not out.workers:
            del self._out[number]
            self._spare.append((out.block, time.monotonic()))

    def worker_gone(self, worker: WorkerNumber) -> None:
        """A worker has ended; what it has left, or a node that was lost, may go on looking at its blocks."""
        for number in [number for number, out in self._out.items() if worker in out.workers]:
            self._out.pop(number).block.close()

    def drop_old(self, now: float) -> bool:
        """Close what nobody has needed for a while; return whether there was something."""
        before = len(self)
        for number in [number for number, out in self._out.items() if now - out.since > KEPT_SECONDS]:
            self._out.pop(number).block.close()
        for block, since in self._spare:
            if now - since > KEPT_SECONDS:
                block.close()
        self._spare = [one for one in self._spare if now - one[1] <= KEPT_SECONDS]
        return len(self) < before

    def close(self) -> None:
        for block in (*(out.block for out in self._out.values()), *(block for block, _ in self._spare)):
            block.close()
        self._out.clear()
        self._spare.clear()
