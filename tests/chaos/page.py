"""docs/promises.md: what was tried against each promise, and how it ended. Written by the runs themselves.

The page has sections, each written by one program: the harness its own, the controls theirs.
"""

import collections
import datetime
import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.chaos.harness import Result
from tests.chaos.promises import Promise
from tests.imports import TOP

PAGE = TOP / "docs" / "promises.md"

HEAD = """# What is promised, and what was tried against it

Each promise is attacked on purpose: a program runs, something is broken, and one oracle looks at what happened
(`tests/chaos`). These tables are written by the runs themselves. `make chaos` tries for five minutes,
`python -m tests.chaos --seconds 1800 --page` for half an hour and writes this page again.
"""

TRIED = "The promises"
FAULTS = "The faults"
NOT_RUN = "Not run"
EXCUSED = "What is not promised"
CONTROLS = "Bugs on purpose"


def put(heading: str, body: str, page: Path = PAGE) -> None:
    """Write a section of the page, in place of what it was."""
    text = page.read_text(encoding="utf-8") if page.exists() else HEAD
    found = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE))
    found[heading] = f"\n{body.strip()}\n"
    order = [TRIED, FAULTS, NOT_RUN, EXCUSED, CONTROLS]
    sections = [f"## {name}\n\n{found[name].strip()}\n" for name in order if name in found]
    page.write_text("\n".join([HEAD, *sections]), encoding="utf-8")


def write(results: Sequence[Result], seed: str, seconds: float, page: Path = PAGE) -> None:
    """Write what a run of the harness has found."""
    put(TRIED, f"{_when(results, seed, seconds)}\n\n{tried(results)}", page)
    put(FAULTS, faults(results), page)
    put(NOT_RUN, not_run(results), page)
    put(EXCUSED, excused(results), page)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; numbers stand at the right."""
    lines = [[*head], ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tried(results: Iterable[Result]) -> str:
    """For each promise: how often each family of faults tried it, and how it ended."""
    rows: list[tuple[object, ...]] = []
    for promise in Promise:
        tries = [one for one in results if promise in one.case.promises and not one.not_run]
        broken = sum(any(broken.promise is promise for broken in one.broken) for one in tries)
        families = collections.Counter(one.case.table for one in tries)
        which = ", ".join(f"{table} {count}" for table, count in sorted(families.items()))
        rows.append((promise.value, which, len(tries), f"**broken {broken}**" if broken else "held" if tries else "-"))
    return table(("promise", "faults", "runs", "result"), rows)


def faults(results: Iterable[Result]) -> str:
    """For each family of faults: how many there are, and how the runs ended."""
    rows: list[tuple[object, ...]] = []
    families = sorted({one.case.table for one in results})
    for family in families:
        ours = [one for one in results if one.case.table == family]
        skipped, broken = sum(bool(one.not_run) for one in ours), sum(bool(one.broken) for one in ours)
        kinds = len({one.case.title for one in ours})
        rows.append((family, kinds, len(ours) - skipped, len(ours) - skipped - broken, broken, skipped))
    return table(("family", "faults", "runs", "held", "broken", "not run"), rows)


def not_run(results: Iterable[Result]) -> str:
    """Those that could not be tried, with the reasons."""
    reasons = collections.Counter((one.case.title, one.not_run) for one in results if one.not_run)
    return table(("fault", "times", "why"), ((title, count, why) for (title, why), count in sorted(reasons.items())))


def excused(results: Iterable[Result]) -> str:
    """What faults cannot but break, with the reason."""
    cases = {one.case.title: one.case for one in results}.values()
    found = collections.Counter(
        (case.table, promise.value, why) for case in cases for promise, why in case.excused.items()
    )
    rows = ((family, count, promise, why) for (family, promise, why), count in sorted(found.items()))
    return table(("family", "faults", "promise", "why it is not kept there"), rows)


def _when(results: Sequence[Result], seed: str, seconds: float) -> str:
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    broken, skipped = sum(bool(one.broken) for one in results), sum(bool(one.not_run) for one in results)
    python = platform.python_version()
    return (
        f"{day}: {len(results) - skipped} runs in {seconds:.0f} s, {broken} of them broken, {skipped} not run; "
        f"seed {seed}, {os.cpu_count()} cores, Python {python}."
    )
