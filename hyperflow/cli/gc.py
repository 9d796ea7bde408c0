"""`hyperflow gc`: what takes space, and the removal of what is old and in nobody's use."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.text import Text

from hyperflow.cli import heads, output_parts, scratches, space
from hyperflow.cli.answers import BASE_DIR, REFUSED, BaseDir, Json, Which, answering
from hyperflow.cli.space import Finding
from hyperflow.console.table import plain_table, print_note, print_table
from hyperflow.database.tables import in_bytes
from hyperflow.errors import ConfigurationError
from hyperflow.saying import age, in_one_line

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(gc))


def gc(
    run: Which = None,
    *,
    delete: Annotated[bool, Parameter(negative="", help="Remove it; else it is only shown.")] = False,
    older_than: Annotated[
        str, Parameter(help="What was last written longer ago than this: 30d, 12h, 10m, or seconds.")
    ] = "30d",
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Show what takes space: runs, old versions' results, work directories, leftovers; --delete removes what can go.

    Scratch directories that killed runs have left on this machine are looked for, too, whatever their age.

    What runs stays, and so does what the results of another run need. Results of a version of a memoized function can
    go when another version has recorded since. Without RUN, all of the base directory is looked at.

    Exit codes: 0, done; 1, refused, or something could not be removed.
    """
    before = time.time() - _seconds(older_than)
    base_dir = base_dir.absolute().resolve()
    if not base_dir.is_dir():
        raise ConfigurationError(f"there is no directory {base_dir}; --base-dir names another place")
    only = None if run is None else heads.find(run, base_dir).resolve()
    if only is not None and only.parent != base_dir:
        base_dir = only.parent
    parts = output_parts.find(base_dir, before, only)
    here = space.find(base_dir, before, only)
    stale = scratches.find() if only is None else []
    found = [*here, *parts, *stale]
    can_go = sum(one.size for one in found if not one.kept)
    freed, failures = 0, list[str]()
    if delete:
        removed = output_parts.remove(parts), space.remove(base_dir, here)
        freed, failures = sum(size for size, _ in removed), [each for _, some in removed for each in some]
        freed += scratches.remove(stale)
    if as_json:
        rows = [
            {
                "kind": one.kind,
                "path": str(one.path),
                "size": one.size,
                "time": one.time,
                "about": one.about,
                "kept": one.kept,
                "map": one.map_name,
            }
            for one in found
        ]
        told = {"base_dir": str(base_dir), "deleted": delete, "can_go": can_go, "freed": freed, "failures": failures}
        print(json.dumps({**told, "found": rows}, indent=2))
        return REFUSED if failures else 0
    if found:
        _print(found, base_dir, delete)
    for failure in failures:
        print(f"hyperflow: {failure}", file=sys.stderr)
    if delete:
        print_note(f"freed {in_bytes(freed)}", sys.stdout)
    elif can_go:
        print_note(f"{in_bytes(can_go)} can go; nothing was removed. To remove it, add: --delete", sys.stdout)
    else:
        print_note("nothing can go", sys.stdout)
    return REFUSED if failures else 0


def _print(found: list[Finding], base_dir: Path, delete: bool) -> None:
    table = plain_table()
    table.add_column("size", justify="right", no_wrap=True)
    for heading in ("kind", "what", "last written", ""):
        table.add_column(heading)
    now = time.time()
    for one in sorted(found, key=lambda one: (one.kept != "", -one.size)):
        decision = f"stays: {one.kept}" if one.kept else ("" if delete else "can go")
        written = f"{age(now - one.time)} ago"
        what = f"{_relative(one.path, base_dir)} ({one.about})"
        texts = map(in_one_line, (in_bytes(one.size), one.kind, what, written, decision))
        table.add_row(*map(Text, texts))
    print_table(table, sys.stdout)


def _relative(path: Path, base_dir: Path) -> str:
    return str(path.relative_to(base_dir)) if base_dir in path.parents else str(path)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip())
    if match is None:
        raise ConfigurationError(f"--older-than {text}: write 30d, 12h, 10m, or seconds")
    return float(match[1]) * _UNITS[match[2]]
