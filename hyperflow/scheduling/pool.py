"""The account of CPUs: which ids of which node are given out and which are free. The scheduler gives them to tasks.

Guarantees: an id is given out once at a time. The given and the free ids of a node are all its ids. To take from the
node with the most free CPUs costs a few steps, however many nodes there are. A node that is put aside gives nothing
out; what was given out of it comes back to it.

Why ids and not a count: a worker is pinned to its ids for life, because a numerical library starts threads at its first
call, and they stay where the worker was allowed to run then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


class NodeCpus:
    """The CPUs of one node."""

    __slots__ = ("free", "ids", "name")

    def __init__(self, name: str, ids: Iterable[int]) -> None:
        self.name = name
        self.ids = frozenset(ids)
        self.free = set(self.ids)


class CpuPool:
    """The CPUs of all nodes."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeCpus] = {}
        self.aside: set[str] = set()
        """Nodes that give nothing out."""
        # Nodes by their number of free CPUs, so that the emptiest is found without a look at all of them. The newest
        # entry is used first, and removed by popitem: a dictionary that loses entries at its front keeps the gaps, and
        # each later look goes over all of them.
        self._with_free: list[dict[str, NodeCpus]] = [{}]
        self._most = 0  # no node has more free CPUs than this
        self.total = 0
        """CPUs of the nodes that give some out; `free`: those of them that are free."""
        self.free = 0
        self.largest = 0
        """CPUs of the largest node, also of one that is put aside, or expected."""
        self._expected: dict[str, int] = {}
        self._sizes: dict[int, int] = {}  # how many nodes there are of each size, expected ones included

    def expect(self, name: str, cpus: int) -> None:
        """A node with so many CPUs may be added later: what only it can serve is not impossible."""
        self.expect_no_more(name)
        self._expected[name] = cpus
        self._count(cpus, 1)

    def expect_no_more(self, name: str) -> None:
        """An expected node does not come."""
        if name in self._expected:
            self._count(self._expected.pop(name), -1)

    def _count(self, size: int, more: int) -> None:
        """There is one node more, or less, of a size."""
        self._sizes[size] = self._sizes.get(size, 0) + more
        if not self._sizes[size]:
            del self._sizes[size]
        self.largest = max(self._sizes, default=0)

    def add(self, name: str, ids: Iterable[int]) -> None:
        """Take a node in."""
        if name in self.nodes:
            raise ValueError(f"node {name} is in the pool already")
        self.expect_no_more(name)
        node = NodeCpus(name, ids)
        self.nodes[name] = node
        while len(self._with_free) <= len(node.ids):
            self._with_free.append({})
        self._put(node)
        self.total += len(node.ids)
        self.free += len(node.free)
        self._count(len(node.ids), 1)

    def remove(self, name: str) -> None:
        """Remove a node, with what was given out of it."""
        node = self.nodes.pop(name)
        if name in self.aside:
            self.aside.remove(name)
        else:
            self._exclude(node)
        self._count(len(node.ids), -1)

    def put_aside(self, name: str) -> None:
        """Let a node give nothing out."""
        if name not in self.aside:
            self._exclude(self.nodes[name])
            self.aside.add(name)

    def take_back(self, name: str) -> None:
        """Let a node that was put aside give CPUs out again."""
        if name in self.aside:
            self.aside.remove(name)
            node = self.nodes[name]
            self._put(node)
            self.total += len(node.ids)
            self.free += len(node.free)

    def in_use(self, cpus: int) -> list[str]:
        """Return the nodes that give CPUs out and have as many as this, free or not."""
        return [name for name, node in self.nodes.items() if name not in self.aside and len(node.ids) >= cpus]

    def roomiest(self, cpus: int, without: Collection[str] = ()) -> str | None:
        """Return the node with the most free CPUs if it has `cpus` of them."""
        while self._most and not self._with_free[self._most]:
            self._most -= 1
        for count in range(self._most, cpus - 1, -1):
            for name in reversed(self._with_free[count]):
                if name not in without:
                    return name
        return None

    def most_promising(self, cpus: int, without: Collection[str] = ()) -> str | None:
        """Return the node that is large enough for `cpus` and has the most of them free."""
        for count in range(self._most, -1, -1):
            for name, node in reversed(self._with_free[count].items()):
                if len(node.ids) >= cpus and name not in without:
                    return name
        return None

    def are_free(self, name: str, ids: Iterable[int]) -> bool:
        """Whether all these ids of a node are free."""
        return self.nodes[name].free.issuperset(ids)

    def lowest_free(self, name: str, cpus: int) -> tuple[int, ...]:
        """Return the lowest free ids of a node: neighbours where possible, which mostly share caches."""
        free = self.nodes[name].free
        return (min(free),) if cpus == 1 else tuple(sorted(free)[:cpus])

    def take(self, name: str, ids: Collection[int]) -> None:
        """Give out free ids of a node."""
        node = self.nodes[name]
        if not node.free.issuperset(ids):
            raise ValueError(f"CPUs {sorted(set(ids) - node.free)} of {name} are not free")
        self._take_out(node)
        node.free.difference_update(ids)
        self.free -= len(ids)
        self._put(node)

    def give_back(self, name: str, ids: Collection[int]) -> None:
        """Take back ids that were given out; those of a node that has gone are forgotten."""
        node = self.nodes.get(name)
        if node is None:
            return
        if not node.free.isdisjoint(ids) or not node.ids.issuperset(ids):
            raise ValueError(f"CPUs {sorted(ids)} of {name} were not given out")
        if name in self.aside:
            node.free.update(ids)
            return
        self._take_out(node)
        node.free.update(ids)
        self.free += len(ids)
        self._put(node)

    def _exclude(self, node: NodeCpus) -> None:
        self._take_out(node)
        self.total -= len(node.ids)
        self.free -= len(node.free)

    def _put(self, node: NodeCpus) -> None:
        count = len(node.free)
        self._with_free[count][node.name] = node
        self._most = max(self._most, count)

    def _take_out(self, node: NodeCpus) -> None:
        nodes = self._with_free[len(node.free)]
        if next(reversed(nodes)) == node.name:
            nodes.popitem()
        else:
            del nodes[node.name]
