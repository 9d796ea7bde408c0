"""Channels: memory through which the head and a worker of one machine hand each other the data of arrays.

By the sockets, a buffer is copied some fifteen times on its way through the launcher, by a channel twice: into it and
out of it. So in a channel is what is worth more than its place there costs, and too small to be a block of its own (see
shared_memory.py). The task or result that it belongs to travels as ever, and says where it is.

A channel is two rings, one for each direction. One process writes to a ring, one reads, in the same order. The writer
knows what is in use; the reader counts in a word of the channel what it has let go of: no lock, and no message.

Guarantees:
- What has been written is not touched before the reader has let go of it. So nobody reads what is meant for another
  task, whatever is cancelled or taken back: of such a task, too, the worker says in its turn that it is done with it.
- Nothing is written before the worker has mapped the channel. All of its memory is there by then: no write can fail.
- If there is no room, there is no harm: the buffer travels with its task.
- A channel has no name, and goes with its worker.

Rejected: one ring for all workers of a node. It could be used again only when the slowest of them has answered.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterable

from hyperflow.wire.fences import FENCED, fence
from hyperflow.wire.shared_memory import LARGE, Block

SMALLEST = 1 << 10
"""Bytes of a buffer from which on a channel is quicker than the sockets."""

RING = 3 << 19
"""Bytes of one direction: more than is prefetched at one worker."""

IN_CHANNEL = 1 << 62
"""Set in a place in a channel; then come, of 30 bits each, where it begins and how large it is."""

_BITS = 30
_MASK = (1 << _BITS) - 1
_LINE = 64  # bytes; arrays begin at a multiple of it

_HEAD = 4096
MAPPED, TASKS_READ, RESULTS_READ = range(3)
"""Words at its beginning: whether the worker has mapped it; how many buffers have been let go of."""

SIZE = _HEAD + 2 * RING

NAME = "hyperflow-channel"
"""Of its memory, as /proc shows it."""


class Ring:
    """One direction of a channel; each process uses the half that is its own: `offer`, or `copy` and `let_go`."""

    def __init__(self, memory: memoryview, words: memoryview, read: int) -> None:
        self._memory = memory
        self._words = words
        self._read = read  # which word says how many have been read
        self._freed = 0  # of them, those that the writer has seen
        self._used: deque[int] = deque()  # where buffers begin that may not have been read
        self._at = 0  # where the next one may begin

    def offer(self, data: memoryview) -> memoryview | int:
        """Copy a buffer into the ring, and return its place; the buffer itself if it is not for it, or it is full."""
        if not SMALLEST <= data.nbytes < LARGE:
            return data
        place = self._put(data)
        return data if place is None else place

    def _put(self, data: memoryview) -> int | None:
        used, size = self._used, data.nbytes
        read = self._words[self._read]
        while self._freed < read:
            used.popleft()
            self._freed += 1
        at, end = self._at, len(self._memory)
        if not used:
            at = 0  # where the memory is warm
        elif used[0] >= at:  # what is in use goes on at the beginning
            end = used[0]
        elif at + size > end:
            at, end = 0, used[0]
        if at + size > end:
            return None
        self._memory[at : at + size] = data
        used.append(at)
        self._at = at + -(-size // _LINE) * _LINE
        return IN_CHANNEL | at << _BITS | size

    def copy(self, place: int) -> memoryview:
        """Return a copy of a buffer, which can be written to."""
        at, size = place >> _BITS & _MASK, place & _MASK
        return memoryview(bytearray(self._memory[at : at + size]))

    def let_go(self, count: int) -> None:
        """Give the places of the next ones back."""
        if FENCED:  # what was copied before is read before the writer learns of it
            fence()
        self._words[self._read] += count


class Channel:
    """Both rings, as one of the two processes has them."""

    def __init__(self, block: Block) -> None:
        memory = block.view(shared=True)
        self.words = memory[:_HEAD].cast("Q")
        self.tasks = Ring(memory[_HEAD : _HEAD + RING], self.words, TASKS_READ)
        self.results = Ring(memory[_HEAD + RING :], self.words, RESULTS_READ)
        self._block = block

    @classmethod
    def make(cls) -> Channel:
        """Make a channel, in the head; raises OSError if there is no memory."""
        block = Block(os.memfd_create(NAME), SIZE)
        try:
            os.posix_fallocate(block.fd, 0, SIZE)
            return cls(block)
        except BaseException:
            block.close()
            raise

    @classmethod
    def at(cls, pid: int, fd: int) -> Channel:
        """Map, in a worker, what the head has made; raises OSError."""
        block = Block.at(pid, fd, SIZE, writable=True)
        try:
            if NAME not in os.readlink(f"/proc/self/fd/{block.fd}"):  # the head has closed it; a file of the user's now
                raise OSError(errno.ESTALE, "the channel has gone")
            channel = cls(block)
        finally:
            block.close()
        channel.words[MAPPED] = 1
        return channel

    @property
    def is_mapped(self) -> bool:
        """Whether the worker has it, too; then nobody needs the descriptor any more."""
        if not self.words[MAPPED]:
            return False
        self.close()
        return True

    @property
    def fd(self) -> int:
        return self._block.fd

    def close(self) -> None:
        """Close the descriptor; what is mapped stays."""
        self._block.close()


def count(buffers: Iterable[object]) -> int:
    """Return how many buffers of a task or result are in a channel."""
    return sum(isinstance(each, int) and each >= IN_CHANNEL for each in buffers)
