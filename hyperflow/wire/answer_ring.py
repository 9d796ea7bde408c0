"""The answer ring: memory in which a worker leaves its answers for its launcher, without a system call.

The worker writes an answer behind the ones before, and then how far it has written. So an answer is out of the worker
before its next task starts: whatever kills the worker then, the launcher finds it here. The launcher copies what is
new, and then writes how far it has taken, which is where the worker may write again. Neither waits for the other: an
answer for which there is no room goes another way (worker/stream.py, which also says when the launcher is told).

Positions count bytes since the beginning and never go back; the place of one is its remainder.
tests/wire/test_answer_ring.py goes through all orders in which the two can see each other's writes.
"""

from __future__ import annotations

import mmap

from hyperflow.wire import frames
from hyperflow.wire.fences import FENCED, fence
from hyperflow.wire.numbers import TaskNumber

_pack = frames.RESULT.pack
PLACE = mmap.PAGESIZE
"""Where the answers begin in what worker and launcher share."""

SIZE = 1 << 16
"""Bytes of answers that have not been taken; more than a thousand small ones."""

LONGEST = SIZE // 8
"""Bytes of an answer that goes through the ring. For a longer one, a system call is cheap."""

WAKE = 0.008
"""Seconds between messages of a worker that has more tasks in hand."""

LOOK = 0.02
"""Seconds after such a message until the launcher looks by itself; more than WAKE."""

TEAM_WAKE, TEAM_LOOK = 0.02, 0.05
"""The same two for a worker that serves a team: its launcher has more work for it, and nobody waits for each answer."""

PAGES = PLACE + SIZE
"""What a worker and its launcher share: one page of words (see also claim_page.py), and the answers."""

WRITTEN, TAKEN = 8, 16
"""Words of the shared page: up to where the worker has written, and the launcher taken. Not in one cache line."""


class AnswerRing:
    """One end of the ring; each end has a copy of its own, with what it knows of both."""

    def __init__(self, page: mmap.mmap, size: int = SIZE) -> None:
        self.page = page
        self.words = memoryview(page).cast("Q")
        self.size = size
        self.written = 0
        self.taken = 0

    def put(self, task: TaskNumber, outcome: int, seconds: float, payload: bytes) -> bool:
        """For the worker: write an answer that has no buffers; False if there is no room for it."""
        record = _pack(task, outcome, seconds, 0, len(payload)) + payload
        begin = self.written
        end = begin + len(record)
        if end - self.taken > self.size:
            self.taken = self.words[TAKEN]
            if end - self.taken > self.size:
                return False
        start, stop = begin % self.size, end % self.size
        if start < stop:
            self.page[PLACE + start : PLACE + stop] = record
        else:
            self._put_around(start, record)
        if FENCED:
            fence()
        self.words[WRITTEN] = self.written = end
        return True

    def _put_around(self, start: int, record: bytes) -> None:
        """Write a record that reaches the end of the memory, and goes on at its beginning."""
        first = self.size - start
        self.page[PLACE + start : PLACE + self.size] = record[:first]
        self.page[PLACE : PLACE + len(record) - first] = record[first:]

    def look(self) -> int:
        """For the launcher: return up to where the worker has written."""
        end = self.words[WRITTEN]
        if FENCED:
            fence()
        return end

    def take(self, end: int) -> bytes:
        """For the launcher: return the answers up to there that it has not taken, one record after the other.

        Raises:
            ProtocolError: That cannot be: what the worker said is not its own word.
        """
        count = end - self.taken
        if count == 0:
            return b""
        if not 0 < count <= self.size:
            raise frames.ProtocolError(f"{count} bytes of answers, in a ring of {self.size}")
        start, stop = self.taken % self.size, end % self.size
        if start < stop:
            data = self.page[PLACE + start : PLACE + stop]
        else:
            data = self.page[PLACE + start : PLACE + self.size]
            data += self.page[PLACE : PLACE + stop]
        if FENCED:
            fence()
        self.words[TAKEN] = self.taken = end
        return data
