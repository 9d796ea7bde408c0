"""What killed heads have left of outputs, for `hyperflow gc`: beside the destinations, so not in the base directory.

Guarantees: only names that outputs of this run had while they came, in directories that the run has noted itself; and
only when nothing of the run is at work, as for all that goes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hyperflow.cli import heads, space
from hyperflow.cli.space import Finding
from hyperflow.staging import leftovers

KIND = "output"
"""Of a Finding: a part of one."""


def find(base_dir: Path, before: float, only: Path | None = None) -> list[Finding]:
    """Return what is left of outputs of these runs."""
    homes = [home for home in heads.all_in(base_dir) if not home.is_symlink() and only in (None, home)]
    return [one for home in homes for one in _of_run(home, before)]


def _of_run(home: Path, before: float) -> Iterator[Finding]:
    noting = [place for place in (home, *sorted(home.glob("jobs/*"))) if (place / leftovers.NOTES).is_file()]
    directories = sorted({directory for place in noting for directory in leftovers.noted(place)})
    if not directories or space.runs(home):
        return
    for directory in directories:
        for name in leftovers.of_run(directory, home.name):
            path = Path(directory, name)
            there = space.used(path)
            about = f"a part of an output of {home.name}, which was killed"
            yield Finding(KIND, path, there.size, there.time, about, space.young(there.time, before))


def remove(found: list[Finding]) -> tuple[int, list[str]]:
    """Remove what can go; return how many bytes that freed, and what could not be removed."""
    freed, failures = 0, list[str]()
    for one in found:
        if one.kept:
            continue
        leftovers.remove(str(one.path))
        if os.path.lexists(one.path):
            failures.append(f"{one.path} stays: it cannot be removed")
        else:
            freed += one.size
    return freed, failures
