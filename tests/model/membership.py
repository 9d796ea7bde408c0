"""The scheduler on nodes that come and go: they join, are drained, released and lost, and come again under their names.

The same as `resources`, and accounts that grow and shrink: of some nodes a pool lends a few CPUs, lends more, and asks
for some back. What may come is said, and changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from hyperflow.request import CPUS_ONLY, Capacity, NodeKind, Request
from hyperflow.scheduling.ledger import Left
from hyperflow.scheduling.lending import Returned
from hyperflow.scheduling.state import SENT, WAITING, Batch, Effect, Fork, Task
from tests.model.nodes import FakeNode, at_work
from tests.model.resources import ResourcesModel
from tests.model.scheduling import CHOICE, RETURNED, SETTLED
from tests.model.simulator import pick, promise

UNCHARGED = "a release charges nothing: no task gets a past by it"
NOT_OURS = "what was asked back is not used, and no more than that leaves"
NOT_KEPT = "what is asked back and free leaves at once"
MAY_COME = "what may be served later waits, and nothing else does"

KINDS = (
    NodeKind("small", 2, CPUS_ONLY, most=2),
    NodeKind("large", 5, Capacity(("0", "1"), 100), most=3),
    NodeKind("short", 5, Capacity(("0", "1"), 100, 20.0), most=1),
)
ALL = Capacity(("0", "1"), 100)


class MembershipModel(ResourcesModel):
    """The same, on nodes that come and go."""

    name = "membership"
    happenings: ClassVar[Mapping[str, int]] = {
        **ResourcesModel.happenings, "add_node": 5, "release": 3, "lose": 1, "may_come": 2, "lend": 4, "reclaim": 4,
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.put = set[str]()  # nodes that are put aside for another reason than what they owe
        self.owed: dict[str, int] = {}
        self.whole: dict[str, tuple[int, int]] = {}  # CPUs and memory of all that there is of a node
        self.ours: dict[str, set[int]] = {}  # the ids that are lent to us
        self.gone: list[str] = []
        self.kinds: tuple[NodeKind, ...] = ()
        self.lends = False  # a pool has asked for something back
        self.scheduler.lending.on_returned = self.has_returned

    # ---- what can happen ----------------------------------------------------------------------------------------

    def on_add_node(self, cpus: int, has: int, ends: int) -> None:
        if len(self.nodes) >= 4:
            return
        dark = {node.name for node in self.dark}
        again = [name for name in self.gone if name not in self.nodes and name not in dark]
        if again and ends // 3 % 2:
            name = again[has % len(again)]
        else:
            self.names += 1
            name = f"n{self.names}"
        size = 1 + cpus % 5
        share = size if cpus // 5 % 3 else cpus // 15 % (size + 1)
        memory = (0, 12, 30, 100)[has // 4 % 4]
        self.whole[name] = size, memory
        ids = range(10, 10 + share)
        gpus = ((), ("0",), ("0", "1"), ("3", "5"))[has % 4] if share else ()
        until = self.now + 10 + ends % 50 if ends % 3 == 0 else math.inf
        self.nodes[name], self.sizes[name], self.ours[name] = FakeNode(name), share, set(ids)
        self.capacities[name] = Capacity(gpus, self.memory_for(name, share), until)
        self.refused(self.scheduler.add_node(name, ids, self.capacities[name]))
        self.least = None
        self.on_turn()

    def memory_for(self, name: str, cpus: int) -> int:
        """Return the memory that goes with so many CPUs."""
        size, memory = self.whole[name]
        return -(-memory * cpus // size)

    def on_may_come(self, which: int, *_: int) -> None:
        """Other nodes may come from now on."""
        self.kinds = KINDS if self.lends else tuple(kind for bit, kind in enumerate(KINDS) if which >> bit & 1)
        self.refused(self.singles(self.scheduler.may_come(self.kinds)))
        self.least = None
        self.on_turn()

    def singles(self, tasks: list[Task]) -> list[Task]:
        """As the engine makes each of a batch a task of its own."""
        found = [
            one for task in tasks for one in ([task.one(n) for n in task.numbers] if type(task) is Batch else [task])
        ]
        for task in found:
            self.is_single(task)
        return found

    def on_release(self, which: int, delivered: int, *_: int) -> None:
        """A node is given up; what it was sent may still arrive, and what runs there ends some time later."""
        name = pick(self.nodes, which)
        if name is None:
            return
        there = self.numbers_on(name)
        for _, tasks in self.scheduler.single_out_all([name]):
            for task in tasks:
                self.is_single(task)
        past = {n: self.tasks[n].past and list(self.tasks[n].past.lost) for n in self.evaluations}
        shared = {n for w in self.scheduler._crew.with_share_of(name) for n in w.queue if not self.tasks[n].exclusive}
        node = self.nodes.pop(name)
        self.forget_node(name)
        for _ in range(delivered % (len(node.orders) + 1), len(node.orders)):
            node.orders.pop()
        self.dark.append(node)
        held = self.scheduler.withhold(name, blamed=False)
        self.withheld |= {task.number: name for task in held}
        back, impossible = self.scheduler.lose_node(name, blamed=False)
        impossible = self.singles(impossible)
        told = {t.number for t in (*held, *back)} | {t.number for t in impossible if t.number in there}
        promise(
            SETTLED, there - shared <= told <= there, "of", there, "on the released node only", told, "are heard of"
        )
        promise(CHOICE, all(map(self.is_possible, back)), "what no node can run waits again")
        for task in (*held, *back, *impossible):
            promise(UNCHARGED, (task.past and task.past.lost) == past[task.number], task, "is charged")
            if self.copies.gives_way(task, name, blamed=False):
                self.withheld.pop(task.number, None)
            elif task in impossible:
                self.evaluations[task.number].settle()
                self.forget(task)
        self.offered = self.least = None
        self.on_turn()

    def on_lose(self, *numbers: int) -> None:
        before = set(self.nodes)
        super().on_lose(*numbers)
        for name in before - self.nodes.keys():
            self.forget_node(name)

    def forget_node(self, name: str) -> None:
        """A node has gone."""
        self.gone.append(name)
        self.owed.pop(name, None)
        self.put.discard(name)
        self.aside.discard(name)
        for table in (self.sizes, self.capacities, self.ours, self.whole):
            table.pop(name, None)

    def on_aside(self, which: int, back: int, *_: int) -> None:
        name = pick(self.nodes, which)
        if name is not None:
            if back % 2:
                self.scheduler.take_back(name)
                self.put.discard(name)
            else:
                self.scheduler.put_aside(name)
                self.put.add(name)
            self.note_aside(name)
            self.offered = self.least = None
            self.on_turn()

    def note_aside(self, name: str) -> None:
        """Something has changed about why a node is put aside, or is not."""
        (self.aside.add if name in self.put or name in self.owed else self.aside.discard)(name)

    def on_lend(self, which: int, how_many: int, gpu: int) -> None:
        """A pool lends more of a node."""
        name = pick([name for name in self.nodes if self.sizes[name] < self.whole[name][0]], which)
        if name is None:
            return
        missing = [cpu for cpu in range(10, 10 + self.whole[name][0]) if cpu not in self.ours[name]]
        self.lend(name, missing[: 1 + how_many % len(missing)], ("7",) if gpu % 3 == 0 else ())
        self.on_turn()

    def lend(self, name: str, cpus: list[int], gpus: tuple[str, ...] = ()) -> None:
        """Have a node get CPUs, with their memory, and GPUs."""
        self.ours[name].update(cpus)
        self.sizes[name] += len(cpus)
        memory = self.memory_for(name, self.sizes[name]) - self.capacities[name].memory
        self.scheduler.lend(name, cpus, gpus, memory)
        had = self.capacities[name]
        more = tuple(gpu for gpu in gpus if gpu not in had.gpus)
        self.capacities[name] = had._replace(gpus=had.gpus + more, memory=had.memory + memory)
        self.offered = self.least = None

    def on_reclaim(self, which: int, how_many: int, gpu: int) -> None:
        """A pool wants some of a node back."""
        self.lends = True
        self.on_may_come(0)  # who asks for something back says what may come again
        name = pick([name for name in self.nodes if self.sizes[name]], which)
        if name is None:
            return
        owed = self.owed[name] = min(self.owed.get(name, 0) + 1 + how_many % self.sizes[name], self.sizes[name])
        self.note_aside(name)
        self.scheduler.reclaim(name, owed - (self.scheduler.lending.owed.get(name, 0)), ("7",) if gpu % 2 else ())
        self.offered = self.least = None
        if gpu // 2 % 2:
            self.on_turn()
        else:
            self.flushed = False

    def has_returned(self, returned: Returned) -> None:
        """Something has left a node."""
        name, cpus = returned.node, set(returned.cpus)
        promise(NOT_OURS, len(cpus) <= self.owed.get(name, 0), returned, "and owed were", self.owed)
        promise(NOT_OURS, cpus <= self.ours[name], returned, "of", self.ours[name])
        for worker in self.scheduler.workers_at(name):
            mine = not worker.leased or cpus.isdisjoint(worker.cpus)
            promise(NOT_OURS, mine, worker, "has CPUs that leave")
        self.ours[name] -= cpus
        self.sizes[name] -= len(cpus)
        self.owed[name] = self.owed.get(name, 0) - len(cpus)
        if not self.owed[name]:
            del self.owed[name]
        self.note_aside(name)
        had = self.capacities[name]
        left = tuple(gpu for gpu in had.gpus if gpu not in returned.gpus)
        self.capacities[name] = had._replace(gpus=left, memory=had.memory - returned.memory)
        self.offered = self.least = None

    # ---- what is right ------------------------------------------------------------------------------------------

    def ids_of(self, name: str) -> list[int]:
        return sorted(self.ours[name])

    def check_effect(self, effect: Effect) -> None:
        super().check_effect(effect)
        if isinstance(effect, Fork):
            node, cpus = effect.worker.node, set(effect.worker.cpus)
            promise(NOT_OURS, effect.worker.ending or cpus <= self.ours[node], effect.worker, "of", self.ours[node])

    def is_possible(self, task: Task) -> bool:
        asks = task.asks or Request(task.cpus)
        able = sum(self.can_have(task, name) for name in self.sizes)
        coming = sum(
            kind.most
            for kind in self.kinds
            if kind.cpus >= asks.cpus
            and len(kind.capacity.gpus) >= asks.gpus
            and not (asks.memory and kind.capacity.memory and asks.memory > kind.capacity.memory)
            and kind.capacity.ends >= asks.min_time
        )
        return max(able, coming) >= asks.nodes

    def check(self) -> None:
        super().check()
        pool = self.scheduler.pool
        sizes = [*self.sizes.values(), *(kind.cpus for kind in self.kinds)]
        promise(RETURNED, pool.largest == max(sizes, default=0), "largest", pool.largest, sizes)
        promise(NOT_OURS, self.owed == self.scheduler.lending.owed, "owed", self.owed, self.scheduler.lending.owed)
        for name in self.owed:
            if self.flushed:
                account = pool.nodes[name]
                room = min(Left(account, lent=True).room, len(account.free - account.lent_ids))
                promise(NOT_KEPT, room <= 0, name, "owes CPUs, and has", room)
        wanted = sum(want.number for want in self.scheduler.demand())
        cancelled = self.scheduler._prefetched  # of which some may not have been taken back yet
        promise(MAY_COME, 0 <= wanted <= len(self.evaluations) + cancelled, "wanted", wanted)

    def finish(self) -> None:
        for _ in range(len(self.tasks) + 1):
            if self.owed:
                self.deliver_all()
                for _, worker in list(at_work(self.nodes.values())):
                    worker.finish()
        self.on_turn()
        promise(NOT_KEPT, not self.owed, "still owed", self.owed)
        for name in self.nodes:
            self.lend(name, [cpu for cpu in range(10, 10 + self.whole[name][0]) if cpu not in self.ours[name]])
        for place in range(3):
            name = f"last{place}"
            self.nodes[name], self.sizes[name], self.ours[name] = FakeNode(name), 5, set(range(10, 15))
            self.whole[name], self.capacities[name] = (5, 100), ALL
            self.refused(self.scheduler.add_node(name, range(10, 15), ALL))
        for name in sorted(self.put):
            self.scheduler.take_back(name)
        self.put.clear()
        self.aside.clear()
        super().finish()
        promise(MAY_COME, self.scheduler.demand() == [], "still wanted", self.scheduler.demand())
        waiting = [one.task for one in self.evaluations.values() if one.task.state in (WAITING, SENT)]
        promise(SETTLED, not waiting, waiting, "are left")
