"""The scratch directory of a launcher on its node: who makes it, who cleans it, how a stale one is known.

<scratch>/hyperflow-<uid>/<run>-<node>-<pid>/
  alive            locked (flock) by the launcher and its workers while they live
  files/           contents of files, by digest: staging/cache.py
  worker-<number>/ what evaluations of that worker have there; the launcher removes it with the worker
"""

from __future__ import annotations

import os
from pathlib import Path

place: Path | None = None
"""The directory of this launcher, in it and in all workers that it forks; None where there is none."""

why_not = ""
"""Why there is none, for people."""

cache_limit: int = 0
"""Bytes that the files there may have together."""

worker: int | None = None
"""The number of this worker, in it."""


def make(base: str, run: str, node: str, cache: int) -> None:
    """Make the directory of this launcher, or note why that cannot be."""
    global cache_limit, place, why_not  # noqa: PLW0603
    try:
        cache_limit = cache or 1 << 30
        place = Path(base or os.environ.get("TMPDIR") or "/tmp") / f"hyperflow-{os.geteuid()}" / f"{run}-{node}-{os.getpid()}"
        place.mkdir(parents=True, mode=0o700)
    except OSError as error:
        place, why_not = None, str(error)


def directory_of(number: int) -> Path | None:
    """Return where the evaluations of a worker have what is theirs; whoever needs it makes it."""
    return None if place is None else place / f"worker-{number}"
