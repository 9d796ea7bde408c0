r"""A ring of ions in a trap: is it stable? By numerics at any point of the trap's (q, a) plane, and exactly as a curve.

The trap. Four rods hold ions on a line between them. The rods' voltage has a constant part (a) and an alternating one
(q), which here is a square wave, as in a digital ion trap. The rods are bent to a ring with n ions on it, evenly
spaced. Moved a little out of the line, ion j obeys, in Mathieu's units, where one period of the drive is pi,

    u_j'' + sign (a + 2 q s(t)) u_j  =  coupling * sum_k (u_j - u_k) / d(j, k)**3,

with s = 1 in the first half of a period and -1 in the second, d the distance along the ring in steps, and sign = 1
for one direction across the line (x) and -1 for the other (y). The right-hand side is the ions' mutual repulsion. A
point (q, a) is *allowed* if all ions stay where they are in both directions.

By numerics (`stable`). For each direction: carry all 2n positions and velocities through one period, and look at the
2n eigenvalues of that map. It is allowed if none is outside of the unit circle (Floquet). The work is in products
and eigenvalues of dense matrices, which a numerical library spreads over several CPUs; nothing is known here of what
follows.

Exactly (`exact_boundary`). By symmetry the ions' repulsion splits into n waves around the ring, of which wave m
moves as a single ion would at a - shift(m), with shift(m) = coupling * sum_r (1 - cos(2 pi m r / n)) / d(0, r)**3. A
single ion with a square wave is Meissner's equation: half the trace of its map is C(k1) C(k2) - a S(k1) S(k2), with
k1, k2 = a + 2q, a - 2q, C(k) = cos(sqrt(k) pi/2) and S(k) = sin(sqrt(k) pi/2) / sqrt(k), and it is stable where that
is between -1 and 1. The first zone lies between low(q), where it is 1, and high(q), where it is -1. So the ring is
allowed where |a| < min(high(q), -low(q) - largest shift): left of the tips the limit is the wave in which neighbours
move against each other (the line of ions buckles to a zigzag); right of them it is the ring's motion as a whole.
One ion alone (coupling = 0) has the limit q = 0.7125 at a = 0 that is known for digital traps, and a cusp at q = 0.

Sources: E. Meissner, Schweizerische Bauzeitung 72 (1918) 95 (the equation). N. Konenkov, M. Sudakov, D. Douglas, J.
Am. Soc. Mass Spectrom. 13 (2002) 597 (such maps, for traps). L. Ding et al., J. Mass Spectrom. 39 (2004) 471 (digital
traps). T. Schaetz, U. Schramm, D. Habs, Nature 412 (2001) 717 (a ring with ions in a line). S. Fishman, G. De Chiara,
T. Calarco, G. Morigi, Phys. Rev. B 77 (2008) 064111 (its zigzag). That the ring is bent is left out, as there.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]

HALF_PERIOD = np.pi / 2

OUTSIDE = 1e-6
"""How far outside of the unit circle an eigenvalue has to be. Rounding moves it by up to 1e-7 on the boundary itself,
where two of them meet; beyond, it leaves the circle with the square root of the distance. So this costs 1e-12 of q."""


# ---- by numerics ----------------------------------------------------------------------------------------------------


def stable(q: float, a: float, ions: int, coupling: float) -> bool:
    """Tell whether all ions stay where they are."""
    return all(largest_multiplier(sign * q, sign * a, ions, coupling) < 1 + OUTSIDE for sign in (1, -1))


def largest_multiplier(q: float, a: float, ions: int, coupling: float) -> float:
    """Return by how much the motion of the ions in one direction can grow in one period of the drive."""
    repulsion, one, nothing = coupling * coulomb(ions), np.eye(ions), np.zeros((ions, ions))
    period = np.eye(2 * ions)
    for level in (1, -1):
        motion = np.block([[nothing, one], [repulsion - (a + 2 * q * level) * one, nothing]])
        period = carried(motion, HALF_PERIOD) @ period
    return float(np.abs(np.linalg.eigvals(period)).max())


def coulomb(ions: int) -> Numbers:
    """Return the matrix of the ions' repulsion for small displacements."""
    place = np.arange(ions)
    distance = np.abs(place[:, None] - place)
    distance = np.minimum(distance, ions - distance).astype(np.float64)
    np.fill_diagonal(distance, np.inf)
    strength: Numbers = distance**-3
    return np.diag(strength.sum(axis=1)) - strength


def carried(motion: Numbers, time: float, doublings: int = 6, order: int = 8) -> Numbers:
    """Integrate u' = motion u over a time: 2**doublings steps of a Taylor series.

    The error of a step of length h is (h |motion|)**9 / 9!; with |motion| < 3 all 64 of them together make 1e-14.
    """
    one = np.eye(len(motion))
    small = motion * (time / 2**doublings)
    step = one
    for power in range(order, 0, -1):
        step = one + small @ step / power
    for _ in range(doublings):
        step = step @ step
    return step


# ---- exactly --------------------------------------------------------------------------------------------------------


def exact_boundary(ions: int, coupling: float, points: int = 2001) -> list[complex]:
    """Return points q + ia on the exact boundary, once around, with its corners; none if nothing is allowed.

    Each of its four sides has so many points: with 2001, straight lines between them are off by less than 1e-7.
    """
    left, right = zigzag_limit(ions, coupling), single_limit()
    if left >= right:
        return []
    tip = root(lambda q: zigzag_side(q, ions, coupling) - high(q), left, right)
    rise = np.linspace(left, tip, points)
    fall = np.linspace(tip, right, points)
    upper = np.concatenate([rise + 1j * zigzag_side(rise, ions, coupling), (fall + 1j * high(fall))[1:]])
    return [complex(point) for point in np.concatenate([upper, upper[-2:0:-1].conj()])]


def zigzag_limit(ions: int, coupling: float) -> float:
    """Return the smallest q at which the ions stay in line, at a = 0."""
    return float(root(lambda q: zigzag_side(q, ions, coupling), 0.0, 1.0)) if coupling else 0.0


def single_limit() -> float:
    """Return the largest q at which a single ion is stable, at a = 0."""
    return float(root(lambda q: -high(q), 0.0, 1.0))


def zigzag_side(q: Numbers, ions: int, coupling: float) -> Numbers:
    """Return how large |a| may be before the line of ions buckles."""
    side: Numbers = -low(q) - shifts(ions, coupling).max()
    return side


def shifts(ions: int, coupling: float) -> Numbers:
    """Return by how much the repulsion lowers a, for each wave around the ring."""
    steps = np.arange(1, ions)
    waves = np.arange(ions)[:, None]
    terms: Numbers = (1 - np.cos(2 * np.pi * waves * steps / ions)) / np.minimum(steps, ions - steps) ** 3.0
    shift: Numbers = coupling * terms.sum(axis=1)
    return shift


def low(q: Numbers) -> Numbers:
    """Return where the first zone of a single ion begins."""
    return root(lambda a: 1 - half_trace(q, a), -(q**2), 0 * q)


def high(q: Numbers) -> Numbers:
    """Return where the first zone of a single ion ends."""
    return root(lambda a: -1 - half_trace(q, a), -(q**2), 1 + 0 * q)


def half_trace(q: Numbers, a: Numbers) -> Numbers:
    """Return half the trace of a single ion's map over one period."""
    (c1, s1), (c2, s2) = cosine_and_sine(a + 2 * q), cosine_and_sine(a - 2 * q)
    return c1 * c2 - a * s1 * s2


def cosine_and_sine(k: Numbers) -> tuple[Numbers, Numbers]:
    """Return C(k) and S(k), which are real also for k < 0."""
    frequency = np.sqrt(k + 0j)
    frequency = np.where(frequency == 0, 1e-100, frequency)
    angle = frequency * HALF_PERIOD
    return np.cos(angle).real, (np.sin(angle) / frequency).real


def root(rising: Callable[[Numbers], Numbers], below: Numbers | float, above: Numbers | float) -> Numbers:
    """Halve brackets, all of them at the same time, until they are as narrow as floats can be."""
    below, above = np.asarray(below, np.float64), np.asarray(above, np.float64)
    for _ in range(60):
        middle = (below + above) / 2
        too_low = rising(middle) < 0
        below, above = np.where(too_low, middle, below), np.where(too_low, above, middle)
    return (below + above) / 2
