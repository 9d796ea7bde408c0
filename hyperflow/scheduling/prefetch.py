"""How much to prefetch: tasks that are sent to a worker while it is still busy with others.

A round trip to a worker costs as much as about twenty evaluations of a microsecond. So a busy worker is sent more tasks
than it can run now: about PREFETCH_SECONDS of work, by the mean time of their function so far. Here is how many; the
scheduler decides where, and what is retracted.
"""

from __future__ import annotations

from collections.abc import Iterable

from hyperflow.scheduling.state import SENT, Task, Worker
from hyperflow.wire.numbers import DefinitionNumber

PREFETCH_SECONDS = 0.016
"""Work prefetched at a busy worker: several round trips, yet a short wait for what is queued there."""

PREFETCH_ONE_BELOW = 0.05
"""One task whose function takes less than this (seconds) is prefetched even if that exceeds PREFETCH_SECONDS."""

ANSWERS_AT_ONCE = 1000.0
"""Where so many answers are expected in a second, one task is prefetched however long it takes, if much waits: then the
launchers may join their answers, and the head may come round late, and no CPU idles meanwhile."""

DEEP = 0.1
"""So many tasks for each worker at work have to wait for that. Else what is prefetched would wait longer for its worker
than for the next one that is free."""

PATIENCE = 3
"""What was prefetched is taken back from a worker that does not answer while the others, on average, answer so many
times as many tasks as it holds."""

PREFETCH_TASKS = 1000
PREFETCH_BYTES = 1 << 20
"""Bounds on what is prefetched at one worker, whatever the estimates say."""

RESERVE_SECONDS = 0.1
"""Work that a team's queue has beyond what its workers are in: several turns of a busy head. It waits for no worker in
particular, and can be recalled, so it may be more than what is prefetched at a single worker."""

RESERVE_AHEAD = 1.0
"""The same where tasks take long, and answers are many: the head may come round late."""

RESERVE_TASKS = 4000
"""Bound on the reserve, for each of its workers; for the bytes it is PREFETCH_BYTES."""

RETRACT_WORTH = 0.0005
"""Less estimated work (seconds) than this stays where it is queued: it ends sooner than a retraction."""

GRAIN = 0.0001
"""Of a batch, so much (seconds of work) is for one idle worker: a message to each of more workers takes longer."""

NEWEST_WEIGHT = 0.2
"""Weight of the newest measurement in the mean time of a function."""


class Estimates:
    """The mean time of each function, and what follows from it."""

    def __init__(self) -> None:
        self.seconds: dict[DefinitionNumber, float] = {}

    def learn(self, function: DefinitionNumber, seconds: float, count: int = 1) -> None:
        """A task of this function took so long; or so many, on average."""
        known = self.seconds.get(function)
        if known is None:
            self.seconds[function] = seconds
        else:
            weight = NEWEST_WEIGHT if count == 1 else 1.0 - (1.0 - NEWEST_WEIGHT) ** count
            self.seconds[function] = known + weight * (seconds - known)

    def forget(self, functions: Iterable[DefinitionNumber]) -> None:
        """These functions will not be used again."""
        for number in functions:
            self.seconds.pop(number, None)

    def grain(self, task: Task) -> int:
        """Return how many of a batch are for one idle worker."""
        seconds = self.seconds.get(task.function)
        return 1 if seconds is None else max(int(GRAIN / max(seconds, 1e-6)), 1)

    def reserve(self, task: Task, workers: int, active: int) -> int:
        """Return how many tasks like this a team with so many workers is to have beyond those that they are in.

        So many workers are at work in all teams and by themselves.
        """
        seconds = self.seconds.get(task.function)
        if seconds is None:
            return 0
        if seconds < PREFETCH_ONE_BELOW:
            each = min(RESERVE_SECONDS / max(seconds, 1e-6), RESERVE_TASKS, PREFETCH_BYTES / max(task.size, 1))
        elif active > ANSWERS_AT_ONCE * seconds:
            each = RESERVE_AHEAD / seconds
        else:
            return 0
        return max(int(workers * each), 1)

    def is_worth_retracting(self, worker: Worker, worth: float) -> bool:
        """Whether a worker has prefetched tasks that were not cancelled, and at least so many seconds of work."""
        work, wanted = 0.0, False
        for place, task in enumerate(worker.queue.values()):
            if place:  # not the one that it is in
                work += self.seconds.get(task.function, 1.0)  # of an unknown function, a second each
                wanted = wanted or task.state is SENT
        return wanted and work >= worth

    def work(self, function: DefinitionNumber, count: int) -> float:
        """Return the seconds that so many tasks of a function take; of one that is unknown, a second each."""
        return count * self.seconds.get(function, 1.0)

    def is_ahead(self, function: DefinitionNumber, active: int, left: int) -> bool:
        """Whether a worker is to have a task more than the one that it is in, even if that takes long."""
        seconds = self.seconds.get(function)
        if seconds is None:
            return False
        return seconds < PREFETCH_ONE_BELOW or (active > ANSWERS_AT_ONCE * seconds and left >= DEEP * active)

    def room(self, worker: Worker, task: Task, ahead: bool) -> int:
        """Return how many tasks like this one may be queued at the worker beside what it has."""
        if worker.fresh or worker.ending or worker.retracting or worker.slow or worker.load >= PREFETCH_BYTES:
            return 0
        means = self.seconds
        seconds = means.get(task.function)
        if seconds is None:
            return 0
        queued = worker.held
        last = next(reversed(worker.queue.values()))
        if last.alone:
            return 0
        if last.function != task.function:
            known = means.get(last.function)
            if known is None:
                return 0
            work = PREFETCH_SECONDS - queued * max(seconds, known)
        else:
            work = PREFETCH_SECONDS - queued * seconds
        if work >= seconds:
            return min(int(work / max(seconds, 1e-6)), PREFETCH_TASKS - queued)
        return 1 if ahead and queued == 1 else 0
