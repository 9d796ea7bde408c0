"""The life of a job, step by step. (`tests/model/lifecycle.py` plays random histories.)"""

from typing import Any

import attrs
import pytest

from hyperflow.master.lifecycle import Cause, Epoch, Kind, Record, State, Verdict

NEW = Record(1, "f(1)#1", "f(1)", {})
CAUSE = Cause(Kind.CRASH, "it fell over")


class Event:
    """One of the methods of a record, with its arguments."""

    def __init__(self, name: str, *args: Any, **options: Any) -> None:
        self.name, self.args, self.options = name, args, options

    def __call__(self, job: Record) -> Record:
        after: Record = getattr(job, self.name)(*self.args, **self.options)
        return after


def after(*events: Event, job: Record = NEW) -> Record:
    """Return the record after events."""
    for event in events:
        job = event(job)
    return job


QUEUED = after(Event("submitting", "token-1"), Event("accepted", 7))


def test_way_to_result() -> None:
    """Submitted, accepted, seen, over, finished: the record says at each step what is known."""
    job = after(Event("submitting", "token-1"))
    assert (job.state, job.attempt and job.attempt.token, job.batch_id) == (State.SUBMITTING, "token-1", None)
    job = after(Event("accepted", 7), job=job)
    assert (job.state, job.batch_id) == (State.QUEUED, 7)
    job = after(Event("seen", 1, True, 0, "node[1-2]"), job=job)
    assert (job.state, job.nodes) == (State.RUNNING, "node[1-2]")
    job = after(Event("over", 1), job=job)
    assert (job.state, job.nodes) == (State.ENDED, "")
    assert after(Event("finished", Epoch(1)), job=job).state is State.DONE


def test_result_of_older_epoch_changes_nothing() -> None:
    """After Slurm has started a job again, the result of its first start does not finish it; the new one's does."""
    job = after(Event("seen", 1, True), Event("seen", 1, False, 1), Event("seen", 1, True, 1), job=QUEUED)
    assert after(Event("finished", Epoch(1, 0)), job=job) is job
    assert after(Event("finished", Epoch(1, 1)), job=job).state is State.DONE


def test_result_of_older_attempt_changes_nothing() -> None:
    """After a retry, what belongs to the first attempt does not move the second."""
    job = after(
        Event("failed", 1, CAUSE, Verdict.HOLD),
        Event("retried"),
        Event("submitting", "token-2"),
        Event("accepted", 8),
        job=QUEUED,
    )
    assert job.epoch == Epoch(2)
    for late in (
        Event("finished", Epoch(1)),
        Event("over", 1),
        Event("seen", 1, True),
        Event("failed", 1, CAUSE, Verdict.HOLD),
    ):
        assert after(late, job=job) is job


@pytest.mark.parametrize(
    ("verdict", "state"), [(Verdict.HOLD, State.HELD), (Verdict.RAISE, State.FAILED), (Verdict.AGAIN, State.NEW)]
)
def test_failure(verdict: Verdict, state: State) -> None:
    """A failure has the state that was decided on, and keeps its cause."""
    job = after(Event("failed", 1, CAUSE, verdict), job=QUEUED)
    assert (job.state, job.cause) == (state, CAUSE)
    assert job.failures == (verdict is Verdict.AGAIN)


def test_retry_changes_options_and_forgets_cause() -> None:
    """A held job that is tried again has the new options, no cause, and its history."""
    job = after(Event("failed", 1, CAUSE, Verdict.HOLD), Event("retried", {"time": "2:00:00"}), job=QUEUED)
    assert (job.state, job.cause, job.options) == (State.NEW, None, {"time": "2:00:00"})
    assert [attempt.batch_id for attempt in job.attempts] == [7]


def test_done_stays_done() -> None:
    """Nothing but an unreadable result moves a job that is done."""
    done = after(Event("over", 1), Event("finished", Epoch(1)), job=QUEUED)
    for event in (
        Event("cancelled"),
        Event("retried"),
        Event("failed", 1, CAUSE, Verdict.HOLD),
        Event("over", 1),
        Event("seen", 1, True),
        Event("not_there"),
    ):
        assert after(event, job=done) is done
    unreadable = Cause(Kind.RESULT, "cut")
    assert after(Event("failed", 1, unreadable, Verdict.HOLD), job=done).state is State.HELD


def test_restarts_are_counted() -> None:
    """A later start of the same submission counts from when it is heard of; an equal or older one changes nothing."""
    job = after(Event("restarted", Epoch(1, 2)), job=QUEUED)
    assert (job.state, job.epoch, str(job.epoch)) == (State.QUEUED, Epoch(1, 2), "1.2")
    assert after(Event("restarted", Epoch(1, 2)), job=job) is job
    assert after(Event("restarted", Epoch(1, 1)), job=job) is job
    over = after(Event("over", 1, 3), job=job)
    assert (over.state, over.epoch) == (State.ENDED, Epoch(1, 3))
    assert after(Event("over", 1, 1), job=job).epoch == Epoch(1, 2)


def test_seen_in_the_queue_and_running() -> None:
    """What Slurm says of place and reason is kept as long as it says so."""
    waits = after(Event("seen", 1, False, reason="Priority"), job=QUEUED)
    assert (waits.state, waits.nodes, waits.reason) == (State.QUEUED, "", "Priority")
    runs = after(Event("seen", 1, True, nodes="node1"), job=waits)
    assert (runs.state, runs.nodes, runs.reason) == (State.RUNNING, "node1", "")
    assert after(Event("seen", 1, False, 1), job=runs).state is State.QUEUED
    for left in (Event("over", 1), Event("cancelled"), Event("not_there")):
        moved = after(left, job=attrs.evolve(waits, nodes="node1"))
        assert (moved.nodes, moved.reason) == ("", "")


def test_gone_from_slurm() -> None:
    """A job that Slurm has lost with its master is new again; its next submission is another attempt."""
    for job in (QUEUED, after(Event("seen", 1, True), job=QUEUED)):
        gone = after(Event("not_there"), job=job)
        assert gone.state is State.NEW
        assert after(Event("submitting", "token-2"), job=gone).epoch == Epoch(2)


def test_taken_by_another_submission() -> None:
    """A submission that had been thought lost does the work: its starts are counted from the first."""
    job = after(Event("seen", 1, True, 2), Event("taken", 9), job=QUEUED)
    assert (job.state, job.batch_id, job.epoch) == (State.QUEUED, 9, Epoch(1, 0))
    assert after(Event("taken", 9), job=job) is job


def test_cancel() -> None:
    """Whatever is not done can be cancelled, once, and then has no cause any more."""
    held = after(Event("failed", 1, CAUSE, Verdict.HOLD), job=QUEUED)
    for job in (NEW, QUEUED, held):
        cancelled = after(Event("cancelled"), job=job)
        assert (cancelled.state, cancelled.cause) == (State.CANCELLED, None)
        assert after(Event("cancelled"), job=cancelled) is cancelled


def test_failures_are_counted_until_somebody_decides() -> None:
    """Failures that were tried again add up; the cause shows until the next submission; a retry starts from zero."""
    again = after(Event("failed", 1, CAUSE, Verdict.AGAIN), job=QUEUED)
    assert (again.failures, again.cause) == (1, CAUSE)
    second = after(Event("submitting", "token-2"), job=again)
    assert (second.failures, second.cause) == (1, None)
    held = after(Event("accepted", 8), Event("failed", 2, CAUSE, Verdict.HOLD), job=second)
    retried = after(Event("retried"), job=attrs.evolve(held, options={"time": 1}))
    assert (held.failures, retried.failures, retried.options) == (1, 0, {"time": 1})


def test_late_result() -> None:
    """A start that was given up may leave a result after all: until the next one is submitted, it is looked at."""
    held = after(Event("failed", 1, CAUSE, Verdict.HOLD), job=QUEUED)
    again = after(Event("failed", 1, CAUSE, Verdict.AGAIN), job=QUEUED)
    for job in (held, again):
        late = after(Event("resulted"), job=job)
        assert (late.state, late.epoch, late.cause) == (State.ENDED, Epoch(1), None)
        assert after(Event("finished", Epoch(1)), job=late).state is State.DONE
    for kind in (Kind.EXCEPTION, Kind.CANCELLED, Kind.REFUSED, Kind.RESULT):  # its result is known, or a human decided
        job = after(Event("failed", 1, Cause(kind, ""), Verdict.HOLD), job=QUEUED)
        assert after(Event("resulted"), job=job) is job
    for job in (NEW, QUEUED, after(Event("retried"), job=held), after(Event("submitting", "token-2"), job=again)):
        assert after(Event("resulted"), job=job) is job


def test_same_token_after_lost_submission() -> None:
    """A submission that is not at Slurm is made again as the same attempt: if the first comes late, they are one."""
    job = after(Event("submitting", "token-1"), Event("not_there"))
    assert (job.state, job.epoch) == (State.NEW, Epoch(0))
    job = after(Event("submitting", "token-1"), Event("accepted", 8), job=job)
    assert after(Event("over", 1), Event("taken", 7), job=job).batch_id == 7


def test_frozen() -> None:
    """A record is never changed: a new one takes its place."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        NEW.state = State.DONE  # type: ignore[misc]
