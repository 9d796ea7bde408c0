"""What the jobs of a program share: Slurm, the database, job slots, pacing, looks at files, and a place for tasks.

News for a job that rests wakes its driver. It comes from its watch, from the one task that looks at the files of
running jobs, or from a slot that has become free.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from hyperflow.aio import settled
from hyperflow.environment import ResultsDatabase
from hyperflow.errors import SlurmError
from hyperflow.master.batch import Batch
from hyperflow.master.lifecycle import Record
from hyperflow.master.rundir import JobDirectory
from hyperflow.slurm.client import PollIntervals

T = TypeVar("T")

logger = logging.getLogger("hyperflow")

LOOK_COST = 0.02
"""Seconds between two looks at files of any job. With many jobs each is looked at less often, because others use the
file system, too. (Slurm also says when a job has ended.)"""


@attrs.frozen
class Timeouts:
    """Timeouts and polling intervals of a master, in seconds.

    Args:
        look: Between two looks at the files of a running job.
        grace: For the result of a job that has ended, on a file system that shows it late.
        hopeless: Until a job that Slurm cannot start is held: the obstacle may be temporary.
        rows: Between two copies of a running job's rows into the program's database.
        second_thoughts: Between the cancel of an await and the end of its job at Slurm. If the program itself ends with
            an error before that, its jobs stay, because it can be resumed.
        cancelled: For the end of an attempt that was cancelled before the next one is submitted.
        slurm: How often Slurm is asked.
    """

    look: float = 1.0
    grace: float = 30.0
    hopeless: float = 300.0
    rows: float = 60.0
    second_thoughts: float = 1.0
    cancelled: float = 120.0
    slurm: PollIntervals = attrs.field(factory=PollIntervals)


class JobSlots:
    """How many jobs may be with Slurm at a time; first come, first served."""

    def __init__(self, limit: int | None) -> None:
        self._limit = math.inf if limit is None else limit
        self._inside: set[int] = set()
        self._queue: dict[int, Callable[[], object]] = {}

    def occupy(self, job: int) -> None:
        """Count a job that is with Slurm already, whatever the limit is."""
        self._inside.add(job)

    def take(self, job: int, then: Callable[[], object]) -> bool:
        """Take a slot if one is free; else join the queue: `then` is called when the job has its slot."""
        if job not in self._inside and len(self._inside) >= self._limit:
            self._queue[job] = then
            return False
        self._inside.add(job)
        return True

    def give_back(self, job: int) -> None:
        """Free a job's slot, or its place in the queue."""
        self._inside.discard(job)
        self._queue.pop(job, None)
        while self._queue and len(self._inside) < self._limit:
            following = next(iter(self._queue))
            then = self._queue.pop(following)
            self._inside.add(following)
            then()


class Pacing:
    """Gives out one turn in each round of the event loop, in the order of arrival.

    For work that blocks the loop for some milliseconds, such as a durable write. A hundred calls at once, or one answer
    of squeue about a hundred jobs, would block it for seconds, and with it `hyperflow list`, the table and Ctrl-C.
    Rejected: writing in threads. The order of the writes makes a kill at any moment safe, and the code has to show it.
    """

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._given = False

    async def turn(self) -> None:
        async with self._one_at_a_time:
            if self._given:
                await asyncio.sleep(0)
            self._given = True
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self._given = False


@attrs.define(eq=False)
class Shared:
    """What the drivers of one program's jobs share.

    `tell` is called when something has changed that people see; `held`, with a job that is held from now on.
    """

    program_id: str
    batch: Batch
    database: ResultsDatabase
    timeouts: Timeouts
    slots: JobSlots
    tell: Callable[[], None]
    held: Callable[[Record, JobDirectory], None]
    pacing: Pacing = attrs.field(factory=Pacing, init=False)
    counts: Counter[str] = attrs.field(factory=Counter[str], init=False)
    leaving: bool = attrs.field(default=False, init=False)
    """Whether the program is being left: flows that are cancelled from now on leave their jobs as they are."""
    closed: bool = attrs.field(default=False, init=False)
    """Whether no driver is woken any more."""
    _tasks: set[asyncio.Task[Any]] = attrs.field(factory=set[asyncio.Task[Any]], init=False)
    _abandoned_at_close: set[asyncio.Task[Any]] = attrs.field(factory=set[asyncio.Task[Any]], init=False)
    _sought: list[str] = attrs.field(factory=list[str], init=False)  # tokens of the next question
    _question: asyncio.Task[Mapping[str, list[int]]] | None = attrs.field(default=None, init=False)
    _running: dict[int, Callable[[], object]] = attrs.field(factory=dict[int, Callable[[], object]], init=False)
    _looking: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str, *, finish: bool = True) -> asyncio.Task[T]:
        """Start a task that ends before `close` returns; if it need not `finish`, `close` cancels it."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if not finish:
            self._abandoned_at_close.add(task)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._abandoned_at_close.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            logger.error("%s failed: %s", task.get_name(), error)

    async def close(self) -> None:
        """End all drivers, and wait for all tasks, even if cancelled."""
        self.closed = True
        for task in self._abandoned_at_close:
            task.cancel()
        await settled(asyncio.ensure_future(self._all_ended()))

    async def _all_ended(self) -> None:
        while ending := [task for task in self._tasks if not task.done()]:  # one that ends may start another one
            await asyncio.wait(ending)

    def look_at(self, job: int, wake: Callable[[], object]) -> None:
        """Wake the driver of a running job again and again, so that it looks at the job's files."""
        self._running[job] = wake
        if self._looking is None:
            self._looking = self.spawn(self._look(), "looks at files", finish=False)

    def look_away(self, job: int) -> None:
        self._running.pop(job, None)

    async def _look(self) -> None:
        try:
            while self._running:
                for job in tuple(self._running):
                    await asyncio.sleep(max(self.timeouts.look / max(len(self._running), 1), LOOK_COST))
                    if (wake := self._running.get(job)) is not None:
                        wake()
        finally:
            self._looking = None

    async def find(self, token: str) -> list[int]:
        """Ask Slurm for a submission; drivers that ask at the same time share one question."""
        self._sought.append(token)
        if self._question is None or len(self._sought) == 1:
            self._question = self.spawn(self._ask(), "question for submissions", finish=False)
        return (await asyncio.shield(self._question))[token]

    async def _ask(self) -> Mapping[str, list[int]]:
        await asyncio.sleep(0)  # the drivers of other jobs are just starting, too
        sought, self._sought = self._sought, []
        return await self.batch.find(sought)

    async def end_at_slurm(self, records: Sequence[Record], by_token: bool = False) -> Sequence[int]:
        """End the newest attempts of jobs, wherever they are, and return their ids; a submission may be under way.

        With `by_token` only what carries a job's idempotency key: in the long run Slurm gives out its ids again.
        """
        attempts = [record.attempt for record in records if record.attempt is not None]
        ids = [attempt.batch_id for attempt in attempts if attempt.batch_id is not None and not by_token]
        tokens = [attempt.token for attempt in attempts if attempt.batch_id is None or by_token]
        try:
            if tokens:
                found = await self.batch.find(tokens)
                ids += [one for token in tokens for one in found[token]]
            if ids:
                await self.batch.cancel(ids)
        except SlurmError as error:
            logger.warning("jobs %s may still be with Slurm: %s", ids or tokens, error)
        return ids
