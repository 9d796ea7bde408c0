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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from hyperflow.errors import ImpossibleRequest
from hyperflow.request import CPUS_ONLY, Capacity, NodeKind, Request, Want
from hyperflow.scheduling.ahead import Ahead
from hyperflow.scheduling.choice import Choice
from hyperflow.scheduling.crew import Crew
from hyperflow.scheduling.ledger import Ledger, Left
from hyperflow.scheduling.lending import Lending
from hyperflow.scheduling.overfull import Overfull
from hyperflow.scheduling.prefetch import RETRACT_WORTH, Estimates
from hyperflow.scheduling.refusals import as_request, is_possible, refusal
from hyperflow.scheduling.reservations import Reservations
from hyperflow.scheduling.speculation import Guesses
from hyperflow.scheduling.state import (
    CANCELLED,
    ENDED,
    SENT,
    WAITING,
    Batch,
    Effect,
    Key,
    Kill,
    Place,
    Send,
    Task,
    Worker,
)
from hyperflow.scheduling.suspects import Suspects
from hyperflow.scheduling.teams import Teams
from hyperflow.scheduling.waiting import Waiting
from hyperflow.scheduling.wants import Wants
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

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.clock = clock
        """In seconds, as those of `Capacity.ends`."""
        self.pool = Ledger()
        self.paused = False
        """Whether to start nothing more; what was sent goes on."""
        self.late = 0
        """Answers for tasks that another worker has by now, or that were cancelled."""
        self.unfinished = False
        """Whether the last `schedule` left something that can be started at once."""
        self._waiting = Waiting()
        self._sent = 0  # tasks that are with a worker by itself
        self._prefetched = 0  # tasks that are with a worker that has an older one
        self._freed: list[Worker] = []  # those that have just run out of tasks; they keep their CPUs until `settle`
        self._estimates = Estimates()
        self._effects: list[Effect] = []
        self._numbers = map(WorkerNumber, itertools.count(1))
        self._overfull = Overfull(self.pool, self._estimates, self._effects)
        self.teams = Teams(self._waiting, self._estimates, self._effects, self._numbers)
        """Those that have batches."""
        self._ending = 0  # workers that are being killed
        self._leaving = 0  # workers that have done the one task that they were for
        self._looked_at = 0  # of all answers, how many had come when it last looked who has fallen behind
        self._suspects = Suspects()
        self._guesses = Guesses(self.pool, self._now)
        self._crew = Crew(self.pool, self._guesses, self._effects, self._numbers)
        self.workers = self._crew.workers
        self._choice = Choice(self.pool, self._waiting, self._suspects, self.workers, self._now)
        self.lending = Lending(self.pool, self._guesses, self._crew)
        self._owed = self.lending.owed
        self._wants = Wants(self._waiting, self._estimates, self.teams, self.workers)
        self._ahead = Ahead(self.pool, self._waiting, self._choice, self._estimates, self.teams, self._crew)

    def _now(self) -> float:
        return self.clock()

    # ---- what one may ask ---------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Tasks that are with no worker."""
        return self._waiting.count + len(self._guesses.promises)

    @property
    def suspects_wait(self) -> bool:
        """Whether no suspect is started for now: nodes are being lost, and maybe more than those that are known."""
        return self._suspects.wait

    @suspects_wait.setter
    def suspects_wait(self, wait: bool) -> None:
        self._suspects.wait = wait

    @property
    def sent(self) -> int:
        """Tasks that are with a worker, or a team."""
        return self._sent + self.teams.held

    @property
    def unbalanced(self) -> bool:
        """Whether a CPU is free while tasks are prefetched: time to `rebalance` soon.

        Not while the next turns start on the free CPUs what waits.
        """
        return (self._prefetched > 0 or self.teams.queued > 0) and self._choice.usable > 0 and not self.unfinished

    @property
    def states(self) -> dict[str, int]:
        """How many workers are busy, idle, ending; without a look at each."""
        freed = sum(map(self._is_free, set(self._freed)))  # one may have run out of tasks twice
        idle, ending = self._crew.idle.count + self._leaving + len(self._crew.retired) + freed, self._ending
        return {"busy": len(self.workers) - idle - ending, "idle": idle, "ending": ending}

    def workers_at(self, node: str) -> list[Worker]:
        """Return the workers of a node."""
        return self._crew.at(node)

    def tasks_at(self, node: str) -> dict[TaskNumber, tuple[Worker | None, bool]]:
        """Return each task that is on a node, the worker that has it, if that is known, and whether it is started."""
        found: dict[TaskNumber, tuple[Worker | None, bool]] = {}
        for worker in self.workers_at(node):
            found |= {number: (worker, not place) for place, number in enumerate(worker.queue)}
        for worker in self._crew.with_share_of(node):
            found |= dict.fromkeys(worker.queue, (worker, True))
        for team in self.teams.at(node):
            found |= {number: (None, place < len(team.members)) for place, number in enumerate(team.held)}
        return found

    def demand(self) -> list[Want]:
        """Return what waits for CPUs, the oldest first; none while nothing is started any more."""
        return [] if self.paused else self._wants.look(self.pool.tokens, self._overfull.workers, self.clock())

    def refusal(self, request: Key) -> ImpossibleRequest | None:
        """Return the error for a request that can never be had, or None."""
        return refusal(self.pool, as_request(request), self.clock())

    def is_possible(self, request: Key) -> bool:
        """Whether a request can be had, now or later."""
        return is_possible(self.pool, as_request(request), self.clock())

    # ---- events -------------------------------------------------------------------------------------------------

    def set_tokens(self, totals: Mapping[str, int]) -> None:
        """The program has so many tokens of these names."""
        self.pool.tokens.fill(totals)

    def add_node(self, name: str, cpus: Sequence[int], capacity: Capacity = CPUS_ONLY) -> list[Task]:
        """A node is up: return the tasks that waited for it, and cannot have it."""
        waited_for = name in self.pool.expected
        self.pool.add(name, cpus, capacity)
        self._crew.add_node(name)
        return self._take_impossible() if waited_for else []

    def take_late(self) -> list[Task]:
        """Time has passed: return the tasks for which no node has as much left as they need."""
        timed = [key for key in self._waiting.queues if type(key) is Request and key.min_time]
        return self._waiting.take_all([key for key in timed if not self.is_possible(key)])

    def time_left(self, request: Request) -> tuple[str, float]:
        """Return what is said of a request for which no node has as much time left, and the most that one has."""
        left = max((node.capacity.ends for node in self.pool.nodes.values()), default=0.0) - self.clock()
        return f"using(min_time={request.min_time:g}): no node has as much time left", max(left, 0.0)

    @property
    def waits_for_time(self) -> bool:
        """Whether something waits that may become impossible because time passes."""
        return self._waiting.count > 0 and any(
            type(key) is Request and key.min_time for key in self._waiting.requests()
        )

    def expect_no_more(self, name: str) -> list[Task]:
        """A node that was expected does not come: return the tasks that have become impossible."""
        self.pool.expect_no_more(name)
        return self._take_impossible()

    def may_come(self, kinds: Sequence[NodeKind]) -> list[Task]:
        """Only these may come from now on: return the tasks that have become impossible."""
        self.pool.may_come(kinds)
        return self._take_impossible()

    def lend(self, name: str, cpus: Collection[int], gpus: Collection[str] = (), memory: int = 0) -> None:
        """A node gets this, too."""
        self.settle()
        self.lending.lend(name, cpus, gpus, memory)

    def reclaim(self, name: str, count: int, gpus: Collection[str] = ()) -> None:
        """So many CPUs of a node are to leave it, and these GPUs if nobody has them; see Lending."""
        self.settle()
        if self.lending.ask_back(name, count, gpus):
            self._empty_queues(name)

    def put_aside(self, name: str) -> None:
        """Start nothing more on a node."""
        self.pool.put_aside(name)
        self._empty_queues(name)

    def _empty_queues(self, name: str) -> None:
        """A node is put aside: take back what has not begun there."""
        self._waiting.put_back(self._guesses.broken(name))
        for worker in self.workers_at(name):
            if worker.held > 1 and not worker.retracting and not worker.ending:
                self._overfull.retract(worker)
        self.teams.close(self.teams.at(name))

    def pause(self) -> None:
        """Start nothing more on any node; what workers have goes on."""
        self.paused = True
        self._waiting.put_back(self._guesses.broken())
        self.teams.close(self.teams.all.values())

    def take_back(self, name: str) -> None:
        """Use a node that was put aside again."""
        self.pool.take_back(name)

    def withhold(self, name: str, blamed: bool = True) -> list[Task]:
        """Take the exclusive tasks from a node that is about to be lost, or released; the caller resubmits them."""
        held = [
            (worker, task)
            for worker in (*self.workers_at(name), *self._crew.with_share_of(name))
            for task in worker.queue.values()
            if task.exclusive and task.state is SENT
        ]
        for worker, task in held:
            if worker.node != name:
                self.kill(worker)
            self._take_out(worker, task)
            task.state = ENDED
            if blamed:
                task.was_lost_on(name)
            if blamed and worker.node != name and task.past is not None:
                task.past.worker = worker
        return [task for _, task in held]

    def lose_node(self, name: str, blamed: bool = True) -> tuple[list[Task], list[Task]]:
        """A node is gone: return the tasks that went back to waiting, and those that have become impossible.

        Not `blamed`: it was released. What ran there is no suspect, and may be anywhere next.
        """
        self._waiting.put_back(self._guesses.broken(name))
        shared: list[Task] = []
        back: list[Task] = []
        for worker in self._crew.with_share_of(name):
            if blamed:
                shared += self._lost_a_share(worker, name)
            else:
                worker.gives_way = True  # its task waits again when it has ended
                self.kill(worker)
            # A node of this name may come again, and that has not given it anything.
            worker.elsewhere = tuple(place for place in worker.elsewhere if place.node != name)
        self.pool.remove(name)
        self.lending.forget(name)
        for worker in self._crew.remove_node(name):
            self._count_out(worker)
            self._crew.release(worker)
            # All of them: the worker may have been further than its answers, which are lost with the node, have told.
            back += self._empty(worker)
        back += self.teams.lost(name)
        if blamed:
            for task in back:
                task.was_lost_on(name)
        again = self._waiting.put_back(shared + back)
        impossible = self._take_impossible()
        return [task for task in again if task.state is WAITING], impossible

    def _lost_a_share(self, worker: Worker, node: str) -> list[Task]:
        """Part of what a worker's task has went with a node: end the worker, and return the task, a suspect."""
        self.kill(worker)
        tasks = list(worker.queue.values())
        for task in tasks:
            self._take_out(worker, task)
            task.was_lost_on(node)
            assert task.past is not None
            task.past.worker = worker
        return tasks

    def _take_impossible(self) -> list[Task]:
        """Take the tasks that wait for what is not there any more, or will when their workers have ended."""
        found = self._waiting.take_all([key for key in self._waiting.queues if not self.is_possible(key)])
        for worker in self.workers.values():
            for task in list(worker.queue.values()) if worker.gives_way else ():
                if task.state is SENT and not self.is_possible(task.asks or task.cpus):
                    self._take_out(worker, task)
                    task.state = ENDED
                    found.append(task)
        return found

    def submit(self, task: Task) -> None:
        """A task is to be run; raises ImpossibleRequest if it can never have what it asks for."""
        if task.asks is not None or task.cpus > self.pool.largest:
            error = self.refusal(task.asks or task.cpus)
            if error is not None:
                raise error
        self._waiting.add(task)

    def submit_batch(self, batch: Batch) -> None:
        """The same for many; there is a node that is large enough."""
        self._waiting.add_batch(batch)

    def resubmit(self, task: Task) -> None:
        """A task is to be run, before what was submitted after it: one that was answered, say, and failed."""
        self._waiting.put_back([task])

    def ask_again(self, tasks: Collection[Task], asks: Request) -> None:
        """Tasks that wait ask for something else from now on, which can be had; their places are those of before.

        Not those for which others are just making room.
        """
        taken = self._waiting.take_out(tasks)
        for task in taken:
            task.ask(asks)
        self._waiting.put_back(taken)

    def want(self, task: Task) -> None:
        """A speculative task is wanted now: nobody takes away what it has, and it waits among the others."""
        if task.asks is None or not task.asks.speculative:
            return
        asks, key, worker = task.asks, task.request, task.worker
        task.is_wanted()
        if task.state is WAITING:
            self._waiting.move(task, key)
        elif task.state is SENT and worker is not None and not worker.ending:
            self._guesses.take_back(worker, asks)
            worker.request = asks._replace(speculative=False)
            self.pool.charge_all([worker.place, *worker.elsewhere], worker.request)

    def start_copy(self, copy: Task, of: Task) -> bool:
        """Start a copy of a task at once, on another node if possible; False if no CPU is idle."""
        if self._waiting.count or self._prefetched or self.teams.queued or self.paused or of.worker is None:
            return False
        self.settle()
        request = copy.asks or Request(copy.cpus)
        free = Reservations(self.pool, self.clock)
        nodes = free.find(request, (of.worker.node,)) or free.find(request)
        if not nodes or not self.pool.tokens.has(request, {}) or request.speculative or self._guesses.workers:
            return False
        self._start(copy, nodes)
        return True

    def keeps(self, worker: Worker, functions: Collection[DefinitionNumber]) -> None:
        """A worker keeps what these functions have asked for: they go there again, where that costs no wait."""
        self._crew.idle.keeps(worker, functions)

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
        if task.number in self._guesses.promises:
            self._guesses.drop(task)
        elif task.state is WAITING:
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
            self._crew.retired.discard(worker.number)
            self._crew.idle.remove(worker)
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
        self._count_out(worker)
        self._crew.gone(worker)
        if worker.team is not None:
            within = self.teams.ended(worker, task)
        else:
            within = next((t for t in worker.queue.values() if t.seq == started and t.state is SENT), None)
        if worker.gives_way:
            within = None
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
        if self._owed:
            self._collect()
        if self._guesses.promises:
            self._keep_promises()
        if self._waiting.count and not self.paused:
            self.unfinished = not self._place(work)
            if self._waiting.count:
                for worker, tasks in self._ahead.choose(self.unfinished):
                    self._give(worker, tasks)
                if self._waiting.count and self.pool.free and not self.unfinished:
                    self.unfinished = not self._place(work)  # the reservation's holder may have been prefetched
            if self._waiting.count and not self.unfinished:
                self._place_guesses()
        self.teams.looked_at()
        if not self.unfinished:
            self._ahead.candidates.clear()
        if self._waiting.count:
            self._choice.note_times()
        if self._prefetched or self.teams.queued:
            answers = self.teams.answers
            if not self._waiting.count or self._choice.content.issuperset(self._waiting.requests()):
                if self._choice.usable > 0:
                    self.rebalance(RETRACT_WORTH, looks=LOOKS_AT_ONCE)
            elif answers - self._looked_at >= ANSWERS_A_LOOK:
                self._take_from_slow((answers - self._looked_at) // ANSWERS_A_LOOK)
                self._looked_at = answers
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    def _collect(self) -> None:
        """Take what is owed to those who lend nodes; speculative tasks give way."""
        for worker in self.lending.collect():
            worker.gives_way = True
            self.kill(worker)

    def settle(self) -> None:
        """Take back the CPUs of workers that have run out of tasks."""
        for worker in self._freed:
            if self._is_free(worker):
                self._crew.release(worker)
                self._crew.idle.put(worker)
        self._freed.clear()

    def _is_free(self, worker: Worker) -> bool:
        """Whether a worker that had run out of tasks still has none, and still has its CPUs."""
        return worker.leased and not worker.is_busy and not worker.ending and worker.number in self.workers

    def _hand_over(self) -> None:
        """Give the workers that have run out of tasks the next ones, where nothing is to be chosen.

        What fits is of one size, so whoever has that size takes the oldest. To take its CPUs back and look for the best
        node would cost each round trip, and each of a thousand answers at a time, four times as much.
        """
        requests = [key for key in self._waiting.requests() if type(key) is not Request or not key.speculative]
        if len(requests) != 1 or type(requests[0]) is Request:
            return
        cpus = requests[0]
        assert type(cpus) is int
        together: dict[str, dict[WorkerNumber, Worker]] = {}
        for worker in self._freed:
            if worker.size == cpus and self._is_free(worker) and worker.node not in self.pool.aside:
                if worker.request is not None:
                    continue  # what it has beside CPUs is to come back
                oldest = self._waiting.oldest(cpus)
                if oldest is None or oldest.fresh:
                    return
                if type(oldest) is Batch:
                    together.setdefault(worker.node, {})[worker.number] = worker
                elif not self._crew.idle.keepers or not self._crew.idle.is_better_off(oldest.function, worker):
                    self._give(worker, [self._waiting.pop(cpus)])
        for workers in together.values():
            batch = self._waiting.oldest(cpus)
            if type(batch) is Batch:
                self._serve(batch, [*workers.values()][: self._worth(batch)])

    def _take_from_slow(self, looks: int) -> None:
        """Take back what is queued where workers have fallen behind: younger ones would start before it, elsewhere."""
        self._overfull.take_from_slow(looks, self._crew.active, self.teams.answers)
        self.teams.take_from_slow(looks, self._crew.active)

    def rebalance(self, worth: float = 0.0, looks: int | None = None) -> None:
        """Take back as many queued tasks as the free CPUs can take.

        Only where there are at least `worth` seconds of work queued for a worker, after at most so many `looks`.
        """
        self._overfull.rebalance(self.teams.rebalance(self.pool, worth, looks), worth, looks)

    def _place(self, work: float) -> bool:
        """Start what fits, in order. False: there were too many."""
        self._choice.begin()
        if self._guesses.clearing:
            self._guesses.clearing.clear()
        while (found := self._choice.next()) is not None:
            if work <= 0:
                return False
            work -= self._start_oldest(*found)
        return True

    def _place_guesses(self) -> None:
        """Start speculative tasks on what nobody else has."""
        for request in self._choice.guesses():
            while self._waiting.oldest(request) is not None and not self._choice.is_held(request):
                nodes = self._guesses.find(request, self._choice.closed_to(request))
                if not nodes:
                    break
                self._start(self._pop(request), nodes)

    def _keep_promises(self) -> None:
        """Start the tasks for which others have gone."""
        for promise in self._guesses.ready():
            self._begin(promise.task, promise.places)

    def _pop(self, key: Key) -> Task:
        """Take out the oldest of a queue."""
        task = self._waiting.pop(key)
        if type(key) is Request and not self._waiting.queues[key]:
            del self._waiting.queues[key]  # else there would be more and more
        return task

    def _start_oldest(self, key: Key, nodes: list[str]) -> int:
        """Start the oldest on nodes, or as many of a batch as there is room for; return how much work that was."""
        task = self._waiting.queues[key][0]
        if type(task) is Batch:
            return self._start_batch(task, nodes[0])
        return FORK_WORK if self._start(self._pop(key), nodes) else 1

    def _start_batch(self, batch: Batch, node: str) -> int:
        cpus, forked, account = batch.cpus, 0, self.pool.nodes[node]
        places, all_places = self._choice.room(node) // cpus, self.pool.free // cpus
        wanted = self._worth(batch)
        count = places if wanted >= all_places else -(-wanted * places // all_places)  # all nodes get their share
        if account.lent:
            for worker in self._guesses.make_room(node, count * cpus):
                worker.gives_way = True
                self.kill(worker)
            count = min(count, max(Left(account, lent=True).room, 0) // cpus)
            if not count:
                self._choice.block(cpus)
                return 1
        workers: list[Worker] = []
        for _ in range(count):
            worker, is_new = self._crew.take(node, cpus, batch.function)
            forked += is_new
            workers.append(worker)
        self._serve(batch, workers)
        return count + (FORK_WORK - 1) * forked

    def _worth(self, batch: Batch) -> int:
        """Return how many idle workers a batch is worth."""
        return -(-batch.count // self._estimates.grain(batch))

    def _serve(self, batch: Batch, workers: list[Worker]) -> None:
        """Let workers of one node, which have their CPUs and nothing to do, serve a batch, which is the oldest."""
        self.teams.feed(self.teams.serve(batch, workers), min(batch.count, self._estimates.grain(batch) * len(workers)))

    def _start(self, task: Task, nodes: list[str]) -> bool:
        """Start a task on nodes; return whether that takes a new worker."""
        if self._guesses.workers and not (task.asks is not None and task.asks.speculative):
            return self._start_beside(task, nodes)
        if task.asks is None:
            worker, is_new = self._crew.take(nodes[0], task.cpus, task.function, task.fresh)
        else:
            worker, is_new = self._crew.take_all(task, task.asks, nodes)
        self._give(worker, [task])
        return is_new

    def _start_beside(self, task: Task, nodes: list[str]) -> bool:
        """Start a task where speculative ones may be in the way: those end first."""
        asks = task.asks or Request(task.cpus)
        places = [self.pool.place(node, asks) for node in nodes]
        self.pool.charge_all(places, asks)
        if self._guesses.are_clear(places, asks):
            return self._begin(task, places)
        for worker in self._guesses.promise(task, places, asks):
            worker.gives_way = True
            self.kill(worker)
        return False

    def _begin(self, task: Task, places: Sequence[Place]) -> bool:
        """Start a task on what it has been given; return whether that takes a new worker."""
        worker, is_new = self._crew.take_given(task, places)
        self._give(worker, [task])
        return is_new

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
        self._ahead.candidates[worker.number] = worker
        self._effects.append(Send(worker, tasks))

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
            self._ahead.candidates[worker.number] = worker
            return
        if worker.ending:
            return
        if worker.fresh:
            self._leaving += 1
        else:
            self._freed.append(worker)

    def _count_out(self, worker: Worker) -> None:
        """A worker has gone."""
        self._crew.retired.discard(worker.number)
        if worker.ending:
            self._ending -= 1
        elif worker.fresh and not worker.queue:
            self._leaving -= 1

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
