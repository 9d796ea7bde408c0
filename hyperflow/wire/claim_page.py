"""The claim page: memory in which a worker and its launcher settle, lock-free, which tasks have been started.

It costs a task neither a system call nor a message.
"""

from __future__ import annotations

import mmap
import time

from hyperflow.wire.numbers import Seq


class ClaimPage:
    """A page of memory that a worker shares with its launcher.

    The worker writes the seq of the task that it is about to start, then looks whether that is retracted. The launcher
    writes what is retracted, then looks what was started. Each writes before it looks, so one always sees the other.
    tests/wire/test_claim_page.py goes through all orders in which that can happen.
    """

    STARTED, FROM, BELOW, PEAK = range(4)
    SETTLE = 0.0002
    """Seconds after which every processor has seen a write of another one."""

    def __init__(self, page: mmap.mmap) -> None:
        self.page = page
        self.words = memoryview(page).cast("Q")

    @property
    def started(self) -> Seq:
        """The task that the worker started last; 0 before the first."""
        return Seq(self.words[self.STARTED])

    def retract(self, below: Seq) -> Seq:
        """For the launcher: forbid all that has not been started; return the first seq that will not run.

        The worker may still be looking at the task that it starts. If that was forbidden before, it has to stay so.
        """
        started = self.started
        forbidden = self.words[self.FROM] <= started < self.words[self.BELOW]
        self.words[self.BELOW] = below
        self.words[self.FROM] = started if forbidden else started + 1
        time.sleep(self.SETTLE)
        return Seq(self.started + 1)

    def saw(self, peak: int) -> None:
        """For the launcher: so many bytes were seen of the evaluation that runs, with all its processes."""
        self.words[self.PEAK] = peak

    def seen(self) -> int:
        """For the worker: return that, and forget it."""
        peak, self.words[self.PEAK] = self.words[self.PEAK], 0
        return peak
