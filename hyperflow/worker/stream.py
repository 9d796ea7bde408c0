"""The worker's stream to its launcher: a socket, and beside it the ring of answers (wire/answer_ring.py).

While a worker has more tasks in hand, it leaves an answer in the ring, which costs no system call, and wakes its
launcher only now and then: a message says up to where there are answers.

Guarantees: an answer that was left without a message does not lie there for long, also if the next task takes hours: it
is left so only within WAKE seconds of a message that says that several tasks are in hand, and LOOK seconds after each
such message the launcher looks by itself. (So the answer is there first, and then the clock is read.) When the last
task in hand starts, and when there is none, all is told: more can come while the last one runs. What goes through the
socket comes behind all answers that were in the ring before it: it begins with how many these are.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence

from hyperflow.wire import frames
from hyperflow.wire.answer_ring import LONGEST, SIZE, WAKE, AnswerRing
from hyperflow.wire.frames import SEVERAL, Kind
from hyperflow.wire.numbers import TaskNumber, WorkerNumber

PART = SIZE // 4
"""Bytes in the ring for which the launcher is woken in any case."""


class Stream:
    """A worker's end."""

    def __init__(self, sock: socket.socket, ring: AnswerRing) -> None:
        self.fileno = sock.fileno
        self.recv = sock.recv
        self._sock = sock
        self.ring = ring
        self.told = 0  # up to where the launcher knows that there are answers
        self.wake = WAKE
        """How many seconds may pass between messages while several tasks are in hand."""
        self.woken = -math.inf  # when it was told last that several tasks are in hand
        self._believed = 0  # how many it believes to be in hand

    def answer(self, task: TaskNumber, outcome: int, seconds: float, data: bytes, left: int) -> None:
        """Send an answer without buffers, where so many tasks are in hand."""
        ring = self.ring
        if left and len(data) < LONGEST and ring.put(task, outcome, seconds, data):
            if left == 1 or time.perf_counter() - self.woken >= self.wake or ring.written - self.told >= PART:
                self._send(b"", left)
            return
        self._send(frames.result_frame(task, outcome, seconds, data, _hand(left)), left)

    def tell(self) -> None:
        """Tell what is in the ring; several tasks are in hand."""
        self._send(b"", SEVERAL)

    def answer_in_parts(self, record: Sequence[frames.Bytes], left: int) -> None:
        """Send an answer with buffers."""
        first, *others = frames.records_frame(Kind.RESULTS, _hand(left), record)
        if sum(map(len, others)) < frames.CHUNK:  # a system call costs more than the copy
            first, others = b"".join((first, *others)), []
        self._send(bytes(first), left)
        for part in others:
            self._sock.sendall(part)

    def rest(self) -> None:
        """Nothing is in hand any more, and what comes next is waited for."""
        if self._believed or self.told != self.ring.written:
            self._sock.sendall(self._so_far(0))

    def sendall(self, data: bytes) -> None:
        """Send a message of the evaluation that runs."""
        self._send(data, SEVERAL)

    def send_at_once(self, data: bytes) -> bool:
        """Do the same unless that would have to wait; return whether it was sent."""
        told, woken = self.told, self.woken
        if told != self.ring.written:
            data = self._so_far(SEVERAL) + data
        try:
            sent = self._sock.send(data, socket.MSG_DONTWAIT)
        except OSError:  # nobody reads fast enough
            self.told, self.woken = told, woken
            return False
        if sent < len(data):  # a kernel that cuts it after all
            self._sock.sendall(data[sent:])
        return True

    def send_fd(self, message: bytes, fd: int) -> None:
        """Send a message with a descriptor."""
        self._send(b"", SEVERAL)
        sent = socket.send_fds(self._sock, [message], [fd])
        if sent < len(message):
            self._sock.sendall(message[sent:])

    def _send(self, data: bytes, left: int) -> None:
        if self.told != self.ring.written:
            data = self._so_far(left) + data
        self._believed = left
        if data:
            self._sock.sendall(data)

    def _so_far(self, left: int) -> bytes:
        """Return the message that says how much is in the ring."""
        self.told, self._believed = self.ring.written, left
        if left >= SEVERAL:
            self.woken = time.perf_counter()
        return frames.frame(Kind.WRITTEN, _hand(left), frames.SIZE.pack(self.told))


def _hand(left: int) -> WorkerNumber:
    """Return what stands in a frame's header for so many tasks in hand."""
    return WorkerNumber(min(left, SEVERAL))
