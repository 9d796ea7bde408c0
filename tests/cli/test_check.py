"""Outcomes of checks: what ends in time, and what does not."""

import asyncio
import threading
import time

import pytest

from hyperflow.cli.check import Check, Status, bounded, in_thread, ok
from hyperflow.errors import SlurmError


async def test_a_check_that_ends_is_returned() -> None:
    """What a check finds is handed on, with the time that it took."""

    async def find() -> Check:
        await asyncio.sleep(0)
        return ok("ssh", "fine", "node1")

    check = await bounded(5, "ssh", "node1", find())

    assert (check.status, check.detail, check.node) == (Status.OK, "fine", "node1")
    assert 0 <= check.seconds < 5


async def test_a_check_that_takes_too_long_has_failed() -> None:
    """After the bound, the check has failed and says what to do."""

    async def find() -> Check:
        await asyncio.Event().wait()
        raise AssertionError

    check = await bounded(0.01, "ssh", "node1", find(), "look there")

    assert (check.name, check.status, check.node) == ("ssh", Status.FAILED, "node1")
    assert check.detail == "no answer within 0.01 s"
    assert check.fix == "look there"


@pytest.mark.parametrize(
    ("error", "detail"),
    [(SlurmError("no record"), "no record"), (OSError(28, "disk full"), "disk full"), (KeyError("x"), "KeyError: 'x'")],
)
async def test_an_error_is_a_failed_check(error: Exception, detail: str) -> None:
    """Whatever a check raises is its outcome, and takes the others along by no means."""

    async def find() -> Check:
        raise error

    check = await bounded(5, "Slurm", None, find())

    assert check.status is Status.FAILED
    assert detail in check.detail


async def test_a_thread_hands_on_results_and_errors() -> None:
    """What blocks runs beside the loop, and its result or error arrives."""

    def fail() -> None:
        raise ValueError("no")

    assert await in_thread(lambda: threading.current_thread().daemon)
    with pytest.raises(ValueError, match="no"):
        await in_thread(fail)


async def test_nobody_waits_for_a_thread_that_hangs() -> None:
    """What hangs is left behind when its time is up; what it says later disturbs nobody."""
    hold = threading.Event()
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await in_thread(lambda: hold.wait(30))

    assert time.monotonic() - started < 10
    hold.set()
