"""The nodes that are put aside: Trust decides, or a person does; this carries it out and tells it.

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

    def drain(self, node: str) -> None:
        """Start nothing more on a node; what runs there goes on. Raises ConfigurationError if it is not up."""
        self.check(node)
        needed = self.trust.drained(node)
        self._put_aside(node)
        self._take_back(needed, "no other node of its size is left")
        if not self._scheduler.pool.total:
            logger.warning("all nodes are put aside: nothing is started until `hyperflow node resume NODE`")

    def resume(self, node: str) -> None:
        """Use a node again. Raises ConfigurationError if it is not up."""
        self.check(node)
        self.trust.resumed(node)
        self._take_back([node], BY_HAND)

    def table(self) -> list[dict[str, str | float]]:
        """Return what is to know about each node that is up."""
        running = Counter[str]()
        for worker in self._scheduler.workers.values():
            running[worker.node] += worker.held
        for team in self._scheduler.teams.all.values():
            running[team.node] += len(team.held)
        return [
            {
                "node": name,
                "state": "aside" if name in self._scheduler.pool.aside else "up",
                "cpus": len(node.ids),
                "cpus_free": len(node.free),
                "gpus": len(node.gpus),
                "gpus_free": sum(node.gpus.values()) / PARTS,
                "running": running[name],
                "cause": self.trust.aside.get(name, ""),
            }
            for name, node in sorted(self._scheduler.pool.nodes.items())
        ]

    def check(self, node: str) -> None:
        """Raise ConfigurationError if a node is not up."""
        if node not in self._links:
            there = ", ".join(sorted(self._links)) or "none"
            raise ConfigurationError(f"{node!r} is no node that this run uses now; there are: {there}")

    def _put_aside(self, node: str) -> None:
        why = self.trust.aside[node]
        self._scheduler.put_aside(node)
        self._events.note("aside", node=node, cause=why)
        words = "node %s is put aside (%s): nothing more is started there; `hyperflow node resume %s` takes it back"
        logger.warning(words, node, why, node)

    def _take_back(self, nodes: Iterable[str], why: str) -> None:
        for node in nodes:
            if node in self._scheduler.pool.aside:
                self._scheduler.take_back(node)
                self._events.note("resumed", node=node, cause=why)
                logger.warning("node %s is used again: %s", node, why)
