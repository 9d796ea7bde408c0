"""What workers say, on its way to the head.

Guarantees: what a worker has answered is passed on, whether it tells of it or not (worker/stream.py), before anything
that it says later, and before its end. Answers wait for others, to go with them in one write, only while their worker
goes on with what it has in hand.
"""

from __future__ import annotations

import heapq
import socket
import struct
import time
from array import array
from collections.abc import Callable, Mapping

from hyperflow.launcher import child
from hyperflow.launcher.cache import NodeCache
from hyperflow.launcher.head_stream import HeadStream
from hyperflow.launcher.post_mortems import PostMortems
from hyperflow.launcher.teams import JOIN, JOIN_MOST, JOIN_SHARE, WORTH_JOINING, Teams
from hyperflow.wire import frames
from hyperflow.wire.answer_ring import LOOK, TEAM_LOOK, WAKE
from hyperflow.wire.frames import Kind
from hyperflow.wire.numbers import WorkerNumber

MOST_FDS = 253
"""The kernel passes at most so many descriptors with one message."""

ANCILLARY = socket.CMSG_SPACE(MOST_FDS * 4)

LEAVE_GRACE = 2.0
"""Seconds for a worker to end by itself when it has nothing left to do."""

PASSED_ON = frozenset(
    map(
        int,
        (
            *(Kind.LOCK_WANTED, Kind.LOCK_RELEASED, Kind.STREAM_WANTED, Kind.SLOT_WANTED),
            *(Kind.PRINTED, Kind.RETURNED, Kind.HAS, Kind.USED, Kind.RANKS_WANTED, Kind.PIECE),
            Kind.FILE_WANTED,
        ),
    )
)
"""What a worker says that only the head understands."""


class Answers:
    """Reads the streams and rings of all workers.

    Args:
        watch: Something is to happen to a worker at some moment.
    """

    def __init__(
        self,
        head: HeadStream,
        workers: Mapping[WorkerNumber, child.WorkerProcess],
        teams: Teams,
        cache: NodeCache,
        post_mortems: PostMortems,
        kill: Callable[[child.WorkerProcess, str], None],
        watch: Callable[[child.WorkerProcess], None],
        wake_by: Callable[[float], None],
    ) -> None:
        self._head = head
        self._workers = workers
        self._teams = teams
        self._cache = cache
        self._post_mortems = post_mortems
        self._kill = kill
        self._watch = watch
        self._wake_by = wake_by
        self._looks: list[tuple[float, WorkerNumber]] = []
        """A heap: when to look at which worker for answers of which no message tells."""

    @property
    def moment(self) -> float | None:
        """When to check."""
        return self._looks[0][0] if self._looks else None

    def check(self, now: float) -> None:
        """Look for the answers of workers that have said nothing for a while."""
        while self._looks and now >= self._looks[0][0]:
            process = self._workers.get(self._looks[0][1])
            if process is not None and process.answers_at > now:  # a message has come since
                heapq.heapreplace(self._looks, (process.answers_at, process.number))
                continue
            heapq.heappop(self._looks)
            if process is not None:
                process.answers_at = 0.0
                self.look(process)

    def take(self, process: child.WorkerProcess) -> bool | None:
        """Pass on what a worker sent; None if there is nothing now, False at the end of its stream."""
        try:
            data, ancillary, _, _ = process.sock.recvmsg(frames.CHUNK, ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError:
            return False
        if not data:
            return False
        if ancillary:
            process.fds += array("i", ancillary[0][2])
        try:
            for kind, in_hand, body in process.reader.feed(data):
                if kind == Kind.RESULTS:
                    self._answer(process, body, in_hand)
                elif kind == Kind.WRITTEN:
                    self._answer(process, process.answers.take(*frames.SIZE.unpack(body)), in_hand)
                    if in_hand >= frames.SEVERAL:
                        self._look_later(process)
                else:
                    self._pass_on(process, kind, body)
        except (frames.ProtocolError, struct.error, IndexError, ValueError):
            # A function wrote to descriptors that are not its own. Only its worker is ended.
            self._kill(process, "something that is no answer was written to its stream")
            return False
        return True

    def _pass_on(self, process: child.WorkerProcess, kind: int, body: memoryview) -> None:
        """Pass on what is no answer."""
        if self._teams.serves(process.number):
            self._teams.speak()  # what it has answered comes before
        if kind == Kind.BLOCK:
            for part in self._cache.passed_on(process.number, body, process.fds.pop(0)):
                self._head.send(part)
        elif kind == Kind.KEPT:
            self._post_mortems.keep(process.number, body, process.fds.pop(0))
            self._wake_by(0.0)
        elif kind in PASSED_ON:
            self._head.send(frames.frame(kind, process.number, body))
        else:
            raise frames.ProtocolError("a frame that workers do not send")

    def _answer(self, process: child.WorkerProcess, records: frames.Bytes, in_hand: int) -> None:
        """Pass answers on: at once, unless their worker goes on with what it has in hand."""
        if self._teams.serves(process.number):
            self._teams.answered(process, records, in_hand, time.monotonic())
            return
        by = 0.0
        if not len(records):  # it only says whether it has more in hand
            if not in_hand:
                self._head.expect(by)
            return
        if in_hand:
            seconds = frames.RESULT.unpack_from(records)[2]  # of the first; the others mostly take as long
            joined = min(seconds * JOIN_SHARE, JOIN_MOST)
            if in_hand >= frames.SEVERAL:
                joined = max(joined, JOIN)
            if joined >= JOIN and joined * len(self._workers) > WORTH_JOINING * max(seconds, WAKE):
                by = time.monotonic() + joined
        self._head.send(*frames.records_frame(Kind.RESULTS, process.number, [records]), by=by)
        if process.deadline is not None:
            process.answered()
        process.memory_limit = None
        process.done = process.fresh
        if process.fresh:  # it ends by itself, unless what a function registered with atexit hangs
            process.leave_by = time.monotonic() + LEAVE_GRACE
            self._watch(process)

    def _look_later(self, process: child.WorkerProcess) -> None:
        """Look for answers in a while: a worker has said that it has more in hand."""
        is_new = not process.answers_at
        process.answers_at = time.monotonic() + (TEAM_LOOK if self._teams.serves(process.number) else LOOK)
        if is_new:
            heapq.heappush(self._looks, (process.answers_at, process.number))
            self._wake_by(process.answers_at)

    def look(self, process: child.WorkerProcess) -> None:
        """Take the answers that are there, whatever the worker has said of them."""
        end = process.answers.look()
        while process.sock.fileno() >= 0 and self.take(process):
            pass  # what it sent before comes before
        try:
            if records := process.answers.take(max(end, process.answers.taken)):
                self._answer(process, records, frames.SEVERAL)
        except frames.ProtocolError:
            self._kill(process, "its memory for answers was written to")
