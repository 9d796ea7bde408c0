"""`hyperflow nodes`, which reads event logs, and `hyperflow node drain|resume`, which asks the heads of jobs.

A run has a head for each of its jobs that runs; what `run_job_slurm` or `run_job_local` runs by itself has one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import App, Parameter
from rich.text import Text

from hyperflow.cli import elsewhere, heads, joining
from hyperflow.cli.answers import BASE_DIR, BaseDir, Json, RunOption, Which, answering
from hyperflow.cli.heads import Head
from hyperflow.console.table import plain_table, print_table
from hyperflow.control.client import HeadElsewhere, NoMaster, Refused, head
from hyperflow.errors import ConfigurationError, HyperflowError, SlurmError
from hyperflow.slurm import nodelist

app = App(name="node", help="Put a node of a running program aside, or use it again.")
joining.add_to_node(app)

Names = Annotated[str, Parameter(help="The node, or several as Slurm writes them: node3, 'node[3-5]'.")]


def add_to(main: App) -> None:
    """Add the commands to the command line."""
    main.command(answering(nodes_))
    main.command(app)


def nodes_(run: Which = None, *, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Show the nodes that a program's jobs use or used: state, CPUs, how often evaluations succeeded and failed there.

    A node is "aside" when nothing more is started there, because evaluations failed there and then succeeded on other
    nodes, or by `hyperflow node drain`.
    """
    home = heads.find(run, base_dir)
    found = [(one, state) for one in heads.of(home) for state in one.nodes()]
    if as_json:
        rows = [{"job": one.job, **attrs.asdict(state)} for one, state in found]
        print(json.dumps({"run": str(home), "nodes": rows}, indent=2))
        return 0
    if not found:
        print(f"no job of {home} has started on a node")
        return 0
    several = any(one.job is not None for one, _ in found)
    table = plain_table()
    for heading in (*(["job"] if several else []), "node", "state"):
        table.add_column(heading)
    with_gpus = any(state.gpus for _, state in found)
    for heading in ("CPUs", *(["GPUs"] if with_gpus else []), "done", "failed"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    for one, state in found:
        gpus = [state.gpus] if with_gpus else []
        cells = [state.node, state.state, state.cpus, *gpus, state.done, state.failed, state.cause]
        table.add_row(*(Text(str(cell)) for cell in ([one.job, *cells] if several else cells)))
    print_table(table, sys.stdout)
    return 0


@app.command
@answering
def drain(node: Names, /, *, run: RunOption = None, base_dir: BaseDir = BASE_DIR) -> int:
    """Start nothing more on a node; what runs there goes on."""
    return _order("drain", node, run, base_dir)


@app.command
@answering
def resume(node: Names, /, *, run: RunOption = None, base_dir: BaseDir = BASE_DIR) -> int:
    """Use a node again that was put aside."""
    return _order("resume", node, run, base_dir)


def _order(what: str, names: str, run: str | None, base_dir: Path) -> int:
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
                _tell(one, what, node)
                told.append(one)
            except (Refused, NoMaster) as error:  # another one may have the node
                refusals.append(error)
        if not told:
            raise refusals[-1] if refusals else NoMaster(f"no job of {home} runs now")
        for one in told:
            job = "" if one.job is None else f" of job {one.job}"
            print(f"node {node}{job}: {'nothing more is started there' if what == 'drain' else 'used again'}")
    return 0


def _tell(one: Head, what: str, node: str) -> None:
    try:
        head(one.home).post(f"/nodes/{node}/{what}")
    except HeadElsewhere as error:
        words = ["node", what, node, "--run", str(one.home)]
        elsewhere.carry_out(error.host, words, error, one.slurm_job)
