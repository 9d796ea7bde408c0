"""The life of a job: news that come late, twice, in another order or never, and a master that begins with its file.

The record is the real one. What Slurm has, which starts have left results, and what a job's file says are pretended.
News of Slurm may be lost, repeated and overtaken; the answer to a submission may be lost; what people type may come
twice. A crash leaves what was written last; then a submission that was under way is looked up by its token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

import attrs

from hyperflow.master.lifecycle import AT_REST, WITH_SLURM, Attempt, Cause, Epoch, Kind, Record, State, Verdict
from tests.model.simulator import Model, pick, promise

GROWS = "attempts and starts only grow, and old news change nothing"
ONE_TOKEN = "a Slurm job is never submitted twice under one token"
NEWEST = "the result of an older start is never taken"
DONE_STAYS = "a job that is done stays done, and its final state survives a crash"
ONE_ATTEMPT = "at most one attempt of a job is with Slurm"
CANCELLED_STAYS = "a cancelled job is not submitted again unless somebody wants it"
CAUSES = "what is held or has failed says why"

KINDS, VERDICTS = list(Kind), list(Verdict)


@attrs.define
class AtSlurm:
    """A job as Slurm has it."""

    batch_id: int
    token: str
    attempt: int
    restarts: int = 0
    state: str = "pending"  # "running", "ended"


class LifecycleModel(Model):
    """A record, its file, and Slurm."""

    name = "lifecycle"
    happenings: ClassVar[Mapping[str, int]] = {
        "submit": 10, "answer": 8, "look_up": 6, "advance": 12, "requeue": 3, "news": 12, "hear": 14, "result": 6,
        "take": 8, "fail": 5, "late": 4, "retry": 5, "cancel": 2, "forget": 2, "crash": 4, "taken": 1, "moved": 3,
    }  # fmt: skip
    always = frozenset({"submit", "answer", "advance", "news", "hear"})
    steps = (10, 80)

    def __init__(self) -> None:
        self.job = Record(1, "f(1)#1", "f(1)", {"time": "1:00:00"})
        self.disk = self.job  # what its file says
        self.slurm: list[AtSlurm] = []
        self.news: list[tuple[int, str, int]] = []  # attempt, state, restarts
        self.results: set[Epoch] = set()
        self.tokens = 0
        self.unanswered: AtSlurm | None = None
        self.wanted = True  # since it was last cancelled
        self.taken: Epoch | None = None

    def move(self, after: Record, by: str) -> None:
        """The record after an event: it is written before anything depends on it."""
        before = self.job
        self.job = after
        self.disk = after
        self.compare(before, after, by)

    def read_again(self) -> Record:
        """Return the record as the next master reads it; what Slurm can tell again at any time may not be there."""
        data = json.loads(json.dumps(attrs.asdict(attrs.evolve(self.disk, nodes="", reason=""))))
        data["attempts"] = tuple(Attempt(**attempt) for attempt in data["attempts"])
        data["cause"] = None if data["cause"] is None else Cause(**data["cause"])
        return Record(**data)

    # ---- what can happen ----------------------------------------------------------------------------------------

    def on_submit(self, answered: int, *_: int) -> None:
        """A new job is submitted: its token is written first. Slurm may not hear of it, or its answer may be lost."""
        if self.job.state is not State.NEW or not self.wanted:
            return
        number = self.job.epoch.attempt + 1
        self.move(self.job.submitting(f"token-{number}"), "submitting")
        if answered % 4:
            same = [one for one in self.slurm if one.token == f"token-{number}" and one.state != "ended"]
            if not same:  # else the client finds it by its token and takes that
                self.slurm.append(AtSlurm(len(self.slurm) + 1, f"token-{number}", number))
            self.unanswered = same[0] if same else self.slurm[-1]

    def on_answer(self, *_: int) -> None:
        if self.unanswered is not None and self.job.state is State.SUBMITTING:
            self.move(self.job.accepted(self.unanswered.batch_id), "accepted")
        self.unanswered = None

    def on_look_up(self, *_: int) -> None:
        """The answer to a submission is not known: Slurm is asked by its token."""
        attempt = self.job.attempt
        if self.job.state is State.SUBMITTING and attempt is not None:
            found = [one.batch_id for one in self.slurm if one.token == attempt.token]
            self.unanswered = None
            self.move(self.job.accepted(found[0]) if found else self.job.not_there(), "look_up")

    def on_advance(self, which: int, *_: int) -> None:
        """A job goes on at Slurm."""
        one = pick([one for one in self.slurm if one.state != "ended"], which)
        if one is not None:
            one.state = {"pending": "running", "running": "ended"}[one.state]

    def on_requeue(self, which: int, *_: int) -> None:
        """Slurm starts a job again."""
        one = pick([one for one in self.slurm if one.state == "running"], which)
        if one is not None:
            one.state, one.restarts = "pending", one.restarts + 1

    def on_news(self, which: int, repeated: int, *_: int) -> None:
        """Slurm says how a job stands; that is under way, once or twice."""
        one = pick(self.slurm, which)
        if one is not None:
            self.news += [(one.attempt, one.state, one.restarts)] * (1 + repeated % 2)

    def on_hear(self, which: int, again: int, *_: int) -> None:
        """News arrive, in any order, and may arrive once more."""
        found = pick(self.news, which)
        if found is None:
            return
        if again % 3:
            self.news.remove(found)
        attempt, state, restarts = found
        before = self.job
        if state == "ended":
            self.move(self.job.over(attempt, restarts), "over")
        else:
            self.move(self.job.seen(attempt, state == "running", restarts, "node1" * (state == "running")), "seen")
        old = Epoch(attempt, restarts) < before.epoch
        promise(GROWS, not (old and state != "ended") or self.job is before, found, "has moved", before)
        promise(GROWS, attempt == before.epoch.attempt or self.job is before, found, "has moved", before)

    def on_result(self, which: int, *_: int) -> None:
        """A start leaves its result; it may be one that was given up."""
        one = pick([one for one in self.slurm if one.state != "pending"], which)
        if one is not None:
            self.results.add(Epoch(one.attempt, one.restarts))

    def on_take(self, which: int, *_: int) -> None:
        """Somebody offers a result."""
        epoch = pick(sorted(self.results), which)
        if epoch is not None:
            if epoch.attempt == self.job.epoch.attempt and epoch > self.job.epoch:
                self.move(self.job.restarted(epoch), "restarted")
            before = self.job
            self.move(self.job.finished(epoch), "finished")
            if before.state is not State.DONE and self.job.state is State.DONE:
                self.taken = epoch
                promise(NEWEST, epoch == before.epoch, epoch, "was taken,", before.epoch, "counts")

    def on_fail(self, which: int, verdict: int, older: int) -> None:
        """An attempt is said to have failed; it may be an older one."""
        attempt = max(0, self.job.epoch.attempt - older % 2)
        before = self.job
        cause = Cause(KINDS[which % len(KINDS)], "it fell over")
        self.move(self.job.failed(attempt, cause, VERDICTS[verdict % len(VERDICTS)]), "failed")
        promise(GROWS, attempt == before.epoch.attempt or self.job is before, "an older attempt has failed")
        if before.state is State.DONE and self.job.state is not State.DONE:
            promise(DONE_STAYS, cause.kind is Kind.RESULT, cause, "has moved a job that was done")

    def on_late(self, *_: int) -> None:
        """A sound result of the newest start is found while the job waits for a decision."""
        if self.job.epoch in self.results:
            self.move(self.job.resulted(), "resulted")

    def on_retry(self, again: int, *_: int) -> None:
        """Somebody types it, maybe twice."""
        for _ in range(1 + again % 2):
            self.move(self.job.retried({"time": "2:00:00"} if again % 3 else None), "retried")
        self.wanted = True

    def on_cancel(self, again: int, *_: int) -> None:
        for _ in range(1 + again % 2):
            self.move(self.job.cancelled(), "cancelled")
        if self.job.state is State.CANCELLED:
            self.wanted = False

    def on_forget(self, *_: int) -> None:
        """Slurm knows nothing of the job any more; that may be told when nobody asks any longer."""
        self.move(self.job.not_there(), "not_there")

    def on_taken(self, which: int, *_: int) -> None:
        """Another submission under the same token does the work."""
        self.move(self.job.taken(1000 + which % 5), "taken")

    def on_moved(self, which: int, restarts: int, kind: int) -> None:
        """Any other event, whether it fits or not."""
        attempt = self.job.epoch.attempt + which % 3 - 1
        epoch = Epoch(max(attempt, 0), restarts % 4)
        event, after = (
            ("restarted", lambda: self.job.restarted(epoch)),
            ("over", lambda: self.job.over(epoch.attempt, epoch.restarts)),
            ("seen", lambda: self.job.seen(epoch.attempt, kind > 99, epoch.restarts)),
            ("accepted", lambda: self.job.accepted(77)),
            ("submitting", lambda: self.job.submitting(f"token-{self.job.epoch.attempt + 1}")),
        )[kind % 5]
        self.move(after(), event)

    def on_crash(self, *_: int) -> None:
        """The master is killed; the next one begins with what was written."""
        before = attrs.evolve(self.job, nodes="", reason="")
        self.job = self.read_again()
        self.unanswered = None
        promise(DONE_STAYS, self.job == before, "read again:", self.job, "and not", before)

    # ---- what always holds --------------------------------------------------------------------------------------

    def compare(self, before: Record, after: Record, by: str) -> None:
        """Look at one step of a record."""
        if not (by in ("not_there", "look_up") and before.state is State.SUBMITTING):  # that attempt never came about
            promise(GROWS, after.epoch.attempt >= before.epoch.attempt, by, before.epoch, after.epoch)
            promise(GROWS, by == "taken" or after.epoch >= before.epoch, by, before.epoch, after.epoch)
        promise(
            GROWS, after.attempts[: len(before.attempts) - 1] == before.attempts[:-1], "the past was changed by", by
        )
        if len(after.attempts) > len(before.attempts):
            promise(ONE_ATTEMPT, before.state is State.NEW, "submitted as", before.state)
        if after.state is State.DONE and before.state is not State.DONE:
            promise(NEWEST, by == "finished", by, "has ended it")
        if before.state is State.DONE and after.state is not State.DONE:
            promise(DONE_STAYS, by == "failed", by, "has moved a job that was done")
        if before.state is State.CANCELLED and after.state is not State.CANCELLED:
            promise(CANCELLED_STAYS, by == "retried", by, "has moved a cancelled job")

    def check(self) -> None:
        job = self.job
        tokens = [attempt.token for attempt in job.attempts]
        promise(ONE_TOKEN, len(set(tokens)) == len(tokens), tokens)
        living = [one.token for one in self.slurm if one.state != "ended"]
        promise(ONE_TOKEN, len(set(living)) == len(living), living)
        promise(CAUSES, job.cause is not None or job.state not in (State.HELD, State.FAILED), job)
        promise(ONE_ATTEMPT, bool(job.attempts) or job.state not in WITH_SLURM, job)

    def finish(self) -> None:
        """If the program still wants it, and Slurm works, the job comes to its end."""
        self.on_crash()
        self.on_retry(0)
        for _ in range(8):
            if self.job.state is State.NEW:
                self.on_submit(1)
                self.on_answer()
            self.on_look_up()
            for one in self.slurm:
                one.state = "ended"
            if self.job.attempt is not None and self.job.state in WITH_SLURM:
                self.move(self.job.over(self.job.epoch.attempt, self.job.epoch.restarts), "over")
                self.results.add(self.job.epoch)
                self.on_take(sorted(self.results).index(self.job.epoch))
        self.on_crash()
        promise(DONE_STAYS, self.job.state is State.DONE and self.job.state in AT_REST, self.job)
        self.check()
