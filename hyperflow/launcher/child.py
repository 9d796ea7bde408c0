"""A forked worker, as its launcher sees it: what is known of it, its process group, the end of its log."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket

from hyperflow.wire import frames, processes
from hyperflow.wire.claim_page import ClaimPage
from hyperflow.wire.messages import ForkOrder
from hyperflow.wire.numbers import WorkerNumber


class WorkerProcess:
    """A forked worker, as its launcher sees it."""

    def __init__(self, number: WorkerNumber, pid: int, sock: socket.socket, page: mmap.mmap, order: ForkOrder) -> None:
        self.number = number
        self.name = order.name
        self.fresh = order.fresh
        self.pid = pid
        self.sock = sock
        self.claims = ClaimPage(page)
        self.reader = frames.Reader()
        self.fds: list[int] = []  # of large buffers; the frames that say so have not come yet
        self.backlog = bytearray()
        self.deadline: float | None = None  # of the evaluation that it is in
        self.status: int | None = None  # once it was reaped
        self.peak_memory = 0
        self.reason = ""  # why we end it; empty if it ended by itself
        self.leave_by: float | None = None
        self.kill_at: float | None = None
        self._log_file = order.log_file
        self._log_start = 0  # a worker appends to the log of the previous worker in its slot
        with contextlib.suppress(OSError):
            self._log_start = os.stat(order.log_file).st_size

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        from hyperflow import files  # noqa: PLC0415 (workers need it anyway; the launcher does not, while it starts)

        return files.tail(self._log_file, lines=20, size=2000, start=self._log_start)


def signal_group(pid: int, signum: int) -> None:
    """Send a signal to a worker's process group."""
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:  # a worker that was forked just now has no group of its own yet
        processes.kill_all([pid], signum)
    except PermissionError:
        pass


def group_lives(pid: int) -> bool:
    """Whether anybody is left in a worker's process group."""
    try:
        os.killpg(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True
