"""Which tasks of an array a Job runs: a share of them, and of that, those that were asked for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hyperflow.commands import graph
from hyperflow.commands.reading import read_numbers
from hyperflow.commands.spec import ArraySpec
from hyperflow.errors import ConfigurationError


def share_of(spec: ArraySpec, which: int, shares: int) -> Sequence[int]:
    """Return the numbers of a share: consecutive ones; where tasks come after others, these are in the same share."""
    if spec.after:
        return graph.shared(graph.parts(spec.count, spec.after), shares)[which]
    each, more = divmod(spec.count, shares)
    first = 1 + which * each + min(which, more)
    return range(first, first + each + (which < more))


def shares_of(spec: ArraySpec, wanted: int) -> int:
    """Return how many shares there are, where so many are wanted.

    Raises:
        ConfigurationError: Each task has to do with each other one, so they cannot be shared.
    """
    if wanted == 1:
        return 1
    if not spec.after:
        return min(wanted, spec.count)
    parts = graph.parts(spec.count, spec.after)
    if len(parts) == 1:
        raise ConfigurationError(
            f"--jobs {wanted}: all tasks come after each other in some way, and those that do have to be in one Slurm "
            f"job; leave --jobs out, and ask for more nodes: --nodes {wanted}"
        )
    return min(wanted, len(parts))


def chosen_of(spec: ArraySpec, chosen: str) -> Collection[int] | str | None:
    """Return the tasks that `3,17-20` means, and all that come after them; "failed" as it is, and None for all.

    Raises:
        ConfigurationError: It means no tasks, or one that there is not.
    """
    if chosen in ("", "failed"):
        return chosen or None
    found = set(map(int, read_numbers(chosen, "--tasks")))
    wrong = [number for number in (min(found), max(found)) if not 1 <= number <= spec.count]
    if wrong:
        raise ConfigurationError(
            f"--tasks {chosen}: there is no task {wrong[0]}; they are numbered from 1 to {spec.count:,}"
        )
    return graph.with_all_behind(found, spec.after)
