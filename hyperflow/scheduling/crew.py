"""The workers: which there are, which are idle, and what each has been given.

Guarantee: what a worker has of nodes and of the program's tokens is given to it once, and comes back once, whatever its
task's end is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from hyperflow.request import Request
from hyperflow.scheduling.idle import IdleWorkers
from hyperflow.scheduling.ledger import Ledger
from hyperflow.scheduling.speculation import Guesses
from hyperflow.scheduling.state import Effect, Fork, Place, Retire, Task, Worker
from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber


class Crew:
    """All workers. `effects` are the scheduler's orders, `numbers` those of its workers."""

    def __init__(self, pool: Ledger, guesses: Guesses, effects: list[Effect], numbers: Iterator[WorkerNumber]) -> None:
        self.workers: dict[WorkerNumber, Worker] = {}
        self.active = 0
        """How many have been given CPUs."""
        self.idle = IdleWorkers(pool)
        self.retired = set[WorkerNumber]()
        """Idle ones that were told to leave."""
        self._at: dict[str, dict[WorkerNumber, Worker]] = {}
        self._pool = pool
        self._guesses = guesses
        self._effects = effects
        self._numbers = numbers

    # ---- who there is -------------------------------------------------------------------------------------------

    def add_node(self, name: str) -> None:
        """A node is up."""
        self.idle.add_node(name)
        self._at[name] = {}

    def remove_node(self, name: str) -> list[Worker]:
        """A node is gone; return the workers that were there."""
        self.idle.remove_node(name)
        gone = list(self._at.pop(name).values())
        for worker in gone:
            del self.workers[worker.number]
        return gone

    def at(self, node: str) -> list[Worker]:
        """Return the workers of a node."""
        return list(self._at.get(node, {}).values())

    def with_share_of(self, node: str) -> list[Worker]:
        """Return the workers of other nodes whose task has something of this one, too."""
        return [w for w in self.workers.values() if w.elsewhere and any(place.node == node for place in w.elsewhere)]

    def gone(self, worker: Worker) -> None:
        """A worker has ended."""
        del self._at[worker.node][worker.number]
        self.idle.remove(worker)
        self.idle.give_back_slot(worker)
        self.release(worker)

    # ---- who gets what ------------------------------------------------------------------------------------------

    def take(self, node: str, cpus: int, function: DefinitionNumber, fresh: bool = False) -> tuple[Worker, bool]:
        """Give CPUs of a node to a worker; return it, and whether it is new."""
        idle = None if fresh else self.idle.take(node, cpus, function)
        worker = idle or self._fork(node, self._pool.choose(node, cpus), fresh)
        self._pool.take(node, worker.cpus)
        worker.leased = True
        self.active += 1
        return worker, idle is None

    def take_all(self, task: Task, asks: Request, nodes: Sequence[str]) -> tuple[Worker, bool]:
        """Give a worker what a task asks for that asks for more than CPUs."""
        place, *elsewhere = [self._pool.place(node, asks) for node in nodes]
        idle = None
        if not task.fresh and asks.gpus:
            idle = self.idle.take_with_gpus(place, asks.gpus, task.function)
        elif not task.fresh:
            idle = self.idle.take(place.node, asks.cpus, task.function)
        worker = idle or self._fork(place.node, place.cpus, task.fresh, place.gpus, asks.gpus)
        if asks.speculative:
            self._guesses.lend(worker, [worker.place, *elsewhere], asks)
        else:
            self._pool.charge_all([worker.place, *elsewhere], asks)
        self._has(worker, asks, elsewhere)
        return worker, idle is None

    def take_given(self, task: Task, places: Sequence[Place]) -> tuple[Worker, bool]:
        """Give a worker what a task has been given already."""
        place, *elsewhere = places
        share = task.asks.gpus if task.asks is not None else 0.0
        idle = None if task.fresh else self.idle.take_exactly(place, (task.cpus, share) if share else task.cpus)
        worker = idle or self._fork(place.node, place.cpus, task.fresh, place.gpus, share)
        self._has(worker, task.asks, elsewhere)
        return worker, idle is None

    def _has(self, worker: Worker, asks: Request | None, elsewhere: Iterable[Place]) -> None:
        worker.request, worker.elsewhere = asks, tuple(elsewhere)
        worker.leased = True
        self.active += 1
        if worker.gpus:
            self._retire(self.idle.others_with(worker))

    def _fork(
        self, node: str, cpus: tuple[int, ...], fresh: bool, gpus: tuple[str, ...] = (), share: float = 0.0
    ) -> Worker:
        surplus = self.idle.surplus(node)
        if surplus is not None:
            self._retire([surplus])
        worker = Worker(next(self._numbers), node, self.idle.take_slot(node), cpus, fresh, gpus, share)
        self.workers[worker.number] = self._at[node][worker.number] = worker
        if gpus:  # first: the launcher lets it wait until they have gone
            self._retire(self.idle.others_with(worker))
        self._effects.append(Fork(worker))
        return worker

    def retire_pinned(self, node: str, cpus: Collection[int], gpus: Collection[str]) -> None:
        """Let the idle workers of a node end that are pinned to one of these."""
        self._retire(self.idle.pinned(node, cpus, gpus))

    def _retire(self, workers: Iterable[Worker]) -> None:
        """Let idle workers end, which nobody finds any more."""
        for worker in workers:
            self._effects.append(Retire(worker))
            self.retired.add(worker.number)

    def release(self, worker: Worker) -> None:
        """Take back what a worker has been given."""
        if not worker.leased:
            return
        worker.leased = False
        self.active -= 1
        asks = worker.request
        if asks is None:
            self._pool.give_back(worker.node, worker.cpus)
            return
        if asks.speculative:
            self._guesses.take_back(worker, asks)
        else:
            self._pool.discharge_all([worker.place, *worker.elsewhere], asks)
        worker.request, worker.elsewhere = None, ()
