"""The locks of a Job: flows and evaluations that take locks within locks, await each other, and die at any moment.

The lock manager, its rules, what the head does with the messages of workers, and the scheduler are the real ones. A
stream between the head and a worker keeps its order and repeats nothing. What a worker has sent before it ended is
read; with a node, the stream ends anywhere, and what was under way is lost. Workers of a node that the head has lost go
on for a while. What the engine does with answers and ends is done here in a few lines.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import attrs

from hyperflow.errors import Deadlock, HyperflowError
from hyperflow.head.worker_locks import WorkerLocks
from hyperflow.locking.manager import FLOW, LockManager, inside
from hyperflow.locking.rules import LockRequest, Stage
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Fork, Kill, Send, State, Task
from hyperflow.wire import frames, messages
from hyperflow.wire.messages import LockReleased, LockReply, LockWanted
from tests.model.simulator import Broken, Event, Model, pick, promise
from tests.model.virtual_time import VirtualLoop

EXCLUSIVE = "a lock has one holder at a time, a semaphore as many as its count"
NO_DEADLOCK = "nobody waits for a lock for ever"
FREED = "the locks of an owner that has ended are freed, and no lock is held by nobody"
IN_ORDER = "first come, first served: a request leaves a place for each that came before it"
ALL_OR_NONE = "a request has all of its keys or none, and gets one answer"
SETTLED = "each evaluation ends once"

KEYS = ("a", "b", "c", "d", "2 of e", "3 of f")
"""Two of them are semaphores."""


def places(key: str) -> int:
    """Return how many may hold a key."""
    return int(key[0]) if " of " in key else 1


def full(taken: Iterable[str]) -> set[str]:
    """Return the keys of which all places are taken."""
    return {key for key, count in Counter(taken).items() if count >= places(key)}


@attrs.define(eq=False)
class Ask:
    """A request, as the one that made it knows it."""

    keys: tuple[str, ...]
    number: int  # of the manager, or the worker's serial
    state: str = "asked"  # "held", "refused"


class Activity:
    """Code that takes locks within locks: a flow, or an evaluation on a worker."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Ask] = []
        self.left = 4
        self.ended = False

    @property
    def waits(self) -> bool:
        """Whether it waits for a lock."""
        return bool(self.stack) and self.stack[-1].state == "asked"

    @property
    def held(self) -> list[str]:
        return [key for ask in self.stack if ask.state == "held" for key in ask.keys]


class FlowAt(Activity):
    """A flow in the head process."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.awaits: set[int] = set()  # numbers of tasks


class Evaluation(Activity):
    """A task in a worker process."""

    def __init__(self, task: int) -> None:
        super().__init__(f"evaluation {task}")
        self.task = task
        self.released = 0


class Process:
    """A worker process; `out` is what it has sent and the head has not read."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.serial = 0
        self.todo: deque[int] = deque()
        self.runs: Evaluation | None = None
        self.inbox: deque[LockReply | str] = deque()
        self.out: deque[LockWanted | LockReleased | tuple[str, int]] = deque()
        self.dark = False
        self.cut = False  # it has ended, and what it could still send is in `out`


class OtherJobs:
    """The other Jobs of the program: they let this one have a lock, and take it back, when an event says so."""

    def __init__(self) -> None:
        self.ours: list[str] = []
        self.waiting: list[tuple[asyncio.Future[None], frozenset[str]]] = []
        """What this Job waits for: some keys, or that it can give some back."""

    async def take(self, request: LockRequest) -> None:
        await self.turn(frozenset(request.keys))
        self.ours += request.keys

    async def give_back(self, request: LockRequest) -> None:
        await self.turn(frozenset())
        for key in request.keys:
            self.ours.remove(key)

    async def turn(self, takes: frozenset[str]) -> None:
        turn = (asyncio.get_running_loop().create_future(), takes)
        self.waiting.append(turn)
        try:
            await turn[0]
        finally:
            self.waiting.remove(turn)

    def answer(self, which: int, error: Exception | None = None) -> None:
        """One of them comes to its end; of requests of this Job, too, a key has one holder at a time."""
        turn = pick(self.possible(), which)
        if turn is not None and error is not None and turn[1]:
            turn[0].set_exception(error)
        elif turn is not None:
            turn[0].set_result(None)

    def possible(self) -> list[tuple[asyncio.Future[None], frozenset[str]]]:
        return [turn for turn in self.waiting if not turn[0].done() and full(self.ours).isdisjoint(turn[1])]


class LocksModel(Model):
    """A lock manager, a scheduler with a few CPUs, flows, and workers."""

    name = "locks"
    happenings: ClassVar[Mapping[str, int]] = {
        "flow": 4, "ask": 14, "release": 8, "give_up": 2, "evaluate": 8, "read": 12, "hear": 20, "end": 6, "die": 2,
        "cancel": 1, "lose": 1, "light": 2, "repeat": 1, "outside": 14,
    }  # fmt: skip
    always = frozenset({"flow", "ask", "release", "hear", "read"})
    opening = ("share", "flow", "flow", "ask")
    steps = (10, 60)

    def __init__(self) -> None:
        self.manager = LockManager()
        self.scheduler = Scheduler()
        self.locks = WorkerLocks(self.manager, self.scheduler, self.write, lambda _, task: f"evaluation {task}")
        self.flows: list[FlowAt] = []
        self.processes: dict[int, Process] = {}
        self.tasks: dict[int, tuple[Task, FlowAt]] = {}  # that have not ended
        self.retries: dict[int, int] = {}
        self.after_loss: list[int] = []  # workers of lost nodes: what they hold is freed when they must have ended
        self.outside = OtherJobs()
        self.loop: VirtualLoop | None = None  # where locks are shared with other Jobs, to wait for them takes one
        self.error: BaseException | None = None
        self.delivered = 0
        for name in ("n1", "n2"):
            self.scheduler.add_node(name, range(2))

    def do(self, event: Event) -> None:
        self.act(lambda: super(LocksModel, self).do(event))

    def act(self, what: Callable[[], object]) -> None:
        """Do something in the head's process, in its event loop if there is one, and let that come to rest."""
        if self.loop is None:
            what()
            return

        def in_loop() -> None:
            try:
                what()
            except Exception as error:  # noqa: BLE001 (it is raised outside)
                self.error = self.error or error

        self.loop.call_soon(in_loop)
        self.loop.pass_time()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        if self.loop is not None:
            self.loop.end()

    # ---- other Jobs ---------------------------------------------------------------------------------------------

    def on_share(self, shared: int, *_: int) -> None:
        """Other Jobs may want the same locks; in most programs there are none."""
        if shared % 4 == 0 and self.loop is None and not self.manager.busy:
            self.loop = VirtualLoop()
            self.loop.set_exception_handler(self.on_lost_error)
            self.manager.share(self.outside)

    def on_lost_error(self, _: object, context: dict[str, Any]) -> None:
        self.error = self.error or context.get("exception")

    def on_outside(self, which: int, failed: int, *_: int) -> None:
        """Another Job lets go of a lock, or a file cannot be written, or it would be a deadlock."""
        error = (None, None, None, None, None, None, OSError(28, "no space"), Deadlock("x", []))[failed % 8]
        self.outside.answer(which, error)

    # ---- flows --------------------------------------------------------------------------------------------------

    def on_flow(self, *_: int) -> None:
        if len(self.flows) < 6:
            self.flows.append(FlowAt(f"flow {len(self.flows)}"))

    def on_ask(self, which: int, keys: int, many: int) -> None:
        """Somebody who does not wait wants some keys, within what it has."""
        who = pick([one for one in self.activities() if self.is_free(one) and one.left], which)
        if who is not None:
            who.left -= 1
            wanted = tuple(sorted({KEYS[(keys >> 3 * at) % len(KEYS)] for at in range(1 + (many % 4 == 0) * 2)}))
            if isinstance(who, FlowAt):
                self.flow_asks(who, wanted)
            elif isinstance(who, Evaluation):
                process = self.process_of(who)
                process.serial += 1
                within = next((ask.number for ask in reversed(who.stack) if ask.state == "held"), None)
                process.out.append(LockWanted(who.task, process.serial, wanted, within))
                who.stack.append(Ask(wanted, process.serial))

    def flow_asks(self, flow: FlowAt, keys: tuple[str, ...]) -> None:
        ask = Ask(keys, 0)
        parent = flow.stack[-1].number if flow.stack else None
        flow.stack.append(ask)
        try:
            ask.number = self.manager.request(keys, FLOW, flow.name, parent, lambda error: self.told(flow, ask, error))
        except Deadlock:
            flow.stack.remove(ask)
        else:
            if ask.state == "refused":
                flow.stack.remove(ask)
        self.flush()

    def told(self, who: Activity, ask: Ask, error: HyperflowError | None) -> None:
        """The answer to a request has come."""
        try:
            self.answered(who, ask, error)
        except Broken as broken:
            self.error = self.error or broken
            raise

    def answered(self, who: Activity, ask: Ask, error: HyperflowError | None) -> None:
        promise(ALL_OR_NONE, ask.state == "asked", who.name, "was told about", ask.keys, "before:", ask.state)
        ask.state = "held" if error is None else "refused"
        if error is None:
            counts = Counter(key for one in {*self.activities(), who} for key in one.held)
            over = [key for key, count in counts.items() if count > places(key)]
            promise(EXCLUSIVE, not over, who.name, "is one too many for", over)
        elif ask.number and ask in who.stack:
            who.stack.remove(ask)

    def on_release(self, which: int, *_: int) -> None:
        """Somebody lets go of what it took last."""
        who = pick([one for one in self.activities() if self.is_free(one) and one.stack], which)
        if who is not None:
            self.release(who)

    def release(self, who: Activity) -> None:
        ask = who.stack.pop()
        if isinstance(who, Evaluation):
            who.released = ask.number
            self.process_of(who).out.append(LockReleased(who.task, ask.number))
        else:
            self.manager.release(ask.number)
            self.flush()

    def on_give_up(self, which: int, *_: int) -> None:
        """Somebody who waits is cancelled: what it asked for it does not want any longer."""
        who = pick([one for one in self.activities() if one.waits], which)
        if who is not None:
            self.release(who)

    def on_repeat(self, which: int, *_: int) -> None:
        """A release comes twice."""
        one = pick([one for one in self.evaluations() if one.released], which)
        if one is not None:
            self.process_of(one).out.append(LockReleased(one.task, one.released))

    def on_evaluate(self, which: int, count: int, *_: int) -> None:
        """A flow awaits evaluations, within its locks."""
        flow = pick([flow for flow in self.flows if self.is_free(flow) and flow.left], which)
        if flow is None:
            return
        flow.left -= 1
        token = inside.set(flow.stack[-1].number) if flow.stack else None
        for _ in range(1 + count % 3):
            number = len(self.retries) + 1
            task = Task(number, 1, 1 + (count // 3 % 4 == 0), alone=True)  # type: ignore[arg-type]
            if task.cpus > self.scheduler.pool.largest:
                continue
            self.scheduler.submit(task)
            self.tasks[number], self.retries[number] = (task, flow), count // 12 % 3
            flow.awaits.add(number)
            if self.manager.busy:
                self.locks.submitted(task)
        if token is not None:
            inside.reset(token)
        self.flush()

    # ---- workers ------------------------------------------------------------------------------------------------

    def on_read(self, which: int, *_: int) -> None:
        """A worker reads what the head has sent."""
        process = pick([one for one in self.processes.values() if one.inbox], which)
        if process is not None:
            self.read(process)

    def read(self, process: Process) -> None:
        message = process.inbox.popleft()
        if isinstance(message, str):
            self.kill(process)
            return
        one = process.runs
        ask = next((ask for ask in one.stack if ask.number == message.serial), None) if one is not None else None
        if one is not None and ask is not None:
            refused = HyperflowError(message.refusal) if message.refusal is not None else None
            self.told(one, ask, refused)

    def on_end(self, which: int, failed: int, *_: int) -> None:
        """An evaluation returns, or raises, maybe with locks that it has not released."""
        one = pick([one for one in self.evaluations() if not one.waits], which)
        if one is not None:
            self.end(one, "failed" if failed % 3 == 0 else "done")

    def end(self, one: Evaluation, how: str = "done") -> None:
        process = self.process_of(one)
        process.runs, one.ended = None, True
        process.out.append((how, one.task))
        self.next_task(process)

    def next_task(self, process: Process) -> None:
        if process.runs is None and process.todo and not process.cut:
            process.runs = Evaluation(process.todo.popleft())

    def on_die(self, which: int, *_: int) -> None:
        """A worker's process dies; what it has sent by then is read."""
        process = pick([one for one in self.processes.values() if not one.cut], which)
        if process is not None:
            self.kill(process)

    def kill(self, process: Process) -> None:
        within = process.runs.task if process.runs is not None else 0
        if process.runs is not None:
            process.runs.ended = True
        process.runs, process.cut = None, True
        process.todo.clear()
        process.inbox.clear()
        process.out.append(("ended", within))

    def on_cancel(self, which: int, *_: int) -> None:
        """Nobody wants an evaluation any more; it keeps its locks until its process has gone."""
        number = pick(self.tasks, which)
        if number is not None:
            self.scheduler.cancel(self.tasks[number][0])
            self.settle(number)
            self.flush()

    def on_lose(self, which: int, *_: int) -> None:
        """The head loses a node; its workers go on for a while, and nobody hears them."""
        nodes = self.scheduler.pool.nodes
        if len(nodes) < 2:
            return
        node = pick(list(nodes), which)
        assert node is not None
        for worker in [worker for worker in self.scheduler.workers.values() if worker.node == node]:
            process = self.processes.get(worker.number)
            if process is not None:
                process.dark = True
                process.out.clear()
                process.inbox.clear()
            if self.manager.busy:
                self.after_loss.append(worker.number)
        _, impossible = self.scheduler.lose_node(node)
        for task in impossible:
            self.settle(task.number)
        self.flush()

    def on_light(self, *_: int) -> None:
        """By now the workers of a lost node have ended."""
        for number in [number for number, process in self.processes.items() if process.dark]:
            process = self.processes.pop(number)
            if process.runs is not None:
                process.runs.ended = True
        for number in self.after_loss:
            self.locks.worker_gone(number)  # type: ignore[arg-type]
        self.after_loss.clear()
        self.flush()

    # ---- the head -----------------------------------------------------------------------------------------------

    def on_hear(self, which: int, count: int, *_: int) -> None:
        """The head reads what a worker has sent."""
        process = pick([one for one in self.processes.values() if one.out and not one.dark], which)
        for _ in range(1 + count % 3):
            if process is not None and process.out:
                self.hear(process)

    def hear(self, process: Process) -> None:
        message = process.out.popleft()
        number = process.number
        worker = self.scheduler.workers[number]  # type: ignore[index]
        if isinstance(message, (LockWanted, LockReleased)):
            body = json.dumps(message._asdict()).encode()
            self.locks.on_message(worker, messages.KINDS[type(message)], memoryview(body))
        elif message[0] == "ended":
            del self.processes[number]
            if self.manager.busy:
                self.locks.worker_gone(worker.number)
            started = next((task.seq for n, task in worker.queue.items() if n == message[1]), worker.sent)
            within, _ = self.scheduler.ended(worker.number, started if message[1] else 0)  # type: ignore[arg-type]
            if within is not None:
                self.again(within)
        else:
            task_number = message[1]
            if self.manager.busy:
                self.locks.answered(worker.number, task_number)  # type: ignore[arg-type]
            task = self.scheduler.answered(worker.number, task_number, 0.1)  # type: ignore[arg-type]
            if task is not None and message[0] == "done":
                self.settle(task_number)
            elif task is not None:
                self.again(task)
        self.flush()

    def again(self, task: Task) -> None:
        """A failed evaluation runs once more if it has retries left."""
        if self.retries[task.number] > 0:
            self.retries[task.number] -= 1
            self.scheduler.resubmit(task)
        else:
            self.settle(task.number)

    def settle(self, number: int) -> None:
        promise(SETTLED, number in self.tasks, number)
        _, flow = self.tasks.pop(number)
        self.locks.ended(number)  # type: ignore[arg-type]
        flow.awaits.discard(number)

    def flush(self) -> None:
        """As the engine does at the end of each turn."""
        for effect in self.scheduler.schedule():
            number = effect.worker.number
            if isinstance(effect, Fork):
                self.processes[number] = Process(number)
            process = self.processes.get(number)
            if process is None or process.dark or process.cut:
                continue
            if isinstance(effect, Send):
                process.todo.extend(task.number for task in effect.tasks)
                self.next_task(process)
            elif isinstance(effect, Kill):
                process.inbox.append("kill")
        if self.manager.busy:
            self.locks.check_stall()

    def write(self, node: str, parts: list[frames.Bytes]) -> None:
        """The head sends a reply to a worker; one that has ended never reads it."""
        for _, number, body in frames.Reader().feed(b"".join(parts)):
            process = self.processes.get(number)
            if process is not None and not process.dark and not process.cut:
                process.inbox.append(messages.read(LockReply, body))

    # ---- what always holds --------------------------------------------------------------------------------------

    def evaluations(self) -> list[Evaluation]:
        return [process.runs for process in self.processes.values() if process.runs is not None]

    def activities(self) -> list[Activity]:
        return [*self.flows, *self.evaluations()]

    def process_of(self, one: Evaluation) -> Process:
        return next(process for process in self.processes.values() if process.runs is one)

    def is_free(self, one: Activity) -> bool:
        """Whether it can do something itself."""
        return not one.waits and not (isinstance(one, FlowAt) and one.awaits)

    def check(self) -> None:
        taken: list[str] = []
        for request in self.manager.requests.values():
            if request.stage is Stage.HELD:
                promise(EXCLUSIVE, full(taken).isdisjoint(request.keys), request, "has what somebody else has")
                taken += request.keys
                self.check_order(request)
            self.check_owner(request)
        promise(FREED, self.manager.busy == bool(self.manager.requests), "busy:", self.manager.busy)

    def check_order(self, held: LockRequest) -> None:
        """Nobody who came earlier and wants one of its keys was passed, except by a request within another one.

        Of a semaphore, a place for each of them must have been left when it got its own, and nobody takes it since.
        """
        if held.parents:
            return
        for key in held.keys:
            later = [one for one in self.holding(key) if one.number <= held.number and not one.parents]
            earlier = [one for one in self.manager.requests.values() if one.number < held.number and key in one.keys]
            waiting = [one for one in earlier if one.stage is Stage.WAITING]
            passed = bool(waiting) and len(later) + len(waiting) > places(key)
            promise(IN_ORDER, not passed, held, "has passed", waiting)

    def holding(self, key: str) -> list[LockRequest]:
        requests = self.manager.requests.values()
        return [one for one in requests if one.stage is Stage.HELD and key in one.keys]

    def check_owner(self, request: LockRequest) -> None:
        if request.owner == FLOW:
            alive = any(ask.number == request.number for flow in self.flows for ask in flow.stack)
            alive = alive or request.number in self.manager._leaving
        else:
            number, task = request.owner  # type: ignore[misc]
            worker = self.scheduler.workers.get(number)
            leaving = request.number in self.manager._leaving
            alive = leaving or number in self.after_loss or (worker is not None and task in worker.queue)
        promise(FREED, alive, request)

    # ---- and at the end -----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """All messages arrive, and all who can let go and end: then nobody is left, and nothing is held."""
        self.act(self.on_light)
        while True:
            while self.deliver_all():
                pass
            self.check()
            able = [
                one for one in self.activities() if self.is_free(one) and (one.stack or isinstance(one, Evaluation))
            ]
            if not able:
                break
            for one in able:
                self.act(functools.partial(self.let_go, one))
        stuck = [one.name for one in self.activities() if one.stack or not self.is_free(one)]
        promise(NO_DEADLOCK, not stuck and not self.tasks, "these wait for ever:", stuck, list(self.tasks))
        left = {name: value for name, value in self.tables() if value}
        promise(FREED, not left, "left behind:", left)
        waiting = [task for task, _ in self.tasks.values() if task.state is State.WAITING]
        promise(NO_DEADLOCK, not waiting, waiting)

    def let_go(self, one: Activity) -> None:
        if one.stack:
            if self.is_free(one):
                self.release(one)
        elif isinstance(one, Evaluation) and not one.ended:
            self.end(one)

    def deliver_all(self) -> bool:
        """Let all that is under way arrive; return whether there was anything."""
        before = self.delivered
        while self.outside.possible():
            self.act(lambda: self.outside.answer(0))
            self.delivered += 1
        self.act(self.deliver_messages)
        return self.delivered > before

    def deliver_messages(self) -> None:
        while self.deliver():
            self.delivered += 1

    def deliver(self) -> bool:
        for process in list(self.processes.values()):
            if process.inbox:
                self.read(process)
                return True
            if process.out:
                self.hear(process)
                return True
        return False

    def tables(self) -> Iterable[tuple[str, object]]:
        rules, manager = self.manager.rules, self.manager
        for one in (rules, manager, self.locks):
            yield from (
                (f"{type(one).__name__}.{name}", value) for name, value in vars(one).items() if type(value) is dict
            )
