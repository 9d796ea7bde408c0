"""The master: runs the jobs of one program, and can be killed at any moment.

Guarantees:
- What happened is in the run directory before anything depends on it. Started again, a master goes on from there: what
  is queued or runs is watched, results that are there are used, nothing is submitted twice, nothing done is done again.
- A submission has its token on the disk before sbatch is called. Whether that call came through is asked of Slurm by
  the token, not guessed; and should two come through all the same, only the first of them does the work.
- A job that fails is held with its cause, and the flow that awaits it goes on waiting; others are not disturbed.
- A result counts if it is sound and of the newest start of its job. Any other is left aside, told, and counted.
- What a job has recorded is in the program's database before the program sees the job's result.

This module is what the program and people see of it; how a job goes from state to state is in `driver`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from hyperflow.aio import Changing
from hyperflow.checked_files import Damaged
from hyperflow.environment import ResultsDatabase
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.flow import Flow
from hyperflow.master import calls, lifecycle
from hyperflow.master.batch import Batch
from hyperflow.master.driver import Drivers
from hyperflow.master.entry import ClusterStatistics, Entry, Patience
from hyperflow.master.lifecycle import AT_REST, WITH_SLURM, Cause, Kind, Record, State, Verdict
from hyperflow.master.mail import Mailer
from hyperflow.master.room import Room
from hyperflow.master.rundir import RunDirectory
from hyperflow.master.view import JobView, story
from hyperflow.slurm.script import SbatchOptions

logger = logging.getLogger("hyperflow")

TAKEN_BACK = frozenset({State.CANCELLED, State.HELD, State.NEW})
"""States in which an attempt may have been ended, without Slurm having heard of it."""


class Master:
    """Runs the jobs of one program. Made by `open_master`.

    Args:
        run: The run directory.
        batch: Slurm, or this machine.
        database: The program's results.
        defaults: What is asked of Slurm where a call says nothing.
        max_jobs: How many jobs may be with Slurm at a time; None for all.
        patience: How long is waited for what.
        mailer: Tells somebody of jobs that are held.
    """

    def __init__(
        self,
        run: RunDirectory,
        batch: Batch,
        database: ResultsDatabase,
        *,
        defaults: SbatchOptions | None = None,
        max_jobs: int | None = None,
        patience: Patience | None = None,
        mailer: Mailer | None = None,
    ) -> None:
        self.run = run
        self.batch = batch
        self.defaults = defaults or SbatchOptions()
        self._version = Changing(0)
        self.leaving = False
        self._patience = patience or Patience()
        self._mailer = mailer
        self._drivers = Drivers(
            run.program.program_id, batch, database, self._patience, Room(max_jobs), self._tell, self._on_held
        )
        self._abandoned: dict[int, asyncio.TimerHandle] = {}
        self._entries: dict[int, Entry] = {}
        self._unasked: dict[str, Entry] = {}
        self._asked: Counter[str] = Counter()
        self._warned: set[str] = set()

    # ---- for people ---------------------------------------------------------------------------------------------

    def jobs(self) -> list[JobView]:
        """Return how all jobs stand, by number."""
        return [entry.view() for _, entry in sorted(self._entries.items())]

    @property
    def version(self) -> int:
        """Grows with every change that a list of jobs would show."""
        return self._version.value

    async def changed(self, seen: int = -1) -> int:
        """Wait until `version` is another than `seen`, and return it."""
        return await self._version.changed(seen)

    def _tell(self) -> None:
        self._version.set(self.version + 1)

    def _on_held(self, entry: Entry) -> None:
        if self._mailer is not None:
            run = self.run.program.program_id
            subject = f"hyperflow: {entry.name} of {run} on {socket.gethostname()} is held"
            about = f"{story(entry.record, entry.directory)}\n\nThe run: {self.run.home}\n"
            sending = self._drivers.spawn(self._mailer.send(subject, about), f"mail about job {entry.record.number}")
            sending.add_done_callback(_look_at)

    def why(self, number: int) -> str:
        """Tell all that is known of a job, and what can be done about it."""
        entry = self._entry(number)
        return story(entry.record, entry.directory)

    def numbers(self, *states: State) -> list[int]:
        """Return the numbers of the jobs in these states: `master.numbers(State.HELD)` for `retry --all`."""
        return [number for number, entry in sorted(self._entries.items()) if entry.record.state in states]

    async def retry(self, numbers: Collection[int], **changes: Any) -> list[JobView]:
        """Submit jobs again that are held, have failed or were cancelled.

        Args:
            numbers: Which.
            changes: What to request of Slurm otherwise than before: `time="2:00:00"`, `mem="8G"`, ...

        Raises:
            ConfigurationError: A number or an option does not exist, or a job is not at rest; then nothing is done.
        """
        words = "only what is held is tried again (cancel holds it)"
        chosen = self._chosen(numbers, {State.HELD, State.FAILED, State.CANCELLED}, words)
        options: list[Mapping[str, Any]] = [
            attrs.asdict(SbatchOptions(**entry.record.options).changed(**changes)) for entry in chosen
        ]
        for entry, its_options in zip(chosen, options, strict=True):
            self._drivers.apply(entry, lifecycle.Retry(its_options))
            self._drivers.counts["retried"] += 1
            self._drivers.start(entry)
        return [entry.view() for entry in chosen]

    async def cancel(self, numbers: Collection[int]) -> None:
        """End jobs at Slurm, or take them from its queue; they are held then, and can be retried or given up.

        Raises:
            ConfigurationError: A number does not exist, or the job is at rest; then nothing is done.
        """
        chosen = self._chosen(numbers, set(State) - AT_REST, "there is nothing to cancel")
        for entry in chosen:
            self._drivers.stop(entry)
            cause = Cause(Kind.CANCELLED, "it was cancelled by `hyperflow cancel`")
            self._drivers.apply(entry, lifecycle.Failed(entry.record.epoch.attempt, cause, Verdict.HOLD))
        await _disposed(chosen)

    async def give_up(self, numbers: Collection[int]) -> None:
        """Hand the errors of held jobs to the program, as `on_error="raise"` would have done.

        Raises:
            ConfigurationError: A number does not exist, or the job is not held; then nothing is done.
        """
        for entry in self._chosen(numbers, {State.HELD}, "only what is held can be given up"):
            self._drivers.put(entry, attrs.evolve(entry.record, state=State.FAILED))
            self._drivers.answer(entry)

    async def leave(self, cancel_jobs: bool) -> None:
        """Prepare for the end of the program before its work is done.

        Args:
            cancel_jobs: End all jobs; else they stay with Slurm, and a later master finds them and their results.
                (Jobs on this machine end with the master.)

        After that, flows may be cancelled without an effect on jobs that were left.
        """
        self.leaving = True
        if cancel_jobs:
            active = [entry for entry in self._entries.values() if entry.record.state in WITH_SLURM | {State.NEW}]
            for entry in active:
                self._drivers.stop(entry)
                self._drivers.apply(entry, lifecycle.Cancel())
            await _disposed(active)

    def statistics(self) -> ClusterStatistics:
        """Return how things stand; cheap."""
        states = Counter(str(entry.record.state) for entry in self._entries.values())
        counts = self._drivers.counts
        return ClusterStatistics(
            waiting=states[State.NEW] + states[State.SUBMITTING] + states[State.QUEUED],
            running=states[State.RUNNING] + states[State.ENDED],
            done=states[State.DONE],
            failed=states[State.FAILED],
            cancelled=states[State.CANCELLED],
            retried=counts["retried"],
            returned=sum(entry.record.epoch.restarts for entry in self._entries.values()),
            late=counts["late"],
            jobs=dict(states),
            held=states[State.HELD],
            calls=dict(self.batch.calls),
        )

    def unmatched(self) -> list[JobView]:
        """Return the jobs of an earlier run of the program that this one has not asked for (so far)."""
        return [entry.view() for entry in self._unasked.values()]

    def _entry(self, number: int) -> Entry:
        try:
            return self._entries[number]
        except KeyError:
            there = f"there are 1 to {max(self._entries)}" if self._entries else "there is none yet"
            raise ConfigurationError(f"there is no job {number}; {there}") from None

    def _chosen(self, numbers: Collection[int], states: Collection[State], otherwise: str) -> list[Entry]:
        """Return entries that are all in one of these states."""
        chosen = [self._entry(number) for number in dict.fromkeys(numbers)]
        for entry in chosen:
            if entry.record.state not in states:
                raise ConfigurationError(f"{entry.name} is {entry.record.state}; {otherwise}")
        return chosen

    # ---- for the program ----------------------------------------------------------------------------------------

    async def call(
        self,
        job: Flow[Any],
        sent: Flow[Any],
        options: SbatchOptions | None,
        on_error: object,
        within: Sequence[str] = (),
    ) -> Any:
        """Run a job in an allocation of its own, or go on with what an earlier master knows of this call.

        Args:
            job: What the program has called, by which the call is known again.
            sent: What is sent: the same with the options in force.
            options: What is asked of Slurm.
            on_error: What is done about failures.
            within: In the scope of which locks it is awaited.
        """
        if self.leaving:
            raise HyperflowError("the program is being left; no more jobs are submitted")
        await self._drivers.turns.wait()
        entry = self._entry_of_call(job, sent, options or self.defaults)
        entry.on_error = on_error
        waiter = entry.waiter = asyncio.get_running_loop().create_future()
        self._judge(entry)
        entry.directory.write_scope(within)
        if entry.record.state is State.CANCELLED:  # an earlier run had no use for it any more, this one has
            self._drivers.apply(entry, lifecycle.Retry())
        if entry.record.state is State.HELD:  # since an earlier run
            self._drivers.tell_held(entry)
        self._drivers.answer(entry)
        self._drivers.start(entry)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled() and not self.leaving:
                # Maybe because the program is just ending with an error: then its jobs had better stay.
                loop = asyncio.get_running_loop()
                pause = 0.0 if self.batch.local else self._patience.second_thoughts
                timer = loop.call_later(pause, self._abandon, entry)
                self._abandoned[entry.record.number] = timer
            raise
        finally:
            entry.waiter = None  # the result is the program's now; the master would keep all of them for its life

    def _abandon(self, entry: Entry) -> None:
        """End a job that no flow waits for any more."""
        self._abandoned.pop(entry.record.number).cancel()
        self._drivers.stop(entry)
        self._drivers.apply(entry, lifecycle.Cancel())

    def _entry_of_call(self, job: Flow[Any], sent: Flow[Any], options: SbatchOptions) -> Entry:
        identity = calls.identity(job)
        self._asked[identity] += 1
        identity = f"{identity}#{self._asked[identity]}"
        entry = self._unasked.pop(identity, None)
        if entry is not None:
            entry.asked = True
            if entry.record.state is not State.DONE:  # the program may have been mended since
                entry.directory.renew_call(calls.pack_job(sent), identity)
            return entry
        self._warn_of_similar(identity, job)
        number = max(self._entries, default=0) + 1
        record = Record(number, identity, _cut(str(job.used().step)), attrs.asdict(options))
        directory = self.run.add(record, calls.pack_job(sent))
        entry = self._entries[number] = Entry(directory, record, time.time(), asked=True)
        self._tell()
        return entry

    def _warn_of_similar(self, identity: str, job: Flow[Any]) -> None:
        """A call is new, while jobs of the same function wait to be asked for: has the program been edited?"""
        name = calls.function_name(identity)
        similar = [entry for key, entry in self._unasked.items() if calls.function_name(key) == name]
        if similar and name not in self._warned:
            self._warned.add(name)
            logger.warning(
                "%s is a new call, although this run has %d job(s) of that function that the program has not asked for "
                "(%s); if it was edited since, they may not be asked for any more",
                job.used().step, len(similar), ", ".join(entry.name for entry in similar[:3]),
            )  # fmt: skip

    def _judge(self, entry: Entry) -> None:
        """Apply the program's answer to a failure that was found before the program had asked for the job."""
        cause = entry.record.cause
        if entry.unjudged and entry.record.state is State.HELD and cause is not None:
            verdict = self._drivers.verdict(entry, cause)
            if verdict is Verdict.RAISE:
                self._drivers.put(entry, attrs.evolve(entry.record, state=State.FAILED))
            elif verdict is Verdict.AGAIN:
                self._drivers.apply(entry, lifecycle.Retry())
        entry.unjudged = False

    # ---- start and end ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what an earlier master has left."""
        doubtful: list[Record] = []
        for directory in self.run.jobs():
            try:
                record = directory.read_record()
            except (Damaged, OSError) as error:
                raise ConfigurationError(f"{error}; move {directory.path} away to go on without that job") from error
            since = (directory.path / "job.json").stat().st_mtime
            entry = self._entries[record.number] = Entry(directory, record, since, status=directory.read_status())
            self._unasked[record.identity] = entry
            if record.state in TAKEN_BACK and record.attempt is not None and not self.batch.local:
                doubtful.append(record)
            self._drivers.start(entry)
            if record.state in AT_REST and directory.databases():  # the earlier master could not take them over
                rows = self._drivers.take_rows(entry, ended=record.state is State.DONE)
                self._drivers.spawn(rows, f"rows of job {record.number}").add_done_callback(_look_at)
        if doubtful:  # the earlier master may have been killed between noting that and telling Slurm
            ending = self._drivers.end_at_slurm(doubtful, by_token=True)
            self._drivers.spawn(ending, "end of earlier jobs").add_done_callback(_look_at)

    async def close(self, finished: bool) -> None:
        """End the drivers, and tell what is left.

        Args:
            finished: The program has come to its own end; what it does not wait for any more it does not want.
        """
        for number, timer in list(self._abandoned.items()):
            timer.cancel()
            if finished:
                self._abandon(self._entries[number])
        await self._drivers.close(list(self._entries.values()))
        if finished:
            for one in self.unmatched():
                at_slurm = f"; it is with Slurm: scancel {one.batch_id}" if one.state in WITH_SLURM else ""
                logger.warning("job %d: %s: the program no longer makes this call%s", one.number, one.name, at_slurm)
        elif not self.leaving and not self.batch.local:
            ids = [str(one.batch_id) for one in self.jobs() if one.state in WITH_SLURM and one.batch_id is not None]
            if ids:
                logger.warning(
                    "the program has ended with an error, and %d of its jobs are with Slurm; resumed, it goes on with "
                    "them: hyperflow resume %s. To end them: scancel %s",
                    len(ids), self.run.program.program_id, " ".join(ids),
                )  # fmt: skip


def _look_at(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s failed: %s", task.get_name(), error)


async def _disposed(entries: Collection[Entry]) -> None:
    tasks = [entry.disposal for entry in entries if entry.disposal is not None]
    if tasks:
        await asyncio.wait(tasks)


def _cut(text: str, size: int = 200) -> str:
    return text if len(text) <= size else text[: size - 3] + "..."


@asynccontextmanager
async def open_master(
    run: RunDirectory, batch: Batch, database: ResultsDatabase, **options: Any
) -> AsyncIterator[Master]:
    """Run a master for a scope; see Master for the options. At the end of the scope its drivers have ended."""
    master = Master(run, batch, database, **options)
    finished = False
    try:
        await master.start()
        yield master
        finished = True
    finally:
        await master.close(finished and not master.leaving)
