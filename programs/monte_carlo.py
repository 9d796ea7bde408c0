"""
Monte Carlo until converged: the Ising model
============================================

How large is the energy of a lattice of spins at a temperature, to within one part in a thousand? How many samples that
takes is not known before: where the lattice orders, it fluctuates most. So each temperature draws samples until its own
error bar is small enough, and those that are done leave the CPUs to the others. Each evaluation draws its random
numbers from `hf.seed_sequence()`: they do not depend on which worker runs it, or when, and the next run draws the same.

The lattice is finite, with periodic edges, and its energy is known exactly (B. Kaufman, Phys. Rev. 76 (1949) 1232). The
program ends with an error if its energies are farther from it than their error bars allow.
"""

from math import acosh, ceil, cos, cosh, log, pi, sinh, sqrt, tanh
from pathlib import Path

import attrs
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import hyperflow as hf

SIDE = 8  # spins along an edge of the lattice
COPIES = 32  # lattices that an evaluation moves at the same time
WARM_UP, SWEEPS = 100, 100  # how often it moves all spins before it measures, and while it does
INK, BLUE, ORANGE = "#33424f", "#2a6fb5", "#d4572a"

# %%
# **The evaluation**: some sweeps of Metropolis' method, over all black fields of the chessboard and then over all white
# ones. Its samples do not know of those of any other evaluation, so their means have a plain standard error.


def sample(temperature: float) -> float:
    """Return the mean energy per spin in some sweeps; each call gives another sample."""
    rng = np.random.default_rng(hf.seed_sequence())
    spins = np.ones((COPIES, SIDE, SIDE), np.int8)
    black = np.indices((SIDE, SIDE)).sum(axis=0) % 2 == 0
    accepted = np.exp(-2 * np.arange(-4, 5) / temperature)  # of a flip, by spin times neighbours
    energies = []
    for sweep in range(WARM_UP + SWEEPS):
        for field in (black, ~black):
            aligned = spins * neighbours(spins)
            flips = field & (rng.random(spins.shape, np.float32) < accepted[aligned + 4])
            spins[flips] *= -1
        if sweep >= WARM_UP:
            energies.append(-float((spins * neighbours(spins)).mean()) / 2)
    return sum(energies) / SWEEPS


def neighbours(spins: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the sum of each spin's four neighbours."""
    up, down, left, right = (np.roll(spins, step, axis) for step in (1, -1) for axis in (1, 2))
    return up + down + left + right


# %%
# **The Job**. Each temperature is a flow of its own; all of them run side by side.


@attrs.frozen
class Point:
    """What is known of a temperature: the means of its evaluations, and their mean with its standard error."""

    temperature: float
    means: list[float]

    @property
    def energy(self) -> float:
        """Return the energy per spin."""
        return float(np.mean(self.means))

    @property
    def error(self) -> float:
        """Return its standard error."""
        return float(np.std(self.means, ddof=1)) / sqrt(len(self.means))


@hf.job
async def until_converged(temperature: float, tolerance: float) -> Point:
    """Draw samples until the error bar is as small as the tolerance: as many more as it seems to need."""
    point, needed = Point(temperature, []), 10
    while (begun := len(point.means)) < needed:
        more = min(needed - begun, max(begun, 10))  # at most twice as many: an early error bar is a rough one
        means = await hf.replicate_concurrently(more, hf.remote_eval(sample, temperature))
        point = Point(temperature, point.means + means)
        hf.plot("error bars", x=temperature, y=point.error)
        needed = ceil(len(point.means) * (point.error / tolerance) ** 2)
    return point


@hf.job
async def lattice(temperatures: list[float], tolerance: float) -> list[Point]:
    """Find the energies side by side."""
    return await hf.map_concurrently(lambda temperature: until_converged(temperature, tolerance), temperatures)


# %%
# **The Master** prints, draws and checks.


@hf.cluster
async def monte_carlo(*, tolerance: float = 2e-3, temperatures: int = 9) -> None:
    """Find the energy of the Ising model at some temperatures, and compare with the exact one.

    Args:
        tolerance: How large the standard error of an energy may be, in units of the coupling.
        temperatures: How many, between 1.5 and 3.5.
    """
    chosen = [float(temperature) for temperature in np.linspace(1.5, 3.5, temperatures)]
    points = await hf.remote_eval_job(lattice(chosen, tolerance))
    print("temperature   energy             exact    evaluations")
    for point in points:
        known = exact(point.temperature)
        print(f"{point.temperature:7.2f}      {point.energy:.4f} ± {point.error:.4f}  {known:.4f} {len(point.means):6}")
    sigmas = [abs(point.energy - exact(point.temperature)) / point.error for point in points]
    picture = (await hf.ask()).program.data_dir / "monte_carlo.png"
    draw(points, picture)
    print(f"farthest from the exact energy: {max(sigmas):.1f} error bars; 4 are allowed\npicture: {picture}")
    if max(sigmas) > 4:
        raise ArithmeticError(f"an energy is off by {max(sigmas):.1f} error bars")


# %%
# **The check**: Kaufman's formula, and the picture.


def exact(temperature: float) -> float:
    """Return the exact energy per spin, as the derivative of the logarithm of the sum over all states."""
    step = 1e-5
    return (log_sum(1 / temperature - step) - log_sum(1 / temperature + step)) / (2 * step * SIDE**2)


def log_sum(coupling: float) -> float:
    """Return the logarithm of the sum over all states."""
    waves = [cosh(2 * coupling) / tanh(2 * coupling) - cos(pi * wave / SIDE) for wave in range(2 * SIDE)]
    halves = [
        SIDE / 2 * (acosh(wave) if number else 2 * coupling + log(tanh(coupling))) for number, wave in enumerate(waves)
    ]
    products = [
        np.prod([2 * function(half) for half in part])
        for part in (halves[::2], halves[1::2])
        for function in (cosh, sinh)
    ]
    return SIDE**2 / 2 * log(2 * sinh(2 * coupling)) + log(sum(products) / 2)


def draw(points: list[Point], path: Path) -> None:
    """Draw the energies over the exact curve, and how many samples each has taken."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    temperatures = [point.temperature for point in points]
    curve = np.linspace(min(temperatures), max(temperatures), 200)
    above.plot(curve, [exact(temperature) for temperature in curve], color=INK, label="exact")
    above.plot(temperatures, [point.energy for point in points], "o", color=BLUE, label="sampled")
    above.set(ylabel="energy per spin  (J)", title=f"Ising model, {SIDE} × {SIDE} spins")
    above.legend(frameon=False)
    differences = [1000 * (point.energy - exact(point.temperature)) for point in points]
    middle.axhline(0, color=INK, lw=1)
    middle.errorbar(temperatures, differences, [1000 * point.error for point in points], fmt="o", color=BLUE, capsize=3)
    middle.set(ylabel="sampled - exact\n(J / 1000)")
    below.bar(temperatures, [len(point.means) for point in points], 0.09, color=ORANGE)
    below.set(xlabel="temperature  (J / k)", ylabel="evaluations")
    for axes in (above, middle, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(monte_carlo)
