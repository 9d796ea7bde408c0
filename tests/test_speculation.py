"""speculate: idle CPUs only, given back when somebody needs them, and wanted from when somebody awaits it."""

import asyncio
import gc
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.guesses import Guess
from hyperflow.testing import open_inline_job
from tests.helpers import wait_until
from tests.support import Gate, local, wait_at


def square(x: int) -> int:
    """Compute something."""
    return x * x


def where(path: str, x: int) -> int:
    """Wait at a gate."""
    wait_at(path)
    return x


def refuse(x: int) -> int:
    """Fail."""
    raise LookupError(x)


# ---- the guess itself ---------------------------------------------------------------------------------------------


def test_parts_are_wanted_once() -> None:
    """What belongs to a guess is told when it is wanted, what has ended is not, and what comes later at once."""
    guess, told = Guess(), list[str]()
    guess.add("a", lambda: told.append("a"))
    guess.add("b", lambda: told.append("b"))
    guess.drop("a")
    guess.want()
    guess.want()
    guess.add("c", lambda: told.append("c"))
    assert told == ["b", "c"]


def test_who_waits_decides() -> None:
    """A guess that another one waits for is wanted with that; it forgets it when it ends."""
    outer, inner, other = Guess(), Guess(), Guess()
    inner.wanted_by(outer)
    assert not inner.is_wanted
    outer.want()
    assert inner.is_wanted
    ended = Guess()
    ended.wanted_by(other)
    ended.end()
    assert not other._parts
    ended.wanted_by(None)
    assert ended.is_wanted


# ---- on workers ---------------------------------------------------------------------------------------------------


async def test_runs_where_something_is_idle() -> None:
    """It gives its result, also of nested flows and maps, and the second await gives it again."""

    @hf.job
    async def several(n: int) -> int:
        squares = await hf.map_concurrently(lambda x: hf.remote_eval(square, x), range(n))
        return sum(squares) + sum(await hf.remote_map(square, range(n))) + await hf.tree_reduce(max, range(n))

    async with local(cpus=2) as env:
        guess = hf.speculate(several(10))
        await wait_until(guess.done, 30, "it has run without being wanted")
        assert await guess == await guess == 285 * 2 + 9
        assert await hf.speculate(hf.remote_eval(square, 3)) == 9
        assert env.statistics().waiting == 0


async def test_gives_way_and_comes_back(tmp_path: Path) -> None:
    """Whoever is wanted gets its CPUs at once; the guess is killed, and starts again when there is room."""
    guessed, wanted = Gate(tmp_path, "guessed"), Gate(tmp_path, "wanted")
    async with local(cpus=1):
        guess = hf.speculate(hf.remote_eval(where, guessed.path, 1))
        await guessed.wait_inside()
        running = hf.remote_eval(where, wanted.path, 2).start()
        await wanted.wait_inside()
        assert not guess.done()
        wanted.open()
        assert await running == 2
        await guessed.wait_inside(2)
        guessed.open()
        assert await guess == 1


async def test_wanted_from_now_on(tmp_path: Path) -> None:
    """Once it is awaited, nobody takes away what it has, nor does it wait behind what was submitted after it."""
    gate = Gate(tmp_path)
    async with local(cpus=1):
        guess = hf.speculate(hf.remote_eval(where, gate.path, 1))
        await gate.wait_inside()
        awaited = asyncio.ensure_future(_await(guess))
        await asyncio.sleep(0)
        other = hf.remote_eval(square, 5).start()
        gate.open()
        assert await awaited == 1
        assert await other == 25
        assert gate.inside == 1


async def _await(guess: hf.Speculation[int]) -> int:
    return await guess


async def test_memoized_calls_become_wanted(tmp_path: Path) -> None:
    """Who asks for a call that a guess computes makes it wanted, and it is computed once."""
    gate = Gate(tmp_path)

    @hf.memoize("slow")
    def slow(x: int) -> hf.Flow[int]:
        return hf.remote_eval(where, gate.path, x)

    @hf.job
    async def twice(x: int) -> int:
        return 2 * await slow(x)

    async with local(cpus=1):
        guess = hf.speculate(twice(4))
        await gate.wait_inside()
        asked = slow(4).start()
        await asyncio.sleep(0)
        other = hf.remote_eval(square, 5).start()  # it would have killed it
        gate.open()
        assert await asked == 4
        assert await other == 25
        assert await guess == 8
        assert gate.inside == 1


@pytest.mark.parametrize("how", ["cancel", "drop", "task"])
async def test_who_is_not_awaited_ends(tmp_path: Path, how: str) -> None:
    """Cancelled, forgotten, or with the task that made it: its evaluation is killed, and its CPU is free."""
    gate = Gate(tmp_path)
    kept: list[hf.Speculation[int]] = []

    async def begin() -> None:
        kept.append(hf.speculate(hf.remote_eval(where, gate.path, 1)))
        await gate.wait_inside()

    async with local(cpus=1) as env:
        if how == "task":
            await asyncio.create_task(begin())
        else:
            await begin()
            if how == "cancel":
                assert kept[0].cancel()
            else:
                kept.clear()
                gc.collect()
        await wait_until(lambda: env.statistics().running == 0, 20, "nothing of it runs")
        assert env.statistics().cancelled == 1
        if how == "cancel":
            with pytest.raises(asyncio.CancelledError):
                await kept[0]


async def test_errors(caplog: pytest.LogCaptureFixture) -> None:
    """Raised where it is awaited, and nowhere else."""
    async with local(cpus=1):
        guess, forgotten = (hf.speculate(hf.remote_eval(refuse, x)) for x in range(2))
        await wait_until(guess.done, 20, "the first has failed")
        await wait_until(forgotten.done, 20, "the second, too")
        with pytest.raises(LookupError, match="0"):
            await guess
        del forgotten
        gc.collect()
    assert not caplog.records


async def test_locks_wait(tmp_path: Path) -> None:
    """A guess takes no lock before it is wanted: who holds one would wait for idle CPUs."""
    took = asyncio.Event()

    @hf.job
    async def locked() -> int:
        async with hf.with_lock("a"):
            took.set()
            return await hf.remote_eval(square, 3)

    async with open_inline_job() as env:
        guess = hf.speculate(locked())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not took.is_set()
        assert not env.evaluator.locks.requests
        assert await guess == 9


async def test_inline() -> None:
    """There it begins when nothing is under way that is wanted, or when it is wanted itself."""
    order: list[str] = []

    async def note(name: str) -> str:
        await asyncio.sleep(0)
        order.append(name)
        return name

    async with open_inline_job(cpus=1, ship=False):
        guess = hf.speculate(hf.remote_eval(note, "guess"))
        await hf.map_concurrently(lambda name: hf.remote_eval(note, name), ["a", "b"])
        assert await guess == "guess"
        assert await hf.speculate(hf.remote_eval(note, "wanted")) == "wanted"
    assert order == ["a", "b", "guess", "wanted"]


async def test_misuse() -> None:
    """What is no flow; where there is no environment."""
    with pytest.raises(hf.NotInFlow):
        hf.speculate(hf.remote_eval(square, 3))
    async with open_inline_job():
        with pytest.raises(hf.MisuseError):
            hf.speculate(square(3))  # type: ignore[arg-type]
        with pytest.raises(hf.ImpossibleRequest):
            hf.speculate(hf.remote_eval(square, 3).using(cpus=9))
