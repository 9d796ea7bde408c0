"""How many allocations of which kind what waits is worth. Pure: what waits and what there is in, numbers out.

Guarantees:
- What waits and fits is worth at least one allocation where no node that is up has room for it; what fits no kind of
  the pool is worth none.
- Never more than what waits can occupy at once; nor more than it keeps busy for `target_duration`.
- What nodes that are up will do of it within `target_duration` is not asked for again; how many allocations are queued
  is compared with the answer, and so not asked for again either.

The time of what waits is the mean of its function. Where nobody knows it, the first allocation tells.

Rejected: a share of the nodes that are up in place of the time that they have (Dask's occupancy): beside evaluations of
an hour, a busy node is no help to what waits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import attrs

from hyperflow.pools.kinds import Kind, Room
from hyperflow.request import Request, Want

_ROUNDING = 1e-6


class Need(NamedTuple):
    """How many allocations of each kind should be queued or starting, for what nodes that are up cannot do soon."""

    allocations: tuple[int, ...]
    why: str
    unfit: int = 0
    """Evaluations that fit no kind which may be asked for now."""
    gathering: frozenset[int] = frozenset()
    """Kinds of which something waits for several nodes at a time."""


@attrs.define
class Standing:
    """Nodes that are up and take work: so many with this room."""

    room: Room
    nodes: int
    left: float = 1.0
    """The part of their time that nobody has been promised."""

    def take(self, slots: float, seconds: float, number: float, target: float) -> float:
        """Take on what can be done within the target, so many at a time; return how many evaluations are left."""
        if number <= 0:
            return number
        # Each CPU is at something now, which takes half as long as a whole one on average.
        spare = min(target * self.left, self.room.seconds) - seconds / 2
        can = slots * spare / seconds
        if can <= 0:
            return number
        taken = min(number, can)
        self.left -= taken * seconds / (slots * target)
        return number - taken


def needed(
    wants: Sequence[Want],
    kinds: Sequence[Kind],
    standing: Sequence[Standing],
    free_cpus: int,
    target: float,
    closed: Collection[int] = (),
) -> Need:
    """Say how many allocations are needed beside what is up.

    Args:
        wants: What waits, the most urgent first.
        kinds: Those of the pool; of several that fit, the first counts.
        standing: Nodes that are up; changed.
        free_cpus: CPUs of theirs that have nothing to do.
        target: For how long an allocation should be busy, in seconds.
        closed: Numbers of kinds that may not be asked for now.
    """
    shares = [0.0] * len(kinds)
    least = [0] * len(kinds)
    gathering = set[int]()
    able: dict[Request, list[tuple[Standing, float]]] = {}  # many functions ask for the same
    waiting = unfit = 0
    work = 0.0
    for want in wants:
        request, number = want.request, want.number
        waiting += number
        if request.wanted() is None and request.cpus == 1 and not request.speculative:
            taken = min(number, free_cpus)  # it runs anywhere, and is just not there yet
            number, free_cpus = number - taken, free_cpus - taken
        if number <= 0 or request.speculative:
            continue
        kind = next((kind for kind in kinds if kind.number not in closed and kind.room().slots(request)), None)
        if request not in able:
            slots_of = ((each, each.room.slots(request) * each.nodes / request.nodes) for each in standing)
            able[request] = [(each, slots) for each, slots in slots_of if slots]
        there = sum(each.nodes for each, _ in able[request])
        fits_now = there >= request.nodes
        if kind is None:
            unfit += 0 if fits_now else number
            continue
        if request.nodes > 1:
            gathering.add(kind.number)
        if want.seconds is None:
            left = 0.0 if fits_now else float(number)
            seconds = target  # one allocation, below; then it is known
        else:
            seconds, left = max(want.seconds, 1e-3), float(number)
            for each, slots in able[request] if fits_now else ():
                left = each.take(slots, seconds, left, target)
        work += number * (want.seconds or 0.0) * request.cpus * request.nodes
        if left <= _ROUNDING:
            continue
        slots = kind.room().slots(request) * kind.nodes
        share = left * request.nodes / slots * min(1.0, seconds / target)
        share = share if fits_now else max(share - there / kind.nodes, 0.0)
        shares[kind.number] += share if want.seconds is not None else min(share, 1.0 if share else 0.0)
        least[kind.number] = max(least[kind.number], 0 if fits_now else math.ceil((request.nodes - there) / kind.nodes))
    counts = tuple(max(math.ceil(share - _ROUNDING), low) for share, low in zip(shares, least, strict=True))
    return Need(counts, _why(waiting, work, counts, kinds, target, unfit), unfit, frozenset(gathering))


def _why(waiting: int, work: float, counts: Sequence[int], kinds: Sequence[Kind], target: float, unfit: int) -> str:
    if not waiting:
        return "nothing waits"
    said = f"{waiting} evaluation{'s' * (waiting != 1)} wait{'s' * (waiting == 1)}"
    if work:
        said += f", {work:.3g} CPU seconds of work"
    asked = [f"{count} of {kind.name}" for count, kind in zip(counts, kinds, strict=True) if count]
    if asked:
        said += f": {' and '.join(asked)}, to be done within {target:g} s"
    elif not unfit:
        said += "; the nodes that are up do that soon enough"
    if unfit:
        said += f"; {unfit} fit no allocation that may be asked for now"
    return said
