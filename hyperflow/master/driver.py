"""One job of a program: its driver takes it from state to state, and answers the flow that waits for it.

The job's directory is a write-ahead log: what happens is on the disk before anything depends on it. The idempotency
key of a submission is there before sbatch is called, the Slurm id before the job is watched, a job's rows and its end
before the program sees the result. All writes are synchronous, in the event loop's thread, because the guarantees of
the master rest on their order.

A driver has a task while it has something to do: while it submits, takes in news, looks for a result. A job that waits
for a slot, that Slurm has queued or runs, or that is held or done has none. `wake` starts the task again; the driver
then looks at everything that may be new. Rejected: one task per job that waits for its next event. A program has
thousands of jobs, and nearly all of them wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs

from hyperflow.checked_files import Damaged
from hyperflow.database.ingest import ingest
from hyperflow.database.store import Store
from hyperflow.errors import (
    AllocationEnding,
    ConfigurationError,
    DatabaseError,
    HyperflowError,
    JobFailed,
    SlurmError,
)
from hyperflow.master import calls, causes, lockfiles
from hyperflow.master.batch import Order
from hyperflow.master.lifecycle import AT_REST, WITH_SLURM, Cause, Epoch, Kind, Record, State, Verdict
from hyperflow.master.rundir import CUT_OFF, JobDirectory
from hyperflow.master.shared import Shared
from hyperflow.master.view import JobView
from hyperflow.slurm import refusal
from hyperflow.slurm.client import Watch
from hyperflow.slurm.queue import BatchState
from hyperflow.slurm.script import SbatchOptions

logger = logging.getLogger("hyperflow")

SLOWEST_LOOK = 60.0
"""Seconds between two looks for the late result of a job that is held; the first ones follow each other faster."""

NO_RESULT_CODES = frozenset({70, 72})
"""Exit codes that say that the job was not run."""


class JobDriver:
    """A job in the master's process: its record, the flow that waits for it, and the task that carries it on.

    `since` is when the job came into its state; `asked`, whether the program has called it in this process.
    """

    def __init__(
        self, shared: Shared, directory: JobDirectory, record: Record, since: float, asked: bool = False
    ) -> None:
        self.directory = directory
        self.record = record
        self.disposal: asyncio.Task[Sequence[int]] | None = None
        """Ends the job at Slurm."""
        self._shared = shared
        self._since = since
        self._asked = asked
        self._on_error: object = "hold"
        self._unjudged = False  # it has failed before the program has called it
        self._waiter: asyncio.Future[Any] | None = None
        self._second_thoughts: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._stuck = False  # something unforeseen has gone wrong; the next call or retry tries again
        self._watch: Watch | None = None
        self._hopeless: tuple[float, asyncio.TimerHandle] | None = None  # since when; the timer that wakes us
        self._end: BatchState | None = None
        self._status = directory.read_status() if record.attempts else None
        self._rows_taken = time.monotonic()
        self._late: set[Epoch] = set()  # starts of which a result was found that does not count
        self._outcome: tuple[Epoch, calls.Value | Exception] | None = None  # read once, held until answered
        self._next_look = self._look_pause = 0.0  # for a late result, while it is held
        self._no_late_result: Epoch | None = None  # a start whose result is there, and is none that counts

    def view(self) -> JobView:
        return JobView.of(self.record, self.directory, self._status, self._since)

    async def result(self, on_error: object, within: Sequence[str]) -> Any:
        """Return what the job returns, or raise what follows from its failure; for the arguments see `Master.call`.

        Cancelling this ends the job at Slurm a little later, unless the program ends before that.
        """
        self._on_error, self._asked = on_error, True
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            self._judge()
            self.directory.write_scope(within)
            if self.record.state is State.CANCELLED:  # an earlier run no longer wanted it, this one does
                self._put(self.record.retried())
            if self.record.state is State.HELD:  # since an earlier run
                self._tell_held()
            self._answer()
            self.start()
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled() and not self._shared.leaving:
                # If the program is just ending with an error, its jobs are to stay.
                pause = 0.0 if self._shared.batch.local else self._shared.timeouts.second_thoughts
                self._second_thoughts = asyncio.get_running_loop().call_later(pause, self.abandon)
            raise
        finally:
            self._waiter = None  # else the master would keep all results as long as it lives
            del waiter  # it knows the error, whose traceback knows this frame

    def _judge(self) -> None:
        """Apply `on_error` to a failure that happened before this program called the job."""
        cause = self.record.cause
        if self._unjudged and self.record.state is State.HELD and cause is not None:
            verdict = self._verdict(cause)
            if verdict is Verdict.RAISE:
                self._put(attrs.evolve(self.record, state=State.FAILED))
            elif verdict is Verdict.AGAIN:
                self._put(self.record.retried())
        self._unjudged = False

    def _waiting(self) -> asyncio.Future[Any] | None:
        """Return what the flow that waits for it awaits, if there is such a flow."""
        return None if self._waiter is None or self._waiter.done() else self._waiter

    def _answer(self) -> None:
        """Give the flow that waits its result or error, if the job is at its end, and let go of what was read."""
        waiter, cause = self._waiting(), self.record.cause
        if waiter is None:
            self._outcome = None
        elif self.record.state is State.DONE:
            try:
                waiter.set_result(self._value())
                self._outcome = None
            except Damaged as damage:
                self._outcome = None
                self._fail(Cause(Kind.RESULT, str(damage)))
                self.start()
                self._answer()
        elif self.record.state is State.FAILED and cause is not None:
            waiter.set_exception(self._error(cause))
            self._outcome = None

    def _load(self, epoch: Epoch) -> calls.Value | Exception:
        """Return how a start has ended, read once; raises Damaged."""
        if self._outcome is None or self._outcome[0] != epoch:
            self._outcome = epoch, calls.unpack(*self.directory.read_result(epoch))
        return self._outcome[1]

    def _value(self) -> Any:
        outcome = self._load(self.record.epoch)
        if isinstance(outcome, calls.Value):
            return outcome.make()
        raise Damaged(f"{self.directory.result(self.record.epoch)} contains an error, although job.json says done")

    def _error(self, cause: Cause) -> Exception:
        """Return what the program gets for a failure: the job's own exception, if that is the cause."""
        if cause.kind is Kind.EXCEPTION:
            with suppress(Damaged):
                outcome = self._load(self.record.epoch)
                if isinstance(outcome, Exception):
                    return outcome
        kind = causes.ERRORS.get(cause.kind, JobFailed)
        return kind(self.record.title, cause.text, cause.slurm, str(self.directory.path))

    def retry(self, options: Mapping[str, Any]) -> None:
        if self._has_late_result():
            self._put(self.record.resulted())
        else:
            self._put(self.record.retried(options))
        self._shared.counts["retried"] += 1
        self.start()

    def cancel(self) -> None:
        """End it at Slurm, and hold it."""
        self._stop()
        cause = Cause(Kind.CANCELLED, "it was cancelled by `hyperflow cancel`")
        self._put(self.record.failed(self.record.epoch.attempt, cause, Verdict.HOLD))

    def give_up(self) -> None:
        self._put(attrs.evolve(self.record, state=State.FAILED))
        self._answer()

    def abandon(self) -> None:
        """End it for good: no flow waits for it any more."""
        self._stop()
        self._put(self.record.cancelled())

    def close(self, finished: bool) -> None:
        """Decide about a job whose await was cancelled a moment ago: if the program has finished, nobody wants it."""
        if self._second_thoughts is not None:
            self._second_thoughts.cancel()
            if finished:
                self.abandon()

    def start(self) -> None:
        """Carry the job on, if there is anything to do; a new one is not submitted before a flow waits for it."""
        self._stuck = False
        if self.record.state in WITH_SLURM:
            self._shared.slots.occupy(self.record.number)
            if self.record.state is State.RUNNING:
                self._shared.look_at(self.record.number, self.wake)
        self._look_for_late_result()
        self.wake()

    def wake(self) -> None:
        """Look at what is new. Cheap, and may be called at any time."""
        state = self.record.state
        idle = self._task is None and not self._stuck and not self._shared.closed
        if idle and (state in WITH_SLURM or (state is State.NEW and self._waiting())):
            self._task = self._shared.spawn(self.run(), f"driver of job {self.record.number}", finish=False)

    async def run(self) -> None:
        """Take the job from state to state, until there is nothing to do or it has to wait for Slurm or a slot."""
        me = asyncio.current_task()
        try:
            while self.record.state not in AT_REST and await self._advance():
                pass
        except Exception as error:
            # Without this, the flow would never return.
            self._stuck = True
            trace = None if isinstance(error, HyperflowError) else error
            logger.error("the master cannot go on with %s: %s", self.record.title, error, exc_info=trace)
            if waiter := self._waiting():
                waiter.set_exception(error)
        finally:
            if self._task is me:  # else `_stop` was called, and there may be a new task
                self._task = None
                state = self.record.state
                if self._stuck or state in AT_REST or (state is State.NEW and not self._waiting()):
                    self._shared.slots.give_back(self.record.number)
                    self._shared.look_away(self.record.number)
                self._look_for_late_result()
        self._answer()

    async def _advance(self) -> bool:
        """Take the next step; return False if there is nothing to do but wait."""
        match self.record.state:
            case State.NEW:
                if not self._waiting() or not self._shared.slots.take(self.record.number, self.wake):
                    return False
                await self._submit()
            case State.SUBMITTING:
                await self._look_up()
            case State.QUEUED | State.RUNNING:
                return await self._follow()
            case _:
                await self._conclude()
        return True

    def _stop(self) -> None:
        """Let go of the job, and end it at Slurm; the caller decides about its next state."""
        if self._second_thoughts is not None:
            self._second_thoughts.cancel()
            self._second_thoughts = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._shared.slots.give_back(self.record.number)
        self._shared.look_away(self.record.number)
        if self.record.state in WITH_SLURM:
            self._dispose()

    def _look_for_late_result(self) -> None:
        """While it is held, look now and then whether its newest start has gone on and left a sound result."""
        if self.record.state is State.HELD and self.record.may_have_gone_on and not self._shared.batch.local:
            self._next_look = self._look_pause = 0.0
            self._shared.look_at(self.record.number, self._look_once)

    def _look_once(self) -> None:
        now = time.monotonic()
        if now < self._next_look or self._task is not None:
            return
        self._look_pause = min(2 * self._look_pause or self._shared.timeouts.look, SLOWEST_LOOK)
        self._next_look = now + self._look_pause
        if self.record.state is not State.HELD:
            self._shared.look_away(self.record.number)
        elif self._has_late_result():
            self._shared.look_away(self.record.number)
            self._put(self.record.resulted())
            self.start()

    def _has_late_result(self) -> bool:
        """Whether a start that was given up has left a sound value after all; no later one has been submitted."""
        if not self.record.may_have_gone_on:
            return False
        try:
            epoch = self._newest_result()
            if epoch is None or epoch == self._no_late_result:
                return False
            if isinstance(self._load(epoch), calls.Value):
                logger.warning("%s: a result has come late; it counts", self.record.title)
                return True
            self._no_late_result, self._outcome = epoch, None
        except (OSError, HyperflowError):  # not whole yet, or damaged
            return False
        return False

    def _dispose(self) -> None:
        number = self.record.number
        self.disposal = self._shared.spawn(self._shared.end_at_slurm([self.record]), f"end of job {number}")
        if (self.directory.home / "locks").exists():
            freeing = self._free_when_gone(self.record, self.disposal)
            _ = self._shared.spawn(freeing, f"locks of job {number}", finish=False)

    async def _free_when_gone(self, record: Record, disposal: asyncio.Task[Sequence[int]]) -> None:
        """Free the locks of a start when Slurm has ended it."""
        await asyncio.wait([disposal])
        if record.batch_id is not None:
            watch = self._shared.batch.watch(record.batch_id)
            while not watch.state.final:
                await watch.changed(watch.state)
            self._free_locks(record.epoch)

    def _free_locks(self, epoch: Epoch) -> None:
        number = self.record.number
        lockfiles.sweep(self.directory.home, lambda holder: holder.job == number and holder.epoch <= epoch)

    async def _put_paced(self, after: Record) -> None:
        """Replace the record, in a turn of its own if that writes: one answer of squeue may concern many jobs."""
        before = self.record
        if _durable(after) != _durable(before):
            await self._shared.pacing.turn()
        if self.record is before:  # it has not moved since
            self._put(after)

    def _put(self, after: Record) -> None:
        """Replace the record; raises ConfigurationError if it cannot be written."""
        before = self.record
        if after is before:
            return
        if _durable(before) != _durable(after):
            self.directory.write_record(after)
        self.record = after
        if before.state is not after.state:
            self._since = time.time()
            logger.info("%s: %s%s", after.title, after.state, f" ({after.cause.text})" if after.cause else "")
            if after.state is State.RUNNING:
                self._shared.look_at(after.number, self.wake)
            else:
                self._shared.look_away(after.number)
        if before != after:
            self._shared.tell()

    async def _submit(self) -> None:
        if self.disposal is not None:  # an earlier attempt is just being ended
            await asyncio.wait([self.disposal])
        await self._end_for_sure()
        if self._has_late_result():
            self._put(self.record.resulted())
            return
        number = self.record.epoch.attempt + 1
        token = f"{self._shared.program_id}-{self.record.number}-{number}"
        self._put(self.record.submitting(token))
        self._outcome = None  # of an earlier attempt
        await self.take_rows()  # of earlier attempts: this one begins with what the program's database has
        options = SbatchOptions(**self.record.options)
        name = calls.function_name(self.record.identity)
        try:
            order = Order(self.directory, self._shared.program_id, number, token, name, options)
            batch_id = await self._shared.batch.submit_order(order)
        except (SlurmError, ConfigurationError) as error:
            said = str(error)
            self._fail(Cause(Kind.REFUSED, f"it could not be submitted: {refusal.gist(said)}", said))
        else:
            self._put(self.record.accepted(batch_id))

    async def _end_for_sure(self) -> None:
        """Cancel an earlier attempt, whatever Slurm says of it: two must not run side by side.

        One without an id was stopped while sbatch ran, or sbatch gave no answer: it may be with Slurm all the same.
        """
        attempt = self.record.attempt
        if attempt is None or self._shared.batch.local or (attempt.batch_id is not None and self._end is None):
            return
        ended = await self._shared.end_at_slurm([self.record])
        if not ended:
            self._put(self.record.nowhere())
        try:
            async with asyncio.timeout(self._shared.timeouts.cancelled):
                for batch_id in ended:
                    watch = self._shared.batch.watch(batch_id)
                    while not watch.state.final:
                        await watch.changed(watch.state)
        except TimeoutError:
            text = "%s: its earlier attempt was cancelled, and Slurm still has it (%s); it is submitted again"
            logger.warning(text, self.record.title, ended)
        self._end = None  # not before: this may be cancelled at any await

    async def _look_up(self) -> None:
        """Find out whether a submission came through whose answer an earlier master has not noted."""
        attempt = self.record.attempt
        assert attempt is not None
        found = await self._shared.find(attempt.token)
        # Slurm forgets a job that has ended long ago, but the job has left its claim.
        claim = self.directory.read_claim(attempt.number)
        if claim is not None or found:
            self._put(self.record.accepted(int(claim["batch_id"]) if claim is not None else found[0]))
        else:
            self._put(self.record.not_there())
        if others := [one for one in found if one != self.record.batch_id]:
            await self._shared.batch.cancel(others)

    async def _follow(self) -> bool:
        """Take in what Slurm and the job's files say; return False if there is nothing to do but wait."""
        attempt = self.record.attempt
        assert attempt is not None
        watch = self._watch_of(attempt.batch_id)
        state = watch.state
        if state.final:
            self._end, self._watch = state, None
            if self._shared.batch.local and state.kind == "gone" and self._newest_result() is None:
                self._put(self.record.not_there())  # it has ended with the master that started it
            else:
                await self._put_paced(self.record.over(attempt.number, state.restarts))
            return True
        if state.kind != "unknown":
            running = state.kind == "running"
            await self._put_paced(self.record.seen(attempt.number, running, state.restarts, state.nodes, state.reason))
        if self._is_hopeless(state):
            self._dispose()
            self._fail(Cause(Kind.HOPELESS, state.hopeless, state.description))
            return True
        if self.record.state is State.RUNNING:
            self._read_status()
            if time.monotonic() - self._rows_taken >= self._shared.timeouts.rows:
                await self.take_rows()
                self._rows_taken = time.monotonic()
            if self._newest_result() is not None and await self._take_result(None):
                return True
        if watch.state != state:  # it has changed since
            return True
        watch.check()
        return False

    def _watch_of(self, batch_id: int | None) -> Watch:
        assert batch_id is not None
        if self._watch is None or self._watch.job_id != batch_id:
            self._watch = self._shared.batch.watch(batch_id)
            self._watch.subscribe(self.wake)
        return self._watch

    def _is_hopeless(self, state: BatchState) -> bool:
        """Whether Slurm has said for long enough that it cannot start the job; if not yet, look again in time."""
        since = time.monotonic()
        if self._hopeless is not None:
            since, timer = self._hopeless
            timer.cancel()
            self._hopeless = None
        elif state.hopeless:
            about = (self.record.title, state.hopeless, state.reason, self.record.number)
            logger.warning("%s: %s (%s); hyperflow why %d", *about)
        if not state.hopeless:
            return False
        left = since + self._shared.timeouts.hopeless - time.monotonic()
        if left > 0:
            self._hopeless = since, asyncio.get_running_loop().call_later(left, self.wake)
        return left <= 0

    def _read_status(self) -> None:
        status = self.directory.read_status()
        if status is not None and status != self._status:
            self._status = status
            self._shared.tell()

    async def _conclude(self) -> None:
        """Find the outcome of a job that Slurm does not have any more."""
        # An earlier master may have believed that it is gone; then it is cancelled before it is submitted again.
        self._end = state = self._end or BatchState("gone")
        if state.kind == "ended":
            self._free_locks(self.record.epoch)
        grace, deadline = 0.0, time.monotonic()
        if not self._shared.batch.local and state.exit_code not in NO_RESULT_CODES and not state.unseen:
            grace = self._shared.timeouts.grace
        deadline += grace
        pause, beat = 0.05, self._beat()
        while (found := self._newest_result()) is None and time.monotonic() < deadline:
            claim = self.directory.read_claim(self.record.epoch.attempt)
            if claim is not None and claim["batch_id"] != self.record.batch_id:
                self._put(self.record.taken(int(claim["batch_id"])))
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
            if state.kind == "gone" and (newer := self._beat()) != beat:  # whatever Slurm says, it is at work
                beat, deadline = newer, time.monotonic() + grace
        self._free_locks(self.record.epoch)
        if found is None or not await self._take_result(state):
            await self.take_rows(ended=state.end is not None and state.end.nothing_runs)
            self._fail(causes.of_end(state, self.directory.read_output()[1]))

    def _beat(self) -> float | None:
        """Return when the newest start last gave a sign of life, in its own time: the heartbeat of its claim."""
        status = self.directory.read_status() or {}
        same = status.get("attempt") == self.record.epoch.attempt and status.get("batch_id") == self.record.batch_id
        return status.get("time") if same else None

    def _newest_result(self) -> Epoch | None:
        """Return the start whose result counts, if there is one; warn of results that came too late."""
        current = self.record.epoch
        for epoch in reversed(self.directory.results()):
            if epoch.attempt != current.attempt:  # the master has seen those of earlier attempts in their time
                continue
            if epoch >= current:
                return epoch
            if epoch not in self._late:
                self._late.add(epoch)
                if not self._is_cut_off(epoch):
                    self._shared.counts["late"] += 1
                    text = "%s: a result of start %s came late, when %s was the one that counts; it is left aside"
                    logger.warning(text, self.record.title, epoch, current)
        return None

    def _is_cut_off(self, epoch: Epoch) -> bool:
        try:
            return self.directory.read_result(epoch)[0] == CUT_OFF
        except Damaged:
            return False

    async def _take_result(self, state: BatchState | None) -> bool:
        """Take the newest result; return False if Slurm has to say why the job has ended first."""
        epoch = self._newest_result()
        assert epoch is not None
        try:
            outcome = self._load(epoch)
        except Damaged as damage:
            await self.take_rows(ended=state is not None)
            self._fail(Cause(Kind.RESULT, str(damage)))
            return True
        if isinstance(outcome, AllocationEnding) and state is None:
            return False
        self._put(self.record.restarted(epoch))  # squeue may not have said so yet
        self._read_status()
        await self.take_rows(ended=True)  # the result was written after the job's database was closed
        if isinstance(outcome, calls.Value):
            await self._put_paced(self.record.finished(epoch))
        else:
            self._fail(causes.of_error(outcome, state))
        return True

    def _fail(self, cause: Cause) -> None:
        if self._shared.batch.local:  # which speaks in Slurm's words
            cause = attrs.evolve(cause, slurm="")
        verdict = self._verdict(cause)
        self._unjudged = not self._asked
        self._put(self.record.failed(self.record.epoch.attempt, cause, verdict))
        if verdict is Verdict.AGAIN:
            self._shared.counts["retried"] += 1
        elif verdict is Verdict.HOLD:
            self._tell_held()
            self._shared.held(self.record, self.directory)

    def _tell_held(self) -> None:
        """Say that the job waits until the user decides."""
        number, cause = self.record.number, self.record.cause
        if cause is not None:
            logger.warning("%s is held: %s: %s (hyperflow why %d)", self.record.title, cause.kind, cause.text, number)

    def _verdict(self, cause: Cause) -> Verdict:
        return causes.verdict(self._on_error, self._error(cause), cause.kind, self.record.failures)

    async def take_rows(self, ended: bool = False) -> None:
        """Ingest what the job has recorded into the program's database; `ended`: nobody writes to its file any more."""
        database = self._shared.database
        if not isinstance(database, Store):
            return  # one that jobs write to themselves
        for epoch in self.directory.databases():
            path = self.directory.database(epoch)
            over = ended or epoch < self.record.epoch
            program_id = f"{self._shared.program_id}-{self.record.number}-{epoch}"
            try:
                await ingest(database, path, program_id, ended=over)
            except (DatabaseError, ConfigurationError) as error:
                logger.warning("%s: what it has recorded in %s is left there: %s", self.record.title, path, error)
            else:
                if over:
                    path.unlink(missing_ok=True)
                    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a process that was killed


def _durable(record: Record) -> Record:
    """Return the part of a record that has to be on the disk; the rest Slurm can tell again at any time."""
    return attrs.evolve(record, nodes="", reason="")
