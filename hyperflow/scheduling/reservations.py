"""What is kept for older tasks that do not fit yet, while younger ones are looked at. It holds for one look.

Guarantees:
- The oldest that does not fit keeps the most promising nodes, as many as it needs: of what is free there, whatever it
  asks for; of what is not enough, all. So nothing younger makes it wait longer, and what it does not need is used.
- So does the oldest of those that ask for more than CPUs, and the oldest of the others: neither waits for both.
- What a node offers to whom it is kept for never becomes less, so each of them starts.
- The oldest that waits for tokens keeps those, and no node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from hyperflow.request import Request
from hyperflow.scheduling.ledger import Account, Ledger, Left, can_serve
from hyperflow.scheduling.placement import parts_of


def is_light(request: Request) -> bool:
    """Whether it asks nothing of a node but CPUs."""
    return not request.gpus and request.memory is None and request.nodes == 1


class Reservations:
    """Those of one look at what waits."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.closed: tuple[str, ...] = ()
        """Nodes where nothing is left."""
        self.tokens: dict[str, int] = {}
        """That are kept."""
        self._before = ""  # the last one that was kept for those who ask for CPUs only
        self._ledger = ledger
        self._clock = clock
        self._kept: dict[str, list[Request]] = {}  # for whom, on nodes where something is left
        self._idly = set[str]()  # nodes that are kept for those who do not wait for CPUs
        self._kinds = set[bool]()  # of those that have kept a node

    def clear(self) -> None:
        """Keep nothing: a new look begins."""
        self.closed = ()
        if self._kinds or self.tokens:
            self.tokens = {}
            self._kept.clear()
            self._idly.clear()
            self._kinds.clear()

    def left(self, node: Account) -> Left:
        """Return what is left of a node."""
        left = Left(node)
        for request in self._kept.get(node.name, ()):
            left.keep(request)
        return left

    def room(self, name: str) -> int:
        """Return how many CPUs of a node are left for those who ask for CPUs only."""
        node = self._ledger.nodes[name]
        return self.left(node).room if name in self._kept else node.room

    @property
    def spared(self) -> int:
        """How many free CPUs are kept for those who wait for something else."""
        nodes, aside = self._ledger.nodes, self._ledger.aside
        there = [name for name in self._idly if name in nodes and name not in aside]
        return sum(nodes[name].room - (self.room(name) if name in self._kept else 0) for name in there)

    def find_cpus(self, cpus: int) -> str | None:
        """Return the node that a task is to have that asks for CPUs only; None if it does not fit yet."""
        if not self._kept:
            return self._ledger.roomiest(cpus, self.closed)
        return next(iter(self.find(Request(cpus))), None)

    def keep_cpus(self, cpus: int) -> None:
        """The same does not fit."""
        if self.closed or self._kept:
            self.keep(Request(cpus))
        else:
            self._keep_one(self._ledger.most_promising(cpus, (), self._before))

    def _keep_one(self, node: str | None) -> None:
        # Of equals, the one that was kept before: else others would fill one of two nodes while the other one is kept,
        # in turns, for ever.
        self._kinds.add(True)
        if node is not None:
            self._before = node
            self.closed = (node,)

    def find(self, request: Request, avoided: Collection[str] = ()) -> list[str]:
        """Return the nodes that it is to have; none if it does not fit yet."""
        without = {*self.closed, *avoided}
        if is_light(request):
            without.update(self._too_late(request))
            node = self._ledger.roomiest(request.cpus, without.union(self._kept))
            if node is not None:
                return [node]
            nodes = [self._ledger.nodes[name] for name in self._kept if name not in without]
        else:
            nodes = self._open(request, without)
        fit = [left for node in nodes if not (left := self.left(node)).lacks(request)]
        if len(fit) < request.nodes:
            return []
        fit.sort(key=lambda left: _taste(request, left))
        return [left.node.name for left in fit[: request.nodes]]

    def keep(self, request: Request, avoided: Collection[str] = ()) -> bool:
        """It does not fit: keep nodes for it, if it is the oldest of its kind; return whether it waits for CPUs."""
        light = is_light(request)
        if light and light in self._kinds:
            return True
        if light and not self.closed and not self._kept:
            without = {*avoided, *self._too_late(request)}
            self._keep_one(self._ledger.most_promising(request.cpus, without, self._before))
            return True
        nodes = self._open(request, {*self.closed, *avoided})
        lefts = [(left.lacks(request), left) for node in nodes for left in [self.left(node)]]
        waits_for_cpus = light or sum(left.cpus >= request.cpus for _, left in lefts) < request.nodes
        if light not in self._kinds and len(lefts) >= request.nodes:
            self._kinds.add(light)
            lefts.sort(key=lambda pair: pair[0])
            for _, left in lefts[: request.nodes]:
                self._keep(left.node, request)
                if not waits_for_cpus:
                    self._idly.add(left.node.name)
        return waits_for_cpus

    def _keep(self, node: Account, request: Request) -> None:
        self._kept.setdefault(node.name, []).append(request)
        if self.left(node).room <= 0:
            self.closed = (*self.closed, node.name)
            del self._kept[node.name]

    def _too_late(self, request: Request) -> list[str]:
        """Return the nodes that end too soon."""
        if not request.min_time:
            return []
        now = self._clock()
        return [node.name for node in self._ledger.nodes.values() if not can_serve(node, request, now)]

    def _open(self, request: Request, without: Collection[str]) -> list[Account]:
        aside = self._ledger.aside
        return [n for n in self._ledger.able(request, self._clock()) if n.name not in without and n.name not in aside]


def _taste(request: Request, left: Left) -> tuple[float, int]:
    """Return a key by which the better node comes first."""
    if request.gpus >= 1:
        return sum(left.gpus.values()), -left.cpus  # one with many free GPUs stays whole
    if request.gpus:
        parts = parts_of(request.gpus)
        return min(free for free in left.gpus.values() if free >= parts), -left.cpus
    return 0.0, -left.room
