"""The three kinds of tests. Every test has exactly one, as its marker: `pytest -m unit`.

- `slurm` needs the cluster: it takes one of its fixtures.
- `process` starts processes: its code, or that of the helpers and fixtures that it uses, names something that does.
- `unit` is all the rest.

So nobody has to write a marker, except where a test's code does not show what it starts (`process`), or names a starter
and does not use it (`unit`). That a unit test starts no process is not believed but enforced: one that does fails.
"""

import inspect
import os
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest

KINDS = ("unit", "process", "slurm")
CLUSTER = "needs_cluster"  # the fixture

STARTERS = frozenset({
    *("Popen", "run_script", "subprocess", "create_subprocess_exec", "create_subprocess_shell", "fork", "forkpty"),
    *("start_local", "Executor"),
    *("open_cluster", "open_engine", "open_local_job", "open_probe", "run_job_local", "run_job_slurm"),
})  # fmt: skip

# What Python announces when a process is about to start. uvloop's processes are not announced; the hook at forks sees
# them.
ANNOUNCED = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec", "os.spawn"}


class StartedAProcess(BaseException):
    """A unit test starts a process. A BaseException, so that what is tested does not handle it."""

    def __str__(self) -> str:
        return f"a unit test starts a process ({self.args[0]}): mark it with pytest.mark.process, see tests/kinds.py"


class Watch:
    """Sees each process that this one starts. Python never takes such hooks back, so there is one watch for good."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.refuse = False
        sys.addaudithook(self._announced)
        os.register_at_fork(before=lambda: self.seen.append("fork"))

    def _announced(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in ANNOUNCED:
            self.seen.append(f"{event} {arguments[:2]}")
            if self.refuse:
                raise StartedAProcess(self.seen[-1])


_watch = Watch()


def starts_nothing(item: pytest.Item) -> Iterator[None]:
    """Refuse all processes while a unit test runs."""
    unit = item.get_closest_marker("unit") is not None
    _watch.seen.clear()
    _watch.refuse = unit
    try:
        yield
    finally:
        _watch.refuse = False
    if unit and _watch.seen:
        pytest.fail(str(StartedAProcess(_watch.seen[0])), pytrace=False)


def mark(items: Iterable[pytest.Item]) -> None:
    """Give every test its marker."""
    known: dict[CodeType, bool] = {}
    for item in items:
        said = [kind for kind in KINDS if item.get_closest_marker(kind)]
        if len(said) > 1:
            raise pytest.UsageError(f"{item.nodeid} is marked as {' and '.join(said)}: a test is of one kind")
        if not said:
            item.add_marker(_kind(item, known))


def _kind(item: pytest.Item, known: dict[CodeType, bool]) -> str:
    fixtures: dict[str, Any] = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 (only functions have it)
    if CLUSTER in fixtures:
        return "slurm"
    functions = [getattr(item, "function", None), *(one.func for many in fixtures.values() for one in many)]
    starts = any(starts_processes(function, known) for function in functions)
    return "process" if starts else "unit"


def starts_processes(function: Any, known: dict[CodeType, bool]) -> bool:
    """Tell whether a function's code, or that of the functions and classes of tests that it names, names a starter."""
    if isinstance(function, type):
        return any(starts_processes(member, known) for member in vars(function).values())
    if (given := getattr(function, "hypothesis", None)) is not None:
        function = given.inner_test
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(function, FunctionType) or not function.__module__.startswith(("tests.", "test_")):
        return False
    code = function.__code__
    if code not in known:
        known[code] = False  # for those that name themselves
        names = set(_names(code))
        known[code] = not names.isdisjoint(STARTERS) or any(
            starts_processes(function.__globals__.get(name), known) for name in sorted(names)
        )
    return known[code]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
