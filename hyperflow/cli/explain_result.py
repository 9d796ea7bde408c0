"""`hyperflow explain KEY`: why a result was computed and not found, and what stands behind it."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from hyperflow.cli import results
from hyperflow.database import explained, shown
from hyperflow.database.conditions import Test
from hyperflow.database.explained import Ancestor, Change
from hyperflow.database.nearest import Nearest
from hyperflow.database.origins import Origin
from hyperflow.database.reading import Mark
from hyperflow.database.results import Results, ResultsMap
from hyperflow.database.shown_keys import ShownKeys
from hyperflow.database.tables import parts
from hyperflow.errors import ConfigurationError
from hyperflow.saying import age

LONGEST = 200
"""Characters of a call or a value."""

MOST_LINES = 40
"""Of the difference of two texts."""

DEEPEST, WIDEST = 4, 10
"""So many levels of what stands behind a value are shown, and so many values of each."""

MOST_ENTRIES = 20_000
"""A map with more results is not looked through for a report."""

INSIDE = "  "


def told(db: Results, key: str, version: str | None) -> Iterator[str]:
    """Yield lines about the result that a text names: `energy(H2, basis="sto-3g")`, or `energy` for the newest.

    Raises:
        ConfigurationError: There is no such map; or an argument has no name, and it has none either.
    """
    name, arguments = _parted(key)
    found = db.map(name, version=version)
    asked = _named(found, arguments)
    tests = {name: _test(text) for name, text in asked.items()}
    marks = explained.fitting(found, tests)
    if not marks:
        yield from _not_there(db, found, key, asked, tests)
        return
    mark = marks[-1]
    yield f"{_call(found, mark)} = {_value(found, mark)}"
    yield INSIDE + _made(mark.origin)
    yield from _why(found, mark)
    yield from _behind(found, mark)
    if len(marks) > 1:
        yield f"{len(marks) - 1} more results fit; this is the newest. To choose, name more arguments"


def of_run(db: Results, run: str) -> Iterator[tuple[str, str]]:
    """Yield each memoized function of which a run has recorded results: how many, and why the first was computed."""
    for map_name in db.reader.maps():
        name, version, kind = parts(map_name)
        if kind != "memoized":
            continue
        if db.reader.size(map_name).entries > MOST_ENTRIES:
            yield name, "too many results to look through: ask hyperflow explain for one of them"
            continue
        marks = [mark for mark in db.reader.marks(map_name) if mark.program == run]
        if marks:
            why = " ".join(line.strip() for line in _why(db.map(name, version=version), marks[0]))
            yield name, f"{len(marks):,} computed; the first one because {why.removeprefix('why it was computed: ')}"


# ---- which one ---------------------------------------------------------------------------------------------------


def _parted(key: str) -> tuple[str, list[tuple[str | None, str]]]:
    """Return the function's name, and the arguments with their names, as far as they have any."""
    name, opened, rest = key.strip().partition("(")
    if not opened:
        return name, []
    if not rest.endswith(")"):
        raise ConfigurationError(f"{key}: its ) is missing; write the call as 'energy(H2, basis=sto-3g)', in quotes")
    found: list[tuple[str | None, str]] = []
    for part in _split(rest[:-1]):
        match = re.fullmatch(r"\s*([^\W\d][\w.]*)\s*=(?!=)(.*)", part, re.DOTALL)
        found.append((match[1], match[2].strip()) if match else (None, part.strip()))
    return name.strip(), found


def _split(text: str) -> list[str]:
    """Return what is between commas, apart from those within brackets and quotes."""
    found, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "," and depth == 0:
            found.append("")
            continue
        else:
            depth += (letter in "([{") - (letter in ")]}")
        found[-1] += letter
    return [part for part in found if part.strip()]


def _named(found: ResultsMap, arguments: list[tuple[str | None, str]]) -> dict[str, str]:
    names = found.parameters if found.kind == "memoized" else ["key"]
    if len(arguments) > len(names) and all(name is None for name, _ in arguments):
        raise ConfigurationError(f"{found.name} has {len(names)} arguments: {', '.join(names) or 'none'}")
    named: dict[str, str] = {}
    for place, (name, text) in enumerate(arguments):
        if name is None and place >= len(names):
            raise ConfigurationError(f"{found.name}({text}): it has the arguments {', '.join(names) or 'none'}")
        asked = names[place] if name is None else name
        if found.kind == "memoized" and asked.partition(".")[0] not in names:
            raise ConfigurationError(f"{found.name} has no argument {asked!r}; it has {', '.join(names) or 'none'}")
        named[asked] = text
    return named


def _test(text: str) -> Test:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    test: Callable[[Any], bool] = results.is_(text[1:-1] if quoted else text)
    return lambda _, value: test(value)


# ---- what is told ------------------------------------------------------------------------------------------------


def _call(found: ResultsMap, mark: Mark) -> str:
    return _call_of(found.name, found.shown_keys, mark.key)


def _call_of(name: str, keys: ShownKeys, raw: str) -> str:
    text = shown.short(keys.key(raw), LONGEST)
    return f"{name}{text}" if keys.kind == "memoized" else f"{name}[{text}]"


def _value(found: ResultsMap, mark: Mark) -> str:
    text = found.reader.lookup(found.map_name, mark.key)
    return "(damaged)" if text is None else shown.short(shown.decoded(text, found.shown_keys.makers), LONGEST)


def _when(origin: Origin) -> str:
    try:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(origin.time))
    except (ValueError, OverflowError, OSError):  # no time is like that: the file is damaged
        date = f"{origin.time!r} s"
    return f"{date} by run {origin.program}"


def _made(origin: Origin) -> str:
    if origin.seconds is None:
        how = "how long that took is not known: an older version recorded it" if origin.code else "inserted"
        return f"recorded {_when(origin)}; {how}"
    return f"computed {_when(origin)}: {_cost(origin)}"


def _cost(origin: Origin) -> str:
    if origin.seconds is None:
        return "unknown"
    text = f"{age(origin.seconds) if origin.seconds >= 60 else f'{origin.seconds:.3g} s'}"
    if not origin.evaluations:
        return text
    first, last = origin.numbers
    which = "" if not first else f" ({first})" if first == last else f" (of {first} to {last})"
    several = f"{origin.evaluations} evaluation{'s' * (origin.evaluations != 1)}"
    return f"{text}, {several}{which} of {origin.cpu_seconds:.3g} CPU seconds on {', '.join(origin.nodes)}"


def _why(found: ResultsMap, mark: Mark) -> Iterator[str]:
    if not mark.origin.code:
        return
    near = explained.nearest_to(found, mark)
    if near is None:
        yield f"{INSIDE}why it was computed: nothing of {found.name} was recorded before"
        yield f"{INSIDE * 2}(a run goes on from earlier results with ProgramInfo.new(database=...) or start_from=...)"
        return
    yield from _nearest(found, near, mark)


def _nearest(found: ResultsMap, near: Nearest, mark: Mark) -> Iterator[str]:
    before = near.mark.origin
    version = parts(near.map_name)[1]
    other = f"version {version}" if near.map_name != found.map_name else ""
    if not near.names and other:
        yield f"{INSIDE}why it was computed: {other} was recorded {_when(before)}; this is version {found.version}"
    elif not near.names:
        yield from _again(found, before, mark.origin)
        return
    else:
        keys = found.shown_keys
        yield f"{INSIDE}why it was computed: the nearest that was recorded before is of {_when(before)}"
        yield f"{INSIDE * 2}{_call_of(found.name, keys, near.mark.key)}"
        here, there = keys.data(mark.key), keys.data(near.mark.key)
        for name in near.names:
            yield f"{INSIDE * 2}{name}: {_both(*(_part(keys, data, name) for data in (there, here)))}"
        if other:
            yield f"{INSIDE * 2}and it is of {other}; this is version {found.version}"
    if changed := explained.changes(found, before, mark.origin):
        yield f"{INSIDE * 2}the function was another one, too:"
        yield from _changed(changed)


def _again(found: ResultsMap, before: Origin, now: Origin) -> Iterator[str]:
    text = f"{INSIDE}why it was computed: it was recorded {_when(before)}, and "
    changed = explained.changes(found, before, now)
    if changed:
        yield f'{text}the function has changed since (on_change="recompute"):'
        yield from _changed(changed)
    elif changed is not None:
        yield f'{text}the function has changed since (on_change="recompute"); in what, was not recorded'
    elif not explained.comparable(before, now):
        yield f"{text}by code of another version of Python, or by none; these cannot be compared"
    else:
        yield f"{text}the run that computed it now did not have that: both went on at the same time, or it was damaged"


def _part(keys: ShownKeys, data: dict[str, Any], name: str) -> tuple[str, str]:
    if name not in data:
        return "nothing", ""
    value = keys.value(data[name])
    return shown.short(value, LONGEST), shown.kind(value)


def _both(there: tuple[str, str], here: tuple[str, str]) -> str:
    if there[0] == here[0]:
        return f"{there[0]} there and here, but {there[1]} there, {here[1]} here"
    return f"{there[0]} there, {here[0]} here"


def _changed(changed: list[Change]) -> Iterator[str]:
    for change in changed:
        lines = [line for line in _difference(change) if line.strip()]
        yield from (f"{INSIDE * 3}{line}" for line in lines[:MOST_LINES])
        if len(lines) > MOST_LINES:
            yield f"{INSIDE * 3}and {len(lines) - MOST_LINES} lines more"


def _difference(change: Change) -> list[str]:
    if change.before is None or change.now is None:
        return [f"{change.name} is {'new' if change.before is None else 'not there any more'}"]
    if "\n" not in change.before + change.now:
        return [f"{change.name}: {change.before} before, {change.now} now"]
    before, now = change.before.splitlines(), change.now.splitlines()
    return [f"{change.name}:", *list(difflib.unified_diff(before, now, n=1, lineterm=""))[2:]]


def _behind(found: ResultsMap, mark: Mark) -> Iterator[str]:
    root = explained.behind(found, mark)
    if not root.parents:
        return
    yield f"{INSIDE}it rests on"
    every = explained.all_of(root)
    keys = {name: found.beside(name).shown_keys for name in {one.map_name for one in every}}
    yield from _tree(keys, root, 2)
    origins = [one.origin for one in every if one.origin is not None]
    nodes = dict.fromkeys(node for origin in origins for node in origin.nodes)
    total = sum(origin.cpu_seconds for origin in origins)
    where = f" on {', '.join(nodes)}" if nodes else ""
    runs = len({origin.program for origin in origins})
    yield f"{INSIDE}all in all: {len(every)} results of {runs} run{'s' * (runs != 1)}, {total:.3g} CPU seconds{where}"


def _tree(keys: dict[str, ShownKeys], one: Ancestor, depth: int) -> Iterator[str]:
    for parent in one.parents[:WIDEST]:
        name = parts(parent.map_name)[0]
        if parent.origin is None:
            yield f"{INSIDE * depth}a result of {name} that is not in this database"
            continue
        call = _call_of(name, keys[parent.map_name], parent.key)
        known = "inserted" if not parent.origin.code and parent.origin.seconds is None else _cost(parent.origin)
        yield f"{INSIDE * depth}{call}: {known}"
        if depth - 1 < DEEPEST:
            yield from _tree(keys, parent, depth + 1)
        elif parent.parents:
            yield f"{INSIDE * (depth + 1)}..."
    more = len(one.parents[WIDEST:]) + one.more
    if more:
        yield f"{INSIDE * depth}and {more} more"


def _not_there(
    db: Results, found: ResultsMap, key: str, asked: dict[str, str], tests: dict[str, Test]
) -> Iterator[str]:
    yield f"{key.strip()} is not recorded in {db.where}"
    near = explained.nearest_that_passes(found, tests)
    if near is None:
        return
    version = parts(near.map_name)[1]
    if not near.names:
        yield f"{INSIDE}version {version} of it is, {_when(near.mark.origin)}: --version {version} explains that"
        return
    yield f"{INSIDE}the nearest is of {_when(near.mark.origin)}"
    yield f"{INSIDE * 2}{_call(found, near.mark)}"
    for name in near.names:
        yield f"{INSIDE * 2}{name} is not {asked[name]} there"
