"""The post-mortem copies on a node (see worker/post_mortem.py), as the launcher sees them: how many, how old, who asks.

Guarantees: there are MOST at a time, each for SECONDS after it was left or asked last. They belong to the launcher and
to no worker, so they stay when their worker ends, and end with the launcher, as all of its descendants.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import time
from collections.abc import Callable

from hyperflow.launcher import child
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import Inspect
from hyperflow.wire.numbers import TaskNumber, WorkerNumber

MOST = 4
"""So many are kept on a node; the first ones, because a mistake that comes often is the same one."""

SECONDS = 3600.0
"""How long one is kept after it was left, or was asked something."""


class PostMortem:
    """A copy of a worker's process."""

    def __init__(self, task: TaskNumber, pid: int, sock: socket.socket) -> None:
        self.task = task
        self.pid = pid
        self.sock = sock
        self.reader = frames.Reader()
        self.until = time.monotonic() + SECONDS


class PostMortems:
    """Those of a node. `send` sends frames to the head."""

    def __init__(self, selector: selectors.BaseSelector, send: Callable[[bytes], None]) -> None:
        self._selector = selector
        self._send = send
        self._kept: dict[TaskNumber, PostMortem] = {}

    @property
    def has_room(self) -> bool:
        """Whether one more may be left."""
        return len(self._kept) < MOST

    @property
    def pids(self) -> set[int]:
        """Their processes."""
        return {one.pid for one in self._kept.values()}

    @property
    def moment(self) -> float | None:
        """When the next one is to end."""
        return min((one.until for one in self._kept.values()), default=None)

    def keep(self, worker: WorkerNumber, body: memoryview, fd: int) -> None:
        """A worker has left one."""
        sock = socket.socket(fileno=fd)
        task, pid = frames.KEPT.unpack(body)
        if not self.has_room or task in self._kept:
            sock.close()  # which ends it
            return
        sock.setblocking(False)
        one = self._kept[task] = PostMortem(task, pid, sock)
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._read(one))
        self._send(frames.frame(Kind.KEPT, worker, body))

    def ask(self, question: Inspect) -> None:
        """Hand on a question of the head's."""
        task = question.task
        one = self._kept.get(task)
        if one is None:
            self._send(_gone(task))
            return
        one.until = time.monotonic() + SECONDS
        try:
            one.sock.sendall(messages.framed(question))
        except OSError:  # it has ended, or has not read a hundred thousand questions
            self._end(one)

    def end_old(self, now: float) -> None:
        """End those that nobody has asked for long."""
        for one in list(self._kept.values()):
            if now >= one.until:
                self._end(one)

    def close(self) -> None:
        """In a forked child: close what belongs to the launcher."""
        for one in self._kept.values():
            one.sock.close()

    def _read(self, one: PostMortem) -> None:
        try:
            data = one.sock.recv(frames.CHUNK)
            for kind, _, body in one.reader.feed(data):
                if kind != Kind.INSPECTED:
                    raise frames.ProtocolError("a frame that copies do not send")
                self._send(frames.frame(Kind.INSPECTED, body=body))
        except BlockingIOError:
            return
        except (OSError, frames.ProtocolError):
            data = b""
        if not data:
            self._end(one)

    def _end(self, one: PostMortem) -> None:
        del self._kept[one.task]
        self._selector.unregister(one.sock)
        one.sock.close()
        with contextlib.suppress(OSError):
            child.signal_group(one.pid, signal.SIGKILL)
        self._send(_gone(one.task))


def _gone(task: TaskNumber) -> bytes:
    return frames.frame(Kind.KEPT, body=frames.KEPT.pack(task, 0))
