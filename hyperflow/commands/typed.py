"""What people type of an array, and the array that it means.

Guarantees: what contradicts itself is refused, and the sentence says what to type. Nothing is made, and nothing runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, cast

import attrs
from cyclopts import Parameter

from hyperflow.commands.form import Form
from hyperflow.commands.reading import read_lines, read_numbers, read_objects
from hyperflow.commands.spec import ArraySpec, Kind, Way
from hyperflow.commands.task_file import read_tasks
from hyperflow.commands.templates import escaped
from hyperflow.console.options import AT_LEAST_ONE, Resources
from hyperflow.environment import changed
from hyperflow.errors import ConfigurationError
from hyperflow.options import JobOptions, OptionChanges, Options
from hyperflow.saying import unfit_name

_VARIABLE = re.compile(r"[^=\0]+", re.DOTALL)

LONGEST_NAME = 60


@attrs.frozen
class Of:
    """What the tasks are made of."""

    each_line: Annotated[
        str | None, Parameter(help="A task for each line of a file; - for standard input.", allow_leading_hyphen=True)
    ] = None
    range: Annotated[
        str | None, Parameter(help="A task for each number: 1-1000, 1-1000:10, or 1,5,7-9.", allow_leading_hyphen=True)
    ] = None
    each_json: Annotated[
        str | None,
        Parameter(
            help="A task for each JSON object of a file: one a line, or an array; - for standard input.",
            allow_leading_hyphen=True,
        ),
    ] = None


@attrs.frozen
class Each:
    """What each task is given; in all but the resources there may be placeholders."""

    cpus: Annotated[int | None, Parameter(help="CPUs.", validator=AT_LEAST_ONE)] = None
    gpus: Annotated[float | None, Parameter(help="GPUs.")] = None
    memory: Annotated[str | None, Parameter(help="Memory: 8G, 500M, or auto.")] = None
    time_limit: Annotated[str | None, Parameter(help="After so long it is ended, and has failed: 90s, 10m, 2h.")] = None
    retries: Annotated[int | None, Parameter(help="Tries again after a failure, so many times.")] = None
    priority: Annotated[int | None, Parameter(help="A larger one comes sooner.", allow_leading_hyphen=True)] = None
    name: Annotated[
        str | None, Parameter(help="What progress and reports call the tasks; by default, the program.")
    ] = None
    env: Annotated[
        tuple[str, ...],
        Parameter(
            help="NAME=VALUE, or NAME with the value that it has here; repeat it.", negative="", show_default=False
        ),
    ] = ()
    cwd: Annotated[str | None, Parameter(help="The directory to start in; by default this one.")] = None
    stdin: Annotated[str | None, Parameter(help="A file to read from standard input.")] = None
    input: Annotated[
        tuple[str, ...],
        Parameter(
            help="A file, directory or URL that it needs; it then has a directory of its own.",
            negative="",
            show_default=False,
        ),
    ] = ()
    output: Annotated[
        tuple[str, ...], Parameter(help="A file that it makes, and that comes back.", negative="", show_default=False)
    ] = ()
    on_failure: Annotated[
        tuple[str, ...], Parameter(help="A file that comes back if it has failed.", negative="", show_default=False)
    ] = ()

    def options(self) -> dict[str, Any]:
        """Return the fields of `hf.using`; raises ConfigurationError."""
        names = ("cpus", "gpus", "memory", "time_limit", "retries", "priority", "name")
        said = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if str(said.get("time_limit", "")).isdecimal():
            said["time_limit"] = float(said["time_limit"])
        if str(said.get("memory", "")).isdecimal():
            said["memory"] = int(said["memory"])
        changed(Options(), JobOptions(), cast("OptionChanges", said))
        return said


@attrs.frozen
class Placed:
    """Where the tasks run; within an allocation, they run there if nothing is said."""

    local: Annotated[bool, Parameter(help="On this machine.", negative="")] = False
    jobs: Annotated[
        int | None, Parameter(help="In so many Slurm jobs, each with a share of the tasks.", validator=AT_LEAST_ONE)
    ] = None
    pool: Annotated[str | None, Parameter(help="On the named pool that `hyperflow pool start` has started.")] = None
    elastic: Annotated[
        int | None,
        Parameter(help="On up to so many allocations, which come and go with the work.", validator=AT_LEAST_ONE),
    ] = None
    on_error: Annotated[
        str, Parameter(help="With --jobs or --nodes, about a Slurm job that fails: hold, raise, retry:N.")
    ] = "retry:3"
    progress: Annotated[bool, Parameter(parse=False)] = True

    def way(self, resources: Resources, cpus: int) -> Way:
        """Return where they run; `cpus`: of each task. Raises ConfigurationError."""
        sbatch = resources.changes()
        given = {"--local": self.local, "--pool": self.pool, "--elastic": self.elastic, "--jobs": self.jobs}
        named = [name for name, value in given.items() if value]
        if len(named) > 1:
            raise ConfigurationError(f"{' and '.join(named)} are two places: say one")
        if sbatch and (self.local or self.pool):
            option = next(iter(sbatch)).replace("_", "-")
            raise ConfigurationError(
                f"--{option} asks Slurm for something, and {named[0]} does not: leave one of them out"
            )
        if "ntasks_per_node" not in sbatch and "cpus_per_task" not in sbatch and cpus > 1:
            sbatch["cpus_per_task"] = cpus  # else no task would fit
        if self.local:
            return Way("local", progress=self.progress)
        if self.pool:
            return Way("pool", pool=self.pool, progress=self.progress)
        if self.elastic:
            return Way("elastic", allocations=self.elastic, sbatch=sbatch, progress=self.progress)
        if self.jobs or resources.changes():
            return Way("slurm", self.jobs or 1, sbatch=sbatch, on_error=self.on_error, progress=self.progress)
        if "SLURM_JOB_ID" in os.environ:
            return Way("allocation", progress=self.progress)
        raise ConfigurationError(
            "say where the tasks are to run: --local (this machine), --nodes 2 --time 2:00:00 (a Slurm job), --jobs 5 "
            "(several), --elastic 5 (allocations that come and go), or --pool NAME"
        )


NOTHING_OF, NOTHING_EACH, NO_PLACE = Of(), Each(), Placed()


def spec_of(
    file: str | None, command: list[str] | None, of: Of, each: Each, placed: Placed, resources: Resources
) -> ArraySpec:
    """Return the array that is meant; raises ConfigurationError."""
    directory = os.getcwd()
    options = each.options()
    way = placed.way(resources, each.cpus or 1)
    sources = {"FILE": file, **{f"--{name.replace('_', '-')}": value for name, value in attrs.asdict(of).items()}}
    named = [name for name, value in sources.items() if value is not None]
    if not named:
        raise ConfigurationError(
            "say what the tasks are: --each-line FILE, --range 1-1000, --each-json FILE, or a file of tasks"
        )
    if len(named) > 1:
        raise ConfigurationError(f"{' and '.join(named)}: say one of them{_behind(file, command)}")
    if file is not None:
        if command is not None:
            raise ConfigurationError("a file of tasks has their commands; leave out what is behind --")
        _check_plain(each)
        return ArraySpec("tasks", read_tasks(file, directory), None, options, way=way, directory=directory)
    if not command:
        raise ConfigurationError(
            "the command is missing; write it behind --, as in: "
            f"hyperflow array {named[0]} {sources[named[0]]} -- ./program"
        )
    kind, values, known = _values(of)
    form = Form(
        command,
        os.path.join(escaped(directory), each.cwd or "") if each.cwd else escaped(directory),
        known,
        _variables(each.env),
        each.stdin or "",
        each.input,
        each.output,
        each.on_failure,
    )
    of_program = PurePath(command[0]).name[:LONGEST_NAME]
    if "name" not in options and form.templates["command"][0].is_plain and not unfit_name(of_program) and of_program:
        options["name"] = of_program
    return ArraySpec(kind, values, form, options, way=way, directory=directory)


def _values(of: Of) -> tuple[Kind, Any, tuple[str, ...]]:
    if of.each_line is not None:
        return "lines", read_lines(of.each_line), ("line", "n")
    if of.range is not None:
        return "numbers", read_numbers(of.range), ("n",)
    return "objects", read_objects(of.each_json or ""), ("json.*", "n")


def _behind(file: str | None, command: list[str] | None) -> str:
    return f"; does {file!r} begin the command? That stands behind --" if file is not None and command is None else ""


def _check_plain(each: Each) -> None:
    """Refuse what each task of a file says for itself."""
    for name in ("env", "cwd", "stdin", "input", "output", "on_failure"):
        if getattr(each, name):
            raise ConfigurationError(f"--{name.replace('_', '-')}: each [[task]] of a file says that for itself")


def _variables(said: Iterable[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for each in said:
        name, equals, value = each.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise ConfigurationError(f"--env {each!r}: write NAME=VALUE, or NAME")
        if not equals:
            if name not in os.environ:
                raise ConfigurationError(f"--env {name}: there is no such variable here; write {name}=VALUE")
            value = escaped(os.environ[name])
        found[name] = value
    return found
