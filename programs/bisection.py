"""
Bisection: how molecules vibrate
================================

At which energies does a molecule vibrate? An energy can only be tried: integrate Schrödinger's equation, count the
zeros of its solution, and you know how many levels are below. So each level is bisected, one trial after the other,
and which energy is tried next depends on the count before. The levels of a molecule are bisected side by side. Their
first trials are the same: `hf.memoize` computes those once, and keeps all of them in the results database.

The potential is Morse's, for which the levels are known: the program compares, and ends with an error if one is wrong.
"""

from itertools import pairwise
from pathlib import Path

import attrs
import numpy as np
from matplotlib.figure import Figure

import hyperflow as hf

# %%
# **A molecule** is given by two constants from spectroscopy (NIST Chemistry WebBook), in 1/cm. With the
# length 1/a of the potential as unit, its equation is psi'' = (V - E) / wexe * psi.


@attrs.frozen
class Molecule:
    """A molecule of two atoms, with Morse's potential."""

    we: float
    wexe: float

    @property
    def depth(self) -> float:
        """Return the energy at which it breaks apart."""
        return self.we**2 / (4 * self.wexe)

    def exact(self, level: int) -> float:
        """Return the energy of a level by Morse's formula."""
        return self.we * (level + 0.5) - self.wexe * (level + 0.5) ** 2


MOLECULES = {"H2": Molecule(4401.21, 121.33), "HCl": Molecule(2990.95, 52.82), "CO": Molecule(2169.81, 13.288)}

STEPS = 2000  # of an integration
INK, BLUE = "#33424f", "#2a6fb5"

# %%
# **The evaluation** runs on a worker: plain Python, which knows nothing of hyperflow. Its energy decides how many
# zeros there are, and nothing else does (Sturm's theorem).


def zeros(molecule: Molecule, energy: float) -> int:
    """Count the zeros of the solution at an energy, which is the number of levels below it."""
    wave = solution(molecule, energy)
    return sum((here < 0) != (after < 0) for here, after in pairwise(wave))


def solution(molecule: Molecule, energy: float) -> list[float]:
    """Integrate from a stretch of -1 to one of 3 by Numerov's method."""
    x = np.linspace(-1, 3, STEPS)
    curving = (molecule.depth * (1 - np.exp(-x)) ** 2 - energy) / molecule.wexe
    factors = (1 - (x[1] - x[0]) ** 2 / 12 * curving).tolist()
    wave = [0.0, 1e-60]
    for left, here, right in zip(factors, factors[1:], factors[2:], strict=False):
        wave.append(((12 - 10 * here) * wave[-1] - left * wave[-2]) / right)
    return wave


@hf.memoize("zeros", version=1)
def counted(molecule: Molecule, energy: float) -> hf.Job[int]:
    """Give the number of levels below an energy: from the results database, or by an evaluation."""
    return hf.remote_eval(zeros, molecule, energy)


# %%
# **The Jobs** decide what comes next. There is one for each molecule; on a cluster each is a Slurm job.


@hf.job
async def level(molecule: Molecule, number: int, width: float) -> float:
    """Bisect until a level is known to a width."""
    low, high = 0.0, molecule.depth
    while high - low > width:
        middle = (low + high) / 2
        if await counted(molecule, middle) > number:
            high = middle
        else:
            low = middle
    return (low + high) / 2


@hf.job
async def spectrum(name: str, levels: int, width: float) -> tuple[list[float], int]:
    """Find the lowest levels side by side; return also how many evaluations that took."""
    found = await hf.map_concurrently(lambda number: level(MOLECULES[name], number, width), range(levels))
    return found, (await hf.ask()).statistics().done


# %%
# **The Master** runs on the login node: `hf.main` makes its command line. Kill it at any moment, and `hyperflow resume`
# goes on where it was. `--database` begins a new run with what an earlier one has found.


@hf.cluster
async def bisection(*, levels: int = 8, width: float = 0.01) -> None:
    """Find the lowest vibrational levels of three molecules, and compare with Morse's formula.

    Args:
        levels: How many levels of each molecule.
        width: How wide the last bracket of a level may be, in 1/cm.
    """
    with hf.using(sbatch=hf.SbatchOptions(nodes=2, ntasks_per_node=2, time="10:00")):
        jobs = await hf.map_concurrently(lambda name: hf.remote_eval_job(spectrum(name, levels, width)), MOLECULES)
    found = {name: energies for name, (energies, _) in zip(MOLECULES, jobs, strict=True)}
    for name, energies in found.items():
        print(f"{name:3} " + " ".join(f"{energy:9.2f}" for energy in energies))
    error = max(abs(e - MOLECULES[name].exact(n)) for name, energies in found.items() for n, e in enumerate(energies))
    picture = (await hf.ask()).program.data_dir / "bisection.png"
    draw(found, picture)
    print(f"largest error  {error:.4f} 1/cm; {width:g} is allowed")
    print(f"evaluations    {sum(evaluations for _, evaluations in jobs)}")
    print(f"picture        {picture}")
    if error > width:
        raise ArithmeticError(f"a level is wrong by {error:.4f} 1/cm")


def draw(found: dict[str, list[float]], path: Path) -> None:
    """Draw each molecule's potential, and each level's solution at the height of its energy."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (name, energies) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        molecule, top = MOLECULES[name], energies[-1] * 1.12
        x = np.linspace(-1, 3, STEPS)
        potential = molecule.depth * (1 - np.exp(-x)) ** 2
        axes.plot(x, potential / 1000, color=INK, lw=1.6)
        for energy in energies:
            wave = np.array(solution(molecule, energy))
            turn = int(np.flatnonzero(potential < energy)[-1])
            decayed = turn + int(np.abs(wave[turn:]).argmin())  # beyond, the error of the energy grows
            wave[decayed:] = 0
            shown = slice(int(np.flatnonzero(potential < top)[0]), decayed)
            axes.plot(x[shown], (energy + 0.045 * top * wave[shown] / np.abs(wave).max()) / 1000, color=BLUE, lw=1.3)
        right = float(x[np.flatnonzero(potential < top)[-1]])
        axes.set(xlim=(-right * 0.75, right * 1.08), ylim=(0, top / 1000), title=name, xlabel="stretch a (r - r₀)")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("energy / hc  (1000 / cm)")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(bisection)
