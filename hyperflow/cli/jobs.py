"""Commands about the jobs of a program: list, why, retry, cancel, give-up, resume, runs.

Commands that change something ask the running master. Commands that only show something work without one, and say so.
Exit codes: 0, done; 1, refused, with the reason; 3, it needs a master and none runs.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeAlias

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hyperflow.cli import runs
from hyperflow.cli.runs import BASE_DIR, Run
from hyperflow.console.options import Resources
from hyperflow.console.table import as_typed, counts_in_words, jobs_table, print_table
from hyperflow.control.client import Contact, MasterElsewhere, NoMaster, Refused, Silent, contact
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.master.lifecycle import State
from hyperflow.master.view import FORMAT, JobView, job_from_json, job_to_json

P = ParamSpec("P")

REFUSED = 1
NO_MASTER = 3

NO_RESOURCES = Resources()

Json: TypeAlias = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for programs.")]
BaseDir: TypeAlias = Annotated[Path, Parameter(help="The directory of the runs.")]
WhichRun: TypeAlias = Annotated[
    str | None, Parameter(name="--run", help="Its id, the beginning of it, or its directory; by default the newest.")
]
All: TypeAlias = Annotated[bool, Parameter(name="--all", negative="")]


def answering(command: Callable[P, int]) -> Callable[P, int]:
    """Make a command print an error and return its exit code, in place of raising it."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except HyperflowError as error:
            print(f"hyperflow: {error}", file=sys.stderr)
            return NO_MASTER if isinstance(error, NoMaster) else REFUSED
        except BrokenPipeError:  # `hyperflow list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    return run


def add_to(app: App) -> None:
    """Add the commands to the command line."""
    app.command(list_, name="list")
    app.command(why)
    app.command(retry)
    app.command(cancel)
    app.command(give_up)
    app.command(resume)
    app.command(runs_, name="runs")


@answering
def list_(run: str | None = None, /, *, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Show the jobs of a program.

    Parameters
    ----------
    run
        Its id, the beginning of it, or its directory; by default the newest run in the base directory.
    """
    found = runs.find(run, base_dir)
    note, answer = "", None
    try:
        answer = contact(found.home).get("/jobs")
    except MasterElsewhere as error:
        note = f"{error}; this is from its files. There: {_ssh(error, ['hyperflow', 'list', str(found.home)])}"
    except Silent as error:
        note = f"{error}; this is from its files"
    except NoMaster as error:
        note = f"{error}; this is from its files, as the last master left them. To go on: {_resume(found)}"
    jobs = found.jobs() if answer is None else [job_from_json(job) for job in answer["jobs"]]
    if as_json:
        about = {"run": str(found.home), "program": found.program_id, "master": answer is not None, "note": note}
        print(json.dumps({"format": FORMAT, **about, "jobs": [job_to_json(job) for job in jobs]}, indent=2))
        return 0
    print(f"run {found.program_id}: {counts_in_words(job.state for job in jobs)}")
    if jobs:
        width = Console().width if sys.stdout.isatty() else 100_000
        print_table(jobs_table(jobs, time.time(), width=width, slurm=not found.local), sys.stdout)
    if note:
        print(note)
    if answer is not None and (unmatched := answer["unmatched"]):
        numbers = ", ".join(map(str, unmatched[:10])) + (", ..." if unmatched[10:] else "")
        print(f"of an earlier start, and not asked for by the program so far (was it edited?): {numbers}")
    if answer is not None and (held := [job.number for job in jobs if job.state is State.HELD]):
        print(f"held jobs wait for you: hyperflow why {held[0]}")
    return 0


@answering
def why(number: int, /, *, run: WhichRun = None, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Show all that is known about a job: why it waits or is held, the end of its log, and what to type.

    Parameters
    ----------
    number
        The job, as `hyperflow list` has it.
    """
    found = runs.find(run, base_dir)
    note = ""
    try:
        text = str(contact(found.home).get(f"/jobs/{number}/why")["why"])
    except (MasterElsewhere, Silent) as error:
        note = f"{error}; this is from its files"
        text = found.why(number)
    except NoMaster as error:
        note = f"{error}; to go on: {_resume(found)}"
        text = found.why(number)
    if as_json:
        print(json.dumps({"format": FORMAT, "run": str(found.home), "number": number, "why": text, "note": note}))
    else:
        print(text, *([note] if note else []), sep="\n")
    return 0


@answering
def retry(
    *numbers: int,
    every: All = False,
    resources: Annotated[Resources, Parameter(name="*")] = NO_RESOURCES,
    run: WhichRun = None,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Submit held, failed or cancelled jobs again, with other resources if you name some.

    While no master runs, this is recorded for the next one: `hyperflow resume`.

    Parameters
    ----------
    numbers
        The jobs.
    every
        All held jobs; while no master runs, also those whose error the program has received.
    """
    changes = resources.changes()
    return _act("retry", run, base_dir, _chosen(numbers, every), as_json, changes=changes)


@answering
def cancel(
    *numbers: int, every: All = False, run: WhichRun = None, base_dir: BaseDir = BASE_DIR, as_json: Json = False
) -> int:
    """End jobs at Slurm, or remove them from its queue; then they are held, and you can retry them or give them up.

    Parameters
    ----------
    numbers
        The jobs.
    every
        All queued and running jobs.
    """
    return _act("cancel", run, base_dir, _chosen(numbers, every), as_json)


@answering
def give_up(
    *numbers: int, every: All = False, run: WhichRun = None, base_dir: BaseDir = BASE_DIR, as_json: Json = False
) -> int:
    """Raise the errors of held jobs in the program, which ends with them unless it handles them.

    Parameters
    ----------
    numbers
        The jobs.
    every
        All held jobs.
    """
    return _act("give_up", run, base_dir, _chosen(numbers, every), as_json)


@answering
def resume(run: str | None = None, /, *, base_dir: BaseDir = BASE_DIR) -> int:
    """Start a program again whose master has ended; it continues where it was.

    It starts in its old directory, with the Python and the command line that it had, and with --resume.

    Parameters
    ----------
    run
        Its id, the beginning of it, or its directory; by default the newest run in the base directory.
    """
    found = runs.find(run, base_dir)
    owner = found.owner
    if owner is not None:
        here = "" if owner.host == socket.gethostname() else f" on {owner.host}"
        raise ConfigurationError(f"process {owner.pid}{here} is the master of {found.home}: it need not be resumed")
    script = found.about.get("script")
    if not script or not Path(script).is_file():
        raise ConfigurationError(
            f"{found.home} was begun by {script or 'an interactive session'}, which is not there; start its program "
            f"with resume={str(found.home)!r}"
        )
    directory, python = str(found.about["directory"]), str(found.about["python"])
    words = [python, str(script), *found.command[1:], "--resume", str(found.home)]
    print(f"hyperflow: in {directory}: {shlex.join(words)}", file=sys.stderr, flush=True)
    try:
        os.chdir(directory)
        os.execv(python, words)  # the program gets signals and the terminal
    except OSError as error:
        raise ConfigurationError(f"cannot start it: {error}") from None


@answering
def runs_(*, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Show all runs, the newest last."""
    rows = [_described(run) for run in runs.all_runs(base_dir)]
    if as_json:
        print(json.dumps({"format": FORMAT, "base_dir": str(base_dir.absolute()), "runs": rows}, indent=2))
        return 0
    if not rows:
        raise ConfigurationError(f"there are no runs in {base_dir.absolute()}; --base-dir names another place")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("run", no_wrap=True)
    table.add_column("master", no_wrap=True)
    table.add_column("jobs", no_wrap=True, overflow="ellipsis")
    table.add_column("program", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        master = f"{row['pid']} on {row['host']}" if row["host"] else "none"
        table.add_row(*map(Text, (row["program"], master, row["jobs"], shlex.join(row["command"]))))
    print_table(table, sys.stdout)
    return 0


# ---- how it is done -------------------------------------------------------------------------------------------------


def _chosen(numbers: Sequence[int], every: bool) -> list[int] | str:
    if bool(numbers) == every:
        raise ConfigurationError("say which jobs: their numbers, as `hyperflow list` has them, or --all")
    return "all" if every else list(numbers)


def _act(what: str, which: str | None, base_dir: Path, numbers: list[int] | str, as_json: bool, **more: Any) -> int:
    run = runs.find(which, base_dir)
    note = ""
    try:
        answer = _contact(run).post(f"/{what}", numbers=numbers, **more)
        jobs = [job_from_json(job) for job in answer["jobs"]]
    except NoMaster as error:
        if what != "retry" or run.owner is not None:
            words = f"{error}, and only a master can do that; start the program again: {_resume(run)}"
            raise NoMaster(words) from None
        jobs = run.retry(numbers, **more)
        note = f"{error}; that is noted for the next one: {_resume(run)}"
    if as_json:
        print(json.dumps({"format": FORMAT, "jobs": [job_to_json(job) for job in jobs]}, indent=2))
    else:
        for job in jobs:
            print(_line(job))
        if note:
            print(note)
    return 0


def _contact(run: Run) -> Contact:
    try:
        return contact(run.home)
    except MasterElsewhere as error:
        words = ["hyperflow", *sys.argv[1:]]
        if "--run" not in words:
            words += ["--run", str(run.home)]
        raise Refused(f"{error}; type: {_ssh(error, words)}") from None


def _ssh(error: MasterElsewhere, words: Sequence[str]) -> str:
    there = [str(Path(sys.executable).with_name("hyperflow")), *words[1:]]
    return shlex.join(["ssh", error.host, shlex.join(there)])


def _line(job: JobView) -> str:
    return f"job {job.number}, {job.name}: {job.state}{f' ({job.cause})' if job.cause else ''}"


def _resume(run: Run) -> str:
    return shlex.join(["hyperflow", "resume", as_typed(run.home)])


def _described(run: Run) -> dict[str, Any]:
    owner = run.owner
    return {
        "program": run.program_id,
        "run": str(run.home),
        "host": owner.host if owner is not None else None,
        "pid": owner.pid if owner is not None else None,
        "local": run.local,
        "created": run.about.get("created"),
        "command": run.command,
        "jobs": counts_in_words(job.state for job in run.jobs()),
    }
