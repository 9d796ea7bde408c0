"""Scratch directories on this machine that killed runs have left; `hyperflow gc` removes them, as the next run does."""

from __future__ import annotations

from collections.abc import Sequence

from hyperflow.cli.space import Finding, used
from hyperflow.config import read_settings
from hyperflow.wire import scratch


def find() -> list[Finding]:
    """Return those in which nobody lives any more."""
    found: list[Finding] = []
    for home in scratch.homes(read_settings().scratch):
        for path in scratch.stale_in(home):
            there = used(path)
            found.append(Finding("scratch", path, there.size, there.time, "of a run that was killed"))
    return found


def remove(found: Sequence[Finding]) -> int:
    """Remove them; return how many bytes are free again."""
    freed = 0
    for one in found:
        scratch.remove_whole(one.path)
        if not one.path.exists():
            freed += one.size
    return freed
