"""Suspects that are with a worker: evaluations that ran on a node when that was lost. A node gets one at a time."""

from __future__ import annotations

from collections import Counter

from hyperflow.scheduling.state import Task
from hyperflow.wire.numbers import TaskNumber


class Suspects:
    """Where they are."""

    def __init__(self) -> None:
        self.wait = False
        """None is started for now: nodes are being lost, and maybe more than those that are known."""
        self.node_of: dict[TaskNumber, str] = {}
        self.on: Counter[str] = Counter()
        """How many are on each node that has one."""

    def add(self, task: Task, node: str) -> None:
        """A node has got one."""
        if task.number not in self.node_of:
            self.node_of[task.number] = node
            self.on[node] += 1

    def acquit(self, task: Task) -> None:
        """A task has left its worker; it may have been one."""
        node = self.node_of.pop(task.number, None)
        if node is not None:
            self.on[node] -= 1
            if not self.on[node]:
                del self.on[node]
