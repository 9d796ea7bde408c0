"""The life of a job: each step, and what holds over any history."""

import random
from typing import Any

import attrs
import pytest

from hyperflow.master.lifecycle import AT_REST, WITH_SLURM, Cause, Epoch, Kind, Record, State, Verdict

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


def _some_event(chance: random.Random, job: Record) -> Event:
    attempt = chance.randint(max(job.epoch.attempt - 1, 0), job.epoch.attempt + 1)
    restarts = chance.randint(0, 3)
    cause = Cause(chance.choice(list(Kind)), "")
    events: list[Event] = [
        Event("submitting", f"token-{chance.random()}"),
        Event("accepted", chance.randint(1, 99)),
        Event("not_there"),
        Event("taken", chance.randint(1, 99)),
        Event("seen", attempt, chance.random() < 0.5, restarts),
        Event("restarted", Epoch(attempt, restarts)),
        Event("over", attempt, restarts),
        Event("finished", Epoch(attempt, restarts)),
        Event("failed", attempt, cause, chance.choice(list(Verdict))),
        Event("retried", None),
        Event("resulted"),
        Event("cancelled"),
    ]
    return chance.choice(events)


@pytest.mark.parametrize("seed", range(50))
def test_any_history(seed: int) -> None:
    """Whatever news come, in whatever order: epochs only grow, old ones decide nothing, tokens are never used twice."""
    chance = random.Random(seed)
    job = NEW
    for _ in range(150):
        event = _some_event(chance, job)
        later = event(job)
        if not (event.name == "not_there" and job.state is State.SUBMITTING):  # that attempt never came about
            assert later.epoch.attempt >= job.epoch.attempt
            if event.name != "taken":
                assert later.epoch >= job.epoch
        assert later.attempts[: len(job.attempts) - 1] == job.attempts[:-1]
        tokens = [attempt.token for attempt in later.attempts]
        assert len(set(tokens)) == len(tokens)
        if later.state is State.DONE and job.state is not State.DONE:
            assert event.name == "finished"
            assert event.args[0] == job.epoch
        if job.state is State.DONE and later.state is not State.DONE:
            assert event.name == "failed"
            assert event.args[1].kind is Kind.RESULT
        if later.state in (State.HELD, State.FAILED):
            assert later.cause is not None
        if len(later.attempts) > len(job.attempts):
            assert job.state is State.NEW
        if later.state in WITH_SLURM:
            assert later.attempts
        if event.name in ("finished", "over", "seen", "failed", "restarted"):
            of = event.args[0].attempt if event.name in ("finished", "restarted") else event.args[0]
            assert of == job.epoch.attempt or later is job
        job = later
        if job.state in AT_REST and chance.random() < 0.5:
            job = job.retried()


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
