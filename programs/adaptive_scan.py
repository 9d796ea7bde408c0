"""
Adaptive 2-D scan: where an oscillator locks
============================================

An oscillator that is kicked at regular times may lock to the kicks: it then makes exactly p turns in q kicks, in a
whole region of the plane of frequency and strength, a tongue (V. I. Arnold, 1961). To find the tongues, the plane is
divided into cells. A cell in which an edge may be is divided into four, and so on; the others are left alone. So nearly
all points are at edges, and where those are is known only when the points around them are. The points of a round are
cheap, and go to the workers in chunks, by `hf.remote_map`.

The edges of two of the tongues are known exactly: the program compares, and ends with an error if one is wrong.
"""

from fractions import Fraction
from math import log2, pi, sin
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import hyperflow as hf

Point = tuple[int, int]  # in steps of the finest cells
Cell = tuple[int, int, int]  # its lower left corner, and its side
Grid = dict[Point, Fraction | float]  # turns for each kick; a fraction where the oscillator locks

TONGUES = sorted({Fraction(p, q) for q in range(1, 6) for p in range(q + 1)})

# %%
# **The evaluation**: kick an oscillator until it has settled, and see whether it is back after at most five kicks.


def turns(frequency: float, strength: float) -> Fraction | float:
    """Return how many turns the oscillator makes for each kick; a fraction if it locks."""
    places = [0.0]
    for _ in range(600):
        here = places[-1]
        places.append(here + frequency + strength / (2 * pi) * sin(2 * pi * here))
    for tongue in TONGUES:
        made = places[-1] - places[-1 - tongue.denominator]
        if abs(made - tongue.numerator) < 1e-5:
            return tongue
    return places[-1] / 600


# %%
# **The Job** decides which cells are divided: those that have a tongue between their corners. (More frequency is never
# fewer turns, so none is missed.) What neighbouring cells share is evaluated once.


def corners(cell: Cell) -> list[Point]:
    """Return the corners of a cell."""
    x, y, side = cell
    return [(x, y), (x + side, y), (x, y + side), (x + side, y + side)]


def parts(cell: Cell) -> list[Cell]:
    """Divide a cell into four."""
    x, y, side = cell
    half = side // 2
    return [(x, y, half), (x + half, y, half), (x, y + half, half), (x + half, y + half, half)]


def edge_in(cell: Cell, grid: Grid) -> bool:
    """Tell whether the edge of a tongue may be in a cell."""
    found = [grid[point] for point in corners(cell)]
    return len(set(found)) > 1 and any(min(found) <= tongue <= max(found) for tongue in TONGUES)


@hf.job
async def scan(coarse: int, rounds: int) -> tuple[list[Cell], Grid]:
    """Divide cells round by round; return the last cells, and what is known."""
    side = 2**rounds
    finest = coarse * side
    cells = [(x * side, y * side, side) for x in range(coarse) for y in range(coarse)]
    done: list[Cell] = []
    grid: Grid = {}
    while cells:
        new = sorted({point for cell in cells for point in corners(cell)} - grid.keys())
        found = await hf.remote_map(lambda point: turns(point[0] / finest, point[1] / finest), new)
        grid.update(zip(new, found, strict=True))
        hf.plot("points", value=len(grid))
        divided = {cell for cell in cells if cell[2] > 1 and edge_in(cell, grid)}
        done += set(cells) - divided
        cells = [part for cell in divided for part in parts(cell)]
    return done, grid


@hf.cluster
async def adaptive_scan(*, coarse: int = 12, rounds: int = 5) -> None:
    """Map where a kicked oscillator locks to the kicks.

    Args:
        coarse: Into how many cells each side of the plane is divided at first.
        rounds: How often a cell may be divided.
    """
    cells, grid = await hf.remote_eval_job(scan(coarse, rounds))
    finest = coarse * 2**rounds
    picture = (await hf.ask()).program.data_dir / "adaptive_scan.png"
    draw(cells, grid, finest, picture)
    print(f"points      {len(grid)}, of {(finest + 1) ** 2} of the finest grid\npicture     {picture}")
    for tongue in (0, 1):
        area = sum(side**2 * [grid[point] for point in corners((x, y, side))].count(tongue) for x, y, side in cells)
        error = area / 4 / finest**2 - 1 / (4 * pi)  # its edge is where the frequency is strength / 2 pi from 0 or 1
        print(f"tongue {tongue}    its area is off by {error:+.1e}; {0.5 / finest:.1e} is allowed")
        if abs(error) > 0.5 / finest:
            raise ArithmeticError(f"the area of a tongue is wrong by {error:.1e}")


def draw(cells: list[Cell], grid: Grid, finest: int, path: Path) -> None:
    """Draw the tongues, and how small the cells are."""
    tongues, times = np.full((finest, finest), np.nan), np.zeros((finest, finest))
    largest = max(side for _, _, side in cells)
    for x, y, side in cells:
        times[y : y + side, x : x + side] = log2(largest / side)
        if isinstance(grid[x, y], Fraction):
            tongues[y : y + side, x : x + side] = grid[x, y]
    figure = Figure(figsize=(10, 4.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.imshow(
        tongues, cmap="turbo", vmin=-0.08, vmax=1.08, origin="lower", extent=(0, 1, 0, 1), interpolation="nearest"
    )
    row = int(0.93 * finest)
    for tongue in TONGUES:
        inside = np.flatnonzero(tongues[row] == float(tongue))
        if len(inside) > 0.03 * finest:
            middle = (inside.mean() + 0.5) / finest
            left.text(middle, 0.93, tongue, ha="center", va="center", bbox={"color": "white", "pad": 1.5})
    left.set(ylabel="strength of the kicks", title="turns for each kick, where it locks")
    shown = right.imshow(times, cmap="YlGnBu", origin="lower", extent=(0, 1, 0, 1), interpolation="nearest")
    figure.colorbar(shown, label="how often divided", shrink=0.9)
    right.set_title(f"{len(cells)} cells")
    for axes in (left, right):
        axes.set_xlabel("frequency  (turns for each kick)")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(adaptive_scan)
