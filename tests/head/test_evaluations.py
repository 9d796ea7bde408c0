"""Evaluations that succeed: every kind of callable and value gets there and back."""

import functools
import os
from typing import Any

import numpy as np
import pytest

import hyperflow as hf
from tests import functions as f
from tests.support import local


async def test_kinds_of_functions() -> None:
    """Functions, async functions, lambdas, closures, partials, methods and callable objects give their results."""
    offset = 10

    def closure(x: int) -> int:
        return x + offset

    def factorial(n: int) -> int:
        return 1 if n == 0 else n * factorial(n - 1)

    async def local_async(x: int) -> int:
        return await f.add_async(x, offset)

    adder = f.Adder(10)
    async with local() as env:
        seen = {
            name: await env.run(flow)
            for name, flow in {
                "function": hf.remote_eval(f.add, 1, 10),
                "keywords": hf.remote_eval(f.add, a=1, c=10),
                "async": hf.remote_eval(f.add_async, 1, b=10),
                "builtin": hf.remote_eval(sum, [1, 10]),
                "lambda": hf.remote_eval(lambda x: x + offset, 1),
                "closure": hf.remote_eval(closure, 1),
                "local async": hf.remote_eval(local_async, 1),
                "partial": hf.remote_eval(functools.partial(f.add, 1, c=4), b=6),
                "partial of async": hf.remote_eval(functools.partial(f.add_async, b=10), 1),
                "bound method": hf.remote_eval(adder.method, 1),
                "static method": hf.remote_eval(f.Adder.static, 11),
                "callable": hf.remote_eval(adder, 1),
                "async callable": hf.remote_eval(f.AsyncAdder(10), 1),
                "method of a builtin": hf.remote_eval("a".__add__, "b"),
            }.items()
        }
        assert await hf.remote_eval(factorial, 5) == 120
        assert await hf.remote_eval(f.Adder.of_class, 3) == ("Adder", 3)
        assert type(await hf.remote_eval(f.Adder, 3)) is f.Adder
    assert seen.pop("method of a builtin") == "ab"
    assert seen == dict.fromkeys(seen, 11)


async def test_elsewhere() -> None:
    """An evaluation runs in another process, which knows its name, node, CPUs and log."""
    async with local() as env:
        info = await hf.remote_eval(hf.worker_info)
        assert await hf.remote_eval(os.getpid) != os.getpid()
        assert info.service_id == f"worker-0@{info.node}"
        assert len(info.cpus) == 1
        assert info.program_id == env.program.program_id
        assert os.path.dirname(info.log_file) == str(env.program.log_dir)
    with pytest.raises(hf.MisuseError, match="remote_eval"):
        hf.worker_info()


async def test_local_classes_keep_their_identity() -> None:
    """An instance of a class that has no importable name comes back as an instance of that very class."""

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def moved(self) -> "Point":
            return Point(self.x + 1)

    async with local() as env:
        moved = await hf.remote_eval(Point.moved, Point(1))
        again = await env.run(hf.remote_eval(lambda p: (p, type(p) is Point, p.moved()), moved))
    assert type(moved) is Point
    assert type(again[0]) is Point
    assert again[1]
    assert again[2].x == 3


async def test_large_arrays() -> None:
    """Arrays of many megabytes travel both ways, arrive writable, and are not shared with the sender."""
    array = np.arange(4_000_000, dtype=float)

    def work(a: Any) -> Any:
        assert a.flags.writeable
        a[0] = -1.0
        return a, a[::2], a.reshape(2, -1)

    async with local():
        same, half, folded = await hf.remote_eval(work, array)
    assert array[0] == 0.0
    assert same.flags.writeable
    assert (same[0], same[1], same[-1]) == (-1.0, 1.0, 3_999_999.0)
    assert half.shape == (2_000_000,)
    assert folded.shape == (2, 2_000_000)
    same[1] = 5.0


async def test_array_in_closure() -> None:
    """What a function captured is sent as it is when the function is evaluated, not as it was at first."""
    array = np.zeros(1000)

    def total() -> float:
        return float(array.sum())

    async with local():
        assert await hf.remote_eval(total) == 0.0
        array += 1.0
        assert await hf.remote_eval(total) == 1000.0


async def test_50_megabytes_at_once() -> None:
    """Large results of several workers do not get into each other's way."""
    async with local():
        got = await hf.map_concurrently(lambda n: hf.remote_eval(lambda n: bytes([n]) * 50_000_000, n), range(4))
    assert [(len(g), g[0], g[-1]) for g in got] == [(50_000_000, n, n) for n in range(4)]


async def test_ten_thousand_failures() -> None:
    """10,000 evaluations that all raise give 10,000 errors, each its own, and the run goes on."""
    seen: list[str] = []

    @hf.job
    async def caught(n: int) -> None:
        try:
            await hf.remote_eval(f.fail, str(n))
        except f.Boom as error:
            seen.append(str(error))

    async with local() as env:
        await hf.map_concurrently(caught, range(10_000))
        assert await hf.remote_eval(f.add, 1) == 1
        assert env.statistics().failed == 10_000
    assert sorted(seen, key=int) == [str(n) for n in range(10_000)]


async def test_nested_deeper_than_the_pool() -> None:
    """An awaiting job holds no CPU: flows 50 levels deep run on one."""

    @hf.job
    async def level(n: int) -> int:
        below = await level(n - 1) if n else 0
        own, beside = await hf.concurrently(hf.remote_eval(f.add, 1), hf.remote_eval(f.add, 0))
        return below + own + beside

    async with local(cpus=1):
        assert await level(50) == 51


async def test_many_distinct_functions() -> None:
    """Thousands of lambdas, each used once and dropped, are all evaluated; the nodes do not keep them."""
    made = [(lambda x, n=n: x * n) for n in range(6000)]
    async with local() as env:
        for start in range(0, 6000, 1500):
            part = made[start : start + 1500]
            got = await hf.map_concurrently(lambda fn: hf.remote_eval(fn, 2), part)
            assert got == [2 * n for n in range(start, start + 1500)]
            del part
        assert await hf.remote_eval(made[0], 1) == 0  # forgotten or not, it can be sent again
        assert len(env.evaluator._packer.definitions.known) < 6000
        assert len(env.evaluator.scheduler._estimates.seconds) < 6000


async def test_left_behind_tasks_are_cancelled() -> None:
    """What an async function leaves running does not run on into the next evaluation."""

    async def leaves(path: str) -> None:
        import asyncio

        async def later() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                print("the task was ended")

        asyncio.ensure_future(later())  # noqa: RUF006
        await asyncio.sleep(0)

    async def count() -> int:
        import asyncio

        return len(asyncio.all_tasks())

    async with local(cpus=1):
        await hf.remote_eval(leaves, "")
        assert await hf.remote_eval(count) == 1
