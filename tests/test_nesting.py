"""Flows that await flows go deeper than Python's stack, and nobody sees that they got stacks of their own."""

import asyncio
import contextlib
import contextvars
import gc
import sys
import traceback
from collections.abc import AsyncIterator

import pytest

import hyperflow as hf
from hyperflow import nesting
from hyperflow.testing import open_inline_job

LEVELS = 3 * sys.getrecursionlimit()

variable = contextvars.ContextVar("variable", default=0)


@pytest.fixture
async def env() -> AsyncIterator[hf.JobEnv]:
    """Yield an environment."""
    async with open_inline_job() as env:
        yield env


@hf.job
async def down(levels: int) -> int:
    """Count the levels."""
    return 0 if levels == 0 else 1 + await down(levels - 1)


@hf.job
async def failing(levels: int) -> int:
    """Fail at the bottom."""
    if levels == 0:
        raise ValueError("bottom")
    return 1 + await failing(levels - 1)


@hf.job
async def waiting(levels: int, arrived: asyncio.Event, left: list[int]) -> None:
    """Wait at the bottom."""
    try:
        if levels == 0:
            arrived.set()
            await asyncio.Event().wait()
        await waiting(levels - 1, arrived, left)
    finally:
        left.append(levels)


@hf.job
async def setting(levels: int) -> int:
    """Read the variable at the bottom, and set it there."""
    if levels == 0:
        seen = variable.get()
        variable.set(seen + 1)
        return seen
    return await setting(levels - 1)


@hf.job
async def exiting(levels: int) -> None:
    """End the program at the bottom."""
    if levels == 0:
        raise SystemExit(3)
    await exiting(levels - 1)


async def through(frames: int, levels: int) -> int:
    """Await the next level through coroutines that are no flows."""
    return await (through(frames - 1, levels) if frames else winding(levels))


@hf.job
async def winding(levels: int) -> int:
    """Count the levels, by detours."""
    return 0 if levels == 0 else 1 + await through(10, levels - 1)


async def test_results(env: hf.JobEnv) -> None:
    """They come up from below, whatever stands between the flows."""
    assert await env.run(down(LEVELS)) == LEVELS
    assert await env.run(winding(LEVELS // 5)) == LEVELS // 5

    @hf.job
    async def changed(levels: int) -> int:
        return 0 if levels == 0 else await changed(levels - 1).map(lambda n: n + 1).timeout(60)

    assert await env.run(changed(LEVELS // 3)) == LEVELS // 3


async def test_side_by_side(env: hf.JobEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task has its own account of its depth."""
    monkeypatch.setattr(nesting, "LOOK_EVERY", 4)

    @hf.job
    async def lockstep(levels: int) -> int:
        await asyncio.sleep(0)
        return 0 if levels == 0 else 1 + await lockstep(levels - 1)

    assert await env.run(hf.map_concurrently(lockstep, [1500] * 4)) == [1500] * 4


async def test_error(env: hf.JobEnv) -> None:
    """It is raised at each level, and what is shown of it is short."""
    with pytest.raises(ValueError, match="bottom") as caught:
        await env.run(failing(LEVELS))
    assert len(traceback.format_exception(caught.value)) < 100
    assert any("left out" in note for note in caught.value.__notes__)


async def test_cancel(env: hf.JobEnv) -> None:
    """It reaches the bottom, and all levels end."""
    arrived, left = asyncio.Event(), list[int]()
    run = asyncio.ensure_future(env.run(waiting(LEVELS, arrived, left)))
    await arrived.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert left == list(range(LEVELS + 1))


async def test_context(env: hf.JobEnv) -> None:
    """The bottom has the variables of the top, which sees what is set there."""

    @hf.job
    async def top() -> tuple[int, int]:
        variable.set(5)
        return await setting(LEVELS), variable.get()

    assert await env.run(top()) == (5, 6)


async def test_exit(env: hf.JobEnv) -> None:
    """SystemExit can be caught at the top; the loop does not end by it."""

    @hf.job
    async def top() -> object:
        try:
            await exiting(LEVELS)
        except SystemExit as error:
            return error.code
        return None

    assert await env.run(top()) == 3


async def test_account(env: hf.JobEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that have ended are forgotten; an error leaves no garbage behind."""
    monkeypatch.setattr(nesting, "MANY_TASKS", 10)
    monkeypatch.setattr(nesting, "_forget_at", 10)
    counted: dict[int, int] = {}
    monkeypatch.setattr(nesting, "_awaits", counted)
    for _ in range(20):
        assert await env.run(hf.map_concurrently(down, [2] * 10)) == [2] * 10
    assert len(counted) < 50
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            await env.run(failing(500))
        assert not [one for one in gc.get_objects() if isinstance(one, ValueError) and one.args == ("bottom",)]
    finally:
        gc.enable()
