"""`hyperflow debug`: a failed evaluation runs again here, under pdb, or is saved to be run elsewhere.

Of `--attach`, see `post_mortem`.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hyperflow.cli import evaluations, post_mortem, records
from hyperflow.cli.answers import BASE_DIR, BaseDir, answering
from hyperflow.cli.evaluations import Named
from hyperflow.cli.records import Run
from hyperflow.debugging import capsule
from hyperflow.debugging.capsule import Capsule
from hyperflow.errors import ConfigurationError
from hyperflow.saying import printable


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(debug))


def debug(
    *words: Annotated[
        str,
        Parameter(
            help="[RUN] EVALUATION. RUN is its id, the beginning of it, or its directory; by default the newest. "
            "EVALUATION is a number, as in errors and logs; in a Cluster program JOB.NUMBER."
        ),
    ],
    save: Annotated[
        Path | None,
        Parameter(help="Do not run it; write a file that `python FILE` runs, also where there is no such run."),
    ] = None,
    attach: Annotated[
        bool,
        Parameter(
            negative="",
            help="Look at the copy of its process that using(post_mortem=True) has left, while the run goes on.",
        ),
    ] = False,
    command: Annotated[
        tuple[str, ...],
        Parameter(name=["--command", "-c"], negative="", help="With --attach: a line for pdb, instead of a prompt."),
    ] = (),
    step: Annotated[bool, Parameter(negative="", help="Open pdb at its first line, and not where it fails.")] = False,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Run a failed evaluation again here; where it fails, pdb opens.

    It gets the arguments that it had, the code as it was, and the states of the random generators. What it reads or
    writes beside that, such as files, it reads and writes now, in the directory where it did if that is here.

    The exit code is 1 if it has failed again, and 0 if it went through.
    """
    which, evaluation = evaluations.split("debug", words)
    if evaluation is None:
        raise ConfigurationError(
            "which evaluation? type hyperflow debug [RUN] EVALUATION; hyperflow show tells failures"
        )
    run = records.find(which, base_dir)
    evaluations.check(run, evaluation)
    if attach:
        return post_mortem.attach(run, evaluation, command)
    found = _find(run, evaluation)
    if save is None:
        from hyperflow.debugging import again  # noqa: PLC0415 (it imports what workers do)

        return again.run(found, step=step)
    capsule.save(found, save)
    print(f"{printable(str(save))} holds the call with its arguments. To run it again: python {shlex.quote(str(save))}")
    return 0


def _find(run: Run, evaluation: Named) -> Capsule:
    job, task = evaluation
    for number, log_dir in evaluations.log_dirs(run):
        found = capsule.find(log_dir, task) if number == job else None
        if found is not None:
            _check(run, found)
            return found
    name = evaluations.named(*evaluation)
    raise ConfigurationError(
        f"run {run.name} has kept nothing of evaluation {name}: it has not failed, or what was called could not be "
        f"sent or read, or is large, or {capsule.MOST} others had failed before; see hyperflow show "
        f"{shlex.quote(run.name)}"
    )


def _check(run: Run, found: Capsule) -> None:
    """Refuse a capsule that another run has left, if that is known."""
    if run.record is not None and run.cluster is None and found.about.program != run.record.run:
        raise ConfigurationError(
            f"what lies there as evaluation {found.about.task} is of the run {found.about.program}, not of {run.name}"
        )
