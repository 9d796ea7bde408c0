"""The doctor's report: a table for people, JSON for programs.

The JSON is one object:

    format      1; goes up with incompatible changes only
    ok          whether no check failed; the exit code is then 0, otherwise 1
    hyperflow, python, host, time
                versions, the machine on which the doctor ran, and when (ISO 8601)
    counts      how many checks are "ok", "warning", "failed", "skipped"
    checks      a list of objects:
        check   "configuration", "Slurm", "allocation", "run directory", "SQLite", "nodes", "ssh", "srun",
                "shared directory", "Python", "CPUs", "GPUs" or "memory"
        node    the node, or null
        status  "ok", "warning", "failed" or "skipped"
        detail  what was found, in words; for a skipped check, why
        fix     what to do about it, in words; "" if nothing
        page    where to read about it, if it is a warning or failed: a command or an address; else ""
        seconds how long the check took
        data    what was found, for programs; empty if the check was skipped or raised an error. It has
                configuration: every setting; Slurm: version, nodes; run directory: path, file_system, free_bytes;
                allocation: job_id, nodes (name to CPUs), here, end_time, restart_count;
                SQLite: file_system, local, journal ("wal" or "rollback"), commit_seconds;
                ssh: latency_seconds, known_in (files), or cause: "host key changed", "host key unknown",
                "permission denied", "refused", "unknown name", "no answer" or "other"; srun: latency_seconds;
                shared directory: file_system, seconds_there, seconds_here (until a file was seen);
                Python: greeting (versions and CPUs, as the launcher has them), transport, start_seconds;
                CPUs: granted, affinity, quota
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import attrs
from rich.table import Table
from rich.text import Text

from hyperflow import pages
from hyperflow._version import __version__
from hyperflow.cli.check import Check, Status
from hyperflow.console import table as console_table

FORMAT = 1

MEMBERS = ("node", "status", "detail", "fix", "seconds", "data")

PAGE = "sites/doctor"
"""The page about the checks; it has a section for each."""

MOST_ALIKE = 8
"""If a check is ok on more nodes than this, they share one line."""

STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red", Status.SKIPPED: "dim"}


def exit_code(checks: Iterable[Check]) -> int:
    """Return 0 if nothing failed, else 1."""
    return 1 if any(check.status is Status.FAILED for check in checks) else 0


def as_json(checks: Sequence[Check]) -> str:
    """Return the checks as a JSON object; see the module's docstring."""
    counts, site = Counter(check.status for check in checks), _site(checks)
    report: dict[str, Any] = {
        "format": FORMAT,
        "ok": exit_code(checks) == 0,
        "hyperflow": __version__,
        "python": sys.version.split()[0],
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "counts": {status: counts[status] for status in Status},
        "checks": [
            {"check": check.name, "page": page(check, site), **{name: getattr(check, name) for name in MEMBERS}}
            for check in checks
        ],
    }
    return json.dumps(report, indent=2)


def page(check: Check, site: str = "") -> str:
    """Return where to read about a finding; "" if all is well."""
    if check.status in {Status.OK, Status.SKIPPED}:
        return ""
    return pages.link(f"{PAGE}#{check.name.lower().replace(' ', '-')}", site)


def _site(checks: Iterable[Check]) -> str:
    """Return where the site publishes the pages, as the check of the configuration has it."""
    return next((check.data.get("docs_url", "") for check in checks if check.name == "configuration"), "")


def print_table(checks: Sequence[Check], file: TextIO) -> None:
    """Print the checks for people: coloured and wrapped on a terminal, plain and one line each in a pipe."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    site = _site(checks)
    for check in _folded(checks):
        status = "FAILED" if check.status is Status.FAILED else check.status
        text = Text(check.detail)
        if check.fix:
            text.append(f"\n-> {check.fix}", style="" if file.isatty() else None)
        if about := page(check, site):
            text.append(f"\n{pages.ABOUT}{about}")
        table.add_row(Text(status, style=STYLES[check.status]), Text(check.name), Text(check.node or ""), text)
    console_table.print_table(table, file)
    counts = Counter(check.status for check in checks)
    words = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    print(f"{words}: " + ("see FAILED above." if counts[Status.FAILED] else "nothing failed."), file=file)


def _folded(checks: Sequence[Check]) -> list[Check]:
    """Merge those that say the same about several nodes."""
    well = Counter(check.name for check in checks if check.status is Status.OK and check.node is not None)
    alike: dict[tuple[str, Status, str, str], list[Check]] = {}
    for check in checks:
        if check.status is Status.OK and well[check.name] > MOST_ALIKE:
            check = attrs.evolve(check, detail="all well")  # noqa: PLW2901 (what is shown of it)
        alike.setdefault((check.name, check.status, check.detail, check.fix), []).append(check)
    return [attrs.evolve(same[0], node=_nodes([check.node for check in same if check.node])) for same in alike.values()]


def _nodes(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, ... {names[-1]} ({len(names)} nodes)"
