"""CPython's own tests of executors, on hf.Executor: their mixins, from the standard library's test package.

Some Pythons come without that package; then these tests are skipped. Not taken over, and why:

| tests of the process pool | why |
|---|---|
| test_killed_child, all of ExecutorDeadlockTest | there a crash breaks the pool; here only its own future |
| test_traceback | the remote traceback is a note of the exception, and not its cause |
| test_processes_terminate, test_saturation, test_idle_..., test_max_tasks_... | about the pool's own processes |
| test_context_manager_shutdown, test_del_shutdown, test_shutdown_no_wait | they make a pool and join its threads |
| test_max_workers_too_large | about Windows |
| test_ressources_gced_in_workers, test_python_finalization_error | about multiprocessing's manager, and its threads |

Adapted: what a worker prints is in its log and not on standard output, so functions whose output a test reads write to
the standard output of the main program; and workers start in the background, so the test that cancels waits until one
has begun.
"""

import concurrent.futures as cf
import importlib
import os
import sys
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

import hyperflow as hf
from tests.helpers import block_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

WHY = f"Python {sys.version.split()[0]} was installed without test.test_concurrent_futures"


def _theirs(module: str) -> Any:
    """Return a module of CPython's tests; before Python 3.12 all of them are one."""
    try:
        package = importlib.import_module("test.test_concurrent_futures")
        return importlib.import_module(f"{package.__name__}.{module}") if hasattr(package, "__path__") else package
    except ImportError:
        pytest.skip(WHY, allow_module_level=True)


util, executor, shutdown = _theirs("util"), _theirs("executor"), _theirs("test_shutdown")
wait, as_completed = _theirs("test_wait"), _theirs("test_as_completed")
init, process_pool = _theirs("test_init"), _theirs("test_process_pool")


class HyperflowExecutor(hf.Executor):
    """With what the tests look for in the private parts of the standard library's executors."""

    @property
    def _broken(self) -> str:
        return self._dispatcher._ended


class Begun(HyperflowExecutor):
    """Something runs when `submit` returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> cf.Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        block_until(lambda: self._dispatcher._running or future.done(), 20, "something runs")
        return future


class Ours(util.ExecutorMixin):
    """Makes the executor for each test."""

    executor_type = HyperflowExecutor


class Base(unittest.TestCase):
    """The leak gate of our own tests looks after each of them."""


class ExecutorTest(Ours, executor.ExecutorTest, Base):
    """submit, map, references."""


class TestMapChunksize(Ours, Base):
    """map(chunksize=...), which only the process pool has."""

    test_map_chunksize = process_pool.ProcessPoolExecutorTest.test_map_chunksize


class WaitTest(Ours, wait.WaitTests, Base):
    """concurrent.futures.wait."""


class AsCompletedTest(Ours, as_completed.AsCompletedTests, Base):
    """concurrent.futures.as_completed."""


class InitializerTest(init.InitializerMixin, Base):
    """An initializer."""

    executor_type = HyperflowExecutor


class FailingInitializerTest(init.FailingInitializerMixin, Base):
    """An initializer that fails."""

    executor_type = HyperflowExecutor


PRINTS = (
    "import os, time; sleep_and_print = lambda t, said, to=f'/proc/{os.getpid()}/fd/1': "
    "(time.sleep(t), open(to, 'w').write(said))"
)


def _adapted(source: str) -> str:
    """Return a script of theirs with our executor, and a function that prints where the test reads."""
    lines = source.splitlines()
    for place, line in enumerate(lines):
        indent = line[: len(line) - len(line.lstrip())]
        if "import HyperflowExecutor" in line or "import ThreadPoolExecutor" in line:
            lines[place] = f"{indent}from hyperflow import Executor as {line.split()[-1]}"
        elif "import sleep_and_print" in line:
            lines[place] = indent + PRINTS
    return "\n".join(lines)


class ShutdownTest(Ours, shutdown.ExecutorShutdownTest, Base):
    """shutdown, and the end of the interpreter."""

    def setUp(self) -> None:
        assert_python_ok = shutdown.assert_python_ok

        def run(flag: str, source: str) -> Any:
            return assert_python_ok(flag, _adapted(source), PYTHONPATH=os.pathsep.join(sys.path))

        patch = mock.patch.object(shutdown, "assert_python_ok", run)
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()

    test_cancel_futures = None  # below
    test_cancel_futures_wait_false = shutdown.ThreadPoolShutdownTest.test_cancel_futures_wait_false


class CancelTest(Ours, Base):
    """shutdown(cancel_futures=True) when work has begun."""

    executor_type = Begun
    test_cancel_futures = shutdown.ExecutorShutdownTest.test_cancel_futures
