r"""Root search: brackets for square, cube and fourth roots, by bisection. Hyperion's own example.

What is wanted, for n = 2, 3, 4 and many points x: two numbers low <= high, at most eps apart, with
low**n <= x <= high**n. How many steps that takes is known only when it is done, which is what job arrays and static
graphs are bad at.

        Master                        this script, on the login node: what is wanted, and the table at the end
        |
        +-- Job n=2                   one for each n: a Slurm job of two nodes with two CPUs each
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

- The Master is `search`. It says which Jobs there are, and waits for them. Kill it at any moment, and start it again
  with `hyperflow resume`: it goes on where it was.
- A Job is `roots`. It runs on the head node of its allocation, or with `--local` on this machine, and decides what is
  evaluated.
- An evaluation is `bracket`: a plain function, `bisect`, that runs in a worker process with a CPU of its own.
  It is memoized: what the database holds is not computed again. `--database` begins a new run with what an earlier one
  has found.
"""

import math
import time
from fractions import Fraction

import attrs

import hyperflow as hf

ROOTS = (2, 3, 4)
TWO_NODES = hf.SbatchOptions(nodes=2, ntasks_per_node=2, time="10:00")
"""What each Job asks Slurm for: two CPUs on each of two nodes, for ten minutes."""

ROWS = 3
"""How many points the table shows for each n."""


@attrs.frozen
class Points:
    """Evenly spread points, both ends included."""

    low: float
    high: float
    count: int

    def all(self) -> list[float]:
        """Return them, each once: where the ends are close, there are fewer floats between them than points."""
        parts = [number / max(self.count - 1, 1) for number in range(self.count)]
        return list(dict.fromkeys(self.low * (1 - part) + self.high * part for part in parts))


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
    """The brackets for one n, in the order of the points, and how many evaluations they took."""

    brackets: list[Bracket]
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
async def roots(n: int, points: Points, eps: float) -> Outcome:
    """Give the brackets for one n and all points."""
    brackets = await hf.map_concurrently(lambda x: bracket(n, x, eps), points.all())
    return Outcome(brackets, (await hf.ask()).statistics().done)


# ---- the Master: runs on the login node, or here --------------------------------------------------------------------


@hf.cluster
async def search(points: Points, eps: float) -> None:
    """Run the three Jobs side by side, each in an allocation of its own; check and show what they have found."""
    began = time.monotonic()
    with hf.using(sbatch=TWO_NODES):
        found = await hf.map_concurrently(lambda n: hf.remote_eval_job(roots(n, points, eps)), ROOTS)
    wall = time.monotonic() - began
    xs = points.all()
    report(xs, eps, [outcome.brackets for outcome in found])
    computed = sum(outcome.evaluations for outcome in found)
    print(
        f"evaluations    {computed}{'' if computed else ': nothing was left to compute'}\n"
        f"from database  {len(ROOTS) * len(xs) - computed}\n"
        f"wall time      {wall:.2f} s"
    )


def points_between(x_min: float, x_max: float, points: int, eps: float) -> Points:
    """Give the points that are meant; refuse what makes no sense before any work is done."""
    if not 0 <= x_min < math.inf:
        raise hf.ConfigurationError(f"--x-min {x_min:g}: a number of at least 0 is needed (real roots only)")
    if not x_min <= x_max < math.inf:
        raise hf.ConfigurationError(f"--x-max {x_max:g}: a number of at least --x-min = {x_min:g} is needed")
    if points < 1:
        raise hf.ConfigurationError(f"--points {points}: at least 1 is needed")
    if not 0 < eps < math.inf:
        raise hf.ConfigurationError(f"--eps {eps:g}: a positive number is needed")
    return Points(x_min, x_max, points)


def report(xs: list[float], eps: float, found: list[list[Bracket]]) -> None:
    """Print some rows, and check all of them; raise an error if any is wrong."""
    print("n  x                   low                     high                    width")
    right = 0
    for n, brackets in zip(ROOTS, found, strict=True):
        for position in sorted({round((len(xs) - 1) * row / (ROWS - 1)) for row in range(ROWS)}):
            one = brackets[position]
            print(f"{n}  {xs[position]!r:<18}  {one.low!r:<22}  {one.high!r:<22}  {one.high - one.low:.1e}")
        right += sum(one.holds(n, x, eps) for x, one in zip(xs, brackets, strict=True))
    total = len(ROOTS) * len(xs)
    print(f"... {right} of {total} brackets checked and right: low**n <= x <= high**n, exactly")
    if right < total:
        raise ArithmeticError(f"{total - right} brackets are wrong")


def root_search(*, x_min: float = 0.0, x_max: float = 10.0, points: int = 5001, eps: float = 1e-12) -> hf.Cluster[None]:
    """Find brackets for the square, cube and fourth roots of points between x_min and x_max.

    Three Slurm jobs of two nodes with two CPUs each; with --local, on this machine.

    Args:
        x_min: The smallest point, at least 0.
        x_max: The largest point.
        points: How many points, evenly spread.
        eps: How wide a bracket may be. Below the distance of floats: the two floats next to the root.
    """
    return search(points_between(x_min, x_max, points, eps), eps)


if __name__ == "__main__":
    hf.main(root_search)
