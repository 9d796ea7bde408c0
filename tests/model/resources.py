"""The scheduler with all that may be asked for: GPUs, memory, tokens, time, order, several nodes, speculation.

The same nodes, workers and streams as in `scheduling`; the tasks ask for more, and the nodes have more. What is right
is worked out here once more, in the plainest way: sums over all that hold something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from hyperflow.request import Capacity, Request
from hyperflow.scheduling import order
from hyperflow.scheduling.ledger import Left
from hyperflow.scheduling.placement import PARTS, parts_of
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import SENT, WAITING, Effect, Feed, Place, Send, Task
from tests.model.nodes import FakeNode, FakeWorker
from tests.model.scheduling import CHOICE, IDLE, RETURNED, SETTLED, STARVED, SchedulerModel
from tests.model.simulator import pick, promise

TOKENS = {"t": 3, "u": 1}

GPUS_ALONE = "no GPU is given out more than once, or beyond its parts"
MEMORY = "no more memory is given out than there is"
COUNTED = "no more tokens are given out than there are, and all return"
IN_ORDER = "of those that ask for the same, who goes first starts first"
TOGETHER = "a task has all of its nodes or none"
IN_TIME = "nothing starts where less time is left than it needs, or waits for time that no node has"
GIVEN_BACK = "a speculative task has only what nobody else wants"

SMALL = ((order, "LEVEL_SECONDS", 20.0), (order, "TICK", 0.5))


class ResourcesModel(SchedulerModel):
    """The same, and what tasks ask for beside CPUs."""

    name = "resources"
    happenings: ClassVar[Mapping[str, int]] = {
        **SchedulerModel.happenings, "submit": 6, "submit_special": 14, "time": 3, "want": 3, "ask_again": 3,
    }  # fmt: skip
    always = SchedulerModel.always | {"submit_special"}

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = self.copies._scheduler = Scheduler(lambda: self.now)
        self.scheduler.set_tokens(TOKENS)
        self.capacities: dict[str, Capacity] = {}
        self.promised = set[int]()  # tasks that ever had a promise
        self.least: tuple[int, float] | None = None  # the first that waits, and how little it lacked

    @classmethod
    @contextmanager
    def surroundings(cls) -> Iterator[None]:
        before = [(module, name, getattr(module, name)) for module, name, _ in SMALL]
        with super().surroundings():
            for module, name, value in SMALL:
                setattr(module, name, value)
            try:
                yield
            finally:
                for module, name, value in before:
                    setattr(module, name, value)

    # ---- what can happen ----------------------------------------------------------------------------------------

    def on_add_node(self, cpus: int, has: int, ends: int) -> None:
        if len(self.nodes) >= 4:
            return
        self.names += 1
        name = f"n{self.names}"
        size = self.sizes[name] = 1 + cpus % 5
        ids = range(10, 10 + size)
        gpus = ((), ("0",), ("0", "1"), ("3", "5"))[has % 4]
        memory = (0, 12, 30, 100)[has // 4 % 4]
        domains = (
            ((frozenset(ids[::2]), frozenset(gpus[:1])), (frozenset(ids[1::2]), frozenset(gpus[1:])))
            if has & 64
            else ()
        )
        until = self.now + 10 + ends % 50 if ends % 3 == 0 else float("inf")
        self.nodes[name] = FakeNode(name)
        self.capacities[name] = Capacity(gpus, memory, until, domains)
        self.refused(self.scheduler.add_node(name, ids, self.capacities[name]))
        self.on_turn()

    def on_submit_special(self, needs: int, has: int, count: int) -> None:
        request = Request(
            cpus=(1, 1, 2, 3)[needs % 4],
            gpus=(0, 0, 0.5, 1, 2, 1 / 3)[needs // 4 % 6],
            memory=(None, None, 1, 10, 40)[needs // 24 % 5],
            resources=((), (), (("t", 1),), (("t", 3),), (("t", 2), ("u", 1)), (("u", 1),))[has % 6],
            min_time=(0, 0, 0, 5, 30)[has // 6 % 5],
            nodes=(1, 1, 1, 1, 2, 3)[needs // 120 % 6],
            priority=(0, 0, 0, 1, 2, -1)[has // 30 % 6],
            speculative=has // 180 % 4 == 0,
        )
        if count // 48 % 3 == 0:  # what differs in nothing but its place in the order
            request = Request(request.cpus, priority=request.priority, speculative=request.speculative)
        sort = ("", "", "", "fresh", "exclusive", "watched")[count % 6]
        if request == Request(request.cpus):
            return
        for _ in range(1 + count // 6 % 4 if sort != "watched" else 1):
            number = self.last + 1
            task = Task(
                number, 1 + has // 720 % 4, fresh=sort == "fresh", size=100 * number, exclusive=sort == "exclusive",
                request=request,
            )  # fmt: skip
            self.submit_task(task, sort == "watched")
        self.flushed = False
        if count // 24 % 2:
            self.on_turn()

    def on_time(self, seconds: int, *_: int) -> None:
        """Time passes."""
        self.now += seconds % 12
        self.least = None
        self.refused(self.scheduler.take_late())
        self.on_turn()

    def on_want(self, which: int, *_: int) -> None:
        """Somebody awaits what was speculative."""
        guesses = [one.task for one in self.evaluations.values() if is_guess(one.task)]
        task = pick(guesses, which)
        if task is not None:
            self.scheduler.want(task)
            promise(GIVEN_BACK, not is_guess(task), task, "is still speculative")
            self.least = None
            self.on_turn()

    def on_ask_again(self, which: int, memory: int, *_: int) -> None:
        """Tasks that wait ask for other memory: something was learned."""
        waiting = [one.task for one in self.evaluations.values() if one.task.state is WAITING and one.task.asks]
        task = pick(waiting, which)
        if task is None or task.asks is None:
            return
        asks = task.asks._replace(memory=(None, 1, 5, 20)[memory % 4])
        if self.scheduler.is_possible(asks):
            alike = [task] if memory // 4 % 2 else [one for one in waiting if one.asks == task.asks]
            self.scheduler.ask_again(alike, asks)
            self.least = None
            self.on_turn()

    def refused(self, tasks: Iterable[Task]) -> None:
        """These wait for what can never be had."""
        for task in tasks:
            promise(SETTLED, not self.is_possible(task), task, "could wait")
            self.evaluations[task.number].settle()
            self.forget(task)

    def on_lose(self, which: int, delivered: int, *rest: int) -> None:
        if len(self.nodes) > 1:
            name = pick(self.nodes, which)
            assert name is not None
            kept = self.capacities.pop(name)
            super().on_lose(which, delivered, *rest)
            promise(CHOICE, name not in self.nodes, name, kept)
            self.least = None

    def on_turn(self, *rest: int) -> None:
        self.refused(self.scheduler.take_late())  # the clock goes on with each event
        self.promised.update(self.scheduler._guesses.promises)
        super().on_turn(*rest)

    def on_single_out(self, *numbers: int) -> None:
        super().on_single_out(*numbers)
        self.flushed = False

    def on_aside(self, *numbers: int) -> None:
        self.least = None
        super().on_aside(*numbers)

    def on_dark(self, *numbers: int) -> None:
        self.least = None
        super().on_dark(*numbers)

    def numbers_on(self, name: str) -> set[int]:
        gangs = {n for w in self.scheduler._crew.with_share_of(name) for n in w.queue if n in self.evaluations}
        return super().numbers_on(name) | gangs

    # ---- what is right ------------------------------------------------------------------------------------------

    def can_have(self, task: Task, name: str) -> bool:
        if task.asks is None:
            return super().can_have(task, name)
        asks, capacity = task.asks, self.capacities[name]
        return (
            self.sizes[name] >= asks.cpus
            and len(capacity.gpus) >= asks.gpus
            and not (asks.memory and capacity.memory and asks.memory > capacity.memory)
            and (not asks.min_time or self.now + asks.min_time <= capacity.ends)
        )

    def is_possible(self, task: Task) -> bool:
        count = sum(self.can_have(task, name) for name in self.sizes)
        return count >= (task.asks.nodes if task.asks is not None else 1)

    def holdings(self) -> Iterator[tuple[Place, Request, str]]:
        """Give what somebody has: who runs, who was promised something, to whom it is lent."""
        for worker in self.scheduler.workers.values():
            if worker.leased:
                asks = worker.request or Request(len(worker.cpus))
                for place in (worker.place, *worker.elsewhere):
                    if place.node in self.nodes:
                        yield place, asks, "lent" if asks.speculative else "given"
        for one in self.scheduler._guesses.promises.values():
            for place in one.places:
                yield place, one.request, "promised"

    def every_cpu_is_in_one_place(self) -> None:
        pool, held = self.scheduler.pool, list(self.holdings())
        promise(RETURNED, pool.nodes.keys() == self.nodes.keys(), "nodes", pool.nodes.keys())
        promise(RETURNED, pool.aside == self.aside, "aside", pool.aside)
        for name, node in pool.nodes.items():
            mine = [(place, asks, how) for place, asks, how in held if place.node == name]
            final = [(place, asks) for place, asks, how in mine if how != "lent"]
            lent = [(place, asks) for place, asks, how in mine if how == "lent"]
            crowded = any(how == "promised" for _, _, how in mine)
            ids = sorted([*node.free, *(cpu for place, _ in final for cpu in place.cpus)])
            promise(RETURNED, ids == self.ids_of(name), name, "has", ids)
            lent_ids = [cpu for place, _ in lent for cpu in place.cpus]
            promise(GIVEN_BACK, len(set(lent_ids)) == len(lent_ids), "lent twice:", lent_ids)
            promise(GIVEN_BACK, set(lent_ids) == node.lent_ids, "lent:", node.lent_ids)
            promise(GIVEN_BACK, crowded or node.free.issuperset(lent_ids), name, "lends", lent_ids)
            self.gpus_are_right(name, final, lent, crowded)
            self.memory_is_right(name, final, lent, crowded)
        in_use = [node for node in pool.nodes.values() if node.name not in self.aside]
        promise(RETURNED, pool.free == sum(node.room for node in in_use), "free", pool.free)
        promise(RETURNED, pool.total == sum(len(node.ids) for node in in_use), "total", pool.total)
        self.tokens_are_right()

    def gpus_are_right(
        self, name: str, final: list[tuple[Place, Request]], lent: list[tuple[Place, Request]], crowded: bool
    ) -> None:
        node = self.scheduler.pool.nodes[name]
        given, loans = parts_in(final), parts_in(lent)
        for gpu in self.capacities[name].gpus:
            promise(GPUS_ALONE, node.gpus[gpu] == PARTS - given[gpu] >= 0, name, gpu, node.gpus[gpu], given[gpu])
            promise(GPUS_ALONE, crowded or given[gpu] + loans[gpu] <= PARTS, name, gpu, "is lent and given")
        for place, asks in (*final, *lent):
            promise(GPUS_ALONE, len(place.gpus) == -(-asks.gpus // 1), place, "for", asks.gpus)
            promise(TOGETHER, len(place.cpus) == asks.cpus, place, "for", asks)

    def memory_is_right(
        self, name: str, final: list[tuple[Place, Request]], lent: list[tuple[Place, Request]], crowded: bool
    ) -> None:
        node, memory, size = self.scheduler.pool.nodes[name], self.capacities[name].memory, self.sizes[name]
        if not memory:
            promise(MEMORY, node.room == len(node.free), name, "lacks what nobody knows")
            return
        # In units of a share of a byte, so that nothing is rounded.
        used = sum(size * asks.memory if asks.memory else memory * asks.cpus for _, asks in final)
        loans = sum(size * asks.memory if asks.memory else memory * asks.cpus for _, asks in lent)
        promise(MEMORY, used <= memory * size, name, "gives out", used, "of", memory * size)
        promise(MEMORY, crowded or used + loans <= memory * size, name, "gives out and lends", used + loans)
        room = min(len(node.free), (memory * size - used) // memory)
        promise(MEMORY, node.room == room, name, "has room for", node.room, "and not", room)

    def tokens_are_right(self) -> None:
        held: Counter[str] = Counter()
        lent: Counter[str] = Counter()
        for worker in self.scheduler.workers.values():
            if worker.leased and worker.request is not None:
                (lent if worker.request.speculative else held).update(dict(worker.request.resources))
        for one in self.scheduler._guesses.promises.values():
            held.update(dict(one.request.resources))
        for name, total in TOKENS.items():
            tokens = self.scheduler.pool.tokens[name]
            promise(COUNTED, tokens.free == total - held[name] >= 0, name, tokens.free, held[name])
            promise(COUNTED, tokens.lent == lent[name], name, tokens.lent, lent[name])
            crowded = bool(self.scheduler._guesses.promises)
            promise(GIVEN_BACK, crowded or lent[name] <= tokens.free, name, "is lent and given")

    def counters_are_right(self) -> None:
        scheduler = self.scheduler
        promised = set(scheduler._guesses.promises)
        count = scheduler._waiting.count
        promise(SETTLED, scheduler.waiting == count + len(promised), "waiting", scheduler.waiting)
        super().counters_are_right()

    def every_task_is_in_one_place(self) -> None:
        promised = {n: self.evaluations[n] for n in self.scheduler._guesses.promises}
        for number, evaluation in promised.items():
            promise(SETTLED, evaluation.task.state is WAITING, number, "is promised, and does not wait")
            del self.evaluations[number]
        super().every_task_is_in_one_place()
        self.evaluations |= promised

    # ---- what starts --------------------------------------------------------------------------------------------

    def check_effect(self, effect: Effect) -> None:
        super().check_effect(effect)
        if self.least is not None and isinstance(effect, Send | Feed):
            tasks = effect.tasks if isinstance(effect, Send) else [effect.batch]
            if min(map(self.rank, tasks)) < self.rank(self.tasks[self.least[0]]):
                self.least = None  # something came that goes first
        if isinstance(effect, Send):
            for task in effect.tasks:
                if task.asks is not None and task.past is None and not is_guess(task):
                    self.nobody_was_passed(task)
                if task.asks is not None and task.state is SENT:
                    promise(CHOICE, len(effect.tasks) == 1, task, "does not go by itself")
                    places = task.places
                    promise(TOGETHER, len({place.node for place in places}) == task.asks.nodes, task, places)
                    for place in places:
                        capacity = self.capacities[place.node]
                        in_time = not task.asks.min_time or self.now + task.asks.min_time <= capacity.ends
                        promise(IN_TIME, in_time, task, "starts too late")
                        promise(GPUS_ALONE, set(place.gpus) <= set(capacity.gpus), place, "is not there")

    def nobody_was_passed(self, task: Task) -> None:
        """Of those that differ in priority only, who goes first has started."""
        if task.number in self.promised:
            return  # it has had its place since before others came
        mine = as_all(task)
        for one in self.evaluations.values():
            other = one.task
            waits = other.state is WAITING and not self.is_promised(other) and other.number not in self.batched
            if waits and other.past is None and as_all(other) == mine:
                promise(IN_ORDER, self.rank(task) < self.rank(other), task, "starts before", other)

    def is_promised(self, task: Task) -> bool:
        return task.number in self.scheduler._guesses.promises

    def start(self, node: FakeNode, worker: FakeWorker) -> None:
        super().start(node, worker)
        if node not in self.dark:
            workers = self.scheduler.workers
            at_work = [workers[one.number] for one in node.workers.values() if one.current and one.number in workers]
            parts = Counter[str]()
            for known in at_work:
                share = known.size[1] if isinstance(known.size, tuple) else 0
                parts.update(dict.fromkeys(known.gpus, parts_of(share)))
            promise(GPUS_ALONE, all(count <= PARTS for count in parts.values()), node.name, parts)

    def nothing_waits_that_could_run(self) -> None:
        self.refused(self.scheduler.take_late())
        batches = self.batches()
        seen = [self.seen(n, batches) for n in self.evaluations if n not in self.scheduler._guesses.promises]
        tasks = [task for task in seen if task.state is WAITING]
        for task in tasks:
            promise(IN_TIME, self.is_possible(task), task, "waits for what can never be had")
            if is_guess(task) and task.asks is not None:
                held = task.past is not None and task.past.worker is not None
                places = self.scheduler._guesses.find(task.asks, self.closed_to(task))
                promise(IDLE, held or not places, task, "could run, if only for a while, on", places)
        waiting = sorted((task for task in tasks if not is_guess(task)), key=self.rank)
        first = next(iter(waiting), None)
        if first is None:
            self.least = None
            return
        promises = self.scheduler._guesses.promises.values()
        if any(self.rank(one.task) < self.rank(first) for one in promises):
            self.least = None
        lacks = self.lacks(first)
        promise(IDLE, lacks is None or lacks > 0, first, "fits")
        if first.past is None and lacks is not None and not (first.asks and first.asks.min_time):
            same = self.least is not None and self.least[0] == first.number
            promise(STARVED, not same or lacks <= self.least[1] + 1e-9, first, "lacked", self.least, "and now", lacks)
            self.least = (first.number, lacks)
        else:
            self.least = None

    def rank(self, task: Task) -> tuple[int, int]:
        level = self.scheduler._choice._order.level(task.request, task.number, self.now)
        return -level, task.number

    def lacks(self, task: Task) -> float | None:
        """Return what is missing on its nodes; None if it waits for something else."""
        asks = task.asks or Request(task.cpus)
        if any(self.scheduler.pool.tokens[name].free < count for name, count in asks.resources):
            return None
        if task.past is not None and task.past.worker is not None:
            return None
        if task.number in self.batched and any(w.ending for w in self.scheduler._guesses.workers.values()):
            return None  # batches have no promises: they wait until somebody has gone
        names = {name for name in self.sizes if self.can_have(task, name)} - self.aside - self.closed_to(task)
        missing = sorted(Left(self.scheduler.pool.nodes[name]).lacks(asks) for name in names)
        return sum(missing[: asks.nodes]) if len(missing) >= asks.nodes else None

    def has_room(self, cpus: int) -> bool:
        wanted = [one.task for one in self.evaluations.values() if not is_guess(one.task)]
        return super().has_room(cpus) and all(task.state is not WAITING for task in wanted)

    def finish(self) -> None:
        self.capacities = {name: one._replace(ends=float("inf")) for name, one in self.capacities.items()}
        for name, node in self.scheduler.pool.nodes.items():
            node.capacity = self.capacities[name]
        self.least = None
        super().finish()
        self.tokens_are_right()
        promise(COUNTED, all(t.free == t.total and not t.lent for t in self.scheduler.pool.tokens.values()), "missing")
        promise(
            GIVEN_BACK, not self.scheduler._guesses.workers and not self.scheduler._guesses.promises, "some is lent"
        )


def is_guess(task: Task) -> bool:
    """Whether it is speculative."""
    return task.asks is not None and task.asks.speculative


def as_all(task: Task) -> Request:
    """Return what a task asks for, as if all had the same priority."""
    return (task.asks or Request(task.cpus))._replace(priority=0)


def parts_in(holdings: Iterable[tuple[Place, Request]]) -> Counter[str]:
    """Add up what is held of each GPU."""
    parts: Counter[str] = Counter()
    for place, asks in holdings:
        parts.update(dict.fromkeys(place.gpus, parts_of(asks.gpus)))
    return parts
