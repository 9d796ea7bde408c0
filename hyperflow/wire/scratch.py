"""The scratch directory of a launcher on its node: who makes it, who cleans it, how a stale one is known.

<scratch>/hyperflow-<uid>/<run>-<node>-<pid>/
  alive            locked (flock) by the launcher and its keeper while they live
  files/           contents of files, by digest: staging/cache.py
  worker-<number>/ what evaluations of that worker have there; the launcher removes it with the worker
"""

from __future__ import annotations

from pathlib import Path

place: Path | None = None
"""The directory of this launcher, in it and in all workers that it forks; None where there is none."""

cache_limit: int = 0
"""Bytes that the files there may have together."""
