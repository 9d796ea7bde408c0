"""A job as the master has it in memory: its record, who waits for it, and the tasks that work for it."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs

from hyperflow.master.lifecycle import Epoch, Record
from hyperflow.master.rundir import JobDirectory
from hyperflow.master.view import JobView, view
from hyperflow.slurm.queue import BatchState


@attrs.frozen
class Patience:
    """How long the master waits, in seconds.

    Args:
        look: Between two looks at the files of a job that runs.
        grace: For a result that Slurm says must be there, on file systems that are slow to show it.
        hopeless: Until a job that Slurm says it cannot start is held: what is in the way may be temporary.
        rows: Between two times that the rows of a running job are taken over.
        second_thoughts: Between cancelling an await and ending its job at Slurm. If the program itself ends with an
            error meanwhile, its jobs are left as they are: it can be resumed.
        fast: Between two questions to Slurm, while something changes.
        slow: Between two questions to Slurm, while nothing changes.
    """

    look: float = 1.0
    grace: float = 30.0
    hopeless: float = 300.0
    rows: float = 60.0
    second_thoughts: float = 1.0
    fast: float = 1.0
    slow: float = 30.0


@attrs.frozen
class ClusterStatistics:
    """How the jobs of a Cluster computation stand.

    Args:
        jobs: Jobs by state.
        waiting: Jobs that Slurm does not run yet.
        running: Jobs that run, or have ended and are being looked at.
        done: Jobs that gave a result.
        failed: Jobs whose error was raised in the program.
        held: Jobs that wait for somebody's decision.
        cancelled: Jobs that no flow wanted any more.
        retried: How often a job was submitted again after a failure.
        returned: How often Slurm has put a job back into its queue and started it again.
        late: Results that came too late and were left aside.
        calls: How often each command of Slurm was run.
    """

    jobs: dict[str, int]
    waiting: int
    running: int
    done: int
    failed: int
    held: int
    cancelled: int
    retried: int
    returned: int
    late: int
    calls: dict[str, int]


@attrs.define(eq=False)
class Entry:
    """A job in this process.

    Args:
        directory: Its files.
        record: What is known of it, as on the disk.
        since: When it came into its state, in seconds since 1970.
        on_error: What the program wants done about failures.
        asked: Whether the program has called it (in this process).
        unjudged: Whether it has failed before the program had called it.
        waiter: What the flow that called it waits for.
        driver: Takes it from state to state.
        disposal: Ends it at Slurm.
        status: What it has said of its evaluations last.
        late: Starts of which a result was found that does not count.
        end: What Slurm has said of its end.
        rows_taken: When its rows were last taken over.
    """

    directory: JobDirectory
    record: Record
    since: float
    on_error: object = "hold"
    asked: bool = False
    unjudged: bool = False
    waiter: asyncio.Future[Any] | None = None
    driver: asyncio.Task[None] | None = None
    disposal: asyncio.Task[None] | None = None
    status: dict[str, Any] | None = None
    late: set[Epoch] = attrs.field(factory=set[Epoch])
    end: BatchState | None = None
    rows_taken: float = 0.0

    @property
    def wanted(self) -> bool:
        """Whether a flow waits for it."""
        return self.waiter is not None and not self.waiter.done()

    @property
    def name(self) -> str:
        """What errors and logs call it."""
        return f"job {self.record.number}, {self.record.name}"

    def view(self) -> JobView:
        """Return what a list shows."""
        return view(self.record, self.directory, self.status, self.since)
