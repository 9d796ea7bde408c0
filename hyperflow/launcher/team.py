"""A team: workers of one node that serve one queue, and who gets how much of it. It knows of no process and no stream.

Guarantees: tasks are handed out in the order of the queue. No worker gets more than a fair share of what is left, nor
more than HAND_SECONDS of work at once, and of tasks that take long one at a time. So a worker seldom waits for the
next task, and few tasks wait behind a slow one; those that do are taken back as soon as somebody could run them.
"""

from __future__ import annotations

import math
from collections import deque

from hyperflow.launcher.stretches import Queue, Stretch
from hyperflow.wire import frames
from hyperflow.wire.claim_page import ClaimPage
from hyperflow.wire.frames import Outcome
from hyperflow.wire.numbers import Seq, TaskNumber, WorkerNumber

HAND_SECONDS = 0.05
"""Work that a worker has in hand at most, where that is more than one task: twice what passes between its messages
(wire/answer_ring.TEAM_WAKE)."""

ONE_MORE_BELOW = 0.05
"""One task more than it is in, a worker gets if they take less than so many seconds."""

GROWTH = 4
"""For each task that was answered, so many are handed out at once at most: the first may not be like the others."""

WORTH = 0.0005
"""Less estimated work (seconds) than this is not worth a message: it is handed out together, and it is not taken back
before others have waited IDLE for it."""

IDLE = 0.002
"""Seconds that a worker without work waits for what others are about to start."""

SILENCE = 0.05
"""A worker that starts nothing for so many seconds, and for PATIENCE tasks' time, loses what it has in hand."""

PATIENCE = 3

HAND_TASKS = 1000
HAND_BYTES = 1 << 18
"""Bounds on what is handed out at once, whatever the estimates say."""

NEWEST_WEIGHT = 0.2
"""Weight of the newest measurement in the mean time of a task."""

SKIPPED = int(Outcome.SKIPPED)


class Member:
    """A worker that serves a team.

    Args:
        sent: How many tasks it was sent before.
        stale: Whether there are some among them that were retracted, and that it has not come to yet; then `sent` by
            the head's own count.
    """

    def __init__(self, number: WorkerNumber, claims: ClaimPage, sent: int, stale: int = 0) -> None:
        self.number = number
        self.is_idle = True
        """Whether it has answered all that it got."""
        self.moment = 0.0
        """When it was seen last to have started another task."""
        self._claims = claims
        self._sent = sent
        self._seen = claims.started
        self._chunks: deque[tuple[int, Stretch]] = deque()
        """What it has, with the seq of the first of each; the older ones may be done."""
        self._end = TaskNumber(0)  # the last task that it got
        self._records: frames.Bytes = b""  # the last answers that were read, unless they are large
        self._said: tuple[TaskNumber, int] | None = None  # what the last one of them says, as `_last_of` returns it
        # What was taken back, and what it still says of that: from which seq, below which, and what it says last.
        self._taken: deque[tuple[int, int, TaskNumber]] = deque()
        if stale:
            self._taken.append((0, stale + 1, TaskNumber(0)))

    @property
    def unstarted(self) -> int:
        """How many tasks it has in hand that it has not started."""
        count, started = 0, self._claims.started
        for first, stretch in reversed(self._chunks):
            if first + stretch.count - 1 <= started:
                break
            count += stretch.count - max(started + 1 - first, 0)
        return count

    @property
    def is_odd(self) -> bool:
        """Whether what it answers has to be looked through: there are answers that only its launcher understands."""
        return bool(self._taken)

    def give(self, stretch: Stretch, now: float) -> None:
        """It gets these."""
        if self.is_idle:
            self.is_idle = False
            self.moment, self._seen = now, Seq(self._sent)
        started = self._claims.started
        while self._chunks and not self._taken and self._chunks[0][0] + self._chunks[0][1].count <= started:
            self._chunks.popleft()  # done: the next one has started
        self._chunks.append((self._sent + 1, stretch))
        self._sent += stretch.count
        self._end = TaskNumber(stretch.first + stretch.count - 1)

    def take_back(self) -> list[Stretch]:
        """Return what it has not started, and will not start."""
        if not self.unstarted:
            return []
        below = self._sent + 1
        boundary = self._claims.retract(Seq(below))
        self._taken.append((boundary, below, self._end))
        kept: deque[tuple[int, Stretch]] = deque()
        back: list[Stretch] = []
        for first, stretch in self._chunks:
            ours, others = stretch.cut(min(max(boundary - first, 0), stretch.count))
            if ours.count:
                kept.append((first, ours))
            if others.count:
                back.append(others)
        self._chunks = kept
        return back

    def progress(self, now: float) -> tuple[int, float]:
        """Return how many tasks it has started since this was asked last, and in how many seconds."""
        count = self._claims.started - self._seen
        seconds = now - self.moment
        if count > 0:
            self.moment = now
            self._seen = self._claims.started
        return count, seconds

    def answered(self, records: frames.Bytes, in_hand: int) -> None:
        """It has said this; maybe that it has no more in hand."""
        if len(records) > frames.CHUNK:  # which is not to be kept
            self._records, self._said = b"", _last_of(records)
        elif len(records):
            self._records, self._said = records, None
        if not in_hand and not self.is_idle:
            task, seq = self._last()
            self.is_idle = seq == self._sent if seq else task == self._end

    def sifted(self, records: frames.Bytes) -> tuple[frames.Bytes, list[Stretch]]:
        """Return answers without those that say of a task that it was taken back; and tasks to be run after all.

        A worker that looks at a task just when others are taken back may take it for one of these.
        """
        body, kept, again = memoryview(records), [], []
        at = 0
        while at < len(body):
            end = frames.end_of_result(body, at)
            task, outcome = frames.task_of_result(body, at)
            seq = frames.SIZE.unpack_from(body, at + frames.RESULT.size)[0] if outcome == SKIPPED else 0
            if not seq:
                kept.append(body[at:end])
            elif not any(boundary <= seq < below for boundary, below, _ in self._taken):
                again += self._one(seq)
            while self._taken and (seq == self._taken[0][1] - 1 if seq else task == self._taken[0][2]):
                self._taken.popleft()
            at = end
        return b"".join(kept), again

    def _one(self, seq: int) -> list[Stretch]:
        for first, stretch in self._chunks:
            if first <= seq < first + stretch.count:
                _, rest = stretch.cut(seq - first)
                return [rest.cut(1)[0]]
        return []

    def _last(self) -> tuple[TaskNumber, int]:
        if self._said is None:
            self._said = _last_of(self._records)
        return self._said

    def running(self) -> TaskNumber:
        """Return the task that it has started and, by all that was read, not answered; 0 for none."""
        started = self._claims.started
        for stretch in self._one(started):
            task, seq = self._last()
            if started != seq if seq else task != stretch.first:
                return stretch.first
        return TaskNumber(0)

    def rest(self) -> list[Stretch]:
        """Return what it has not started; it has ended."""
        started = self._claims.started
        cut = (stretch.cut(min(max(started + 1 - first, 0), stretch.count))[1] for first, stretch in self._chunks)
        return [each for each in cut if each.count]

    def has(self, first: int, count: int) -> bool:
        """Whether some of a range may be in its hands."""
        return any(
            stretch.first < first + count and first < stretch.first + stretch.count for _, stretch in self._chunks
        )


def _last_of(records: frames.Bytes) -> tuple[TaskNumber, int]:
    """Return the last task that was answered, and its seq if it was taken back, else 0."""
    body, at, last = memoryview(records), 0, -1
    while at < len(body):
        last, at = at, frames.end_of_result(body, at)
    if last < 0:
        return TaskNumber(0), 0
    task, outcome = frames.task_of_result(body, last)
    return task, frames.SIZE.unpack_from(body, last + frames.RESULT.size)[0] if outcome == SKIPPED else 0


class Team:
    """Members and their queue."""

    def __init__(self, number: WorkerNumber) -> None:
        self.number = number
        self.queue = Queue()
        self.members: dict[WorkerNumber, Member] = {}
        self.parts: list[tuple[WorkerNumber, float, frames.Bytes]] = []
        """Answers that wait to go to the head: whose, and when they came."""
        self.look_at = math.inf
        """When to look whether somebody has fallen behind."""
        self._mean: float | None = None
        self._answered = 0

    @property
    def work(self) -> float:
        """Estimated seconds of work that waits, for each member."""
        return (self._mean or 0.0) * self.queue.count / max(len(self.members), 1)

    def learn(self, count: int, seconds: float) -> None:
        """So many tasks took so long."""
        seconds /= count
        self._answered += count
        if self._mean is None:
            self._mean = seconds
        else:
            weight = NEWEST_WEIGHT if count == 1 else 1.0 - (1.0 - NEWEST_WEIGHT) ** count
            self._mean += weight * (seconds - self._mean)

    def ration(self, member: Member) -> int:
        """Return how many tasks a member is to get now."""
        in_hand = 0 if member.is_idle else member.unstarted + 1
        if self._mean is None:
            return 0 if in_hand else 1
        most = int(min(HAND_SECONDS / max(self._mean, 1e-6), HAND_TASKS, GROWTH * self._answered))
        fair = max(-(-self.queue.count // (2 * len(self.members))), int(WORTH / max(self._mean, 1e-6)))
        one_more = self._mean < ONE_MORE_BELOW and self.queue.count > len(self.members)
        wanted = max(min(most, fair), 2 if one_more else 1)
        return wanted - in_hand if in_hand <= wanted // 2 else 0

    def most_unstarted(self) -> Member | None:
        """Return the member with most in hand that it has not started; None where all have started all."""
        best = max(self.members.values(), key=lambda each: each.unstarted, default=None)
        return best if best is not None and best.unstarted else None

    def is_worth(self, count: int) -> bool:
        """Whether so many tasks are worth to be taken back."""
        return self._mean is None or count * self._mean >= WORTH

    def is_silent(self, member: Member, now: float) -> bool:
        """Whether a member with more in hand has started nothing for so long that others are to run it."""
        if not member.unstarted or len(self.members) == 1:
            return False
        count, seconds = member.progress(now)
        if count > 0:
            self.learn(count, seconds)
        return now - member.moment >= max(SILENCE, PATIENCE * (self._mean or 0.0))
