"""The nodes of a run, as its event log tells: which state each is in, why, and how evaluations ended there.

A node that went and came again is one row: it is as it stands now, and its counts are those of all its times.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

from hyperflow.events.schema import Event

CAUSES_AS_STATES = ("idle timeout", "time limit")
"""Why a node was given back, where that says more than "released"."""


@attrs.define
class NodeState:
    """One node.

    Args:
        state: "running"; "draining" and "drained", where nothing more is started: something still runs there, or
            nothing; "lost", "not started"; "released", "idle timeout" or "time limit", where it was given back; "ended"
            with its run.
        cpus: Those that evaluations may have; `gpus`: likewise.
        done: Evaluations that ended there with a result.
        failed: How often an evaluation failed there, also where it was started again.
        cause: Why it is drained, lost, given back or not started.
        busy: CPUs that evaluations have.
        since: When the state began, in seconds since 1970; a drained node has been in it since it was put aside.
        ends: When its allocation ends, in seconds since 1970; None where that is not known.
        came: How often it came.
    """

    node: str
    state: str = "running"
    cpus: int = 0
    done: int = 0
    failed: int = 0
    cause: str = ""
    gpus: int = 0
    busy: int = 0
    since: float = 0.0
    ends: float | None = None
    came: int = 0

    @property
    def is_up(self) -> bool:
        """Whether the run has it, also if nothing more is started there."""
        return self.state in ("running", "draining", "drained")

    @property
    def has_left(self) -> bool:
        """Whether it was there, and has gone while the run went on."""
        return self.came > 0 and not self.is_up and self.state != "ended"

    def end(self, t: float | None = None) -> None:
        """The run has ended, at `t`."""
        if self.is_up:
            self.state, self.cause, self.busy, self.ends = "ended", "", 0, None
            self.since = self.since if t is None else t


class _Reading:
    """Takes in one event after the other."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeState] = {}
        self._places: dict[int, tuple[str, str]] = {}  # where each task is: the node, and the worker if that is known
        self._cpus: dict[int, int] = {}  # of tasks that need several

    def add(self, event: Event) -> None:
        state, node = event.get("state", ""), event.get("node")
        if "tasks" in event:
            self._add_tasks(state, event)
        elif state == "closed":
            for each in self.nodes.values():
                each.end(event.get("t"))
        elif node is not None:
            self._add_node(state, event, self.nodes.setdefault(node, NodeState(node)))

    def _add_tasks(self, state: str, event: Event) -> None:
        tasks, places = event.get("tasks", ()), self._places
        if state == "running":
            worker = event.get("worker", "")
            places.update(dict.fromkeys(tasks, (worker.rpartition("@")[2], worker)))
        elif state == "queued":
            places.update(dict.fromkeys(tasks, (event.get("node", ""), "")))
        elif state == "waiting" and "function" in event:
            cpus = event.get("cpus", 1)
            if (count := cpus if isinstance(cpus, int) else len(cpus)) > 1:
                self._cpus.update(dict.fromkeys(tasks, count))
        else:
            failed, ended = state == "failed" or "retry_after" in event, state != "waiting"
            for task in tasks:
                if (there := self.nodes.get(places.pop(task, ("", ""))[0])) is not None:
                    there.done += state == "done"
                    there.failed += failed
                if ended and self._cpus:
                    self._cpus.pop(task, None)

    def _add_node(self, state: str, event: Event, node: NodeState) -> None:
        cause = event.get("cause", "")
        if state == "up":
            cpus = event.get("cpus", 0)
            node.cpus = len(cpus) if isinstance(cpus, list) else cpus
            node.gpus = len(event.get("gpus", ()))
            node.ends = event.get("ends")
            node.came += 1
            node.state, node.cause = "running", ""
        elif state == "resumed":
            node.state, node.cause = "running", ""
        elif state in ("aside", "draining"):
            node.state, node.cause = "draining", cause
        elif state == "left":
            node.state, node.cause = cause if cause in CAUSES_AS_STATES else "released", cause
        elif state in ("lost", "not started"):
            node.state, node.cause = state, cause
        else:
            return
        node.since = event.get("t", 0.0)
        if not node.is_up:
            node.ends = None

    def finished(self) -> list[NodeState]:
        """Return the nodes, with what runs on each."""
        at_worker: dict[tuple[str, str], int] = {}
        for task, (node, worker) in self._places.items():
            cpus, key = self._cpus.get(task, 1), (node, worker)
            # A worker is in one of its tasks; in the queue of a node, as many are run as have room.
            at_worker[key] = max(at_worker.get(key, 0), cpus) if worker else at_worker.get(key, 0) + cpus
        for (name, _), cpus in at_worker.items():
            if (there := self.nodes.get(name)) is not None and there.is_up:
                there.busy = min(there.busy + cpus, there.cpus)
        for each in self.nodes.values():
            if each.state == "draining" and not each.busy:
                each.state = "drained"
        return sorted(self.nodes.values(), key=_by_name)


def node_states(events: Iterable[Event]) -> list[NodeState]:
    """Return the nodes of the run that is in the log, or of the last one if several went on with it, by name."""
    reading = _Reading()
    for event in events:
        if event.get("state", "") == "opened":
            reading = _Reading()
        reading.add(event)
    return reading.finished()


def _by_name(node: NodeState) -> list[str | int]:
    """Order node9 before node10. (Texts and numbers alternate, so equals are compared with equals.)"""
    return [int(part) if part.isdecimal() else part for part in re.split("([0-9]+)", node.node)]
