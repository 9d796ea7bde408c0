"""One allocation of a pool: what it is at, its nodes, and what can be ordered for it. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import attrs

from hyperflow.head.capacity import NOTHING, Supply
from hyperflow.slurm.queue import BatchState

State: TypeAlias = Literal["submitting", "pending", "starting", "up", "draining", "ending", "ended"]

QUEUED: tuple[State, ...] = ("submitting", "pending")
COMING: tuple[State, ...] = (*QUEUED, "starting")
LIVE: tuple[State, ...] = (*COMING, "up")

Standings: TypeAlias = Literal["coming", "trying", "up", "failed", "lost"]


@attrs.define
class Place:
    """A node of an allocation. Its name is that of its host, unless another allocation has some of the same host."""

    name: str
    cpus: int
    host: str = ""
    supply: Supply = NOTHING
    state: Standings = "coming"
    tries: int = 0
    again: float = 0.0
    """When it may be tried."""
    why: str = ""
    busy: bool = False
    takes_work: bool = True
    """Whether anything may be started there: nobody has put it aside."""


@attrs.define
class Allocation:
    """One allocation, from before it is submitted until Slurm says that it has ended.

    Args:
        number: Its name in the pool's directory; never used again.
        kind: The number of its kind.
        token: Its idempotency key.
        since: When it came into its state, in seconds since 1970.
        reason: Why it waits, in Slurm's words.
        cause: Why it drains, or has ended.
        asked: What its kind was called when it was asked for; `hyperflow pool resume --partition` may rename that.
    """

    number: int
    kind: int
    token: str
    state: State
    since: float
    slurm_job: int | None = None
    reason: str = ""
    cause: str = ""
    ends: float | None = None
    places: dict[str, Place] = attrs.field(factory=dict[str, Place])
    adopted: bool = False
    asked: str = ""
    was_up: bool = False
    idle_since: float | None = None
    hopeless_since: float | None = None
    said: BatchState = attrs.field(factory=BatchState)

    @property
    def up(self) -> list[Place]:
        return [place for place in self.places.values() if place.state == "up"]

    def is_busy(self) -> bool:
        return any(place.busy for place in self.places.values())

    def to(self, state: State, now: float, cause: str = "") -> None:
        """Enter a state."""
        self.state, self.since = state, now
        self.cause = cause or self.cause


class Submit(NamedTuple):
    """Ask Slurm for an allocation."""

    allocation: Allocation


class BringUp(NamedTuple):
    """Use a node."""

    allocation: Allocation
    place: Place


class DrainNodes(NamedTuple):
    """Start nothing more on the nodes of an allocation."""

    allocation: Allocation
    cause: str


class GiveBack(NamedTuple):
    """Release the nodes of an allocation and cancel it; or take it from the queue."""

    allocation: Allocation
    cause: str


Order: TypeAlias = Submit | BringUp | DrainNodes | GiveBack
