"""What is lent, to whom, and what they say of themselves: the nouns of lending."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import attrs

SOON = 2.0
"""Seconds for which a CPU has to be idle until it is asked for because others wait."""

LATER = 30.0
"""Seconds after which it is asked for in any case."""

TURN = 60.0
"""Seconds for which a program keeps its first CPUs where there are too few for all; then others have their turn."""


class Unit(NamedTuple):
    """Evaluations that wait in a program: how many, and what each of them needs on one node."""

    number: int
    cpus: int = 1
    gpus: int = 0
    memory: int = 0
    """Bytes; 0 for a share of the node in proportion to its CPUs."""
    seconds: float | None = None
    """How long one takes, where that is known."""


@attrs.frozen
class Demand:
    """What a program says of itself: what waits, and of each node that it uses, how many CPUs it knew of and are idle.

    What was lent to it and it did not know of yet counts as idle: it will serve what waits.
    """

    waiting: Sequence[Unit] = ()
    held: Mapping[str, int] = attrs.field(factory=dict[str, int])
    idle: Mapping[str, int] = attrs.field(factory=dict[str, int])


class Lend(NamedTuple):
    """Give these CPUs to a program."""

    borrower: int
    node: str
    cpus: tuple[int, ...]
    gpus: tuple[str, ...] = ()


class Ask(NamedTuple):
    """Ask a program for so many CPUs, as soon as it can spare them."""

    borrower: int
    node: str
    cpus: int


Move: TypeAlias = Lend | Ask


@attrs.define(eq=False)
class Ground:
    """A node that is lent out."""

    name: str
    holders: list[int | None]
    """Of each CPU, by index."""
    gpus: dict[str, int | None] = attrs.field(factory=dict[str, "int | None"])
    memory: int = 0
    open: bool = True
    """False: nothing more is lent."""
    is_known: bool = True
    """False: a program says that it has CPUs there, and no such node has come yet."""

    def free(self) -> list[int]:
        return [index for index, holder in enumerate(self.holders) if holder is None]

    def of(self, borrower: int) -> list[int]:
        return [index for index, holder in enumerate(self.holders) if holder == borrower]

    def size_of(self, unit: Unit) -> int:
        """Return how many CPUs an evaluation takes here, with its memory."""
        each = self.memory // len(self.holders) if self.holders else 0
        return max(unit.cpus, -(-unit.memory // each) if each else 0)

    def could_serve(self, unit: Unit) -> bool:
        return self.open and self.size_of(unit) <= len(self.holders) and unit.gpus <= len(self.gpus)

    def spare_gpus(self, borrower: int, idle: int) -> list[str]:
        """Return those that are free, after those that it has here, if it has idle CPUs beside them."""
        own = [gpu for gpu, holder in self.gpus.items() if holder == borrower] if idle > 0 else []
        return own + [gpu for gpu, holder in self.gpus.items() if holder is None]


@attrs.define(eq=False)
class Borrower:
    """A program."""

    number: int
    demand: Demand = attrs.field(factory=Demand)
    held: dict[str, int] = attrs.field(factory=dict[str, int])
    """CPUs that it has, by node."""
    asked: dict[str, int] = attrs.field(factory=dict[str, int])
    """How many of them it has been asked for, and has not returned."""
    unfit: set[str] = attrs.field(factory=set[str])
    """Nodes that it cannot use."""
    idle_log: deque[tuple[float, int]] = attrs.field(factory=deque[tuple[float, int]])
    """Since when how many CPUs have been idle."""

    had: bool = False
    """Whether it has any CPU."""
    since: float = 0.0
    """Since when that is so."""

    def turn(self, now: float) -> tuple[float, ...]:
        """Return its place where there is not one evaluation for everybody: the smallest comes first."""
        if not self.had:
            return (1, self.since)
        return (0, self.since) if now < self.since + TURN else (2, -self.since)

    def note_held(self, now: float) -> None:
        if bool(self.held) != self.had:
            self.had, self.since = bool(self.held), now

    def staying(self, node: str) -> int:
        """Return how many CPUs of a node it has and was not asked for."""
        return self.held.get(node, 0) - self.asked.get(node, 0)

    def idle_at(self, node: str) -> int:
        """Return how many CPUs of a node can serve what waits."""
        unknown = max(self.held.get(node, 0) - self.demand.held.get(node, 0), 0)
        found = self.demand.idle.get(node, 0) + unknown - self.asked.get(node, 0)
        return max(min(found, self.staying(node)), 0)

    def idle_for(self, seconds: float, now: float) -> int:
        """Return how many CPUs have been idle for so long."""
        least: int | None = None
        for when, count in reversed(self.idle_log):
            least = count if least is None else min(least, count)
            if when <= now - seconds:
                return least
        return 0

    def note_idle(self, now: float) -> None:
        count = sum(self.demand.idle.values())
        if not self.idle_log or self.idle_log[-1][1] != count:
            self.idle_log.append((now, count))
        while len(self.idle_log) > 1 and self.idle_log[1][0] <= now - LATER:
            self.idle_log.popleft()
