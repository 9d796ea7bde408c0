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
with the events; the engine decides when to `rebalance`. What waits is in waiting.py. What is alike (a Batch) goes to
teams (teams.py), which have their queues at their launchers; what is here about single tasks is not about those.

Tasks are prefetched (prefetch.py) only while no CPU is free. When a CPU becomes free and nothing waits for it, tasks
that were prefetched elsewhere are retracted. So there is no head-of-line blocking: a task never waits for long behind
another one while a CPU idles, even if the estimate was wrong. While more waits, no CPU idles; then what is queued at a
worker that has fallen behind the others comes back, so that nothing younger overtakes it for long.

Rejected: a queue at each node for all tasks (what differs has to be looked at one by one, and the launcher is Python,
too; who is oldest, and what is to avoid which node, only the head knows); work stealing between workers (they would
need to know each other, and a crash could not be charged to the right task).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence

from hyperflow.errors import ImpossibleRequest
from hyperflow.scheduling.idle import IdleWorkers
from hyperflow.scheduling.overfull import Overfull
from hyperflow.scheduling.pool import CpuPool
from hyperflow.scheduling.prefetch import PREFETCH_BYTES, RETRACT_WORTH, Estimates
from hyperflow.scheduling.state import (
    CANCELLED,
    ENDED,
    SENT,
    WAITING,
    Batch,
    Effect,
    Fork,
    Kill,
    Request,
    Retire,
    Send,
    Task,
    Wish,
    Worker,
)
from hyperflow.scheduling.suspects import Suspects
from hyperflow.scheduling.teams import Teams
from hyperflow.scheduling.waiting import Waiting
from hyperflow.wire.numbers import NO_TASK, DefinitionNumber, Seq, TaskNumber, WorkerNumber

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


class Scheduler:
    """The state of all tasks and workers."""

    def __init__(self) -> None:
        self.pool = CpuPool()
        self.workers: dict[WorkerNumber, Worker] = {}
        self.paused = False
        """Whether to start nothing more; what was sent goes on."""
        self.late = 0
        """Answers for tasks that another worker has by now, or that were cancelled."""
        self.unfinished = False
        """Whether the last `schedule` left something that can be started at once."""
        self._at: dict[str, dict[WorkerNumber, Worker]] = {}  # the workers of each node
        self._waiting = Waiting()
        self._sent = 0  # tasks that are with a worker by itself
        self._prefetched = 0  # tasks that are with a worker that has an older one
        self._active = 0  # workers that hold CPUs
        # Workers to look at when prefetching: those that something happened to. To look at all would cost O(workers).
        self._candidates: dict[WorkerNumber, Worker] = {}
        self._freed: list[Worker] = []  # those that have just run out of tasks; they keep their CPUs until `settle`
        self._idle = IdleWorkers(self.pool)
        self._estimates = Estimates()
        self._effects: list[Effect] = []
        self._numbers = map(WorkerNumber, itertools.count(1))
        self._overfull = Overfull(self.pool, self._estimates, self._effects)
        self.teams = Teams(self._waiting, self._estimates, self._effects, self._numbers)
        """Those that have batches."""
        self._ending = 0  # workers that are being killed
        self._leaving = 0  # workers that have done the one task that they were for
        self._retired = set[WorkerNumber]()  # idle workers that were told to leave
        self._looked_at = 0  # of all answers, how many had come when it last looked who has fallen behind
        self.suspects_wait = False
        """No suspect is started for now: nodes are being lost, and maybe more than those that are known."""
        self._suspects = Suspects()

    # ---- what one may ask ---------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Tasks that are with no worker."""
        return self._waiting.count

    @property
    def sent(self) -> int:
        """Tasks that are with a worker, or a team."""
        return self._sent + self.teams.held

    @property
    def unbalanced(self) -> bool:
        """Whether a CPU is free while tasks are prefetched: time to `rebalance` soon.

        Not while the next turns start on the free CPUs what waits.
        """
        return (self._prefetched > 0 or self.teams.queued > 0) and self.pool.free > 0 and not self.unfinished

    @property
    def states(self) -> dict[str, int]:
        """How many workers are busy, idle, ending; without a look at each."""
        freed = sum(map(self._is_free, set(self._freed)))  # one may have run out of tasks twice
        idle, ending = self._idle.count + self._leaving + len(self._retired) + freed, self._ending
        return {"busy": len(self.workers) - idle - ending, "idle": idle, "ending": ending}

    def workers_at(self, node: str) -> list[Worker]:
        """Return the workers of a node."""
        return list(self._at.get(node, {}).values())

    def tasks_at(self, node: str) -> dict[TaskNumber, tuple[Worker | None, bool]]:
        """Return each task that is on a node, the worker that has it, if that is known, and whether it is started."""
        found: dict[TaskNumber, tuple[Worker | None, bool]] = {}
        for worker in self.workers_at(node):
            found |= {number: (worker, not place) for place, number in enumerate(worker.queue)}
        for team in self.teams.at(node):
            found |= {number: (None, place < len(team.members)) for place, number in enumerate(team.held)}
        return found

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
                self._overfull.retract(worker)
        self.teams.close(self.teams.at(name))

    def pause(self) -> None:
        """Start nothing more on any node; what workers have goes on."""
        self.paused = True
        self.teams.close(self.teams.all.values())

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
        for task in self.teams.lost(name):
            task.was_lost_on(name)
            back.append(task)
        again = self._waiting.put_back(back)
        impossible = self._take_impossible()
        return [task for task in again if task.state is WAITING], impossible

    def _take_impossible(self) -> list[Task]:
        """Take the tasks that wait for a node that is larger than any."""
        return self._waiting.take_larger(self.pool.largest)

    def submit(self, task: Task) -> None:
        """A task is to be run; raises ImpossibleRequest if no node is large enough."""
        if task.cpus > self.pool.largest and (refusal := self.refusal(task.cpus)) is not None:
            raise refusal
        self._waiting.add(task)

    def submit_batch(self, batch: Batch) -> None:
        """The same for many; there is a node that is large enough."""
        self._waiting.add_batch(batch)

    def resubmit(self, task: Task) -> None:
        """A task is to be run, before what was submitted after it: one that was answered, say, and failed."""
        self._waiting.put_back([task])

    def start_copy(self, copy: Task, of: Task) -> bool:
        """Start a copy of a task at once, on another node if possible; False if no CPU is idle."""
        if self._waiting.count or self._prefetched or self.teams.queued or self.paused or of.worker is None:
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
            if worker is not None and worker.team is not None:
                task = self.teams.take(worker.team, task_number)
                if task is not None:
                    self.teams.answered(worker.team, 1, seconds)
                    task.state = ENDED
                    return task
            self.late += 1
            return None
        self.teams.answers = worker.heard = self.teams.answers + 1
        worker.slow = False
        if task.state is CANCELLED:
            self._leave(worker, task)
            return None
        self._estimates.learn(task.function, seconds)
        self._leave(worker, task)
        task.state = ENDED
        return task

    def left(self, number: WorkerNumber, workers: Iterable[WorkerNumber]) -> None:
        """These workers serve a team no more, as there is nothing to do."""
        team = self.teams.all.get(number)
        if team is not None:
            self._freed += self.teams.left(team, workers)

    def recalled(self, number: WorkerNumber, ranges: Iterable[tuple[TaskNumber, int]]) -> list[Task]:
        """A team will not run these; return those that wait again."""
        team = self.teams.all.get(number)
        return self._waiting.put_back(self.teams.recalled(team, ranges)) if team is not None else []

    def single_out_all(self, nodes: Collection[str] | None = None) -> list[tuple[Batch, list[Task]]]:
        """Make each of all batches a task of its own, or of those that are with teams of these nodes."""
        waiting = self._waiting.single_out_all() if nodes is None else []
        return waiting + self.teams.single_out_all(nodes)

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
        self._take_out(worker, task)
        return self._waiting.put_back([task])

    def retracted(self, number: WorkerNumber, boundary: Seq, below: Seq) -> list[Task]:
        """A launcher retracted the tasks with boundary <= seq < below from a worker; return those that wait again."""
        worker = self.workers.get(number)
        if worker is None:
            return []
        worker.retracting = False
        back = [task for task in worker.queue.values() if boundary <= task.seq < below]
        for task in back:
            self._take_out(worker, task)
        # The worker is running the task that it started last, even if earlier answers have not arrived.
        newest = next(reversed(worker.queue.values()), None)
        if newest is not None and newest.state is CANCELLED:
            self.kill(worker)
        return self._waiting.put_back(back)

    def was_lost(self, task: Task, node: str) -> None:
        """A node was lost on which another task ran that did the same as this one."""
        task.was_lost_on(node)
        if task.worker is not None and task.number in task.worker.queue:
            self._suspects.add(task, task.worker.node)

    def cancel(self, task: Task) -> None:
        """No flow wants the task any more: kill the worker if it may be in it."""
        worker = task.worker
        if task.state is WAITING:
            self._waiting.count -= 1
        elif task.state is SENT and task.team is not None:
            self.teams.cancel(task)
        elif task.state is SENT and worker is not None:
            self._sent -= 1
            # The oldest unanswered task of a worker is the one that it is in. A younger one comes back by the
            # retraction (or with the worker's end, if it has been started by then) and is dropped then.
            if next(iter(worker.queue.values())) is task:
                self.kill(worker)
            elif not worker.retracting and not worker.ending:
                self._overfull.retract(worker)
        else:
            return
        task.state = CANCELLED

    def withdraw(self, owner: object) -> list[Batch]:
        """No flow wants the batches of a map any more: cancel and return them. One look at all that there is."""
        found = self._waiting.withdraw(owner) + self.teams.withdraw(owner)
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

    def ended(self, number: WorkerNumber, started: Seq, task: TaskNumber = NO_TASK) -> tuple[Task | None, list[Task]]:
        """A worker and its process group have gone; `started` is the last task that it started.

        Of one that serves a team, `task` is the one that it was in.

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
        if worker.team is not None:
            within = self.teams.ended(worker, task)
        else:
            within = next((t for t in worker.queue.values() if t.seq == started and t.state is SENT), None)
        back = [task for task in self._empty(worker) if task is not within]
        if within is not None:
            within.state = ENDED
        return within, self._waiting.put_back(back)

    # ---- decisions ----------------------------------------------------------------------------------------------

    def schedule(self, work: float = math.inf) -> list[Effect]:
        """Place what can be placed, prefetch, and return all effects since the last call.

        A start counts one, or FORK_WORK with a new worker; after so much `work`, `unfinished` tells that more is left.
        """
        self.unfinished = False
        if self._freed:
            if self._waiting.count and not self.paused:
                self._hand_over()
            self.settle()
        if self._waiting.count and not self.paused:
            self.unfinished = not self._place(work)
            if self._waiting.count:
                self._prefetch()
                if self._waiting.count and self.pool.free and not self.unfinished:
                    self.unfinished = not self._place(work)  # the reservation's holder may have been prefetched
        self.teams.looked_at()
        if not self.unfinished:
            self._candidates.clear()
        if self._prefetched or self.teams.queued:
            answers = self.teams.answers
            if not self._waiting.count:
                if self.pool.free:
                    self.rebalance(RETRACT_WORTH, looks=LOOKS_AT_ONCE)
            elif answers - self._looked_at >= ANSWERS_A_LOOK:
                self._take_from_slow((answers - self._looked_at) // ANSWERS_A_LOOK)
                self._looked_at = answers
        effects = self._effects.copy()
        self._effects.clear()
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
        return worker.leased and not worker.is_busy and not worker.ending and worker.number in self.workers

    def _hand_over(self) -> None:
        """Give the workers that have run out of tasks the next ones, where nothing is to be chosen.

        What fits is of one size, so whoever has that size takes the oldest. To take its CPUs back and look for the best
        node would cost each round trip, and each of a thousand answers at a time, four times as much.
        """
        requests = self._waiting.requests()
        if len(requests) != 1 or type(requests[0]) is Wish:
            return
        (cpus,) = requests
        together: dict[str, dict[WorkerNumber, Worker]] = {}
        for worker in self._freed:
            if len(worker.cpus) == cpus and self._is_free(worker) and worker.node not in self.pool.aside:
                oldest = self._waiting.oldest(cpus)
                if oldest is None or oldest.fresh:
                    return
                if type(oldest) is Batch:
                    together.setdefault(worker.node, {})[worker.number] = worker
                else:
                    self._give(worker, [self._waiting.pop(cpus)])
        for workers in together.values():
            batch = self._waiting.oldest(cpus)
            if type(batch) is Batch:
                self._serve(batch, [*workers.values()][: self._worth(batch)])

    def _take_from_slow(self, looks: int) -> None:
        """Take back what is queued where workers have fallen behind: younger ones would start before it, elsewhere."""
        self._overfull.take_from_slow(looks, self._active, self.teams.answers)
        self.teams.take_from_slow(looks, self._active)

    def rebalance(self, worth: float = 0.0, looks: int | None = None) -> None:
        """Take back as many queued tasks as the free CPUs can take.

        Only where there are at least `worth` seconds of work queued for a worker, after at most so many `looks`.
        """
        self._overfull.rebalance(self.teams.rebalance(self.pool, worth, looks), worth, looks)

    def _place(self, work: float) -> bool:
        """Start what fits, oldest first; the oldest that does not fit reserves a node. False: there were too many."""
        reserved: tuple[str, ...] = ()
        blocked: set[Request] = set()
        sizes: list[Request] = []
        while True:
            if len(sizes) != 1 or self._waiting.oldest(sizes[0]) is None:  # else it is the only one still
                sizes = [size for size in self._waiting.requests() if size not in blocked]
            if not sizes:
                return True
            queues = self._waiting.queues
            first = min(sizes, key=lambda size: queues[size][0].number) if len(sizes) > 1 else sizes[0]
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
                work -= self._start_oldest(first, node)
                if type(first) is Wish and not queues[first]:
                    del queues[first]  # else there would be more and more
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
            closed.update(self._suspects.on)
        return closed

    def _start_oldest(self, request: Request, node: str) -> int:
        """Start the oldest on a node, or as many of a batch as there is room for; return how much work that was."""
        task = self._waiting.queues[request][0]
        if type(task) is not Batch:
            return FORK_WORK if self._start(self._waiting.pop(request), node) else 1
        cpus, forked = task.cpus, 0
        places, all_places = len(self.pool.nodes[node].free) // cpus, self.pool.free // cpus
        wanted = self._worth(task)
        count = places if wanted >= all_places else -(-wanted * places // all_places)  # all nodes get their share
        workers: list[Worker] = []
        for _ in range(count):
            idle = self._idle.take(node, cpus)
            forked += idle is None
            workers.append(self._lease(idle or self._fork(node, cpus, fresh=False)))
        self._serve(task, workers)
        return count + (FORK_WORK - 1) * forked

    def _worth(self, batch: Batch) -> int:
        """Return how many idle workers a batch is worth."""
        return -(-batch.count // self._estimates.grain(batch))

    def _serve(self, batch: Batch, workers: list[Worker]) -> None:
        """Let workers of one node, which have their CPUs and nothing to do, serve a batch, which is the oldest."""
        self.teams.feed(self.teams.serve(batch, workers), min(batch.count, self._estimates.grain(batch) * len(workers)))

    def _start(self, task: Task, node: str) -> bool:
        """Start a task on a node; return whether that takes a new worker."""
        idle = None if task.fresh else self._idle.take(node, task.cpus)
        self._give(self._lease(idle or self._fork(node, task.cpus, task.fresh)), [task])
        return idle is None

    def _lease(self, worker: Worker) -> Worker:
        """Take a worker's CPUs out of the pool."""
        self.pool.take(worker.node, worker.cpus)
        worker.leased = True
        self._active += 1
        return worker

    def _fork(self, node: str, cpus: int, fresh: bool) -> Worker:
        surplus = self._idle.surplus(node)
        if surplus is not None:
            self._effects.append(Retire(surplus))
            self._retired.add(surplus.number)
        slot, ids = self._idle.take_slot(node), self.pool.lowest_free(node, cpus)
        worker = Worker(next(self._numbers), node, slot, ids, fresh)
        self.workers[worker.number] = self._at[node][worker.number] = worker
        self._effects.append(Fork(worker))
        return worker

    def _give(self, worker: Worker, tasks: list[Task]) -> None:
        if not worker.held:
            worker.heard = self.teams.answers
        for task in tasks:
            worker.sent = task.seq = worker.sent + 1  # type: ignore[assignment]  # Seq() would cost each task a call
            task.worker = worker
            task.state = SENT
            worker.queue[task.number] = task
            worker.load += task.size
            if task.past is not None and task.past.lost:
                self._suspects.add(task, worker.node)
        count = len(tasks)
        self._prefetched += count if worker.held else count - 1
        worker.held += count
        if worker.held > 1 and not worker.overfull:
            self._overfull.add(worker)
        self._sent += count
        self._candidates[worker.number] = worker
        self._effects.append(Send(worker, tasks))

    def _prefetch(self) -> None:
        """Send busy workers more of the size they have, as long as nothing older of another size waits.

        So nothing is sent past the request that has reserved a node: it is older than all that waits of other sizes.
        """
        for cpus in list(self._waiting.queues):
            if type(cpus) is Wish:  # what has a past chooses its node when it starts
                continue
            sizes = self._waiting.requests()
            bound = min((self._waiting.queues[size][0].number for size in sizes if size != cpus), default=None)
            oldest = self._waiting.oldest(cpus)
            if oldest is None or oldest.alone:
                continue
            if type(oldest) is Batch:
                kept = self.pool.free // cpus if self.unfinished else 0  # for those that start in the next turns
                self.teams.refill(cpus, kept, bound, self._active)
                continue
            if self.unfinished:
                continue
            left = self._waiting.left(cpus)
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
        while len(taken) < count and size < PREFETCH_BYTES:
            oldest = self._waiting.oldest(cpus)
            if oldest is None or type(oldest) is Batch or oldest.alone or oldest.function != function:
                break
            if bound is not None and oldest.number > bound:
                break
            taken.append(self._waiting.pop(cpus))
            size += oldest.size
        return taken

    # ---- book-keeping -------------------------------------------------------------------------------------------

    def _take_out(self, worker: Worker, task: Task) -> None:
        """Take a task out of a worker's queue."""
        del worker.queue[task.number]
        self._leave(worker, task)

    def _leave(self, worker: Worker, task: Task) -> None:
        """A task has left a worker's queue."""
        worker.held -= 1
        worker.load -= task.size
        if task.state is SENT:  # a cancelled one was counted out before
            self._sent -= 1
        if self._suspects.node_of:
            self._suspects.acquit(task)
        if worker.queue:
            self._prefetched -= 1
            self._candidates[worker.number] = worker
            return
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
        self._sent -= sum(task.state is SENT for task in tasks)
        if self._suspects.node_of:
            for task in tasks:
                self._suspects.acquit(task)
        return tasks
