"""Waiting although cancelled, and values whose changes can be awaited."""

import asyncio

import pytest

from hyperflow.aio import Changing, settled


class Broken(Exception):
    """Why no more changes come."""


async def begun(task: asyncio.Task[object]) -> None:
    """Let a task run as far as it gets."""
    await asyncio.sleep(0)
    assert not task.done()


async def test_settled_waits_for_all_although_cancelled() -> None:
    """A cancel, and another one, does not end the wait, and is raised when all futures are done."""
    one, other = (asyncio.get_running_loop().create_future() for _ in range(2))
    calls: list[str] = []
    waiting = asyncio.ensure_future(settled(one, other, on_cancel=lambda: calls.append("hurry")))
    await begun(waiting)
    for _ in range(2):
        waiting.cancel()
        await begun(waiting)
    one.set_result(1)
    await begun(waiting)
    other.set_exception(Broken())
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert calls == ["hurry", "hurry"]
    assert isinstance(other.exception(), Broken)


async def test_settled_neither_cancels_nor_raises() -> None:
    """A cancel does not reach the future; its error is not raised; what is done already is not waited for."""
    future = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(settled(future))
    await begun(waiting)
    waiting.cancel()
    await begun(waiting)
    assert not future.cancelled()
    future.set_exception(Broken())
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await settled(future)
    await settled()
    assert isinstance(future.exception(), Broken)


async def test_settled_keeps_timeouts_right() -> None:
    """A timeout around it is still the timeout's error, not a cancel."""
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await settled(future, on_cancel=lambda: future.set_result(None))


async def test_changing_wakes_all() -> None:
    """All who wait get the new value; who is behind gets it at once; the same value again is no change."""
    number = Changing(1)
    waiting = [asyncio.ensure_future(number.changed(1)) for _ in range(3)]
    await begun(waiting[0])
    assert not number.set(1)
    await begun(waiting[0])
    assert number.set(2)
    assert await asyncio.gather(*waiting) == [2, 2, 2]
    assert await number.changed(1) == 2
    assert number.value == 2


async def test_changing_keeps_the_last() -> None:
    """Values that come faster than a waiter runs are skipped; a change back to what was seen is none."""
    number = Changing(1)
    waiting = asyncio.ensure_future(number.changed(1))
    await begun(waiting)
    number.set(2)
    number.set(1)
    await begun(waiting)
    number.set(2)
    number.set(3)
    assert await waiting == 3


async def test_changing_calls_back() -> None:
    """Each change, and a failure, is told to who has subscribed; the same value again is not. It can be looked at."""
    number = Changing(1)
    seen: list[int] = []
    number.subscribe(lambda: seen.append(number.value))
    for value in (1, 2, 2, 3):
        number.set(value)
    number.check()
    assert seen == [2, 3]
    number.fail(Broken("no more"))
    assert seen == [2, 3, 3]
    with pytest.raises(Broken):
        number.check()


async def test_changing_that_fails() -> None:
    """Who waits, and who comes later, gets the failure; but what they have not seen yet comes first."""
    number = Changing(1)
    waiting = asyncio.ensure_future(number.changed(1))
    await begun(waiting)
    number.fail(Broken("no more"))
    with pytest.raises(Broken, match="no more"):
        await waiting
    assert await number.changed(0) == 1
    with pytest.raises(Broken):
        await number.changed(1)
