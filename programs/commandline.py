"""The command line of a program, made from its main function: the signature says what there is, the docstring helps.

Guarantees: bad input is one line on standard error and exit code 2, before any work; an error of hyperflow's (a
directory that cannot be written, a database in use) is one line and exit code 1; Ctrl-C is exit code 130. An error
that nobody expected keeps its traceback.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeAlias, TypeVar

import cyclopts

import hyperflow as hf

T = TypeVar("T")

Cpus: TypeAlias = Annotated[
    int | None,
    cyclopts.Parameter(
        validator=cyclopts.validators.Number(gte=1),
        help="How many CPUs to use; by default all that this process may use.",
    ),
]
"""The type of an option --cpus."""


Slurm: TypeAlias = Annotated[
    bool,
    cyclopts.Parameter(help="Use all CPUs of the Slurm allocation that this runs in, instead of this machine's."),
]
"""The type of an option --slurm."""


def run_job(job: hf.Flow[T], cpus: int | None, program: hf.ProgramInfo | None, slurm: bool) -> T:
    """Run a job on this machine, or on the allocation; there it goes back into the queue if its time is up."""
    if slurm:
        return hf.run_job_slurm(job, program=program, requeue=True)
    return hf.run_job_local(job, cpus=cpus, program=program)


def run(main: Callable[..., int | None]) -> NoReturn:
    """Call main with what the command line says, and end the process with the exit code that it returns."""
    name = Path(sys.argv[0]).name
    app = cyclopts.App(
        name=name,
        version_flags=[],
        help_format="plaintext",
        default_parameter=cyclopts.Parameter(negative=()),  # --force needs no --no-force
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # or it would end the process in silence
    )
    app.default(main)
    try:
        code = app(exit_on_error=False, print_error=False)
    except (cyclopts.CycloptsError, hf.ConfigurationError) as error:
        code = _complain(name, error, 2)
    except hf.HyperflowError as error:
        code = _complain(name, error, 1)
    except KeyboardInterrupt:
        code = _complain(name, "interrupted", 130)
    sys.exit(code)


def _complain(name: str, error: object, code: int) -> int:
    print(f"{name}: {error}", file=sys.stderr)
    return code
