"""`hyperflow report`: a run in one file, for mail and papers, or for other programs. Any run, however it has ended."""

from __future__ import annotations

import base64
import json
import shlex
import time
from collections import Counter
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import App, Parameter

from hyperflow.cli import evaluations, explain_result, histories, records, show
from hyperflow.cli.answers import BASE_DIR, BaseDir, Which, answering
from hyperflow.cli.histories import Reading
from hyperflow.cli.records import Run
from hyperflow.database.results import open_results
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.records.record import State
from hyperflow.saying import printable
from hyperflow.viewing import exports
from hyperflow.viewing.history import History, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT = 1

MOST_CAUSES = 20
"""So many causes are told of what was computed again."""


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(report))


def report(
    run: Which = None,
    *,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="The HTML file; RUN.html if no file is named at all.")
    ] = None,
    json: Annotated[Path | None, Parameter(help="A file for all that the report shows, as JSON.")] = None,
    csv: Annotated[Path | None, Parameter(help="A file for a table with a line for each evaluation.")] = None,
    trace: Annotated[Path | None, Parameter(help="A file for ui.perfetto.dev and chrome://tracing.")] = None,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Write what a run did into a file: what ran when and where, functions, CPU hours, the slowest, failures.

    The HTML file needs no network. Reports can be made of any run, also while it runs, and after it was killed. HTML
    and JSON need plotly and numpy: pip install "hyperflow[dashboard]".
    """
    found, now = records.find(run, base_dir), time.time()
    history, note = histories.read(evaluations.log_dirs(found))
    if output is None and json is csv is trace is None:
        output = Path(f"{found.name}.html")
    if csv is not None:
        _write(csv, lambda file: exports.write_csv(history, file))
    if trace is not None:
        _write(trace, lambda file: exports.write_trace(history, file))
    if output is not None or json is not None:
        whole = _frozen(found, now, history, note)
        if json is not None:
            _write(json, lambda file: _write_json(found, now, whole, file))
        if output is not None:
            from hyperflow.viewing import report as document  # noqa: PLC0415 (aiohttp takes longer than most commands)

            text = document.as_html(whole)
            _write(output, lambda file: file.write(text))
    for path in filter(None, (output, json, csv, trace)):
        print(path)
    return 0


def _write(path: Path, write: Callable[[TextIO], object]) -> None:
    """Write a file, which is there as a whole or not at all."""
    half = path.with_name(f".{path.name}.new")
    try:
        with half.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            write(file)
        half.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)


def _frozen(run: Run, now: float, history: History, note: str) -> dict[str, Any]:
    """Return what the page would show of a run."""
    from hyperflow.viewing import page  # noqa: PLC0415 (aiohttp takes longer to import than most commands to run)

    try:
        from hyperflow.cli import watched  # noqa: PLC0415 (numpy, an extra)
        from hyperflow.plots import Drawings  # noqa: PLC0415
        from hyperflow.viewing import views  # noqa: PLC0415
    except ImportError as error:
        raise page.missing(error) from error
    reading, drawings = Reading(history, note), Drawings()
    for log_dir in {run.log_dir, *(path for _, path in evaluations.log_dirs(run))}:
        drawings.look(log_dir)
    state = run.state(now)
    table = views.Table.of(history, now if state is State.RUNNING else None)
    about = watched.about(run, state, now, reading)
    functions = views.functions(table)
    return {
        "about": about | {"live": False, "facts": [*about["facts"], *_machine(run, history)]},
        "extra": _extra(run, history, functions),
        "utilisation": views.utilisation(table),
        "gantt": views.gantt(table),
        "functions": functions,
        "slowest": views.slowest(table),
        "failures": views.failures(history),
        "drawings": [_drawing(views.drawing(series), series) for series in drawings.series.values()],
    }


def _drawing(shown: dict[str, Any], series: Any) -> dict[str, Any]:
    """Return a drawing; a picture with its bytes."""
    from hyperflow import plots  # noqa: PLC0415 (what draws imports what workers are)

    if series.picture is None:
        return shown
    with suppress(OSError, ConfigurationError):
        data = base64.b64encode(plots.read_picture(series.picture)).decode()
        return shown | {"data": f"data:image/png;base64,{data}"}
    return shown | {"data": "data:,"}


def _machine(run: Run, history: History) -> list[tuple[str, str]]:
    """Return on what it ran: its nodes with their CPUs."""
    cpus = {event.node: event.cpus for event in history.nodes if event.state == "up"}
    sizes = Counter(cpus.values())
    told = ", ".join(
        f"{count} node{'s' * (count != 1)} with {size} CPU{'s' * (size != 1)}" for size, count in sorted(sizes.items())
    )
    facts = [("machine", told)] if told else []
    figures = run.figures()
    if figures.held:
        share = f"{figures.used / 3600:.4g} used of {figures.held / 3600:.4g} CPU hours held"
        facts.append(("efficiency", f"{100 * figures.used / figures.held:.1f}%: {share}"))
    return facts


def _extra(run: Run, history: History, functions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the report has beside the page: parameters, CPU hours by function, what was computed again."""
    parts: list[dict[str, Any]] = []
    if run.record is not None:
        words = [*enumerate(run.record.argv)]
        parts.append(
            {
                "title": "Parameters",
                "id": "parameters",
                "note": "the command line",
                "facts": [(str(place), printable(word)) for place, word in words[:100]],
            }
        )
    hours = [(one["name"], _hours(one)) for one in functions[:50] if one["held"]]
    if hours:
        parts.append(
            {"title": "CPU hours by function", "id": "hours", "note": "held by its evaluations", "facts": hours}
        )
    if computed := _computed(run):
        note = "what was recorded, and why it was not found"
        parts.append({"title": "Results", "id": "results", "note": note, "facts": computed})
    parts.append(
        {
            "title": "Computed again",
            "id": "again",
            "note": "tries that did not count, and why",
            "facts": _again(run, history) or [("nothing", "each evaluation was tried once")],
        }
    )
    return parts


def _hours(one: dict[str, Any]) -> str:
    used = f", {one['cpu'] / 3600:.4g} of CPU time measured" if one["cpu"] else ""
    return f"{one['held'] / 3600:.4g}{used}"


def _computed(run: Run) -> list[tuple[str, str]]:
    """Return of which memoized functions the run has recorded results, and why; nothing where they are not here."""
    with suppress(HyperflowError, OSError):
        told = explain_result.of_run(open_results(run.home), run.name)
        return [(printable(name), printable(text)) for name, text in islice(told, MOST_CAUSES)]
    return []


def _again(run: Run, history: History) -> list[tuple[str, str]]:
    """Return why evaluations were tried again."""
    counts = history.outcome.tobytes()
    told: list[tuple[str, str]] = []
    if retried := counts.count(Outcome.RETRIED):
        told.append(("after errors", f"{retried:,}"))
        errors = Counter(one.error for one in history.failures if one.retried)
        told += [(f"{count:,} times", error) for error, count in errors.most_common(MOST_CAUSES)]
    if returned := counts.count(Outcome.RETURNED):
        told.append(("because a worker or node had gone", f"{returned:,}"))
        told += [(event.node, f"lost: {event.cause}") for event in history.nodes if event.state == "lost"][:MOST_CAUSES]
        told += [(one.worker, f"ended: {one.reason or one.status}") for one in history.deaths][:MOST_CAUSES]
    if superseded := counts.count(Outcome.SUPERSEDED):
        told.append(("copies of slow ones", f"{superseded:,}: of each pair, one result counted"))
    if told:
        told.append(("why one result was computed and not found", f"hyperflow explain {shlex.quote(run.name)} 'CALL'"))
    return told


def _write_json(run: Run, now: float, whole: dict[str, Any], file: TextIO) -> None:
    described = show.described(run, now)
    parts = {part["id"]: part["facts"] for part in whole["extra"]}
    kept = {name: whole[name] for name in ("utilisation", "functions", "slowest", "failures")}
    told = {
        "format": FORMAT,
        **described,
        "facts": dict(whole["about"]["facts"]),
        "note": whole["about"]["note"],
        **parts,
    }
    json.dump(told | kept, file, indent=1)
    file.write("\n")
