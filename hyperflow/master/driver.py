"""Drivers: each takes one job from state to state, until it is at rest.

What happened is on the disk before anything depends on it: the token before sbatch is called, the Slurm id before the
job is watched, a job's rows and its end before the program sees the result. All writing is synchronous, in the event
loop's thread: the order of the writes is what the guarantees of the master stand on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import attrs

from hyperflow import files
from hyperflow.aio import settled
from hyperflow.checked_files import Damaged
from hyperflow.database.ingest import ingest
from hyperflow.database.store import Store
from hyperflow.environment import ResultsDatabase
from hyperflow.errors import (
    AllocationEnding,
    ConfigurationError,
    DatabaseError,
    HyperflowError,
    JobFailed,
    SlurmError,
)
from hyperflow.master import calls, causes, lifecycle, lockfiles, outcome
from hyperflow.master.batch import Batch, Order
from hyperflow.master.entry import Entry, Patience
from hyperflow.master.lifecycle import AT_REST, WITH_SLURM, Cause, Epoch, Kind, Record, State, Verdict
from hyperflow.master.room import Room
from hyperflow.master.turns import Turns
from hyperflow.slurm.queue import BatchState
from hyperflow.slurm.script import SbatchOptions

logger = logging.getLogger("hyperflow")

CERTAIN_END = frozenset({"COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "PREEMPTED", "DEADLINE"})
"""Slurm's words for an end after which nothing of a job runs; what ran on a lost node may go on for a while."""

LOOK_COST = 0.02
"""Seconds between two looks at files, whichever job's: with many jobs each is looked at less often, because the file
system is everybody's. (That a job has ended Slurm says, too.)"""

NO_RESULT_CODES = frozenset({70, 72})
"""Exit codes that say that the job was not run."""


class Drivers:
    """Drives the jobs of one program.

    Args:
        program_id: The program's.
        batch: Runs jobs.
        database: Where rows go.
        patience: How long is waited.
        room: How many jobs may be with Slurm.
        tell: Called when something has changed that people see.
        held: Called with a job that is held from now on.
    """

    def __init__(
        self,
        program_id: str,
        batch: Batch,
        database: ResultsDatabase,
        patience: Patience,
        room: Room,
        tell: Callable[[], None],
        held: Callable[[Entry], None],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.turns = Turns()
        self._program_id = program_id
        self._batch = batch
        self._database = database
        self._patience = patience
        self._room = room
        self._tell = tell
        self._held = held
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()  # those of them that wait for nothing that matters at the end
        self._sought: dict[str, asyncio.Future[list[int]]] = {}  # submissions that are looked for, by token

    # ---- what others ask for ------------------------------------------------------------------------------------

    def apply(self, entry: Entry, event: lifecycle.Event) -> None:
        """Take an event into the record, and the record to the disk."""
        after = lifecycle.step(entry.record, event)
        if after is not entry.record:
            self.put(entry, after)

    async def _apply_in_turn(self, entry: Entry, event: lifecycle.Event) -> None:
        """The same, in a turn of its own where it writes: squeue tells of many jobs at once."""
        if _durable(lifecycle.step(entry.record, event)) != _durable(entry.record):
            await self.turns.wait()
        self.apply(entry, event)

    def put(self, entry: Entry, after: Record) -> None:
        """Replace a record; raises ConfigurationError if it cannot be written."""
        before = entry.record
        if _durable(before) != _durable(after):
            entry.directory.write_record(after)
        entry.record = after
        if before.state is not after.state:
            entry.since = time.time()
            logger.info("%s: %s%s", entry.name, after.state, f" ({after.cause.text})" if after.cause else "")
        if before != after:
            self._tell()

    def start(self, entry: Entry) -> None:
        """Start a job's driver, unless it has one or needs none: what is not with Slurm yet waits for a flow."""
        state = entry.record.state
        if entry.driver is None and (state in WITH_SLURM or (state is State.NEW and entry.wanted)):
            entry.driver = self.spawn(self._drive(entry), f"driver of job {entry.record.number}")

    def stop(self, entry: Entry) -> None:
        """Let go of a job, and end it at Slurm; the caller says next what becomes of it."""
        if entry.driver is not None:
            entry.driver.cancel()
            entry.driver = None
        if entry.record.state in WITH_SLURM:
            self._dispose(entry)

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task that ends before `close` returns."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self, entries: Collection[Entry]) -> None:
        """End all drivers, and wait for them and for what still speaks with Slurm."""
        for entry in entries:
            if entry.driver is not None:
                entry.driver.cancel()
        for task in self._idle:
            task.cancel()
        await settled(asyncio.ensure_future(self._all_ended()))

    async def _all_ended(self) -> None:
        while ending := [task for task in self._tasks if not task.done()]:  # one that ends may start another one
            await asyncio.wait(ending)

    def answer(self, entry: Entry) -> None:
        """Give the flow that waits its result or error, if the job is at its end."""
        waiter, record = entry.waiter, entry.record
        if waiter is None or waiter.done():
            return
        if record.state is State.DONE:
            try:
                waiter.set_result(outcome.read_value(entry.directory, record.epoch))
            except Damaged as damage:
                self._fail(entry, Cause(Kind.RESULT, str(damage)))
                if entry.record.state is not State.DONE:
                    self.start(entry)
                    self.answer(entry)
        elif record.state is State.FAILED and record.cause is not None:
            waiter.set_exception(self.error(entry, record.cause))

    def error(self, entry: Entry, cause: Cause) -> Exception:
        """Return what the program gets for a failure: the job's own exception if that is the cause."""
        if cause.kind is Kind.EXCEPTION:
            with suppress(Damaged):
                if (own := outcome.read_error(entry.directory, entry.record.epoch)) is not None:
                    return own
        kind = causes.ERRORS.get(cause.kind, JobFailed)
        return kind(entry.name, cause.text, cause.slurm, str(entry.directory.path))

    async def end_at_slurm(self, records: Sequence[Record], by_token: bool = False) -> None:
        """End the newest attempts of jobs, wherever they are; a submission may be under way.

        With `by_token` only what Slurm itself says is theirs: in the long run it gives out its ids again.
        """
        attempts = [record.attempt for record in records if record.attempt is not None]
        ids = [attempt.batch_id for attempt in attempts if attempt.batch_id is not None and not by_token]
        tokens = [attempt.token for attempt in attempts if attempt.batch_id is None or by_token]
        try:
            if tokens:
                found = await self._batch.find(tokens)
                ids += [one for token in tokens for one in found[token]]
            if ids:
                await self._batch.cancel(ids)
        except SlurmError as error:
            logger.warning("jobs %s may still be with Slurm: %s", ids or tokens, error)

    # ---- from state to state ------------------------------------------------------------------------------------

    async def _drive(self, entry: Entry) -> None:
        me = asyncio.current_task()
        try:
            await self._room.enter(at_once=entry.record.state in WITH_SLURM)
            try:
                while entry.record.state not in AT_REST:
                    match entry.record.state:
                        case State.NEW:
                            if not entry.wanted:  # the program has not asked for it (yet)
                                return
                            await self._submit(entry)
                        case State.SUBMITTING:
                            await self._look_up(entry)
                        case State.QUEUED | State.RUNNING:
                            await self._follow(entry)
                        case _:
                            await self._conclude(entry)
            finally:
                self._room.leave()
        except Exception as error:
            # A driver that ended in silence would let the program wait for ever.
            explained = isinstance(error, HyperflowError)
            logger.error("%s cannot be driven on: %s", entry.name, error, exc_info=None if explained else error)
            if entry.waiter is not None and not entry.waiter.done():
                entry.waiter.set_exception(error)
        finally:
            if entry.driver is me:
                entry.driver = None
        self.answer(entry)

    async def _submit(self, entry: Entry) -> None:
        if entry.disposal is not None:  # an earlier attempt is just being ended
            await asyncio.wait([entry.disposal])
        number = entry.record.epoch.attempt + 1
        token = f"{self._program_id}-{entry.record.number}-{number}"
        self.apply(entry, lifecycle.Submitting(token))
        await self.take_rows(entry)  # of earlier attempts: this one begins with what the program's database has
        options = SbatchOptions(**entry.record.options)
        name = calls.function_name(entry.record.identity)
        try:
            batch_id = await self._batch.submit(Order(entry.directory, number, token, name, options))
        except (SlurmError, ConfigurationError) as error:
            self._fail(entry, causes.of_refusal(error))
        else:
            self.apply(entry, lifecycle.Accepted(batch_id))

    async def _look_up(self, entry: Entry) -> None:
        """Find out whether a submission, of which an earlier master has not noted the answer, came through."""
        attempt = entry.record.attempt
        assert attempt is not None
        found = await self._find(attempt.token)
        # A job that has ended long ago is no longer known to Slurm; but it has left its claim.
        claim = entry.directory.read_claim(attempt.number)
        if claim is not None:
            self.apply(entry, lifecycle.Accepted(int(claim["batch_id"])))
        elif found:
            self.apply(entry, lifecycle.Accepted(found[0]))
        else:
            self.apply(entry, lifecycle.NotThere())
        others = [one for one in found if one != entry.record.batch_id]
        if others:
            await self._batch.cancel(others)

    async def _find(self, token: str) -> list[int]:
        """Ask Slurm for a submission; all that are looked for at the same time share one question."""
        found: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._sought[token] = found
        if len(self._sought) == 1:
            asking = self.spawn(self._ask(), "question for submissions")
            self._idle.add(asking)
            asking.add_done_callback(self._idle.discard)
        return await found

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # the drivers of other jobs are just starting, too
        sought, self._sought = self._sought, {}
        try:
            found = await self._batch.find(list(sought))
        except Exception as error:  # noqa: BLE001 (it belongs to those who wait)
            for waiting in sought.values():
                if not waiting.done():
                    waiting.set_exception(error)
        else:
            for token, waiting in sought.items():
                if not waiting.done():
                    waiting.set_result(found[token])

    async def _follow(self, entry: Entry) -> None:
        """Watch a job that Slurm has until it has ended, or its result is there."""
        attempt = entry.record.attempt
        assert attempt is not None
        assert attempt.batch_id is not None
        watch = self._batch.watch(attempt.batch_id)
        state = watch.state
        hopeless_since = None
        while not state.final:
            if state.kind != "unknown":
                running = state.kind == "running"
                seen = lifecycle.Seen(attempt.number, running, state.restarts, state.nodes, state.reason)
                await self._apply_in_turn(entry, seen)
            if state.hopeless and hopeless_since is None:
                number = entry.record.number
                logger.warning("%s: %s (%s); hyperflow why %d", entry.name, state.hopeless, state.reason, number)
            hopeless_since = (hopeless_since or time.monotonic()) if state.hopeless else None
            if hopeless_since is not None and time.monotonic() - hopeless_since >= self._patience.hopeless:
                self._dispose(entry)
                self._fail(entry, Cause(Kind.HOPELESS, state.hopeless, state.description))
                return
            if entry.record.state is State.RUNNING:
                await self._look(entry)
                if self._newest_result(entry) is not None and await self._take_result(entry, None):
                    return
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._patience.look, LOOK_COST * len(self._tasks))):
                    state = await watch.changed(state)
        entry.end = state
        if self._batch.local and state.kind == "gone" and self._newest_result(entry) is None:
            self.apply(entry, lifecycle.NotThere())  # it ended with the master that had started it
        else:
            await self._apply_in_turn(entry, lifecycle.Over(attempt.number, state.restarts))

    async def _look(self, entry: Entry) -> None:
        """Take note of what a running job says of itself, and now and then of what it has recorded."""
        self._read_status(entry)
        if not entry.rows_taken:
            entry.rows_taken = time.monotonic()
        elif time.monotonic() - entry.rows_taken >= self._patience.rows:
            await self.take_rows(entry)
            entry.rows_taken = time.monotonic()

    def _read_status(self, entry: Entry) -> None:
        status = entry.directory.read_status()
        if status is not None and status != entry.status:
            entry.status = status
            self._tell()

    async def _conclude(self, entry: Entry) -> None:
        """Slurm has the job no more: find its outcome."""
        _free_locks(entry, entry.record.epoch)
        state = entry.end or BatchState("gone")
        deadline = time.monotonic()
        if not self._batch.local and state.exit_code not in NO_RESULT_CODES and not state.unseen:
            deadline += self._patience.grace
        pause = 0.05
        while (found := self._newest_result(entry)) is None and time.monotonic() < deadline:
            if (other := self._taken_by(entry)) is not None:
                self.apply(entry, lifecycle.Taken(other))
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
        if found is None or not await self._take_result(entry, state):
            await self.take_rows(entry, ended=state.slurm_state in CERTAIN_END)
            self._fail(entry, causes.of_end(state, files.tail(entry.directory.output)))

    def _taken_by(self, entry: Entry) -> int | None:
        """Return the Slurm job that has taken the newest attempt, if it is another than the one we know of."""
        claim = entry.directory.read_claim(entry.record.epoch.attempt)
        return None if claim is None or claim["batch_id"] == entry.record.batch_id else int(claim["batch_id"])

    # ---- outcomes -----------------------------------------------------------------------------------------------

    def _newest_result(self, entry: Entry) -> Epoch | None:
        """Return the start whose result counts, if there is one; take note of results that do not count."""
        current = entry.record.epoch
        for epoch in reversed(entry.directory.results()):
            if epoch.attempt == current.attempt and epoch >= current:
                return epoch
            if epoch not in entry.late:
                entry.late.add(epoch)
                # Those of earlier attempts were looked at in their time.
                if epoch.attempt == current.attempt and not outcome.is_cut_off(entry.directory, epoch):
                    self.counts["late"] += 1
                    logger.warning(
                        "%s: a result of start %s came late, when %s was the one that counts; it is left aside",
                        entry.name, epoch, current,
                    )  # fmt: skip
        return None

    async def _take_result(self, entry: Entry, state: BatchState | None) -> bool:
        """Take the newest result; return False if Slurm has to say first why the job has ended."""
        epoch = self._newest_result(entry)
        assert epoch is not None
        try:
            error = outcome.read_error(entry.directory, epoch)
        except Damaged as damage:
            await self.take_rows(entry, ended=state is not None)
            self._fail(entry, Cause(Kind.RESULT, str(damage)))
            return True
        if isinstance(error, AllocationEnding) and state is None:
            return False
        self.apply(entry, lifecycle.Restarted(epoch))  # squeue may not have said so yet
        self._read_status(entry)
        await self.take_rows(entry, ended=True)  # the result was written after the job's database was closed
        if error is None:
            await self._apply_in_turn(entry, lifecycle.Finished(epoch))
        else:
            self._fail(entry, causes.of_error(error, state))
        return True

    def _fail(self, entry: Entry, cause: Cause) -> None:
        verdict = self.verdict(entry, cause)
        entry.unjudged = not entry.asked
        self.apply(entry, lifecycle.Failed(entry.record.epoch.attempt, cause, verdict))
        if verdict is Verdict.AGAIN:
            self.counts["retried"] += 1
        elif verdict is Verdict.HOLD:
            self.tell_held(entry)
            self._held(entry)

    def tell_held(self, entry: Entry) -> None:
        """Say that a job waits for somebody's decision."""
        number, cause = entry.record.number, entry.record.cause
        if cause is not None:
            logger.warning("%s is held: %s: %s (hyperflow why %d)", entry.name, cause.kind, cause.text, number)

    def verdict(self, entry: Entry, cause: Cause) -> Verdict:
        """Return what the program wants done about a failure."""
        return causes.verdict(entry.on_error, self.error(entry, cause), cause.kind, entry.record.failures)

    async def take_rows(self, entry: Entry, ended: bool = False) -> None:
        """Take what a job has recorded into the program's database; `ended`: nobody writes to its file any more."""
        if not isinstance(self._database, Store):
            return  # one that jobs write to themselves
        for epoch in entry.directory.databases():
            path = entry.directory.database(epoch)
            over = ended or epoch < entry.record.epoch
            program_id = f"{self._program_id}-{entry.record.number}-{epoch}"
            try:
                await ingest(self._database, path, program_id, ended=over)
            except (DatabaseError, ConfigurationError) as error:
                logger.warning("%s: what it has recorded in %s is left there: %s", entry.name, path, error)
            else:
                if over:
                    path.unlink(missing_ok=True)
                    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a process that was killed

    def _dispose(self, entry: Entry) -> None:
        entry.disposal = self.spawn(self.end_at_slurm([entry.record]), f"end of job {entry.record.number}")
        if (entry.directory.home / "locks").exists():
            waiting = self.spawn(self._free_when_gone(entry, entry.record), f"locks of job {entry.record.number}")
            self._idle.add(waiting)
            waiting.add_done_callback(self._idle.discard)

    async def _free_when_gone(self, entry: Entry, record: Record) -> None:
        """Free the locks of a start that is being ended, when it has gone."""
        assert entry.disposal is not None
        await asyncio.wait([entry.disposal])
        if record.batch_id is not None:
            watch = self._batch.watch(record.batch_id)
            state = watch.state
            while not state.final:
                state = await watch.changed(state)
            _free_locks(entry, record.epoch)


def _free_locks(entry: Entry, epoch: Epoch) -> None:
    number = entry.record.number
    lockfiles.sweep(entry.directory.home, lambda holder: holder.job == number and holder.epoch <= epoch)


def _durable(record: Record) -> Record:
    """Return what of a record is on the disk; the rest Slurm can tell again at any time."""
    return attrs.evolve(record, nodes="", reason="")
