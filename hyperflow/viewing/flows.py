"""What a run's flows did, as its event log tells: what each submitted, in which order, and what it waited for before.

A flow submits evaluations and starts other flows: these are its parts. From the order of the log follows, for each
part, how many earlier parts of the same flow were still under way when it began: none where the flow waited for all of
them, L - 1 in a map with `limit=L`. That is what a replay keeps (replay.py); and the seconds that the flow took to go
on, once no more than that were under way: its own thinking, in the head.

What the log cannot tell is said in `unknown`, and nothing is guessed without a word there.
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import attrs

from hyperflow import saying
from hyperflow.errors import HyperflowError
from hyperflow.events.schema import Event

FORK_SECONDS = 0.01
"""What a worker takes to be there, where the log has only one on each node."""

HEAD_SECONDS = 1e-4
"""What an evaluation takes of the head's time, where the log does not tell how much the run took of it."""

LONGEST = 1e11
"""Seconds; no time in a log is beyond it, nor are those of a line together."""

MOST = 10_000_000
"""No log has a node with so many CPUs, or begins so many flows at a time."""

TRIMMED = 0.02
"""This part of the delays, the longest, is left out of their mean: something else kept the machine busy then."""


class Part(NamedTuple):
    """What a flow does next: it submits an evaluation, or starts a flow.

    Args:
        number: That of the evaluation; of a flow, as a negative number.
        under_way: So many earlier parts had not ended.
        pause: Seconds that the flow took to get here.
        of_map: Whether it is one of a remote_map, which keeps some under way for each CPU.
    """

    number: int
    under_way: int
    pause: float
    of_map: bool


@attrs.define
class Recorded:
    """An evaluation.

    Args:
        flow: The number of the one that has submitted it.
        of_map: See Part.
        seconds: How long it had a worker.
        state: "waiting" or "running", or "done" or "cancelled" once it has ended; what failed is done, too.
        fresh: Whether it had a process of its own.
    """

    function: str
    cpus: int
    flow: int
    of_map: bool
    seconds: float = 0.0
    state: str = "waiting"
    fresh: bool = False


@attrs.frozen
class Delays:
    """Seconds that pass beside evaluations, on average.

    Args:
        first: Until the first worker of a node is there; `fork`: until one more is, one after the other.
        send: From what is sent to an idle worker to the answer, without the evaluation.
        queued: Between two evaluations that are queued at a worker.
        head: Of the head's time for each evaluation.
    """

    first: float
    fork: float
    send: float
    queued: float
    head: float


@attrs.frozen
class Course:
    """What a run's flows did.

    Args:
        evaluations: Those that a worker had, by number.
        flows: The parts of each flow, in order; 0 is the job itself.
        parents: Which flow has started each.
        nodes: The CPUs of each node that was up.
        seconds: How long the run took, from its first line to its last.
        tail: Its seconds after the last answer.
        unknown: What the log cannot tell, in sentences.
    """

    evaluations: dict[int, Recorded]
    flows: dict[int, list[Part]]
    parents: dict[int, int]
    nodes: list[int]
    seconds: float
    tail: float
    delays: Delays
    unknown: list[str]

    @property
    def used(self) -> float:
        """CPU seconds that evaluations had."""
        return sum(one.seconds * one.cpus for one in self.evaluations.values())

    @property
    def widest(self) -> int:
        """The most CPUs that an evaluation asks for."""
        return max((one.cpus for one in self.evaluations.values()), default=1)


def course(events: Iterable[Event]) -> Course:
    """Return what the flows did in the last start that is in a log; HyperflowError if a line makes no sense."""
    log = _Log()
    for event in events:
        if event.get("state") == "opened":
            log = _Log()
        try:
            log.add(event)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            text = f"the event log has a line that makes no sense: {saying.short_repr(event, 200)} ({error!r})"
            raise HyperflowError(text) from error
    log.end()
    kept = {number: one for number, one in log.evaluations.items() if one.state == "done"}
    parts = _Parts(log.began, kept, log.parents)
    for t, number in log.steps:
        if abs(number) in kept:
            parts.step(t, number)
    last = max((t for t, number in log.steps if number < 0), default=log.last)
    head = HEAD_SECONDS if log.cpu is None else log.cpu / max(len(kept), 1)
    return Course(
        evaluations=kept,
        flows=parts.flows,
        parents=log.parents,
        nodes=list(log.nodes.values()),
        seconds=log.last - log.began,
        tail=log.last - last if log.closed else 0.0,
        delays=log.clock.delays(head),
        unknown=log.unknown(),
    )


class _Worker:
    """What a worker has been sent and has not answered, and since when it has been at the first of it."""

    def __init__(self, node: str, forked: bool) -> None:
        self.node = node
        self.tasks: dict[int, None] = {}
        self.since = 0.0
        self.was_idle = True  # when it was sent the first of them
        self.forked = forked  # it has answered nothing yet


class _Clock:
    """How long evaluations had their workers, and what passed beside."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._at: dict[int, _Worker] = {}
        self._queues: dict[int, float] = {}  # since when tasks have been in the queue of a node
        self._sends: list[float] = []
        self._queued: list[float] = []
        self.not_first: set[int] = set()
        """Tasks whose worker had answered others before, or has been sent others with it."""
        self._forks = defaultdict[str, list[tuple[float, float]]](list)
        # by node: when a worker was there, as far as its first answer tells, and when it was started

    def started(self, worker: str) -> None:
        """A worker is started; its name may have been another's."""
        self._workers[worker] = _Worker(worker.rpartition("@")[2], forked=True)

    def sent(self, tasks: list[int], name: str, t: float) -> None:
        """Tasks were sent to a worker."""
        worker = self._workers.get(name)
        if worker is None:
            worker = self._workers[name] = _Worker(name.rpartition("@")[2], forked=False)
        if not worker.tasks:
            worker.since, worker.was_idle = t, True
        for task in tasks:
            worker.tasks[task] = None
            self._at[task] = worker

    def queued(self, tasks: list[int], t: float) -> None:
        """Tasks are in the queue of a node."""
        self._queues.update(dict.fromkeys(tasks, t))

    def done(self, tasks: list[int], seconds: Sequence[float], t: float, name: str) -> None:
        """A worker has answered: learn what passed beside."""
        worker = self._at.get(tasks[0])
        if worker is None and tasks[0] in self._queues and (worker := self._workers.get(name)) is not None:
            worker.since, worker.was_idle = max(worker.since, self._queues[tasks[0]]), worker.forked
            for task in tasks:
                self._queues.pop(task, None)
        if worker is None:
            return
        beside = max(t - worker.since - sum(seconds), 0.0)
        if not worker.forked or len(tasks) > 1:
            self.not_first.update(tasks)
        if worker.forked:
            self._forks[worker.node].append((t - sum(seconds), worker.since))
        elif not worker.was_idle:
            self._queued.append(beside / len(tasks))
        elif len(tasks) == 1:
            self._sends.append(beside)
        worker.forked = worker.was_idle = False
        worker.since = t
        for task in tasks:
            self.left(task)

    def left(self, task: int) -> None:
        """A task has left its worker."""
        if (worker := self._at.pop(task, None)) is not None:
            worker.tasks.pop(task, None)

    def broken(self, task: int, t: float) -> float:
        """A task has left its worker without a time: return for how long it was there, 0 if it was only queued."""
        worker = self._at.get(task)
        if worker is None or next(iter(worker.tasks), None) != task:
            self.left(task)
            self._queues.pop(task, None)
            return 0.0
        took, worker.since, worker.was_idle = t - worker.since, t, False
        self.left(task)
        return took

    def delays(self, head: float) -> Delays:
        """Return the means."""
        send, first, fork = _mean(self._sends), list[float](), list[float]()
        for forks in self._forks.values():
            before = 0.0
            for there, started in sorted(forks):
                (fork if before else first).append(max(there - max(started, before) - send * (started > before), 0.0))
                before = there
        return Delays(_mean(first), _mean(fork) if fork else FORK_SECONDS, send, _mean(self._queued), head)


def _mean(values: list[float]) -> float:
    values = sorted(values)[: len(values) - int(TRIMMED * len(values))]
    return statistics.fmean(values) if values else 0.0


@attrs.define
class _Log:
    """What the lines of a log have told so far."""

    began: float = 0.0
    last: float = 0.0
    closed: bool = False
    told_flows: bool = False
    cpu: float | None = None
    evaluations: dict[int, Recorded] = attrs.field(factory=dict[int, Recorded])
    parents: dict[int, int] = attrs.field(factory=dict[int, int])
    steps: list[tuple[float, int]] = attrs.field(factory=list[tuple[float, int]])
    """In the order of the log: the number of what was submitted; of what has ended, below 0."""
    nodes: dict[str, int] = attrs.field(factory=dict[str, int])
    clock: _Clock = attrs.field(factory=_Clock)
    counts: Counter[str] = attrs.field(factory=Counter[str])
    copies: dict[int, int] = attrs.field(factory=dict[int, int])

    def add(self, event: Event) -> None:
        """Take in the next line."""
        state, (t,) = event.get("state", ""), _times([event.get("t", 0.0)])
        self.began, self.last = self.began or t, max(self.last, t)
        if state == "opened":
            self.told_flows = event.get("flows", False)
        elif state == "closed":
            self.closed, (self.cpu,) = True, _times([event["cpu"]]) if "cpu" in event else (None,)
        elif state in ("left out", "dropped"):
            self.counts["gaps"] += 1
        elif state == "up" and "node" in event:
            self.nodes[str(event["node"])] = _counted(event.get("cpus", 0))
        elif state in ("lost", "aside"):
            self.counts["nodes"] += 1
        elif state == "left":
            self.counts["left"] += 1
        elif state == "started":
            self.clock.started(str(event.get("worker", "")))
        elif "tasks" in event:
            self._add_tasks(state, event, _numbers(event["tasks"]), t)

    def _add_tasks(self, state: str, event: Event, tasks: list[int], t: float) -> None:
        if state == "waiting" and "function" in event:
            self._submitted(event, tasks, t)
        elif state == "running":
            self.clock.sent(tasks, str(event.get("worker", "")), t)
            for task in tasks:
                if (one := self.evaluations.get(task)) is not None:
                    one.state = "running"
        elif state == "queued":
            self.clock.queued(tasks, t)
        elif state == "done":
            seconds = event.get("seconds", 0.0)
            each = _times(seconds if isinstance(seconds, list) else [seconds] * len(tasks))
            (age,) = _times([event.get("age", 0.0)])
            self.clock.done(tasks, each, t - age, str(event.get("worker", "")))
            for task, took in zip(tasks, each, strict=True):
                self._ended(task, t, took)
        elif state == "copied":
            self.copies[_numbers([event.get("copy", 0)])[0]] = tasks[0]
        elif state == "superseded":
            for task in tasks:
                self.clock.left(task)
        elif state in ("waiting", "failed", "cancelled"):
            for task in tasks:
                self._broken(state, event, task, t)

    def _submitted(self, event: Event, tasks: list[int], t: float) -> None:
        for first, count, parent in map(_numbers, event.get("begun", ())):
            self.parents.update(dict.fromkeys(range(first, first + _counted(count)), parent))
        function, of_map = str(event.get("function", "")), event.get("map") is True
        cpus, flow = _counted(event.get("cpus", 1)), event.get("flow", 0)
        flows = _numbers(flow if isinstance(flow, list) else [flow] * len(tasks))
        if not self.evaluations.keys().isdisjoint(tasks):
            raise ValueError("there are two evaluations of one number")
        for task, of in zip(tasks, flows, strict=True):
            self.evaluations[task] = Recorded(function, cpus, of, of_map)
            self.steps.append((t, task))

    def _ended(self, task: int, t: float, took: float) -> None:
        """A task has had its worker for so long, the last time."""
        task = self.copies.pop(task, task)
        one = self.evaluations.get(task)
        if one is None:
            self.counts["unseen"] += 1
            return
        if one.state == "done":
            return
        one.seconds += took
        one.state = "done"
        self.steps.append((t, -task))

    def _broken(self, state: str, event: Event, task: int, t: float) -> None:
        """A task waits again, has failed, or nobody waits for it any more."""
        took = self.clock.broken(task, t)
        one = self.evaluations.get(task)
        if one is None:
            return
        if state == "waiting":
            one.state = "waiting"
            if "retry_after" in event:
                self.counts["retried"] += 1
                one.seconds += took
        elif state == "cancelled" and one.state == "waiting":
            one.state = "cancelled"
        else:
            self.counts["cancelled"] += state == "cancelled"
            self._ended(task, t, took)

    def end(self) -> None:
        """The log has ended: what has not is taken to last as long as others of its function."""
        self._find_fresh()
        open_ = [one for one in self.evaluations.values() if one.state in ("waiting", "running")]
        known = defaultdict[str, list[float]](list)
        for one in self.evaluations.values() if open_ else ():
            if one.state == "done":
                known[one.function].append(one.seconds)
        for one in open_:
            self.counts["open"] += 1
            one.state = "done"
            if one.function in known:
                one.seconds = statistics.median(known[one.function])
            else:
                self.counts["untimed"] += 1

    def _find_fresh(self) -> None:
        """Find the functions whose evaluations had processes of their own: each was the first of its worker."""
        numbers = defaultdict[str, list[int]](list)
        for number, one in self.evaluations.items():
            if one.state == "done":
                numbers[one.function].append(number)
        cpus = sum(self.nodes.values())
        for those in numbers.values():
            if len(those) > 2 * cpus and self.clock.not_first.isdisjoint(those):
                for number in those:
                    self.evaluations[number].fresh = True

    def unknown(self) -> list[str]:
        """Return what the log cannot tell."""
        counts = self.counts
        found: list[str] = []
        if not self.told_flows and self.evaluations:
            found.append(
                "the log was written by an earlier version, which did not say what waited for what: all is replayed as "
                "one flow that keeps as many evaluations under way as it did then"
            )
        if counts["gaps"]:
            found.append("the log has a gap: what was evaluated there is missing, so the times are too short")
        if counts["unseen"]:
            found.append(f"{_several(counts['unseen'])} ended whose beginning is not in the log: they are left out")
        if not self.closed:
            found.append("the run has not ended, or was killed: what it would have evaluated later is not known")
        if counts["open"]:
            untimed = f", {counts['untimed']} of them 0 s, as none of their function had" if counts["untimed"] else ""
            found.append(
                f"{_several(counts['open'])} had not ended: they count with the median time of their function{untimed}"
            )
        if counts["cancelled"]:
            found.append(f"{_several(counts['cancelled'])} were cancelled: they run for as long as they did then")
        if counts["retried"]:
            found.append(
                f"{counts['retried']} times an evaluation failed and was tried again: so it is here, in one go"
            )
        if counts["left"]:
            found.append("nodes came and went: here each of them is there from the beginning to the end")
        if counts["nodes"]:
            found.append("nodes were lost or put aside, and the work on them was repeated: no node is lost here")
        return found


def _several(count: int) -> str:
    return f"{count} evaluation{'s' * (count != 1)}"


def _numbers(values: list[int]) -> list[int]:
    """Return them if they are whole numbers, as a foreign file's may not be; else raise ValueError."""
    if values and (set(map(type, values)) != {int} or min(values) < 0 or max(values) > sys.maxsize):
        raise ValueError("these are no numbers of evaluations")
    return values


def _times(values: Sequence[float]) -> Sequence[float]:
    """Return them if they are seconds; else raise ValueError."""
    if values and not (set(map(type, values)) <= {int, float} and min(values) >= 0 and sum(values) < LONGEST):
        raise ValueError("these are no times")
    return values


def _counted(value: int | list[int]) -> int:
    """Return how many these are; ValueError for what cannot be, such as a foreign file may have."""
    count = value if isinstance(value, int) else len(value)
    if not 0 <= count <= MOST:
        raise ValueError(f"{count} is out of range")
    return count


class _State:
    """A flow while the log is read again."""

    def __init__(self, since: float) -> None:
        self.since = since  # it could have gone on
        self.left = 0  # parts that have not begun
        self.under_way = 0
        self.begun = False


class _Parts:
    """Makes the parts of each flow, from what was submitted and what ended, in order."""

    def __init__(self, began: float, evaluations: dict[int, Recorded], parents: dict[int, int]) -> None:
        self.flows = defaultdict[int, list[Part]](list)
        self._evaluations, self._parents = evaluations, parents
        self._states: dict[int, _State] = {0: _State(began)}
        self._states[0].begun = True
        for one in evaluations.values():
            self._expect(one.flow)

    def _expect(self, flow: int) -> None:
        """A flow has one part more; its parents are to start it."""
        while True:
            known = flow in self._states
            state = self._states.setdefault(flow, _State(0.0))
            state.left += 1
            if known:
                return
            flow = self._parents.get(flow, 0)

    def step(self, t: float, number: int) -> None:
        """An evaluation was submitted; or it has ended, if the number is below 0."""
        flow = self._evaluations[abs(number)].flow
        if number > 0:
            self._begin(flow, t)
            self._add(flow, number, t, self._evaluations[number].of_map)
            return
        while True:
            state = self._states[flow]
            state.under_way -= 1
            state.since = t
            if state.left or state.under_way or not flow:
                return
            flow = self._parents.get(flow, 0)  # this one has ended

    def _begin(self, flow: int, t: float) -> None:
        """Let a flow be started by its parent, and that by its own, where they have not begun."""
        chain: list[int] = []
        while not self._states[flow].begun:
            chain.append(flow)
            self._states[flow].begun = True
            self._states[flow].since = t
            flow = self._parents.get(flow, 0)
        for started in reversed(chain):
            self._add(self._parents.get(started, 0), -started, t, of_map=False)

    def _add(self, flow: int, number: int, t: float, of_map: bool) -> None:
        state = self._states[flow]
        self.flows[flow].append(Part(number, state.under_way, max(t - state.since, 0.0), of_map))
        state.under_way += 1
        state.left -= 1
        state.since = t
