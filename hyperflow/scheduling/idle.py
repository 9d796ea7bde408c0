"""The workers of each node that may be used again: their slots, and which of them are idle.

A worker is pinned to its CPU ids for life (pool.py says why) and reused for requests of the same size. Its slot is the
lowest number that was free on its node. It names the log file, so that files stay few.
"""

from __future__ import annotations

import heapq

from hyperflow.scheduling.pool import CpuPool
from hyperflow.scheduling.state import Worker


class IdleWorkers:
    """The slots of all nodes, and the workers that hold none of their CPUs now."""

    def __init__(self, pool: CpuPool) -> None:
        self.count = 0
        """How many are idle on all nodes."""
        self.slots: dict[str, set[int]] = {}
        self._free_slots: dict[str, list[int]] = {}  # that were used and given back; a heap for each node
        self.idle: dict[tuple[str, int], dict[int, Worker]] = {}
        """By node and number of CPUs; the one used last is at the end."""
        self._pool = pool

    def add_node(self, name: str) -> None:
        """A node is up."""
        self.slots[name] = set()
        self._free_slots[name] = []

    def remove_node(self, name: str) -> None:
        """A node is gone, with its workers."""
        del self.slots[name], self._free_slots[name]
        for key in [key for key in self.idle if key[0] == name]:
            self.count -= len(self.idle.pop(key))

    def put(self, worker: Worker) -> None:
        """A worker has nothing to do."""
        self.idle.setdefault((worker.node, len(worker.cpus)), {})[worker.number] = worker
        self.count += 1

    def remove(self, worker: Worker) -> None:
        """A worker ends: do not use it again."""
        if self.idle.get((worker.node, len(worker.cpus)), {}).pop(worker.number, None) is not None:
            self.count -= 1

    def take(self, node: str, cpus: int) -> Worker | None:
        """Return an idle worker whose CPUs are all free, the one used last: it has the warmest caches."""
        idle = self.idle.get((node, cpus))
        if not idle:
            return None
        for number in reversed(idle):
            if self._pool.are_free(node, idle[number].cpus):
                self.count -= 1
                return idle.pop(number)
        return None

    def take_slot(self, node: str) -> int:
        """Give out the lowest free slot of a node."""
        slots, free = self.slots[node], self._free_slots[node]
        slot = heapq.heappop(free) if free else len(slots)
        slots.add(slot)
        return slot

    def give_back_slot(self, worker: Worker) -> None:
        """A worker has gone."""
        self.slots[worker.node].remove(worker.slot)
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
