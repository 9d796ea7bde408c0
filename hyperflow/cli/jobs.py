"""Commands about the jobs of a program: list, why, retry, cancel, give-up, resume.

Commands that change something ask the running master. Commands that only show something work without one, and say so.
Exit codes: 0, done; 1, refused, with the reason; 3, it needs a master and none runs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import App, Parameter

from hyperflow.cli import array_resume, elsewhere, pool_runs, runs
from hyperflow.cli.answers import BASE_DIR, BaseDir, Json, RunOption, Which, answering
from hyperflow.cli.runs import Run
from hyperflow.console.options import Resources
from hyperflow.console.table import (
    counts_in_words,
    held_in_words,
    jobs_table,
    print_note,
    print_table,
    resume_command,
    width_of,
)
from hyperflow.control.client import MasterElsewhere, NoMaster, Refused, Silent, contact, owner
from hyperflow.errors import ConfigurationError
from hyperflow.master.lifecycle import State
from hyperflow.master.view import FORMAT, JobView, job_from_json, job_to_json

LEAVING_SECONDS = 60.0
"""How long a program may take to leave after SIGTERM."""

MOST_SHOWN = 10
"""How many jobs a sentence names."""

NO_RESOURCES = Resources()

Numbers: TypeAlias = Annotated[int, Parameter(help="The jobs.")]


def _every(which: str) -> Parameter:
    return Parameter(name="--all", negative="", help=which)


def add_to(app: App) -> None:
    """Add the commands to the command line."""
    commands: list[Callable[..., int]] = [list_, why, retry, cancel, give_up, resume]
    for command in commands:
        app.command(answering(command))


def list_(run: Which = None, *, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Show the jobs of a program."""
    found = runs.find(run, base_dir)
    jobs, answer, note = jobs_of(found)
    if as_json:
        about = {"run": str(found.home), "program": found.program_id, "master": answer is not None, "note": note}
        return _print_json(**about, jobs=[job_to_json(job) for job in jobs])
    print_note(f"run {found.program_id}: {counts_in_words(job.state for job in jobs)}", sys.stdout)
    if jobs:
        print_table(jobs_table(jobs, time.time(), width=width_of(sys.stdout), slurm=not found.local), sys.stdout)
    if note:
        print_note(note, sys.stdout)
    if answer is not None and (unmatched := answer["unmatched"]):
        numbers = ", ".join(map(str, unmatched[:10])) + (", ..." if unmatched[10:] else "")
        words = "of an earlier start, and not asked for by the program so far (was it edited?)"
        print_note(f"{words}: {numbers}", sys.stdout)
    if answer is not None and (held := held_in_words(jobs)):
        print_note(held, sys.stdout)
    return 0


def why(
    number: Annotated[
        int | None, Parameter(help="The job, as `hyperflow list` has it; by default the one that is held.")
    ] = None,
    /,
    *,
    run: RunOption = None,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Show all that is known about a job: why it waits or is held, the end of its log, and what to type."""
    found = runs.find(run, base_dir)
    number = _the_one(found) if number is None else number
    text, traceback, note = why_of(found, number)
    if as_json:
        return _print_json(run=str(found.home), number=number, why=text, traceback=traceback, note=note)
    print(text, *([note] if note else []), sep="\n")
    return 0


def retry(
    *words: Annotated[str, Parameter(help="The jobs; with --tasks, the run.")],
    every: Annotated[
        bool, _every("All held jobs; while no master runs, also those whose error the program has received.")
    ] = False,
    restart: Annotated[
        bool,
        Parameter(negative="", help="End the running program, and start it again, so that jobs get its new code."),
    ] = False,
    resources: Annotated[Resources, Parameter(name="*")] = NO_RESOURCES,
    tasks: Annotated[
        str | None,
        Parameter(help="Of an array that has ended, run these tasks again that are not done: failed, or 3,17-20."),
    ] = None,
    run: RunOption = None,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Submit held, failed or cancelled jobs again, with other resources if you name some; or tasks of an array.

    While no master runs, this is recorded for the next one: `hyperflow resume`. A running program has its code in
    memory: if you have edited it, use --restart; its other jobs stay with Slurm meanwhile.

    Of an array, run tasks again: `hyperflow retry RUN --tasks failed`.
    """
    if tasks is not None:
        return array_resume.retry(_one_run(words, run), base_dir, tasks)
    numbers = _numbers(words)
    if restart:
        found, chosen = runs.find(run, base_dir), _chosen(numbers, every)
        found.check_retry(chosen)
        _end_master(found)
        found.retry_all_of(chosen, resources.changes())
        return resume(str(found.home))
    return _act("retry", run, base_dir, _chosen(numbers, every), as_json, changes=resources.changes())


def cancel(
    *numbers: Numbers,
    every: Annotated[bool, _every("All queued and running jobs.")] = False,
    run: RunOption = None,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """End jobs at Slurm, or remove them from its queue; then they are held, and you can retry them or give them up.

    Works without a master, too: then the jobs are found at Slurm by their tokens.
    """
    return _act("cancel", run, base_dir, _chosen(numbers, every), as_json)


def give_up(
    *numbers: Numbers,
    every: Annotated[bool, _every("All held jobs.")] = False,
    run: RunOption = None,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Raise the errors of held jobs in the program, which ends with them unless it handles them."""
    return _act("give_up", run, base_dir, _chosen(numbers, every), as_json)


def resume(run: Which = None, *, base_dir: BaseDir = BASE_DIR) -> int:
    """Start a program again whose master has ended; it continues where it was. So with an array.

    It starts in its old directory, with the Python and the command line that it had, and with --resume. A program that
    ran a job on a pool is told by a variable which run to go on with, and starts with the Python of this command. Of an
    array, this command runs the tasks that are not done.
    """
    if (home := array_resume.find(run, base_dir)) is not None:
        return array_resume.go_on(home)
    if (home := pool_runs.find(run, base_dir)) is not None:
        return pool_runs.resume(home)
    found = runs.find(run, base_dir).checked()  # its file says what is started
    if (master := owner(found.home)) is not None:
        here = "" if master.host == socket.gethostname() else f" on {master.host}"
        raise ConfigurationError(f"process {master.pid}{here} is the master of {found.home}: it need not be resumed")
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


# ---- how it is done -------------------------------------------------------------------------------------------------


def _one_run(words: Sequence[str], run: str | None) -> str | None:
    if len(words) + (run is not None) > 1:
        raise ConfigurationError("--tasks is about one run; write: hyperflow retry RUN --tasks failed")
    return words[0] if words else run


def _numbers(words: Sequence[str]) -> list[int]:
    wrong = [word for word in words if not re.fullmatch(r"-?\d+", word, re.ASCII)]
    if wrong:
        raise ConfigurationError(
            f"{wrong[0]!r} is no number of a job; of a run, write: --run {wrong[0]}; of tasks of an array: "
            f"hyperflow retry {wrong[0]} --tasks failed"
        )
    return list(map(int, words))


def _chosen(numbers: Sequence[int], every: bool) -> list[int] | str:
    if bool(numbers) == every:
        raise ConfigurationError("say which jobs: their numbers, as `hyperflow list` has them, or --all")
    return "all" if every else list(numbers)


def _the_one(run: Run) -> int:
    """Return the number of the job that somebody asks about who names none: the one that is held, or has failed."""
    jobs = run.jobs()
    for state in (State.HELD, State.FAILED):
        found = [job for job in jobs if job.state is state]
        if len(found) == 1:
            return found[0].number
        if found:
            names = "".join(f"\n  hyperflow why {job.number}  # {job.name}" for job in found[:MOST_SHOWN])
            more = f"\n  and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
            raise ConfigurationError(f"{len(found)} jobs are {state}; say which:{names}{more}")
    raise ConfigurationError("no job is held or has failed; say which one: hyperflow why NUMBER, as `list` has it")


def _ask(run: Run, path: str, *command: str) -> tuple[dict[str, Any] | None, str]:
    """Ask the master; return its answer or None, and then a note: why what is shown comes from the run's files.

    Args:
        path: What to get.
        command: The command that asks the same on the master's host.
    """
    try:
        return contact(run.home).get(path), ""
    except MasterElsewhere as error:
        return None, f"{error}; this is from its files. There: {_ssh(error, command)}"
    except Silent as error:
        return None, f"{error}; this is from its files"
    except NoMaster as error:
        if run.finished and owner(run.home) is None:
            return None, "the program has finished; this is from its files"
        left = "this is from its files, as the last master left them"
        return None, f"{error}; {left}. To go on: {resume_command(run.home)}"


def jobs_of(run: Run) -> tuple[list[JobView], dict[str, Any] | None, str]:
    """Return the jobs of a run, what its master answered if one did, and a note if they come from the files."""
    answer, note = _ask(run, "/jobs", "list", str(run.home))
    return run.jobs() if answer is None else [job_from_json(job) for job in answer["jobs"]], answer, note


def why_of(run: Run, number: int) -> tuple[str, str, str]:
    """Return all that is known about a job, the traceback of its error by itself, and a note as `jobs_of` does."""
    answer, note = _ask(run, f"/jobs/{number}/why", "why", str(number), "--run", str(run.home))
    if answer is None:
        return *run.why(number, running=owner(run.home) is not None), note
    return (
        answer["why"],
        answer.get("traceback", ""),
        note,
    )  # a master of an earlier version says nothing of a traceback


def order(what: str, run: Run, numbers: list[int] | str, **more: Any) -> tuple[list[JobView], str]:
    """Give an order about jobs to the master, wherever it runs, or note it for the next one; return them and a note.

    Raises:
        HyperflowError: It is refused, or needs a master and none runs.
    """
    try:
        answer = contact(run.home).post(f"/{what}", numbers=numbers, **more)
    except MasterElsewhere as error:
        printed = elsewhere.carry_out(error.host, _as_words(what, run, numbers, **more), error)
        told: dict[str, Any] = json.loads(printed)
        return [job_from_json(job) for job in told["jobs"]], told.get("note", "")
    except NoMaster as error:
        return _without_master(what, run, numbers, error, **more)
    note = ""
    if edited := answer.get("edited"):
        which = "--all" if numbers == "all" else " ".join(map(str, numbers))
        note = (
            f"note: {', '.join(edited)} was edited after the program started, which has its old code in memory, "
            f"and runs that. For the new code, type: hyperflow retry {which} --restart"
        )
    return [job_from_json(job) for job in answer["jobs"]], note


def _without_master(
    what: str, run: Run, numbers: list[int] | str, error: NoMaster, **more: Any
) -> tuple[list[JobView], str]:
    again = resume_command(run.home)
    if what == "give_up" or owner(run.home) is not None:
        raise NoMaster(f"{error}, and only a master can do that; start the program again: {again}") from None
    if what != "cancel":
        return run.retry(numbers, **more), f"{error}; that is noted for the next one: {again}"
    jobs, finished = run.cancel(numbers)
    ended = "they have ended with it" if run.local else "they were ended at Slurm"
    left = f"{_jobs(finished)} had left a result before, which waits for the next master: {again}"
    said = [f"{ended}, and are held"] * bool(jobs) + [left] * bool(finished)
    return jobs, "; ".join([str(error), *said])


def _act(what: str, which: str | None, base_dir: Path, numbers: list[int] | str, as_json: bool, **more: Any) -> int:
    jobs, note = order(what, runs.find(which, base_dir), numbers, **more)
    if as_json:
        return _print_json(jobs=[job_to_json(job) for job in jobs], note=note)
    for job in jobs:
        print(f"job {job.number}, {job.name}: {job.state}{f' ({job.cause})' if job.cause else ''}")
    if note:
        print(note)
    return 0


def _as_words(what: str, run: Run, numbers: list[int] | str, changes: Mapping[str, Any] | None = None) -> list[str]:
    """Return an order as it is typed."""
    which = ["--all"] if numbers == "all" else list(map(str, numbers))
    resources = [f"--{name.replace('_', '-')}={value}" for name, value in (changes or {}).items()]
    return [what.replace("_", "-"), *which, *resources, "--run", str(run.home), "--json"]


def _jobs(numbers: Sequence[int]) -> str:
    return f"job{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _end_master(run: Run) -> None:
    """End the program that runs on a run, if one does, and wait until it has left; its jobs stay with Slurm."""
    master = owner(run.home)
    if master is None:
        return
    if master.host != socket.gethostname():
        raise MasterElsewhere(master.host, master.pid)
    print(f"hyperflow: ending process {master.pid}, which runs the program", file=sys.stderr)
    os.kill(master.pid, signal.SIGTERM)
    deadline = time.monotonic() + LEAVING_SECONDS
    while owner(run.home) is not None:
        if time.monotonic() > deadline:
            raise Refused(
                f"process {master.pid} has not ended within {LEAVING_SECONDS:g} s; end it, and type that again"
            )
        time.sleep(0.05)


def _print_json(**members: Any) -> int:
    print(json.dumps({"format": FORMAT, **members}, indent=2))
    return 0


def _ssh(error: MasterElsewhere, words: Sequence[str]) -> str:
    there = [str(Path(sys.executable).with_name("hyperflow")), *words]
    return shlex.join(["ssh", error.host, shlex.join(there)])
