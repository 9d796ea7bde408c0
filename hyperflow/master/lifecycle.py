"""The life of a job of the cluster level: pure state. An event gives a new record; no I/O, no clock.

    new -> submitting -> queued -> running -> ended -> done
                  \\                                 \\-> held | failed (the program gets the error) | new (once more)
                   \\-> held (refused)
    held, failed, cancelled -> new (retry)        any but done -> cancelled
    held, new (once more) -> ended (a sound result of its newest start has come late)

Guarantees, which tests check over random histories: A job that is done stays done. Each submission is an attempt, and
their numbers only grow (a submission that never happened does not count). Within an attempt Slurm may start the job
again; that count only grows, too. Events of an older attempt or start change nothing. At most one attempt of a job is
with Slurm.

Each event is a method of `Record`, which returns the record after it. An event that does not fit the state is no
error, because news of a cancelled job may come late. The record is then the same.
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

_AT_SLURM = frozenset({State.QUEUED, State.RUNNING})
_STARTED = _AT_SLURM | {State.ENDED}

AT_REST = frozenset({State.DONE, State.FAILED, State.HELD, State.CANCELLED})
"""States that end only when the user decides."""


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


_MAY_HAVE_GONE_ON = frozenset({Kind.CRASH, Kind.OUT_OF_MEMORY, Kind.TIME_LIMIT, Kind.NODE_FAILURE, Kind.HOPELESS})
"""Failures after which a start may turn out to have gone on, and to have left a sound result."""


@attrs.frozen
class Cause:
    """Why a job failed, in words; `slurm` is what Slurm said."""

    kind: Kind = attrs.field(converter=Kind)
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


class Verdict(enum.StrEnum):
    """What follows from a failure."""

    HOLD = "hold"
    RAISE = "raise"
    AGAIN = "again"


_AFTER_FAILURE = {Verdict.HOLD: State.HELD, Verdict.RAISE: State.FAILED, Verdict.AGAIN: State.NEW}


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
    state: State = attrs.field(default=State.NEW, converter=State)
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

    def submitting(self, token: str) -> Record:
        """It is about to be submitted, under this token."""
        if self.state is not State.NEW:
            return self
        attempt = Attempt(self.epoch.attempt + 1, token)
        return attrs.evolve(self._moved(State.SUBMITTING), attempts=(*self.attempts, attempt), cause=None)

    def accepted(self, batch_id: int) -> Record:
        """It has been submitted, and has this id."""
        if self.state is not State.SUBMITTING:
            return self
        return self._moved(State.QUEUED)._with_attempt(batch_id=batch_id)

    def taken(self, batch_id: int) -> Record:
        """Another submission under the same token does the work: one that was believed lost."""
        if self.state not in _STARTED or batch_id == self.batch_id:
            return self
        return self._moved(State.QUEUED)._with_attempt(batch_id=batch_id, restarts=0)

    def not_there(self) -> Record:
        """Nothing was submitted under its token; or it was, and has ended with the master that it belonged to."""
        if self.state is State.SUBMITTING:
            # The next submission has the same token: if the first one comes through late, both are known as one.
            return attrs.evolve(self._moved(State.NEW), attempts=self.attempts[:-1])
        return self._moved(State.NEW) if self.state in _AT_SLURM else self

    def nowhere(self) -> Record:
        """Of its newest submission, which has no id, Slurm knows nothing: the next one has the same token, as above."""
        return self if self.state is not State.NEW else attrs.evolve(self, attempts=self.attempts[:-1])

    def seen(self, attempt: int, running: bool, restarts: int = 0, nodes: str = "", reason: str = "") -> Record:
        """Slurm has it queued or running."""
        if Epoch(attempt, restarts) < self.epoch or attempt != self.epoch.attempt or self.state not in _AT_SLURM:
            return self
        state = State.RUNNING if running else State.QUEUED
        return attrs.evolve(self, state=state, nodes=nodes, reason=reason)._with_attempt(restarts=restarts)

    def restarted(self, epoch: Epoch) -> Record:
        """There is a later start of the newest attempt."""
        if epoch.attempt != self.epoch.attempt or epoch <= self.epoch or self.state not in _STARTED:
            return self
        return self._with_attempt(restarts=epoch.restarts)

    def over(self, attempt: int, restarts: int = 0) -> Record:
        """Slurm does not have it any more: now its outcome counts."""
        if attempt != self.epoch.attempt or self.state not in _AT_SLURM:
            return self
        return self._moved(State.ENDED)._with_attempt(restarts=max(restarts, self.epoch.restarts))

    @property
    def may_have_gone_on(self) -> bool:
        """Whether its newest start, which has failed as far as anybody knows, may still leave a sound result."""
        waits = self.state is State.HELD or (self.state is State.NEW and self.attempt is not None)
        return waits and self.cause is not None and self.cause.kind in _MAY_HAVE_GONE_ON

    def resulted(self) -> Record:
        """A sound result of its newest start has come late: it is to be looked at."""
        return attrs.evolve(self._moved(State.ENDED), cause=None) if self.may_have_gone_on else self

    def finished(self, epoch: Epoch) -> Record:
        """A sound result was found."""
        return self._moved(State.DONE) if epoch == self.epoch and self.state in _STARTED else self

    def failed(self, attempt: int, cause: Cause, verdict: Verdict) -> Record:
        """An attempt has failed, or could not be made."""
        if attempt != self.epoch.attempt or self.state not in WITH_SLURM | {State.NEW, State.DONE}:
            return self
        # Of a job that is done only one thing can turn out: that its result cannot be read.
        if self.state is State.DONE and cause.kind is not Kind.RESULT:
            return self
        failures = self.failures + (verdict is Verdict.AGAIN)
        return attrs.evolve(self._moved(_AFTER_FAILURE[verdict]), cause=cause, failures=failures)

    def retried(self, options: Mapping[str, Any] | None = None) -> Record:
        """The user wants it tried again, maybe with other options; its failures are counted from 0 again."""
        if self.state not in (State.HELD, State.FAILED, State.CANCELLED):
            return self
        changed = self.options if options is None else options
        return attrs.evolve(self._moved(State.NEW), options=changed, cause=None, failures=0)

    def cancelled(self) -> Record:
        """Nobody wants it any more."""
        if self.state in (State.DONE, State.CANCELLED):
            return self
        return attrs.evolve(self._moved(State.CANCELLED), cause=None)

    def _moved(self, state: State) -> Record:
        return attrs.evolve(self, state=state, nodes="", reason="")

    def _with_attempt(self, **changes: Any) -> Record:
        return attrs.evolve(self, attempts=(*self.attempts[:-1], attrs.evolve(self.attempts[-1], **changes)))
