"""`hyperflow runs` and `hyperflow show`: which runs there are, and what is to know of one, also while it runs."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
from cyclopts import App, Parameter
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from hyperflow.cli import evaluations, fate, heads, records, runs
from hyperflow.cli.answers import BASE_DIR, BaseDir, Json, Which, answering
from hyperflow.cli.live import follow
from hyperflow.cli.records import Run
from hyperflow.cli.suggestions import suggestions
from hyperflow.console.table import (
    GAP,
    NARROW,
    counts_in_words,
    plain_table,
    print_lines,
    print_note,
    print_table,
    width_of,
)
from hyperflow.control.client import owner
from hyperflow.database.tables import in_bytes
from hyperflow.debugging import capsule
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.events import reader
from hyperflow.events.nodes import NodeState, node_states
from hyperflow.events.summary import TAIL, Function, Summary, summarise
from hyperflow.master.lifecycle import State as JobState
from hyperflow.records.record import Figures, State
from hyperflow.saying import age, in_one_line, printable

FORMAT = 1

SHOWN_RUNS = 50
"""So many runs are shown by themselves: a base directory may hold many thousands."""

SHOWN_FAILURES = 5
"""So many failures are shown with a run."""

SHOWN_FUNCTIONS = 100

COUNTS = (
    *("done", "failed", "cancelled", "retried", "running", "waiting"),
    *("measured", "cpu", "short", "read", "written"),
)
"""Of a function, what is summed over the jobs of a run."""

LONGEST = 300
"""Characters that are shown of a call, an error, a command."""

RESUMED = "since it was resumed"
"""Of which time a run's seconds are, if it was."""

ENDING = 10.0
"""Seconds that a run may take to end, after its head answers no more."""

HOUR = 3600.0


def add_to(app: App) -> None:
    """Add the commands to the command line."""
    app.command(answering(runs_))
    app.command(answering(show))


def runs_(
    *,
    every: Annotated[
        bool, Parameter(name="--all", negative="", help=f"All runs; else the newest {SHOWN_RUNS}.")
    ] = False,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Show the runs, the newest last; with --json all of them.

    These are the runs in the base directory, and those that were given no place (run_job_local without `program`, say),
    wherever they ran. A run is "killed" when its process has gone without a word: Slurm is asked about those of other
    machines that are not heard of. "silent" is one on another machine that has not been heard of for two minutes, and
    Slurm does not know that it has ended; `hyperflow show` asks its machine, too.
    """
    now = time.time()
    found, left = records.newest(base_dir, None if every or as_json else SHOWN_RUNS)
    found = fate.with_slurms_word(found, now)
    if as_json:
        rows = [described(run, now) for run in found]
        print(json.dumps({"format": FORMAT, "base_dir": str(base_dir.absolute()), "runs": rows}, indent=2))
        return 0
    if not found:
        raise runs.none_in(base_dir)
    columns = _columns(found, now, wide=width_of(sys.stdout) >= NARROW)
    cells = list(columns.values())
    if len(found) > SHOWN_RUNS:  # rich takes too long for thousands
        print_lines([tuple(columns), *zip(*cells, strict=True)], sys.stdout)
        return 0
    table = runs_table(columns, width_of(sys.stdout))
    print_table(table, sys.stdout)
    if left:
        print(f"and {left} earlier ones: hyperflow runs --all")
    return 0


def runs_table(columns: Mapping[str, Sequence[str]], width: int) -> Table:
    """Return the table of runs for a terminal of this width: a command line is cut before anything else is."""
    longest = {heading: max(map(cell_len, [heading, *column])) for heading, column in columns.items()}
    room = width - sum(longest[heading] + GAP for heading in columns if heading != "program")
    longest["program"] = min(longest["program"], max(room, len("program")))
    table = plain_table()
    for heading in columns:
        least = longest[heading] if heading in ("run", "state") else None  # what is typed is not cut
        table.add_column(heading, no_wrap=True, min_width=least, max_width=longest[heading])
    for line in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, line))
    return table


def _columns(found: list[Run], now: float, wide: bool) -> dict[str, list[str]]:
    """Return the cells of all columns, by heading."""
    columns = {"run": [printable(run.name) for run in found]}
    columns["state"] = [str(run.state(now)) for run in found]
    columns["took"] = [_took(run, now) for run in found]
    if wide:
        figures = [run.figures() for run in found]
        columns["CPU hours"] = [_hours(each) if each.held else "" for each in figures]
        columns["where"] = [where(run) for run in found]
    if any(run.cluster is not None for run in found):
        columns["jobs"] = [jobs(run) for run in found]
    columns["program"] = [command(run) for run in found]
    return columns


def _took(run: Run, now: float) -> str:
    seconds = run.seconds(now)
    return "" if seconds is None else age(seconds)


def _hours(figures: Figures) -> str:
    used, held = figures.used / HOUR, figures.held / HOUR
    return f"{used:.3f} of {held:.3f}" if held < 10 else f"{used:.1f} of {held:.1f}"


def where(run: Run) -> str:
    """Say on which machine a run is, and in which Slurm job."""
    if run.record is None:
        return ""
    job = f", Slurm job {run.record.slurm_job}" if run.record.slurm_job else ""
    return printable(f"{run.record.owner.host}{job}")


def jobs(run: Run) -> str:
    """Say how the jobs of a Cluster program stand."""
    if run.cluster is None:
        return ""
    try:
        return counts_in_words(run.cluster.states())
    except ConfigurationError:
        return "cannot be trusted"


def command(run: Run) -> str:
    """Return a run's command line; a program below the directory that it was typed in, as one types it there."""
    words = run.cluster.command if run.cluster is not None else [] if run.record is None else list(run.record.argv)
    if words and run.record is not None and run.record.directory:
        words = [words[0].removeprefix(f"{run.record.directory}/"), *words[1:]]
    return _short(shlex.join(words))


def _short(text: str) -> str:
    text = in_one_line(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def described(run: Run, now: float) -> dict[str, Any]:
    """Return what --json has of a run."""
    found, cluster, state = run.record, run.cluster, run.state(now)
    at_work = owner(run.home) if cluster is not None else None
    if at_work is None and found is not None and state in (State.RUNNING, State.SILENT):
        at_work = found.owner
    told: dict[str, Any] = {
        "program": run.name,
        "run": str(run.home),
        "kind": "cluster" if cluster is not None else "job",
        "state": str(state),
        "why": run.fate.words if run.fate is not None else "",
        "host": at_work.host if at_work is not None else None,
        "pid": at_work.pid if at_work is not None else None,
        "local": cluster is not None and cluster.local,
        "created": cluster.about.get("created") if cluster is not None else None,
        "command": cluster.command if cluster is not None else [],
        "jobs": jobs(run),
        "log_dir": str(run.log_dir),
        "figures": run.figures()._asdict(),
    }
    if found is not None:
        members = ("user", "directory", "slurm_job", "versions", "began", "alive", "ended", "error", "result")
        told |= {member: getattr(found, member) for member in members}
        told |= {"created": found.created, "machine": found.owner.host}
        if cluster is None:
            told["command"] = list(found.argv)
    return told


# ---- one run ---------------------------------------------------------------------------------------------------------


def show(
    run: Which = None,
    *,
    live: Annotated[
        bool, Parameter(negative="", help="Show how it stands while it runs, as its own terminal does.")
    ] = False,
    functions: Annotated[
        bool, Parameter(negative="", help="Show for each function how often, how long and with what it was evaluated.")
    ] = False,
    suggest: Annotated[
        bool, Parameter(negative="", help="Say what to ask for, or to write, otherwise next time.")
    ] = False,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Show how a run stands or has ended: what it ran, where, its result or error, CPU hours, nodes, failures."""
    now = time.time()
    found = fate.asked_for(records.find(run, base_dir), now)
    if live and found.state(now) in (State.RUNNING, State.SILENT):
        found = _ended(found, base_dir) if follow(found) else found
        now = time.time()
    summary, nodes, note = _looked_up(found)
    advice = suggestions(found, summary) if suggest else []
    if as_json:
        told = described(found, now) | _evaluated(summary, nodes) | {"note": note}
        if suggest:
            told["suggestions"] = advice
        print(json.dumps({"format": FORMAT, **told}, indent=2))
        return 0
    state = found.state(now)
    print_note(f"run {printable(found.name)}: {headline(found, state, now)}", sys.stdout)
    for heading, text in _facts(found, state, summary, nodes).items():
        print(f"  {heading:<12}{text}")
    for failure in summary.failures[:SHOWN_FAILURES]:
        where = f" on {failure.worker}" if failure.worker else ""
        again = ", then tried again" if failure.retried else ""
        name = evaluations.named(failure.job, failure.task)
        print(f"  #{name} {_short(failure.call)}: {_short(failure.error)}{printable(where)}{again}")
    if summary.failed > SHOWN_FAILURES:
        print(f"  and {summary.failed - SHOWN_FAILURES} more: hyperflow logs {shlex.quote(found.name)} --failed")
    if summary.failures and any((log_dir / capsule.DIRECTORY).is_dir() for _, log_dir in evaluations.log_dirs(found)):
        print(f"  to run one of them again, under pdb: hyperflow debug {shlex.quote(found.name)} EVALUATION")
    if functions:
        _print_functions(summary)
    if suggest:
        print("Next time:" if advice else "Nothing stands out that would be better otherwise.")
        for sentence in advice:
            print(f"- {sentence}")
    if note:
        print_note(printable(note), sys.stdout)
    return 0


def _ended(run: Run, base_dir: Path) -> Run:
    """Return a run that is just ending as it is when it has ended."""
    deadline = time.monotonic() + ENDING
    while True:
        found = records.find(str(run.home) if run.home.is_dir() else run.name, base_dir)
        if found.state(time.time()) is not State.RUNNING or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _looked_up(run: Run) -> tuple[Summary, list[NodeState], str]:
    """Return what the event logs of a run tell, and what is to be said about that."""
    total, nodes, wrong = Summary(), list[NodeState](), ""
    for job, log_dir in evaluations.log_dirs(run):
        try:
            one = summarise(reader.read(log_dir / heads.EVENTS))
            nodes += node_states(reader.read(log_dir / heads.EVENTS))  # again: a million events take 500 MB
        except HyperflowError as error:
            if (log_dir / heads.EVENTS).exists():
                wrong = str(error)
            continue
        except (TypeError, ValueError, AttributeError, LookupError) as error:  # a foreign file
            wrong = f"the event log {log_dir / heads.EVENTS} makes no sense: {error!r}"
            continue
        one.failures = [attrs.evolve(failure, job=job) for failure in one.failures]
        _join(total, one)
    total.failures.sort(key=lambda failure: failure.t)
    told = run.record
    if total.dropped:
        wrong = (
            f"the event log has reached its limit: {total.dropped} evaluations ended after that, and are not counted"
        )
    elif total.left_out:
        wrong = f"{in_bytes(total.left_out)} of the event log were not kept: counts of functions are not complete"
    elif not run.log_dir.is_dir():
        wrong = f"its directory has gone, {run.home}, and nothing of its logs was kept"
    elif not wrong and told is not None and told.outcome and told.kind == "job":
        known, done = sum(one.done for one in total.functions.values()), told.figures.done
        if known < done:  # a disk was full
            wrong = f"the event log ends early: it has {known} of the {done} evaluations that are done"
    return total, nodes, wrong


def _join(total: Summary, one: Summary) -> None:
    """Add what another job of the run has evaluated."""
    total.failures += one.failures
    total.failed += one.failed
    total.left_out += one.left_out
    total.dropped += one.dropped
    total.last = max(total.last, one.last)
    total.learned |= one.learned
    for name, function in one.functions.items():
        known = total.functions.setdefault(name, Function(name))
        known.cpus = function.cpus
        known.seconds.extend(function.seconds)
        known.memory = max(known.memory, function.memory)
        for count in COUNTS:
            setattr(known, count, getattr(known, count) + getattr(function, count))


def headline(run: Run, state: State, now: float) -> str:
    """Say how a run stands."""
    found = run.record
    if found is None:
        return "it has left no record that this version can read" if state is State.UNKNOWN else str(state)
    took = _took(run, now) + f" ({RESUMED})" * (found.created < found.began)
    if run.fate is not None:
        return f"{state} after {took}, or a little later: {printable(run.fate.words)}"
    if state is State.KILLED:
        return f"killed after {took}, or a little later: its process ({found.owner.pid}) ended without a word"
    if state is State.SILENT:
        return (
            f"silent for {age(now - found.alive)}, after {took}: it runs on {printable(found.owner.host)}, or has been "
            "killed there"
        )
    return f"{state}, for {took} so far" if state is State.RUNNING else f"{state} after {took}"


def about(run: Run) -> dict[str, str]:
    """Return what a run says of itself, by heading."""
    found, facts = run.record, dict[str, str]()
    if words := command(run):
        facts["command"] = words
    if found is not None:
        facts["directory"] = printable(found.directory)
        facts["where"] = f"{where(run)}, process {found.owner.pid}, user {printable(found.user)}"
        facts["began"] = _clock(found.began)
        if found.created < found.began:
            facts["began"] += f"; started first {_clock(found.created)}"
        if found.ended is not None:
            facts["ended"] = _clock(found.ended)
        facts["versions"] = printable(", ".join(f"{name} {version}" for name, version in found.versions.items()))
        if found.error:
            facts["error"] = _short(found.error)
        if found.result:
            facts["result"] = _short(found.result)
    return facts | {"logs": printable(str(run.log_dir))}


def _facts(run: Run, state: State, summary: Summary, nodes: list[NodeState]) -> dict[str, str]:
    """Return what is to be said, by heading."""
    found, figures, facts = run.record, run.figures(), about(run)
    logs = facts.pop("logs")
    if run.cluster is not None:
        facts["jobs"] = jobs(run)
        if state is not State.FINISHED and JobState.HELD in run.cluster.states():
            facts["jobs"] += "; held jobs wait for you: hyperflow why"
    if figures.held:
        efficiency = f" ({100 * figures.used / figures.held:.0f}%)"
        facts["CPU hours"] = f"used {_hours(figures)} held{efficiency}"
        facts["CPUs"] = f"{figures.cpus} on {figures.nodes} node{'s' * (figures.nodes != 1)}"
    facts["evaluations"] = _counts(summary, state)
    if unusual := [node for node in nodes if node.state in ("draining", "drained", "lost", "not started")]:
        facts["nodes"] = "; ".join(_short(f"{node.node} {node.state}: {node.cause}") for node in unusual[:10])
    facts["logs"] = logs
    if found is not None and not run.home.exists():
        facts["logs"] += f", the ends of them; the run was in {printable(str(run.home))}, which has gone"
    return facts


def _counts(summary: Summary, state: State) -> str:
    alive = ("running", "waiting") if state in (State.RUNNING, State.SILENT) else ()
    names = (*alive, "done", "failed", "cancelled", "retried")
    counts = {name: sum(getattr(one, name) for one in summary.functions.values()) for name in names}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def _clock(moment: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
    except (ValueError, OverflowError, OSError):
        return str(moment)


def _print_functions(summary: Summary) -> None:
    ordered = sorted(summary.functions.values(), key=lambda one: -one.total * one.cpus)
    table = plain_table()
    table.add_column("function or name")
    moved = any(one.read or one.written for one in ordered)
    headings = ("done", "failed", "retried", "median", f"{TAIL:.0%}", "total", "CPUs", "CPU use", "memory")
    for heading in (*headings, *(("read", "written") if moved else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in ordered[:SHOWN_FUNCTIONS]:
        times = ["", "", ""]  # of none that has a result
        if one.seconds:
            times = [_seconds(one.quantile(0.5)), _seconds(one.quantile(TAIL)), _seconds(one.total)]
        use = [_seconds(one.cpu + one.short) if one.cpu + one.short else ""]
        use.append(in_bytes(one.memory) if one.measured else "")
        if moved:
            use += (in_bytes(one.read), in_bytes(one.written)) if one.measured else ("", "")
        counts = [str(one.done), str(one.failed), str(one.retried)]
        table.add_row(*map(Text, [_short(one.name), *counts, *times, str(one.cpus), *use]))
    print_table(table, sys.stdout)
    if len(ordered) > SHOWN_FUNCTIONS:
        print(f"and {len(ordered) - SHOWN_FUNCTIONS} more: --json has all")


def _seconds(seconds: float) -> str:
    if seconds >= 60:
        return age(seconds)
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _evaluated(summary: Summary, nodes: list[NodeState]) -> dict[str, Any]:
    """Return what --json has of what a run has evaluated."""
    counts = ("cpus", *COUNTS, "memory")
    functions = [
        {
            "function": one.name,
            **{count: getattr(one, count) for count in counts},
            "median": one.quantile(0.5),
            "tail": one.quantile(TAIL),
            "total": one.total,
        }
        for one in summary.functions.values()
    ]
    failures = [attrs.asdict(failure) for failure in summary.failures]
    return {"functions": functions, "failures": failures, "nodes": [attrs.asdict(node) for node in nodes]}
