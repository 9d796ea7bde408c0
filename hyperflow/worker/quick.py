"""The quick loop: runs tasks of one function one after the other, as long as nothing about them is rare.

It does what `worker.Worker.run` does. What is rare is looked for here, and left to the worker: the loop ends with the
task to which it happened. So each of the others costs a third, and the promises are the same: each has a context of its
own, its answer is in the ring before the next one starts, and what it leaves behind that could end or hold up the next
one is found at once.

Rejected: to look whether a function has closed the stream to the launcher after each task, which takes a fifth of the
time. It is looked for before something is sent. Then the answers are in the ring, and nobody is to blame.
"""

from __future__ import annotations

import contextvars
import enum
import io
import itertools
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hyperflow.shipping import pickler
from hyperflow.shipping.arrivals import Arrivals
from hyperflow.wire import frames
from hyperflow.wire.answer_ring import PLACE, TEAM_WAKE, WRITTEN
from hyperflow.wire.claim_page import ClaimPage
from hyperflow.wire.fences import FENCED, fence
from hyperflow.worker.lock_client import LockClient
from hyperflow.worker.log import Log, MarkedOutput
from hyperflow.worker.outcomes import SCALARS, dumps
from hyperflow.worker.stream import PART, Stream
from hyperflow.worker.traces import Traces, count_threads

Bytes = bytes | memoryview

QUICK = 50e-6
"""An evaluation that took fewer seconds has started no program that could have written to the log."""

PAUSE = 0.01
"""After so many seconds, all that tasks may have left behind is looked for; until then, what each can be asked."""

LONGEST = 64
"""Bytes of a pickled scalar for which there is a layout of records; a larger one is rare (a long integer)."""


class Rare(enum.Enum):
    """Why the loop has ended with a task."""

    TAKEN_BACK = enum.auto()
    UNREADABLE = enum.auto()
    RAISED = enum.auto()
    RETURNED = enum.auto()  # it is not answered: it took long, has left traces, or its value is no scalar
    NO_STREAM = enum.auto()  # it is answered


class Last(NamedTuple):
    """The task with which the loop has ended."""

    why: Rare
    payload: Bytes
    begin: float
    context: contextvars.Context | None = None
    value: Any = None
    error: BaseException | None = None


def layout(length: int) -> struct.Struct:
    """Return the layout of a record with so long a payload."""
    return struct.Struct(f"{frames.RESULT.format}{length}s")


class QuickLoop:
    """The loop of one worker."""

    def __init__(
        self,
        stream: Stream,
        claims: ClaimPage,
        log: Log,
        locks: LockClient,
        traces: Traces,
        arrivals: Arrivals,
        outputs: tuple[MarkedOutput, MarkedOutput],
    ) -> None:
        self.payload: Bytes = b""
        """The pickled arguments of the task that runs."""
        self.forks: list[int] = []
        """Holds something in a copy of the process."""
        self.looked = 0.0
        """When all was looked for last."""
        self._pid = os.getpid()
        self._stream = stream
        self._claims = claims
        self._log = log
        self._locks = locks
        self._traces = traces
        self._arrivals = arrivals
        self._outputs = outputs
        self._input: io.TextIOBase | Any = sys.stdin
        self._layouts = [layout(length).pack_into for length in range(LONGEST)]

    def _is_odd(self, now: float) -> bool:
        """Whether there is something to be done after a task that was not quick."""
        if now >= self.looked + PAUSE or os.getpid() != self._pid:
            return True
        try:
            return os.lseek(1, 0, os.SEEK_END) != self._log.expected  # another process has written; fstat takes longer
        except OSError:
            return True

    def run(
        self,
        fn: Callable[..., Any],
        base: contextvars.Context,
        task: int,
        pieces: Iterator[tuple[Bytes]],
    ) -> Last | None:
        """Run tasks, whose numbers begin with this one, and answer them; return one to which something happened."""
        stream, ring, traces, log, locks = self._stream, self._stream.ring, self._traces, self._log, self._locks
        words, page, size, layouts, head = ring.words, ring.page, ring.size, self._layouts, frames.RESULT.size
        copy, loads, clock, threads = base.copy, pickler.loads, time.perf_counter, count_threads
        stdin, (stdout, stderr), most = self._input, self._outputs, traces.threads
        printed, complained, changed = stdout.partial, stderr.partial, traces.surroundings.before
        visitors, forks = self._arrivals.visitors, self.forks
        sys_module, scalars = sys, SCALARS
        started, first, below = ClaimPage.STARTED, ClaimPage.FROM, ClaimPage.BELOW
        seq, task, protocol = words[started], task - 1, pickler.PROTOCOL
        now = clock()
        for (payload,) in pieces:
            seq += 1
            task += 1
            words[started] = seq
            if seq < words[below] and words[first] <= seq:
                return Last(Rare.TAKEN_BACK, payload, now)
            locks.task = log.task = log.last = task  # type: ignore[assignment]  # TaskNumber() would be a call
            self.payload = payload
            begin = now
            try:
                loaded = loads(payload)
            except BaseException as error:
                return Last(Rare.UNREADABLE, payload, begin, error=error)
            context = copy()
            try:
                is_plain = type(loaded) is tuple  # else positional and keyword arguments
                value = context.run(fn, *loaded) if is_plain else context.run(fn, *loaded[0], **loaded[1])
            except BaseException as error:
                return Last(Rare.RAISED, payload, begin, context, error=error)
            now = clock()
            if (
                type(value) not in scalars
                or (now - begin > QUICK and self._is_odd(now))
                or (printed or complained or changed or visitors or forks)
                or sys_module.stdout is not stdout
                or sys_module.stderr is not stderr
                or sys_module.stdin is not stdin
                or threads() > most
            ):
                return Last(Rare.RETURNED, payload, begin, context, value)
            data = dumps(value, protocol)
            length = len(data)
            at = ring.written
            end, place = at + head + length, at % size
            if end - ring.taken > size or length >= LONGEST or place + head + length > size:
                if not ring.put(task, 0, now - begin, data):  # type: ignore[arg-type]
                    return Last(Rare.RETURNED, payload, begin, context, value)
            else:
                layouts[length](page, PLACE + place, task, 0, now - begin, 0, length, data)
                if FENCED:
                    fence()
                words[WRITTEN] = ring.written = end
            if end - stream.told >= PART or now - stream.woken >= TEAM_WAKE:
                if not traces.has_stream():
                    return Last(Rare.NO_STREAM, payload, begin)
                stream.tell()
        return None


def pieces(lengths: Any, payloads: memoryview) -> Iterator[tuple[Bytes]]:
    """Return the payloads of a batch, each alone in a tuple."""
    if lengths.count(lengths[0]) == len(lengths):
        return struct.Struct(f"{lengths[0]}s").iter_unpack(payloads)
    ends = list(itertools.accumulate(lengths, initial=0))
    return ((payloads[begin:end],) for begin, end in itertools.pairwise(ends))
