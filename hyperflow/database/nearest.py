"""Nearest: the recorded result that comes nearest to one that was not found, and in what it differs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from hyperflow.database.reading import Mark


@attrs.frozen
class Nearest:
    """A result that would have been found but for what differs.

    Args:
        names: The arguments that differ; none if it has the same key.
    """

    map_name: str
    mark: Mark
    names: tuple[str, ...]


Differing = Callable[[Mark], tuple[tuple[str, ...], float]]
"""Returns the arguments in which an entry differs from what is wanted, and how far they are from it."""


def nearest(map_name: str, marks: Iterable[Mark], differing: Differing, program: str = "") -> Nearest | None:
    """Return the entry with the fewest arguments that differ; of several the closest, then one of an earlier program.

    Of those that are equal in all this, the newest.
    """
    best: tuple[tuple[int, float, bool, int], Mark, tuple[str, ...]] | None = None
    for mark in marks:
        names, distance = differing(mark)
        rank = len(names), distance, mark.program == program, -mark.number
        if best is None or rank < best[0]:
            best = rank, mark, names
    return None if best is None else Nearest(map_name, best[1], best[2])


def differing_from(wanted: Mapping[str, Any], data_of: Callable[[str], Mapping[str, Any]]) -> Differing:
    """Return what compares keys with the JSON data of one."""

    def differing(mark: Mark) -> tuple[tuple[str, ...], float]:
        there = data_of(mark.key)
        names = tuple(
            name
            for name in dict.fromkeys((*wanted, *there))
            if name not in wanted or name not in there or not same(wanted[name], there[name])
        )
        return names, sum(gap(wanted.get(name), there.get(name)) for name in names)

    return differing


def same(one: Any, other: Any) -> bool:
    """Tell whether JSON data is the same; 1, 1.0 and true are three."""
    return bool(one == other) and repr(one) == repr(other)


def gap(one: Any, other: Any) -> float:
    """Tell how far two arguments that differ are from each other: from 0 (1 and 1.0) to 1 (nothing is alike)."""
    numbers = [part for part in (one, other) if isinstance(part, int | float) and not isinstance(part, bool)]
    if len(numbers) < 2:
        return 1.0
    size = abs(one) + abs(other)
    return min(abs(one - other) / size, 1.0) if size else 0.0
