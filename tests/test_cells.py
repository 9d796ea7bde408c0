"""Background work of cells that fails. Here the end of a cell is a call of `tell`."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

import hyperflow as hf
from hyperflow import failures
from hyperflow.cells import MOST_TOLD, Watcher, watch
from hyperflow.testing import open_inline_job


async def fails(text: str) -> None:
    """Fail."""
    raise LookupError(text)


@pytest.fixture
async def watcher() -> AsyncIterator[Watcher]:
    """Watch the test's event loop."""
    one = Watcher(asyncio.get_running_loop())
    one.begin()
    yield one
    one.end()


async def settled(*tasks: "asyncio.Future[object]") -> None:
    """Wait until tasks have ended, without asking for their exceptions."""
    await asyncio.wait(tasks)
    await asyncio.sleep(0)


async def test_told_once(watcher: Watcher, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure that nobody has awaited is told at the end of the next cell, and may still be awaited."""
    task = asyncio.create_task(fails("nobody"), name="mine")
    await settled(task)
    watcher.tell()
    told = capsys.readouterr().err
    assert "task mine" in told
    assert told.count("LookupError: nobody") == 1
    watcher.tell()
    assert not capsys.readouterr().err
    with pytest.raises(LookupError):
        await task


async def test_what_was_awaited_or_cancelled_is_not_told(watcher: Watcher, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is what is still running."""
    awaited, cancelled = asyncio.create_task(fails("awaited")), asyncio.create_task(asyncio.sleep(100))
    running = asyncio.create_task(asyncio.sleep(100))
    cancelled.cancel()
    await settled(awaited, cancelled)
    with pytest.raises(LookupError):
        await awaited
    watcher.tell()
    assert not capsys.readouterr().err
    running.cancel()
    await settled(running)


async def test_what_is_forgotten_is_told_all_the_same(watcher: Watcher, capsys: pytest.CaptureFixture[str]) -> None:
    """A task that nothing refers to is told by us, not by asyncio's log."""
    await settled(asyncio.create_task(fails("forgotten")))
    gc.collect()
    watcher.tell()
    assert "LookupError: forgotten" in capsys.readouterr().err


async def test_many(watcher: Watcher, capsys: pytest.CaptureFixture[str]) -> None:
    """Of many, some are told in full and the others counted; nothing is kept of thousands that were awaited."""
    for _ in range(20):
        await asyncio.gather(*(fails(str(n)) for n in range(50)), return_exceptions=True)
    assert len(watcher._failed) < 300
    await settled(*(asyncio.create_task(fails(f"no {n}")) for n in range(MOST_TOLD + 7)))
    watcher.tell()
    told = capsys.readouterr().err
    assert told.count("LookupError: no ") == MOST_TOLD
    assert "and 7 more" in told


@hf.job
async def divided() -> object:
    """Fail on a worker."""
    return await hf.remote_eval(divmod, 1, 0)


async def test_jobs(watcher: Watcher, capsys: pytest.CaptureFixture[str]) -> None:
    """So is a job that was started and not awaited, with the call that has failed."""
    async with open_inline_job():
        await settled(divided().start())
    watcher.tell()
    assert "divmod(1, 0)" in capsys.readouterr().err


async def test_the_end_leaves_the_loop_as_it_was() -> None:
    """An earlier task factory is used, and put back; one that was put in front later is left there."""
    loop = asyncio.get_running_loop()
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: object, **options: object) -> "asyncio.Task[None]":
        made.append("one")
        return asyncio.Task(coroutine, loop=loop, **options)  # type: ignore[arg-type]

    loop.set_task_factory(factory)
    watcher = Watcher(loop)
    watcher.begin()
    await asyncio.create_task(asyncio.sleep(0))
    assert made == ["one"]
    watcher.end()
    assert loop.get_task_factory() is factory
    watcher.begin()
    loop.set_task_factory(None)
    watcher.end()
    assert loop.get_task_factory() is None
    assert failures.watcher is None


async def test_without_ipython() -> None:
    """Nothing is watched."""
    assert watch() is None
    assert asyncio.get_running_loop().get_task_factory() is None
