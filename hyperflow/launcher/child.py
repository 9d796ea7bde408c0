"""A forked worker, as its launcher sees it: what is known of it, its process group, the end of its log."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import socket
import time
from collections.abc import Collection, Iterable

from hyperflow.wire import frames, processes, survivors
from hyperflow.wire.answer_ring import AnswerRing
from hyperflow.wire.claim_page import ClaimPage
from hyperflow.wire.deadlines import LIMIT, Deadlines
from hyperflow.wire.messages import ForkOrder, Guest
from hyperflow.wire.numbers import TaskNumber, WorkerNumber
from hyperflow.wire.shared_memory import Block


class WorkerProcess:
    """A forked worker, as its launcher sees it."""

    def __init__(
        self, number: WorkerNumber, pid: int, sock: socket.socket, page: mmap.mmap, order: ForkOrder | Guest
    ) -> None:
        self.number = number
        self.name = order.name
        self.is_guest = isinstance(order, Guest)  # a program in the place of a worker
        self.fresh = not isinstance(order, Guest) and order.fresh
        self.pid = pid
        self.gpus = frozenset(order.gpus)
        self.behind = set[WorkerNumber]()  # workers that are ending and have its GPUs; until they have gone it waits
        self.forked = time.monotonic()
        self.sock = sock
        self.claims = ClaimPage(page)
        self.answers = AnswerRing(page)
        self.deadlines = Deadlines(page)
        self.mark = mark_name(number)
        self.reader = frames.Reader()
        self.fds: list[int] = []  # of large buffers; the frames that say so have not come yet
        self.backlog = bytearray()
        self.done = False  # whether it has given the one answer that it was forked for
        self.sent = 0  # how many tasks the head has sent to it, which are what seqs between the two count
        self.shift = 0  # how many it got besides, out of the queue of a team
        self.within = TaskNumber(0)  # of those: the one that it was in when it ended
        self.deadline: float | None = None  # of the evaluation that it is in
        self.status: int | None = None  # once it was reaped
        self.peak_memory = 0
        self.memory_limit: int | None = None  # of the evaluation that it is in
        self.memory_peak = 0  # the most that was seen of the evaluation that has a memory limit
        self.memory_before = 0  # what a new worker had before that, if it was more than the limit
        self.reason = ""  # why we end it; empty if it ended by itself
        self.leave_by: float | None = None
        self.leave_why = "closing"
        self.kill_at: float | None = None
        self.answers_at = 0.0  # when to look for answers; 0 if not at all
        self.look_at = 0.0  # when to look again who of its processes is left
        self._log_file = order.log_file
        self._log_start = 0  # a worker appends to the log of the previous worker in its slot
        with contextlib.suppress(OSError):
            self._log_start = os.stat(order.log_file).st_size

    @property
    def is_timed(self) -> bool:
        """Whether something is to happen to it at some moment, or it is ending."""
        return (self.status, self.deadline, self.leave_by, self.kill_at) != (None, None, None, None)

    @property
    def is_ending(self) -> bool:
        """Whether it has ended, or is to end."""
        return (self.status, self.leave_by, self.kill_at) != (None, None, None)

    def put_off(self, seconds: float) -> None:
        """Let everything that is to happen to it happen so much later."""
        self.deadline, self.leave_by, self.kill_at = (
            None if moment is None else moment + seconds for moment in (self.deadline, self.leave_by, self.kill_at)
        )
        if self.deadline is not None:
            self.deadlines.put(LIMIT, *(moment + seconds for moment in self.deadlines.moments[LIMIT : LIMIT + 2]))

    def limit(self, seconds: float, now: float) -> None:
        """Its next evaluation has so much time."""
        self.deadline = now + seconds
        self.deadlines.limit(seconds, now)

    def answered(self) -> None:
        """It has answered, so the time limit is over."""
        self.deadline = None
        self.deadlines.put(LIMIT, math.inf, math.inf)

    def let_go(self) -> None:
        """In a forked worker: let go of what another one shares with the launcher."""
        self.sock.close()
        self.claims.words.release()
        self.answers.words.release()
        self.deadlines.moments.release()
        self.answers.page.close()

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
    """Whether anybody is left in a worker's process group, maybe only a zombie."""
    try:
        os.killpg(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def mark_name(number: WorkerNumber) -> str:
    """Return the name of a worker's mark."""
    return f"{survivors.MARKS}-{survivors.number()}-{number}"


def mark(number: WorkerNumber) -> memoryview | None:
    """Map some memory for a worker, whose name what it forks shows, too, so that it is known whose that is."""
    try:
        block = Block(os.memfd_create(mark_name(number)), mmap.PAGESIZE)
    except OSError:  # too many open files, or a kernel without
        return None
    with contextlib.closing(block), contextlib.suppress(OSError):
        os.ftruncate(block.fd, block.size)
        return block.view()
    return None


def remains(process: WorkerProcess, others: Collection[int]) -> list[int]:
    """Return the processes that a worker has left, those first that became our own children when it ended.

    A child that has only forked maps its mark; one that runs another program has its name in the environment.
    What is neither, nor in its session (a daemon with an environment of its own), is found when the launcher ends.

    Args:
        others: The pids of the other workers.
    """
    adopted = belonging(process, [pid for pid in processes.children(os.getpid()) if pid not in others])
    below = [pid for each in adopted for pid in processes.descendants(each)]
    return [pid for pid in (*adopted, *below) if pid not in others and processes.is_alive(pid)]


def belonging(process: WorkerProcess, adopted: Iterable[int]) -> list[int]:
    """Return those of our own children that a worker has left."""
    tag = f"HYPERFLOW_SERVICE_ID={process.name}"
    return [
        pid
        for pid in adopted
        if processes.session(pid) == process.pid or processes.carries(pid, tag) or processes.maps(pid, process.mark)
    ]
