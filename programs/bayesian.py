"""Bayesian optimisation: a new point as soon as one ends
======================================================

Where is a function of two parameters lowest, if each value costs an hour? A Gaussian process is fitted to the values
that are known; it says what to expect everywhere else, and how surely. The next point is where the value may be lowest.

So each point depends on all answers before it. But nobody waits for a round to end: evaluations take different times,
and as soon as one ends, the next point is chosen, with the mean of the process in place of the answers that are still
to come. `hf.as_completed` does that, over an iterable that makes each point when there is room for it.

The function is Branin's, a usual one for such tests. Its three minima are known exactly: the answer is checked.
"""

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import hyperflow as hf

Array = NDArray[np.floating[Any]]
Point: TypeAlias = tuple[float, float]

LOW, HIGH = np.array([-5.0, 0.0]), np.array([10.0, 15.0])
MINIMA = np.array([[-np.pi, 12.275], [np.pi, 2.275], [9.42478, 2.475]])
LOWEST = 10 / (8 * np.pi)

# %%
# **The evaluation** is what is expensive: put your simulation here.


def branin(x: float, y: float) -> float:
    """Evaluate the function, after a while."""
    time.sleep(random.uniform(0.01, 0.1))
    return float((y - 5.1 * x**2 / (4 * np.pi**2) + 5 * x / np.pi - 6) ** 2 + (10 - 10 / (8 * np.pi)) * np.cos(x) + 10)


# %%
# **The Gaussian process**, with numpy alone. scikit-learn's `GaussianProcessRegressor` would do as well.


def kernel(these: Array, those: Array, length: float) -> Array:
    """Return how strongly the values at these points and at those go together (Matern 5/2)."""
    scaled = (these[:, None] - those) / (HIGH - LOW)
    distance = np.sqrt(5 * (scaled**2).sum(axis=2)) / length
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))


def expect(points: Array, values: Array, wanted: Array) -> tuple[Array, Array]:
    """Fit a process to values; return its mean and its standard deviation at the points that are wanted."""
    mean, spread = values.mean(), values.std() or 1.0
    levels = (values - mean) / spread
    fits: list[tuple[float, float, Array]] = []
    for length in (0.1, 0.15, 0.2, 0.3, 0.5, 0.8):  # the one that explains the values best
        factor = np.linalg.cholesky(kernel(points, points, length) + 1e-6 * np.eye(len(points)))
        size = float(np.mean(np.linalg.solve(factor, levels) ** 2))
        likelihood = -len(points) / 2 * np.log(size) - np.log(np.diag(factor)).sum()
        fits.append((float(likelihood), length, factor))
    _, length, factor = max(fits, key=lambda fit: fit[0])
    known, cross = np.linalg.solve(factor, levels), np.linalg.solve(factor, kernel(points, wanted, length))
    deviation = np.sqrt(np.maximum(1 - (cross**2).sum(axis=0), 0) * np.mean(known**2))
    return mean + spread * known @ cross, spread * deviation


# %%
# **The Job** asks for the next point whenever there is room for one; `values` has what is known by then.


def points(count: int, first: int, values: dict[Point, float], rng: np.random.Generator) -> Iterator[Point]:
    """Choose points, each when there is room for it: the first ones at random, then where the value may be lowest."""
    asked: list[Point] = []
    while len(asked) < count:
        chosen = rng.uniform(LOW, HIGH, size=(300, 2))
        if len(asked) >= first and values:
            done, waiting = list(values), [point for point in asked if point not in values]
            best = min(values, key=values.__getitem__)
            near = rng.normal(best, (HIGH - LOW) * 10 ** rng.uniform(-3, -1, size=(200, 1)))
            chosen = np.clip(np.vstack([chosen, near]), LOW, HIGH)
            answers = np.log1p(list(values.values()))  # tamer than the values; Branin's are positive
            if waiting:  # as if they had come out as expected
                answers = np.append(answers, expect(np.array(done), answers, np.array(waiting))[0])
            mean, deviation = expect(np.array(done + waiting), answers, chosen)
            bold = 2.0 if len(asked) % 2 else 0.5  # every other point looks at what is hardly known
            chosen = chosen[np.argsort(mean - bold * deviation)]
        asked.append((float(chosen[0, 0]), float(chosen[0, 1])))
        yield asked[-1]


@hf.memoize("branin", version=1)
def value_at(point: Point) -> hf.Job[float]:
    """Evaluate the function on a worker, or find what is known of it in the database."""
    return hf.remote_eval(branin, *point)


@hf.job
async def search(count: int, first: int, seed: int) -> list[tuple[Point, float]]:
    """Evaluate so many points, as many at a time as there are CPUs; return them in the order in which they ended."""
    values: dict[Point, float] = {}
    cpus = (await hf.ask()).statistics().cpus
    chosen = points(count, first, values, np.random.default_rng(seed))
    async for point, value in hf.as_completed(value_at, chosen, limit=cpus):
        values[point] = value
        hf.plot("lowest value so far", x=len(values), y=min(values.values()))
    return list(values.items())


# %%
# **The Master** checks the answer, and draws it.


def draw(found: Sequence[tuple[Point, float]], path: Path) -> None:
    """Draw what the process has learnt, and how it came closer."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    where, values = np.array([point for point, _ in found]), np.array([value for _, value in found])
    x, y = np.meshgrid(*(np.linspace(*ends, 60) for ends in zip(LOW, HIGH, strict=True)))
    mean, _ = expect(where, np.log1p(values), np.column_stack([x.ravel(), y.ravel()]))
    filled = left.contourf(x, y, np.expm1(mean).clip(0, 200).reshape(x.shape), [0, 1, 3, 10, 20, 40, 80, 120, 200])
    figure.colorbar(filled, ax=left, label="what the process expects")
    left.scatter(*where.T, 22, c="white", edgecolors="black", linewidths=0.6, label="evaluated")
    left.scatter(*MINIMA.T, 90, marker="x", c="#ff5a36", linewidths=2, label="exact minima")
    left.set(xlabel="$x$", ylabel="$y$", title=f"{len(found)} evaluations of Branin's function")
    left.legend(loc="upper right", fontsize="small")
    right.semilogy(np.arange(1, len(values) + 1), values - LOWEST, ".", color="#8c8c8c", label="each evaluation")
    right.step(np.arange(1, len(values) + 1), np.minimum.accumulate(values - LOWEST), where="post", label="best so far")
    right.set(xlabel="evaluations that have ended", ylabel="value above the exact minimum")
    right.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False)
    figure.savefig(path, dpi=160)


@hf.cluster
async def bayesian(*, evaluations: int = 60, first: int = 8, within: float = 0.05, seed: int = 1) -> str:
    """Look for the minimum of Branin's function.

    Args:
        evaluations: How many points are evaluated.
        first: How many of them are chosen at random.
        within: How far the best value may be from the exact minimum.
        seed: Of all that is random.
    """
    with hf.using(sbatch=hf.SbatchOptions(nodes=2, ntasks_per_node=2, time="10:00")):
        found = await hf.remote_eval_job(search(evaluations, first, seed))
    picture = (await hf.ask()).program.data_dir / "bayesian.png"
    draw(found, picture)
    point, value = min(found, key=lambda one: one[1])
    if value > LOWEST + within:
        raise ArithmeticError(f"{value:.4f} at {point} is not within {within:g} of the exact minimum, {LOWEST:.4f}")
    return f"lowest    {value:.4f} at ({point[0]:.3f}, {point[1]:.3f}); exact {LOWEST:.4f}\npicture   {picture}"


if __name__ == "__main__":
    hf.main(bayesian)
