"""The outline of a region in a plane: points on its boundary, found along rays, and where more of them are needed.

Points of the plane are complex numbers. The region is taken to be star-shaped about its centre: every ray from there
crosses the boundary once. (Where one does not, its crossing is one of them; the outline then has a straight edge
along a ray, and stops refining there.)
"""

import cmath
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import attrs
import numpy as np


@attrs.frozen
class Probe:
    """A point that was looked at."""

    q: float
    a: float
    allowed: bool


@attrs.frozen
class Crossing:
    """Where a ray crosses the boundary, and what was looked at to find it.

    Args:
        turn: The ray's direction, as part of a full turn.
        q: Where; the middle of what the bisection left, so it is off by no more than half of that.
        a: Likewise.
        probes: In their order.
    """

    turn: float
    q: float
    a: float
    probes: list[Probe]

    @property
    def point(self) -> complex:
        """The place as a point of the plane."""
        return complex(self.q, self.a)


def direction(turn: float) -> complex:
    """Return the unit vector of a ray.

    Rounded, so that -1/7 and 6/7 of a turn are the same ray to the last digit: neighbouring sectors share it.
    """
    return cmath.exp(2j * math.pi * round(turn % 1.0, 12))


def between(found: Sequence[Crossing], tolerance: float, spacing: float) -> Iterator[float]:
    """Tell between which neighbours another ray is needed, as the turns in their middle.

    It is where they are farther apart than the spacing, or where the boundary may be farther from the straight line
    between them than the tolerance. The first and the last of the crossings are there as neighbours only.
    """
    for before, start, end, after in zip(found, found[1:], found[2:], found[3:], strict=False):
        length = abs(end.point - start.point)
        if length <= tolerance or end.turn - start.turn < tolerance / 1000:  # a step: it is not star-shaped there
            continue
        if length > spacing or overshoot(before.point, start.point, end.point, after.point) > tolerance:
            yield (start.turn + end.turn) / 2


def overshoot(before: complex, start: complex, end: complex, after: complex) -> float:
    """Return how far from its chord an arc can be, from its neighbours.

    A convex arc stays inside the triangle that its chord makes with the two neighbouring chords, drawn on until they
    meet; a concave one likewise, on the other side. So the triangle's height is a bound, also for a corner, which
    knows nothing of derivatives. (Where the arc is neither, it is an estimate: four times what a circle's would be.)
    """
    chord = end - start
    sides = start - before, after - end
    if not chord or not all(sides):
        return abs(chord)
    left, right = abs(cmath.phase(chord / sides[0])), abs(cmath.phase(sides[1] / chord))
    if left + right >= math.pi:  # they do not meet
        return abs(chord)
    return abs(chord) * math.sin(left) * math.sin(right) / math.sin(left + right) if left and right else 0.0


def farthest(points: Iterable[complex], outline: Sequence[complex]) -> float:
    """Return how far from a closed outline the farthest of the points is."""
    corners = np.array([*outline, outline[0]])
    starts, sides = corners[:-1], np.diff(corners)
    lengths = np.abs(sides) ** 2
    starts, sides, lengths = starts[lengths > 0], sides[lengths > 0], lengths[lengths > 0]

    def distance(point: complex) -> float:
        along = np.clip(((point - starts) * sides.conj()).real / lengths, 0, 1)
        return float(np.abs(point - starts - along * sides).min())

    return max(map(distance, points))


def gap(found: Sequence[complex], exact: Sequence[complex]) -> float:
    """Return how far apart two closed outlines are: no point of one is farther from the other (Hausdorff)."""
    return max(farthest(points_on(found), exact), farthest(exact, found))


def points_on(outline: Sequence[complex]) -> Iterator[complex]:
    """Return the corners of a closed outline, and points on its sides."""
    for start, end in pairwise([*outline, outline[0]]):
        yield from (start + (end - start) * part / 8 for part in range(8))
