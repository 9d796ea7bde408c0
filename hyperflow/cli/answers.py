"""What the commands have in common: options, and how an error is said. All import it, so it imports little."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec, TypeAlias

from cyclopts import Parameter

from hyperflow import pages
from hyperflow.errors import HyperflowError
from hyperflow.saying import printable

P = ParamSpec("P")

REFUSED = 1
NO_MASTER = 3

BASE_DIR = Path("hyperflow-runs")

WHICH = Parameter(
    help="Its id, the beginning of it, or its directory; by default the newest run in the base directory."
)

Json: TypeAlias = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for programs.")]
BaseDir: TypeAlias = Annotated[Path, Parameter(help="The directory of the runs.")]
Which: TypeAlias = Annotated[str | None, WHICH]
RunOption: TypeAlias = Annotated[
    str | None, Parameter(name="--run", help="Its id, the beginning of it, or its directory; by default the newest.")
]


def say(error: HyperflowError) -> None:
    """Print an error, and where to read about it."""
    lines = [*f"hyperflow: {error}".splitlines(), pages.about_error(type(error))]
    print("\n".join(map(printable, lines)), file=sys.stderr)


def cancel_on_signals() -> None:
    """Let SIGTERM and SIGHUP (scancel, a closed terminal) cancel this task: it cleans up as after Ctrl-C."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)


def answering(command: Callable[P, int]) -> Callable[P, int]:
    """Make a command print an error and return its exit code, in place of raising it."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except HyperflowError as error:
            from hyperflow.control.client import NoMaster  # noqa: PLC0415 (only errors ask)

            say(error)
            return NO_MASTER if isinstance(error, NoMaster) else REFUSED
        except BrokenPipeError:  # `hyperflow list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:  # a name that is too long, a directory that may not be read
            print(f"hyperflow: {error}", file=sys.stderr)
            return REFUSED

    return run
