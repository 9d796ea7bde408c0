"""Explained: a recorded result, why it was computed and not found, and what stands behind it.

Guarantees: what is read is bounded by a few passes over the maps that matter; values are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from hyperflow.database import memo
from hyperflow.database.conditions import Test
from hyperflow.database.nearest import Nearest, differing_from, nearest
from hyperflow.database.origins import TEXTS, Origin, Parent, key_digest
from hyperflow.database.reading import Mark
from hyperflow.database.results import ResultsMap
from hyperflow.database.shown_keys import LEFT_OUT, ShownKeys

MOST_ANCESTORS = 10_000
"""So many recorded values are looked at that stand behind one."""


@attrs.frozen
class Change:
    """A function, or a value that it refers to, which an earlier result had otherwise; None where it was not there."""

    name: str
    before: str | None
    now: str | None


@attrs.define(eq=False)
class Ancestor:
    """A recorded value, and those that went into it.

    Args:
        origin: None if it is not in the database any more, or is in another one.
        more: How many more were read than its origin tells apart.
    """

    map_name: str
    key: str
    origin: Origin | None
    parents: list[Ancestor] = attrs.field(factory=list["Ancestor"])
    more: int = 0


def fitting(found: ResultsMap, tests: Mapping[str, Test]) -> list[Mark]:
    """Return the newest entry of each key that passes all tests, the oldest first."""
    known: dict[str, Mark] = {}
    for mark in found.reader.marks(found.map_name):
        known.pop(mark.key, None)
        known[mark.key] = mark
    keys = found.shown_keys
    return [mark for mark in known.values() if not tests or keys.passing(mark.key, tests) is not LEFT_OUT]


def nearest_to(found: ResultsMap, mark: Mark) -> Nearest | None:
    """Return what was recorded before an entry and is nearest to it; None if nothing of the function was."""
    data_of = found.shown_keys.data
    differing = differing_from(data_of(mark.key), data_of)
    before = (other for other in found.reader.marks(found.map_name) if other.number < mark.number)
    here = nearest(found.map_name, before, differing, mark.program)
    if here is not None and not here.names:
        return here
    for map_name in _other_versions(found):
        older = (it for it in found.reader.marks(map_name) if it.time <= mark.time)
        there = nearest(map_name, older, differing)
        if there is not None and (here is None or not there.names):
            here = there
    return here


def nearest_that_passes(found: ResultsMap, tests: Mapping[str, Test]) -> Nearest | None:
    """Return the entry that fails the fewest tests."""

    def differing(keys: ShownKeys, mark: Mark) -> tuple[tuple[str, ...], float]:
        passed = keys.passes(mark.key, keys.key(mark.key), tests)
        return tuple(name for name, passes in passed.items() if not passes), 0.0

    here = nearest(found.map_name, found.reader.marks(found.map_name), lambda mark: differing(found.shown_keys, mark))
    for map_name in _other_versions(found):
        there = nearest(map_name, found.reader.marks(map_name), lambda mark: differing(found.shown_keys, mark))
        if there is not None and not there.names:
            return there
    return here


def _other_versions(found: ResultsMap) -> list[str]:
    if found.kind != "memoized":
        return []
    beginning = memo.map_of(found.name, "")
    return [name for name in found.reader.maps() if name.startswith(beginning) and name != found.map_name]


def changes(found: ResultsMap, before: Origin, now: Origin) -> list[Change] | None:
    """Return in which functions and values two results of a function differ, as far as is known; None for in nothing.

    An empty list: they differ, and what they said was not recorded.
    """
    if before.code == now.code or not comparable(before, now):
        return None
    texts: dict[str, dict[str, str]] = {}
    for map_name in (found.map_name, *_other_versions(found)):
        for mark in found.reader.marks(map_name):
            if TEXTS in mark.metadata:
                origin = mark.origin
                if origin.texts and origin.code in (before.code, now.code):
                    texts.setdefault(origin.code, origin.texts)
    if len(texts) < 2:
        return []
    old, new = texts[before.code], texts[now.code]
    names = dict.fromkeys((*new, *old))
    return [Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def comparable(before: Origin, now: Origin) -> bool:
    """Tell whether the functions behind two results can be compared; those of two versions of Python cannot."""
    pythons = {origin.code.partition(" ")[0] for origin in (before, now)}
    return len(pythons) == 1 and pythons != {""}


def behind(found: ResultsMap, mark: Mark) -> Ancestor:
    """Return a value with all recorded ones that went into it, each once; further places of one have no parents."""
    root = Ancestor(found.map_name, mark.key, mark.origin)
    seen: dict[Parent, Ancestor] = {Parent(root.map_name, key_digest(root.key)): root}
    level = [root]
    while level:
        wanted: dict[Parent, list[Ancestor]] = {}
        for child in level:
            if child.origin is not None:
                child.more = sum(child.origin.more.values())
                for parent in child.origin.parents:
                    wanted.setdefault(parent, []).append(child)
        level = []
        for parent, entry in _entries(found, list(wanted)):
            children = wanted[parent]
            its = seen.get(parent)
            if its is None and len(seen) < MOST_ANCESTORS:
                key, origin = ("", None) if entry is None else (entry.key, entry.origin)
                its = seen[parent] = Ancestor(parent.map_name, key, origin)
                level.append(its)
            for child in children:
                if its is None:
                    child.more += 1
                else:
                    child.parents.append(its)
    return root


def _entries(found: ResultsMap, wanted: list[Parent]) -> Iterator[tuple[Parent, Mark | None]]:
    """Yield the newest entry of each key; one pass for each map."""
    for map_name in dict.fromkeys(parent.map_name for parent in wanted):
        marks: dict[str, Mark | None] = {parent.key: None for parent in wanted if parent.map_name == map_name}
        for mark in found.reader.marks(map_name):
            if (digest := key_digest(mark.key)) in marks:
                marks[digest] = mark
        yield from ((Parent(map_name, digest), mark) for digest, mark in marks.items())


def all_of(root: Ancestor) -> list[Ancestor]:
    """Return a value and all that stands behind it, each once."""
    found: dict[int, Ancestor] = {id(root): root}
    for one in (waiting := [root]):
        for parent in one.parents:
            if id(parent) not in found:
                found[id(parent)] = parent
                waiting.append(parent)
    return list(found.values())
