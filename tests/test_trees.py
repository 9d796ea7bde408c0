"""tree_reduce: the order is kept, groups follow from places, little is kept, and errors are those of the flows."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest

import hyperflow as hf
from hyperflow.testing import open_inline_job
from tests.helpers import wait_until


def join(a: str, b: str) -> str:
    """Put two neighbours into brackets: associative but for the brackets, which show the groups."""
    return f"({a}{b})"


def concatenate(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Be associative, and not commutative."""
    return a + b


async def test_order_is_kept() -> None:
    """Whatever their number and the fan-in, the values come together in their order."""
    async with open_inline_job(cpus=3):
        for count, fan_in in itertools.product((1, 2, 3, 4, 5, 8, 9, 27, 28, 65), (2, 3, 8)):
            xs = [(x,) for x in range(count)]
            assert await hf.tree_reduce(concatenate, xs, fan_in) == tuple(range(count)), (count, fan_in)


async def test_groups_follow_from_places() -> None:
    """Who ends first does not matter for who is reduced with whom."""

    @hf.job
    async def late(x: str, turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return x

    async with open_inline_job(cpus=3):
        for turns in ((0, 0, 0, 0, 0), (50, 0, 0, 0, 0), (0, 40, 0, 20, 0), (9, 7, 5, 3, 1)):
            xs = [late(x, n) for x, n in zip("abcde", turns, strict=True)]
            assert await hf.tree_reduce(join, xs, fan_in=2) == "(((ab)(cd))e)"
        assert await hf.tree_reduce(join, iter("abcdefg"), fan_in=3) == "((((ab)c)((de)f))g)"


async def test_reduces_as_results_come() -> None:
    """What is there is reduced while another value is still missing, and values and flows may be mixed."""
    seen: list[tuple[int, ...]] = []

    def note(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
        seen.append(a + b)
        return a + b

    go = asyncio.Event()

    @hf.job
    async def missing() -> tuple[int, ...]:
        await go.wait()
        return (0,)

    async with open_inline_job(cpus=2, ship=False):
        running = hf.tree_reduce(note, [missing(), *((x,) for x in range(1, 8))], fan_in=2).start()
        await wait_until(lambda: (4, 5, 6, 7) in seen, 10, "the right half is reduced")
        assert not running.done()
        go.set()
        assert await running == tuple(range(8))


async def test_bounded() -> None:
    """Of an endless supply it reads no more than it may have under way, and it is cancelled as any flow."""
    read = 0

    def supply() -> Iterator[hf.Flow[int]]:
        nonlocal read
        while True:
            read += 1
            yield wait()

    @hf.job
    async def wait() -> int:
        await asyncio.Event().wait()
        return 1

    async with open_inline_job():
        running = hf.tree_reduce(max, supply()).start()
        await wait_until(lambda: read >= 1000, 10, "as many as may be under way are read")
        for _ in range(5):
            await asyncio.sleep(0)
        assert read == 1000
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_errors() -> None:
    """The function's own error, or that of a flow, is raised unchanged; the others end."""

    def refuse(a: int, b: int) -> int:
        raise KeyError(a, b)

    @hf.job
    async def fails() -> int:
        raise LookupError("of a flow")

    async with open_inline_job(cpus=2):
        with pytest.raises(KeyError) as refused:
            await hf.tree_reduce(refuse, range(20))
        assert any("refuse(0, 1, 2" in note for note in refused.value.__notes__)
        with pytest.raises(LookupError, match="of a flow"):
            await hf.tree_reduce(max, [1, fails(), 3])
        assert await hf.tree_reduce(max, [7]) == 7


async def test_nothing_to_reduce() -> None:
    """An empty iterable raises, with what to write; it is a ValueError."""
    async with open_inline_job():
        with pytest.raises(ValueError, match="neutral one"):
            await hf.tree_reduce(max, list[int]())


@pytest.mark.parametrize("fan_in", [1, 0, -3, 2.0, True, "8"])
def test_fan_in(fan_in: object) -> None:
    """One alone reduces nothing."""
    with pytest.raises(hf.ConfigurationError, match="at least 2"):
        hf.tree_reduce(max, [1], fan_in)  # type: ignore[arg-type]


def test_what_is_no_function() -> None:
    """A flow-making function, or an async one, is refused at the call."""

    @hf.job
    async def flow(a: int, b: int) -> int:
        return a + b

    async def later(a: int, b: int) -> int:
        return a + b

    with pytest.raises(hf.MisuseError):
        hf.tree_reduce(flow, [1])  # type: ignore[arg-type, type-var]
    with pytest.raises(hf.MisuseError, match="this is async"):
        hf.tree_reduce(later, [1])  # type: ignore[arg-type, type-var]
