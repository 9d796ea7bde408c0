"""The keeper: the launcher's parent, which makes sure that nothing outlives the launcher, and does nothing else but
remove, bit by bit, what the launcher has put into the trash of its scratch directory.

Both are subreapers (PR_SET_CHILD_SUBREAPER), so whichever of them is killed, the other finds all processes that are
left, and kills them. A launcher alone cannot promise that: what its workers' children leave behind would go to init.
What both of them leave, killed at once, is left to the watcher (wire/survivors.py).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import NoReturn

from hyperflow.wire import processes, scratch, survivors

STUCK_GRACE = 5.0
"""Seconds from the end of the stream until the keeper kills the launcher: more than it needs to end by itself."""


def keep(launcher: int, stream: int, watched: int) -> NoReturn:
    """Wait for the launcher to end, then kill what is left of it. End the launcher if the stream ends before it.

    `watched` is the pipe whose end the watcher waits for.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: processes.kill_all([launcher]))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup, _wakeup_end = processes.wakeup()
    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    poll.register(stream, select.POLLRDHUP)  # nothing is read here
    kill_at: float | None = None
    sweeper = scratch.Sweeper()
    while True:
        for pid, status, _ in processes.reap():
            if pid == launcher:
                processes.end_descendants()
                scratch.remove_own()
                survivors.dismiss(watched)
                os._exit(status & 0xFF)
        if kill_at is not None and time.monotonic() >= kill_at:
            processes.kill_all([launcher])  # it is stopped, or stuck in an import
        patience = 0 if sweeper.step() else None if kill_at is None else 100
        if any(fd == stream for fd, _ in poll.poll(patience)):
            poll.unregister(stream)
            processes.kill_all([launcher], signal.SIGTERM)  # in an import it does not look at the stream
            kill_at = time.monotonic() + STUCK_GRACE
        with contextlib.suppress(BlockingIOError):
            wakeup.recv(1024)
