"""`hyperflow tasks`, `output` and `wait`: what became of the tasks of an array."""

from __future__ import annotations

from cyclopts import App


def add_to(app: App) -> None:
    """Add the commands of this module."""
    for command in (tasks, output, wait):
        app.command(command)


def tasks() -> int:
    """Show the tasks of an array: state, exit code, seconds, memory, node, tries."""
    raise NotImplementedError


def output() -> int:
    """Print what tasks have written, in the order of their numbers."""
    raise NotImplementedError


def wait() -> int:
    """Wait until a run has ended; the exit code is 0 if all is done."""
    raise NotImplementedError
