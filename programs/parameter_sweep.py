"""Parameter sweep: from results to a parquet file
===============================================

When do oscillators that pull at each other begin to swing together? Kuramoto's model has two parameters: how strongly
they pull, and how different their own frequencies are. One evaluation simulates all oscillators for one pair of them.

A sweep knows its pairs in advance. What it does not know is what you want next: more points, another range, the same
with one column more. So each result is recorded on the disk when it is there. A sweep with `--database` computes only
what is new, and after `kill -9`, `hyperflow resume` goes on. The recorded results are a table: `frame()` gives it to
pandas or polars, and one line makes a parquet file of it.

For infinitely many oscillators the answer is known, and the table is compared with it.
"""

from pathlib import Path
from typing import Any

import attrs
import numpy as np
from matplotlib.figure import Figure

import hyperflow as hf

OSCILLATORS, STEPS, STEP = 300, 500, 0.05

# %%
# **The evaluation** runs on a worker. What it returns is a record: its fields become columns of the table.


@attrs.frozen
class Order:
    """How far the oscillators swing together: 0 not at all, 1 all of them; and how much that still varied."""

    order: float
    scatter: float


def simulate(pull: float, width: float) -> Order:
    """Let oscillators run whose frequencies are spread like Lorentz's curve of this half width."""
    places = (np.arange(OSCILLATORS) + 0.5) / OSCILLATORS
    frequencies = width * np.tan(np.pi * (places - 0.5))
    phases = np.random.default_rng(1).uniform(0, 0.5, OSCILLATORS)
    orders = []
    for _ in range(STEPS):
        mean = np.exp(1j * phases).mean()
        phases += STEP * (frequencies + pull * np.imag(mean * np.exp(-1j * phases)))
        orders.append(abs(mean))
    last = orders[STEPS // 2 :]
    return Order(float(np.mean(last)), float(np.std(last)))


@hf.memoize("kuramoto", version=1)
def kuramoto(pull: float, width: float) -> hf.Job[Order]:
    """Simulate a pair, or find it in the results database."""
    return hf.remote_eval(simulate, pull, width)


# %%
# **The Job** asks for all pairs. `remote_map` is the other way, for evaluations of less than a millisecond; it records
# nothing.


@hf.job
async def sweep(pairs: list[tuple[float, float]]) -> int:
    """Evaluate all pairs; return for how many of them nothing was known."""
    await hf.map_concurrently(lambda pair: kuramoto(*pair), pairs)
    return (await hf.ask()).statistics().done


# %%
# **The table.** `open_results` only reads, so it may also be called in a notebook, while the sweep goes on.


@hf.cluster
async def parameter_sweep(
    *, points: int = 13, strongest: float = 4.0, widest: float = 1.5, within: float = 0.1
) -> None:
    """Sweep the pull and the width of the frequencies; write a table, and draw it.

    Args:
        points: How many values of each of the two there are.
        strongest: The largest pull.
        widest: The largest half width of the frequencies.
        within: How far a result may be from that of infinitely many oscillators, where that is not near its edge.
    """
    pulls, widths = np.linspace(1, strongest, points).tolist(), np.linspace(0.1, widest, points).tolist()
    pairs = [(pull, width) for pull in pulls for width in widths]
    with hf.using(sbatch=hf.SbatchOptions(ntasks_per_node=2, time="10:00")):
        computed = await hf.remote_eval_job(sweep(pairs))
    program = (await hf.ask()).program
    table = hf.open_results(program).map(kuramoto).frame("polars")
    table.write_parquet(program.data_dir / "sweep.parquet")
    draw(table, program.data_dir / "parameter_sweep.png")
    print(table.sort("pull", "width").tail(3))
    print(f"computed  {computed} of {len(pairs)}\ntable     {program.data_dir / 'sweep.parquet'}")
    check(table, within)


def exact(pull: Any, width: Any) -> Any:
    """Return the order of infinitely many oscillators."""
    return np.sqrt(np.maximum(0, 1 - 2 * width / pull))


def check(table: Any, within: float) -> None:
    """Compare the table with the exact order, away from its edge; there few oscillators are too few."""
    pull, width, order = (table[name].to_numpy() for name in ("pull", "width", "order"))
    away = abs(pull - 2 * width) > 0.25 * pull
    error = float(abs(order - exact(pull, width))[away].max())
    print(f"error     {error:.3f} at most, {within:g} is allowed")
    if error > within:
        raise ArithmeticError(f"the order is up to {error:.3f} from the exact one, {within:g} is allowed")


def draw(table: Any, path: Path) -> None:
    """Draw the order as a map, with the exact edge."""
    wide = table.pivot("pull", index="width", values="order", sort_columns=False).sort("width")
    pulls, widths = np.unique(table["pull"]), np.unique(table["width"])
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot()
    order = wide.select(sorted(wide.columns[1:], key=float)).to_numpy()
    mesh = axes.pcolormesh(pulls, widths, order, vmin=0, vmax=1, cmap="magma")
    figure.colorbar(mesh, ax=axes, label="order (1: all swing together)")
    axes.plot(2 * widths, widths, color="#5ad1ff", lw=2, label="exact edge")
    axes.set(xlabel="pull between them (rad/s)", ylabel="half width of their frequencies (rad/s)")
    axes.set(
        title=f"{len(table)} evaluations of Kuramoto's model", xlim=(pulls[0], pulls[-1]), ylim=(widths[0], widths[-1])
    )
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(parameter_sweep)
