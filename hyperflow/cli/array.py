"""`hyperflow array`: many commands without a program."""

from __future__ import annotations

from cyclopts import App


def add_to(app: App) -> None:
    """Add the commands of this module."""
    app.command(array)


def array() -> int:
    """Run many commands: one for each line, number or task of a file."""
    raise NotImplementedError
