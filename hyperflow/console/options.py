"""The options that hyperflow adds to those of a program's function.

The function's signature defines its own options; hyperflow's are in separate groups below them. Where both have an
option, the name is the function's, and hyperflow's gets a prefix: `--hf-time`. Only --resume is always hyperflow's,
because `hyperflow resume` starts programs with it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import attrs
from cyclopts import App, Group, Parameter, validators

from hyperflow.console.interrupt import Policy
from hyperflow.errors import ConfigurationError, MisuseError
from hyperflow.options import Answer, Resubmit
from hyperflow.slurm.script import SbatchOptions

AT_LEAST_ONE = validators.Number(gte=1)
VERBOSE = Parameter(help="Print each change of a job's state.")


def _shown(words: str) -> Parameter:
    """Return the help of an option whose default the help shows, too."""
    return Parameter(help=words, show_default=True)


@attrs.frozen
class Running:
    """How to run a program."""

    local: Annotated[bool, Parameter(help="Run all jobs on this machine, without Slurm.")] = False
    base_dir: Annotated[Path, _shown("The directory of the runs, one subdirectory each; all nodes have to see it.")] = (
        Path("hyperflow-runs")
    )
    resume: Annotated[
        str | None, Parameter(help="Continue an earlier run: its id or its directory. Repeat its other arguments.")
    ] = None
    database: Annotated[
        str | None,
        Parameter(help="Start from the results in this earlier database file; or use a server: postgresql://..."),
    ] = None
    max_jobs: Annotated[
        int | None,
        Parameter(help="How many jobs may be with Slurm at a time; no limit by default.", validator=AT_LEAST_ONE),
    ] = None
    on_error: Annotated[
        str, _shown("What to do about a job that fails: hold it until you decide, raise its error, or retry:N times.")
    ] = "hold"
    on_interrupt: Annotated[
        Policy, _shown("What Ctrl-C does with jobs at Slurm: ask (without a terminal: leave), leave, cancel.")
    ] = "ask"
    mail: Annotated[
        str | None, Parameter(help="An address to mail to about each held job, with this machine's own mailer.")
    ] = None
    echo: Annotated[
        bool, Parameter(negative="", help="Show what evaluations print, each line with time, job, call and worker.")
    ] = False
    dry_run: Annotated[bool, Parameter(help="Print the batch scripts of the first jobs, and submit nothing.")] = False
    verbose: Annotated[bool, VERBOSE, Parameter(alias="-v")] = False


@attrs.frozen
class _RunningWithoutV(Running):
    """For a function that has an option -v itself."""

    verbose: Annotated[bool, VERBOSE] = False


@attrs.frozen
class Resources:
    """What to ask Slurm for; None leaves it to the program, or to the site's default."""

    time: Annotated[str | None, Parameter(help="Time limit: 2:00:00, 1-12:00:00, or minutes.")] = None
    mem: Annotated[str | None, Parameter(help="Memory of each node: 8G, or megabytes.")] = None
    mem_per_cpu: Annotated[str | None, Parameter(help="Memory of each CPU, in place of --mem.")] = None
    nodes: Annotated[int | None, Parameter(help="How many nodes.", validator=AT_LEAST_ONE)] = None
    ntasks_per_node: Annotated[int | None, Parameter(help="CPU tasks on each node.", validator=AT_LEAST_ONE)] = None
    cpus_per_task: Annotated[int | None, Parameter(help="CPUs of each of these.", validator=AT_LEAST_ONE)] = None
    partition: Annotated[str | None, Parameter(help="Partition.")] = None
    account: Annotated[str | None, Parameter(help="Account to charge.")] = None
    qos: Annotated[str | None, Parameter(help="Quality of service.")] = None
    constraint: Annotated[str | None, Parameter(help="Features that nodes must have.")] = None
    gres: Annotated[str | None, Parameter(help="Generic resources, such as gpu:1.")] = None

    def changes(self) -> dict[str, Any]:
        """Return the options that were given."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)

    def options(self) -> SbatchOptions:
        """Return them for sbatch."""
        return SbatchOptions(**self.changes())


RUNNING = Group("Options of hyperflow", sort_key=1000)
ASKED = Group("Slurm options, used where the program sets none", sort_key=1001)


def joined(fn: Callable[..., Any], run: Callable[[Callable[[], Any], Running, Resources], int]) -> Callable[..., int]:
    """Return a command that takes the arguments of a function and hyperflow's options.

    Args:
        fn: The function.
        run: Gets a call of the function, and hyperflow's options.

    Raises:
        MisuseError: The function's signature cannot be a command line.
    """
    name = str(getattr(fn, "__name__", fn))
    try:
        signature = inspect.signature(fn, eval_str=True)
    except NameError as error:
        raise MisuseError(
            f"the command line is made from the types of {name}, but {error}; import it outside of TYPE_CHECKING"
        ) from None

    def command(*args: Any, **kwargs: Any) -> int:
        running, resources = (kwargs.pop(option.name, option.default) for option in ours)
        return run(lambda: fn(*args, **kwargs), running, resources)

    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__doc__ = inspect.getdoc(fn)
    command.__name__ = name
    taken = _names(command)
    if "--resume" in taken:
        raise MisuseError(
            f"{name} has a parameter `resume`, but --resume is hyperflow's, which goes on with an earlier run by it; "
            "choose another name"
        )
    running = _RunningWithoutV() if "-v" in taken else Running()
    ours = [_flattened(running, RUNNING, taken), _flattened(Resources(), ASKED, taken)]
    theirs = list(signature.parameters.values())
    last = theirs[-1:] if theirs and theirs[-1].kind is inspect.Parameter.VAR_KEYWORD else []
    parameters = [*theirs[: len(theirs) - len(last)], *ours, *last]
    command.__signature__ = signature.replace(parameters=parameters, return_annotation=int)  # type: ignore[attr-defined]
    return command


def _names(command: Callable[..., Any]) -> set[str]:
    """Return the names of a command's options."""
    app = App()
    app.default(command)
    arguments = app.assemble_argument_collection(parse_docstring=False)
    return {name for argument in arguments for name in argument.names}


def _flattened(default: object, group: Group, taken: set[str]) -> inspect.Parameter:
    """Return a parameter for a record of hyperflow's, each of whose fields is an option."""

    def named(field: str) -> str:
        plain = field.replace("_", "-")
        return f"hf-{plain}" if f"--{plain}" in taken else plain

    options = Parameter(name="*", group=group, name_transform=named, negative=(), show_default=False)
    return inspect.Parameter(
        f"hyperflow__{type(default).__name__}",
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[type(default), options],
    )


def failure_policy(text: str) -> Answer:
    """Return the policy that `--on-error` names.

    Raises:
        ConfigurationError: There is no such policy.
    """
    match text.partition(":"):
        case ("hold" | "raise" as answer, "", ""):
            return answer
        case ("retry", ":", times) if re.fullmatch(r"[1-9]\d*", times):
            return Resubmit(int(times))
        case _:
            pass
    raise ConfigurationError(f"--on-error {text}: hold, raise, or retry:N with a number of at least 1 is needed")
