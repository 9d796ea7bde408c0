"""What is sent to workers while they are still busy; how much of it, prefetch.py says."""

from __future__ import annotations

from collections.abc import Iterator

from hyperflow.scheduling.choice import Choice
from hyperflow.scheduling.crew import Crew
from hyperflow.scheduling.ledger import Ledger
from hyperflow.scheduling.prefetch import PREFETCH_BYTES, Estimates
from hyperflow.scheduling.state import Batch, Task, Worker
from hyperflow.scheduling.teams import Teams
from hyperflow.scheduling.waiting import Waiting
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber, WorkerNumber


class Ahead:
    """Chooses it, among the workers that something happened to."""

    def __init__(
        self, pool: Ledger, waiting: Waiting, choice: Choice, estimates: Estimates, teams: Teams, crew: Crew
    ) -> None:
        self.candidates: dict[WorkerNumber, Worker] = {}
        """The workers to look at. To look at all would cost O(workers)."""
        self._pool = pool
        self._waiting = waiting
        self._choice = choice
        self._estimates = estimates
        self._teams = teams
        self._crew = crew

    def choose(self, unfinished: bool) -> Iterator[tuple[Worker, list[Task]]]:
        """Give busy workers more of the size they have, as long as nothing else waits that goes before it.

        So nothing is sent past the request that has reserved a node: it goes before all that waits of other sizes.
        With `unfinished`, what waits has free CPUs, and only teams get more.
        """
        for cpus in list(self._waiting.queues):
            if type(cpus) is not int:  # it chooses its node when it starts
                continue
            oldest = self._waiting.oldest(cpus)
            if oldest is None or oldest.alone:
                continue
            may, bound = self._choice.bound(cpus)
            if not may:
                continue
            if type(oldest) is Batch:
                kept = self._pool.free // cpus if unfinished else 0  # for those that start in the next turns
                self._teams.refill(cpus, kept, bound, self._crew.active)
            elif not unfinished:
                yield from self._of_size(cpus, oldest, bound)

    def _of_size(self, cpus: int, oldest: Task, bound: TaskNumber | None) -> Iterator[tuple[Worker, list[Task]]]:
        left = self._waiting.left(cpus)
        ahead = self._estimates.is_ahead(oldest.function, self._crew.active, left)
        rooms = [
            (worker, room)
            for worker in self.candidates.values()
            if worker.node not in self._pool.aside
            if worker.queue and worker.size == cpus
            if (room := self._estimates.room(worker, oldest, ahead)) > 0
        ]
        share = -(-left // max(self._crew.active, 1))  # all that are at work will want more soon
        for worker, room in rooms:
            tasks = self._take(cpus, min(share, room), bound, oldest.function)
            if not tasks:
                break
            yield worker, tasks

    def _take(self, cpus: int, count: int, bound: TaskNumber | None, function: DefinitionNumber) -> list[Task]:
        taken: list[Task] = []
        size = 0
        while len(taken) < count and size < PREFETCH_BYTES:
            oldest = self._waiting.oldest(cpus)
            if oldest is None or type(oldest) is Batch or oldest.alone or oldest.function != function:
                break
            if bound is not None and oldest.number > bound:
                break
            taken.append(self._waiting.pop(cpus))
            size += oldest.size
        return taken
