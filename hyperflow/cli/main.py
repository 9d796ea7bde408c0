"""The `hyperflow` command line, and its command `doctor`."""

from __future__ import annotations

import asyncio
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter, validators

from hyperflow._version import __version__
from hyperflow.cli.answers import answering, cancel_on_signals
from hyperflow.errors import SlurmError
from hyperflow.files import hold_standard_streams

if TYPE_CHECKING:
    from hyperflow.cli.check import Check

COMMANDS = {
    "show": ("runs", "show"),
    "logs": ("logs",),
    "debug": ("debug",),
    "dashboard": ("dashboard",),
    "explain": ("explain",),
    "whatif": ("whatif",),
    "jobs": ("list", "why", "retry", "cancel", "give-up", "resume"),
    "nodes": ("nodes", "node"),
    "pools": ("pool",),
    "damage": ("check", "repair"),
    "results": ("results",),
    "reporting": ("report",),
    "gc": ("gc",),
    "init": ("init",),
    "variables": ("var",),
    "array": ("array",),
    "tasks": ("tasks", "output", "wait"),
    "docs": ("docs",),
}
"""The modules of this room that have an `add_to`, and the commands that each one adds."""


def command_line(words: Sequence[str] = ()) -> App:
    """Return the command line. If these words name a command, only that one's module is imported, and not all."""
    app = App(name="hyperflow", version=__version__, help="Concurrent calculations on a Slurm cluster.")
    wanted = [module for module, names in COMMANDS.items() if words and words[0] in names]
    for module in wanted or COMMANDS:
        importlib.import_module(f"hyperflow.cli.{module}").add_to(app)
    app.command(answering(doctor))
    return app


def doctor(
    *,
    nodes: str = "",
    run_dir: Path = Path("hyperflow-runs"),
    timeout: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 30.0,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Check whether hyperflow can run here, and say what to do if it cannot.

    Run it on a login node with --nodes, inside an allocation (sbatch, salloc, srun --pty), or without Slurm. It checks
    Slurm and the allocation, ssh and srun to each node, whether the run directory is shared, whether each node has the
    same Python and packages, whether a results database works there, and whether nodes have the CPUs that Slurm grants.
    It removes what it makes and ends what it starts; with host_keys = "accept-new", it keeps new keys.

    The exit code is 0 if no check failed, otherwise 1; warnings and skipped checks are not failures.

    Parameters
    ----------
    nodes
        Nodes to check, such as 'node[1-3],gpu7'; by default those of the allocation.
    run_dir
        The directory for runs; all nodes have to see it.
    timeout
        Seconds that each check may take; for starting Python on a node, `start_timeout` of the configuration counts.
    json
        Print one JSON object for programs: format, ok, counts, and checks with check, node, status, detail, fix,
        seconds, data.
    """
    from hyperflow._job import run_in_new_loop  # noqa: PLC0415 (other commands need none of these)
    from hyperflow.cli import report  # noqa: PLC0415
    from hyperflow.slurm import nodelist  # noqa: PLC0415

    try:
        names = nodelist.expand(nodes)
    except SlurmError as error:
        print(f"--nodes: {error}", file=sys.stderr)
        return 1
    if sys.stderr.isatty() and not json:
        print("Looking ...", file=sys.stderr)
    try:
        checks = run_in_new_loop(_examine(names, run_dir.absolute(), timeout))
    except asyncio.CancelledError:  # after cleaning up
        return 128 + signal.SIGTERM
    if json:
        print(report.as_json(checks))
    else:
        report.print_table(checks, sys.stdout)
    return report.exit_code(checks)


async def _examine(nodes: Sequence[str], run_dir: Path, seconds: float) -> list[Check]:
    from hyperflow.cli.doctor import examine  # noqa: PLC0415 (it imports asyncssh, which takes 0.1 s)

    cancel_on_signals()
    return await examine(os.environ, nodes, run_dir, seconds)


def main() -> None:
    """Run the command that the command line asks for, and exit with its code."""
    hold_standard_streams()
    for stream in (sys.stdout, sys.stderr):  # a file's name, or a job's, may not be what the terminal can show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:]
    app = command_line(words)
    if words[:1] == ["array"]:
        from hyperflow.cli.array import without_command  # noqa: PLC0415 (imported already)

        words = without_command(words)
    app(words)
