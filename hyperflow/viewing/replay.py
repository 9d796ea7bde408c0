"""A run again on other nodes: its flows (flows.py) drive the real scheduler, on a virtual clock.

What is as it was: how long each evaluation takes (times a factor), what each flow waits for before it goes on, its
pauses, and the mean delays between head and workers. What is not there: the CPUs of nodes that share memory and caches,
files and networks that become slow when many use them, and evaluations that would have been others.

Events of the head are handled in turns, as the event loop does it: an answer waits while the head is busy with others.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

import attrs

from hyperflow.scheduling.scheduler import REBALANCE_PAUSE, Scheduler
from hyperflow.scheduling.state import NOT_SENT, Effect, Fork, Retract, Send, Task, TeamEffect, Worker
from hyperflow.viewing.flows import Course, Delays, Part
from hyperflow.wire.numbers import DefinitionNumber, Seq, TaskNumber, WorkerNumber

OF_A_MAP = 3
"""So many evaluations of a remote_map are under way for each place on the CPUs; see `chunks._Map`."""


SHORT = 0.001
"""A pause up to so many seconds has no turn of its own: what follows it comes so much later to its worker."""


@attrs.frozen
class Outcome:
    """A run as it would have been.

    Args:
        nodes: The CPUs of each node.
        seconds: How long it takes; `inf` if it takes longer than was asked about.
        used: CPU seconds that evaluations have.
    """

    nodes: Sequence[int]
    seconds: float
    used: float

    @property
    def utilisation(self) -> float:
        """The part of the CPU seconds held that evaluations have."""
        held = sum(self.nodes) * self.seconds
        return self.used / held if held else 0.0


class _Flow:
    """A flow that is replayed."""

    __slots__ = ("next", "parts", "pausing", "under_way")

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.next = 0
        self.under_way = 0
        self.pausing = False


class _Place:
    """A worker process: what is queued there, and what it is at."""

    __slots__ = ("at_work", "forked", "queue", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.queue: deque[tuple[Seq, TaskNumber]] = deque()
        self.at_work = False
        self.forked = True  # it has answered nothing yet


class _Replay:
    """One replay; `run` carries it out."""

    def __init__(self, course: Course, scheduler: _Nodes | _Endless, factor: float, limit: float) -> None:
        self.now = self._last = 0.0  # the time of the last answer
        self._course, self._factor, self._limit = course, factor, limit
        self._delays = course.delays
        self._scheduler = scheduler
        self._flows = {number: _Flow(parts) for number, parts in course.flows.items()}
        self._functions = defaultdict[tuple[str, int], DefinitionNumber](self._new_function)
        self._places: dict[WorkerNumber, _Place] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []  # what happens when, in the order of asking
        self._asked = 0
        self._short_pauses: dict[int, float] = {}  # before evaluations that no worker has yet
        self._there: dict[str, float] = {}  # when the last worker of each node is there
        self._inbox: list[Callable[[], None]] = []  # what waits for the head's next turn
        self._answers = 0  # of them
        self._head_free = 0.0
        self._turn_is_due = False
        self._rebalancing = False

    def _new_function(self) -> DefinitionNumber:
        return DefinitionNumber(len(self._functions) + 1)

    def run(self) -> float:
        """Return the time of the last answer; infinity if that is beyond the limit."""
        self._inbox.append(lambda: self._go_on([0]))
        self._ask_turn()
        later = self._later
        while later:
            self.now, _, action = heapq.heappop(later)
            if self.now > self._limit:
                return math.inf
            action()
        return self._last

    def _at(self, t: float, action: Callable[[], None]) -> None:
        self._asked += 1
        heapq.heappush(self._later, (t, self._asked, action))

    # ---- the head ------------------------------------------------------------------------------------------------

    def _tell_head(self, action: Callable[[], None]) -> None:
        self._inbox.append(action)
        self._ask_turn()

    def _ask_turn(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._at(max(self.now, self._head_free), self._turn)

    def _turn(self) -> None:
        """Handle all that has come, and carry out what the scheduler decides."""
        inbox, self._inbox = self._inbox, []
        for action in inbox:
            action()
        self._head_free = self.now + self._answers * self._delays.head
        self._answers = 0
        self._turn_is_due = False
        self._carry_out(self._scheduler.schedule())

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert not isinstance(effect, TeamEffect)  # each evaluation is replayed by itself
            worker = effect.worker
            if type(effect) is Send:
                place = self._places[worker.number]
                place.queue.extend((task.seq, task.number) for task in effect.tasks)
                if not place.at_work:
                    self._start(place, self._until_there(place) + self._delays.send)
            elif type(effect) is Fork:
                self._places[worker.number] = _Place(worker)
            elif type(effect) is Retract:
                self._retract(worker, effect.below)
            else:  # it was idle, and there were too many
                self._tell_head(lambda gone=worker.number: self._gone(gone))  # type: ignore[misc]
        if self._scheduler.unbalanced and not self._rebalancing:
            self._rebalancing = True
            self._at(self.now + REBALANCE_PAUSE, self._rebalance)

    def _rebalance(self) -> None:
        self._rebalancing = False
        if self._scheduler.unbalanced:
            self._scheduler.rebalance()
            self._carry_out(self._scheduler.schedule())

    def _retract(self, worker: Worker, below: Seq) -> None:
        """Let a worker give back what it has not started, a round trip later."""

        def retracted() -> None:
            place = self._places[worker.number]
            boundary = min(place.queue[0][0], below) if place.queue else below
            while place.queue and place.queue[-1][0] >= boundary:
                place.queue.pop()
            self._tell_head(lambda: self._back(worker.number, boundary, below))

        self._at(self.now + self._delays.send, retracted)

    def _back(self, number: WorkerNumber, boundary: Seq, below: Seq) -> None:
        self._scheduler.retracted(number, boundary, below)

    def _gone(self, number: WorkerNumber) -> None:
        self._scheduler.ended(number, NOT_SENT)
        del self._places[number]

    # ---- the workers ---------------------------------------------------------------------------------------------

    def _until_there(self, place: _Place) -> float:
        """Return the seconds until a worker process is there; those of a node are forked one after the other."""
        if not place.forked:
            return 0.0
        place.forked = False
        node = place.worker.node
        before = self._there.get(node)
        delays = self._delays
        there = self.now + delays.first if before is None else max(self.now, before) + delays.fork
        self._there[node] = there
        return there - self.now

    def _start(self, place: _Place, delay: float) -> None:
        """Let a worker begin what is first in its queue; half of the delay is the way back."""
        place.at_work = True
        _, task = place.queue.popleft()
        seconds = self._course.evaluations[task].seconds * self._factor
        delay += self._short_pauses.pop(task, 0.0)
        way = min(delay, self._delays.send) / 2

        def ended() -> None:
            place.at_work = False
            if place.queue:
                self._start(place, self._delays.queued)
            self._at(self.now + way, lambda: self._answer(place.worker.number, task, seconds))

        self._at(self.now + delay - way + seconds, ended)

    def _answer(self, worker: WorkerNumber, task: TaskNumber, seconds: float) -> None:
        self._answers += 1
        self._tell_head(lambda: self._answered(worker, task, seconds))

    def _answered(self, worker: WorkerNumber, task: TaskNumber, seconds: float) -> None:
        self._last = self.now
        self._scheduler.answered(worker, task, seconds)
        if self._places[worker].worker.fresh:
            self._gone(worker)
        self._part_ended(self._course.evaluations[task].flow)

    # ---- the flows -----------------------------------------------------------------------------------------------

    def _part_ended(self, number: int) -> None:
        """A part of a flow has ended; if it was the last one, so has the flow."""
        going = [number]
        while True:
            flow = self._flows[number]
            flow.under_way -= 1
            if flow.under_way or flow.next < len(flow.parts) or not number:
                break
            number = self._course.parents.get(number, 0)
            going.append(number)
        self._go_on(going)

    def _go_on(self, numbers: list[int]) -> None:
        """Let flows do what they can do now, and those that they start."""
        while numbers:
            number = numbers.pop()
            flow = self._flows[number]
            while not flow.pausing and flow.next < len(flow.parts):
                part = flow.parts[flow.next]
                if flow.under_way > self._room(part):
                    break
                if part.pause > SHORT:
                    flow.pausing = True
                    self._at(self.now + part.pause, lambda number=number: self._tell_head(lambda: self._resume(number)))  # type: ignore[misc]
                    break
                self._begin(flow, part, numbers)
                if part.pause and part.number > 0:
                    self._short_pauses[part.number] = part.pause

    def _resume(self, number: int) -> None:
        flow = self._flows[number]
        flow.pausing = False
        started: list[int] = [number]
        self._begin(flow, flow.parts[flow.next], started)
        self._go_on(started)

    def _room(self, part: Part) -> int:
        """Return how many parts of a flow may be under way when this one begins."""
        if not part.of_map or not part.under_way:
            return part.under_way
        cpus = self._course.evaluations[part.number].cpus
        return OF_A_MAP * max(1, self._scheduler.total // cpus) - 1

    def _begin(self, flow: _Flow, part: Part, numbers: list[int]) -> None:
        flow.next += 1
        flow.under_way += 1
        if part.number < 0:
            numbers.append(-part.number)
            return
        one = self._course.evaluations[part.number]
        function = self._functions[one.function, one.cpus]
        self._scheduler.submit(Task(TaskNumber(part.number), function, one.cpus, one.fresh))


def replay(course: Course, nodes: Sequence[int], factor: float = 1.0, limit: float = math.inf) -> Outcome:
    """Return how the run would have been on nodes with so many CPUs each.

    Args:
        factor: Each evaluation takes so many times as long.
        limit: Seconds; a run that takes longer is not replayed to its end.
    """
    last = _Replay(course, _Nodes(nodes), factor, limit - course.tail).run()
    return Outcome(nodes, last + course.tail, course.used * factor)


def smallest(course: Course, most: int, cpus: int, factor: float, limit: float) -> Outcome | None:
    """Return the run on the fewest nodes that end it in time; None if not even so many do."""
    found, too_few, tried = None, 0, 1
    while found is None:
        outcome = replay(course, [cpus] * tried, factor, limit)
        if outcome.seconds <= limit:
            found = outcome
        elif tried == most:
            return None
        else:
            too_few, tried = tried, min(2 * tried, most)
    while len(found.nodes) - too_few > 1:
        outcome = replay(course, [cpus] * ((too_few + len(found.nodes)) // 2), factor, limit)
        if outcome.seconds <= limit:
            found = outcome
        else:
            too_few = len(outcome.nodes)
    return found


def longest_chain(course: Course, factor: float = 1.0) -> float:
    """Return how long the run takes if nothing waits for a CPU or a worker: no size makes it shorter."""
    at_once = attrs.evolve(course, delays=Delays(0.0, 0.0, 0.0, 0.0, 0.0))
    return _Replay(at_once, _Endless(), factor, math.inf).run() + course.tail


class _Endless:
    """In place of the scheduler: each evaluation has a worker of its own at once."""

    unbalanced = False
    total = 1 << 30

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def submit(self, task: Task) -> None:
        worker = Worker(WorkerNumber(task.number), "", 0, (), fresh=True)
        self._effects += [Fork(worker), Send(worker, [task])]

    def schedule(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def rebalance(self) -> None: ...
    def answered(self, number: WorkerNumber, task: TaskNumber, seconds: float) -> None: ...
    def retracted(self, number: WorkerNumber, boundary: Seq, below: Seq) -> None: ...
    def ended(self, number: WorkerNumber, started: Seq) -> None: ...


class _Nodes(Scheduler):
    """The real one, with its nodes."""

    def __init__(self, nodes: Sequence[int]) -> None:
        super().__init__()
        for number, cpus in enumerate(nodes):
            self.add_node(f"node{number}", range(cpus))

    @property
    def total(self) -> int:
        """All CPUs."""
        return self.pool.total
