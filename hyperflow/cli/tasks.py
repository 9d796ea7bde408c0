"""`hyperflow tasks`: what became of the tasks of an array, also while it runs.

Nothing is held for all tasks but some bytes of each: a million are printed as they are read.
"""

from __future__ import annotations

import csv
import json
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import App, Parameter

from hyperflow.cli.answers import BASE_DIR, BaseDir, Which, answering
from hyperflow.cli.array_runs import ArrayRun
from hyperflow.cli.output import output
from hyperflow.cli.waiting import wait
from hyperflow.commands import sources
from hyperflow.commands.history import STATES, History, Stands
from hyperflow.commands.records import State, TaskRecord
from hyperflow.commands.spec import ArraySpec
from hyperflow.console.table import width_of
from hyperflow.errors import ConfigurationError
from hyperflow.saying import as_written, in_one_line, printable

COLUMNS = {
    "number": 7, "name": 12, "state": 9, "exit": 4, "seconds": 8, "memory": 7, "node": 10, "tries": 5,
}  # fmt: skip
"""The columns, each with its width where what is in it is not wider; command and error come after them."""

RIGHT = ("number", "exit", "seconds", "memory", "tries")

COMMAND = 60
"""Characters of a command that are shown, beside an error."""


def add_to(app: App) -> None:
    """Add the commands of this module and its neighbours."""
    app.command(answering(tasks))
    app.command(answering(output))
    app.command(answering(wait))


def tasks(
    which: Which = None,
    *,
    failed: Annotated[bool, Parameter(negative="", help="Those that have failed; as --state failed.")] = False,
    state: Annotated[
        str | None, Parameter(help="Those in this state: waiting, running, done, failed, skipped or cancelled.")
    ] = None,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print one JSON object for each task.")
    ] = False,
    as_csv: Annotated[bool, Parameter(name="--csv", negative="", help="Print comma-separated values.")] = False,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Show the tasks of an array: state, exit code, seconds, memory, node, tries, command, error.

    While it runs, a task is "running" when it has run for half a second, and "waiting" until then. With --json, each
    line is an object with number, name, state, exit_code (minus a signal's number), seconds and cpu_seconds of the last
    try, memory (bytes), node, tries, command, error, out and err (bytes written); null is what is not known.
    """
    if failed and state not in (None, "failed"):
        raise ConfigurationError(f"--failed and --state {state}: choose one")
    wanted = _state("failed" if failed else state)
    if as_json and as_csv:
        raise ConfigurationError("--json and --csv: choose one")
    array = ArrayRun.find(which, base_dir)
    goes_on = array.goes_on()
    with sources.opened(array.run.home) as opened:
        known = array.history(opened, goes_on=goes_on)
        rows = ((known.stands(number), number) for number in known.numbers(wanted))
        if as_json:
            for stands, number in rows:
                sys.stdout.write(json.dumps(_as_json(stands, array.spec, number)) + "\n")
        elif as_csv:
            _print_csv((_as_json(stands, array.spec, number) for stands, number in rows))
        else:
            _print_table(rows, array.spec)
            if sys.stdout.isatty():
                print(counts_in_words(known))
    sys.stdout.flush()
    return 0


def _state(word: str | None) -> State | None:
    for known in STATES:
        if known == word:
            return known
    if word is None:
        return None
    raise ConfigurationError(f"--state {word}: a state is one of {', '.join(STATES)}")


def counts_in_words(known: History) -> str:
    """Return `990 done, 10 failed`."""
    told = ", ".join(f"{count} {state}" for state, count in known.counts().items() if count)
    return f"{len(known)} task{'s' * (len(known) != 1)}: {told}" if told else "no tasks"


def _as_json(stands: Stands, spec: ArraySpec, number: int) -> dict[str, Any]:
    task, told = spec.task(number), _told(stands)
    return {
        "number": number,
        "name": task.name,
        "state": stands.state,
        "exit_code": told.exit_code if told else None,
        "seconds": _seconds(stands),
        "cpu_seconds": told.cpu_seconds if told else None,
        "memory": told.memory if told else None,
        "node": stands.running.node if stands.running else told.node if told else "",
        "tries": stands.running.attempt if stands.running else told.tries if told else 0,
        "command": list(task.command),
        "error": told.error if told else "",
        "out": told.out if told else None,
        "err": told.err if told else None,
    }


def _told(stands: Stands) -> TaskRecord | None:
    """Return the record, unless the task runs again."""
    return None if stands.running else stands.record


def _seconds(stands: Stands) -> float | None:
    if stands.running:
        return round(max(time.time() - stands.running.since, 0.0), 3)
    return stands.record.seconds if stands.record else None


def _print_csv(rows: Iterator[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    heading = False
    for row in rows:
        if not heading:
            writer.writerow(row)
            heading = True
        writer.writerow(["" if v is None else shlex.join(v) if isinstance(v, list) else v for v in row.values()])


def _print_table(rows: Iterator[tuple[Stands, int]], spec: ArraySpec) -> None:
    width = width_of(sys.stdout)
    named = spec.kind == "tasks"
    columns = {name: size for name, size in COLUMNS.items() if named or name != "name"}
    print(_line(dict.fromkeys(columns, ""), columns, "command", width, heading=True))
    for stands, number in rows:
        task, told = spec.task(number), _told(stands)
        seconds = _seconds(stands)
        cells = {
            "number": str(number),
            "name": in_one_line(task.name),
            "state": stands.state,
            "exit": "" if told is None or told.exit_code is None else str(told.exit_code),
            "seconds": "" if seconds is None else f"{seconds:.2f}",
            "memory": as_written(told.memory) if told and told.memory else "",
            "node": stands.running.node if stands.running else told.node if told else "",
            "tries": str(stands.running.attempt if stands.running else told.tries if told else ""),
        }
        command = shlex.join(task.command)
        if told and told.error:
            command = f"{command if len(command) <= COMMAND else command[: COMMAND - 3] + '...'}: {told.error}"
        print(_line(cells, columns, in_one_line(command), width))


def _line(cells: dict[str, str], columns: dict[str, int], last: str, width: int, *, heading: bool = False) -> str:
    parts = [
        (name if heading else cells[name]).rjust(size)
        if name in RIGHT
        else (name if heading else cells[name]).ljust(size)
        for name, size in columns.items()
    ]
    return printable("  ".join([*parts, last]))[:width].rstrip()
