"""Sends what evaluations print to the head, where the program asks for it (`echo=True`).

Guarantees: an evaluation that prints never waits for that; what does not get through, or is more than a bounded rate,
is counted, and stands in the log. Only the main thread sends, and only while an evaluation runs: a line of another
thread could get into the middle of an answer. It goes with the next line.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress

from hyperflow.wire import messages
from hyperflow.wire.messages import Printed
from hyperflow.wire.numbers import TaskNumber
from hyperflow.wire.rate import Rate
from hyperflow.worker.stream import Stream

OFTEN, AT_FIRST = 100, 200
"""Lines that a worker sends in a second, and that it may send at once."""

LONGEST = 2000
"""Characters of a line that are sent. With all of them escaped, a message is one piece for the kernel: all or none."""

MOST_READ = 1 << 16
"""Bytes of other processes' output that are looked at, at a time."""

_MARK = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ")
"""What forked children of the evaluation have put before their lines, see log.py."""


class Echo:
    """What is printed here, on its way to the head."""

    def __init__(self, stream: Stream, log_file: str) -> None:
        self._task = TaskNumber(0)
        self._stream = stream
        self._rate = Rate(OFTEN, AT_FIRST)
        self._left_out = 0
        self._waiting: list[str] = []  # lines of other threads
        self._dropped = 0  # of those
        self._lock = threading.RLock()  # for these two; a signal's handler may print, too
        self._pid = os.getpid()
        self._thread = threading.get_ident()
        self._log: int | None = None
        with suppress(OSError):
            self._log = os.open(log_file, os.O_RDONLY | os.O_CLOEXEC)

    def line(self, task: TaskNumber, text: str) -> None:
        """Send a line of the evaluation that runs; 0 for none, then it is kept for the next one."""
        if os.getpid() != self._pid:
            return  # a forked child; its lines come from the log
        if threading.get_ident() != self._thread or not task:
            with self._lock:
                if len(self._waiting) < AT_FIRST:
                    self._waiting.append(text)
                else:
                    self._dropped += 1
            return
        self._task = task
        if self._waiting:
            self._send_waiting()
        self._send(text)

    def _send_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._left_out += self._dropped
            self._dropped = 0
        for text in waiting:
            self._send(text)

    def _send(self, text: str) -> None:
        if not self._rate.allows() or not self._sent(text[:LONGEST]):
            self._left_out += 1

    def _sent(self, *lines: str) -> bool:
        if not self._stream.send_at_once(messages.framed(Printed(self._task, lines, self._left_out))):
            return False
        self._left_out = 0
        return True

    def lines_of_others(self, task: TaskNumber, start: int, end: int) -> None:
        """Send what other processes have written to the log, between two places in it."""
        if self._log is None or os.getpid() != self._pid:
            return
        with suppress(OSError):
            data = os.pread(self._log, min(end - start, MOST_READ), start)
            for text in data.decode(errors="replace").splitlines():
                self.line(task, _MARK.sub("", text, count=1))
            self._left_out += end - start > len(data)

    def end(self, task: TaskNumber) -> None:
        """The evaluation has ended: send what other threads have left, and how much was left out."""
        self._task = task
        if self._waiting:
            self._send_waiting()
        if self._left_out:
            self._sent()
