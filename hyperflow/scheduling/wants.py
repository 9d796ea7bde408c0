"""What waits, for who may bring more nodes: how many evaluations, what each asks for, how long they take.

Guarantees: it costs a look at a few entries of each queue, however many wait, and nothing while nobody asks. Where a
queue is short, the numbers are right; of a long one, they are those of its first and last entries, scaled to all.
What is prefetched counts, too: it waits behind something that runs. What is speculative does not, nor what has to wait
for tokens of the program: no node brings any.

(Rejected: counts of what waits by function, kept as tasks come and go. Each evaluation would pay for that.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import chain, islice

from hyperflow.request import Request, Want
from hyperflow.scheduling.prefetch import Estimates
from hyperflow.scheduling.refusals import as_request
from hyperflow.scheduling.state import WAITING, Key, Task, Worker
from hyperflow.scheduling.teams import Teams
from hyperflow.scheduling.tokens import Purse
from hyperflow.scheduling.waiting import Waiting
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber, WorkerNumber

SAMPLE = 100
"""Entries that are looked at, at each end of a queue that is longer than two times as many."""

Function = DefinitionNumber


class Wants:
    """Looks at what waits. Looked at now and then, it notes for how long functions run of which none has ended."""

    def __init__(
        self, waiting: Waiting, estimates: Estimates, teams: Teams, workers: Mapping[WorkerNumber, Worker]
    ) -> None:
        self._waiting = waiting
        self._estimates = estimates
        self._teams = teams
        self._workers = workers
        self._since: dict[Function, tuple[TaskNumber, float]] = {}  # the oldest that runs, and when it was first seen

    def look(self, tokens: Purse, overfull: Collection[Worker], now: float) -> list[Want]:
        """Return what waits, the oldest first. `overfull`: workers that may have more than one task."""
        found: dict[tuple[Request, Function], int] = {}
        for key in sorted(self._keys(), key=lambda key: self._waiting.queues[key][0].number):
            asks = as_request(key)._replace(avoided=frozenset(), suspect=False, priority=0)
            most = min((tokens[name].free // count for name, count in asks.resources if count), default=None)
            for function, number in self._functions(key).items():
                at_most = number if most is None else min(number, most)
                found[asks, function] = found.get((asks, function), 0) + at_most
        for asks, function, number in self._prefetched(overfull):
            found[asks, function] = found.get((asks, function), 0) + number
        self._note({function for _, function in found}, now)
        return [
            Want(asks, number, self._seconds(function, now)) for (asks, function), number in found.items() if number
        ]

    def _keys(self) -> list[Key]:
        keys = self._waiting.requests()
        return [key for key in keys if type(key) is not Request or not key.speculative]

    def _functions(self, key: Key) -> dict[Function, int]:
        """Return how many wait in a queue, by function."""
        queue = self._waiting.queues[key]
        if len(queue) <= 2 * SAMPLE:
            return _count(queue)[0]
        some = [*islice(queue, SAMPLE), *islice(reversed(queue), SAMPLE)]
        counts, looked_at = _count(some)
        left = self._waiting.left(key)
        return {function: max(number * left // looked_at, 1) for function, number in counts.items()}

    def _prefetched(self, overfull: Collection[Worker]) -> list[tuple[Request, Function, int]]:
        teams = [team for team in self._teams.all.values() if team.queued]
        return [
            *((Request(team.cpus), team.function, team.queued) for team in teams),
            *((Request(len(one.cpus)), _last(one).function, one.held - 1) for one in overfull if one.held > 1),
        ]

    def _note(self, functions: Collection[Function], now: float) -> None:
        """Note since when functions run of which nothing is known."""
        unknown = {function for function in functions if function not in self._estimates.seconds}
        oldest: dict[Function, TaskNumber] = {}
        if unknown:
            singles = (next(iter(worker.queue.values())) for worker in self._workers.values() if worker.queue)
            running = chain(
                ((task.function, task.number) for task in singles),
                ((team.function, next(iter(team.held))) for team in self._teams.all.values() if team.held),
            )
            for function, number in running:
                if function in unknown:
                    oldest[function] = min(number, oldest.get(function, number))
        before, self._since = self._since, {}
        for function, number in oldest.items():
            last = before.get(function)
            self._since[function] = last if last is not None and last[0] == number else (number, now)

    def _seconds(self, function: Function, now: float) -> float | None:
        known = self._estimates.seconds.get(function)
        if known is None and function in self._since:
            known = now - self._since[function][1] or None
        return known


def _last(worker: Worker) -> Task:
    return next(reversed(worker.queue.values()))


def _count(tasks: Collection[Task]) -> tuple[dict[Function, int], int]:
    """Return how many wait of these, by function, and how many these are."""
    counts, looked_at = Counter[Function](), 0
    for task in tasks:
        looked_at += task.count
        if task.state is WAITING:
            counts[task.function] += task.count
    return dict(counts), looked_at
