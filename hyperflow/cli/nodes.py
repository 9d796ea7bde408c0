"""`hyperflow nodes`, which reads event logs, and `hyperflow node info|drain|resume`, which ask the heads of jobs.

A run has a head for each of its jobs that runs; what `run_job_slurm` or `run_job_local` runs by itself has one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
from cyclopts import App, Parameter
from rich.text import Text

from hyperflow.cli import elsewhere, heads, joining
from hyperflow.cli.answers import BASE_DIR, BaseDir, Json, RunOption, Which, answering
from hyperflow.cli.heads import Head
from hyperflow.console.table import plain_table, print_table
from hyperflow.control.client import HeadElsewhere, NoMaster, Refused, head
from hyperflow.errors import ConfigurationError, HyperflowError, SlurmError
from hyperflow.events import reader
from hyperflow.events.nodes import NodeState
from hyperflow.events.standing import picture
from hyperflow.saying import age, as_written, in_short, printable
from hyperflow.slurm import nodelist

app = App(name="node", help="All about a node of a running program; put it aside, give it back, or use it again.")
joining.add_to_node(app)

FORMAT = 1

MOST_SHOWN = 20
"""So many evaluations of a node are printed."""

Names = Annotated[str, Parameter(help="The node, or several as Slurm writes them: node3, 'node[3-5]'.")]


def add_to(main: App) -> None:
    """Add the commands to the command line."""
    main.command(answering(nodes_))
    main.command(app)


def nodes_(
    run: Which = None,
    *,
    every: Annotated[bool, Parameter(name="--all", negative="", help="Also those that have left.")] = False,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Show the nodes that a program's jobs use or used: state, CPUs, how often evaluations succeeded and failed there.

    A node is "draining" when nothing more is started there, and "drained" when nothing runs there any more: because
    evaluations failed there and then succeeded on other nodes, because it is to be given back, or by
    `hyperflow node drain`.
    """
    home = heads.find(run, base_dir)
    found = [(one, state) for one in heads.of(home) for state in one.nodes()]
    if as_json:
        rows = [{"job": one.job, **attrs.asdict(state)} for one, state in found]
        print(json.dumps({"format": FORMAT, "run": str(home), "nodes": rows}, indent=2))
        return 0
    shown, left = found, 0
    if not every and any(state.is_up for _, state in found):
        shown = [(one, state) for one, state in found if not state.has_left]
        left = len(found) - len(shown)
    if not found:
        print(f"no job of {home} has started on a node")
        return 0
    _print(shown)
    if left:
        print(f"and {left} that {'has' if left == 1 else 'have'} left: --all")
    return 0


def _print(found: Sequence[tuple[Head, NodeState]]) -> None:
    now = time.time()
    several = any(one.job is not None for one, _ in found)
    with_gpus, with_ends = any(state.gpus for _, state in found), any(state.ends for _, state in found)
    table = plain_table()
    for heading in (*(["job"] if several else []), "node", "state"):
        table.add_column(heading)
    numbers = ["CPUs", *(["GPUs"] if with_gpus else []), "busy", "done", "failed", "since"]
    for heading in (*numbers, *(["ends in"] if with_ends else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why")
    for one, state in found:
        cells: list[object] = [one.job] if several else []
        cells += [state.node, state.state, state.cpus or "", *([state.gpus] if with_gpus else [])]
        cells += [state.busy if state.is_up else "", state.done, state.failed, age(max(now - state.since, 0))]
        cells += [_until(state.ends, now)] if with_ends else []
        table.add_row(*(Text(printable(str(cell))) for cell in [*cells, in_short(state.cause)]))
    print_table(table, sys.stdout)


def _until(moment: float | None, now: float) -> str:
    return "" if moment is None else age(max(moment - now, 0))


@app.command
@answering
def info(node: Names, /, *, run: RunOption = None, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Show all that is known of a node: CPUs, GPUs, memory, how it was reached, its log, what runs there."""
    home = heads.find(run, base_dir)
    known = [(one, state) for one in heads.of(home) for state in one.nodes() if state.node == node]
    if not known:
        names = sorted({state.node for one in heads.of(home) for state in one.nodes()})
        raise ConfigurationError(f"{home} has no node {node!r}; it has or had: {', '.join(names) or 'none'}")
    told = [_all_about(one, state) for one, state in known]
    if as_json:
        print(json.dumps({"format": FORMAT, "run": str(home), "nodes": told}, indent=2))
        return 0
    for number, each in enumerate(told):
        print(*(["", f"job {each['job']}"] if number or each["job"] is not None else []), sep="\n", end="")
        _print_one(each)
    return 0


def _all_about(one: Head, state: NodeState) -> dict[str, Any]:
    about: dict[str, Any] = {"job": one.job, **attrs.asdict(state), "there": None, "evaluations": []}
    if not state.is_up:
        return about
    try:
        seen = picture(reader.read(one.log_dir / heads.EVENTS), 0)
        about["evaluations"] = [
            {"task": each.task, "function": each.function, "cpus": each.cpus, "worker": each.worker}
            | {"seconds": round(max(time.time() - each.since, 0.0), 3)}
            for each in seen.at(state.node)
        ]
        about["there"] = _asked(one, state.node)
    except (Refused, NoMaster) as error:
        about["there"] = {"error": str(error)}
    return about


def _asked(one: Head, node: str) -> dict[str, Any]:
    """Ask the head, here or on its host."""
    try:
        return head(one.home).get(f"/nodes/{node}")
    except HeadElsewhere as error:
        words = ["node", "info", node, "--run", str(one.home), "--json"]
        told = json.loads(elsewhere.carry_out(error.host, words, error, one.slurm_job))
        there: dict[str, Any] = told["nodes"][0]["there"]
        return there


def _print_one(about: dict[str, Any]) -> None:
    now, there = time.time(), about["there"] or {}
    facts = {"node": about["node"], "state": f"{about['state']} for {age(max(now - about['since'], 0))}"}
    facts["why"] = about["cause"]
    if about["came"] > 1:
        facts["came"] = f"{about['came']} times"
    if about["ends"]:
        facts["ends in"] = _until(about["ends"], now)
    if "cpus" in there:
        busy = f"; busy: {nodelist_of(there['cpus_busy'])}" if there["cpus_busy"] else "; none is busy"
        facts["CPUs"] = f"{nodelist_of(there['cpus'])}{busy}{'' if there['pinned'] else '; workers are not pinned'}"
        if there["gpus"]:
            facts["GPUs"] = f"{', '.join(there['gpus'])}; {there['gpus_free']:g} free"
        if there["memory"]:
            facts["memory"] = f"{as_written(there['memory'])}; {as_written(max(there['memory_free'], 0))} not given out"
    elif about["cpus"]:
        facts["CPUs"] = str(about["cpus"])
    facts["evaluations"] = f"{about['done']} done, {about['failed']} failed"
    if "host" in there:
        facts["host"] = there["host"]
        job = f", Slurm job {there['slurm_job']}" if there["slurm_job"] else ""
        facts["reached by"] = f"{there['reached_by']}{job}; its launcher is process {there['launcher']}"
        facts["log"] = there["log_file"]
    elif "error" in there:
        facts["not asked"] = there["error"]
    width = max(map(len, facts))
    for name, value in facts.items():
        if value:
            print(f"{name:{width}}  {printable(str(value))}")
    for line in there.get("log_tail", ()):
        print(f"{'':{width}}  | {printable(line)}")
    for each in about["evaluations"][:MOST_SHOWN]:
        cpus = f", {each['cpus']} CPUs" if each["cpus"] > 1 else ""
        where = each["worker"].partition("@")[0] or "in its queue"
        print(printable(f"{each['task']} of {each['function']}: {age(each['seconds'])}{cpus}, {where}"))
    if len(about["evaluations"]) > MOST_SHOWN:
        print(f"and {len(about['evaluations']) - MOST_SHOWN} more: --json has all")


def nodelist_of(ids: Sequence[int]) -> str:
    """Return numbers in short: 0-3,8."""
    found: list[list[int]] = []
    for number in ids:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ",".join("-".join(map(str, each)) for each in found)


@app.command
@answering
def drain(
    node: Names,
    /,
    *,
    now: Annotated[
        bool, Parameter(negative="", help="Give it back now: what runs there is started again elsewhere, uncharged.")
    ] = False,
    run: RunOption = None,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Start nothing more on a node; what runs there goes on, unless you say --now."""
    return _order("drain", node, run, base_dir, *(["--now"] if now else []))


@app.command
@answering
def resume(node: Names, /, *, run: RunOption = None, base_dir: BaseDir = BASE_DIR) -> int:
    """Use a node again that was drained by hand; try a host again that is not there."""
    return _order("resume", node, run, base_dir)


def _order(what: str, names: str, run: str | None, base_dir: Path, *options: str) -> int:
    """Give an order to each running head that has such a node; say what came of it."""
    home = heads.find(run, base_dir)
    try:
        nodes = nodelist.expand(names)
    except SlurmError as error:
        raise ConfigurationError(str(error)) from None
    running = [one for one in heads.of(home) if one.is_open]
    for node in nodes:
        told: list[Head] = []
        refusals: list[HyperflowError] = []
        for one in running:
            try:
                _tell(one, what, node, options)
                told.append(one)
            except (Refused, NoMaster) as error:  # another one may have the node
                refusals.append(error)
        if not told:
            raise refusals[-1] if refusals else NoMaster(f"no job of {home} runs now")
        done = "given back" if options else "nothing more is started there" if what == "drain" else "used again"
        for one in told:
            job = "" if one.job is None else f" of job {one.job}"
            print(f"node {node}{job}: {done}")
    return 0


def _tell(one: Head, what: str, node: str, options: Sequence[str]) -> None:
    try:
        body = {"now": True} if options else {}
        head(one.home).post(f"/nodes/{node}/{what}", **body)
    except HeadElsewhere as error:
        words = ["node", what, node, *options, "--run", str(one.home)]
        elsewhere.carry_out(error.host, words, error, one.slurm_job)
