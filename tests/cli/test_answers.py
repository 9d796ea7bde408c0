"""What the commands have in common."""

import importlib

import pytest
from cyclopts import App

from hyperflow.cli.main import COMMANDS, command_line


@pytest.mark.parametrize("module", COMMANDS)
def test_each_module_adds_the_commands_that_lead_to_it(module: str) -> None:
    """`COMMANDS` says which module is imported for a command; it names each command, or that would not be found."""
    app = App()

    importlib.import_module(f"hyperflow.cli.{module}").add_to(app)

    added = {name for name in app if not name.startswith("-")}
    assert added == set(COMMANDS[module])


def test_all_commands_are_there_unless_one_is_typed() -> None:
    """Without a command, or with an unknown one, help and errors know all; with one, it is all that is imported."""
    everything = {name for names in COMMANDS.values() for name in names} | {"doctor"}

    assert everything <= set(command_line([])) == set(command_line(["unknown"]))
    assert everything & set(command_line(["gc", "--help"])) == {"gc", "doctor"}
