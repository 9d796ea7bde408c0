"""An environment that stays open for the cells of a notebook. Here each "cell" is a task with a context of its own."""

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.testing import open_inline_job
from tests.helpers import alive, block_until
from tests.support import run_script


def square(x: int) -> int:
    """Return a square."""
    return x * x


async def cell(code: Coroutine[Any, Any, Any]) -> Any:
    """Run a cell as ipykernel does: in a task, in a copy of a context that no cell can change."""
    return await asyncio.get_running_loop().create_task(code, context=contextvars.Context())


@hf.job
async def squares(n: int) -> list[int]:
    """Need an environment."""
    return await hf.remote_map(square, range(n))


@asynccontextmanager
async def started() -> AsyncIterator[hf.JobEnv]:
    """Start an inline environment in a cell of its own."""
    env = await cell(hf.start(open_inline_job(cpus=2)))
    try:
        yield env
    finally:
        await cell(env.close())


async def test_later_cells() -> None:
    """After one line, all that needs an environment works in every cell, and nothing does after the end."""

    async def uses() -> tuple[Any, ...]:
        completed = [y async for _, y in hf.as_completed(lambda x: hf.remote_eval(square, x), range(3))]
        with hf.using(retries=1) as env:
            retries = (await hf.ask()).options.retries, env.options.retries
        async with hf.with_lock("key"):
            started = hf.remote_eval(square, 5).start()
        return await squares(3), sorted(completed), retries, await started, await hf.pure(1).map(lambda x: x + 1)

    async with started():
        assert await cell(uses()) == ([0, 1, 4], [0, 1, 4], (1, 1), 25, 2)
    with pytest.raises(hf.NotInFlow, match="start_local"):
        await cell(uses())


async def test_start_local() -> None:
    """Real workers, several cells, and nothing is left after the end (the leak gate looks)."""
    env = await cell(hf.start_local(cpus=1))

    async def uses() -> list[int]:
        return await squares(4)

    try:
        assert await cell(uses()) == [0, 1, 4, 9]
        assert await cell(uses()) == [0, 1, 4, 9]
    finally:
        await cell(env.close())
    await env.close()  # again: nothing happens


async def test_an_interrupted_cell_leaves_the_environment() -> None:
    """Cancelling what a cell awaits cancels its evaluations only."""
    began = asyncio.Event()

    async def forever() -> None:
        began.set()
        await asyncio.Event().wait()

    @hf.job
    async def waits() -> None:
        await forever()

    async def uses() -> None:
        await waits()

    async def goes_on() -> list[int]:
        return await squares(2)

    async with started():
        running = asyncio.ensure_future(cell(uses()))
        await began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await cell(goes_on()) == [0, 1]


async def test_scopes_win() -> None:
    """Inside `async with open_...`, that environment is in force, and afterwards the started one again."""
    async with started() as outer, open_inline_job(cpus=1) as inner:
        assert await hf.ask() is inner

        async def asks() -> hf.Environment:
            return await hf.ask()

        assert await cell(asks()) is outer


async def test_a_forgotten_flow_of_a_cell_is_no_mistake(recwarn: pytest.WarningsRecorder) -> None:
    """A cell may make a flow that a later one awaits, or none: the warning for scripts does not come."""

    async def makes() -> None:
        await hf.pure(0)
        squares(1)
        gc.collect()

    async with started():
        await cell(makes())
    assert not [warning for warning in recwarn if issubclass(warning.category, hf.FlowNeverAwaited)]


async def test_misuse() -> None:
    """A second start, a wrong opener, a scope that is closed by hand: each says what to write."""
    async with started():
        with pytest.raises(hf.MisuseError, match=r"await env\.close\(\)"):
            await hf.start(open_inline_job())
    with pytest.raises(hf.MisuseError, match=r"start_local\(cpus=4\)"):
        await hf.start(hf.open_local_job)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with open_inline_job() as env:
        with pytest.raises(hf.MisuseError, match="async with"):
            await env.close()


async def test_another_loop_has_none() -> None:
    """The environment belongs to its event loop: in another thread's there is none."""

    async def asks() -> str:
        with pytest.raises(hf.NotInFlow):
            await hf.ask()
        return "none"

    async with started():
        assert await asyncio.to_thread(asyncio.run, asks()) == "none"


async def test_an_opener_that_fails() -> None:
    """Its error is raised by the start, and another start is possible."""

    @asynccontextmanager
    async def broken() -> AsyncIterator[hf.JobEnv]:
        raise hf.ConfigurationError("no such place")
        yield

    with pytest.raises(hf.ConfigurationError, match="no such place"):
        await hf.start(broken())
    async with started():
        assert await squares(1) == [0]


async def test_a_cancelled_start_closes_what_it_has_opened() -> None:
    """What was opened so far is closed before the cancel goes on."""
    events: list[str] = []
    opening = asyncio.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[hf.JobEnv]:
        events.append("open")
        try:
            opening.set()
            await asyncio.Event().wait()
            async with open_inline_job() as env:
                yield env
        finally:
            events.append("closed")

    starting = asyncio.ensure_future(hf.start(slow()))
    await opening.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert events == ["open", "closed"]


async def test_two_starts_at_once() -> None:
    """The second one is refused while the first is under way."""
    first = asyncio.ensure_future(hf.start(open_inline_job()))
    await asyncio.sleep(0)
    with pytest.raises(hf.MisuseError, match="already"):
        await hf.start(open_inline_job())
    await (await first).close()


def test_an_environment_whose_loop_has_ended() -> None:
    """asyncio.run closes it with its loop and removes its files; afterwards it says so, and another can be started."""

    async def starts() -> hf.JobEnv:
        env = await hf.start_local(cpus=1)
        assert await squares(2) == [0, 1]
        return env

    env = asyncio.run(starts())

    async def afterwards() -> None:
        with pytest.raises(hf.NotInFlow, match="start_local"):
            await squares(2)
        with pytest.raises(hf.HyperflowError):
            await env.run(squares(2))
        await env.close()
        assert await starts() is not env

    asyncio.run(afterwards())


def test_closing_on_another_loop() -> None:
    """It says that the environment belongs elsewhere, and leaves it open."""
    loop = asyncio.new_event_loop()
    env = loop.run_until_complete(hf.start(open_inline_job()))

    async def closes() -> None:
        await env.close()

    with pytest.raises(hf.MisuseError, match="another event loop"):
        asyncio.run(closes())
    assert loop.run_until_complete(env.run(squares(2))) == [0, 1]
    loop.run_until_complete(env.close())
    loop.close()


LOOP_ENDS = """
import asyncio, os, sys
import hyperflow as hf

async def starts():
    env = await hf.start_local(cpus=1, program=hf.ProgramInfo.new("runs"))
    return env, await hf.remote_eval(os.getpid), env.executor()

loop = asyncio.new_event_loop()
env, worker, pool = loop.run_until_complete(starts())
loop.close()

async def afterwards():
    for use in (hf.remote_eval(abs, -1), env.run(hf.remote_eval(abs, -1)), env.close()):
        try:
            await use
        except hf.HyperflowError as error:
            print(type(error).__name__, error)
    try:
        await asyncio.wrap_future(pool.submit(abs, -1))
    except RuntimeError as error:
        print(type(error).__name__, error)
    new = await hf.start_local(cpus=1)
    print(await hf.remote_eval(abs, -7))
    await new.close()

asyncio.run(afterwards())
print(worker)
"""


def test_a_loop_that_was_closed_before_its_environment(tmp_path: Path) -> None:
    """Each use of it says so, a new one works, and no process outlives the interpreter."""
    told = run_script(tmp_path, LOOP_ENDS).splitlines()
    assert len(told) == 6, told
    assert told[0].startswith("NotInFlow")
    assert told[1].startswith("NotInFlow")
    assert told[2].startswith("MisuseError env.close(): the event loop of this environment has ended before")
    assert told[3].startswith("BrokenExecutor the event loop of this executor's environment has ended")
    assert told[4] == "7"
    block_until(lambda: not alive(int(told[5])), 10, "the worker has ended")
