"""Fair shares: how many CPUs each of several programs should have of a number of CPUs.

Max-min fair, in units: CPUs are given out one evaluation at a time, each time to the program that has the fewest so far
and wants more. So nobody gets less than an equal share unless it wants less, and what one does not want goes to the
others. A program whose evaluations are larger than an equal share gets one of them all the same: else it would never
run. Where there is not one evaluation for everybody, `turn` says who is next. Between others that are equal, who holds
more goes first: a share that is settled stays as it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Claim(NamedTuple):
    """What one program could use."""

    units: Sequence[tuple[int, int]]
    """CPUs of one evaluation, and how many of those, in the order in which they are wanted."""
    holds: int = 0
    """CPUs that it holds now."""
    turn: tuple[float, ...] = ()
    """Who comes first while nobody has got anything: the smallest."""


def fair(claims: Mapping[int, Claim], cpus: int) -> dict[int, int]:
    """Return how many of the CPUs each program should have."""
    shares = dict.fromkeys(claims, 0)
    left = {number: [[size, count] for size, count in claim.units if count > 0] for number, claim in claims.items()}
    heap = [(0, claims[number].turn, number) for number, units in left.items() if units]
    heapq.heapify(heap)
    while heap:
        share, _, number = heapq.heappop(heap)
        units = left[number]
        size, count = units[0]
        if size > cpus:
            continue  # it does not fit any more; smaller ones behind it come after it
        taken = _bite(size, count, share, cpus, heap)
        shares[number] += size * taken
        cpus -= size * taken
        units[0][1] -= taken
        if not units[0][1]:
            units.pop(0)
        if units:
            heapq.heappush(heap, (shares[number], (-float(claims[number].holds),), number))
    return shares


def _bite(size: int, count: int, share: int, cpus: int, others: Sequence[tuple[int, tuple[float, ...], int]]) -> int:
    """Return how many evaluations may be given at once: until another one has fewer CPUs."""
    most = min(count, cpus // size)
    if not others:
        return most
    return max(min(most, (others[0][0] - share) // size), 1)
