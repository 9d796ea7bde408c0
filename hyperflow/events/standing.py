"""How one evaluation stands, as the event log tells: whether it waits, runs or has ended, and what is around it.

Memory follows what waits and runs, not what has been.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from hyperflow import saying
from hyperflow.errors import HyperflowError
from hyperflow.events.schema import Event


@attrs.define
class Standing:
    """An evaluation.

    Args:
        state: "waiting", "running", "done", "failed", "cancelled" or "superseded".
        since: The time of its last change, in seconds since 1970.
        cpus: How many it needs.
        worker: Where it is, or was last.
        queue: The node in whose queue it waits; some of those are with its workers already, the oldest ones first.
        cause: Why it waits again, or with what it has failed.
        call: The function with its arguments, where it has failed.
        seconds: How long it took, once it is done.
        other: The number of its copy; where it is superseded, the one that counts.
    """

    task: int
    function: str
    cpus: int
    state: str
    since: float
    worker: str = ""
    queue: str = ""
    cause: str = ""
    call: str = ""
    seconds: float = 0.0
    other: int = 0

    @property
    def node(self) -> str:
        """The node where it is, or was last."""
        return self.worker.rpartition("@")[2]


@attrs.define
class Node:
    """A node, with its CPUs; `idle` says why nothing is started on it, "" if it is used."""

    name: str
    cpus: int
    idle: str = ""


@attrs.define
class Picture:
    """A run at the end of its log.

    Args:
        wanted: The evaluation that is asked about; None if there is none of that number.
        alive: All that waits or runs, in the order in which it was submitted or came back.
        ending: Why nothing more is started; "" if it is.
        closed: Whether the run has ended.
        last: The time of the last event.
    """

    number: int
    wanted: Standing | None = None
    alive: dict[int, Standing] = attrs.field(factory=dict[int, Standing])
    nodes: dict[str, Node] = attrs.field(factory=dict[str, Node])
    ending: str = ""
    closed: bool = False
    last: float = 0.0

    def add(self, event: Event) -> None:
        """Take in the next event."""
        state = event.get("state", "")
        self.last = max(self.last, event.get("t", 0.0))
        if "tasks" in event:
            self._add_tasks(state, event)
        elif state == "ending":
            self.ending = str(event.get("cause", ""))
        elif state == "closed":
            self.closed = True
        elif "node" in event:
            self._add_node(state, event)

    def _add_node(self, state: str, event: Event) -> None:
        name = str(event.get("node"))
        cpus = event.get("cpus", 0)
        if state == "up":
            self.nodes[name] = Node(name, len(cpus) if isinstance(cpus, list) else cpus)
        elif state in ("lost", "left", "not started"):
            self.nodes.pop(name, None)
        elif name in self.nodes and state in ("aside", "draining", "resumed"):
            self.nodes[name].idle = "" if state == "resumed" else str(event.get("cause", "")) or "it is put aside"

    def _add_tasks(self, state: str, event: Event) -> None:
        now = event.get("t", 0.0)
        for place, task in enumerate(event.get("tasks", ())):
            if state == "waiting" and "function" in event:
                cpus = event.get("cpus", 1)
                made = Standing(task, str(event["function"]), cpus if isinstance(cpus, int) else len(cpus), state, now)
                self._enter(made)
            elif (found := self.alive.get(task)) is not None:
                self._change(found, state, event, place)

    def _enter(self, made: Standing) -> None:
        self.alive[made.task] = made
        if made.task == self.number:
            self.wanted = made

    def _change(self, found: Standing, state: str, event: Event, place: int) -> None:
        if state == "copied":
            copy = attrs.evolve(found, task=event.get("copy", 0), state="waiting", since=event.get("t", 0.0), worker="")
            found.other = copy.task
            self._enter(copy)
            return
        if state == "withheld":
            found.state = "waiting"
            found.cause = f"its node was lost, and must have ended it: {event.get('seconds', 0.0):.0f} s"
            return
        found.state, found.since = "waiting" if state == "queued" else state, event.get("t", 0.0)
        found.worker, found.queue = event.get("worker", found.worker), ""
        found.call = str(event.get("call", found.call))
        if state == "waiting":
            found.cause = _why_again(event)
            self.alive[found.task] = self.alive.pop(found.task)
        elif state == "running":
            found.cause = ""
        elif state == "queued":
            found.cause, found.queue = "", str(event.get("node", ""))
        else:
            seconds = event.get("seconds", 0.0)
            found.seconds = seconds[place] if isinstance(seconds, list) else seconds
            found.cause = str(event.get("error", ""))
            found.other = event.get("by", found.other)
            del self.alive[found.task]

    def before(self, one: Standing) -> list[Standing]:
        """Return what waits longer."""
        found: list[Standing] = []
        for other in self.alive.values():
            if other is one:
                break
            if other.state == "waiting":
                found.append(other)
        return found

    def at(self, node: str) -> Iterator[Standing]:
        """Yield what runs on a node: of what a worker has been sent, the first; the others wait there for it.

        Of what is in the queue of the node, the oldest are with its workers, as many as have room.
        """
        busy: set[str] = set()
        free = self.nodes[node].cpus if node in self.nodes else 0
        for one in self.alive.values():
            if one.state == "running" and one.node == node and one.worker not in busy:
                busy.add(one.worker)
                free -= one.cpus
                yield one
        for one in self.alive.values():
            if one.queue == node and one.cpus <= free:
                free -= one.cpus
                yield one


def _why_again(event: Event) -> str:
    if "retry_after" in event:
        return f"it is tried again after {event['retry_after']}"
    if "returned_by" in event:
        return f"{event['returned_by']}, which had it, has ended"
    return ""


def picture(events: Iterable[Event], number: int) -> Picture:
    """Return how the last start in the log stands; raises HyperflowError if a line makes no sense."""
    found = Picture(number)
    for event in events:
        if event.get("state") == "opened":
            found = Picture(number)
        try:
            found.add(event)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            text = f"the event log has a line that makes no sense: {saying.short_repr(event, 200)} ({error!r})"
            raise HyperflowError(text) from error
    return found
