"""What speculative tasks have: it is lent to them. In the ledger's accounts it is free, so that for all others it is as
if they were not there: whoever is wanted gets the same node at the same time, and whoever is in the way ends.

Guarantees:
- A speculative task starts only on what nobody has, wanted or not.
- What wanted tasks have been given and what is lent is never more than there is, but for a moment: then a wanted task
  has its promise, those who are in the way are being killed, and it starts when they have gone.
- Whoever was killed for that waits again, and is not charged with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from hyperflow.request import Request
from hyperflow.scheduling.ledger import Ledger, Left
from hyperflow.scheduling.state import Place, Task, Worker
from hyperflow.wire.numbers import TaskNumber, WorkerNumber


class Promise(NamedTuple):
    """A wanted task has been given this; it starts when those who are in the way have gone."""

    task: Task
    places: Sequence[Place]
    request: Request


class Guesses:
    """The workers of speculative tasks, and what has been promised to others."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.workers: dict[WorkerNumber, Worker] = {}
        """To whom something is lent, the newest last."""
        self.promises: dict[TaskNumber, Promise] = {}
        self.clearing = set[str]()
        """Nodes where others wait for room just now: nothing speculative starts there."""
        self._ledger = ledger
        self._clock = clock

    def find(self, request: Request, avoided: Collection[str] = ()) -> list[str]:
        """Return the nodes on which a speculative task may start, the fullest ones: others are wanted first."""
        ledger = self._ledger
        if not ledger.tokens.has(request, {}, lent=True):
            return []
        closed = {*ledger.aside, *avoided, *self.clearing}
        able = [node for node in ledger.able(request, self._clock()) if node.name not in closed]
        lefts = [left for node in able if not (left := Left(node, lent=True)).lacks(request)]
        lefts.sort(key=lambda left: left.cpus)
        return [left.node.name for left in lefts[: request.nodes]] if len(lefts) >= request.nodes else []

    def lend(self, worker: Worker, places: Iterable[Place], request: Request) -> None:
        """Let a worker have this until somebody else wants it."""
        self.workers[worker.number] = worker
        self._ledger.tokens.lend(request, 1)
        for place in places:
            self._ledger.nodes[place.node].lend(worker.number, place, request)

    def take_back(self, worker: Worker, request: Request) -> None:
        """A worker does not have it any more."""
        del self.workers[worker.number]
        self._ledger.tokens.lend(request, -1)
        for place in (worker.place, *worker.elsewhere):
            if place.node in self._ledger.nodes:
                self._ledger.nodes[place.node].lend_no_more(worker.number)

    def promise(self, task: Task, places: Sequence[Place], request: Request) -> list[Worker]:
        """A task has been given places where others are in the way: return those that must end."""
        self.promises[task.number] = Promise(task, places, request)
        return list(self._in_the_way(places, request))

    def make_room(self, name: str, cpus: int) -> list[Worker]:
        """Return those that must end for so many CPUs of a node, beside those that are ending."""
        node = self._ledger.nodes[name]
        gone = {number for number in node.lent if self.workers[number].ending}
        ends: list[Worker] = []
        self.clearing.add(name)
        for number in reversed(self.workers):
            if Left(node, lent=True, without=gone).room >= cpus:
                break
            if number in node.lent and number not in gone:
                gone.add(number)
                ends.append(self.workers[number])
        return ends

    def are_clear(self, places: Iterable[Place], request: Request) -> bool:
        """Whether nobody is in the way of what a task has been given."""
        tokens = self._ledger.tokens
        if any(tokens[name].free < tokens[name].lent for name, _ in request.resources):
            return False
        return all(self._is_clear(place, frozenset()) for place in places)

    def _is_clear(self, place: Place, gone: frozenset[WorkerNumber]) -> bool:
        node = self._ledger.nodes[place.node]
        left = Left(node, lent=True, without=gone)
        taken = {cpu for number, (other, _) in node.lent.items() if number not in gone for cpu in other.cpus}
        return taken.isdisjoint(place.cpus) and left.memory >= 0 and all(left.gpus[gpu] >= 0 for gpu in place.gpus)

    def _in_the_way(self, places: Iterable[Place], request: Request) -> Iterator[Worker]:
        """Give those that must end, the newest first; those that are ending anyway count as gone."""
        gone = frozenset(number for number, worker in self.workers.items() if worker.ending)
        for place in places:
            node = self._ledger.nodes[place.node]
            of_place = [number for number in reversed(self.workers) if number in node.lent and number not in gone]
            sharp = [number for number in of_place if _touches(node.lent[number][0], place)]
            for number in (*sharp, *(number for number in of_place if number not in sharp)):
                if self._is_clear(place, gone):
                    break
                gone |= {number}
                yield self.workers[number]
        for name, _ in request.resources:
            tokens = self._ledger.tokens[name]
            holding = {
                n: dict(w.request.resources).get(name, 0) for n, w in self.workers.items() if w.request is not None
            }
            lent = tokens.lent - sum(count for number, count in holding.items() if number in gone)
            for number in reversed(self.workers):
                if lent <= tokens.free:
                    break
                if number not in gone and holding[number]:
                    gone |= {number}
                    lent -= holding[number]
                    yield self.workers[number]

    def ready(self) -> list[Promise]:
        """Take out the promises that can be kept now."""
        ready = [one for one in self.promises.values() if self.are_clear(one.places, one.request)]
        for promise in ready:
            del self.promises[promise.task.number]
        return ready

    def broken(self, node: str | None = None) -> list[Task]:
        """Nothing is started any more, on a node or at all: take the promises back, and return their tasks."""
        those = [p for p in self.promises.values() if node is None or any(place.node == node for place in p.places)]
        return [self.drop(promise.task) for promise in those]

    def drop(self, task: Task) -> Task:
        """A promise need not be kept."""
        promise = self.promises.pop(task.number)
        self._ledger.discharge_all(promise.places, promise.request)
        return task


def _touches(lent: Place, place: Place) -> bool:
    """Whether two have an id in common."""
    return not set(lent.cpus).isdisjoint(place.cpus) or not set(lent.gpus).isdisjoint(place.gpus)
