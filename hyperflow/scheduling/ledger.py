"""The account of what there is: CPU ids, GPUs, memory and time of each node, tokens of the program. The scheduler gives
them to tasks.

Guarantees: an id is given out once at a time, of a GPU no more than all its parts. The given and the free ids of a node
are all its ids. No more memory is given out than there is. To take from the node with the most free CPUs costs a few
steps, however many nodes there are. A node that is put aside gives nothing out; what was given out of it comes back.

Memory costs those nothing who do not ask for it. Each of their CPUs is charged an equal share of the node's memory; so
when who asks takes more than the shares of its own CPUs, some CPUs stay free for which there is no memory (`lacking`),
and the others are `room`. Nobody but those who ask changes how many are lacking.

Why ids and not a count: a worker is pinned to its ids for life, because a numerical library starts threads at its first
call, and they stay where the worker was allowed to run then; and what has touched a GPU keeps memory there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from hyperflow.request import CPUS_ONLY, Capacity, NodeKind, Request
from hyperflow.scheduling.placement import PARTS, choose_cpus, choose_gpus, near_to, parts_of
from hyperflow.scheduling.state import Place
from hyperflow.scheduling.tokens import Purse
from hyperflow.wire.numbers import WorkerNumber


class Account:
    """What one node has, and what of it is free."""

    __slots__ = (
        "asked_cpus", "asked_memory", "capacity", "free", "gpus", "ids", "lacking", "lent", "lent_ids", "name", "room",
    )  # fmt: skip

    def __init__(self, name: str, ids: Iterable[int], capacity: Capacity) -> None:
        self.name = name
        self.ids = frozenset(ids)
        self.capacity = capacity
        self.free = set(self.ids)
        self.gpus = dict.fromkeys(capacity.gpus, PARTS)
        """The free parts of each."""
        self.asked_memory = 0  # bytes that were asked for, and are given out
        self.asked_cpus = 0  # with so many CPUs
        self.lacking = 0  # free CPUs for which there is no memory
        self.room = len(self.free)  # the other free ones
        self.lent: dict[WorkerNumber, tuple[Place, Request]] = {}
        """What speculative tasks have; it counts as free."""
        self.lent_ids = set[int]()

    @property
    def spare(self) -> int:
        """Free memory, in bytes times CPUs of the node: a share of it is a whole number then."""
        return self.capacity.memory * (len(self.free) + self.asked_cpus) - self.asked_memory * len(self.ids)

    def cost(self, request: Request) -> int:
        """Return the memory that is asked for, or the share of the CPUs, in the same unit."""
        if request.memory is None or not self.capacity.memory:
            return self.capacity.memory * request.cpus
        return request.memory * len(self.ids)

    def grow(self, ids: Collection[int], gpus: Iterable[str], memory: int) -> None:
        """It has this, too."""
        if not self.ids.isdisjoint(ids):
            raise ValueError(f"{self.name} has CPUs {sorted(self.ids.intersection(ids))} already")
        self.ids |= frozenset(ids)
        self.free.update(ids)
        self.gpus.update((gpu, PARTS) for gpu in gpus if gpu not in self.gpus)
        self._has(self.capacity.memory + memory)

    def shrink(self, ids: Collection[int], gpus: Collection[str]) -> int:
        """It has this no more, which is free, and for which there is memory; return how much memory goes with it."""
        if not self.free.issuperset(ids) or not self.lent_ids.isdisjoint(ids):
            raise ValueError(f"CPUs {sorted(ids)} of {self.name} are not free")
        left = len(self.ids) - len(ids)
        memory = -(-self.capacity.memory * left // len(self.ids)) if left else 0  # rounded up: what is asked for fits
        gone = self.capacity.memory - memory
        self.ids -= frozenset(ids)
        self.free.difference_update(ids)
        for gpu in gpus:
            del self.gpus[gpu]
        self._has(memory)
        return gone

    def _has(self, memory: int) -> None:
        self.capacity = self.capacity._replace(gpus=tuple(self.gpus), memory=memory)
        self._count_lacking()
        self.room = len(self.free) - self.lacking

    def _count_lacking(self) -> None:
        if self.capacity.memory:
            needed = -(-self.asked_memory * len(self.ids) // self.capacity.memory)
            self.lacking = max(needed - self.asked_cpus, 0)

    def lend(self, worker: WorkerNumber, place: Place, request: Request) -> None:
        """Let a speculative task have this."""
        self.lent[worker] = place, request
        self.lent_ids.update(place.cpus)

    def lend_no_more(self, worker: WorkerNumber) -> None:
        """It does not have it any more."""
        place, _ = self.lent.pop(worker)
        self.lent_ids.difference_update(place.cpus)

    def move(self, place: Place, request: Request, sign: int) -> None:
        """Give out what is asked for (-1), or take it back (+1); not its CPU ids."""
        parts = parts_of(request.gpus)
        for gpu in place.gpus:
            if not 0 <= self.gpus[gpu] + sign * parts <= PARTS:
                raise ValueError(f"GPU {gpu} of {self.name} has {self.gpus[gpu]} parts free")
            self.gpus[gpu] += sign * parts
        if request.memory is not None and self.capacity.memory:
            self.asked_memory -= sign * request.memory
            self.asked_cpus -= sign * len(place.cpus)
            self._count_lacking()


class Left:
    """What is left of a node for the next one, if older ones get what is kept for them."""

    __slots__ = ("cpus", "gpus", "memory", "node")

    def __init__(self, node: Account, lent: bool = False, without: Collection[WorkerNumber] = ()) -> None:
        """Look at a node; with `lent`, what is lent counts as gone, but for what these workers have."""
        self.node = node
        self.cpus = len(node.free)
        self.gpus = dict(node.gpus)
        self.memory = node.spare
        if lent:
            for place, request in [had for number, had in node.lent.items() if number not in without]:
                self.cpus -= len(node.free.intersection(place.cpus))
                self.memory -= node.cost(request)
                for gpu in place.gpus:
                    if gpu in self.gpus:
                        self.gpus[gpu] -= parts_of(request.gpus)

    def lacks(self, request: Request) -> float:
        """Return how much is missing, added up as parts of what is asked for; 0 if it fits."""
        if request.memory is None:
            missing = max(request.cpus - self.room, 0) / request.cpus
        else:
            missing, cost = max(request.cpus - self.cpus, 0) / request.cpus, self.node.cost(request)
            missing += max(cost - self.memory, 0) / max(cost, 1)
        if request.gpus:
            parts, count = parts_of(request.gpus), max(int(request.gpus), 1)
            best = sorted(self.gpus.values(), reverse=True)[:count]
            missing += sum(max(parts - free, 0) for free in best) / (parts * count) + (count - len(best)) / count
        return missing

    def keep(self, request: Request) -> None:
        """Keep what is asked for; of what is not enough, all that there is."""
        self.cpus = max(self.cpus - request.cpus, 0)
        self.memory = max(self.memory - self.node.cost(request), 0)
        if request.gpus:
            parts, count = parts_of(request.gpus), max(int(request.gpus), 1)
            able = [gpu for gpu, free in self.gpus.items() if free >= parts]
            if len(able) < count:
                self.gpus.clear()
            elif request.gpus < 1:
                self.gpus[min(able, key=self.gpus.__getitem__)] -= parts
            else:
                for gpu in able[:count]:
                    del self.gpus[gpu]

    @property
    def room(self) -> int:
        """CPUs that are left for those who ask for CPUs only."""
        share = self.node.capacity.memory
        return min(self.cpus, self.memory // share) if share else self.cpus


class Ledger:
    """What all nodes and the program have."""

    def __init__(self) -> None:
        self.nodes: dict[str, Account] = {}
        self.aside: set[str] = set()
        """Nodes that give nothing out."""
        self._why_aside: dict[str, set[str]] = {}  # the reasons of each
        self.tokens = Purse()
        # Nodes by their room, so that the emptiest is found without a look at all of them. The newest
        # entry is used first, and removed by popitem: a dictionary that loses entries at its front keeps the gaps, and
        # each later look goes over all of them.
        self._with_room: list[dict[str, Account]] = [{}]
        self._most = 0  # no node has more room than this
        self.total = 0
        """CPUs of the nodes that give some out; `free`: those of them that anybody can have."""
        self.free = 0
        self.largest = 0
        """CPUs of the largest node, also of one that is put aside, is expected, or may come."""
        self.expected: dict[str, int] = {}
        """CPUs of nodes that may be added later. What else those have is not known before they are there."""
        self.kinds: Sequence[NodeKind] = ()
        """Nodes that may come, whose names nobody knows yet."""
        self._sizes: dict[int, int] = {}  # how many nodes there are of each size, those that may come included

    # ---- nodes --------------------------------------------------------------------------------------------------

    def expect(self, name: str, cpus: int) -> None:
        """A node with so many CPUs may be added later: what only it can serve is not impossible."""
        self.expect_no_more(name)
        self.expected[name] = cpus
        self._count(cpus, 1)

    def expect_no_more(self, name: str) -> None:
        """An expected node does not come."""
        if name in self.expected:
            self._count(self.expected.pop(name), -1)

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        """Only these may come from now on."""
        for kind in self.kinds:
            self._count(kind.cpus, -1)
        self.kinds = tuple(kinds)
        for kind in self.kinds:
            self._count(kind.cpus, 1)

    def _count(self, size: int, more: int) -> None:
        """There is one node more, or less, of a size."""
        self._sizes[size] = self._sizes.get(size, 0) + more
        if not self._sizes[size]:
            del self._sizes[size]
        self.largest = max(self._sizes, default=0)

    def add(self, name: str, ids: Iterable[int], capacity: Capacity = CPUS_ONLY) -> None:
        """Take a node in."""
        if name in self.nodes:
            raise ValueError(f"node {name} is in the ledger already")
        self.expect_no_more(name)
        node = Account(name, ids, capacity)
        self.nodes[name] = node
        while len(self._with_room) <= len(node.ids):
            self._with_room.append({})
        self._include(node)
        self._count(len(node.ids), 1)

    def remove(self, name: str) -> None:
        """Remove a node, with what was given out of it."""
        node = self.nodes.pop(name)
        if name in self.aside:
            self.aside.remove(name)
            del self._why_aside[name]
        else:
            self._exclude(node)
        self._count(len(node.ids), -1)

    def grow(self, name: str, ids: Collection[int], gpus: Collection[str], memory: int) -> None:
        """A node has this, too."""
        with self._resized(name) as node:
            node.grow(ids, gpus, memory)

    def shrink(self, name: str, ids: Collection[int], gpus: Collection[str]) -> int:
        """A node has this no more, which nobody has; return how much memory goes with it."""
        with self._resized(name) as node:
            return node.shrink(ids, gpus)

    @contextmanager
    def _resized(self, name: str) -> Iterator[Account]:
        node, before = self.nodes[name], len(self.nodes[name].ids)
        if name not in self.aside:
            self._exclude(node)
        try:
            yield node
        finally:
            while len(self._with_room) <= len(node.ids):
                self._with_room.append({})
            if name not in self.aside:
                self._include(node)
            self._count(len(node.ids), 1)
            self._count(before, -1)

    def put_aside(self, name: str, why: str = "") -> None:
        """Let a node give nothing out, for one more reason."""
        if name not in self.aside:
            self._exclude(self.nodes[name])
            self.aside.add(name)
        self._why_aside.setdefault(name, set()).add(why)

    def take_back(self, name: str, why: str = "") -> None:
        """Let a node that was put aside give out again, unless there is another reason why it must not."""
        if name in self.aside:
            self._why_aside[name].discard(why)
            if not self._why_aside[name]:
                del self._why_aside[name]
                self.aside.remove(name)
                self._include(self.nodes[name])

    def in_use(self, cpus: int) -> list[str]:
        """Return the nodes that give CPUs out and have as many as this, free or not."""
        return [name for name, node in self.nodes.items() if name not in self.aside and len(node.ids) >= cpus]

    def able(self, request: Request, now: float) -> list[Account]:
        """Return the nodes that can serve a request, now or later, also those that are put aside."""
        return [node for node in self.nodes.values() if can_serve(node, request, now)]

    # ---- what is free -------------------------------------------------------------------------------------------

    def roomiest(self, cpus: int, without: Collection[str] = ()) -> str | None:
        """Return the node with the most room if that is for `cpus`."""
        while self._most and not self._with_room[self._most]:
            self._most -= 1
        for count in range(self._most, cpus - 1, -1):
            for name in reversed(self._with_room[count]):
                if name not in without:
                    return name
        return None

    def most_promising(self, cpus: int, without: Collection[str] = (), rather: str = "") -> str | None:
        """Return the node that is large enough for `cpus` and has room for the most of them; of equals, `rather`."""
        for count in range(self._most, -1, -1):
            nodes = self._with_room[count]
            if rather in nodes and len(nodes[rather].ids) >= cpus and rather not in without:
                return rather
            for name, node in reversed(nodes.items()):
                if len(node.ids) >= cpus and name not in without:
                    return name
        return None

    def are_free(self, name: str, ids: Iterable[int]) -> bool:
        """Whether all these ids of a node are free, and not lent."""
        node = self.nodes[name]
        return node.free.issuperset(ids) and node.lent_ids.isdisjoint(ids)

    def gpus_are_free(self, name: str, gpus: Iterable[str], parts: int) -> bool:
        """Whether so many parts of each of these GPUs of a node are free, and not lent."""
        free = Left(self.nodes[name], lent=True).gpus
        return all(free.get(gpu, 0) >= parts for gpu in gpus)

    def choose(self, name: str, cpus: int, near: Collection[int] = ()) -> tuple[int, ...]:
        """Return free ids of a node: neighbours where possible, which mostly share caches; lent ones last."""
        node = self.nodes[name]
        free = node.free
        if node.lent_ids:
            free = node.free - node.lent_ids
            if len(free) < cpus:
                newest = [cpu for place, _ in reversed(node.lent.values()) for cpu in place.cpus if cpu in node.free]
                return tuple(sorted((*free, *newest[: cpus - len(free)])))
        if cpus == 1 and not near:
            return (min(free),)
        return choose_cpus(free, cpus, node.capacity.domains, near)

    def place(self, name: str, request: Request) -> Place:
        """Return free ids of a node for a request that fits there."""
        node = self.nodes[name]
        domains, free = node.capacity.domains, node.gpus
        if node.lent and request.gpus:
            left = Left(node, lent=True).gpus
            enough = sum(parts == PARTS for parts in left.values()) >= request.gpus >= 1
            # A share goes where it would without those who are lent something; of whole ones any will do.
            free = left if request.speculative or enough else dict(sorted(free.items(), key=lambda gpu: -left[gpu[0]]))
        gpus = choose_gpus(free, request.gpus, domains, node.free, request.cpus)
        return Place(name, self.choose(name, request.cpus, near_to(gpus, domains)), gpus)

    @property
    def cpus_free(self) -> int:
        """All free CPUs of the nodes that give some out, also those for which there is no memory."""
        return sum(len(node.free - node.lent_ids) for node in self._in_use)

    @property
    def gpus(self) -> tuple[int, float]:
        """How many GPUs those have, and how many are free."""
        free = sum(sum(Left(node, lent=True).gpus.values()) for node in self._in_use)
        return sum(len(node.gpus) for node in self._in_use), free / PARTS

    @property
    def memory(self) -> tuple[int, int]:
        """How much memory those have, and how much nobody has asked for or has as the share of its CPUs."""
        free = sum(max(Left(node, lent=True).memory, 0) // len(node.ids) for node in self._in_use)
        return sum(node.capacity.memory for node in self._in_use), free

    @property
    def _in_use(self) -> list[Account]:
        return [node for name, node in self.nodes.items() if name not in self.aside]

    # ---- what is given out --------------------------------------------------------------------------------------

    def take(self, name: str, ids: Collection[int]) -> None:
        """Give out free ids of a node, with their share of its memory."""
        node = self.nodes[name]
        if not node.free.issuperset(ids):
            raise ValueError(f"CPUs {sorted(set(ids) - node.free)} of {name} are not free")
        if name in self.aside:  # a speculative task there is wanted now
            node.free.difference_update(ids)
            node.room -= len(ids)
            return
        self._take_out(node)
        node.free.difference_update(ids)
        self.free -= len(ids)
        node.room -= len(ids)
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
            node.room += len(ids)
            return
        self._take_out(node)
        node.free.update(ids)
        self.free += len(ids)
        node.room += len(ids)
        self._put(node)

    def charge(self, place: Place, request: Request) -> None:
        """Give out all that a request asks for at a place; not its tokens."""
        self._move(self.nodes[place.node], place, request, -1)  # first: its CPUs may be among those that lack memory
        self.take(place.node, place.cpus)

    def discharge(self, place: Place, request: Request) -> None:
        """Take it back."""
        node = self.nodes.get(place.node)
        if node is not None:
            self.give_back(place.node, place.cpus)
            self._move(node, place, request, 1)

    def charge_all(self, places: Iterable[Place], request: Request) -> None:
        """Give out what a request asks for at all of its places, and its tokens."""
        self.tokens.take(request)
        for place in places:
            self.charge(place, request)

    def discharge_all(self, places: Iterable[Place], request: Request) -> None:
        """Take it back."""
        self.tokens.give_back(request)
        for place in places:
            self.discharge(place, request)

    def _move(self, node: Account, place: Place, request: Request, sign: int) -> None:
        gives = node.name not in self.aside
        if gives:
            self._take_out(node)
        before = node.lacking
        node.move(place, request, sign)
        less = node.lacking - before
        node.room -= less
        if gives:
            self.free -= less
            self._put(node)

    # ---- its order ----------------------------------------------------------------------------------------------

    def _include(self, node: Account) -> None:
        self._put(node)
        self.total += len(node.ids)
        self.free += node.room

    def _exclude(self, node: Account) -> None:
        self._take_out(node)
        self.total -= len(node.ids)
        self.free -= node.room

    def _put(self, node: Account) -> None:
        room = node.room
        self._with_room[room][node.name] = node
        self._most = max(self._most, room)

    def _take_out(self, node: Account) -> None:
        nodes = self._with_room[node.room]
        if next(reversed(nodes)) == node.name:
            nodes.popitem()
        else:
            del nodes[node.name]


def can_serve(node: Account, request: Request, now: float) -> bool:
    """Whether a node has all that is asked for, free or not."""
    capacity = node.capacity
    return (
        len(node.ids) >= request.cpus
        and len(node.gpus) >= request.gpus
        and (request.memory is None or not capacity.memory or request.memory <= capacity.memory)
        and (not request.min_time or capacity.ends - now >= request.min_time)
    )
