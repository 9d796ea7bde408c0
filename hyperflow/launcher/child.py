"""A forked worker, seen from its launcher: what is known of it, its process group, the end of its log."""

from __future__ import annotations

import mmap
import os
import socket
from typing import TYPE_CHECKING

from hyperflow.wire import frames, processes
from hyperflow.wire.claim_page import ClaimPage

if TYPE_CHECKING:
    from hyperflow.worker import worker

TAIL_BYTES = 2000
TAIL_LINES = 20


class WorkerProcess:
    """A forked worker, seen from its launcher."""

    def __init__(
        self, number: int, pid: int, sock: socket.socket, page: mmap.mmap, info: worker.WorkerInfo, fresh: bool
    ) -> None:
        self.number = number
        self.fresh = fresh
        self.pid = pid
        self.sock = sock
        self.claims = ClaimPage(page)
        self.info = info
        self.reader = frames.Reader()
        self.fds: list[int] = []  # that came with its answers, and that it has not said yet what they are
        self.backlog = bytearray()
        self.log_start = size(info.log_file)
        self.deadline: float | None = None  # of the evaluation that it is in
        self.status: int | None = None  # once it was reaped
        self.peak_memory = 0
        self.reason = ""  # why we end it; empty if it ended by itself
        self.leave_by: float | None = None
        self.kill_at: float | None = None


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
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def size(path: str) -> int:
    """Return the size of a file, 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def tail(path: str, start: int) -> str:
    """Return the last lines of a log, from a position on."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-TAIL_LINES:])
