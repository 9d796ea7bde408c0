"""The life of a job of the cluster level: pure state. Events in, a new record out; no I/O, no clock.

    new -> submitting -> queued -> running -> ended -> done
                  \\                                 \\-> held | failed (the program gets the error) | new (once more)
                   \\-> held (refused)
    held, failed, cancelled -> new (retry)        any but done -> cancelled

Guarantees, which tests check over random histories: A job that is done stays done. Each submission is an attempt, and
their numbers only grow (a submission that never happened does not count). Within an attempt Slurm may start the job
again; that count only grows, too. Events of an older attempt or start change nothing. At most one attempt of a job is
with Slurm.

An event that does not fit the state is no error, because news of a cancelled job may come late. `step` then returns the
record that it was given.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import attrs


class State(enum.StrEnum):
    """Where a job is in its life."""

    NEW = "new"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    DONE = "done"
    FAILED = "failed"
    HELD = "held"
    CANCELLED = "cancelled"


WITH_SLURM = frozenset({State.SUBMITTING, State.QUEUED, State.RUNNING, State.ENDED})
"""States in which there may be an allocation, or an outcome that nobody has looked at."""

_STARTED = frozenset({State.QUEUED, State.RUNNING, State.ENDED})

AT_REST = frozenset({State.DONE, State.FAILED, State.HELD, State.CANCELLED})
"""States that end only by somebody's decision."""


class Kind(enum.StrEnum):
    """Why a job failed."""

    EXCEPTION = "exception"
    CRASH = "crash"
    OUT_OF_MEMORY = "out of memory"
    TIME_LIMIT = "time limit"
    NODE_FAILURE = "node failure"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    HOPELESS = "hopeless"
    RESULT = "unreadable result"


@attrs.frozen
class Cause:
    """Why a job failed, in words; `slurm` is what Slurm said."""

    kind: Kind
    text: str
    slurm: str = ""


@attrs.frozen(order=True)
class Epoch:
    """One start of a job: which submission, and how often Slurm has started that one again. The job's fencing token.

    It only grows. The names of a start's files contain it, so an older start that still runs somewhere cannot pass for
    the newest one.
    """

    attempt: int
    restarts: int = 0

    def __str__(self) -> str:
        return f"{self.attempt}.{self.restarts}"


@attrs.frozen
class Attempt:
    """One submission. `token` is its idempotency key: a submission whose answer was lost is found, not made twice."""

    number: int
    token: str
    batch_id: int | None = None
    restarts: int = 0


@attrs.frozen
class Record:
    """What is known of a job; the contents of its job.json.

    Args:
        identity: Which call of the program it is; the same in every run of the program.
        name: The call for people: function and arguments, cut.
        cause: Why it failed, while it is held or failed.
        failures: How many attempts have failed and were retried without anybody's decision.
        reason: Why it waits, in Slurm's words.
    """

    number: int
    identity: str
    name: str
    options: Mapping[str, Any]
    state: State = State.NEW
    attempts: tuple[Attempt, ...] = ()
    cause: Cause | None = None
    failures: int = 0
    nodes: str = ""
    reason: str = ""

    @property
    def title(self) -> str:
        """What errors and logs call it."""
        return f"job {self.number}, {self.name}"

    @property
    def attempt(self) -> Attempt | None:
        """The newest submission."""
        return self.attempts[-1] if self.attempts else None

    @property
    def batch_id(self) -> int | None:
        """The Slurm id of the newest submission, if it has one."""
        return self.attempt.batch_id if self.attempt else None

    @property
    def epoch(self) -> Epoch:
        """The newest start; older ones do not count any more."""
        return Epoch(self.attempt.number, self.attempt.restarts) if self.attempt else Epoch(0)


@attrs.frozen
class Submitting:
    """It is about to be submitted, under this token."""

    token: str


@attrs.frozen
class Accepted:
    """It has been submitted, and has this id."""

    batch_id: int


@attrs.frozen
class Taken:
    """Another submission under the same token does the work: one that was believed lost."""

    batch_id: int


@attrs.frozen
class NotThere:
    """Nothing was submitted under its token; or it was, and has ended with the master that it belonged to."""


@attrs.frozen
class Seen:
    """Slurm has it queued or running."""

    attempt: int
    running: bool
    restarts: int = 0
    nodes: str = ""
    reason: str = ""


@attrs.frozen
class Restarted:
    """There is a later start of the newest attempt."""

    epoch: Epoch


@attrs.frozen
class Over:
    """Slurm does not have it any more: now its outcome counts."""

    attempt: int
    restarts: int = 0


@attrs.frozen
class Finished:
    """A sound result was found."""

    epoch: Epoch


class Verdict(enum.StrEnum):
    """What follows from a failure."""

    HOLD = "hold"
    RAISE = "raise"
    AGAIN = "again"


@attrs.frozen
class Failed:
    """An attempt has failed, or could not be made."""

    attempt: int
    cause: Cause
    verdict: Verdict


@attrs.frozen
class Retry:
    """Somebody wants it tried again, maybe with other options; its failures are counted from 0 again."""

    options: Mapping[str, Any] | None = None


@attrs.frozen
class Cancel:
    """Nobody wants it any more."""


Event = Submitting | Accepted | Taken | NotThere | Seen | Restarted | Over | Finished | Failed | Retry | Cancel


def step(job: Record, event: Event) -> Record:
    """Return the record after an event; the same one if it changes nothing."""
    match event:
        case Submitting(token) if job.state is State.NEW:
            attempt = Attempt(job.epoch.attempt + 1, token)
            return attrs.evolve(_moved(job, State.SUBMITTING), attempts=(*job.attempts, attempt), cause=None)
        case Accepted(batch_id) if job.state is State.SUBMITTING:
            return _with_attempt(_moved(job, State.QUEUED), batch_id=batch_id)
        case Taken(batch_id) if job.state in _STARTED and batch_id != job.batch_id:
            return _with_attempt(_moved(job, State.QUEUED), batch_id=batch_id, restarts=0)
        case NotThere() if job.state is State.SUBMITTING:
            # The next submission has the same token: if the first one comes through late, both are known as one.
            return attrs.evolve(_moved(job, State.NEW), attempts=job.attempts[:-1])
        case NotThere() if job.state in (State.QUEUED, State.RUNNING):
            return _moved(job, State.NEW)
        case Seen() if event.attempt == job.epoch.attempt and job.state in (State.QUEUED, State.RUNNING):
            return _seen(job, event)
        case Restarted(epoch) if epoch.attempt == job.epoch.attempt and epoch > job.epoch and job.state in _STARTED:
            return _with_attempt(job, restarts=epoch.restarts)
        case Over() if event.attempt == job.epoch.attempt and job.state in (State.QUEUED, State.RUNNING):
            restarts = max(event.restarts, job.epoch.restarts)
            return _with_attempt(_moved(job, State.ENDED), restarts=restarts)
        case Finished(epoch) if epoch == job.epoch and job.state in _STARTED:
            return _moved(job, State.DONE)
        case Failed() if event.attempt == job.epoch.attempt and job.state in WITH_SLURM | {State.NEW, State.DONE}:
            return _failed(job, event)
        case Retry(options) if job.state in (State.HELD, State.FAILED, State.CANCELLED):
            changed = job.options if options is None else options
            return attrs.evolve(_moved(job, State.NEW), options=changed, cause=None, failures=0)
        case Cancel() if job.state not in (State.DONE, State.CANCELLED):
            return attrs.evolve(_moved(job, State.CANCELLED), cause=None)
        case _:
            return job


def _moved(job: Record, state: State) -> Record:
    return attrs.evolve(job, state=state, nodes="", reason="")


def _with_attempt(job: Record, **changes: Any) -> Record:
    return attrs.evolve(job, attempts=(*job.attempts[:-1], attrs.evolve(job.attempts[-1], **changes)))


def _seen(job: Record, event: Seen) -> Record:
    if event.restarts < job.epoch.restarts:
        return job
    state = State.RUNNING if event.running else State.QUEUED
    moved = attrs.evolve(job, state=state, nodes=event.nodes, reason=event.reason)
    return _with_attempt(moved, restarts=event.restarts)


def _failed(job: Record, event: Failed) -> Record:
    # Of a job that is done only one thing can turn out: that its result cannot be read.
    if job.state is State.DONE and event.cause.kind is not Kind.RESULT:
        return job
    after = attrs.evolve(_moved(job, _AFTER_FAILURE[event.verdict]), cause=event.cause)
    return attrs.evolve(after, failures=job.failures + 1) if event.verdict is Verdict.AGAIN else after


_AFTER_FAILURE = {Verdict.HOLD: State.HELD, Verdict.RAISE: State.FAILED, Verdict.AGAIN: State.NEW}
