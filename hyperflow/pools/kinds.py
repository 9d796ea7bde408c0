"""The kinds of allocations that a pool may ask for: what one of them has, before there is any. Pure."""

from __future__ import annotations

import math

import attrs

from hyperflow.request import Capacity, NodeKind, Request
from hyperflow.slurm.script import SbatchOptions


@attrs.frozen
class Kind:
    """One kind of allocation.

    A holder is not to be requeued: Slurm would start it again under its old number, while what ran there goes on
    elsewhere. A new allocation is asked for instead, if anything needs it.

    Args:
        number: Its place in the pool's list.
        options: What is asked of Slurm.
        seen_cpus: What nodes of this kind had; more than was asked for where Slurm grants whole cores or nodes.
    """

    number: int
    options: SbatchOptions
    seen_cpus: int = 0

    @classmethod
    def of(cls, number: int, options: SbatchOptions) -> Kind:
        """Return the kind that these options ask for."""
        return cls(number, options.changed(requeue=False))

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
        return max(self.options.cpus, self.seen_cpus)

    @property
    def gpus(self) -> int:
        """Of each node."""
        return self.options.gpus

    @property
    def memory(self) -> int:
        """Bytes of each node; 0 where nobody knows."""
        return self.options.memory

    @property
    def seconds(self) -> float:
        """How long an allocation lasts."""
        return self.options.time_limit or math.inf

    def node_kind(self, most: int) -> NodeKind:
        """Return the same for who asks what may come; `most`: allocations at a time."""
        capacity = Capacity(tuple(map(str, range(self.gpus))), self.memory, self.seconds)
        return NodeKind(self.name, self.cpus, capacity, most * self.nodes)

    def room(self) -> Room:
        """Return what one of its nodes has room for."""
        return Room(self.cpus, self.gpus, self.memory, self.seconds)


@attrs.frozen
class Room:
    """What a node has, or will have; memory 0 and CPUs 0 where nobody knows."""

    cpus: int
    gpus: int = 0
    memory: int = 0
    seconds: float = math.inf
    """How long it lasts."""

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
