"""Teams: workers of one node and one size that serve one queue, which their launcher keeps. Batches go to them.

An answer that comes by itself costs the head an order, a frame, a worker to look up and a line: some 55 µs, whatever
the task is. So of what is alike, a node gets as much as its workers are in and a reserve, in one message; its launcher
hands that out, and its answers come back joined. The head knows what a team holds, not which worker has what.

Guarantees:
- A team serves evaluations that are alike: one function, one size, and what else the head says (`Calls.alike`).
- Nothing goes into a reserve that a free CPU could have, or past what is older and asks for something else.
- What is in reserve while a CPU is free elsewhere is recalled: as much as the free ones can take of it.
- A team that is closed gets nothing more, and gives back all that nobody is in: on a node that is put aside, or after a
  cancellation, by which some of its workers end.
- What a team holds when it has no workers left comes back.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

from hyperflow.scheduling.ledger import Ledger
from hyperflow.scheduling.prefetch import PATIENCE, PREFETCH_BYTES, Estimates
from hyperflow.scheduling.state import (
    CANCELLED,
    SENT,
    Batch,
    Cancel,
    Effect,
    Feed,
    Join,
    Recall,
    Task,
    Team,
    Worker,
    in_ranges,
)
from hyperflow.scheduling.waiting import Waiting
from hyperflow.wire.numbers import TaskNumber, WorkerNumber

MOST_IN_VAIN = 63
"""Looks at most that a team is spared after recalls that gave nothing: its workers have in hand what it holds."""

Key = tuple[str, int, Hashable]


class Teams:
    """All teams of a scheduler. `effects` are its orders, `numbers` those of its workers."""

    def __init__(
        self, waiting: Waiting, estimates: Estimates, effects: list[Effect], numbers: Iterator[WorkerNumber]
    ) -> None:
        self.all: dict[WorkerNumber, Team] = {}
        self.held = 0
        """Tasks that all teams hold."""
        self.queued = 0
        """Of these, how many are more than a team has workers."""
        self.answers = 0
        """That have come so far from all workers, also from those in no team; the scheduler counts them."""
        self._waiting = waiting
        self._estimates = estimates
        self._effects = effects
        self._numbers = numbers
        self._open: dict[Key, Team] = {}  # those that may get more
        self._at = defaultdict[str, dict[WorkerNumber, Team]](dict)
        self._candidates: dict[WorkerNumber, Team] = {}  # to look at when filling reserves: something happened to them
        self._deep: deque[Team] = deque()  # those that have, or had lately, something queued

    def at(self, node: str) -> list[Team]:
        """Return the teams of a node."""
        return list(self._at[node].values()) if node in self._at else []

    # ---- what they get ------------------------------------------------------------------------------------------

    def serve(self, batch: Batch, workers: list[Worker]) -> Team:
        """Let workers of one node, which are idle, serve what is like this."""
        node, cpus = workers[0].node, len(workers[0].cpus)
        key = node, cpus, (batch.function, batch.calls.alike)
        team = self._open.get(key)
        if team is None:
            team = Team(next(self._numbers), node, cpus, batch.function, batch.calls.alike)
            self.all[team.number] = self._at[node][team.number] = self._open[key] = team
        self._join(team, workers)
        return team

    def _join(self, team: Team, workers: list[Worker]) -> None:
        for worker in workers:
            worker.team = team
            team.members[worker.number] = worker
        if not team.held:
            team.heard = self.answers
        self._effects.append(Join(team, workers))
        self._changed(team)

    def feed(self, team: Team, count: int, bound: TaskNumber | None = None) -> None:
        """Send a team so many of what waits, as long as that is like what it serves, and not younger than the bound."""
        size, most = 0, len(team.members) * PREFETCH_BYTES
        while count > 0 and size <= most:
            batch = self._waiting.oldest(team.cpus)
            if type(batch) is not Batch or not serves(team, batch) or (bound is not None and batch.number > bound):
                break
            sent = self._waiting.pop(team.cpus, count)
            assert type(sent) is Batch
            sent.state, sent.team = SENT, team
            team.held.update(dict.fromkeys(sent.numbers, sent))
            self.held += sent.count
            count -= sent.count
            size += sent.size * sent.count
            self._effects.append(Feed(team, sent))
        self._changed(team)

    def refill(self, cpus: int, kept: int, bound: TaskNumber | None, active: int) -> None:
        """Fill the reserves of teams that serve what is the oldest.

        Args:
            kept: For so many CPUs, what waits is kept; they are free, and it was too much to start all at once.
            bound: Nothing younger goes.
            active: How many workers are at work in all.
        """
        oldest = self._waiting.oldest(cpus)
        if type(oldest) is not Batch:
            return
        left = self._waiting.left(cpus) - kept
        if left <= 0:
            return
        level = (left + self.queued) / max(active, 1)  # all that are at work will want more soon
        for team in self._candidates.values():
            workers = len(team.members)
            if not workers or team.slow or team.cpus != cpus or not serves(team, oldest):
                continue
            reserve = self._estimates.reserve(oldest, workers, active)
            if team.queued <= reserve // 2:  # else it would be a few for each answer
                self.feed(team, workers + min(reserve, math.ceil(level * workers)) - len(team.held), bound)

    def looked_at(self) -> None:
        """All of whom something was heard have been filled."""
        self._candidates.clear()

    # ---- what comes from them -----------------------------------------------------------------------------------

    def answered(self, team: Team, count: int, seconds: float) -> None:
        """So many have been answered, and are taken out of what it holds; they took so long all together."""
        self._estimates.learn(team.function, seconds / count, count)
        self.answers += count
        self.held -= count
        team.heard, team.slow, team.in_vain = self.answers, False, 0
        self._changed(team)

    def take(self, team: Team, number: TaskNumber) -> Task | None:
        """Take one out that is by itself; None if it has been cancelled, say."""
        task = team.held.get(number)
        if task is None or type(task) is Batch:
            return None
        del team.held[number]
        return task

    def left(self, team: Team, numbers: Iterable[WorkerNumber]) -> list[Worker]:
        """These workers serve a team no more; return those of them that are idle now."""
        gone = [worker for number in numbers if (worker := team.members.pop(number, None)) is not None]
        for worker in gone:
            worker.team = None
        if team.held and not team.members and gone and not team.closed:  # what it was sent last is still on its way
            self._join(team, gone[: len(team.held)])
            gone = gone[len(team.members) :]
        self._changed(team)
        return gone

    def ended(self, worker: Worker, task: TaskNumber) -> Task | None:
        """A worker of a team has gone; return what it was in, if that has no answer, and is wanted."""
        team = worker.team
        assert team is not None
        del team.members[worker.number]
        worker.team = None
        within = self.take(team, task) if task else None
        if within is not None:
            self.held -= 1
        self._changed(team)
        return within

    def recalled(self, team: Team, ranges: Iterable[tuple[TaskNumber, int]]) -> list[Task]:
        """A team will not run these: return them, as what is to wait."""
        team.recalling = False
        back: list[Task] = []
        for first, count in ranges:
            back += self._taken(team, range(first, first + count))  # type: ignore[arg-type]  # TaskNumber() takes a while
        self.held -= sum(task.count for task in back)
        team.in_vain = 0 if back else min(2 * team.in_vain + 1, MOST_IN_VAIN)
        team.looks = team.in_vain
        self._changed(team)
        if team.closed and team.queued and back:  # it was closed while less was asked for
            self._recall(team, team.queued)
        return back

    def _taken(self, team: Team, numbers: Iterable[TaskNumber]) -> Iterator[Task]:
        """Take these out, those together that are of one batch and follow each other."""
        of: Batch | None = None
        first = count = 0
        for number in numbers:
            task = team.held.pop(number, None)
            if of is not None:
                if task is of and number == first + count:
                    count += 1
                    continue
                yield of.part(TaskNumber(first), count)
                of = None
            if type(task) is Batch:
                of, first, count = task, number, 1
            elif task is not None:  # else it was cancelled
                yield task
        if of is not None:
            yield of.part(TaskNumber(first), count)

    def lost(self, node: str) -> list[Task]:
        """The node is gone, and its teams: return what they held, each by itself."""
        back: list[Task] = []
        for team in self._at.pop(node, {}).values():
            del self.all[team.number]
            self._close(team)
            self.held -= len(team.held)
            self.queued -= team.queued
            back += team.held.values()
            team.held.clear()
            team.members.clear()
            team.queued = 0
        return back

    # ---- what is taken back -------------------------------------------------------------------------------------

    def close(self, teams: Iterable[Team]) -> None:
        """Give these teams nothing more, and take back what nobody is in."""
        for team in teams:
            self._close(team)
            self._recall(team, len(team.held))

    def _close(self, team: Team) -> None:
        if not team.closed:
            team.closed = True
            self._candidates.pop(team.number, None)
            del self._open[team.node, team.cpus, (team.function, team.alike)]

    def _recall(self, team: Team, count: int) -> None:
        if count > 0 and not team.recalling:
            team.recalling = True
            self._effects.append(Recall(team, count))

    def cancel(self, task: Task) -> None:
        """Nobody wants one that is by itself any more."""
        assert task.team is not None
        del task.team.held[task.number]
        task.state = CANCELLED
        self._cancel(task.team, [task.number])

    def withdraw(self, owner: object) -> list[Batch]:
        """Take out all batches of a map, and cancel them."""
        found: list[Batch] = []
        for team in list(self.all.values()):
            batches = {task for task in team.held.values() if type(task) is Batch and task.calls.owner is owner}
            if batches:
                mine = sorted(number for number, task in team.held.items() if task in batches)
                found += (task for task in self._taken(team, mine) if type(task) is Batch)
                self._cancel(team, mine)
        return found

    def _cancel(self, team: Team, numbers: Sequence[TaskNumber]) -> None:
        """These are taken out. Some of its workers will end, so what else it holds is better off elsewhere."""
        self.held -= len(numbers)
        self._effects.append(Cancel(team, in_ranges(numbers)))
        self.close([team])
        self._changed(team)

    def rebalance(self, pool: Ledger, worth: float, looks: int | None = None) -> int:
        """Recall what the free CPUs can take; return how many CPUs are left.

        Only from teams with at least `worth` seconds of work queued for each worker, after at most so many looks.
        """
        free = pool.free
        for _ in range(len(self._deep) if looks is None else min(looks, len(self._deep))):
            if free <= 0:
                break
            team = self._next_deep()
            if team is None:
                continue
            if team.looks:
                team.looks -= not worth
                continue
            workers = max(len(team.members), 1)
            places = free // team.cpus if pool.roomiest(team.cpus) is not None else 0
            if places and self._estimates.work(team.function, team.queued) >= worth * workers:
                if any(type(effect) is Join and effect.team is team for effect in self._effects):
                    continue  # it would be recalled from under those who are to take it, and they would join again
                count = -(-team.queued * places // (places + workers))
                self._recall(team, count)
                free -= count * team.cpus
        return free

    def take_from_slow(self, looks: int, active: int) -> None:
        """Recall what is queued at teams that have fallen behind: younger ones would start before it, elsewhere."""
        for _ in range(min(looks, len(self._deep))):
            team = self._next_deep()
            if team is None or team.recalling:
                continue
            each = len(team.held) / max(len(team.members), 1)
            if self.answers - team.heard > PATIENCE * active * each:
                team.slow = True
                self._recall(team, team.queued)

    def _next_deep(self) -> Team | None:
        """Return the next one of those with something queued; None if it has nothing any more."""
        team = self._deep.popleft()
        if team.queued:
            self._deep.append(team)
            return team
        team.deep = False
        return None

    # ---- book-keeping -------------------------------------------------------------------------------------------

    def single_out(self, team: Team, batch: Batch, number: TaskNumber) -> Task:
        """Make one of a batch that a team has a task of its own."""
        task = team.held[number] = batch.one(number)
        return task

    def single_out_all(self, nodes: Collection[str] | None = None) -> list[tuple[Batch, list[Task]]]:
        """The same for all, or all that these nodes have."""
        found: list[tuple[Batch, list[Task]]] = []
        for team in self.all.values():
            if nodes is None or team.node in nodes:
                batches = defaultdict[Batch, list[Task]](list)
                for number, task in team.held.items():
                    if type(task) is Batch:
                        batches[task].append(task.one(number))
                for tasks in batches.values():
                    team.held.update((task.number, task) for task in tasks)
                found += batches.items()
        return found

    def _changed(self, team: Team) -> None:
        """It holds more or less, or has more workers or fewer."""
        queued = max(len(team.held) - len(team.members), 0)
        self.queued += queued - team.queued
        team.queued = queued
        if queued and not team.deep:
            team.deep = True
            self._deep.append(team)
        if not team.members:
            if team.held:
                self._recall(team, len(team.held))
                return
            self._close(team)
            if self.all.pop(team.number, None) is not None:
                del self._at[team.node][team.number]
        elif not team.closed:
            self._candidates[team.number] = team


def serves(team: Team, batch: Batch) -> bool:
    """Whether a batch may go to a team."""
    return batch.function == team.function and batch.calls.alike == team.alike
