"""Who runs what, where: events in, effects out.

Guarantees, checked after every step of random histories by the tests:
- No task is lost, and none is with two workers at a time.
- First come, first served. A large request that does not fit reserves the most promising node: nothing younger
  starts there until it fits, while other nodes go on. So nothing starves, and nothing waits that could run without
  making an older one wait longer.
- A request that no node can serve is refused at once: when it is submitted, or when a node is lost.
- A crash is charged to the task that the worker was in. Tasks that were only queued there go back uncharged.
- A task that has failed on a node runs on another one next, while there is one that is large enough.
- What was on a lost node is a suspect. Of suspects, a node gets one at a time, so that the next loss has one suspect.
- On a node that is put aside nothing is started; what was prefetched there is retracted.

The engine calls a method for each event, and carries out the effects that `schedule()` returns. Measured times come in
with the events; the engine decides when to `rebalance`.

Tasks are prefetched (prefetch.py) only while no CPU is free. When a CPU becomes free and nothing waits for it, tasks
that were prefetched elsewhere are retracted. So there is no head-of-line blocking: a task never waits for long behind
another one while a CPU idles, even if the estimate was wrong. While more waits, no CPU idles; then what is queued at a
worker that has fallen behind the others comes back, so that nothing younger overtakes it for long.

Rejected: a queue at each node (the launcher is Python too, and would have to handle every task); work stealing between
workers (they would need to know each other, and a crash could not be charged to the right task).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter

from hyperflow.errors import ImpossibleRequest
from hyperflow.scheduling.idle import IdleWorkers
from hyperflow.scheduling.pool import CpuPool
from hyperflow.scheduling.prefetch import PATIENCE, PREFETCH_BYTES, RETRACT_WORTH, Estimates
from hyperflow.scheduling.state import (
    CANCELLED,
    ENDED,
    NOT_SENT,
    SENT,
    WAITING,
    Batch,
    Effect,
    Fork,
    Kill,
    Request,
    Retire,
    Retract,
    Send,
    Task,
    Wish,
    Worker,
)
from hyperflow.wire.numbers import DefinitionNumber, Seq, TaskNumber, WorkerNumber

REBALANCE_PAUSE = 0.005
"""Seconds between looks of the engine at workers that hold tasks while a CPU is free."""

LOOKS_AT_ONCE = 100
"""How many workers a step looks at for tasks that are worth retracting."""

REBALANCE_LOOKS = 5000
"""How many the engine's `rebalance` looks at, every REBALANCE_PAUSE."""

FORK_WORK = 6
"""A start with a new worker takes so many times as long as one with an idle worker."""

ANSWERS_A_LOOK = 4
"""For so many answers, a step looks at one worker that holds prefetched tasks: whether it has fallen behind."""

_number = attrgetter("number")


class Scheduler:
    """The state of all tasks and workers."""

    def __init__(self) -> None:
        self.pool = CpuPool()
        self.workers: dict[WorkerNumber, Worker] = {}
        self.paused = False
        """Whether to start nothing more; what was sent goes on."""
        self.waiting = 0
        """Tasks that are with no worker."""
        self.sent = 0
        """Tasks that are with a worker."""
        self.late = 0
        """Answers for tasks that another worker has by now, or that were cancelled."""
        self.unfinished = False
        """Whether the last `schedule` left something that can be started at once."""
        self._at: dict[str, dict[WorkerNumber, Worker]] = {}  # the workers of each node
        self._queues: dict[Request, deque[Task]] = defaultdict(deque)  # each deque ordered by number
        self._in_batches: Counter[Request] = Counter()  # how many more tasks wait in each queue than it has entries
        self._prefetched = 0  # tasks that are with a worker that has an older one
        self._active = 0  # workers that hold CPUs
        # Workers to look at when prefetching: those that something happened to. To look at all would cost O(workers).
        self._candidates: dict[WorkerNumber, Worker] = {}
        self._freed: list[Worker] = []  # those that have just run out of tasks; they keep their CPUs until `settle`
        self._overfull: deque[Worker] = deque()  # those that have, or had lately, more than one task
        self._idle = IdleWorkers(self.pool)
        self._estimates = Estimates()
        self._next_worker = 1
        self._ending = 0  # workers that are being killed
        self._leaving = 0  # workers that have done the one task that they were for
        self._retired = set[WorkerNumber]()  # idle workers that were told to leave
        self._answers = 0  # that have come so far
        self._looked_at = 0  # of those, how many had come when it last looked who has fallen behind
        self.suspects_wait = False
        """No suspect is started for now: nodes are being lost, and maybe more than those that are known."""
        self._suspects: dict[TaskNumber, str] = {}  # that are with a worker, and its node
        self._suspected: dict[str, int] = {}  # how many are on each node that has one
        self._effects: list[Effect] = []

    # ---- what one may ask ---------------------------------------------------------------------------------------

    @property
    def unbalanced(self) -> bool:
        """Whether a CPU is free while tasks are prefetched: time to `rebalance` soon."""
        return self._prefetched > 0 and self.pool.free > 0

    @property
    def states(self) -> dict[str, int]:
        """How many workers are busy, idle, ending; without a look at each."""
        freed = sum(map(self._is_free, set(self._freed)))  # one may have run out of tasks twice
        idle, ending = self._idle.count + self._leaving + len(self._retired) + freed, self._ending
        return {"busy": len(self.workers) - idle - ending, "idle": idle, "ending": ending}

    def workers_at(self, node: str) -> list[Worker]:
        """Return the workers of a node."""
        return list(self._at.get(node, {}).values())

    def refusal(self, cpus: int) -> ImpossibleRequest | None:
        """Return the error for a request that no node can serve, or None."""
        if cpus <= self.pool.largest:
            return None
        return ImpossibleRequest(
            f"using(cpus={cpus}): the largest node has {self.pool.largest} CPUs; an evaluation runs on one node"
        )

    # ---- events -------------------------------------------------------------------------------------------------

    def add_node(self, name: str, cpus: Sequence[int]) -> None:
        """A node is up."""
        self.pool.add(name, cpus)
        self._idle.add_node(name)
        self._at[name] = {}

    def expect_no_more(self, name: str) -> list[Task]:
        """A node that was expected does not come: return the tasks that have become impossible."""
        self.pool.expect_no_more(name)
        return self._take_impossible()

    def put_aside(self, name: str) -> None:
        """Start nothing more on a node."""
        self.pool.put_aside(name)
        for worker in self.workers_at(name):
            if worker.held > 1 and not worker.retracting and not worker.ending:
                self._retract(worker)

    def take_back(self, name: str) -> None:
        """Use a node that was put aside again."""
        self.pool.take_back(name)

    def withhold(self, name: str) -> list[Task]:
        """Take the exclusive tasks from a node that is about to be lost; the caller resubmits them."""
        held = [
            task
            for worker in self.workers_at(name)
            for task in worker.queue.values()
            if task.exclusive and task.state is SENT
        ]
        for task in held:
            assert task.worker is not None
            self._take_out(task.worker, task)
            task.state = ENDED
            task.was_lost_on(name)
        return held

    def lose_node(self, name: str) -> tuple[list[Task], list[Task]]:
        """A node is gone: return the tasks that went back to waiting, and those that have become impossible."""
        self.pool.remove(name)
        self._idle.remove_node(name)
        back: list[Task] = []
        for worker in self._at.pop(name).values():
            del self.workers[worker.number]
            self._count_out(worker)
            self._release(worker)
            tasks = self._empty(worker)
            # All of them: the worker may have been further than its answers, which are lost with the node, have told.
            for task in tasks:
                task.was_lost_on(name)
            back += tasks
        again = self._put_back(back)
        impossible = self._take_impossible()
        return [task for task in again if task.state is WAITING], impossible

    def _take_impossible(self) -> list[Task]:
        """Take the tasks that wait for a node that is larger than any."""
        impossible: list[Task] = []
        for request in [request for request in self._queues if _cpus(request) > self.pool.largest]:
            impossible += [task for task in self._queues.pop(request) if task.state is WAITING]
            del self._in_batches[request]
        impossible.sort(key=lambda task: task.number)
        for task in impossible:
            self.waiting -= task.count
            task.state = ENDED
        return impossible

    def submit(self, task: Task) -> None:
        """A task is to be run; raises ImpossibleRequest if no node is large enough."""
        if task.cpus > self.pool.largest and (refusal := self.refusal(task.cpus)) is not None:
            raise refusal
        self._queues[task.cpus if task.past is None else task.request].append(task)
        self.waiting += 1

    def submit_batch(self, batch: Batch) -> None:
        """The same for many; there is a node that is large enough."""
        self._queues[batch.cpus].append(batch)
        self._in_batches[batch.cpus] += batch.count - 1
        self.waiting += batch.count

    def resubmit(self, task: Task) -> None:
        """A task is to be run, before what was submitted after it: one that was answered, say, and failed."""
        self._put_back([task])

    def start_copy(self, copy: Task, of: Task) -> bool:
        """Start a copy of a task at once, on another node if possible; False if no CPU is idle."""
        if self.waiting or self._prefetched or self.paused or of.worker is None:
            return False
        self.settle()
        node = self.pool.roomiest(copy.cpus, without=(of.worker.node,)) or self.pool.roomiest(copy.cpus)
        if node is None:
            return False
        self._start(copy, node)
        return True

    def answered(self, number: WorkerNumber, task_number: TaskNumber, seconds: float) -> Task | None:
        """A worker sent a task's outcome; None if it comes late and must be dropped."""
        worker = self.workers.get(number)
        task = worker.queue.pop(task_number, None) if worker is not None else None
        if worker is None or task is None:
            self.late += 1
            return None
        self._answers = worker.heard = self._answers + 1
        worker.slow = False
        if task.state is CANCELLED:
            self._leave(worker, task)
            return None
        self._estimates.learn(task.function, seconds)
        self._leave(worker, task)
        task.state = ENDED
        return task

    def answered_first(self, batch: Batch, count: int, seconds: float) -> None:
        """The worker of a batch has answered its first ones, which took so long all together."""
        worker = batch.worker
        assert worker is not None
        if count == batch.count:
            del worker.queue[next(iter(worker.queue))]
        self._answers = worker.heard = self._answers + count
        worker.slow = False
        if batch.state is SENT:
            self._estimates.learn(batch.function, seconds / count, count)
        self._leave(worker, batch, count)
        batch.drop(count)
        if not batch.count:
            batch.state = ENDED

    def single_out(self, batch: Batch, number: TaskNumber) -> Task:
        """Make one of a batch that is with a worker a task of its own."""
        task = batch.one(number)
        parts: list[Task] = [batch.cut(number - batch.number)] if number > batch.number else []
        parts.append(task)
        batch.drop(1)
        if batch.count:
            parts.append(batch)
        _replace(batch, parts)
        return task

    def single_out_all(self, nodes: Collection[str] | None = None) -> list[tuple[Batch, list[Task]]]:
        """Make each of all batches a task of its own, or of those that are with workers of these nodes."""
        found: list[tuple[Batch, list[Task]]] = []

        def apart(entries: Iterable[Task]) -> list[Task]:
            singles: list[Task] = []
            for entry in entries:
                if type(entry) is Batch:
                    found.append((entry, [entry.one(number) for number in entry.numbers]))
                    singles += found[-1][1]
                else:
                    singles.append(entry)
            return singles

        for worker in self.workers.values():
            if nodes is None or worker.node in nodes:
                _fill(worker, apart(worker.queue.values()))
        if nodes is None:
            for request, waiting in self._queues.items():
                self._queues[request] = deque(apart(waiting))
            self._in_batches.clear()
        return found

    def forget(self, functions: Iterable[DefinitionNumber]) -> None:
        """These functions will not be used again."""
        self._estimates.forget(functions)

    def skipped(self, number: WorkerNumber, task_number: TaskNumber, seq: Seq) -> list[Task]:
        """A worker did not run a task because of a retraction; return it if it waits again."""
        worker = self.workers.get(number)
        if worker is None:
            return []
        # Mostly the retraction's own answer came first. It may even have the task again, under another seq.
        task = next((one for one in worker.queue.values() if one.number == task_number and one.seq == seq), None)
        if task is None:
            return []
        if type(task) is Batch and task.count > 1:
            rest, task = task, task.cut(1)
            _replace(rest, [task, rest])
        self._take_out(worker, task)
        return self._put_back([task])

    def retracted(self, number: WorkerNumber, boundary: Seq, below: Seq) -> list[Task]:
        """A launcher retracted the tasks with boundary <= seq < below from a worker; return those that wait again."""
        worker = self.workers.get(number)
        if worker is None:
            return []
        worker.retracting = False
        back = [task for task in worker.queue.values() if boundary < task.seq + task.count and task.seq < below]
        if back and back[0].seq < boundary:  # a batch that the worker is in
            rest = back[0]
            assert type(rest) is Batch
            _replace(rest, [rest.cut(boundary - rest.seq), rest])
        for task in back:
            self._take_out(worker, task)
        # The worker is running the task that it started last, even if earlier answers have not arrived.
        newest = next(reversed(worker.queue.values()), None)
        if newest is not None and newest.state is CANCELLED:
            self.kill(worker)
        return self._put_back(back)

    def was_lost(self, task: Task, node: str) -> None:
        """A node was lost on which another task ran that did the same as this one."""
        task.was_lost_on(node)
        if task.worker is not None and task.number in task.worker.queue:
            self._suspect(task, task.worker.node)

    def cancel(self, task: Task) -> None:
        """No flow wants the task any more: kill the worker if it may be in it."""
        worker = task.worker
        if task.state is WAITING:
            self.waiting -= 1
        elif task.state is SENT and worker is not None:
            self.sent -= 1
            # The oldest unanswered task of a worker is the one that it is in. A younger one comes back by the
            # retraction (or with the worker's end, if it has been started by then) and is dropped then.
            if next(iter(worker.queue.values())) is task:
                self.kill(worker)
            elif not worker.retracting and not worker.ending:
                self._retract(worker)
        else:
            return
        task.state = CANCELLED

    def withdraw(self, owner: object) -> list[Batch]:
        """No flow wants the batches of a map any more: cancel and return them. One look at all that there is."""
        found: list[Batch] = []
        for request, waiting in self._queues.items():
            mine = [task for task in waiting if type(task) is Batch and task.owner is owner]
            if mine:
                self._queues[request] = deque(t for t in waiting if type(t) is not Batch or t.owner is not owner)
                self._in_batches[request] -= sum(batch.count - 1 for batch in mine)
                self.waiting -= sum(batch.count for batch in mine)
                found += mine
        for worker in self.workers.values():
            for place, task in enumerate(worker.queue.values()):
                if type(task) is Batch and task.owner is owner and task.state is SENT:
                    self.sent -= task.count
                    if not place:
                        self.kill(worker)
                    elif not worker.retracting and not worker.ending:
                        self._retract(worker)
                    found.append(task)
        for batch in found:
            batch.state = CANCELLED
        return sorted(found, key=lambda batch: batch.number)

    def kill(self, worker: Worker) -> None:
        """End a worker; its CPUs come back when `ended` is called."""
        self.settle()
        if not worker.ending:
            worker.ending = True
            self._leaving -= worker.fresh and not worker.queue
            self._ending += 1
            self._retired.discard(worker.number)
            self._idle.remove(worker)
            self._effects.append(Kill(worker))

    def ended(self, number: WorkerNumber, started: Seq) -> tuple[Task | None, list[Task]]:
        """A worker and its process group have gone; `started` is the last task that it started.

        Returns: the task that it was in, if that has no answer (the caller resubmits or ends it), and the tasks that
        wait again.
        """
        worker = self.workers.pop(number, None)
        if worker is None:
            return None, []
        del self._at[worker.node][number]
        self._count_out(worker)
        self._idle.remove(worker)
        self._idle.give_back_slot(worker)
        self._release(worker)
        within = next((t for t in worker.queue.values() if t.seq == started and t.state is SENT), None)
        back = [task for task in self._empty(worker) if task is not within]
        if within is not None:
            within.state = ENDED
        return within, self._put_back(back)

    # ---- decisions ----------------------------------------------------------------------------------------------

    def schedule(self, work: float = math.inf) -> list[Effect]:
        """Place what can be placed, prefetch, and return all effects since the last call.

        A start counts one, or FORK_WORK with a new worker; after so much `work`, `unfinished` tells that more is left.
        """
        self.unfinished = False
        if self._freed:
            if self.waiting and not self.paused:
                self._hand_over()
            self.settle()
        if self.waiting and not self.paused:
            self.unfinished = not self._place(work)
            if self.waiting and not self.unfinished:
                self._prefetch()
                if self.waiting and self.pool.free:
                    self.unfinished = not self._place(work)  # the reservation's holder may have been prefetched
        if not self.unfinished:
            self._candidates.clear()
        if self._prefetched:
            if not self.waiting:
                if self.pool.free:
                    self.rebalance(RETRACT_WORTH, looks=LOOKS_AT_ONCE)
            elif self._answers - self._looked_at >= ANSWERS_A_LOOK:
                self._take_from_slow((self._answers - self._looked_at) // ANSWERS_A_LOOK)
                self._looked_at = self._answers
        effects, self._effects = self._effects, []
        return effects

    def settle(self) -> None:
        """Take back the CPUs of workers that have run out of tasks."""
        for worker in self._freed:
            if self._is_free(worker):
                self._release(worker)
                self._idle.put(worker)
        self._freed.clear()

    def _is_free(self, worker: Worker) -> bool:
        """Whether a worker that had run out of tasks still has none, and still has its CPUs."""
        return worker.leased and not worker.queue and not worker.ending and worker.number in self.workers

    def _hand_over(self) -> None:
        """Give the workers that have run out of tasks the next ones, where nothing is to be chosen.

        What fits is of one size, so whoever has that size takes the oldest. To take its CPUs back and look for the best
        node would cost each round trip, and each of a thousand answers at a time, four times as much.
        """
        requests = [request for request in self._queues if self._oldest(request) is not None]
        if len(requests) != 1 or type(requests[0]) is Wish:
            return
        (cpus,) = requests
        for worker in self._freed:
            if len(worker.cpus) == cpus and self._is_free(worker) and worker.node not in self.pool.aside:
                oldest = self._oldest(cpus)
                if oldest is None or oldest.fresh:
                    return
                self._give(worker, [self._pop(cpus, self._estimates.grain(oldest))])

    def _take_from_slow(self, looks: int) -> None:
        """Retract what is queued at workers that have fallen behind: younger ones would start before it, elsewhere."""
        behind = PATIENCE * self._active
        for _ in range(min(looks, len(self._overfull))):
            worker = self._overfull.popleft()
            if worker.held < 2:
                worker.overfull = False
                continue
            self._overfull.append(worker)
            is_behind = self._answers - worker.heard > behind * worker.held
            if is_behind and not worker.ending and not worker.retracting:
                worker.slow = True
                self._retract(worker)

    def rebalance(self, worth: float = 0.0, looks: int | None = None) -> None:
        """Retract as many prefetched tasks as the free CPUs can take.

        Only from workers with at least `worth` seconds of prefetched work, after at most so many `looks` at workers.
        """
        room: dict[int, bool] = {}
        free = self.pool.free
        looked_at: list[Worker] = []
        for _ in range(len(self._overfull) if looks is None else min(looks, len(self._overfull))):
            worker = self._overfull.popleft()
            cpus = len(worker.cpus)
            prefetched = worker.held - 1
            if prefetched < 1:
                worker.overfull = False
                continue
            looked_at.append(worker)
            if worker.ending:
                continue
            if not worker.retracting:
                if cpus not in room:
                    room[cpus] = self.pool.roomiest(cpus) is not None
                if not room[cpus] or not self._estimates.is_worth_retracting(worker, worth):
                    continue
                self._retract(worker)
            free -= prefetched * cpus
            if free <= 0:
                break
        if looks is not None and free > 0:
            self._overfull.extend(looked_at)  # the next look is at others
        else:
            self._overfull.extendleft(reversed(looked_at))

    def _place(self, work: float) -> bool:
        """Start what fits, oldest first; the oldest that does not fit reserves a node. False: there were too many."""
        reserved: tuple[str, ...] = ()
        blocked: set[Request] = set()
        sizes: list[Request] = []
        while True:
            if len(sizes) != 1 or self._oldest(sizes[0]) is None:  # else it is the only one still
                sizes = [size for size in list(self._queues) if size not in blocked and self._oldest(size) is not None]
            if not sizes:
                return True
            first = min(sizes, key=lambda size: self._queues[size][0].number) if len(sizes) > 1 else sizes[0]
            if type(first) is Wish:
                if first.suspect and self.suspects_wait:
                    blocked.add(first)
                    sizes = []
                    continue
                cpus, without = first.cpus, (*reserved, *self._closed_to(first))
            else:
                cpus, without = first, reserved
            node = self.pool.roomiest(cpus, without)
            if node is not None:
                if work <= 0:
                    return False
                count = self._estimates.grain(self._queues[first][0])
                work -= FORK_WORK if self._start(self._pop(first, count), node) else 1
                if type(first) is Wish and not self._queues[first]:
                    del self._queues[first]  # else there would be more and more
                    sizes = []
                continue
            blocked.add(first)
            sizes = []
            if not reserved and (promising := self.pool.most_promising(cpus, without)) is not None:
                reserved = (promising,)

    def _closed_to(self, wish: Wish) -> set[str]:
        """Return the nodes that a task with a past must not have now."""
        closed = set(wish.avoided)
        if closed and closed.issuperset(self.pool.in_use(wish.cpus)):
            closed.clear()  # no other node is there
        if wish.suspect:
            closed.update(self._suspected)
        return closed

    def _oldest(self, request: Request) -> Task | None:
        tasks = self._queues[request]
        while tasks and tasks[0].state is not WAITING:  # cancelled while it waited; no batch, see withdraw
            tasks.popleft()
        return tasks[0] if tasks else None

    def _pop(self, request: Request, most: int = 1) -> Task:
        """Take out the oldest, of a batch so many."""
        waiting = self._queues[request]
        task = waiting[0]
        if task.count == 1:
            waiting.popleft()
        else:
            assert type(task) is Batch
            if task.count > most:
                task = task.cut(most)
                self._in_batches[request] -= most
            else:
                waiting.popleft()
                self._in_batches[request] -= task.count - 1
        self.waiting -= task.count
        return task

    def _start(self, task: Task, node: str) -> bool:
        """Start a task on a node; return whether that takes a new worker."""
        idle = None if task.fresh else self._idle.take(node, task.cpus)
        worker = self._fork(node, task.cpus, task.fresh) if idle is None else idle
        self.pool.take(node, worker.cpus)
        worker.leased = True
        self._active += 1
        self._give(worker, [task])
        return idle is None

    def _fork(self, node: str, cpus: int, fresh: bool) -> Worker:
        surplus = self._idle.surplus(node)
        if surplus is not None:
            self._effects.append(Retire(surplus))
            self._retired.add(surplus.number)
        slot, ids = self._idle.take_slot(node), self.pool.lowest_free(node, cpus)
        worker = Worker(WorkerNumber(self._next_worker), node, slot, ids, fresh)
        self._next_worker += 1
        self.workers[worker.number] = self._at[node][worker.number] = worker
        self._effects.append(Fork(worker))
        return worker

    def _give(self, worker: Worker, tasks: list[Task]) -> None:
        before = worker.sent
        if not worker.held:
            worker.heard = self._answers
        for task in tasks:
            task.seq = worker.sent + 1  # type: ignore[assignment]  # Seq() would cost each task a call
            worker.sent += task.count  # type: ignore[assignment]
            task.worker = worker
            task.state = SENT
            worker.queue[task.number] = task
            worker.load += task.size * task.count
            if type(task) is Batch:
                worker.has_batches = True
            if task.past is not None and task.past.lost:
                self._suspect(task, worker.node)
        count = worker.sent - before
        self._prefetched += count if worker.held else count - 1
        worker.held += count
        if worker.held > 1 and not worker.overfull:
            worker.overfull = True
            self._overfull.append(worker)
        self.sent += count
        self._candidates[worker.number] = worker
        self._effects.append(Send(worker, tasks))

    def _prefetch(self) -> None:
        """Send busy workers more of the size they have, as long as nothing older of another size waits.

        So nothing is sent past the request that has reserved a node: it is older than all that waits of other sizes.
        """
        for cpus in list(self._queues):
            if type(cpus) is Wish:  # what has a past chooses its node when it starts
                continue
            others = [t.number for size in self._queues if size != cpus and (t := self._oldest(size)) is not None]
            bound = min(others, default=None)
            oldest = self._oldest(cpus)
            if oldest is None or oldest.alone:
                continue
            left = len(self._queues[cpus]) + self._in_batches[cpus]
            ahead = self._estimates.is_ahead(oldest.function, self._active, left)
            rooms = [
                (worker, room)
                for worker in self._candidates.values()
                if worker.node not in self.pool.aside
                if worker.queue and len(worker.cpus) == cpus
                if (room := self._estimates.room(worker, oldest, ahead)) > 0
            ]
            if not rooms:
                continue
            share = -(-left // self._active)  # all that are at work will want more soon
            for worker, room in rooms:
                tasks = self._take_prefetch(cpus, min(share, room), bound, oldest.function)
                if not tasks:
                    break
                self._give(worker, tasks)

    def _take_prefetch(self, cpus: int, count: int, bound: TaskNumber | None, function: DefinitionNumber) -> list[Task]:
        taken: list[Task] = []
        size = 0
        while count > 0 and size < PREFETCH_BYTES:
            oldest = self._oldest(cpus)
            if oldest is None or oldest.alone or oldest.function != function:
                break
            if bound is not None and oldest.number > bound:
                break
            most = count if oldest.count == 1 else min(count, 1 + (PREFETCH_BYTES - size) // max(oldest.size, 1))
            task = self._pop(cpus, most)
            taken.append(task)
            count -= task.count
            size += task.size * task.count
        return taken

    def _retract(self, worker: Worker) -> None:
        worker.retracting = True
        self._effects.append(Retract(worker, Seq(worker.sent + 1)))

    # ---- book-keeping -------------------------------------------------------------------------------------------

    def _take_out(self, worker: Worker, task: Task) -> None:
        """Take a task, or a whole batch, out of a worker's queue."""
        number = task.number
        if worker.queue.get(number) is not task:  # a batch that has another number by now
            number = next(at for at, one in worker.queue.items() if one is task)
        del worker.queue[number]
        self._leave(worker, task, task.count)

    def _leave(self, worker: Worker, task: Task, count: int = 1) -> None:
        """A task, or so many of a batch, have left a worker's queue."""
        worker.held -= count
        worker.load -= task.size * count
        if task.state is SENT:  # a cancelled one was counted out before
            self.sent -= count
        if self._suspects:
            self._acquit(task)
        if worker.queue:
            self._prefetched -= count
            self._candidates[worker.number] = worker
            return
        self._prefetched -= count - 1
        if worker.ending:
            return
        if worker.fresh:
            self._leaving += 1
        else:
            self._freed.append(worker)

    def _count_out(self, worker: Worker) -> None:
        """A worker has gone."""
        self._retired.discard(worker.number)
        if worker.ending:
            self._ending -= 1
        elif worker.fresh and not worker.queue:
            self._leaving -= 1

    def _release(self, worker: Worker) -> None:
        if worker.leased:
            worker.leased = False
            self._active -= 1
            self.pool.give_back(worker.node, worker.cpus)

    def _empty(self, worker: Worker) -> list[Task]:
        """Take all tasks from a worker that has ended."""
        tasks = list(worker.queue.values())
        worker.queue.clear()
        if tasks:
            self._prefetched -= worker.held - 1
        worker.held = 0
        self.sent -= sum(task.count for task in tasks if task.state is SENT)
        if self._suspects:
            for task in tasks:
                self._acquit(task)
        return tasks

    def _suspect(self, task: Task, node: str) -> None:
        """A node has got a suspect."""
        if task.number not in self._suspects:
            self._suspects[task.number] = node
            self._suspected[node] = self._suspected.get(node, 0) + 1

    def _acquit(self, task: Task) -> None:
        """A task has left its worker; it may have been a suspect."""
        node = self._suspects.pop(task.number, None)
        if node is not None:
            self._suspected[node] -= 1
            if not self._suspected[node]:
                del self._suspected[node]

    def _put_back(self, tasks: list[Task]) -> list[Task]:
        """Let tasks wait again, in the order of their numbers; return them without those that were cancelled."""
        again = [task for task in tasks if task.state is not CANCELLED]
        sizes = defaultdict[Request, list[Task]](list)
        for task in again:
            task.state = WAITING
            task.worker = None
            task.seq = NOT_SENT
            self.waiting += task.count
            sizes[task.cpus if task.past is None else task.request].append(task)
            if task.count > 1:
                self._in_batches[task.cpus] += task.count - 1
        for request, back in sizes.items():
            waiting = self._queues[request]
            # What comes back is mostly older than all that waits, so only a few in front are looked at.
            newest = max(task.number for task in back)
            while waiting and waiting[0].number < newest:
                back.append(waiting.popleft())
            back.sort(key=_number)
            if waiting:
                back.append(waiting.popleft())  # it may go on where what comes back ends
            joined = _joined(back)
            waiting.extendleft(reversed(joined))
            if len(joined) < len(back):
                self._in_batches[request] += len(back) - len(joined)
        return again


def _cpus(request: Request) -> int:
    return request.cpus if type(request) is Wish else request


def _joined(tasks: Iterable[Task]) -> list[Task]:
    """Return tasks that wait with batches put together: else what comes back again and again would be ever smaller."""
    joined: list[Task] = []
    for task in tasks:
        last = joined[-1] if joined else None
        both = last.with_next(task) if type(last) is Batch else None
        if both is not None:
            joined[-1] = both
        else:
            joined.append(task)
    return joined


def _replace(batch: Batch, parts: Sequence[Task]) -> None:
    """Put parts of a batch in its place in its worker's queue."""
    assert batch.worker is not None
    entries = [part for entry in batch.worker.queue.values() for part in (parts if entry is batch else (entry,))]
    _fill(batch.worker, entries)


def _fill(worker: Worker, entries: Iterable[Task]) -> None:
    """Fill a worker's queue anew; its evaluations are the same."""
    queue = {entry.number: entry for entry in entries}
    worker.queue.clear()
    worker.queue.update(queue)
