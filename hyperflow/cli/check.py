"""The outcome of one check, and two ways to limit how long a check waits."""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import attrs

from hyperflow.errors import HyperflowError

T = TypeVar("T")


class Status(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen
class Check:
    """What one check has found. `report` describes the fields.

    Args:
        found: What other checks need of it; not for the report.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
    node: str | None = None
    seconds: float = 0.0
    data: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    found: Any = None


def ok(name: str, detail: str, node: str | None = None, **data: Any) -> Check:
    """Return a check that found no problem."""
    return Check(name, Status.OK, detail, node=node, data=data)


def skipped(name: str, reason: str, fix: str = "", node: str | None = None) -> Check:
    """Return a check that did not run."""
    return Check(name, Status.SKIPPED, reason, fix, node)


def failed(name: str, detail: str, fix: str, node: str | None = None, **data: Any) -> Check:
    """Return a check that found what will not work."""
    return Check(name, Status.FAILED, detail, fix, node, data=data)


def warning(name: str, detail: str, fix: str, node: str | None = None, **data: Any) -> Check:
    """Return a check that found what will work badly."""
    return Check(name, Status.WARNING, detail, fix, node, data=data)


async def bounded(seconds: float, name: str, node: str | None, work: Awaitable[Check], late: str = "") -> Check:
    """Return what a check finds; one that raises an error or takes too long has failed, and `late` says what to do."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            check = await work
    except TimeoutError:
        check = failed(name, f"no answer within {seconds:g} s", late, node)
    except (HyperflowError, OSError) as error:
        check = failed(name, str(error) or type(error).__name__, late, node)
    except Exception as error:  # noqa: BLE001 (a defect in one check must not hide the findings of the others)
        defect = "This is a defect of the doctor: please report it"
        check = failed(name, f"{type(error).__name__}: {error}", defect, node)
    return attrs.evolve(check, seconds=round(time.monotonic() - started, 3))


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a daemon thread; when this is cancelled, the thread is abandoned.

    Not asyncio.to_thread: Python waits for its threads at exit, so a file system that hangs would hang the command.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from now on, cancelling the waiter does not cancel it

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 (whatever it is, the caller gets it)
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    threading.Thread(target=run, name="hyperflow-doctor", daemon=True).start()
    return await asyncio.wrap_future(outcome)
