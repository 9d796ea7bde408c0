"""Processes of a node that stop for good, and do not end. The head has to notice by their silence."""

import functools
import signal

from tests.chaos.case import Case
from tests.chaos.faults.processes import MOMENTS, NODE, members
from tests.chaos.run import Run

SILENT = {"launcher": ("launcher",), "keeper and launcher": ("keeper", "launcher"), "all of the node": NODE}


def impatient(run: Run) -> None:
    """Let the head give a node up after a few seconds."""
    run.environment |= {"HYPERFLOW_HEARTBEAT": "0.5", "HYPERFLOW_NODE_TIMEOUT": "4"}


def stop(run: Run, roles: tuple[str, ...], moment: str) -> None:
    """Stop all processes of some roles, for good."""
    MOMENTS[moment](run)
    for process in members(run, roles):
        process.signal(signal.SIGSTOP)


TABLE = tuple(
    Case(
        table="silence",
        name=f"{name} STOP for good {moment}",
        before=impatient,
        attack=functools.partial(stop, roles=roles, moment=moment),
        told="nothing was heard of it",
    )
    for name, roles in SILENT.items()
    for moment in ("at work",)
)
