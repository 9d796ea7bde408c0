"""Bugs on purpose: each replaces a function that there is, in the processes of a run and nowhere else."""

import importlib
import os
import subprocess
import sys
from functools import reduce
from types import ModuleType

import pytest

from tests.chaos import bugs, controls
from tests.chaos.case import Case
from tests.chaos.faults import TABLES
from tests.chaos.harness import Result
from tests.chaos.oracle import Broken
from tests.chaos.promises import Promise
from tests.imports import TOP

CONTROL = controls.Control("no checksum", "entries: a digit of a value changed", Promise.RIGHT)

CASE = Case("entries", "a digit of a value changed")


def test_there_are_twelve() -> None:
    """Each bug has a control, and each control a bug, a case and a promise that the case tries."""
    cases = {case.title: case for case in TABLES}

    assert len(controls.CONTROLS) == 12
    assert {control.bug for control in controls.CONTROLS} == bugs.BUGS.keys()
    assert all(control.promise in cases[control.case].promises for control in controls.CONTROLS)


@pytest.mark.parametrize("bug", bugs.BUGS.values(), ids=bugs.BUGS.keys())
def test_each_replaces_a_function(bug: bugs.Bug) -> None:
    """It is there, and is called with what takes its place."""
    function = reduce(getattr, bug.function.split("."), importlib.import_module(bug.module))

    assert callable(function)
    assert callable(bug.make(function))


def test_what_is_replaced() -> None:
    """A method of a class, by name; the rest of the module stays."""
    module = ModuleType("module")
    exec("class A:\n    def f(self): return 1\n    def g(self): return 2", module.__dict__)

    bugs.replace(module, bugs.Bug("module", "A.f", lambda f: lambda self: f(self) + 10))

    assert (module.A().f(), module.A().g()) == (11, 2)


@pytest.mark.parametrize(("bug", "says"), [("private checks off", ""), (None, "can be written by others (mode 0777)")])
def test_in_a_process(bug: str | None, says: str) -> None:
    """A process that has it on its path has the bug if it is named, also where others import the function by name."""
    call = "objection(os.stat_result([0o40777, 0, 0, 0, os.geteuid()] + [0] * 5))"
    code = f"import os; from hyperflow.checked_files import objection; print({call})"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(controls.INSTALLED), str(TOP)])}
    env |= {bugs.VARIABLE: bug} if bug else {}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == says


@pytest.mark.parametrize(
    ("result", "found", "line"),
    [
        (Result(CASE, "1", 2.0, [Broken(Promise.RIGHT, "key 3 is 4")]), True, "red "),
        (Result(CASE, "1", 2.0, [Broken(Promise.WHOLE, "key 3 is missing")]), False, "NOT SEEN (WHOLE)"),
        (Result(CASE, "1", 2.0), False, "NOT SEEN (all held)"),
        (Result(CASE, "1", 2.0, not_run="no database"), False, "NOT SEEN (no database)"),
    ],
)
def test_the_right_promise_has_to_be_named(result: Result, found: bool, line: str) -> None:
    """Another one is not enough."""
    judged = controls.Judged(CONTROL, [result])

    assert judged.found is found
    assert judged.line().startswith(line)
    assert ("**not seen**" in controls.section([judged])) is not found
