"""`hyperflow array`: many commands without a program."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import App, Group, Parameter

from hyperflow.cli.answers import BASE_DIR, BaseDir, answering, say
from hyperflow.commands import program
from hyperflow.commands.checking import check
from hyperflow.commands.program import WRONG
from hyperflow.commands.spec import ArraySpec
from hyperflow.commands.typed import NO_PLACE, NOTHING_EACH, NOTHING_OF, Each, Of, Placed, spec_of
from hyperflow.console.options import Resources
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.records import record
from hyperflow.saying import printable

COMMAND = "--the-command"
"""Stands for what is behind `--`, which is no option of ours whatever it looks like."""

MOST_REHEARSED = 10
"""Commands that --dry-run prints."""

MOST_WORDS = 200
"""Of the command line that is kept for people."""

BEGINS_WITHIN = 60.0
"""Seconds after which a detached array that is silent is left alone."""

NO_RESOURCES = Resources()

TASKS = Group("What the tasks are", sort_key=1)
EACH = Group("What each task is given", sort_key=2)
WHERE = Group("Where they run", sort_key=3)
SLURM = Group("What to ask Slurm for", sort_key=4)
RUN = Group("The run", sort_key=5)


def add_to(app: App) -> None:
    """Add the commands of this module."""
    app.command(array)


def without_command(words: Sequence[str]) -> list[str]:
    """Return the words of the command line with all that is behind the first `--` as one."""
    if words[:1] != ["array"] or "--" not in words:
        return list(words)
    at = words.index("--")
    return [*words[:at], f"{COMMAND}={json.dumps(words[at + 1 :])}"]


def array(  # noqa: PLR0913 (options that people type)
    file: Annotated[
        str | None, Parameter(help="A file of tasks, in TOML: [[task]] with name, command, after, ...", group=TASKS)
    ] = None,
    /,
    *words: Annotated[str, Parameter(show=False)],
    of: Annotated[Of, Parameter(name="*", group=TASKS)] = NOTHING_OF,
    each: Annotated[Each, Parameter(name="*", group=EACH)] = NOTHING_EACH,
    placed: Annotated[Placed, Parameter(name="*", group=WHERE)] = NO_PLACE,
    resources: Annotated[Resources, Parameter(name="*", group=SLURM)] = NO_RESOURCES,
    max_failed: Annotated[
        int | None,
        Parameter(group=RUN, help="Cancel the rest after so many failures (with --jobs: in each Slurm job)."),
    ] = None,
    base_dir: Annotated[BaseDir, Parameter(group=RUN)] = BASE_DIR,
    database: Annotated[
        str | None,
        Parameter(
            group=RUN,
            help="Start from what this earlier database file knows as done; or use a server: postgresql://...",
        ),
    ] = None,
    detach: Annotated[
        bool, Parameter(group=RUN, negative="", help="Leave it running, also after logout, and print the run's id.")
    ] = False,
    progress: Annotated[bool, Parameter(group=RUN, help="Show how it goes.")] = True,
    dry_run: Annotated[
        bool, Parameter(group=RUN, negative="", help="Print the first commands, and run nothing.")
    ] = False,
    no_check: Annotated[
        bool, Parameter(group=RUN, negative="", help="Do not ask whether programs are here: they are on the nodes.")
    ] = False,
    the_command: Annotated[str | None, Parameter(name=COMMAND, show=False)] = None,
) -> int:
    """Run many commands: one for each line, number, object or task of a file. The command stands behind `--`.

    - hyperflow array --each-line inputs.txt --nodes 2 --time 2:00:00 -- ./simulate {line} {n}
    - hyperflow array --range 1-1000 --local -- ./simulate {n}
    - hyperflow array tasks.toml --pool mine

    In the command and in what each task is given, {line} stands for the line, {n} for the number, {json.KEY} for a
    member of the object; {{ and }} for braces. A line stays one argument; there is no shell. What is done is recorded,
    and not done again by `hyperflow resume`. The exit code is 0 if all is done, 1 if some tasks have failed, were
    skipped or cancelled, 2 if nothing has run.
    """
    try:
        given = None if the_command is None else list(map(str, json.loads(the_command)))
        placed = attrs.evolve(placed, progress=progress)
        if words:
            raise ConfigurationError(_stray(file, words, given))
        spec = spec_of(file, given, of, each, placed, resources)
        spec = attrs.evolve(spec, max_failed=_at_least_one(max_failed), words=tuple(sys.argv[1 : MOST_WORDS + 1]))
        check(spec, programs=not no_check)
        if dry_run:
            return _rehearse(spec)
        spec = program.check_way(spec)
        home = program.make(spec, base_dir, database).log_dir.parent
    except HyperflowError as error:
        return _refuse(error)
    name = program.typed(home)
    what = "1 task" if spec.count == 1 else f"{spec.count:,} tasks"
    print(f"run {home.name}: {what}; hyperflow tasks {name}", file=sys.stderr, flush=True)
    del of, each
    return _detached(home) if detach else answering(program.run)(home)


def _at_least_one(count: int | None) -> int | None:
    if count is not None and count < 1:
        raise ConfigurationError(f"--max-failed {count}: a whole number of at least 1 is needed")
    return count


def _stray(file: str | None, words: Sequence[str], command: Sequence[str] | None) -> str:
    """Return what is wrong with words that belong to no option."""
    if command is None:
        return f"the command stands behind --; write: hyperflow array ... -- {shlex.join([file or '', *words])}"
    return f"{words[0]!r} belongs to no option, and there is one file of tasks at most"


def _refuse(error: HyperflowError) -> int:
    say(error)
    return WRONG


def _rehearse(spec: ArraySpec) -> int:
    """Print the first commands as a shell would take them."""
    for number in range(1, min(spec.count, MOST_REHEARSED) + 1):
        print(_as_typed(spec, number))
    print(f"# {spec.count:,} {'task' if spec.count == 1 else 'tasks'}; nothing has run", flush=True)
    return 0


def _as_typed(spec: ArraySpec, number: int) -> str:
    task = spec.task(number)
    words = ["env", *(f"{name}={value}" for name, value in task.env.items())] if task.env else []
    line = shlex.join([*words, *task.command])
    if task.cwd != os.getcwd():
        line = f"cd {shlex.quote(task.cwd)} && {line}"
    if task.stdin:
        line += f" < {shlex.quote(task.stdin)}"
    return "\n".join(map(printable, line.split("\n")))


def _detached(home: Path) -> int:
    """Have a process of its own run it; return when that has begun, or has failed to."""
    log = home / "log" / "array.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "hyperflow", "resume", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + BEGINS_WITHIN
    while process.poll() is None and not (home / "log" / record.NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.returncode:
        sys.stderr.write(log.read_text(errors="replace"))
        return process.returncode
    process.returncode = 0  # it is not ours any more
    print(home.name)
    print(f"it goes on in process {process.pid}; hyperflow wait {program.typed(home)}", file=sys.stderr)
    return 0
