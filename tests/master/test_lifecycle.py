"""The life of a job: each step, and what holds over any history."""

import random

import attrs
import pytest

from hyperflow.master.lifecycle import (
    AT_REST,
    WITH_SLURM,
    Accepted,
    Cancel,
    Cause,
    Epoch,
    Event,
    Failed,
    Finished,
    Kind,
    NotThere,
    Over,
    Record,
    Restarted,
    Retry,
    Seen,
    State,
    Submitting,
    Taken,
    Verdict,
    step,
)

NEW = Record(1, "f(1)#1", "f(1)", {})
CAUSE = Cause(Kind.CRASH, "it fell over")


def after(*events: Event, job: Record = NEW) -> Record:
    """Return the record after events."""
    for event in events:
        job = step(job, event)
    return job


QUEUED = after(Submitting("token-1"), Accepted(7))


def test_way_to_result() -> None:
    """Submitted, accepted, seen, over, finished: the record says at each step what is known."""
    job = after(Submitting("token-1"))
    assert (job.state, job.attempt and job.attempt.token, job.batch_id) == (State.SUBMITTING, "token-1", None)
    job = after(Accepted(7), job=job)
    assert (job.state, job.batch_id) == (State.QUEUED, 7)
    job = after(Seen(1, True, 0, "node[1-2]"), job=job)
    assert (job.state, job.nodes) == (State.RUNNING, "node[1-2]")
    job = after(Over(1), job=job)
    assert (job.state, job.nodes) == (State.ENDED, "")
    assert after(Finished(Epoch(1)), job=job).state is State.DONE


def test_result_of_older_epoch_changes_nothing() -> None:
    """After Slurm has started a job again, the result of its first start does not finish it; the new one's does."""
    job = after(Seen(1, True), Seen(1, False, 1), Seen(1, True, 1), job=QUEUED)
    assert after(Finished(Epoch(1, 0)), job=job) is job
    assert after(Finished(Epoch(1, 1)), job=job).state is State.DONE


def test_result_of_older_attempt_changes_nothing() -> None:
    """After a retry, what belongs to the first attempt does not move the second."""
    job = after(Failed(1, CAUSE, Verdict.HOLD), Retry(), Submitting("token-2"), Accepted(8), job=QUEUED)
    assert job.epoch == Epoch(2)
    for late in (Finished(Epoch(1)), Over(1), Seen(1, True), Failed(1, CAUSE, Verdict.HOLD)):
        assert after(late, job=job) is job


@pytest.mark.parametrize(
    ("verdict", "state"), [(Verdict.HOLD, State.HELD), (Verdict.RAISE, State.FAILED), (Verdict.AGAIN, State.NEW)]
)
def test_failure(verdict: Verdict, state: State) -> None:
    """A failure has the state that was decided on, and keeps its cause."""
    job = after(Failed(1, CAUSE, verdict), job=QUEUED)
    assert (job.state, job.cause) == (state, CAUSE)
    assert job.failures == (verdict is Verdict.AGAIN)


def test_retry_changes_options_and_forgets_cause() -> None:
    """A held job that is tried again has the new options, no cause, and its history."""
    job = after(Failed(1, CAUSE, Verdict.HOLD), Retry({"time": "2:00:00"}), job=QUEUED)
    assert (job.state, job.cause, job.options) == (State.NEW, None, {"time": "2:00:00"})
    assert [attempt.batch_id for attempt in job.attempts] == [7]


def test_done_stays_done() -> None:
    """Nothing but an unreadable result moves a job that is done."""
    done = after(Over(1), Finished(Epoch(1)), job=QUEUED)
    for event in (Cancel(), Retry(), Failed(1, CAUSE, Verdict.HOLD), Over(1), Seen(1, True), NotThere()):
        assert after(event, job=done) is done
    unreadable = Cause(Kind.RESULT, "cut")
    assert after(Failed(1, unreadable, Verdict.HOLD), job=done).state is State.HELD


def test_restarts_are_counted() -> None:
    """A later start of the same submission counts from when it is heard of; an equal or older one changes nothing."""
    job = after(Restarted(Epoch(1, 2)), job=QUEUED)
    assert (job.state, job.epoch, str(job.epoch)) == (State.QUEUED, Epoch(1, 2), "1.2")
    assert after(Restarted(Epoch(1, 2)), job=job) is job
    assert after(Restarted(Epoch(1, 1)), job=job) is job
    over = after(Over(1, 3), job=job)
    assert (over.state, over.epoch) == (State.ENDED, Epoch(1, 3))
    assert after(Over(1, 1), job=job).epoch == Epoch(1, 2)


def test_seen_in_the_queue_and_running() -> None:
    """What Slurm says of place and reason is kept as long as it says so."""
    waits = after(Seen(1, False, reason="Priority"), job=QUEUED)
    assert (waits.state, waits.nodes, waits.reason) == (State.QUEUED, "", "Priority")
    runs = after(Seen(1, True, nodes="node1"), job=waits)
    assert (runs.state, runs.nodes, runs.reason) == (State.RUNNING, "node1", "")
    assert after(Seen(1, False, 1), job=runs).state is State.QUEUED
    for left in (Over(1), Cancel(), NotThere()):
        moved = after(left, job=attrs.evolve(waits, nodes="node1"))
        assert (moved.nodes, moved.reason) == ("", "")


def test_gone_from_slurm() -> None:
    """A job that Slurm has lost with its master is new again; its next submission is another attempt."""
    for job in (QUEUED, after(Seen(1, True), job=QUEUED)):
        gone = after(NotThere(), job=job)
        assert gone.state is State.NEW
        assert after(Submitting("token-2"), job=gone).epoch == Epoch(2)


def test_taken_by_another_submission() -> None:
    """A submission that had been thought lost does the work: its starts are counted from the first."""
    job = after(Seen(1, True, 2), Taken(9), job=QUEUED)
    assert (job.state, job.batch_id, job.epoch) == (State.QUEUED, 9, Epoch(1, 0))
    assert after(Taken(9), job=job) is job


def test_cancel() -> None:
    """Whatever is not done can be cancelled, once, and then has no cause any more."""
    held = after(Failed(1, CAUSE, Verdict.HOLD), job=QUEUED)
    for job in (NEW, QUEUED, held):
        cancelled = after(Cancel(), job=job)
        assert (cancelled.state, cancelled.cause) == (State.CANCELLED, None)
        assert after(Cancel(), job=cancelled) is cancelled


def test_failures_are_counted_until_somebody_decides() -> None:
    """Failures that were tried again add up; the cause shows until the next submission; a retry starts from zero."""
    again = after(Failed(1, CAUSE, Verdict.AGAIN), job=QUEUED)
    assert (again.failures, again.cause) == (1, CAUSE)
    second = after(Submitting("token-2"), job=again)
    assert (second.failures, second.cause) == (1, None)
    held = after(Accepted(8), Failed(2, CAUSE, Verdict.HOLD), job=second)
    retried = after(Retry(), job=attrs.evolve(held, options={"time": 1}))
    assert (held.failures, retried.failures, retried.options) == (1, 0, {"time": 1})


def _some_event(chance: random.Random, job: Record) -> Event:
    attempt = chance.randint(max(job.epoch.attempt - 1, 0), job.epoch.attempt + 1)
    restarts = chance.randint(0, 3)
    cause = Cause(chance.choice(list(Kind)), "")
    events: list[Event] = [
        Submitting(f"token-{chance.random()}"),
        Accepted(chance.randint(1, 99)),
        NotThere(),
        Taken(chance.randint(1, 99)),
        Seen(attempt, chance.random() < 0.5, restarts),
        Restarted(Epoch(attempt, restarts)),
        Over(attempt, restarts),
        Finished(Epoch(attempt, restarts)),
        Failed(attempt, cause, chance.choice(list(Verdict))),
        Retry(None),
        Cancel(),
    ]
    return chance.choice(events)


@pytest.mark.parametrize("seed", range(50))
def test_any_history(seed: int) -> None:
    """Whatever news come, in whatever order: epochs only grow, old ones decide nothing, tokens are never used twice."""
    chance = random.Random(seed)
    job = NEW
    for _ in range(150):
        event = _some_event(chance, job)
        later = step(job, event)
        if not (isinstance(event, NotThere) and job.state is State.SUBMITTING):  # that attempt never came about
            assert later.epoch.attempt >= job.epoch.attempt
            if not isinstance(event, Taken):
                assert later.epoch >= job.epoch
        assert later.attempts[: len(job.attempts) - 1] == job.attempts[:-1]
        tokens = [attempt.token for attempt in later.attempts]
        assert len(set(tokens)) == len(tokens)
        if later.state is State.DONE and job.state is not State.DONE:
            assert isinstance(event, Finished)
            assert event.epoch == job.epoch
        if job.state is State.DONE and later.state is not State.DONE:
            assert isinstance(event, Failed)
            assert event.cause.kind is Kind.RESULT
        if later.state in (State.HELD, State.FAILED):
            assert later.cause is not None
        if len(later.attempts) > len(job.attempts):
            assert job.state is State.NEW
        if later.state in WITH_SLURM:
            assert later.attempts
        if isinstance(event, (Finished, Over, Seen, Failed, Restarted)):
            of = event.epoch.attempt if isinstance(event, (Finished, Restarted)) else event.attempt
            assert of == job.epoch.attempt or later is job
        job = later
        if job.state in AT_REST and chance.random() < 0.5:
            job = step(job, Retry())


def test_same_token_after_lost_submission() -> None:
    """A submission that is not at Slurm is made again as the same attempt: if the first comes late, they are one."""
    job = after(Submitting("token-1"), NotThere())
    assert (job.state, job.epoch) == (State.NEW, Epoch(0))
    job = after(Submitting("token-1"), Accepted(8), job=job)
    assert after(Over(1), Taken(7), job=job).batch_id == 7


def test_frozen() -> None:
    """A record is never changed: a new one takes its place."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        NEW.state = State.DONE  # type: ignore[misc]
