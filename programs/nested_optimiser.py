"""
Nested optimiser: an antenna with low side lobes
================================================

A row of antennas sends most of its power ahead, and some into side lobes. Which weights make the highest side lobe as
low as possible? To score one choice of weights its highest side lobe has to be found, which is an optimisation, too: a
search in each part of the angles. The outer optimiser is scipy's `differential_evolution`. It breeds weights, and asks
for the scores of a whole generation at once: all searches for all of its weights run side by side.

scipy calls an ordinary function, and waits for what it returns. So it runs in a thread, and its function hands a flow
back to the Job. Any optimiser that calls a function can be used in this way.

The lowest side lobes are known exactly (C. L. Dolph, Proc. IRE 34 (1946) 335): the program compares with them.
"""

import asyncio
from itertools import pairwise
from math import acosh, cos, cosh, log10, pi
from pathlib import Path

import attrs
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import differential_evolution

import hyperflow as hf

INK, BLUE, ORANGE = "#33424f", "#2a6fb5", "#d4572a"

# %%
# **The row** is symmetric, so half of its weights say all. An angle is given by the phase between two neighbours.

ANTENNAS = 8
EDGE = 1.05  # where the side lobes begin
PARTS = [EDGE + (pi - EDGE) * part / 4 for part in range(5)]


def power(weights: list[float], phase: float) -> float:
    """Return the power that is sent at a phase, relative to that ahead, in decibels."""
    field = sum(weight * cos((place + 0.5) * phase) for place, weight in enumerate(weights))
    return 20 * log10(max(abs(field), 1e-9) / sum(weights))


# %%
# **The evaluation** is one search of the inner optimisation.


def highest(weights: list[float], low: float, high: float) -> float:
    """Return the highest power between two phases, by golden sections."""
    golden = 0.6180339887
    best = max(power(weights, low), power(weights, high))
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = power(weights, left), power(weights, right)
    while high - low > 1e-4:
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = power(weights, left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = power(weights, right)
    return max(best, at_left, at_right)


# %%
# **The Job** has both optimisations: `side_lobe` is the inner one, `optimise` the outer one.


@attrs.frozen
class Found:
    """The best weights, and the best score of each generation."""

    weights: list[float]
    scores: list[float]


@hf.job
async def side_lobe(weights: list[float]) -> float:
    """Return the highest side lobe."""
    return max(await hf.map_concurrently(lambda part: hf.remote_eval(highest, weights, *part), list(pairwise(PARTS))))


@hf.job
async def optimise(tolerance: float) -> Found:
    """Breed weights until their scores differ by little."""
    loop = asyncio.get_running_loop()
    best: list[float] = []

    async def scores(generation: list[list[float]]) -> list[float]:
        found = await hf.map_concurrently(side_lobe, generation)
        best.append(min([*best[-1:], *found]))
        hf.plot("highest side lobe", y=best[-1])
        return found

    def objective(columns: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[float]:
        generation = [[1.0, *map(float, column)] for column in columns.T]
        return asyncio.run_coroutine_threadsafe(scores(generation), loop).result()

    bounds = [(0.0, 1.0)] * (ANTENNAS // 2 - 1)
    settings = {"vectorized": True, "updating": "deferred", "polish": False, "rng": 1, "popsize": 8, "maxiter": 100}
    answer = await asyncio.to_thread(differential_evolution, objective, bounds, tol=0, atol=tolerance, **settings)
    return Found([1.0, *map(float, answer.x)], best)


# %%
# **The Master** compares with the exact answer.


@hf.cluster
async def nested_optimiser(*, tolerance: float = 0.01) -> None:
    """Find weights for which the highest side lobe is as low as possible.

    Args:
        tolerance: How much the scores of the last generation may differ, in decibels.
    """
    found = await hf.remote_eval_job(optimise(tolerance))
    exact = -20 * log10(cosh((ANTENNAS - 1) * acosh(1 / cos(EDGE / 2))))
    picture = (await hf.ask()).program.data_dir / "nested_optimiser.png"
    draw(found, exact, picture)
    error = found.scores[-1] - exact
    print(f"weights            {' '.join(f'{weight:.3f}' for weight in found.weights)}")
    print(f"highest side lobe  {found.scores[-1]:.3f} dB after {len(found.scores)} generations, exact {exact:.3f} dB")
    print(f"picture            {picture}")
    if not abs(error) < 5 * tolerance:
        raise ArithmeticError(f"the side lobes are {error:+.2f} dB from the lowest ones")


def draw(found: Found, exact: float, path: Path) -> None:
    """Draw the power at all angles, and how the generations have become better."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    phases = np.linspace(-pi, pi, 801)
    angles = np.degrees(np.arcsin(phases / pi))  # antennas half a wavelength apart
    for weights, colour, label in (
        ([1.0] * len(found.weights), "#b8c2cc", "equal weights"),
        (found.weights, BLUE, "found"),
    ):
        left.plot(angles, [power(weights, phase) for phase in phases], color=colour, label=label)
    left.axhline(exact, color=ORANGE, lw=1, ls="--", label="lowest possible, exact")
    left.set(xlabel="angle  (degrees)", ylabel="power  (dB)", ylim=(-50, 1), xlim=(-90, 90), xticks=range(-90, 91, 30))
    left.legend(loc="upper left", fontsize="small", framealpha=1)
    right.semilogy([score - exact for score in found.scores], color=BLUE)
    right.set(xlabel="generation", ylabel="highest side lobe - exact  (dB)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(nested_optimiser)
