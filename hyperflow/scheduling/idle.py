"""The workers of each node that may be used again: their slots, and which of them are idle.

A worker is pinned to its CPU ids and GPUs for life (ledger.py says why) and reused for requests of the same size. Its
slot is the lowest number that was free on its node. It names the log file, so that files stay few.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping

from hyperflow.scheduling.ledger import Ledger
from hyperflow.scheduling.placement import parts_of
from hyperflow.scheduling.state import Place, Size, Worker
from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber


class IdleWorkers:
    """The slots of all nodes, and the workers that hold none of their CPUs now."""

    def __init__(self, pool: Ledger) -> None:
        self.count = 0
        """How many are idle on all nodes."""
        self.slots: dict[str, set[int]] = {}
        self._free_slots: dict[str, list[int]] = {}  # that were used and given back; a heap for each node
        self.idle: dict[tuple[str, Size], dict[int, Worker]] = {}
        """By node and what they are for; the one used last is at the end."""
        self.keepers: dict[WorkerNumber, Worker] = {}  # all that keep something; mostly none
        self._pool = pool

    def keeps(self, worker: Worker, functions: Collection[DefinitionNumber]) -> None:
        """A worker keeps what these functions have asked for."""
        worker.keeps = functions
        if functions:
            self.keepers[worker.number] = worker
        else:
            self.keepers.pop(worker.number, None)

    def is_better_off(self, function: DefinitionNumber, worker: Worker) -> bool:
        """Whether another worker that has nothing to do keeps something for a function, and this one does not."""
        if function in worker.keeps:
            return False
        return any(function in one.keeps and not one.is_busy and not one.ending for one in self.keepers.values())

    def add_node(self, name: str) -> None:
        """A node is up."""
        self.slots[name] = set()
        self._free_slots[name] = []

    def remove_node(self, name: str) -> None:
        """A node is gone, with its workers."""
        del self.slots[name], self._free_slots[name]
        for key in [key for key in self.idle if key[0] == name]:
            self.count -= len(self.idle.pop(key))
        self.keepers = {number: one for number, one in self.keepers.items() if one.node != name}

    def put(self, worker: Worker) -> None:
        """A worker has nothing to do."""
        self.idle.setdefault((worker.node, worker.size), {})[worker.number] = worker
        self.count += 1

    def remove(self, worker: Worker) -> None:
        """A worker ends: do not use it again."""
        if self.idle.get((worker.node, worker.size), {}).pop(worker.number, None) is not None:
            self.count -= 1

    def take(self, node: str, cpus: int, function: DefinitionNumber) -> Worker | None:
        """Return an idle worker whose CPUs are all free: one that keeps something for the function, if there is one.

        Else the one used last: it has the warmest caches.
        """
        idle = self.idle.get((node, cpus))
        if not idle:
            return None
        for number in self._preferred(idle, function) if self.keepers else reversed(idle):
            if self._pool.are_free(node, idle[number].cpus):
                self.count -= 1
                return idle.pop(number)
        return None

    def _preferred(self, idle: Mapping[int, Worker], function: DefinitionNumber) -> list[int]:
        """Return idle workers, those first that keep something for a function."""
        return [*sorted(idle, key=lambda number: function in idle[number].keeps)][::-1]

    def take_with_gpus(self, place: Place, gpus: float, function: DefinitionNumber) -> Worker | None:
        """Return an idle worker that may have the same GPUs, or of whole ones others that are free."""
        idle, parts = self.idle.get((place.node, (len(place.cpus), gpus)), {}), parts_of(gpus)
        for number in self._preferred(idle, function):
            worker = idle[number]
            same = worker.gpus == place.gpus or gpus >= 1
            if (
                same
                and self._pool.are_free(place.node, worker.cpus)
                and self._pool.gpus_are_free(place.node, worker.gpus, parts)
            ):
                self.count -= 1
                return idle.pop(number)
        return None

    def take_exactly(self, place: Place, size: Size) -> Worker | None:
        """Return an idle worker with just these ids, which have been given out for it."""
        idle = self.idle.get((place.node, size), {})
        for number, worker in idle.items():
            if worker.place == place:
                self.count -= 1
                return idle.pop(number)
        return None

    def others_with(self, worker: Worker) -> list[Worker]:
        """Take out those that keep memory on a GPU of this worker, and may not have that at the same time.

        Of the same share, as many as there is room for run there at a time.
        """
        found = [
            other
            for (node, size), idle in self.idle.items()
            if node == worker.node and (worker.is_alone_on_gpus or size != worker.size)
            for other in idle.values()
            if other is not worker and not set(other.gpus).isdisjoint(worker.gpus)
        ]
        for other in found:
            self.remove(other)
        return found

    def pinned(self, node: str, cpus: Collection[int], gpus: Collection[str]) -> list[Worker]:
        """Take out those of a node that are pinned to one of these CPUs or GPUs."""
        mine = [worker for (name, _), idle in self.idle.items() if name == node for worker in idle.values()]
        found = [one for one in mine if not set(one.cpus).isdisjoint(cpus) or not set(one.gpus).isdisjoint(gpus)]
        for one in found:
            self.remove(one)
        return found

    def take_slot(self, node: str) -> int:
        """Give out the lowest free slot of a node."""
        slots, free = self.slots[node], self._free_slots[node]
        slot = heapq.heappop(free) if free else len(slots)
        slots.add(slot)
        return slot

    def give_back_slot(self, worker: Worker) -> None:
        """A worker has gone."""
        self.slots[worker.node].remove(worker.slot)
        self.keepers.pop(worker.number, None)
        heapq.heappush(self._free_slots[worker.node], worker.slot)

    def surplus(self, node: str) -> Worker | None:
        """Take out the oldest idle worker of a node that has too many: requests of many sizes leave many behind."""
        if len(self.slots[node]) < 2 * len(self._pool.nodes[node].ids):
            return None
        idle = [worker for (name, _), workers in self.idle.items() if name == node for worker in workers.values()]
        if not idle:
            return None
        oldest = min(idle, key=lambda worker: worker.number)
        self.remove(oldest)
        return oldest
