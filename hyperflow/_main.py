"""`main`: runs a Cluster program as its command line says.

What only a run needs (command line, tables, Slurm) is imported where it begins: the module is part of what a script
imports with `import hyperflow`, on workers, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from hyperflow.flow import Flow


def main(fn: Callable[..., Flow[Any]], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a program from its command line, and exit: `hyperflow.main(search)` at the end of a script.

    The command line is made from the function's signature, types and docstring; `--help` shows it, with the options
    that hyperflow adds. The function is one under `@cluster`, or an ordinary one that checks its arguments and returns
    such a flow. One that gives a job (`@job`) is run as a single job, in an allocation of its own.

    What is told goes to standard error: where logs, database and control socket are, how the jobs stand (a table on a
    terminal, else a line for each change), how it ended. A result that is not None is printed on standard output.

    Ctrl-C asks whether jobs at Slurm are to be left there or cancelled (`--on-interrupt`). SIGTERM and SIGHUP leave
    them.

    Exit codes: 0, also for --help. 1: the program has raised (with its traceback), or the run is in use. 2: what was
    typed cannot be meant, or a place cannot be used; nothing has been run. 130 (143, 129): ended by Ctrl-C (SIGTERM,
    SIGHUP); the line to go on with is printed.

    Args:
        fn: The function.
        argv: The command line; by default that of this process.

    Raises:
        MisuseError: The function cannot be a command line, or does not give a flow.
    """
    from hyperflow.console.line import run_program  # noqa: PLC0415 (see above)

    sys.exit(run_program(fn, sys.argv[1:] if argv is None else argv))
