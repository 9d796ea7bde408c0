"""The blocks that a worker has: of arguments, which others have made, and of results, which go to the head.

Guarantees: a block of an argument is said to be done with when the head has it forgotten, and no view of it is left
here; a block of a result is filled again when the head has said the same of it.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter

from hyperflow.wire.numbers import BlockNumber
from hyperflow.wire.shared_memory import Block
from hyperflow.wire.views import Views

MOST_MAPPED = 4
"""Blocks of arguments that stay mapped although nobody uses them."""

MOST_LENT = 4
"""Blocks of results that are kept to be filled again: as many may be in use at the head."""

MOST_SPARE = 2
"""Those of them that may be empty."""


class Arguments:
    """Blocks of arguments, by number."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self._views = Views[int](MOST_MAPPED)
        self._looks = Counter[int]()  # how many views there are
        self._spoiled = set[int]()  # those of which a forked process may have a view
        self._done: list[int] = []

    @property
    def changing(self) -> bool:
        """Whether there may be something to return."""
        return bool(self._views.ended or self._done)

    def open(self, number: int, size: int, pid: int, fd: int) -> None:
        """Open a block; if that cannot be, the evaluation that needs it will say so."""
        with contextlib.suppress(OSError):
            self._blocks[number] = Block.at(pid, fd, size)

    def view(self, number: int) -> memoryview:
        """Return the contents; what is written to them is not seen by others."""
        if number not in self._blocks:
            raise OSError(f"a large argument (block {number}) could not be opened on this node")
        view = self._views.of(self._blocks[number], number)
        self._looks[number] += 1
        return view

    def forget(self, number: int) -> None:
        """Let go of a block."""
        block = self._blocks.pop(number, None)
        if block is not None:
            block.close()
            self._collect()
            if number not in self._looks:
                self._done.append(number)

    def drop_old(self) -> None:
        """Unmap what nobody has used for a while; the head has closed it, maybe."""
        self._collect()
        self._views.drop_old(time.monotonic())

    def returned(self) -> list[tuple[int, bool]]:
        """Return the blocks that are done with, and whether they may be filled again."""
        self._collect()
        found = [(number, number not in self._spoiled) for number in self._done]
        self._spoiled.difference_update(self._done)
        self._done.clear()
        return found

    def _collect(self) -> None:
        for number, kept in self._views.collect():
            self._looks[number] -= 1
            if not kept:
                self._spoiled.add(number)
            if not self._looks[number]:
                del self._looks[number]
                if number not in self._blocks:
                    self._done.append(number)


class Results:
    """Blocks of results, by number."""

    def __init__(self) -> None:
        self._last = BlockNumber(0)
        self._lent: dict[int, Block] = {}  # the oldest first
        self._spare: dict[int, Block] = {}
        self._come_back = False  # whether the head returns any

    def filled(self, data: memoryview) -> tuple[BlockNumber, Block]:
        """Return a block with these contents, which has to be sent before the next one; raises OSError."""
        for number, block in self._spare.items():
            if data.nbytes <= block.capacity <= 2 * data.nbytes:
                del self._spare[number]
                block.fill(data)
                break
        else:
            block = Block.of(data)
        self._last = BlockNumber(self._last + 1)
        return self._last, block

    def sent(self, number: BlockNumber, block: Block) -> None:
        """The block is on its way."""
        if not self._come_back:
            block.close()
            return
        self._lent[number] = block
        if len(self._lent) > MOST_LENT:
            self._lent.pop(next(iter(self._lent))).close()

    def returned(self, number: int, kept: bool) -> None:
        """The head does not need a block any more; if it keeps its mapping, it is worth to fill it again."""
        self._come_back = True
        block = self._lent.pop(number, None) or self._spare.pop(number, None)
        if block is None:
            return
        if kept:
            self._spare[number] = block
            if len(self._spare) > MOST_SPARE:
                block = self._spare.pop(next(iter(self._spare)))
                kept = False
        if not kept:
            block.close()
