r"""Ensemble: many runs of an external program
==========================================

How many molecules of a messenger does a cell have, some time after a gene is switched on? Each run of a stochastic
simulation (Gillespie's) gives one possible history. The simulation is somebody else's program. It reads its input file,
writes an output file into the directory where it is started, and now and then it breaks down. The mean of many runs
and the band in which most of them are is what one wants to have.

How many runs are needed is decided as they come: there are more of them until the mean is known well enough. A run
that breaks down is started again with the next seed, and the others do not notice.

Each run has a directory of its own on the disk of its node, which is gone when it has ended: ten thousand runs leave no
files of theirs. Their results are in the database. The distribution is known exactly: mean and band are checked.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import hyperflow as hf

Array = NDArray[np.float64]

# %%
# **The external program.** Here it is written in awk. Put yours in its place: `run_command` takes any command line. It
# breaks down in every twentieth run, as programs do.

PROGRAM = """
{ setting[$1] = $2 }
END {
    srand(setting["seed"])
    if (setting["seed"] % 20 == 7) { print "matrix is singular" > "/dev/stderr"; exit 3 }
    for (line = 0; line <= setting["lines"]; ) {
        rate = setting["made"] + setting["lost"] * count
        t -= log(1 - rand()) / rate
        for (; line <= setting["lines"] && line * setting["every"] < t; line++)
            print line * setting["every"], count + 0 > "counts.dat"
        count += rand() * rate < setting["made"] ? 1 : -1
    }
}
"""

LINES = 50

# %%
# **The evaluation** writes the input file, starts the program, and reads what it wrote. If the program ends with
# another exit code than 0, `check=True` makes an error of that, with the end of what it wrote to stderr.


async def simulate(code: hf.File, made: float, lost: float, seed: int) -> list[int]:
    """Run the program in a directory of its own; return how many molecules there were at each time."""
    with hf.scratch() as directory:
        settings = {"made": made, "lost": lost, "seed": seed, "lines": LINES, "every": 6 / lost / LINES}
        (directory / "input.txt").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        await hf.run_command(["awk", "-f", code.path(), "input.txt"], cwd=directory, capture=True, check=True)
        return [int(line.split()[1]) for line in (directory / "counts.dat").read_text().splitlines()]


@hf.memoize("gene", version=1)
@hf.job
async def member(code: hf.File, made: float, lost: float, number: int) -> list[int]:
    """Give a history; if the program breaks down, that of another seed."""
    try:
        return await hf.remote_eval(simulate, code, made, lost, number)
    except hf.CommandFailed:
        return await hf.remote_eval(simulate, code, made, lost, number + 1_000_001)


# %%
# **The Job** decides how many runs there are.


@hf.job
async def grown(code: hf.File, made: float, lost: float, precision: float) -> list[list[int]]:
    """Run fifty members at a time, until their mean is known to such a part of itself, but for the first moments."""
    found: list[list[int]] = []
    while True:
        numbers = range(len(found), len(found) + 50)
        found += await hf.map_concurrently(lambda number: member(code, made, lost, number), numbers)
        counts = np.array(found)[:, LINES // 6 :]
        unsure = float((counts.std(axis=0) / counts.mean(axis=0)).max()) / len(found) ** 0.5
        hf.plot("standard error of the mean", x=len(found), y=unsure)
        if unsure < precision:
            return found


@hf.cluster
async def ensemble(*, made: float = 20.0, lost: float = 1.0, precision: float = 0.025) -> None:
    """Simulate how a cell gets molecules of a messenger, and compare with the exact distribution.

    Args:
        made: How many molecules are made in an hour.
        lost: Which part of them is lost in an hour.
        precision: How well the mean has to be known, as a part of itself.
    """
    program = (await hf.ask()).program
    code = program.data_dir / "gene.awk"
    code.write_text(PROGRAM)
    with hf.using(sbatch=hf.SbatchOptions(nodes=2, ntasks_per_node=1, time="10:00")):
        counts = np.array(await hf.remote_eval_job(grown(hf.File(code), made, lost, precision)))
    times = np.linspace(0, 6 / lost, LINES + 1)
    exact = made / lost * (1 - np.exp(-lost * times))
    draw(times, counts, exact, program.data_dir / "ensemble.png")
    print(f"runs     {len(counts)}\npicture  {program.data_dir / 'ensemble.png'}")
    check(counts, exact)


def check(counts: Array, exact: Array) -> None:
    """Compare with Poisson's distribution, whose variance is its mean, in units of what chance explains."""
    mean, variance, runs = counts[:, 1:].mean(axis=0), counts[:, 1:].var(axis=0), len(counts)
    off = float(abs((mean - exact[1:]) / np.sqrt(exact[1:] / runs)).max())
    broad = float(abs((variance / exact[1:]).mean() - 1) / np.sqrt(2 / runs))
    print(f"mean     {off:.1f} standard errors from the exact one at most\nband     {broad:.1f} from the exact width")
    if max(off, broad) > 5:
        raise ArithmeticError(f"{off:.1f} and {broad:.1f} standard errors: that is no chance, one of them is wrong")


def draw(times: Array, counts: Array, exact: Array, path: Path) -> None:
    """Draw some histories, the mean of all and the band with nine tenths of them, and the exact mean."""
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.step(times, counts[:12].T, where="post", color="#8a97a3", lw=0.6, alpha=0.7)
    low, high = np.quantile(counts, [0.05, 0.95], axis=0)
    axes.fill_between(times, low, high, step="post", color="#2a6fb5", alpha=0.25, lw=0, label="nine tenths of the runs")
    axes.plot(times, counts.mean(axis=0), color="#2a6fb5", lw=2.5, label=f"mean of {len(counts)} runs")
    axes.plot(times, exact, "--", color="#e4572e", lw=1.5, label="exact mean")
    axes.set(
        xlabel="time since the gene is on (h)", ylabel="molecules in the cell", xlim=(0, times[-1]), ylim=(0, None)
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(ensemble)
