"""What has ended keeps nothing alive: objects of failed flows die by reference counting, and flows leave no garbage.

The cycle collector is off in these tests, as it nearly is in a run (`run_in_new_loop` makes it rare). Objects are
counted, not bytes or seconds.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

import hyperflow as hf
from hyperflow.errors import HyperflowError
from hyperflow.testing import open_inline_job
from tests.support import local


class Boom(Exception):
    """What goes wrong in these tests."""


class Large:
    """Stands for 40 MB."""

    alive: ClassVar[weakref.WeakSet[Large]] = weakref.WeakSet()

    def __init__(self) -> None:
        Large.alive.add(self)


@pytest.fixture(autouse=True)
def without_the_collector() -> Iterator[None]:
    """Only reference counts free anything."""
    Large.alive.clear()
    gc.collect()
    gc.freeze()  # it looks at what comes from here on only: a look at all that was imported takes its time
    gc.disable()
    yield
    gc.enable()


def fails_remotely(x: int) -> int:
    """Fail on a worker."""
    raise Boom(x)


def identity(x: int) -> int:
    """Succeed on a worker."""
    return x


@hf.job
async def fails(x: int = 0) -> int:
    """Hold something large, and fail."""
    held = Large()
    await asyncio.sleep(0)
    raise Boom(x, id(held))


@hf.job
async def fails_beside(x: int = 0) -> int:
    """Hold something large, and fail in an evaluation."""
    held = Large()
    results = await hf.map_concurrently(lambda y: hf.remote_eval(fails_remotely, y), [x, x])
    return len(results) + id(held)


@hf.job
async def waits(x: int = 0) -> int:
    """Hold something large until it is cancelled."""
    held = Large()
    await asyncio.Event().wait()
    return id(held)


@hf.job
async def fails_in_clean_up(x: int = 0) -> int:
    """Hold something large until it is cancelled, and fail then."""
    held = Large()
    try:
        await asyncio.Event().wait()
    finally:
        raise Boom("clean-up", id(held))


@hf.job
async def gathers() -> None:
    """Reads one result after the other, and the last one fails."""
    held = Large()
    async for _ in hf.as_completed(lambda x: fails(x) if x == 2 else hf.pure(x), range(4)):
        pass
    del held


@hf.memoize("memory_of_failures")
@hf.job
async def memoized(x: int) -> int:
    """Hold something large, and fail."""
    held = Large()
    await asyncio.sleep(0)
    raise Boom(x, id(held))


@hf.job
async def locks_and_fails() -> None:
    """Hold a lock and something large, and fail."""
    held = Large()
    async with hf.with_lock("a"):
        await fails()
    del held


@hf.job
async def locks() -> None:
    """Take a lock within another one."""
    async with hf.with_lock("a"), hf.with_lock("b"):
        await asyncio.sleep(0)


FAILING: dict[str, Callable[[], hf.Flow[Any]]] = {
    "alone": fails,
    "of an evaluation": lambda: hf.remote_eval(fails_remotely, 1),
    "concurrently": lambda: hf.concurrently(fails(1), waits(2), fails_in_clean_up(3)),
    "map_concurrently": lambda: hf.map_concurrently(fails, range(3)),
    "map_concurrently with a limit": lambda: hf.map_concurrently(fails, range(3), limit=1),
    "map_concurrently of evaluations": fails_beside,
    "map_concurrently, nested": lambda: hf.map_concurrently(fails_beside, range(3)),
    "map_concurrently of a failing function": lambda: hf.map_concurrently(lambda x: [waits][x](x), range(3)),
    "replicate_concurrently": lambda: hf.replicate_concurrently(3, fails()),
    "race": lambda: hf.race(fails(1), waits(2), fails_in_clean_up(3)),
    "race that is won": lambda: hf.race(hf.pure(1), waits(2), fails_in_clean_up(3)).then(lambda _: fails()),
    "as_completed": gathers,
    "remote_map": lambda: hf.remote_map(fails_remotely, range(50)),
    "remote_map in chunks": lambda: hf.remote_map(fails_remotely, range(50), chunk_size=10),
    "retry": lambda: hf.map_concurrently(lambda x: fails(x).retry(2), range(3)),
    "retry of evaluations": lambda: hf.map_concurrently(lambda x: hf.remote_eval(fails_remotely, x).retry(2), [1]),
    "timeout": lambda: hf.map_concurrently(lambda x: fails(x).timeout(60), range(3)),
    "timeout that passes": lambda: hf.map_concurrently(lambda x: waits(x).timeout(0.01), range(3)),
    "timeout alone": lambda: waits().timeout(0.01),
    "using": lambda: hf.map_concurrently(lambda x: fails(x).using(retries=1), range(3)),
    "map and then": lambda: hf.map_concurrently(lambda x: hf.pure(x).then(fails).map(abs), range(3)),
    "memoize": lambda: memoized(1),
    "memoize side by side": lambda: hf.concurrently(memoized(1), memoized(1), memoized(2)),
    "locks": locks_and_fails,
    "a wrong flow": lambda: hf.map_concurrently(lambda x: waits() if x < 2 else x, range(3)),  # type: ignore[arg-type,return-value]
    "evaluations with a time limit": lambda: hf.remote_eval(spins).using(time_limit=0.05),
}


async def spins() -> None:
    """Never end."""
    await asyncio.Event().wait()


@asynccontextmanager
async def opened(where: str) -> AsyncIterator[hf.Environment]:
    """Open an environment of one kind."""
    async with local() if where == "workers" else open_inline_job(cpus=2) as env:
        with pytest.raises(Boom):  # what is imported or cached at the first failure
            await hf.map_concurrently(fails_beside, [1])
        yield env


async def garbage(run: Callable[[], Awaitable[object]]) -> Counter[str]:
    """Return what only the cycle collector would free after something was run three times."""
    await run()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            await run()
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        found = Counter(type(one).__qualname__ for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    return found


@pytest.mark.parametrize("where", ["inline", pytest.param("workers", marks=pytest.mark.process)])
async def test_failures_let_go(where: str) -> None:
    """When a failure was caught, all that its frames held is gone, and no cycle is left."""

    async def run(name: str) -> None:
        try:
            await FAILING[name]()
        except (Boom, TimeoutError, HyperflowError, IndexError):
            return
        pytest.fail(f"{name}: it did not fail")

    kept: dict[str, object] = {}
    async with opened(where):
        for name in FAILING:
            await run(name)
            await asyncio.sleep(0)
            alive, left = len(Large.alive), await garbage(functools.partial(run, name))
            if alive or left:
                kept[name] = alive, left
                Large.alive.clear()
    assert kept == {}


ENDING: dict[str, Callable[[], hf.Flow[Any]]] = {
    "evaluation": lambda: hf.remote_eval(identity, 1),
    "concurrently": lambda: hf.concurrently(hf.pure(1), hf.remote_eval(identity, 1)),
    "map_concurrently": lambda: hf.map_concurrently(lambda x: hf.remote_eval(identity, x), range(20)),
    "map_concurrently of many": lambda: hf.map_concurrently(lambda x: hf.remote_eval(identity, x), range(600)),
    "map_concurrently with a limit": lambda: hf.map_concurrently(hf.pure, range(20), limit=3),
    "race": lambda: hf.race(waits(), hf.pure(1)),
    "remote_map": lambda: hf.remote_map(identity, range(100)),
    "timeout": lambda: hf.remote_eval(identity, 1).timeout(60),
    "retry": lambda: hf.remote_eval(identity, 1).retry(2),
    "locks": locks,
}


@pytest.mark.parametrize("where", ["inline", pytest.param("workers", marks=pytest.mark.process)])
async def test_what_has_ended_leaves_no_garbage(where: str) -> None:
    """A map that has its results leaves nothing for the collector either."""

    async def run(name: str) -> None:
        await ENDING[name]()

    async with opened(where):
        left = {name: await garbage(functools.partial(run, name)) for name in ENDING}
    assert {name: found for name, found in left.items() if found} == {}


async def test_beside_its_results_a_map_holds_what_runs() -> None:
    """With a limit, memory does not follow the items: nothing is kept of a call that has ended."""
    submitted = weakref.WeakSet[asyncio.Future[Any]]()
    most = 0

    def make(x: int) -> hf.Flow[int]:
        nonlocal most
        most = max(most, len(submitted))
        return hf.remote_eval(identity, x)

    async with open_inline_job(cpus=2) as env:
        submit = env.evaluator.submit

        def watched(*call: Any) -> asyncio.Future[Any]:
            future = submit(*call)
            submitted.add(future)
            return future

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(env.evaluator, "submit", watched)
            assert await hf.map_concurrently(make, range(100), limit=3) == list(range(100))
    assert 1 < most <= 5


async def fails_holding(x: int = 0) -> int:
    """Hold something large on a worker, and fail."""
    held = Large()
    await asyncio.sleep(0)
    raise Boom(x, id(held))


def fails_holding_plainly(x: int = 0) -> int:
    """The same without an event loop, and with another error behind it."""
    held = Large()
    try:
        raise KeyError
    except KeyError as error:
        raise Boom(x, id(held)) from error


def alive_here() -> int:
    """Count what is large on the worker."""
    return len(Large.alive)


@pytest.mark.process
async def test_failures_let_go_on_workers() -> None:
    """What a failed function held there is gone when the next one runs."""
    async with local(cpus=1):
        await hf.remote_eval(gc.disable)
        for _ in range(3):
            for fn in (fails_holding, fails_holding_plainly):
                with pytest.raises(Boom):
                    await hf.remote_eval(fn)
                await hf.remote_map(fn, range(6), chunk_size=3, errors="return")
        assert await hf.remote_eval(alive_here) == 0


async def test_memoized_calls_leave_no_garbage() -> None:
    """A flight does not know its task when it has ended."""
    counter = iter(range(10))

    @hf.memoize("memory_of_results")
    def recorded(x: int) -> hf.Job[int]:
        return hf.remote_eval(identity, x)

    async with open_inline_job():

        async def run() -> None:
            await recorded(next(counter))

        assert await garbage(run) == {}


async def test_returned_failures_hold_nothing_large() -> None:
    """Thirty flows that failed leave thirty errors with their tracebacks, and not what the frames held."""
    async with open_inline_job(cpus=2):
        results = await hf.map_concurrently(fails, range(30), errors="return")
        assert all(isinstance(one, hf.Failed) for one in results)
        assert all(one.error.__traceback__ is not None for one in results if isinstance(one, hf.Failed))
        assert len(Large.alive) == 0


async def test_cancelled_flows_let_go() -> None:
    """Cancelling a combinator leaves no cycle either."""

    async def run() -> None:
        for make in (
            lambda: hf.map_concurrently(waits, range(3)),
            lambda: hf.race(waits(), waits()),
            lambda: hf.remote_map(lambda x: spins(), range(3)),
            lambda: hf.remote_eval(spins),
        ):
            future = make().start()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
            del future

    async with open_inline_job(cpus=1):
        await run()
        assert len(Large.alive) == 0
