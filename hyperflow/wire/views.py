"""Views: the blocks of others that are mapped here, and that go back to who made them when nobody looks any more.

New memory is dear: to write 100 MB into it takes three times what it takes to write into memory that is there, and to
map it takes half as long as to read it. So a block is lent: whose view of it has ended says so to the process that made
it, which fills it again; and the mapping is kept for the next time that the same block comes.

Guarantees: whoever sees a view sees what was in the block when it came, and what he has written himself.
- A block goes back only when no view of it is left, here or in a process that was forked while there was one.
- A mapping is private. If pages of it were written to, they are dropped before it is used again. (The kernel says which
  those are; where it does not, all are dropped.)
"""

from __future__ import annotations

import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from hyperflow.wire.shared_memory import Block, Mapping

K = TypeVar("K")

KEPT_SECONDS = 2.0
"""For so long mappings and blocks are kept that nobody uses."""

KEPT_BYTES = min(1 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16)
"""Bytes of them."""


class Ended(NamedTuple, Generic[K]):
    """A view that has ended, and whether its mapping is kept: then it is worth filling the block again."""

    key: K
    kept: bool


class Views(Generic[K]):
    """The mappings of one process, each known by a key of the user's and by the block's inode."""

    def __init__(self, most: int) -> None:
        self.ended: deque[_Use[K]] = deque()
        """Views that have gone; the garbage collector adds them, in any thread."""
        self._most = most
        self._idle: dict[int, _Use[K]] = {}  # by inode; the last was used most recently
        self._bytes = 0  # in them
        self._closed = False

    def of(self, block: Block, key: K) -> memoryview:
        """Return a view of a block; raises OSError if it cannot be mapped."""
        inode = os.fstat(block.fd).st_ino
        known = self._idle.pop(inode, None)
        if known is not None:
            self._bytes -= known.mapping.size
        mapping = known.mapping if known is not None else Mapping(block.fd, os.fstat(block.fd).st_size)
        use = _Use(key, inode, mapping, _forks, time.monotonic())
        array = mapping.array(block.size)
        weakref.finalize(array, self._end, use).atexit = False  # an array may still use it then
        return memoryview(array).cast("B")

    def _end(self, use: _Use[K]) -> None:
        if not self._closed:
            self.ended.append(use)

    def collect(self) -> list[Ended[K]]:
        """Return which views have ended."""
        found: list[Ended[K]] = []
        for _ in range(len(self.ended)):
            use = self.ended.popleft()
            kept = use.forks == _forks and use.mapping.size <= KEPT_BYTES
            if kept:
                use.mapping.clean()
                self._idle[use.inode] = use._replace(since=time.monotonic())
                self._bytes += use.mapping.size
            found.append(Ended(use.key, kept))
        while self._bytes > KEPT_BYTES or len(self._idle) > self._most:
            self._drop(next(iter(self._idle)))
        return found

    def drop_old(self, now: float) -> list[K]:
        """Unmap what nobody has used for a while; return the keys."""
        old = [inode for inode, use in self._idle.items() if now - use.since > KEPT_SECONDS]
        return [self._drop(inode) for inode in old]

    def drop_of(self, whose: Callable[[K], bool]) -> None:
        """Unmap blocks that will not come again."""
        for inode in [inode for inode, use in self._idle.items() if whose(use.key)]:
            self._drop(inode)

    def _drop(self, inode: int) -> K:
        use = self._idle.pop(inode)
        self._bytes -= use.mapping.size
        return use.key

    def close(self) -> None:
        """From now on, what ends is unmapped at once."""
        self._closed = True
        self._idle.clear()
        self.ended.clear()


class _Use(NamedTuple, Generic[K]):
    """A mapping, and the view of it that there is, or was last."""

    key: K
    inode: int
    mapping: Mapping
    forks: int  # before the view
    since: float


_forks = 0


def note_fork() -> None:
    """The child will have all views of now, for as long as it likes."""
    global _forks  # noqa: PLW0603 (they are the process's)
    _forks += 1


os.register_at_fork(before=note_fork)
