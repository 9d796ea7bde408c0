"""remote_stream: values as they come, in order, once; backpressure; and what ends a stream, from both sides."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hyperflow as hf
from hyperflow import streaming
from hyperflow.config import Settings
from hyperflow.head.engine import open_engine
from hyperflow.head.fleet import NodePlan
from hyperflow.pieces import Pieces
from hyperflow.testing import open_inline_job
from hyperflow.transports.process import Local
from hyperflow.worker.producing import WINDOW
from tests.helpers import alive, wait_until
from tests.support import Gate, local, wait_at


def count(n: int) -> Iterator[int]:
    """Yield some numbers."""
    yield from range(n)


async def count_async(n: int) -> AsyncIterator[int]:
    """Do the same, and let others run."""
    for x in range(n):
        await asyncio.sleep(0)
        yield x


def endless(path: str) -> Iterator[int]:
    """Never end; say how far it has come, and by which process."""
    Path(path + ".pid").write_text(str(os.getpid()))
    x = 0
    while True:
        Path(path).write_text(str(x))
        yield x
        x += 1


async def endless_async(path: str) -> AsyncIterator[int]:
    """Do the same."""
    for x in endless(path):
        yield x


def fails_after(n: int) -> Iterator[int]:
    """Raise after some values."""
    yield from range(n)
    raise LookupError(n)


def second_time(path: str, gate: str = "") -> Iterator[str]:
    """Fail the first time; with a gate, once something was read, else before."""
    if not Path(path).exists():
        Path(path).touch()
        yield "first"
        if gate:
            wait_at(gate)
        raise LookupError(path)
    yield "second"


def dies_after(n: int) -> Iterator[int]:
    """Kill its own process."""
    yield from range(n)
    os.kill(os.getpid(), signal.SIGKILL)


def arrays(n: int) -> Iterator[Any]:
    """Yield arrays of many sizes, each filled with its number."""
    for x in range(n):
        yield np.full((10, 2_000, 200_000)[x % 3], x)


def locks() -> Iterator[Any]:
    """Yield what cannot be sent."""
    yield threading.Lock()


def no_generator(n: int) -> list[int]:
    """Return a list."""
    return list(range(n))


async def no_async_generator(n: int) -> int:
    """Return a number."""
    return n


@contextlib.asynccontextmanager
async def one_of(kind: str) -> AsyncIterator[hf.Environment]:
    """Open a job with workers, or inline."""
    async with local(cpus=2) if kind == "workers" else open_inline_job(cpus=2) as env:
        yield env


KINDS = pytest.mark.parametrize("kind", ["workers", "inline"])


@KINDS
async def test_in_order(kind: str) -> None:
    """All values come, in order, from plain and async generators, few or many, also from two streams side by side."""
    async with one_of(kind) as env:
        assert [p async for p in hf.remote_stream(count, 3)] == [0, 1, 2]
        assert [p async for p in hf.remote_stream(count, 0)] == []
        for fn in (count, count_async):
            assert [p async for p in hf.remote_stream(fn, 300)] == list(range(300))
        async with hf.remote_stream(count, 5) as one, hf.remote_stream(count_async, 5) as two:
            assert [(await anext(one), await anext(two)) for _ in range(5)] == [(x, x) for x in range(5)]
            with pytest.raises(StopAsyncIteration):
                await anext(one)
            assert one.delivered == 5
        await asyncio.sleep(0)
        if kind == "workers":
            assert not env.evaluator.pieces._open


async def test_backpressure(tmp_path: Path) -> None:
    """A generator that never ends gets ahead by so many pieces and no more; it goes on when they are read."""
    async with local(cpus=2) as env:
        for fn in (endless, endless_async):
            path = tmp_path / fn.__name__
            async with hf.remote_stream(fn, str(path)) as stream:
                assert await anext(stream) == 0
                await wait_until(lambda path=path: path.read_text() == str(WINDOW - 1), 20, "it is as far as it may be")
                for x in range(1, WINDOW + 1):
                    assert await anext(stream) == x
                await wait_until(lambda path=path: int(path.read_text() or 0) >= WINDOW, 20, "it goes on")
                assert await anext(stream) == WINDOW + 1
        await wait_until(lambda: env.statistics().cpus_free == 2, 20, "their processes have gone")


async def test_whoever_stops_ends_it(tmp_path: Path) -> None:
    """The generator's process is killed when nobody reads any more, in each way to stop."""

    async def leave(path: str) -> None:
        async for _ in hf.remote_stream(endless, path):
            break

    async def fail(path: str) -> None:
        with pytest.raises(KeyError):
            async for x in hf.remote_stream(endless, path):
                raise KeyError(x)

    async def close(path: str) -> None:
        stream = hf.remote_stream(endless, path)
        await anext(stream)
        await stream.aclose()

    async def let_go(path: str) -> None:
        await anext(hf.remote_stream(endless, path))

    async def end_its_task(path: str) -> None:
        stream = hf.remote_stream(endless, path)
        await asyncio.create_task(stream.__anext__())
        await asyncio.sleep(0)
        assert stream._running is not None
        assert stream._running.cancelled()

    async def be_cancelled(path: str) -> None:
        task = asyncio.create_task(_read_on(path))
        await wait_until(lambda: Path(path).exists(), 20, "it runs")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async with local(cpus=1) as env:
        for way in (leave, fail, close, let_go, end_its_task, be_cancelled):
            path = str(tmp_path / way.__name__)
            await way(path)
            pid = int(Path(path + ".pid").read_text())
            await wait_until(lambda pid=pid: not alive(pid), 10, f"its process is killed: {way.__name__}")
        assert await hf.remote_eval(abs, -1) == 1
        assert not env.evaluator.pieces._open


async def _read_on(path: str) -> None:
    async for _ in hf.remote_stream(endless, path):
        await asyncio.sleep(0)


@KINDS
async def test_errors_come_behind_values(kind: str) -> None:
    """What was yielded before the generator failed is read first; the error says how much that was."""
    async with one_of(kind):
        stream = hf.remote_stream(fails_after, 5)
        assert [await anext(stream) for _ in range(5)] == list(range(5))
        with pytest.raises(LookupError, match="5") as failed:
            await anext(stream)
        assert "(5 pieces of this stream had been delivered)" in failed.value.__notes__


def fails_at_once(path: str) -> Iterator[str]:
    """Fail the first time."""
    if not Path(path).exists():
        Path(path).touch()
        raise LookupError(path)
    yield "second"


@KINDS
async def test_retries(tmp_path: Path, kind: str) -> None:
    """It is tried again as long as nothing has been read."""
    async with one_of(kind):
        stream = hf.remote_stream(fails_at_once, str(tmp_path / "nothing")).using(retries=1)
        assert [p async for p in stream] == ["second"]


async def test_no_second_try_after_a_value(tmp_path: Path) -> None:
    """What came of a first try is dropped if nobody has read it; if somebody has, there is no second try."""
    async with local(cpus=1) as env:
        gate = Gate(tmp_path)
        stream = hf.remote_stream(second_time, str(tmp_path / "read"), gate.path).using(retries=2)
        assert await anext(stream) == "first"
        await gate.wait_inside()
        gate.open()
        with pytest.raises(LookupError):
            await anext(stream)
        path, pieces = str(tmp_path / "unread"), Pieces()
        running = env.evaluator.stream(streaming._producing(second_time), (path,), {}, hf.Options(retries=1), pieces)
        assert await running == 1
        assert (pieces.take(), bool(pieces)) == ("second", False)


async def test_a_worker_that_dies() -> None:
    """Its death is the stream's, behind what it had sent; the next stream is as good as ever."""
    async with local(cpus=1):
        stream = hf.remote_stream(dies_after, 3)
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(hf.WorkerDied) as died:
            await anext(stream)
        assert "(3 pieces of this stream had been delivered)" in died.value.__notes__
        assert [p async for p in hf.remote_stream(count, 2)] == [0, 1]


@KINDS
async def test_arrays(kind: str) -> None:
    """Arrays of all sizes arrive as they were, by memory that is shared or not, more than fit into it at a time."""
    async with one_of(kind):
        seen = 0
        async for array in hf.remote_stream(arrays, 60):
            assert array.shape == ((10, 2_000, 200_000)[seen % 3],)
            assert (array == seen).all()
            seen += 1
        assert seen == 60


@KINDS
async def test_misuse(kind: str) -> None:
    """What is no generator function, what cannot be sent, and two readers of one stream."""
    with pytest.raises(hf.MisuseError, match="no_async_generator has no `yield`"):
        hf.remote_stream(no_async_generator, 3)  # type: ignore[call-overload]
    with pytest.raises(hf.NotInFlow):
        await anext(hf.remote_stream(count, 3))
    async with one_of(kind):
        with pytest.raises(hf.MisuseError, match=r"no_generator\(3\) returned list"):
            await anext(hf.remote_stream(no_generator, 3))  # type: ignore[call-overload]
        with pytest.raises(hf.SerializationError, match="lock"):
            await anext(hf.remote_stream(locks))
        with pytest.raises(hf.ImpossibleRequest):
            await anext(hf.remote_stream(count, 3).using(cpus=3))
        with pytest.raises(hf.ConfigurationError):
            hf.remote_stream(count, 3).using(cpus=0)


async def test_lost_node(tmp_path: Path) -> None:
    """Where nobody has read anything, it starts again on another node; else the loss is an error that says how much."""
    program = hf.ProgramInfo.new(tmp_path / "runs")
    nodes = [NodePlan(Local(name), 1) for name in ("one", "two", "three")]
    async with open_engine(nodes, program, settings=Settings()) as engine:
        gate, pieces = Gate(tmp_path), Pieces()
        running = engine.stream(streaming._producing(waits), (gate.path,), {}, hf.Options(crash_limit=3), pieces)

        async def lose_its_node(times: int) -> None:
            await gate.wait_inside(times)
            await wait_until(lambda: bool(pieces), 20, "its first piece has come")
            (worker,) = (one for one in engine.scheduler.workers.values() if one.queue)
            engine.fleet.links[worker.node].give_up("on purpose")

        await lose_its_node(1)
        await gate.wait_inside(2)
        await wait_until(lambda: bool(pieces), 20, "it has begun again")
        assert (pieces.take(), bool(pieces)) == ("waits", False)
        pieces.arrived("not read", 0)
        await lose_its_node(2)
        with pytest.raises(hf.StreamBroken, match="after 1 of its pieces") as broken:
            await running
        assert broken.value.delivered == 1
        assert pieces.take() == "not read"


def waits(path: str) -> Iterator[str]:
    """Yield something, and wait."""
    yield "waits"
    wait_at(path)


async def test_time_limit(tmp_path: Path) -> None:
    """It counts for the whole, the reader's time included."""
    async with local(cpus=1):
        with pytest.raises(hf.TimeLimitExceeded):
            async for _ in hf.remote_stream(endless, str(tmp_path / "at")).using(time_limit=0.3):
                await asyncio.sleep(0.01)


async def test_at_home() -> None:
    """Where a failure is run again, nobody takes the pieces: they are counted."""
    assert streaming._producing(count)(3) == 3
    assert await streaming._producing(count_async)(3) == 3
    with pytest.raises(LookupError):
        streaming._producing(fails_after)(2)


def test_broken_stream_says_what() -> None:
    """The error for a lost node names the call, and how much had been read."""
    assert "after 7 of its pieces" in str(hf.StreamBroken("evaluation 3 of count(9)", "w1@n1", 7))
