"""remote_map: order, chunks, failures."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import hyperflow as hf
from tests import functions as f
from tests.support import local, notes


async def test_order_and_chunks() -> None:
    """Results come in the order of the items, whatever the chunks; one evaluation for each chunk."""
    sizes: list[Any] = ["auto", 1, 7, 1000, 10**9]
    async with local() as env:
        for chunk_size in sizes:
            before = env.statistics().done
            assert await hf.remote_map(f.add, range(1000), chunk_size) == list(range(1000))
            count = env.statistics().done - before
            assert count < 500 if chunk_size == "auto" else count == -(-1000 // chunk_size)


async def test_kinds_of_functions() -> None:
    """Async functions, also behind a lambda or in an object, and callable objects can be mapped."""
    kinds: list[Any] = [f.add_async, lambda x: f.add_async(x, 0), f.AsyncAdder(0), f.Adder(0), f.Adder(0).method]
    async with local():
        for fn in kinds:
            assert await hf.remote_map(fn, range(50)) == list(range(50))
            assert await hf.remote_map(fn, iter(range(50)), 8) == list(range(50))


async def test_nothing_to_do() -> None:
    """No items, no evaluations."""
    async with local() as env:
        assert await hf.remote_map(f.add, []) == []
        assert await hf.remote_map(f.add, iter(())) == []
        assert env.statistics().done == 0


async def test_items_are_taken_as_needed() -> None:
    """A generator is read a little ahead of the results, not to its end at once; what it raises is raised."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n
        raise f.Boom("no more")

    async with local(cpus=1) as env:
        with pytest.raises(f.Boom, match="no more"):
            await hf.remote_map(f.add, items(), 1)
        assert len(taken) == 100
        assert env.statistics().done > 90


@pytest.mark.parametrize("fn", ["sync", "async"])
async def test_failing_item(fn: str) -> None:
    """The first failure is raised itself; its notes name the item; the rest is cancelled and the run goes on."""

    def fails(x: str) -> None:
        raise f.Boom("it failed")

    async def fails_later(x: str) -> None:
        raise f.Boom("it failed")

    def one_fails(x: str) -> str:
        return fails(x) if x == "item 37" else x  # type: ignore[func-returns-value,return-value]

    async def one_fails_later(x: str) -> str:
        await f.add_async(1)
        return await fails_later(x) if x == "item 37" else x  # type: ignore[func-returns-value,return-value]

    sizes: list[Any] = [1, 10, "auto"]
    async with local():
        for chunk_size in sizes:
            mapped = one_fails if fn == "sync" else one_fails_later
            with pytest.raises(f.Boom, match="it failed") as caught:
                await hf.remote_map(mapped, [f"item {n}" for n in range(80)], chunk_size)
            assert "in remote_map, for the item 'item 37'" in notes(caught.value)
            assert "one_fails" in notes(caught.value)
            assert await hf.remote_eval(f.add, 1) == 1


async def test_all_items_fail() -> None:
    """Failures in the same moment as the first are seen, not left to asyncio's log (the leak gate looks there)."""
    async with local():
        for _ in range(5):
            with pytest.raises(f.Boom):
                await hf.remote_map(f.fail, map(str, range(100)), 1)


async def test_items_that_resist() -> None:
    """An item whose repr fails and an exception that takes no notes do not hide the failure itself."""

    class Shy:
        def __repr__(self) -> str:
            raise ValueError("no repr")

    async with local():
        with pytest.raises(f.Boom):
            await hf.remote_map(lambda x: f.fail(), [Shy()])
        with pytest.raises(f.Frozen):
            await hf.remote_map(lambda x: f.fail_with(f.Frozen), [1])


async def test_uneven_items() -> None:
    """Automatic chunks follow the items: a few slow ones among thousands of quick ones do not hold up the others."""

    def uneven(n: int) -> int:
        f.spin(0.05 if n % 1000 == 999 else 0.0)
        return os.getpid()

    async with local():
        pids = Counter(await hf.remote_map(uneven, range(5000)))
    assert len(pids) == 2
    assert min(pids.values()) > 100


async def test_map_of_a_crash() -> None:
    """A chunk whose worker dies is WorkerDied; with retries it is run again."""
    async with local():
        with pytest.raises(hf.WorkerDied):
            await hf.remote_map(lambda n: f.die_if(n, 50), range(100), 10)
        assert await hf.remote_map(f.add, range(100)).using(retries=1) == list(range(100))


@pytest.mark.parametrize("chunk_size", [0, -1, 1.5, "2", True, None])
def test_chunk_sizes_that_make_no_sense(chunk_size: Any) -> None:
    """A chunk size that is none is refused when the flow is made."""
    with pytest.raises(hf.ConfigurationError, match="chunk_size="):
        hf.remote_map(f.add, [1], chunk_size)
