"""What every test gets: a temporary directory of the run's own, a gate that nothing leaks through, a time limit."""

import contextlib
import faulthandler
import gc
import logging
import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import Any, cast

import hypothesis
import pytest
import uvloop
from hypothesis import Phase

from tests import kinds, leaks

# A slow machine is not a failing property. `quick` is for `make check`, `thorough` for a night (CONTRIBUTING.md).
# For `make mutants` it is enough that a test fails: looking for the smallest example takes minutes.
hypothesis.settings.register_profile("hyperflow", deadline=None, max_examples=40)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=25)
hypothesis.settings.register_profile("mutants", deadline=None, phases=[Phase.explicit, Phase.generate])
hypothesis.settings.load_profile("hyperflow")

pytest_plugins = ["tests.cluster.fixture", "tests.mpi", "tests.postgres"]

FAILED = pytest.StashKey[bool]()
TERMINAL = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the gate's one setting."""
    parser.addini("leak_grace", "seconds that what is just ending has to end, after a test", default="5")


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set a temporary directory and a mark in the environment, so that other runs here are not taken for our leaks."""
    directory = str(tmp_path_factory.mktemp("tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", directory)
        patch.setattr(tempfile, "tempdir", directory)
        patch.setenv(leaks.MARK, uuid.uuid4().hex)
        uvloop.new_event_loop().close()  # the first one opens a pipe for signals, and keeps it for the next ones
        yield


@pytest.fixture(autouse=True)
def aaa_leak_gate(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Fail a test that leaves processes, threads, file descriptors, temporary files or unseen errors behind.

    What belongs to a fixture of a wider scope was there before and is no leak. (pytest sets up the autouse fixtures of
    one file in the order of their names, and takes them down in reverse: the gate is first in and last out.)
    """
    marker = request.node.get_closest_marker("leaks")
    if marker is not None:
        if not (marker.args or marker.kwargs.get("reason")):
            pytest.fail("the marker `leaks` needs a reason")
        yield
        return
    # A unit test cannot start processes (see below), and to look for them takes longer than most unit tests do.
    is_unit = request.node.get_closest_marker("unit") is not None
    look = leaks.in_this_process if is_unit else leaks.held
    before = look()
    with _asyncio_errors() as lost:
        yield
    # A failed test may well lose errors, and its traceback keeps objects alive: only processes are still its fault.
    failed = request.node.stash.get(FAILED, False)
    look = look if not failed else dict if is_unit else leaks.processes
    left = leaks.leaked(before, float(request.config.getini("leak_grace")), look)
    leaks.kill(left)
    if left or (lost and not failed):
        pytest.fail("left behind:\n  " + "\n  ".join(sorted(left.values()) + lost), pytrace=False)


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an index of runs of its own (it is made when a run begins)."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state" / uuid.uuid4().hex))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache" / uuid.uuid4().hex))


@pytest.fixture(autouse=True)
def unit_tests_start_no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a unit test that starts a process."""
    yield from kinds.starts_nothing(request.node)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish() -> None:
    """Take what was imported out of the cycle collector's sight: many tests call it, and it would look at all that."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test its marker, before tests are selected by marker."""
    kinds.mark(items)


@contextlib.contextmanager
def _asyncio_errors() -> Iterator[list[str]]:
    """Collect what asyncio can only log: exceptions nobody retrieved, in tasks and callbacks, and tasks lost."""
    lost: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            lost.append(f"an error that only the log has seen: {record.getMessage()} {error!r}")

    handler = Collect(logging.ERROR)
    logging.getLogger("asyncio").addHandler(handler)
    try:
        yield lost
    finally:
        logging.getLogger("asyncio").removeHandler(handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember for the gate whether the test itself has failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


class TimedOut(pytest.fail.Exception, SystemExit):
    """The failure of a test that took too long. uvloop lets out of a signal handler only what is a SystemExit."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep a way to the terminal, for the last words of a run that hangs; let signals do what they do for a user."""
    for signum, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(signum) is signal.SIG_IGN:  # a shell in the background, nohup
            signal.signal(signum, usual)
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        config.stash[TERMINAL] = os.dup(2)  # sys.stderr may be something without a descriptor


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, object, object]:
    """Make pytest-timeout's alarm end uvloop's loops as well; if the clean-up then hangs, show where and give up."""
    result = yield
    ring = cast(Callable[[int, FrameType | None], None], signal.getsignal(signal.SIGALRM))

    def alarm(number: int, frame: FrameType | None) -> None:
        try:
            ring(number, frame)
        except pytest.fail.Exception as failure:
            raise TimedOut(failure.msg) from None

    signal.signal(signal.SIGALRM, alarm)
    faulthandler.dump_traceback_later(settings.timeout + 20, exit=True, file=item.config.stash[TERMINAL])
    return result


@pytest.hookimpl(wrapper=True)
def pytest_timeout_cancel_timer() -> Generator[None, object, object]:
    """The test has ended: no last words."""
    faulthandler.cancel_dump_traceback_later()
    return (yield)
