"""What a run has evaluated, as its event log tells: for each function how often, how long, with what; and failures."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import attrs

from hyperflow import saying
from hyperflow.errors import HyperflowError
from hyperflow.events.schema import Event

MOST_FAILURES = 1000
"""So many failures are kept, the first ones; all are counted."""

TAIL = 0.95
"""The quantile that stands for slow evaluations."""


def _floats() -> array[float]:
    return array("d")


@attrs.define
class Function:
    """The evaluations of one function; or those that were given a name.

    Args:
        name: The function's, or the one that they were given.
        cpus: How many the last of them asked for.
        retried: How often one failed and was started again.
        seconds: How long each took that has ended with a result.
        measured: How many were measured; `cpu` are their seconds of CPU time, `memory` the most bytes of one; `read`
            and `written` are bytes of all of them.
        short: Seconds of CPU time of those that were not measured one by one.
    """

    name: str
    cpus: int = 1
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    running: int = 0
    waiting: int = 0
    seconds: array[float] = attrs.field(factory=_floats, repr=False)
    measured: int = 0
    cpu: float = 0.0
    memory: int = 0
    short: float = 0.0
    read: int = 0
    written: int = 0

    def quantile(self, part: float) -> float:
        """Return how long a part of the evaluations took at most; 0 if none has ended."""
        times = sorted(self.seconds)
        return times[min(int(part * len(times)), len(times) - 1)] if times else 0.0

    @property
    def total(self) -> float:
        """All seconds of the evaluations that have ended with a result."""
        return sum(self.seconds)


@attrs.frozen
class Failure:
    """An evaluation that has failed.

    Args:
        t: When, in seconds since 1970.
        retried: Whether it was started again.
        job: Its job in a Cluster program.
    """

    t: float
    task: int
    function: str
    call: str
    error: str
    worker: str
    retried: bool
    job: int | None = None


@attrs.frozen
class Learned:
    """What `using(memory="auto")` has learned of a function.

    Args:
        name: Its module and name, and the name that its evaluations were given.
        memory, min_time: What the next evaluation gets; 0 while too little is known.
        known: From how many evaluations that is.
        exceeded: How often one needed more than it had been given.
        given, used: Bytes times seconds.
    """

    name: str
    cpus: int
    memory: int
    min_time: float
    known: int
    exceeded: int
    given: float
    used: float


@attrs.define
class Summary:
    """What an event log tells of the last start of a run.

    Args:
        learned: What "auto" has learned, by the name of the function.
        functions: By name: that of the function, or the one that the evaluations were given.
        failures: The first ones; `failed` counts all, those that were retried included.
        last: The time of the last event.
        left_out: Bytes that are missing in a shortened copy.
        dropped: Evaluations whose ends are not in the log, because it has reached its limit.
    """

    functions: dict[str, Function] = attrs.field(factory=dict[str, Function])
    failures: list[Failure] = attrs.field(factory=list[Failure])
    learned: dict[str, Learned] = attrs.field(factory=dict[str, Learned])
    failed: int = 0
    last: float = 0.0
    left_out: int = 0
    dropped: int = 0
    _alive: dict[int, tuple[Function, str]] = attrs.field(factory=dict[int, tuple[Function, str]], repr=False)
    # what has not ended, with the worker where it is, "" while it waits

    def add(self, event: Event) -> None:
        """Take in the next event."""
        state = event.get("state", "")
        self.last = max(self.last, event.get("t", 0.0))
        if state == "left out":
            self.left_out += event.get("bytes", 0)
        elif state == "dropped":
            counts = event.get("counts", {})
            self.dropped += sum(counts.get(end, 0) for end in ("done", "failed", "cancelled", "superseded"))
        elif state == "measured":
            self._measure(event)
        elif state == "learned":
            members = [field.name for field in attrs.fields(Learned) if field.name != "name"]
            told = {member: event[member] for member in members}  # type: ignore[literal-required]
            name = event.get("function", "")
            self.learned[name] = Learned(name, **told)
        elif state == "used":
            self._used(event)
        elif "tasks" in event:
            self._add_tasks(state, event, event["tasks"])

    def _add_tasks(self, state: str, event: Event, tasks: list[int]) -> None:
        alive = self._alive
        if state == "waiting" and "function" in event:
            function = self._function(str(event.get("name") or event["function"]))
            cpus = event.get("cpus", 1)
            function.cpus = cpus if isinstance(cpus, int) else len(cpus)
            alive.update(dict.fromkeys(tasks, (function, "")))
        elif state in ("waiting", "failed"):
            for task in tasks:
                self._come_back(state, event, task)
        elif state == "running":
            worker = event.get("worker", "")
            alive.update((task, (alive[task][0], worker)) for task in tasks if task in alive)
        elif state == "done":
            seconds = event.get("seconds", 0.0)
            each = seconds if isinstance(seconds, list) else [seconds] * len(tasks)
            for task, took in zip(tasks, each, strict=False):
                if (found := alive.pop(task, None)) is not None:
                    found[0].done += 1
                    found[0].seconds.append(took)
        elif state in ("cancelled", "superseded"):
            for task in tasks:
                if (found := alive.pop(task, None)) is not None:
                    found[0].cancelled += state == "cancelled"
        elif state == "copied" and (found := alive.get(tasks[0])) is not None:
            alive[event.get("copy", 0)] = found[0], ""

    def _measure(self, event: Event) -> None:
        if (found := self._alive.get(event.get("of", 0))) is not None:
            function = found[0]
            function.measured += 1
            function.cpu += event.get("cpu", 0.0)
            function.memory = max(function.memory, event.get("memory", 0))

    def _used(self, event: Event) -> None:
        for name, sums in event.get("functions", {}).items():
            if (function := self.functions.get(name)) is not None:
                function.short = float(sums["short"])
                function.read, function.written = int(sums["read"]), int(sums["written"])

    def _come_back(self, state: str, event: Event, task: int) -> None:
        """A task waits again, or has failed."""
        function, worker = self._alive.get(task, (None, ""))
        error = event.get("error") or event.get("retry_after", "")
        if error:
            self.failed += 1
            if len(self.failures) < MOST_FAILURES:
                name, call = function.name if function is not None else "", event.get("call", "")
                retried = state == "waiting"
                self.failures.append(
                    Failure(float(event.get("t", 0.0)), task, name, str(call), str(error), str(worker), retried)
                )
        if function is None:
            return
        if state == "failed":
            function.failed += 1
            del self._alive[task]
        else:
            function.retried += bool(error)
            self._alive[task] = function, ""

    def _function(self, name: str) -> Function:
        found = self.functions.get(name)
        if found is None:
            found = self.functions[name] = Function(name)
        return found

    def count_alive(self) -> None:
        """Count what waits and what runs."""
        for function, worker in self._alive.values():
            if worker:
                function.running += 1
            else:
                function.waiting += 1


def summarise(events: Iterable[Event]) -> Summary:
    """Return what the log tells of the last start that is in it; raises HyperflowError if a line makes no sense."""
    summary = Summary()
    for event in events:
        if event.get("state") == "opened":
            summary = Summary()
        try:
            summary.add(event)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            text = f"the event log has a line that makes no sense: {saying.short_repr(event, 200)} ({error!r})"
            raise HyperflowError(text) from error
    summary.count_alive()
    return summary
