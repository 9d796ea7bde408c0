"""The kinds of allocations that a pool may ask for: what one of them has, before there is any. Pure."""

from __future__ import annotations

import math

import attrs

from hyperflow.head.capacity import NOTHING, Supply
from hyperflow.request import Capacity, NodeKind, Request
from hyperflow.slurm.script import SbatchOptions

USUAL_MARGIN = 60.0
"""Seconds before its end in which nothing is started any more; of a short allocation, a quarter of its time."""


@attrs.frozen
class Room:
    """What a node has, or will have; memory 0 and CPUs 0 where nobody knows."""

    cpus: int
    gpus: int = 0
    memory: int = 0
    seconds: float = math.inf
    """How long it takes work."""

    def slots(self, request: Request) -> int:
        """Return how many evaluations that ask for this fit at a time; 0 for none."""
        if request.min_time > self.seconds or request.cpus > self.cpus:
            return 0
        slots = self.cpus // max(request.cpus, 1)
        if request.gpus:
            slots = min(slots, math.floor(self.gpus / request.gpus + 1e-9))
        if request.memory and self.memory:
            slots = min(slots, self.memory // request.memory)
        return slots


@attrs.frozen
class Kind:
    """One kind of allocation.

    A holder is not to be requeued: Slurm would start it again under its old number, while what ran there goes on
    elsewhere. A new allocation is asked for instead, if anything needs it.

    Args:
        number: Its place in the pool's list.
        options: What is asked of Slurm.
        said: What the program says that each node has.
        margin: So many seconds before its end nothing is started any more; 0 for the usual.
        seen: The most that a node of this kind has had: more than was asked for where Slurm grants whole cores or
            nodes; and what nobody has asked for. (Else allocations would be asked for again and again, for what fits
            none.)
    """

    number: int
    options: SbatchOptions
    said: Supply = NOTHING
    margin: float = 0.0
    seen: Room = Room(0, seconds=0.0)

    @classmethod
    def of(cls, number: int, options: SbatchOptions, said: Supply = NOTHING, margin: float = 0.0) -> Kind:
        """Return the kind that these options ask for."""
        return cls(number, options.changed(requeue=False), said, margin)

    def having(self, seen: Room) -> Kind:
        """Return the same, now that a node has been seen to have this; 0 of what nobody knows."""
        one, other = attrs.astuple(self.seen), attrs.astuple(seen)
        return attrs.evolve(self, seen=Room(*map(max, one, other)))

    @property
    def name(self) -> str:
        """For people."""
        return self.options.partition or "the default partition"

    @property
    def nodes(self) -> int:
        return self.options.nodes

    @property
    def cpus(self) -> int:
        """Of each node."""
        return max(self.options.cpus, self.seen.cpus)

    @property
    def gpus(self) -> int:
        """Of each node."""
        if self.said.gpus is not None:
            return len(self.said.gpus)
        return max(self.options.gpus, self.seen.gpus)

    @property
    def memory(self) -> int:
        """Bytes of each node; 0 where nobody knows."""
        return self.said.memory or self.seen.memory or self.options.memory

    @property
    def seconds(self) -> float:
        """How long an allocation lasts."""
        return self.options.time_limit or self.seen.seconds or math.inf

    @property
    def takes_work(self) -> float:
        """For how many seconds evaluations are started there."""
        return self.seconds - self.last

    @property
    def last(self) -> float:
        """How many seconds before its end it is drained."""
        return self.margin or min(USUAL_MARGIN, self.seconds / 4)

    def node_kind(self, most: int) -> NodeKind:
        """Return the same for who asks what may come; `most`: allocations at a time."""
        capacity = Capacity(tuple(map(str, range(self.gpus))), self.memory, self.takes_work)
        return NodeKind(self.name, self.cpus, capacity, most * self.nodes)

    def room(self) -> Room:
        """Return what one of its nodes has room for."""
        return Room(self.cpus, self.gpus, self.memory, self.takes_work)
