"""The scheduler: whatever happens in whatever order on nodes, to workers and to tasks, its guarantees hold.

The scheduler is the real one, and so are the copies of stragglers and what a launcher and a worker settle by memory.
Nodes, workers and the streams to them are pretended (`nodes`); what the engine does with the scheduler's answers is
done here in a few lines. A head that crashes takes all of this with it, so nothing here is restarted but workers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import ClassVar

import attrs

from hyperflow.errors import ImpossibleRequest
from hyperflow.head.copies import Copies
from hyperflow.scheduling import overfull, prefetch, scheduler, teams
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import (
    CANCELLED,
    ENDED,
    SENT,
    WAITING,
    Batch,
    Effect,
    Feed,
    Join,
    Retire,
    Send,
    Task,
    Team,
    TeamEffect,
    in_ranges,
)
from hyperflow.scheduling.stragglers import Stragglers
from hyperflow.wire import claim_page
from tests.model.nodes import Answered, Ended, FakeNode, FakeWorker, Left, Message, Recalled, Returned, Skipped, at_work
from tests.model.simulator import Broken, Model, pick, promise

DURATIONS = {1: 2e-6, 2: 2e-4, 3: 0.01, 4: 0.5}
"""Seconds that each function takes: queued a thousand deep, a few deep, one ahead, one ahead where much waits."""

SMALL = (
    (prefetch, "ANSWERS_AT_ONCE", 3.0), (prefetch, "RESERVE_TASKS", 8), (overfull, "PATIENCE", 1),
    (scheduler, "ANSWERS_A_LOOK", 1), (teams, "PATIENCE", 1), (teams, "MOST_IN_VAIN", 0),
)  # fmt: skip
"""Bounds that are meant for large runs, so that four nodes meet them."""

STARTS = 8
"""So many tasks are started in one go: two, where they need new workers."""

ONCE = "no task runs twice at the same time"
IN_PLACE = "a task runs only where the scheduler has it"
SETTLED = "each task that was submitted is settled exactly once"
RETURNED = "the CPUs that are given out are those of living workers, and all return"
ALONE = "no two tasks share a CPU"
CHARGED = "a crash is charged to the task that the worker was in, and to no other one"
STARVED = "nobody starves: the oldest that waits keeps what it was offered, and all tasks end"
IDLE = "nothing waits that could run"
CANCELLED_STARTS = "a cancelled task is never sent, and does not run on"
ONE_PLACE = "each task is in one place, and the counters say where"
CHOICE = "a task is sent where it may be: not aside, not where it failed, one suspect on a node"
EXCLUSIVE = "an exclusive task never runs while a lost node may still be in it"


class Evaluation:
    """What the program waits for; its task is the one that counts now, perhaps a copy."""

    def __init__(self, task: Task, watched: bool) -> None:
        self.task = task
        self.watched = watched
        self.retries = 2
        self.settled = False

    def settle(self) -> None:
        """It has its result or error."""
        promise(SETTLED, not self.settled, self.task, "is settled once more")
        self.settled = True


@attrs.frozen
class Calls:
    """What the evaluations of a batch have in common."""

    owner: object
    alike: str


class SchedulerModel(Model):
    """A scheduler, the nodes at the other end of its effects, and what is known of the tasks."""

    name = "scheduler"
    happenings: ClassVar[Mapping[str, int]] = {
        "add_node": 2, "submit": 12, "submit_batch": 5, "cancel": 5, "orders": 12, "start": 12, "finish": 12,
        "go_on": 4, "answers": 8, "end": 5, "crash": 2, "hear": 12, "lose": 1, "single_out": 1, "dark": 2, "aside": 2,
        "rebalance": 2, "turn": 5, "settle": 1, "copy": 3, "hand": 12,
    }  # fmt: skip
    always = frozenset({"submit", "orders", "start", "finish", "answers", "hear", "turn", "hand"})
    opening = ("add_node", "add_node", "warm_up")
    steps = (8, 36)

    def __init__(self) -> None:
        self.now = 0.0
        self.scheduler = Scheduler()
        self.nodes: dict[str, FakeNode] = {}
        self.dark: list[FakeNode] = []  # the head has lost them, and they go on for a while
        self.sizes: dict[str, int] = {}
        self.tasks: dict[int, Task] = {}  # of one in a batch only what never changes is true
        self.batched: set[int] = set()  # those that are in a batch
        self.owners: dict[int, object] = {}  # of those that are, or were
        self.evaluations: dict[int, Evaluation] = {}
        self.all: list[Evaluation] = []
        self.copies_of: set[int] = set()
        self.withheld: dict[int, str] = {}  # until that node has really ended
        self.last = 0  # number of a task
        self.runs = 0
        self.newest_run: dict[int, int] = {}
        self.aside: set[str] = set()
        self.names = 0
        self.flushed = True
        self.offered: tuple[int, int] | None = None  # the oldest waiting task, and the best that any node offered it
        self.copies = self._copies()

    def _copies(self) -> Copies:
        nothing = SimpleNamespace(copied=lambda *_: None, superseded=lambda *_: None, ask=lambda: None, busy=False)
        copies = object.__new__(Copies)  # its own beginning needs an event loop
        for name, value in {
            "made": 0, "stragglers": Stragglers(), "_twins": {}, "_scheduler": self.scheduler, "_locks": nothing,
            "_evaluations": self.evaluations, "_events": nothing, "_new_number": self._number_of_copy,
            "_flush": self.on_turn, "_clock": lambda: self.now, "_looking": nothing,
        }.items():  # fmt: skip
            setattr(copies, name, value)
        copies.watched = copies.stragglers.watched
        for function, seconds in DURATIONS.items():
            for _ in range(10):
                copies.stragglers.took(f"f{function}", seconds)
        return copies

    @classmethod
    @contextmanager
    def surroundings(cls) -> Iterator[None]:
        before = claim_page.time
        bounds = [(module, name, getattr(module, name)) for module, name, _ in SMALL]
        for module, name, bound in SMALL:
            setattr(module, name, bound)
        try:
            yield
        finally:
            claim_page.time = before
            for module, name, bound in bounds:
                setattr(module, name, bound)

    # ---- what can happen ----------------------------------------------------------------------------------------

    def on_add_node(self, cpus: int, *_: int) -> None:
        if len(self.nodes) < 4:
            self.names += 1
            name = f"n{self.names}"
            self.nodes[name] = FakeNode(name)
            self.sizes[name] = 1 + cpus % 5
            self.scheduler.add_node(name, range(10, 10 + self.sizes[name]))
            self.on_turn()

    def on_warm_up(self, known: int, *_: int) -> None:
        """The times of some functions are known, so that more than one of their tasks is prefetched."""
        for function, seconds in DURATIONS.items():
            if known >> function & 1:
                self.scheduler._estimates.learn(function, seconds)

    def on_submit(self, kind: int, function: int, count: int) -> None:
        cpus = (1, 1, 1, 2, 3, 4)[kind % 6]
        sort = ("", "", "", "", "fresh", "alone", "exclusive", "watched")[kind // 6 % 8]
        for _ in range(1 + function // 4 % 12 if sort != "watched" else 1):
            self.submit(cpus, sort, 1 + function % 4)
        self.flushed = False
        if count % 2:
            self.on_turn()

    def submit(self, cpus: int, sort: str, function: int) -> None:
        number = self.last + 1
        task = Task(
            number, function, cpus, sort == "fresh", sort == "alone", 100 * number, exclusive=sort == "exclusive"
        )
        self.submit_task(task, sort == "watched")

    def submit_task(self, task: Task, watched: bool = False) -> None:
        """As the engine does."""
        number = task.number
        if not self.is_possible(task):
            try:
                self.scheduler.submit(task)
            except ImpossibleRequest:
                return
            raise Broken("what no node can serve is refused at once", task)
        self.last = number
        self.tasks[number] = task
        evaluation = self.evaluations[number] = Evaluation(task, watched)
        self.all.append(evaluation)
        self.scheduler.submit(task)
        if watched:
            self.copies.stragglers.watch(task, f"f{task.function}", 1.5)

    def on_submit_batch(self, kind: int, function: int, count: int) -> None:
        """Evaluations of one map that are alike."""
        cpus = (1, 1, 1, 2)[kind % 4]
        if cpus > max(self.sizes.values(), default=0):
            return
        first, many, owner = self.last + 1, 1 + count % 40, object()
        self.last += many
        calls = Calls(owner, "ab"[kind // 4 % 2])
        batch = Batch(first, 1 + function % 4, cpus, 100, many, calls)
        for number in batch.numbers:
            self.tasks[number] = task = batch.one(number)
            self.evaluations[number] = evaluation = Evaluation(task, watched=False)
            self.all.append(evaluation)
            self.owners[number] = owner
        self.batched.update(batch.numbers)
        self.scheduler.submit_batch(batch)
        self.flushed = False
        if count % 2:
            self.on_turn()

    def batches(self) -> dict[int, Batch]:
        """Return the batch that each is in, also of cancelled ones."""
        entries = itertools.chain(*self.scheduler._waiting.queues.values())
        waiting = {number: entry for entry in entries if type(entry) is Batch for number in entry.numbers}
        held = (item for team in self.scheduler.teams.all.values() for item in team.held.items())
        return waiting | {number: entry for number, entry in held if type(entry) is Batch}

    def seen(self, number: int, batches: Mapping[int, Batch]) -> Task:
        """Return a task as it stands."""
        return batches[number].one(number) if number in batches else self.tasks[number]

    def is_single(self, task: Task) -> None:
        """As the engine notes that one of a batch goes on by itself."""
        self.batched.discard(task.number)
        self.tasks[task.number] = task
        if task.number in self.evaluations:
            self.evaluations[task.number].task = task

    def single_out(self, number: int) -> None:
        """As the engine does before it deals with one of a batch alone."""
        batch = self.batches().get(number)
        if batch is not None and batch.team is not None:
            self.is_single(self.scheduler.teams.single_out(batch.team, batch, number))

    def on_single_out(self, *_: int) -> None:
        """One draws random numbers: all go on by themselves."""
        for _, tasks in self.scheduler.single_out_all():
            for task in tasks:
                self.is_single(task)

    def on_cancel(self, which: int, now: int, behind: int) -> None:
        workers = self.scheduler.workers.values()
        prefetched = [
            n for w in workers for t in list(w.queue.values())[1:] for n in t.numbers if n in self.evaluations
        ] + [n for team in self.scheduler.teams.all.values() for n in team.held]
        number = pick(prefetched if behind % 2 and prefetched else self.evaluations, which)
        if number in self.batched:
            owner = self.owners[number]
            mine = {n for n in self.batched if self.owners[n] is owner and n in self.evaluations}
            withdrawn = [n for batch in self.scheduler.withdraw(owner) for n in batch.numbers]
            promise(SETTLED, sorted(withdrawn) == sorted(mine), "of", mine, "only", withdrawn, "are withdrawn")
            for one in withdrawn:
                self.tasks[one].state = CANCELLED
                self.evaluations.pop(one).settle()
            self.flushed = False
            if now % 2:
                self.on_turn()
        elif number is not None:
            evaluation = self.evaluations[number]
            evaluation.settle()
            self.scheduler.cancel(evaluation.task)
            self.forget(evaluation.task)
            self.flushed = False
            if now % 2:
                self.on_turn()

    def forget(self, task: Task) -> None:
        """As the engine does at the end of an evaluation."""
        del self.evaluations[task.number]
        self.withheld.pop(task.number, None)
        self.copies.end(task)

    def on_orders(self, which: int, count: int, steps: int) -> None:
        node = pick([node for node in self.everywhere() if node.orders], which)
        for _ in range(1 + count % 4):
            if node is not None and node.orders:
                node.read_order(self.some_steps(node, steps))

    def some_steps(self, node: FakeNode, bits: int) -> Callable[[FakeWorker], None]:
        """Let a worker go on, or not, each time when the launcher looks at the memory that they share."""
        left = [bits >> at & 3 for at in range(0, 16, 2)]

        def meanwhile(worker: FakeWorker) -> None:
            for _ in range(left.pop() if left else 0):
                if worker.can_start:
                    self.start(node, worker)
                elif worker.current is not None:
                    worker.finish()

        return meanwhile

    def on_start(self, which: int, *_: int) -> None:
        self.with_worker(which, lambda w: w.can_start, self.start)

    def on_finish(self, which: int, failed: int, *_: int) -> None:
        self.with_worker(which, lambda w: w.current is not None, lambda _, worker: worker.finish(failed % 4 == 0))
        self.now += 0.01

    def on_hand(self, which: int, count: int, *_: int) -> None:
        """A launcher hands out what is in a team's queue."""
        self.with_worker(which, lambda w: w.team is not None, lambda node, worker: node.hand(worker, 1 + count % 3))

    def on_go_on(self, *_: int) -> None:
        """All tasks that run now end, and all that is under way arrives."""
        self.on_settle()
        for _, worker in list(at_work(self.nodes.values())):
            worker.finish()
        self.deliver_all()

    def on_answers(self, which: int, *_: int) -> None:
        self.with_worker(which, lambda w: bool(w.answers), lambda node, worker: node.read_answers(worker))

    def on_end(self, which: int, *_: int) -> None:
        self.with_worker(which, lambda w: w.killed or w.leaves, lambda node, worker: node.end(worker))

    def on_crash(self, which: int, *_: int) -> None:
        self.with_worker(which, lambda w: True, lambda node, worker: node.end(worker))

    def on_hear(self, which: int, count: int, now: int) -> None:
        node = pick([node for node in self.nodes.values() if node.messages], which)
        for _ in range(1 + count % 4):
            if node is not None and node.messages:
                self.hear(node.messages.popleft())
        self.flushed = False
        if now % 2:
            self.on_turn()

    def on_lose(self, which: int, delivered: int, *_: int) -> None:
        """The stream to a node ends: what was under way from there is lost, what it was sent may still arrive."""
        if len(self.nodes) < 2:
            return
        name = pick(self.nodes, which)
        assert name is not None
        there = self.numbers_on(name)
        for _, tasks in self.scheduler.single_out_all([name]):
            for task in tasks:
                self.is_single(task)
        node = self.nodes.pop(name)
        del self.sizes[name]
        self.aside.discard(name)
        for _ in range(delivered % (len(node.orders) + 1), len(node.orders)):
            node.orders.pop()
        self.dark.append(node)

        held = self.scheduler.withhold(name)
        self.withheld |= {task.number: name for task in held}
        back, impossible = self.scheduler.lose_node(name)
        impossible = [
            one
            for task in impossible
            for one in ([task.one(n) for n in task.numbers] if type(task) is Batch else [task])
        ]
        for task in impossible:
            self.is_single(task)

        told = {t.number for t in (*held, *back)} | {t.number for t in impossible if t.number in there}
        promise(SETTLED, told == there, "of", there, "on the lost node only", told, "are heard of")
        promise(CHOICE, all(map(self.is_possible, back)), "what no node can run waits again")
        promise(CHARGED, all(t.past is not None and t.past.lost[-1] == name for t in (*held, *back)), "not a suspect")
        too_large = {n for n in self.evaluations if not self.is_possible(self.tasks[n]) and n not in self.withheld}
        too_large = {n for n in too_large if self.tasks[n].state is not SENT}  # it has what it needs
        promise(SETTLED, {t.number for t in impossible} == too_large, impossible, "is said to be impossible")
        for task in (*held, *back, *impossible):
            if self.copies.gives_way(task, name):
                self.withheld.pop(task.number, None)
            elif task in impossible:
                self.evaluations[task.number].settle()
                self.forget(task)
        self.offered = None
        self.on_turn()

    def on_dark(self, which: int, *_: int) -> None:
        """A lost node has really ended: what was withheld from others for its sake is free."""
        node = pick(self.dark, which)
        if node is not None:
            self.dark.remove(node)
            for number in [number for number, name in self.withheld.items() if name == node.name]:
                del self.withheld[number]
                evaluation = self.evaluations[number]
                if not self.is_possible(evaluation.task):
                    evaluation.settle()
                    self.forget(evaluation.task)
                else:
                    self.scheduler.resubmit(evaluation.task)
            self.offered = None
            self.on_turn()

    def on_aside(self, which: int, back: int, *_: int) -> None:
        name = pick(self.nodes, which)
        if name is not None:
            if back % 2:
                self.scheduler.take_back(name)
                self.aside.discard(name)
            else:
                self.scheduler.put_aside(name)
                self.aside.add(name)
            self.offered = None
            self.on_turn()

    def on_rebalance(self, *_: int) -> None:
        self.scheduler.rebalance()
        self.on_turn()

    def on_copy(self, *_: int) -> None:
        """Time passes, and what takes too long gets a copy."""
        self.now += 1.0
        self.copies._look()

    def _number_of_copy(self) -> int:
        self.last += 1
        self.copies_of.add(self.last)
        return self.last

    def on_turn(self, *_: int) -> None:
        self.flushed = False
        while not self.flushed:
            effects = self.scheduler.schedule(STARTS)
            for effect in effects:
                self.check_effect(effect)
                place = effect.team if isinstance(effect, TeamEffect) else effect.worker
                if place.node in self.nodes:
                    self.nodes[place.node].orders.append(effect)
            self.copies.sent(effects)
            self.flushed = not self.scheduler.unfinished

    # ---- and what follows from it -------------------------------------------------------------------------------

    def everywhere(self) -> list[FakeNode]:
        return [*self.nodes.values(), *self.dark]

    def numbers_on(self, name: str) -> set[int]:
        workers = self.scheduler.workers.values()
        numbers = [n for worker in workers if worker.node == name for n in worker.queue]
        numbers += [n for team in self.scheduler.teams.at(name) for n in team.held]
        return {n for n in numbers if n in self.evaluations}

    def with_worker(
        self, which: int, wanted: Callable[[FakeWorker], object], do: Callable[[FakeNode, FakeWorker], object]
    ) -> None:
        found = pick([(n, w) for n in self.everywhere() for w in n.workers.values() if wanted(w)], which)
        if found is not None:
            do(*found)

    def start(self, node: FakeNode, worker: FakeWorker) -> None:
        number = worker.step()
        if number is None:
            return
        self.runs += 1
        worker.run = self.runs
        known = self.scheduler.workers.get(worker.number)
        in_vain = known is not None and known.ending and not known.queue and known.team is None
        if node not in self.dark and not in_vain:
            self.newest_run[number] = self.runs
        task = self.seen(number, self.batches())
        others = [n for n, w in at_work(self.everywhere()) if w.current == number and w is not worker]
        promise(
            ONCE,
            node in self.dark or all(other in self.dark for other in others),
            task,
            "runs on",
            [n.name for n in others],
            "too",
        )
        promise(EXCLUSIVE, not (others and task.exclusive), task, "runs on", [n.name for n in others], "too")
        if node not in self.dark:
            place = task.worker or task.team
            mine_is = worker.team or worker
            here = task.state is CANCELLED or (place is not None and place.number == mine_is.number)
            here = here or in_vain  # another node of the task was lost, and this worker is being killed
            promise(IN_PLACE, here, task, "runs on worker", worker.number)
        mine = set(worker.cpus)
        for one in node.workers.values():
            if one is not worker and one.current is not None:
                promise(ALONE, mine.isdisjoint(one.cpus), f"workers {one.number} and {worker.number} of {node.name}")

    def hear(self, message: Message) -> None:
        match message:
            case Answered(worker, number, run, failed):
                known = self.scheduler.workers[worker]
                if known.team is not None and type(known.team.held.get(number)) is Batch and not failed:
                    self.answered(known.team, message)
                    return
                self.single_out(number)
                task = self.scheduler.answered(worker, number, DURATIONS[self.tasks[number].function])
                wanted = number in self.evaluations
                in_vain = known.ending and not known.queue  # another node of the task was lost
                promise(
                    IN_PLACE, task is not None or not wanted or in_vain, number, "has run on worker", worker, "in vain"
                )
                if task is not None:
                    promise(SETTLED, wanted, number, "has ended once more")
                    promise("the result of an older run is never taken", run == self.newest_run[number], task)
                    self.outcome(task, known.node, failed)
            case Skipped(worker, number, seq):
                self.scheduler.skipped(worker, number, seq)
            case Recalled(worker, boundary, below):
                self.scheduler.retracted(worker, boundary, below)
            case Left(team, worker):
                self.scheduler.left(team, [worker])
            case Returned(team, tasks):
                there = {n for n in tasks if n in self.evaluations}
                back = self.scheduler.recalled(team, in_ranges(sorted(tasks)))
                told = {n for task in back for n in task.numbers}
                promise(SETTLED, told == there, "of", there, "only", told, "wait again")
            case Ended(worker, started, within, ran, killed, in_team):
                known = self.scheduler.workers[worker]
                promise(IN_PLACE, known.team is not None or not in_team, known, "serves a team")
                if known.team is not None:
                    if within is not None:
                        self.single_out(within)
                    theirs = {n for n in known.team.held if n == within}
                else:
                    theirs = {n for n in known.queue if n in self.evaluations}
                blamed, back = self.scheduler.ended(worker, started, within or 0)
                number = blamed.number if blamed is not None else None
                right = number == within if ran and within in theirs else number in (None, within)
                if known.gives_way:
                    right = number is None
                promise(CHARGED, right, "the worker was in", within, "and", number, "is charged")
                again = {n for task in back for n in task.numbers}
                promise(CANCELLED_STARTS, again <= theirs, again - theirs, "wait again, and nobody wants them")
                promise(SETTLED, again == theirs - {number}, "of", theirs, "only", again, "wait again")
                if blamed is not None and not self.copies.gives_way(blamed, known.node):
                    self.again(blamed, known.node if not killed else None)

    def answered(self, team: Team, message: Answered) -> None:
        """Take an answer of a batch."""
        number = message.task
        del team.held[number]
        self.scheduler.teams.answered(team, 1, DURATIONS[team.function])
        promise(SETTLED, number in self.evaluations, number, "is wanted")
        promise("the result of an older run is never taken", message.run == self.newest_run[number], number)
        self.tasks[number].state = ENDED
        self.evaluations.pop(number).settle()

    def outcome(self, task: Task, node: str, failed: bool) -> None:
        """As the engine does when an evaluation has ended."""
        evaluation = self.evaluations[task.number]
        if failed:
            if not self.copies.gives_way(task, node):
                self.again(task, node)
            return
        evaluation.settle()
        del self.evaluations[task.number]
        if evaluation.watched:
            self.copies.answered(task, f"f{task.function}", DURATIONS[task.function])

    def again(self, task: Task, failed_on: str | None) -> None:
        evaluation = self.evaluations[task.number]
        if failed_on is not None and len(self.nodes) > 1:
            task.failed_on(failed_on)
        if failed_on is None or evaluation.retries:
            evaluation.retries -= failed_on is not None
            self.scheduler.resubmit(task)
        else:
            evaluation.settle()
            self.forget(task)

    def check_effect(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            first, worker = effect.tasks[0], effect.worker
            for task in effect.tasks:
                if task.number in self.copies_of:
                    self.tasks[task.number] = task
                promise(CANCELLED_STARTS, self.evaluations.keys() >= set(task.numbers), task, "is sent")
            promise(CHOICE, worker.node in self.nodes and worker.node not in self.aside, first, "goes to", worker.node)
            if first.past is not None:
                promise(CHOICE, len(worker.queue) == 1, "something is queued with a task that chooses its node")
                others = self.others(first)
                promise(CHOICE, not others or worker.node in others, first, "runs again where it failed")
            if self.offered is not None and first.number < self.offered[0]:
                self.offered = None  # something older came back, and goes first
            promise(CHOICE, all(task.cpus == len(worker.cpus) for task in effect.tasks), "another number of CPUs")
            promise(CHOICE, not (first.alone and len(effect.tasks) > 1), "something is behind", first)
            promise(CHOICE, first.fresh == worker.fresh, first, "shares a process")
        elif isinstance(effect, Feed):
            team, numbers = effect.team, set(effect.batch.numbers)
            promise(CANCELLED_STARTS, self.evaluations.keys() >= numbers, effect.batch, "is sent")
            promise(CHOICE, team.node in self.nodes and team.node not in self.aside, team, "gets", effect.batch)
            promise(CHOICE, team.cpus == effect.batch.cpus, "another number of CPUs")
            alike = (team.function, team.alike) == (effect.batch.function, effect.batch.calls.alike)
            promise(CHOICE, alike, team, "gets", effect.batch)
            if self.offered is not None and min(numbers) < self.offered[0]:
                self.offered = None
        elif isinstance(effect, Join):
            for worker in effect.workers:
                promise(CHOICE, not worker.queue and not worker.fresh, worker, "serves", effect.team)
                promise(CHOICE, len(worker.cpus) == effect.team.cpus, "another number of CPUs")
                promise(CHOICE, worker.node == effect.team.node, worker, "is on another node")
        elif isinstance(effect, Retire):
            promise(SETTLED, not effect.worker.queue, effect.worker, "retires with tasks")

    # ---- what always holds --------------------------------------------------------------------------------------

    def check(self) -> None:
        self.every_cpu_is_in_one_place()
        self.every_task_is_in_one_place()
        self.counters_are_right()
        if self.flushed:
            self.nothing_waits_that_could_run()
        promise(CHOICE, all(count == 1 for count in self.suspects().values()), "two suspects on a node")

    def every_cpu_is_in_one_place(self) -> None:
        pool = self.scheduler.pool
        promise(RETURNED, pool.nodes.keys() == self.nodes.keys(), "nodes", pool.nodes.keys())
        given: dict[str, list[int]] = {name: [] for name in self.nodes}
        for worker in self.scheduler.workers.values():
            if worker.leased:
                given[worker.node] += worker.cpus
        for name, node in pool.nodes.items():
            ids = sorted([*given[name], *node.free])
            promise(RETURNED, ids == self.ids_of(name), name, "has", ids)
        promise(RETURNED, pool.aside == self.aside, "aside", pool.aside)
        promise(RETURNED, pool.total == sum(self.sizes[name] for name in self.nodes.keys() - self.aside), "total")
        promise(RETURNED, pool.largest == max(self.sizes.values(), default=0), "largest")
        free = sum(len(node.free) for node in pool.nodes.values() if node.name not in self.aside)
        promise(RETURNED, pool.free == free, "free", pool.free, free)

    def ids_of(self, name: str) -> list[int]:
        """Return the CPUs of a node."""
        return list(range(10, 10 + self.sizes[name]))

    def every_task_is_in_one_place(self) -> None:
        places: list[int] = list(self.withheld)
        for request, tasks in self.scheduler._waiting.queues.items():
            waiting = [task for task in tasks if task.state is WAITING]
            numbers = [number for task in waiting for number in task.numbers]
            more = len(numbers) - len(waiting)
            promise(ONE_PLACE, self.scheduler._waiting.more[request] == more, "more:", self.scheduler._waiting.more)
            promise(ONE_PLACE, all(task.request == request for task in waiting), "in a wrong queue", waiting)
            promise(STARVED, numbers == sorted(numbers), "not in order:", numbers)
            places += numbers
        for worker in self.scheduler.workers.values():
            promise(ONE_PLACE, worker.held == sum(task.count for task in worker.queue.values()), worker, worker.held)
            for task in worker.queue.values():
                promise(ONE_PLACE, task.worker is worker, task, "is with", task.worker, "and", worker)
                if task.state is not CANCELLED:
                    promise(ONE_PLACE, task.state is SENT, task)
                    places += task.numbers
        for team in self.scheduler.teams.all.values():
            places += team.held
            for number, task in team.held.items():
                promise(ONE_PLACE, task.team is team and task.state is SENT and number in task.numbers, task, team)
            mine = {worker.number for worker in self.scheduler.workers.values() if worker.team is team}
            promise(ONE_PLACE, mine == team.members.keys(), "members of", team, mine)
            promise(ONE_PLACE, team.members or team.held, team, "is over")
        promise(ONE_PLACE, sorted(places) == sorted(self.evaluations), "found", places, "not", list(self.evaluations))

    def counters_are_right(self) -> None:
        scheduler, workers = self.scheduler, list(self.scheduler.workers.values())
        batches = self.batches()
        wanted = Counter(self.seen(number, batches).state for number in self.evaluations)
        promise(ONE_PLACE, (scheduler.waiting, scheduler.sent) == (wanted[WAITING], wanted[SENT]), "counted wrong")
        prefetched = sum(max(0, w.held - 1) for w in workers)
        promise(ONE_PLACE, scheduler._prefetched == prefetched, "prefetched:", scheduler._prefetched, prefetched)
        promise(RETURNED, scheduler._crew.active == sum(w.leased for w in workers), "active:", scheduler._crew.active)
        all_teams = scheduler.teams.all.values()
        queued = {team.number: max(0, len(team.held) - len(team.members)) for team in all_teams}
        promise(ONE_PLACE, queued == {team.number: team.queued for team in all_teams}, "queued:", queued)
        promise(ONE_PLACE, scheduler.teams.queued == sum(queued.values()), "queued:", scheduler.teams.queued, queued)
        deep = [team.number for team in scheduler.teams._deep]
        promise(IDLE, {number for number, count in queued.items() if count} <= set(deep), "deep:", deep)
        promise(IDLE, len(set(deep)) == len(deep), "one is twice among the deep")
        those = {worker.number for worker in scheduler._overfull.workers}
        promise(IDLE, {w.number for w in workers if w.held > 1} <= those, "overfull:", those)
        promise(IDLE, len(those) == len(scheduler._overfull.workers), "one is twice among the overfull")
        promise(IDLE, all(worker.overfull for worker in scheduler._overfull.workers), "overfull, and not marked")
        states = Counter("ending" if w.ending else "busy" if w.is_busy else "idle" for w in workers)
        promise(ONE_PLACE, scheduler.states == {"busy": 0, "idle": 0, "ending": 0} | states, "workers:", states)
        promise(ONE_PLACE, scheduler._suspects.on == self.suspects(), "suspects:", scheduler._suspects.on)
        there = {name: {w.number for w in scheduler.workers_at(name)} for name in self.nodes}
        here = {name: {w.number for w in workers if w.node == name} for name in self.nodes}
        promise(ONE_PLACE, there == here, "workers by node:", there, here)
        slots: dict[str, list[int]] = {name: [] for name in self.nodes}
        for w in workers:
            promise(ONE_PLACE, w.load == sum(task.size * task.count for task in w.queue.values()), w, "load", w.load)
            promise(RETURNED, w.leased or not w.is_busy, w, "works without CPUs")
            slots[w.node].append(w.slot)
        for name, taken in slots.items():
            promise(RETURNED, sorted(taken) == sorted(scheduler._crew.idle.slots[name]), "slots of", name, taken)
        for (name, size), idle in scheduler._crew.idle.idle.items():
            well = all(w.node == name and w.size == size and not w.leased for w in idle.values())
            promise(RETURNED, well, "idle:", idle)

    def nothing_waits_that_could_run(self) -> None:
        batches = self.batches()
        tasks = [task for number in self.evaluations if (task := self.seen(number, batches)).state is WAITING]
        if not tasks:
            self.offered = None
            return
        nodes = [node for name, node in self.scheduler.pool.nodes.items() if name not in self.aside]
        kept: set[str] | None = None  # where the oldest that does not fit may have its reservation
        for task in sorted(tasks, key=lambda task: task.number):
            closed = self.closed_to(task)
            open_to_it = [node for node in nodes if node.name not in closed]
            fits = {node.name for node in open_to_it if len(node.free) >= task.cpus}
            if kept is None:
                promise(IDLE, not fits, task, "fits on", fits)
                large = [node for node in open_to_it if len(node.ids) >= task.cpus]
                if large:
                    most = max(len(node.free) for node in large)
                    kept = {node.name for node in large if len(node.free) == most}
                    self.check_offer(task, most)
            else:
                promise(IDLE, len(fits) - bool(fits & kept) <= 0, task, "fits on", fits)
        if kept is None:
            self.offered = None

    def can_have(self, task: Task, name: str) -> bool:
        """Whether a node has what a task asks for, free or not."""
        return self.sizes[name] >= task.cpus

    def is_possible(self, task: Task) -> bool:
        """Whether a task can have what it asks for, now or later."""
        return any(self.can_have(task, name) for name in self.sizes)

    def others(self, task: Task) -> set[str]:
        """Return the nodes that a task may have, where it has not failed; none if they are not enough."""
        assert task.past is not None
        nodes = {name for name in self.sizes if self.can_have(task, name) and name not in self.aside}
        others = nodes - task.past.failed_on
        return others if task.asks is None or len(others) >= task.asks.nodes else set()

    def closed_to(self, task: Task) -> set[str]:
        """Return the nodes that a task must not have: where it failed, and as a suspect where another one is."""
        if task.past is None:
            return set()
        closed = set(task.past.failed_on) if self.others(task) else set()
        return closed | (set(self.suspects()) if task.past.lost else set())

    def suspects(self) -> Counter[str]:
        """Count the suspects on each node."""
        workers = self.scheduler.workers.values()
        return Counter(w.node for w in workers for task in w.queue.values() if task.past is not None and task.past.lost)

    def check_offer(self, oldest: Task, most: int) -> None:
        """The free CPUs that the oldest is offered never become fewer: so it starts, however many are younger."""
        if self.offered is not None and self.offered[0] == oldest.number and oldest.past is None:
            promise(STARVED, most >= self.offered[1], oldest, "was offered", self.offered[1], "CPUs, and now", most)
        self.offered = (oldest.number, most)

    # ---- and at the end -----------------------------------------------------------------------------------------

    def on_settle(self, *_: int) -> None:
        """Everything under way arrives, and no task ends meanwhile: then no CPU idles while a task is queued."""
        self.deliver_all()
        # Each time, a team is asked for what the free CPUs can take of it.
        for _ in range(20 + self.scheduler.pool.total):
            if self.scheduler.unbalanced:
                self.scheduler.rebalance()
                self.deliver_all()
        for worker in self.scheduler.workers.values():
            if worker.held > 1:
                promise(IDLE, worker.node not in self.aside, worker, "has more than it needs, on a node put aside")
                promise(IDLE, not self.has_room(len(worker.cpus)), worker, "has more than it needs")
            if worker.team is not None and worker.team.queued:
                team = worker.team
                promise(IDLE, team.node not in self.aside, team, "has more than it needs, on a node put aside")
                promise(IDLE, not self.has_room(team.cpus), team, "has more than it needs")
            current = self.nodes[worker.node].workers[worker.number].current
            promise(CANCELLED_STARTS, current is None or current in self.evaluations, current, "runs on", worker)

    def has_room(self, cpus: int) -> bool:
        """Whether what is queued somewhere could start."""
        return self.scheduler.pool.roomiest(cpus) is not None

    def deliver_all(self) -> None:
        self.on_turn()
        while self.step():
            self.on_turn()

    def step(self) -> bool:
        moved = False
        for node in self.nodes.values():
            while node.orders:
                node.read_order(lambda _: None)
                moved = True
            for worker in list(node.workers.values()):
                if worker.killed or worker.leaves:
                    node.end(worker)
                elif worker.can_start:
                    self.start(node, worker)
                elif node.hand(worker, 1):
                    pass
                elif worker.answers:
                    node.read_answers(worker)
                else:
                    continue
                moved = True
            while node.messages:
                self.hear(node.messages.popleft())
                moved = True
        return moved

    def finish(self) -> None:
        """Let everything run to its end: nothing is left, and all CPUs are free."""
        while self.dark:
            self.on_dark(0)
        for name in sorted(self.aside):
            self.scheduler.take_back(name)
        self.aside.clear()
        self.offered = None
        self.on_turn()
        for _ in range(len(self.tasks) + 1):
            if self.evaluations:
                self.deliver_all()
                for _, worker in list(at_work(self.nodes.values())):
                    worker.finish()
        self.on_settle()
        self.check()
        promise(STARVED, not self.evaluations, list(self.evaluations), "never ended")
        promise(SETTLED, all(one.settled for one in self.all), "some were never settled")
        promise(RETURNED, self.scheduler.pool.free == self.scheduler.pool.total, "CPUs are missing")
        promise(IDLE, not self.scheduler.unbalanced, "something is still prefetched")
        promise(SETTLED, not (self.copies._twins or self.copies.watched), "a copy is left")
