"""Bootstrap: an optimiser around an external solver
=================================================

Which energies can a quantum oscillator have? The bootstrap does not solve its equation. It asks of a guess whether it
contradicts itself: for H = p² + x² + x⁴, the energy E and the second moment ⟨x²⟩ give all other moments ⟨xⁿ⟩, and
the matrix of all ⟨xⁱ⁺ʲ⟩ may have no negative eigenvalue (Han, Hartnoll and Kruthoff, Physical Review Letters 125,
041601). A larger matrix allows less.

A solver in another language gives the lowest eigenvalue: the *navigator*, which is negative where a guess is forbidden.
Here awk stands for it. Each run of the solver depends on the answers before: the program climbs to an allowed point,
sends rays from there to the edge of the allowed island, and looks closer where the island reaches farthest. It looks
for the next, smaller island in coordinates in which the last one was round.

The answer is checked by diagonalising the Hamiltonian: its lowest state has to be on each island.
"""

from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import hyperflow as hf

Array = NDArray[np.float64]

# %%
# **The external solver** reads a size, E and the second moment from its standard input, and prints the lowest
# eigenvalue, by bisection: a matrix less t times the unit matrix has a Cholesky factor if, and only if, t is below.
# Moments are scaled, so that no number is large. In earnest this is the solver that you have: `["sdpb", ...]`.

SOLVER = """
function positive(t, i, j, k, s) {
    for (i = 0; i < n; i++) for (j = 0; j <= i; j++) {
        s = m[i + j] / (d[i] * d[j]) - (i == j ? t : 0)
        for (k = 0; k < j; k++) s -= l[i, k] * l[j, k]
        if (i == j && s <= 0) return 0
        l[i, j] = i == j ? sqrt(s) : s / l[j, j]
    }
    return 1
}
{
    n = $1; m[0] = 1; m[2] = $3
    for (t = 1; t + 3 <= 2 * n; t += 2)
        m[t + 3] = (4*t*$2*m[t - 1] + (t > 2 ? t*(t - 1)*(t - 2)*m[t - 3] : 0) - 4*(t + 1)*m[t + 1]) / (4*(t + 2))
    for (i = d[0] = 1; i < n; i++) d[i] = d[i - 1] * sqrt((2*i - 1) * 0.3)
    for (low = -1; !positive(low); low *= 8);
    high = 1
    for (step = 0; step < 30; step++) if (positive(half = (low + high) / 2)) low = half; else high = half
    printf "%.17g\\n", low
}
"""


@hf.memoize("navigator", version=1)
def navigator(size: int, energy: float, x2: float) -> hf.Job[float]:
    """Run the solver; what has been asked before comes from the database."""
    question = f"{size} {energy!r} {x2!r}\n".encode()
    ended = hf.remote_command(["awk", SOLVER], stdin=question, capture=True, check=True)
    return ended.map(lambda result: float(result.stdout))


# %%
# **The search**, in a Job: on a cluster it is a Slurm job. A guess is a pair, E and the second moment. The columns of
# `axes` are steps in which the island is about round. Rays are bisected side by side, to a hundredth of their length.


@attrs.frozen
class Island:
    """The allowed guesses for a size of the matrix: one inside, and some on the edge."""

    size: int
    inside: list[float]
    edge: list[list[float]]


def direction(turn: float) -> Array:
    """Return where to, after so much of a full turn."""
    return np.array([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)])


@hf.job
async def climb(size: int, start: Array, axes: Array) -> Array:
    """Go uphill on the navigator until a guess is well inside: eight runs of the solver at a time."""
    best, height = start, await navigator(size, *start.tolist())
    for halvings in range(20):
        while True:
            around = [best + axes @ direction(k / 8) / 2**halvings for k in range(8)]
            heights = await hf.map_concurrently(lambda guess: navigator(size, *guess.tolist()), around)
            if max(heights) <= height:
                break
            best, height = around[int(np.argmax(heights))], max(heights)
        if height > 0 and halvings >= 2:
            return best
    raise ArithmeticError(f"with a matrix of {size} rows nothing is allowed: the best has {height:.2g}")


@hf.job
async def ray(size: int, inside: Array, along: Array, tolerance: float = 0.01) -> Array:
    """Bisect a ray between an allowed guess and a forbidden one."""
    near, far = 0.0, 1.0
    while await navigator(size, *(inside + far * along).tolist()) > 0:
        near, far = far, 2 * far
    while far - near > tolerance * far:
        middle = (near + far) / 2
        allowed = await navigator(size, *(inside + middle * along).tolist()) > 0
        near, far = (middle, far) if allowed else (near, middle)
    return inside + near * along


@hf.job
async def island(size: int, start: Array, axes: Array, rays: int) -> Island:
    """Find the edge of an island, and look closer where E is lowest and where it is highest."""
    inside = await climb(size, start, axes)
    found: dict[float, Array] = {}
    turns = [k / rays for k in range(rays)]
    for _ in range(4):
        ends = await hf.map_concurrently(lambda turn: ray(size, inside, axes @ direction(turn)), turns)
        found |= dict(zip(turns, ends, strict=True))
        order = sorted(found)
        energies = [found[turn][0] for turn in order]
        extremes = [int(np.argmin(energies)), int(np.argmax(energies))]
        wide = [*order, order[0] + 1]
        turns = [(wide[k] + wide[k + 1]) / 2 % 1 for end in extremes for k in (end, (end - 1) % len(order))]
    return Island(size, inside.tolist(), [found[turn].tolist() for turn in sorted(found)])


@hf.job
async def archipelago(sizes: Sequence[int], rays: int) -> list[Island]:
    """Find one island after the other, each from what is known of the one before."""
    islands: list[Island] = []
    guess, axes = np.array([1.5, 0.3]), np.diag([0.3, 0.06])
    for size in sizes:
        islands.append(await island(size, guess, axes, rays))
        guess, edge = np.mean(islands[-1].edge, axis=0), np.array(islands[-1].edge)
        axes = np.linalg.cholesky(2 * np.cov(edge.T)) / 2
    return islands


# %%
# **The Master** checks the answer, by an entirely different way, and draws it.


def exact(levels: int = 80) -> Array:
    """Diagonalise the Hamiltonian among the lowest states of the oscillator without x^4: E and the second moment."""
    lower = np.diag(np.sqrt(np.arange(1, levels)), 1)
    x2, p2 = (lower + lower.T) @ (lower + lower.T) / 2, -(lower - lower.T) @ (lower - lower.T) / 2
    energies, states = np.linalg.eigh(p2 + x2 + x2 @ x2)
    return np.array([energies[0], states[:, 0] @ x2 @ states[:, 0]])


def encloses(edge: Array, point: Array) -> bool:
    """Tell whether the edge, in its order, goes round the point."""
    angles = np.unwrap(np.arctan2(*(edge[[*range(len(edge)), 0]] - point).T))
    return bool(abs(angles[-1] - angles[0]) > np.pi)


def draw(islands: Sequence[Island], truth: Array, path: Path) -> None:
    """Draw the islands; each is within the one before."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for number, one in enumerate(islands):
        colour = ("#9ecae1", "#4292c6", "#08519c", "#08306b")[number % 4]
        axes.fill(*np.array(one.edge).T, color=colour, label=f"{one.size} rows")
    axes.plot(*truth, "o", color="#ffb000", markeredgecolor="white", markersize=8, label="exact ground state")
    axes.set(
        xlabel="energy $E$",
        ylabel=r"$\langle x^2\rangle$",
        title=r"What the lowest state of $H = p^2 + x^2 + x^4$ may be",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=160)


@hf.cluster
async def bootstrap(*sizes: int, rays: int = 12) -> str:
    """Bound the lowest energy of the oscillator with the moment matrices of these sizes.

    Args:
        sizes: Rows of the matrix, at least 7 (below that there is no island); 8, 9 and 10 if there are none.
        rays: How many rays look for the edge of each island at first.
    """
    if min(sizes, default=7) < 7:
        raise hf.ConfigurationError("at least 7 rows are needed: what fewer allow has no end")
    with hf.using(sbatch=hf.SbatchOptions(ntasks_per_node=2, time="10:00")):
        islands = await hf.remote_eval_job(archipelago(sizes or (8, 9, 10), rays))
    truth, picture = exact(), (await hf.ask()).program.data_dir / "bootstrap.png"
    draw(islands, truth, picture)
    lines = [f"picture   {picture}", "rows  lowest E    highest E", f"true  {truth[0]:.6f}"]
    for one in islands:
        edge = np.array(one.edge)
        lines.insert(-1, f"{one.size:4}  {edge[:, 0].min():.6f}    {edge[:, 0].max():.6f}")
        if not encloses(edge, truth):
            raise ArithmeticError(f"the island of {one.size} rows does not contain the true {truth}: {edge}")
    return "\n".join(lines)


if __name__ == "__main__":
    hf.main(bootstrap)
