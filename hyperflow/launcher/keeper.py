"""The keeper: the launcher's parent, which does nothing but see to it that nothing outlives the launcher.

Standard library only, as the launcher.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import NoReturn

from hyperflow.wire import processes

STUCK_GRACE = 5.0
"""Seconds from the end of the stream until its keeper kills a launcher: more than all that it does then by itself."""


def keep(launcher: int, stream: int) -> NoReturn:
    """Wait for the launcher to end, and see to it that nothing outlives it; nor it the stream."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: processes.kill_all([launcher]))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup, wakeup_end = socket.socketpair()
    for end in (wakeup, wakeup_end):
        end.setblocking(False)
    signal.set_wakeup_fd(wakeup_end.fileno(), warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    poll.register(stream, select.POLLRDHUP)  # nothing is read here
    kill_at: float | None = None
    while True:
        for pid, status, _ in processes.reap():
            if pid == launcher:
                processes.end_descendants()
                os._exit(status & 0xFF)
        if kill_at is not None and time.monotonic() >= kill_at:
            processes.kill_all([launcher])  # it is stopped, or stuck in an import
        if any(fd == stream for fd, _ in poll.poll(None if kill_at is None else 100)):
            poll.unregister(stream)
            processes.kill_all([launcher], signal.SIGTERM)  # it may be importing, and not be looking
            kill_at = time.monotonic() + STUCK_GRACE
        with contextlib.suppress(BlockingIOError):
            wakeup.recv(1024)
