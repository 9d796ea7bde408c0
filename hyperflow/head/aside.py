"""The nodes that are put aside: Trust decides, or a person, or who has to give them back; this carries it out.

Told each time: the log, the event log, the statistics, `hyperflow nodes`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from hyperflow.errors import ConfigurationError
from hyperflow.events.writer import EventLog
from hyperflow.head.link import Link
from hyperflow.scheduling.placement import PARTS
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.trust import BY_HAND, Trust

logger = logging.getLogger("hyperflow")

RUNNING, DRAINING, DRAINED = "running", "draining", "drained"
"""States of a node: evaluations start there; none does, but some still run; and none is left."""


class NodesAside:
    """Puts nodes aside and takes them back. The caller then lets the scheduler act."""

    def __init__(self, scheduler: Scheduler, links: Mapping[str, Link], events: EventLog) -> None:
        self.trust = Trust(scheduler.pool)
        self._scheduler = scheduler
        self._links = links
        self._events = events

    def recovered(self, node: str, failed_on: Iterable[str]) -> None:
        """An evaluation that had failed on these nodes succeeded on this one."""
        for bad in self.trust.recovered(node, failed_on):
            self._put_aside(bad)

    def lost(self, node: str) -> None:
        """A node has gone; those that are needed now are used again."""
        self._take_back(self.trust.lost(node), "no other node of its size is left")

    def drain(self, node: str, cause: str = BY_HAND) -> None:
        """Start nothing more on a node; what runs there goes on. Raises ConfigurationError if it is not up."""
        self.check(node)
        before = self.trust.aside[node] if node in self.trust.drained else None
        if before == cause or (before is not None and cause == BY_HAND):
            return  # who has to give it back goes on with that
        needed = self.trust.drain(node, cause)
        self._put_aside(node)
        self._take_back(needed, "no other node of its size is left")
        if cause == BY_HAND and not self._scheduler.pool.total:
            logger.warning("all nodes are put aside: nothing is started until `hyperflow node resume NODE`")

    def resume(self, node: str, cause: str = BY_HAND) -> None:
        """Use a node again. Raises ConfigurationError if it is not up, or is not for this one to take back."""
        self.check(node)
        why = self.trust.aside.get(node, BY_HAND)
        if cause == BY_HAND and node in self.trust.drained and why != BY_HAND:
            raise ConfigurationError(
                f"node {node!r} is drained because {why}: it is to be given back, and cannot be resumed"
            )
        self.trust.resumed(node)
        self._take_back([node], cause)

    def table(self) -> list[dict[str, str | float]]:
        """Return what is to know about each node that is up."""
        running = Counter[str]()
        for worker in self._scheduler.workers.values():
            running[worker.node] += worker.held
            for place in worker.elsewhere:
                running[place.node] += worker.held
        for team in self._scheduler.teams.all.values():
            running[team.node] += len(team.held)
        return [
            {
                "node": name,
                "state": self._state(name, running[name] > 0),
                "cpus": len(node.ids),
                "cpus_free": len(node.free),
                "gpus": len(node.gpus),
                "gpus_free": sum(node.gpus.values()) / PARTS,
                "running": running[name],
                "cause": self.trust.aside.get(name, ""),
            }
            for name, node in sorted(self._scheduler.pool.nodes.items())
        ]

    def _state(self, node: str, busy: bool) -> str:
        if node not in self._scheduler.pool.aside:
            return RUNNING
        return DRAINING if busy else DRAINED

    def check(self, node: str) -> None:
        """Raise ConfigurationError if a node is not up."""
        if node not in self._links:
            there = ", ".join(sorted(self._links)) or "none"
            raise ConfigurationError(f"{node!r} is no node that this run uses now; there are: {there}")

    def _put_aside(self, node: str) -> None:
        why = self.trust.aside[node]
        self._scheduler.put_aside(node)
        if node in self.trust.drained and why != BY_HAND:
            self._events.note("draining", node=node, cause=why)
            logger.info("node %s is drained (%s): nothing more is started there", node, why)
            return
        self._events.note("aside", node=node, cause=why)
        words = "node %s is put aside (%s): nothing more is started there; `hyperflow node resume %s` takes it back"
        logger.warning(words, node, why, node)

    def _take_back(self, nodes: Iterable[str], why: str) -> None:
        for node in nodes:
            if node in self._scheduler.pool.aside:
                self._scheduler.take_back(node)
                self._events.note("resumed", node=node, cause=why)
                logger.warning("node %s is used again: %s", node, why)
