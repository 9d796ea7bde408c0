"""`hyperflow whatif`: how long a run would have taken on other nodes, and how many to ask for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter, validators
from rich.text import Text

from hyperflow.cli import evaluations, heads, records
from hyperflow.cli.answers import BASE_DIR, BaseDir, Json, Which, answering
from hyperflow.cli.records import Run
from hyperflow.console.table import plain_table, print_note, print_table
from hyperflow.errors import ConfigurationError
from hyperflow.events import reader
from hyperflow.saying import age, printable
from hyperflow.viewing.flows import Course, course
from hyperflow.viewing.replay import Outcome, longest_chain, replay, smallest

FORMAT = 1

MOST_NODES = 4096
"""No more nodes are tried."""

MOST_SIZES = 8
"""So many sizes are shown, each twice the one before."""

GAIN = 0.9
"""Twice the size is worth showing if the run then takes no more than this part of the time."""

HOUR = 3600.0

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
_UNITS = {"s": 1.0, "m": 60.0, "h": HOUR, "d": 24 * HOUR}

COUNT = Parameter(validator=validators.Number(gte=1, lte=MOST_NODES))


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(whatif))


def whatif(
    run: Which = None,
    *,
    nodes: Annotated[int | None, COUNT] = None,
    cpus: Annotated[int | None, COUNT] = None,
    time_factor: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 1.0,
    finish_in: str | None = None,
    job: int | None = None,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Say how long a run would have taken on other nodes, and how many to ask for.

    The run's event log is replayed through the scheduler, on a clock that is not real: evaluations take as long as they
    did, and what waited for others waits for them. Without --nodes and --finish-in, several sizes are shown.

    Not foretold: evaluations that slow each other down on one node (memory, caches, files), nodes that are faster or
    slower (see --time-factor), nodes that are lost, and a program that would evaluate something else elsewhere.

    Parameters
    ----------
    nodes
        How many nodes; with --finish-in, the most that may be asked for.
    cpus
        CPUs of each node; by default those of the run's largest node.
    time_factor
        Each evaluation takes so many times as long as it did.
    finish_in
        Find the fewest nodes with which it ends in this time: seconds, or 10m, 2h, 1d.
    job
        In a Cluster program, the number of the job.
    """
    limit = None if finish_in is None else _seconds(finish_in)
    found = records.find(run, base_dir)
    known = _course(found, job)
    size = cpus or max(known.nodes, default=1)
    if known.widest > size:
        raise ConfigurationError(f"an evaluation asks for {known.widest} CPUs of one node: write --cpus {known.widest}")
    own = _as_it_was(known)
    enough: Outcome | None = None
    if limit is not None:
        enough = smallest(known, nodes or MOST_NODES, size, time_factor, limit)
        others = [] if enough is None else [enough]
    elif nodes is not None:
        others = [replay(known, [size] * nodes, time_factor)]
    else:
        others = _sizes(known, size, time_factor)
    shortest = longest_chain(known, time_factor)
    if as_json:
        _print_json(found, known, own, others, shortest)
        return 0
    if own in others:
        others.remove(own)
    _print(found, known, own, others)
    if limit is not None and enough is None:
        print(f"It does not end in {_took(limit)} on {_named([size] * (nodes or MOST_NODES))}.")
    elif enough is not None:
        print(f"To end in {_took(limit or 0.0)}, ask for {_named(enough.nodes)}.")
    print(f"No size makes it shorter than {_took(shortest)}: so long take those that wait for each other.")
    for sentence in known.unknown:
        print_note(f"Note: {printable(sentence)}.", sys.stdout)
    return 0


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None or not (seconds := float(match[1]) * _UNITS[match[2] or "s"]):
        raise ConfigurationError(f"--finish-in {text}: a time is needed, such as 90, 10m or 2h")
    return seconds


def _course(run: Run, job: int | None) -> Course:
    """Read what the flows of a run did, or those of one of its jobs."""
    there = [(number, path / heads.EVENTS) for number, path in evaluations.log_dirs(run)]
    if run.cluster is not None:
        there = [(number, path) for number, path in there if path.exists() and job in (None, number)]
        if job is not None and not there:
            raise ConfigurationError(f"run {run.name} has no job {job}, or it has not begun")
        if len(there) > 1:
            numbers = ", ".join(str(number) for number, _ in there)
            raise ConfigurationError(f"run {run.name} has jobs, each with its own nodes: add --job N, one of {numbers}")
    elif job is not None:
        raise ConfigurationError(f"run {run.name} has no jobs: leave out --job")
    known = course(reader.read(there[0][1])) if there else None
    if known is None or not known.evaluations:
        raise ConfigurationError(f"nothing was evaluated in run {run.name}, as far as its event log tells")
    return known


def _as_it_was(known: Course) -> Outcome | None:
    """Replay a run on its own nodes; None if the log does not tell of them, or they cannot have been all."""
    return replay(known, known.nodes) if max(known.nodes, default=0) >= known.widest else None


def _sizes(known: Course, cpus: int, factor: float) -> list[Outcome]:
    """Return outcomes for ever more nodes, as long as that makes it shorter."""
    found = [replay(known, [cpus], factor)]
    while len(found) < MOST_SIZES:
        found.append(replay(known, [cpus] * (2 * len(found[-1].nodes)), factor))
        if found[-1].seconds > GAIN * found[-2].seconds:
            break
    return found


def _print(run: Run, known: Course, own: Outcome | None, others: list[Outcome]) -> None:
    evaluated = f"{len(known.evaluations)} evaluation{'s' * (len(known.evaluations) != 1)}"
    print_note(f"run {printable(run.name)}: {evaluated}, took {_took(known.seconds)}", sys.stdout)
    table = plain_table()
    for heading in ("nodes", "CPUs each", "takes", "CPUs busy", "CPU hours"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    if own is not None:
        table.add_row(*map(Text, _cells(own)), Text("as it was, to compare"))
    for outcome in others:
        table.add_row(*map(Text, _cells(outcome)), Text(""))
    print_table(table, sys.stdout)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    sizes = sorted(set(outcome.nodes))
    each = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    hours = sum(outcome.nodes) * outcome.seconds / HOUR
    return str(len(outcome.nodes)), each, _took(outcome.seconds), f"{outcome.utilisation:.0%}", f"{hours:.3g}"


def _named(nodes: Sequence[int]) -> str:
    count = len(nodes)
    return f"{count} node{'s' * (count != 1)} with {_cpus(nodes[0])}{' each' * (count != 1)}"


def _cpus(count: int) -> str:
    return f"{count} CPU{'s' * (count != 1)}"


def _took(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{int(seconds / 60)}:{int(seconds % 60):02} min" if seconds < HOUR else age(seconds)


def _print_json(run: Run, known: Course, own: Outcome | None, others: list[Outcome], shortest: float) -> None:
    def told(one: Outcome) -> dict[str, object]:
        return {
            "nodes": len(one.nodes),
            "cpus": max(one.nodes),
            "seconds": round(one.seconds, 3),
            "utilisation": round(one.utilisation, 4),
        }

    about = {"format": FORMAT, "run": str(run.home), "evaluations": len(known.evaluations), "seconds": known.seconds}
    print(
        json.dumps(
            about
            | {
                "as_it_was": None if own is None else told(own),
                "sizes": [told(one) for one in others],
                "shortest": round(shortest, 3),
                "unknown": known.unknown,
            },
            indent=2,
        )
    )
