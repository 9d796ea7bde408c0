"""The command line: `hyperflow doctor`, and whatever comes beside it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from hyperflow._job import run_in_new_loop
from hyperflow._version import __version__
from hyperflow.cli import jobs, report, variables
from hyperflow.cli.check import Check
from hyperflow.cli.doctor import examine
from hyperflow.errors import SlurmError
from hyperflow.slurm import nodelist

app = App(name="hyperflow", version=__version__, help="Concurrent calculations on a Slurm cluster.")
jobs.add_to(app)
app.command(variables.app)


@app.command
def doctor(
    *,
    nodes: str = "",
    run_dir: Path = Path("hyperflow-runs"),
    timeout: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 30.0,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Check whether hyperflow can run here, and say what to do where it cannot.

    Run it on a login node with --nodes, inside an allocation (sbatch, salloc, srun --pty), or without Slurm. It looks
    at Slurm and the allocation, at ssh and srun to each node, whether the run directory is really shared, whether each
    node has the same Python and packages, whether a results database can be kept, and at CPUs against Slurm's promise.
    Everything that it makes and starts, it removes and ends again; with host_keys = "accept-new", keys are kept.

    The exit code is 0 if nothing failed, and 1 otherwise; warnings and skipped checks are no failures.

    Parameters
    ----------
    nodes
        Nodes to look at, such as 'node[1-3],gpu7'; without it, those of the allocation.
    run_dir
        The directory in which runs are to be kept; all nodes have to see it.
    timeout
        Seconds that each check may take; starting Python on a node has `start_timeout` of the configuration.
    json
        Print one JSON object for programs: format, ok, counts, and checks with check, node, status, detail, fix,
        seconds, data.
    """
    try:
        names = nodelist.expand(nodes)
    except SlurmError as error:
        print(f"--nodes: {error}", file=sys.stderr)
        return 1
    if sys.stderr.isatty() and not json:
        print("Looking ...", file=sys.stderr)
    try:
        checks = run_in_new_loop(_examine(names, run_dir.absolute(), timeout))
    except asyncio.CancelledError:  # all has been ended and removed
        return 128 + signal.SIGTERM
    if json:
        print(report.as_json(checks))
    else:
        report.print_table(checks, sys.stdout)
    return report.exit_code(checks)


async def _examine(nodes: Sequence[str], run_dir: Path, seconds: float) -> list[Check]:
    """Examine, and when told to end (scancel, a terminal that was closed), do so in order, as after Ctrl-C."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await examine(os.environ, nodes, run_dir, seconds)


def main() -> None:
    """Run the command that the command line asks for, and exit with its code."""
    app()
