"""`hyperflow explain`: how an evaluation stands, and if it waits, for what. Of results, see `explain_result`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import Annotated

from cyclopts import App, Parameter

from hyperflow.cli import evaluations, explain_result, heads, records, results
from hyperflow.cli.answers import BASE_DIR, BaseDir, answering
from hyperflow.cli.records import Run
from hyperflow.errors import ConfigurationError
from hyperflow.events import reader
from hyperflow.events.standing import Node, Picture, Standing, picture
from hyperflow.records.record import State
from hyperflow.saying import age, printable

MOST_NODES = 20
"""So many nodes are told of."""

MOST_NAMED = 3
"""So many evaluations are named where there are several."""


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(explain))


def explain(
    *words: Annotated[
        str,
        Parameter(
            help="[RUN] EVALUATION or [RUN] KEY. RUN is its id, the beginning of it, or its directory; by default the "
            "newest. EVALUATION is a number, as in errors and logs; in a Cluster program JOB.NUMBER. KEY is a call of "
            "a memoized function, as in 'energy(H2, basis=sto-3g)'; without arguments, the newest one."
        ),
    ],
    version: Annotated[str | None, Parameter(help="Of a memoized function; by default the newest.")] = None,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Say how an evaluation stands, and if it waits, for what; or why a result was computed, and what is behind it."""
    *before, last = words or ("0",)
    if not evaluations.is_one(last) and (before or not results.is_run(last, base_dir)):
        if len(before) > 1:
            raise ConfigurationError("put the call into quotes: hyperflow explain [RUN] 'energy(H2, basis=sto-3g)'")
        db = results.opened(before[0] if before else None, base_dir)
        for line in explain_result.told(db, last, version):
            print(printable(line))
        return 0
    which, evaluation = evaluations.split("explain", words)
    if evaluation is None:
        raise ConfigurationError(
            "which evaluation, or which result? type hyperflow explain [RUN] EVALUATION, logs and errors name them; or "
            "hyperflow explain [RUN] 'energy(H2, basis=sto-3g)'"
        )
    run = records.find(which, base_dir)
    evaluations.check(run, evaluation)
    job, number = evaluation
    for its_job, log_dir in evaluations.log_dirs(run):
        if its_job == job:
            seen = picture(reader.read(log_dir / heads.EVENTS), number)
            for line in _told(run, seen, evaluations.named(job, number)):
                print(printable(line))
            return 0
    raise ConfigurationError(f"run {run.name} has no job {job}")


def _told(run: Run, seen: Picture, name: str) -> Iterator[str]:
    one = seen.wanted
    if one is None:
        raise ConfigurationError(
            f"run {run.name} has no evaluation {name}, or its event log does not tell of it any more"
        )
    now = time.time()
    what, since = f"evaluation {name} of {one.call or one.function}", age(max(now - one.since, 0.0))
    if one.state == "done":
        yield f"{what} is done: it took {one.seconds:.3g} s on {one.worker}"
    elif one.state == "failed":
        where = f" on {one.worker}" if one.worker else ""
        yield f"{what} has failed{where}: {one.cause}"
        yield f"  to run it again, under pdb: hyperflow debug {shlex.quote(run.name)} {name}"
    elif one.state == "superseded":
        yield f"{what} has its result from its copy, evaluation {one.other}"
    elif one.state not in ("waiting", "running"):
        yield f"{what} was cancelled"
    elif seen.closed or run.state(now) not in (State.RUNNING, State.SILENT):
        yield f"{what} was {one.state} when the run ended"
    elif one.state == "running":
        yield from _of_running(seen, one, f"{what} has been with {one.worker} for {since}")
    elif one.queue:
        yield from _of_queued(seen, one, f"{what} has been in the queue of {one.queue} for {since}")
    else:
        yield f"{what} waits for {_cpus(one.cpus)}, for {since} so far"
        yield from _why(seen, one)


def _of_queued(seen: Picture, one: Standing, text: str) -> Iterator[str]:
    there = list(seen.at(one.queue))
    if any(other is one for other in there):
        yield f"{text}, and is among the first there: it runs, or is about to"
    else:
        yield f"{text}; its workers are busy with what came before: {_named(there)}"


def _of_running(seen: Picture, one: Standing, text: str) -> Iterator[str]:
    first = next(other for other in seen.at(one.node) if other.worker == one.worker)
    if first is one:
        yield f"{text}, and runs there"
    else:
        yield f"{text}; evaluation {first.task} of {first.function} runs there before it"
    if one.other:
        yield f"  evaluation {one.other} is a copy of it, because it takes long; the first result counts"


def _why(seen: Picture, one: Standing) -> Iterator[str]:
    if one.cause:
        yield f"  {one.cause}"
    if seen.ending:
        yield f"  nothing more is started: {seen.ending}"
        return
    if before := seen.before(one):
        yield f"  {len(before)} that wait longer come before it: {_named(before)}"
    for node in list(seen.nodes.values())[:MOST_NODES]:
        yield f"  {node.name}: {_at(seen, node, one)}"
    if len(seen.nodes) > MOST_NODES:
        yield f"  and {len(seen.nodes) - MOST_NODES} more nodes"
    if not seen.nodes:
        yield "  no node is up yet"


def _at(seen: Picture, node: Node, one: Standing) -> str:
    """Say why it does not run on a node."""
    if node.cpus < one.cpus:
        return f"too small, with {_cpus(node.cpus)}"
    if node.idle:
        return f"put aside: {node.idle}"
    there = list(seen.at(node.name))
    free = node.cpus - sum(other.cpus for other in there)
    if free >= one.cpus:
        return f"{free} of {_cpus(node.cpus)} are free, and it is about to start, or they are kept for one before it"
    return f"{max(free, 0)} of {_cpus(node.cpus)} are free; it would fit after {_named(there)}"


def _named(several: list[Standing]) -> str:
    names = [f"{one.task} of {one.function} ({_cpus(one.cpus)})" for one in several[:MOST_NAMED]]
    more = len(several) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _cpus(count: int) -> str:
    return f"{count} CPU{'s' * (count != 1)}"
