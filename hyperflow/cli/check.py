"""The outcome of one check, and the two ways to bound what a check waits for."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
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
    """What one check has found.

    Args:
        name: Which check: "ssh", "SQLite", ...
        status: How it ended.
        detail: What was found; of a skipped check, why.
        fix: What to type or to put into the configuration; "" where there is nothing to be done.
        node: The node that was looked at; None for what is not about one node.
        seconds: How long it took.
        data: The findings for programs: names to numbers, texts and lists.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
    node: str | None = None
    seconds: float = 0.0
    data: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


def ok(name: str, detail: str, node: str | None = None, **data: Any) -> Check:
    """Return a check that found everything well."""
    return Check(name, Status.OK, detail, node=node, data=data)


def skipped(name: str, reason: str, fix: str = "", node: str | None = None) -> Check:
    """Return a check that was not made."""
    return Check(name, Status.SKIPPED, reason, fix, node)


def failed(name: str, detail: str, fix: str, node: str | None = None, **data: Any) -> Check:
    """Return a check that found something that will not work."""
    return Check(name, Status.FAILED, detail, fix, node, data=data)


def warning(name: str, detail: str, fix: str, node: str | None = None, **data: Any) -> Check:
    """Return a check that found something that will work, though not well."""
    return Check(name, Status.WARNING, detail, fix, node, data=data)


async def bounded(seconds: float, name: str, node: str | None, work: Awaitable[Check], late: str = "") -> Check:
    """Return what a check finds, or that it failed: with an error, or because it took longer than this.

    Args:
        late: What to do when it takes too long.
    """
    started = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            check = await work
    except TimeoutError:
        check = failed(name, f"no answer within {seconds:g} s", late, node)
    except (HyperflowError, OSError) as error:
        check = failed(name, str(error) or type(error).__name__, late, node)
    except Exception as error:  # noqa: BLE001 (a defect in one check must not take the findings of the others along)
        check = failed(
            name, f"{type(error).__name__}: {error}", "This is a defect of the doctor: please report it", node
        )
    return attrs.evolve(check, seconds=round(time.monotonic() - started, 3))


async def in_thread(work: Callable[[], T]) -> T:
    """Run what blocks, perhaps for ever; when this is cancelled, the thread is left behind and keeps nobody.

    Not asyncio.to_thread: its threads are waited for at the end, and a file system that hangs would hang us.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # it is None only if T is

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 (whatever it is, the one who waits is told)
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=run, name="hyperflow-doctor", daemon=True).start()
    return await future
