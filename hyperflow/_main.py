"""`main`: runs a Cluster program as its command line says.

What only a run needs (command line, tables, Slurm) is imported when one begins: workers import a script's
`hyperflow.main`, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from hyperflow.files import hold_standard_streams
from hyperflow.flow import Flow


def main(
    fn: Callable[..., Flow[Any]],
    argv: Sequence[str] | None = None,
    *,
    gpus: Sequence[str] | None = None,
    memory: int | str | None = None,
    resources: Mapping[str, int] | None = None,
) -> NoReturn:
    """Run a program from its command line, and exit: `hyperflow.main(search)` at the end of a script.

    The function's signature, types and docstring define the command line; `--help` shows it, with the options that
    hyperflow adds. The function is one under `@cluster`, or an ordinary one that checks its arguments and returns such
    a flow. If it returns a job (`@job`), that runs as a single Slurm job.

    Standard error shows where logs, database and control socket are, the state of the jobs (a table on a terminal,
    otherwise a line for each change) and how the run ended. Standard output gets the result, unless it is None.

    Ctrl-C asks whether to leave jobs with Slurm or to cancel them (`--on-interrupt`). SIGTERM and SIGHUP leave them.

    Exit codes: 0: success, or --help. 1: the program raised an error (its traceback is printed), or the run is in use.
    2: usage error, or a directory or database cannot be used; nothing has run. 130 (143, 129): ended by Ctrl-C
    (SIGTERM, SIGHUP); the command to resume is printed.

    Args:
        fn: The function.
        argv: The command line; by default that of this process.
        gpus: The ids of the GPUs of each node, where they cannot be found out; see open_cluster.
        memory: How much memory evaluations may have on each node; the same.
        resources: Tokens of each job; the same.

    Raises:
        MisuseError: The function cannot be a command line, or does not return a flow.
    """
    from hyperflow.console.line import run_program  # noqa: PLC0415 (see above)
    from hyperflow.offers import Offers  # noqa: PLC0415 (see above)

    hold_standard_streams()
    offers = Offers(None, gpus, memory, resources)
    sys.exit(run_program(fn, sys.argv[1:] if argv is None else argv, offers))
