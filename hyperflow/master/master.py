"""The master: runs the jobs of one program, and can be killed at any moment.

Guarantees:
- The run directory is a write-ahead log: what happens is there before anything depends on it. Started again, a master
  goes on from there: it watches what is queued or runs, uses the results that are there, submits nothing twice, and
  repeats no work.
- The idempotency key of a submission (its token) is on the disk before sbatch is called. Whether that call came through
  is not guessed: Slurm is asked by the key. If two come through, only the first one does the work.
- A job that fails is held with its cause. The flow that awaits it goes on waiting; others are not disturbed.
- A result counts if it is sound and carries the newest fencing token of its job (its epoch). Any other one is left
  aside, reported, and counted.
- What a job has recorded is in the program's database before the program sees the job's result.

This module is what the program and people see. `driver` takes one job from state to state.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Collection, Sequence
from time import time
from typing import Any, Self

import attrs

from hyperflow.aio import Changing
from hyperflow.checked_files import Damaged
from hyperflow.environment import ResultsDatabase
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.flow import Flow
from hyperflow.master import calls
from hyperflow.master.batch import Batch
from hyperflow.master.driver import JobDriver
from hyperflow.master.lifecycle import AT_REST, WITH_SLURM, Record, State
from hyperflow.master.mail import Mailer
from hyperflow.master.rundir import JobDirectory, RunDirectory
from hyperflow.master.shared import JobSlots, Shared, Timeouts
from hyperflow.master.view import ClusterStatistics, JobView, story, traceback_of
from hyperflow.slurm.script import SbatchOptions

logger = logging.getLogger("hyperflow")

TAKEN_BACK = frozenset({State.CANCELLED, State.FAILED, State.HELD, State.NEW})
"""States of jobs that an earlier master may have ended without telling Slurm."""


class Master:
    """Runs the jobs of one program, in the scope of an `async with`; at its end all drivers have ended.

    `defaults` is what to ask of Slurm where a call says nothing; `max_jobs`, how many may be with Slurm at a time.
    """

    def __init__(
        self,
        run: RunDirectory,
        batch: Batch,
        database: ResultsDatabase,
        *,
        defaults: SbatchOptions | None = None,
        max_jobs: int | None = None,
        timeouts: Timeouts | None = None,
        mailer: Mailer | None = None,
    ) -> None:
        self.run = run
        self.batch = batch
        self.defaults = defaults or SbatchOptions()
        self._version = Changing(0)
        self._mailer = mailer
        slots = JobSlots(max_jobs)
        self._shared = Shared(
            run.program.program_id, batch, database, timeouts or Timeouts(), slots, self._tell, self._on_held
        )
        self._drivers: dict[int, JobDriver] = {}
        self._unasked: dict[str, JobDriver] = {}  # by identity: jobs of an earlier run that this one has not called yet
        self._asked: Counter[str] = Counter()
        self._warned: set[str] = set()

    def jobs(self) -> list[JobView]:
        """Return all jobs, by number."""
        return [driver.view() for _, driver in sorted(self._drivers.items())]

    @property
    def version(self) -> int:
        """Grows with every change that a list of jobs would show."""
        return self._version.value

    async def changed(self, seen: int = -1) -> int:
        """Wait until `version` differs from `seen`, and return it."""
        return await self._version.changed(seen)

    def _tell(self) -> None:
        self._version.set(self.version + 1)

    def _on_held(self, record: Record, directory: JobDirectory) -> None:
        if self._mailer is not None:
            run = self.run.program.program_id
            subject = f"hyperflow: {record.title} of {run} on {socket.gethostname()} is held"
            about = f"{story(record, directory, True)}\n\nThe run: {self.run.home}\n"
            _ = self._shared.spawn(self._mailer.send(subject, about), f"mail about job {record.number}")

    def why(self, number: int) -> str:
        """Tell all that is known of a job, and what to type."""
        driver = self._driver(number)
        return story(driver.record, driver.directory, True)

    def traceback(self, number: int) -> str:
        """Return the traceback of the error that a job has ended with; "" if there is none."""
        driver = self._driver(number)
        return traceback_of(driver.record, driver.directory)

    def numbers(self, *states: State) -> list[int]:
        """Return the numbers of the jobs in these states: `master.numbers(State.HELD)` for `retry --all`."""
        return [number for number, driver in sorted(self._drivers.items()) if driver.record.state in states]

    async def retry(self, numbers: Collection[int], **changes: Any) -> list[JobView]:
        """Submit jobs again that are held, have failed or were cancelled.

        `changes` are options of Slurm: `time="2:00:00"`, `mem="8G"`, ...

        Raises:
            ConfigurationError: A number or an option does not exist, or a job is not at rest; then nothing is done.
        """
        words = "only what is held is tried again (cancel holds it)"
        chosen = self._chosen(numbers, {State.HELD, State.FAILED, State.CANCELLED}, words)
        options = [attrs.asdict(SbatchOptions(**driver.record.options).changed(**changes)) for driver in chosen]
        for driver, its_options in zip(chosen, options, strict=True):
            driver.retry(its_options)
        return [driver.view() for driver in chosen]

    async def cancel(self, numbers: Collection[int]) -> None:
        """End jobs at Slurm, or take them from its queue. They are then held, and can be retried or given up.

        Raises:
            ConfigurationError: A number does not exist, or the job is at rest; then nothing is done.
        """
        chosen = self._chosen(numbers, set(State) - AT_REST, "there is nothing to cancel")
        for driver in chosen:
            driver.cancel()
        await _disposed(chosen)

    async def give_up(self, numbers: Collection[int]) -> None:
        """Hand the errors of held jobs to the program, as `on_error="raise"` would have done.

        Raises:
            ConfigurationError: A number does not exist, or the job is not held; then nothing is done.
        """
        for driver in self._chosen(numbers, {State.HELD}, "only what is held can be given up"):
            driver.give_up()

    @property
    def leaving(self) -> bool:
        """Whether the program is being left before its work is done."""
        return self._shared.leaving

    async def leave(self, cancel_jobs: bool) -> None:
        """Prepare for the end of the program before its work is done: from now on, cancelled flows do not end jobs.

        With `cancel_jobs` all jobs are ended; else they stay with Slurm, and a later master finds them and their
        results. (Jobs on this machine end with the master.)
        """
        self._shared.leaving = True
        if cancel_jobs:
            active = [one for one in self._drivers.values() if one.record.state in WITH_SLURM | {State.NEW}]
            for driver in active:
                driver.abandon()
            await _disposed(active)

    def statistics(self) -> ClusterStatistics:
        states = Counter(str(driver.record.state) for driver in self._drivers.values())
        counts = self._shared.counts
        return ClusterStatistics(
            jobs=dict(states),
            waiting=states[State.NEW] + states[State.SUBMITTING] + states[State.QUEUED],
            running=states[State.RUNNING] + states[State.ENDED],
            **{name: states[name] for name in ("done", "failed", "held", "cancelled")},
            retried=counts["retried"],
            returned=sum(driver.record.epoch.restarts for driver in self._drivers.values()),
            late=counts["late"],
            calls=dict(self.batch.calls),
        )

    def unmatched(self) -> list[JobView]:
        """Return the jobs of an earlier run of the program that this one has not called (so far)."""
        return [driver.view() for driver in self._unasked.values()]

    def _driver(self, number: int) -> JobDriver:
        try:
            return self._drivers[number]
        except KeyError:
            there = f"there are 1 to {max(self._drivers)}" if self._drivers else "there is none yet"
            raise ConfigurationError(f"there is no job {number}; {there}") from None

    def _chosen(self, numbers: Collection[int], states: Collection[State], otherwise: str) -> list[JobDriver]:
        """Return the drivers of jobs that are all in one of these states."""
        chosen = [self._driver(number) for number in dict.fromkeys(numbers)]
        for driver in chosen:
            if driver.record.state not in states:
                raise ConfigurationError(f"{driver.record.title} is {driver.record.state}; {otherwise}")
        return chosen

    async def call(
        self,
        job: Flow[Any],
        sent: Flow[Any],
        options: SbatchOptions | None,
        on_error: object,
        within: Sequence[str] = (),
    ) -> Any:
        """Run a job in an allocation of its own, or continue what an earlier master knows of this call.

        `job` is what the program called, and identifies the call; `sent` is the job with the current options applied;
        `within` are the locks in whose scope it is awaited.
        """
        if self.leaving:
            raise HyperflowError("the program is being left; no more jobs are submitted")
        await self._shared.pacing.turn()
        return await self._driver_of_call(job, sent, options or self.defaults).result(on_error, within)

    def _driver_of_call(self, job: Flow[Any], sent: Flow[Any], options: SbatchOptions) -> JobDriver:
        identity = calls.identity(job)
        self._asked[identity] += 1
        identity = f"{identity}#{self._asked[identity]}"
        driver = self._unasked.pop(identity, None)
        if driver is not None:
            if driver.record.state is not State.DONE:  # the program may have been corrected since
                driver.directory.renew_call(calls.pack_job(sent), identity)
            return driver
        self._warn_of_similar(identity, job)
        number = max(self._drivers, default=0) + 1
        record = Record(number, identity, _cut(calls.for_people(job)), attrs.asdict(options))
        directory = self.run.add(record, calls.pack_job(sent))
        driver = self._drivers[number] = JobDriver(self._shared, directory, record, time(), asked=True)
        self._tell()
        return driver

    def _warn_of_similar(self, identity: str, job: Flow[Any]) -> None:
        """Warn of a new call while there are jobs of its function that nobody has called: was the program edited?"""
        name = calls.function_name(identity)
        similar = [driver.record for key, driver in self._unasked.items() if calls.function_name(key) == name]
        if similar and name not in self._warned:
            self._warned.add(name)
            logger.warning(
                "%s is a new call, although this run has %d job(s) of that function that the program has not asked for "
                "(%s); if it was edited since, they may not be asked for any more",
                job.used().step, len(similar), ", ".join(record.title for record in similar[:3]),
            )  # fmt: skip

    async def __aenter__(self) -> Self:
        try:
            self._take_up()
        except BaseException:
            await self.close(finished=False)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.close(finished=kind is None and not self.leaving)

    def _take_up(self) -> None:
        """Go on with the jobs of an earlier master."""
        doubtful: list[Record] = []
        for directory in self.run.jobs():
            try:
                record = directory.read_record()
            except (Damaged, OSError) as error:
                raise ConfigurationError(f"{error}; move {directory.path} away to go on without that job") from error
            driver = JobDriver(self._shared, directory, record, directory.changed_at())
            self._drivers[record.number] = self._unasked[record.identity] = driver
            if record.state in TAKEN_BACK and record.attempt is not None and not self.batch.local:
                doubtful.append(record)
            driver.start()
            if record.state in AT_REST and directory.databases():  # the earlier master could not take them over
                rows = driver.take_rows(ended=record.state is State.DONE)
                _ = self._shared.spawn(rows, f"rows of job {record.number}")
        if doubtful:  # the earlier master may have been killed between noting that and telling Slurm
            ending = self._shared.spawn(self._shared.end_at_slurm(doubtful, by_token=True), "end of earlier jobs")
            for record in doubtful:
                self._drivers[record.number].disposal = ending  # none of them is submitted again before

    async def close(self, finished: bool) -> None:
        """End the drivers, and tell what is left; if the program has `finished`, it wants no job any more."""
        for driver in self._drivers.values():
            driver.close(finished)
        await self._shared.close()
        if finished:
            self.run.finish()
            for one in self.unmatched():
                at_slurm = (
                    f"; it is with Slurm: scancel {one.batch_id}"
                    if one.state in WITH_SLURM and not self.batch.local
                    else ""
                )
                logger.warning("job %d: %s: the program no longer makes this call%s", one.number, one.name, at_slurm)
        elif not self.leaving and not self.batch.local:
            ids = [str(one.batch_id) for one in self.jobs() if one.state in WITH_SLURM and one.batch_id is not None]
            if ids:
                logger.warning(
                    "the program has ended with an error, and %d of its jobs are with Slurm; resumed, it goes on with "
                    "them: hyperflow resume %s. To end them: scancel %s",
                    len(ids), self.run.program.program_id, " ".join(ids),
                )  # fmt: skip


async def _disposed(drivers: Collection[JobDriver]) -> None:
    tasks = [driver.disposal for driver in drivers if driver.disposal is not None]
    if tasks:
        await asyncio.wait(tasks)


def _cut(text: str, size: int = 200) -> str:
    return text if len(text) <= size else text[: size - 3] + "..."
