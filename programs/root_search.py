r"""Root search: brackets for square, cube and fourth roots, by bisection. Hyperion's own example.

What is wanted, for n = 2, 3, 4 and many points x: two numbers low <= high, at most eps apart, with
low**n <= x <= high**n. How many steps that takes is known only when it is done, which is what job arrays and static
graphs are bad at.

        Master                        this script: what is wanted, and the table at the end
        |
        +-- Job n=2                   one for each n: holds CPUs, decides what is evaluated
        |   |
        |   +-- Node                  evaluates on its CPUs
        |   |   +-- bracket(2, x1)    one bisection each, recorded in the results database
        |   |   +-- bracket(2, x2)
        |   |   :
        |   +-- Node
        |       +-- bracket(2, x3)
        |       :
        +-- Job n=3
        |   :
        +-- Job n=4
            :

- The Master is `search`. It says which Jobs there are, and waits for them.
- A Job is `roots`. It depends on its arguments only, so that it could as well run elsewhere, in an allocation of its
  own. Here all three run on this machine, side by side, and share its CPUs.
- An evaluation is `bracket`: a plain function, `bisect`, that runs in a worker process with a CPU of its own.
  It is memoized: what the database holds is not computed again. Kill the program at any moment, run it
  again, and it goes on where it was.
"""

import math
import time
from fractions import Fraction
from pathlib import Path

import attrs
from commandline import Cpus, Slurm, run, run_job
from progress import progress

import hyperflow as hf

ROOTS = (2, 3, 4)
ROWS = 3
"""How many points the table shows for each n."""


@attrs.frozen
class Bracket:
    """An n-th root of x is between these two: low**n <= x <= high**n."""

    low: float
    high: float

    def holds(self, n: int, x: float, eps: float) -> bool:
        """Check the promise without rounding: as fractions, floats are exact."""
        narrow = self.high - self.low <= eps or math.nextafter(self.low, math.inf) == self.high
        return narrow and Fraction(self.low) ** n <= Fraction(x) <= Fraction(self.high) ** n


@attrs.frozen
class Outcome:
    """All brackets of a run, in the order of the points, and how many evaluations they took."""

    brackets: dict[int, list[Bracket]]
    evaluations: int


# ---- the evaluation: runs on a worker -------------------------------------------------------------------------------


def bisect(n: int, x: float, eps: float) -> Bracket:
    """Halve a bracket until it is at most eps wide, or until there is no float between its ends."""
    goal = Fraction(x)
    low, high = 0.0, max(1.0, x)  # also for x < 1, whose root is larger than x itself
    while high - low > eps:
        middle = low + (high - low) / 2
        if middle in (low, high):  # eps is below the distance of floats here
            break
        if Fraction(middle) ** n <= goal:  # in floats, this would be wrong near the root
            low = middle
        else:
            high = middle
    return Bracket(low, high)


@hf.memoize("nth_root", version=1)
def bracket(n: int, x: float, eps: float) -> hf.Job[Bracket]:
    """Give the bracket for one n and x: from the results database, or by an evaluation on a worker."""
    return hf.remote_eval(bisect, n, x, eps)


# ---- the Jobs: run on the head node of an allocation, or here -------------------------------------------------------


@hf.job
async def roots(n: int, xs: list[float], eps: float) -> list[Bracket]:
    """Give the brackets for one n and all points, in their order."""
    found: dict[float, Bracket] = {}
    with progress(f"n = {n}", total=len(xs)) as done:
        async for x, one in hf.as_completed(lambda x: bracket(n, x, eps), xs):
            found[x] = one
            done()
    return [found[x] for x in xs]


# ---- the Master -----------------------------------------------------------------------------------------------------


@hf.job
async def search(xs: list[float], eps: float) -> Outcome:
    """Run the three Jobs side by side; with Slurm, each of them in an allocation of its own."""
    found = await hf.map_concurrently(lambda n: roots(n, xs, eps), ROOTS)
    statistics = (await hf.ask()).statistics()
    return Outcome(dict(zip(ROOTS, found, strict=True)), statistics.done)


def points_between(x_min: float, x_max: float, points: int, eps: float) -> list[float]:
    """Spread the points evenly, both ends included; refuse what makes no sense before any work is done."""
    if not 0 <= x_min < math.inf:
        raise hf.ConfigurationError(f"--x-min {x_min:g}: a number of at least 0 is needed (real roots only)")
    if not x_min <= x_max < math.inf:
        raise hf.ConfigurationError(f"--x-max {x_max:g}: a number of at least --x-min = {x_min:g} is needed")
    if points < 1:
        raise hf.ConfigurationError(f"--points {points}: at least 1 is needed")
    if not 0 < eps < math.inf:
        raise hf.ConfigurationError(f"--eps {eps:g}: a positive number is needed")
    parts = [number / max(points - 1, 1) for number in range(points)]
    # Each point once: where x_min and x_max are close, there are fewer floats between them than points.
    return list(dict.fromkeys(x_min * (1 - part) + x_max * part for part in parts))


def report(xs: list[float], eps: float, outcome: Outcome) -> bool:
    """Print some rows, and check all of them; tell whether all are right."""
    print("n  x                   low                     high                    width")
    for n, brackets in outcome.brackets.items():
        for position in sorted({round((len(xs) - 1) * row / (ROWS - 1)) for row in range(ROWS)}):
            one = brackets[position]
            print(f"{n}  {xs[position]!r:<18}  {one.low!r:<22}  {one.high!r:<22}  {one.high - one.low:.1e}")
    total = sum(map(len, outcome.brackets.values()))
    right = sum(
        one.holds(n, x, eps) for n, brackets in outcome.brackets.items() for x, one in zip(xs, brackets, strict=True)
    )
    print(f"... {right} of {total} brackets checked and right: low**n <= x <= high**n, exactly")
    return right == total


def main(
    *,
    x_min: float = 0.0,
    x_max: float = 10.0,
    points: int = 5001,
    eps: float = 1e-12,
    cpus: Cpus = None,
    slurm: Slurm = False,
    base_dir: Path = Path("root_search"),
) -> int:
    """Find brackets for the square, cube and fourth roots of points between x_min and x_max.

    Results are recorded in a database in the base directory: run it again, and only what is new is computed.

    Args:
        x_min: The smallest point, at least 0.
        x_max: The largest point.
        points: How many points, evenly spread.
        eps: How wide a bracket may be. Below the distance of floats: the two floats next to the root.
        base_dir: Where the database and each run's logs are; made if it is not there.
    """
    xs = points_between(x_min, x_max, points, eps)
    program = hf.ProgramInfo.new(base_dir, database=base_dir / "root_search.sqlite")
    began = time.monotonic()
    outcome = run_job(search(xs, eps), cpus, program, slurm)
    wall = time.monotonic() - began
    right = report(xs, eps, outcome)
    computed = outcome.evaluations
    print(
        f"evaluations    {computed} in this run{'' if computed else ': nothing was left to compute'}\n"
        f"from database  {len(ROOTS) * len(xs) - computed}\n"
        f"wall time      {wall:.2f} s\n"
        f"database       {program.database}\n"
        f"logs           {program.log_dir}"
    )
    return 0 if right else 1


if __name__ == "__main__":
    run(main)
