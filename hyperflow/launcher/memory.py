"""Memory limits: what workers have that are in an evaluation with a limit, looked at twice a second.

What counts is a worker's process group and all processes below it, those that have left the group, too. Memory that
several of them share counts once (PSS, the proportional set size).

To ask the kernel for the PSS of a process takes half a millisecond for each 100 MB, as it goes through all pages. The
resident size (RSS) is never smaller, and takes 40 µs. So it is asked first, and PSS only where all together have more
RSS than the limit. A worker without a limit is not looked at.

Guarantees: a worker is killed for its memory only while it is in the evaluation that has the limit, at once and with
all of these processes. One that already had a good part of the limit before, from earlier evaluations, is replaced by
a new one, and its next evaluation is not charged with that.

(Rejected: RLIMIT_AS, which counts what is only reserved, so that numpy with its threads fails at a tenth of what it
uses, and which knows one process only; a control group for each worker, which needs rights that users do not have.)
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable

from hyperflow.launcher import child
from hyperflow.wire import processes
from hyperflow.wire.messages import MEMORY_LIMIT
from hyperflow.wire.numbers import WorkerNumber

PAUSE = 0.5
"""Seconds between looks."""

SHARE = 0.05
"""Looks take at most this part of the launcher's time: where PSS takes long, they are rarer."""

REPLACED = 0.5
"""A worker that has this part of a limit before the evaluation begins, and is not new, is replaced."""


class MemoryLimits:
    """The workers whose evaluation has a limit.

    Args:
        watch: Something is to happen to a worker at some moment.
        others: Processes below the launcher that belong to no worker.
    """

    def __init__(self, watch: Callable[[child.WorkerProcess], None], others: Callable[[], Collection[int]]) -> None:
        self._workers: dict[WorkerNumber, child.WorkerProcess] = {}
        self._watch = watch
        self._others = others
        self._due = 0.0
        self._told = False  # that PSS cannot be read

    @property
    def moment(self) -> float | None:
        """When to check."""
        return self._due if self._workers else None

    def begin(self, process: child.WorkerProcess, limit: int) -> None:
        """The next evaluation of a worker, which is idle, has a limit."""
        now = time.monotonic()
        new = not process.claims.started
        process.memory_peak = process.memory_before = 0
        if (had := self._used(process, limit if new else int(limit * REPLACED))) > 0:
            if not new:
                self._end(process, "earlier evaluations have left too little of the next one's memory limit")
                return
            process.memory_before = had
        if not self._workers:
            self._due = now + PAUSE
        process.memory_limit = limit
        self._workers[process.number] = process
        self._watch(process)

    def check(self, now: float) -> None:
        """Look at all of them, and end those that have too much."""
        if now < self._due:
            return
        for process in list(self._workers.values()):
            limit = process.memory_limit
            if limit is None or process.status is not None:  # it has answered, or ended
                del self._workers[process.number]
                continue
            if process.is_ending or process.claims.started - process.shift < process.sent:
                continue  # it has not come to it yet
            used = self._used(process, limit)
            if used > limit:
                self._end(process, MEMORY_LIMIT)
            else:
                process.claims.saw(process.memory_peak)
        took = time.monotonic() - now
        self._due = now + max(PAUSE, took / SHARE)

    def _end(self, process: child.WorkerProcess, reason: str) -> None:
        """Kill a worker at once, with all that is below it."""
        process.reason = process.reason or reason
        process.kill_at = time.monotonic()
        process.deadline = process.leave_by = None
        escaped = [pid for pid in self._members(process) if pid != process.pid]
        child.signal_group(process.pid, signal.SIGKILL)
        processes.kill_all(escaped)
        self._watch(process)

    def _used(self, process: child.WorkerProcess, limit: int) -> int:
        """Return the bytes that a worker has; 0 if that is surely not more than the limit."""
        members = self._members(process)
        resident = sum(map(_resident, members))
        if resident <= limit:
            process.memory_peak = max(process.memory_peak, resident)
            return 0
        used = sum(map(self._proportional, members))
        process.memory_peak = max(process.memory_peak, used)
        return used if used > limit else 0

    def _members(self, process: child.WorkerProcess) -> list[int]:
        """Return a worker's processes: those below it, and those that came to us when their parent ended."""
        found = [process.pid, *_below(process.pid)]
        if adopted := [pid for pid in processes.children(os.getpid()) if pid not in self._others()]:
            for pid in child.belonging(process, adopted):
                found += (pid, *_below(pid))
        return found

    def _proportional(self, pid: int) -> int:
        """Return the PSS of a process, or its RSS where that cannot be read."""
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                for line in file:
                    if line.startswith(b"Pss:"):
                        return int(line.split()[1]) * 1024
        except (FileNotFoundError, ProcessLookupError):  # it has ended, or this kernel has no such file
            if not os.path.exists(f"/proc/{pid}"):
                return 0
        except (OSError, ValueError):
            pass
        if not self._told and (resident := _resident(pid)):
            self._told = True
            print(
                f"the memory of process {pid} cannot be read in detail (another user's, or an old kernel): for its "
                f"limit, memory counts that it shares with others ({resident} bytes in all)",
                file=sys.stderr,
                flush=True,
            )
        return _resident(pid)


def _resident(pid: int) -> int:
    """Return the resident size of a process; 0 if it has gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


def _below(pid: int) -> Iterable[int]:
    """Yield all processes below one, which may have threads."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):  # a kernel without that file
        yield from processes.descendants(pid)
        return
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue
        for one in children:
            yield one
            yield from _below(one)
