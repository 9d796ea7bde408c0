"""The nodes of a run, as its event log tells: which state each is in, why, and how evaluations ended there."""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

from hyperflow.events.schema import Event


@attrs.define
class NodeState:
    """One node.

    Args:
        state: "up", "aside", "lost", "not started", or "ended" with its run.
        cpus: Those that evaluations may have; `gpus`: likewise.
        done: Evaluations that ended there with a result.
        failed: How often an evaluation failed there, also where it was started again.
        cause: Why it is put aside, lost or not started.
    """

    node: str
    state: str = "up"
    cpus: int = 0
    done: int = 0
    failed: int = 0
    cause: str = ""
    gpus: int = 0

    @property
    def is_up(self) -> bool:
        """Whether the run uses it, or would if it were not put aside."""
        return self.state in ("up", "aside")

    def end(self) -> None:
        """The run has ended."""
        if self.is_up:
            self.state, self.cause = "ended", ""


def node_states(events: Iterable[Event]) -> list[NodeState]:
    """Return the nodes of the run that is in the log, or of the last one if several went on with it, by name."""
    nodes: dict[str, NodeState] = {}
    places: dict[int, str] = {}  # where each task is
    for event in events:
        state, node = event.get("state", ""), event.get("node")
        if state == "opened":
            nodes, places = {}, {}
        elif state == "closed":
            for each in nodes.values():
                each.end()
        elif state == "running":
            places.update(dict.fromkeys(event.get("tasks", ()), event.get("worker", "").rpartition("@")[2]))
        elif "tasks" in event:
            failed = state == "failed" or "retry_after" in event
            for task in event["tasks"]:
                if (there := nodes.get(places.pop(task, ""))) is not None:
                    there.done += state == "done"
                    there.failed += failed
        elif node is not None:
            _tell_of_node(event, nodes.setdefault(node, NodeState(node)))
    return sorted(nodes.values(), key=_by_name)


def _by_name(node: NodeState) -> list[str | int]:
    """Order node9 before node10. (Texts and numbers alternate, so equals are compared with equals.)"""
    return [int(part) if part.isdecimal() else part for part in re.split("([0-9]+)", node.node)]


def _tell_of_node(event: Event, node: NodeState) -> None:
    state = event.get("state", "")
    if state == "up":
        cpus = event.get("cpus", 0)
        node.cpus = len(cpus) if isinstance(cpus, list) else cpus
        node.gpus = len(event.get("gpus", ()))
    if state in ("up", "resumed"):
        node.state, node.cause = "up", ""
    elif state in ("aside", "lost", "not started"):
        node.state, node.cause = state, event.get("cause", "")
