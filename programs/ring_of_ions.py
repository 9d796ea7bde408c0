"""
Ring of ions: for which voltages does it stay in its trap?
==========================================================

Ions are held on a ring by four rods, whose voltage has a constant part a and an alternating part q. For which (q, a) do
all of them stay where they are? Of a point one can only ask whether it is *allowed*, and to ask is expensive. Where to
ask next depends on the answers twice over: rays from a point inside are bisected until they find the boundary, and
where the boundary turns between two rays, another one is sent out between them.

The program compares with the exact boundary, and ends with an error if it is farther from that than the tolerance.
"""

import cmath
from collections.abc import Iterator
from itertools import pairwise
from math import pi, sin
from pathlib import Path

import attrs
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.linalg import expm

import hyperflow as hf

Points = NDArray[np.complex128]

CENTRE = 0.5 + 0j  # where all rays begin
REACH = 0.45  # how long they are

# %%
# **The evaluation.** A little out of the line, ion j obeys, in Mathieu's units, where a period of the drive is pi::
#
#     u_j'' + s (a ± 2q) u_j  =  c Σ_k (u_j - u_k) / d_jk³
#
# with + in the first half of a period and - in the second (a digital ion trap), s = 1 in one direction across the line
# and -1 in the other, and d the distance along the ring. All positions and velocities are carried through a period; the
# point is allowed if that map has no eigenvalue outside of the unit circle (Floquet). This is dense linear algebra, so
# each evaluation may be given several CPUs.


@attrs.frozen
class Ring:
    """How many ions there are on the ring, and how strongly neighbours repel each other."""

    ions: int = 24
    coupling: float = 0.003


def allowed(ring: Ring, q: float, a: float) -> bool:
    """Tell whether all ions stay where they are."""
    place = np.arange(ring.ions)
    distance = np.abs(place[:, None] - place)
    distance = np.where(distance == 0, np.inf, np.minimum(distance, ring.ions - distance))
    repulsion = ring.coupling * (np.diag((distance**-3.0).sum(axis=1)) - distance**-3.0)
    one, nothing = np.eye(ring.ions), np.zeros((ring.ions, ring.ions))
    for sign in (1, -1):
        period = np.eye(2 * ring.ions)
        for half in (1, -1):
            motion = np.block([[nothing, one], [repulsion - sign * (a + 2 * q * half) * one, nothing]])
            period = expm(motion * pi / 2) @ period
        if np.abs(np.linalg.eigvals(period)).max() > 1 + 1e-6:
            return False
    return True


@hf.memoize("ring_of_ions", version=2)
def probe(ring: Ring, point: complex) -> hf.Job[bool]:
    """Tell whether a point is allowed: from the results database, or by an evaluation."""
    return hf.remote_eval(allowed, ring, point.real, point.imag)


# %%
# **The Jobs.** `ray` bisects. `outline` sends more rays where three neighbours on the boundary are not in line, so that
# the straight line between two of them may be farther from the boundary than the tolerance.


@attrs.frozen
class Crossing:
    """Where a ray crosses the boundary: its direction as part of a turn, the point, and what was asked on the way."""

    turn: float
    point: complex
    asked: list[tuple[complex, bool]]


@hf.job
async def ray(ring: Ring, turn: float, tolerance: float) -> Crossing:
    """Bisect a ray from the centre outwards."""
    inside, outside = 0.0, REACH
    asked: list[tuple[complex, bool]] = []
    while outside - inside > tolerance / 4:
        middle = (inside + outside) / 2
        point = CENTRE + cmath.rect(middle, 2 * pi * turn)
        asked.append((point, await probe(ring, point)))
        inside, outside = (middle, outside) if asked[-1][1] else (inside, middle)
    point = CENTRE + cmath.rect((inside + outside) / 2, 2 * pi * turn)
    hf.plot("boundary", x=point.real, y=point.imag)
    return Crossing(turn, point, asked)


@hf.job
async def outline(ring: Ring, tolerance: float) -> tuple[list[Crossing], int]:
    """Send rays until the outline is good enough; return also how many evaluations that took."""
    found: list[Crossing] = []
    turns = [number / 32 for number in range(32)]
    while turns:
        found += await hf.map_concurrently(lambda turn: ray(ring, turn, tolerance), turns)
        found.sort(key=lambda crossing: crossing.turn)
        turns = [(start.turn + length(start, end) / 2) % 1 for start, end in too_far(found, tolerance / 2)]
    return found, (await hf.ask()).statistics().done


def length(start: Crossing, end: Crossing) -> float:
    """Return the part of a turn between two rays."""
    return (end.turn - start.turn) % 1


def too_far(found: list[Crossing], tolerance: float) -> Iterator[tuple[Crossing, Crossing]]:
    """Yield the neighbours between which the boundary may be farther from a straight line than the tolerance."""
    around = [found[-1], *found, *found[:2]]
    for before, start, end, after in zip(around, around[1:], around[2:], around[3:], strict=False):
        if overshoot(before.point, start.point, end.point, after.point) > tolerance and length(start, end) > 1e-4:
            yield start, end


def overshoot(before: complex, start: complex, end: complex, after: complex) -> float:
    """Return how far a convex or concave arc can be from its chord: the height of the triangle of its neighbours."""
    chord = end - start
    left, right = abs(cmath.phase(chord / (start - before))), abs(cmath.phase((after - end) / chord))
    if left + right >= pi:
        return abs(chord)
    return abs(chord) * sin(left) * sin(right) / sin(left + right) if left and right else 0.0


# %%
# **The Master** compares with the exact boundary. By symmetry the repulsion splits into waves around the ring, and each
# of them moves as a single ion would at another a, for which there is a formula (E. Meissner, 1918).


@hf.cluster
async def ring_of_ions(*, tolerance: float = 5e-4, ions: int = 24, coupling: float = 0.003, cpus: int = 1) -> None:
    """Map for which voltages a ring of ions stays in its trap, and compare with the exact boundary.

    Args:
        tolerance: How far the outline may be from the boundary.
        ions: How many ions there are.
        coupling: How strongly neighbours repel each other.
        cpus: How many CPUs each evaluation gets, for its linear algebra.
    """
    ring = Ring(ions, coupling)
    with hf.using(sbatch=hf.SbatchOptions(nodes=2, ntasks_per_node=2, cpus_per_task=cpus, time="10:00"), cpus=cpus):
        found, evaluations = await hf.remote_eval_job(outline(ring, tolerance))
    exact = exact_boundary(ring)
    error = farthest(exact, [crossing.point for crossing in found])
    picture = (await hf.ask()).program.data_dir / "ring_of_ions.png"
    draw(ring, found, exact, picture)
    print(f"boundary     {len(found)} points, on as many rays\nevaluations  {evaluations}")
    print(f"error        {error:.1e} from the exact boundary; {tolerance:g} is allowed\npicture      {picture}")
    if error > tolerance:
        raise ArithmeticError(f"the outline is {error:.1e} from the exact boundary")


def exact_boundary(ring: Ring) -> Points:
    """Return points on the exact boundary, bisected on many rays at once."""
    along = np.exp(2j * pi * np.arange(5000) / 5000)
    inside, outside = np.zeros(5000), np.full(5000, REACH)
    for _ in range(40):
        middle = (inside + outside) / 2
        stays = exactly_allowed(ring, CENTRE + middle * along)
        inside, outside = np.where(stays, middle, inside), np.where(stays, outside, middle)
    points: Points = CENTRE + inside * along
    return points


def exactly_allowed(ring: Ring, points: Points) -> NDArray[np.bool_]:
    """Tell of which points all waves stay small, by half the trace of each one's map over a period."""
    steps, waves = np.arange(1, ring.ions), np.arange(ring.ions // 2 + 1)[:, None]
    waves_at_step = (1 - np.cos(2 * pi * waves * steps / ring.ions)) / np.minimum(steps, ring.ions - steps) ** 3.0
    shifts = ring.coupling * waves_at_step.sum(axis=1)[:, None]
    stays = np.ones(points.shape, bool)
    for sign in (1, -1):
        a, q = sign * points.imag - shifts, sign * points.real
        first, second = np.sqrt(a + 2 * q + 0j), np.sqrt(a - 2 * q + 0j)
        cosines = np.cos(first * pi / 2) * np.cos(second * pi / 2)
        half_trace = cosines - a * (pi / 2) ** 2 * np.sinc(first / 2) * np.sinc(second / 2)
        stays &= (np.abs(half_trace.real) <= 1).all(axis=0)
    return stays


def farthest(points: Points, outline: list[complex]) -> float:
    """Return how far from a closed outline the farthest of the points is."""
    nearest = np.full(points.shape, np.inf)
    for start, end in pairwise([*outline, outline[0]]):
        along = np.clip(((points - start) / (end - start)).real, 0, 1)
        nearest = np.minimum(nearest, np.abs(points - start - along * (end - start)))
    return float(nearest.max())


def draw(ring: Ring, found: list[Crossing], exact: Points, path: Path) -> None:
    """Draw the region, with a tip of it from near."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.add_subplot()
    tip = exact[exact.imag.argmax()]
    near = axes.inset_axes((0.02, 0.68, 0.3, 0.32))
    near.set(xlim=(tip.real - 0.02, tip.real + 0.02), ylim=(tip.imag - 0.025, tip.imag + 0.01), xticks=[], yticks=[])
    for one in (axes, near):
        one.fill(exact.real, exact.imag, color="#e3f3ec")
        one.plot(exact.real, exact.imag, color="#33424f", lw=0.8, label="exact boundary")
        for is_allowed, colour in ((True, "#178a68"), (False, "#d4572a")):
            points = np.array([point for crossing in found for point, stays in crossing.asked if stays == is_allowed])
            label = f"{len(points)} points: {'allowed' if is_allowed else 'not allowed'}"
            one.plot(points.real, points.imag, ".", ms=3.5, color=colour, alpha=0.7, mew=0, label=label)
    axes.indicate_inset_zoom(near, edgecolor="#33424f")
    axes.set(xlim=(0, 0.86), ylim=(-0.3, 0.3), xlabel="q  (alternating voltage)", ylabel="a  (constant voltage)")
    axes.set_title(f"Where a ring of {ring.ions} ions stays in its trap")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False, markerscale=2)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(ring_of_ions)
