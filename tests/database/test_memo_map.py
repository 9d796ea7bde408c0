"""Maps of memoized calls: what goes together does as what goes by itself."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from hyperflow import environment, failures
from hyperflow import flow as flows
from hyperflow.concurrent import map_concurrently
from hyperflow.database import memoize
from hyperflow.database.file import DatabaseFile
from hyperflow.database.memo_map import Several
from hyperflow.database.store import Store, open_database
from hyperflow.environment import Environment
from hyperflow.errors import DatabaseError, FunctionChanged, MisuseError, SerializationError
from hyperflow.flow import Flow, Job
from hyperflow.options import Options
from hyperflow.program import ProgramInfo
from tests.database.conftest import NoEvaluator
from tests.database.test_memo import Gate, turns
from tests.test_failures_memory import garbage

ROOT = Path(__file__).resolve().parents[2]


class Passes:
    """Stands for the engine's way: takes nothing together."""

    def start(self, xs: Iterator[Any], make: Callable[[Any], Any] | None, most: int) -> Any:
        """Have the next one go by itself."""
        for x in xs:
            return 0, (x, x if make is None else make(x))
        return 0, None

    def cancel(self, apart: bool = False) -> None:
        """Have nothing to cancel."""


@attrs.frozen
class Evaluator(NoEvaluator):
    """One whose maps may go together."""

    together: bool = True

    def open_map(self, owner: object) -> Any:
        """Begin a map."""
        return Passes() if self.together else None


@asynccontextmanager
async def running(program: ProgramInfo, together: bool = True) -> AsyncIterator[Store]:
    """Put an environment in force in which maps go together, or one by one."""
    async with open_database(program.database, program.program_id) as store:
        assert isinstance(store, Store)
        evaluator: Any = Evaluator(together=together)
        with environment.entered(Environment(Options(), evaluator, store, program)):
            yield store


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many went together, each time."""
    seen: list[int] = []
    begin = Several.begin

    def counted(self: Several) -> None:
        seen.append(len(self._calls))  # pyright: ignore[reportPrivateUsage]
        begin(self)

    monkeypatch.setattr(Several, "begin", counted)
    return seen


def rows(program: ProgramInfo) -> list[tuple[Any, ...]]:
    """Return what was recorded, by key; without what differs from run to run."""
    assert isinstance(program.database, Path)
    with closing(sqlite3.connect(program.database)) as base:
        found = base.execute("SELECT map, key, value, size, schema_version, metadata FROM entries").fetchall()
    return sorted((*row[:-1], row[-1].partition(', "origin"')[0]) for row in found)


async def test_a_map_goes_together(program: ProgramInfo, several: list[int]) -> None:
    """All but the first call; each is computed once, and recorded; a later program finds all."""
    ran: list[int] = []

    @memoize("f")
    def f(x: int) -> Job[float]:
        ran.append(x)
        return flows.pure(x / 7)

    expected = [x / 7 for x in range(100)]
    async with running(program) as store:
        assert await map_concurrently(f, range(100)) == expected
        assert several == [99]
        assert await map_concurrently(lambda x: f(x=x), range(200), limit=7) == [x / 7 for x in range(200)]
        assert store.flights == {}
    assert ran == list(range(200))
    async with running(program) as store:
        assert await map_concurrently(f, range(100)) == expected
        assert await map_concurrently(f, range(150, 250)) == [x / 7 for x in range(150, 250)]
        assert store.flights == {}
    assert ran == list(range(250))


async def test_nothing_is_seen_that_was_not_recorded(
    program: ProgramInfo, several: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a transaction fails, so do all calls of it, each with an error of its own; the next ones are computed."""
    ran: list[int] = []

    @memoize("f")
    def f(x: int) -> Job[int]:
        ran.append(x)
        return flows.pure(x)

    insert = DatabaseFile.insert

    def fails(file: DatabaseFile, entries: Any) -> None:
        if len(entries) > 1:
            raise DatabaseError("disk full")
        insert(file, entries)

    async with running(program) as store:
        assert await f(0) == 0
        monkeypatch.setattr(DatabaseFile, "insert", fails)
        with pytest.raises(DatabaseError, match="disk full"):
            await map_concurrently(f, range(10))
        failed = await map_concurrently(f, range(5), errors="return")
        assert failed[0] == 0
        errors = [one.error for one in failed[1:] if isinstance(one, failures.Failed)]
        assert len(set(map(id, errors))) == 4
        assert all("disk full" in str(error) for error in errors)
        monkeypatch.setattr(DatabaseFile, "insert", insert)
        assert await map_concurrently(f, range(5)) == list(range(5))
        assert store.flights == {}
    assert several
    assert ran == [0, *range(1, 10), *range(1, 5), *range(1, 5)]


async def test_others_join(program: ProgramInfo, several: list[int]) -> None:
    """Who wants a key that is being recorded gets that; cancelling the map, or the other, disturbs nobody."""
    ran: list[int] = []

    @memoize("f")
    def f(x: int) -> Job[int]:
        ran.append(x)
        return flows.pure(x)

    async with running(program) as store:
        assert await f(-1) == -1
        for cancelled in (0, 1):
            first = 10 * cancelled
            mapped = map_concurrently(f, range(first, first + 5)).start()
            await turns(2)
            assert ("memoize:f:1", f'{{"x":{first + 3}}}') in store.flights
            other = f(first + 3).start()
            (mapped, other)[cancelled].cancel()
            if cancelled:
                assert await mapped == list(range(first, first + 5))
            else:
                assert await other == first + 3
                with pytest.raises(asyncio.CancelledError):
                    await mapped
        assert store.flights == {}
    assert several == [4, 4]
    assert ran.count(3) == ran.count(13) == 1


async def test_equal_keys_run_once(program: ProgramInfo) -> None:
    """Also within one map, and between two."""
    ran: list[int] = []

    @memoize("f")
    def f(x: int) -> Job[int]:
        ran.append(x)
        return flows.pure(-x)

    async with running(program) as store:
        xs = [x % 10 for x in range(50)]
        made = await asyncio.gather(*(map_concurrently(f, xs).start() for _ in range(3)))
        assert made == [[-x for x in xs]] * 3
        assert store.flights == {}
    assert sorted(ran) == list(range(10))


async def test_what_is_rare_goes_by_itself(program: ProgramInfo, several: list[int]) -> None:
    """Failures, results that cannot be recorded, flows that have to run, arguments that are no keys, long results."""
    gate = Gate()
    gate.open.set()

    @memoize("f")
    def f(x: Any) -> Flow[Any]:
        match x:
            case 3:
                raise ValueError("three")
            case 4:
                return flows.pure(object())
            case 5:
                return gate.flow("passed")
            case 6:
                return gate.flow(KeyError("six"))
            case 7:
                return flows.pure("long" * 5000)
            case 99:
                return 9  # type: ignore[return-value]
            case _:
                return flows.pure(x)

    async with running(program) as store:
        found = await map_concurrently(f, range(11), errors="return")
        kinds = {at: type(one.error) for at, one in enumerate(found) if isinstance(one, failures.Failed)}
        assert kinds == {3: ValueError, 4: SerializationError, 6: KeyError}
        assert [one for at, one in enumerate(found) if at not in kinds] == [0, 1, 2, "passed", "long" * 5000, 8, 9, 10]
        assert all(f"f({at})" in found[at].call for at in kinds)
        with pytest.raises(SerializationError, match="argument x of"):
            await map_concurrently(f, [20, 21, object(), 22])
        with pytest.raises(MisuseError, match="returned 9, but memoize is for functions"):
            await map_concurrently(f, [98, 99])
        with pytest.raises(ValueError, match="three") as caught:
            await map_concurrently(f, [1, 2, 3, 4])
        assert "f(3)" in "".join(getattr(caught.value, "__notes__", ()))
        assert store.flights == {}
    assert several[0] == 10


async def test_the_users_function_refuses(program: ProgramInfo) -> None:
    """What it raises ends the map, or is noted at its place; other flows go their own way."""

    @memoize("f")
    def f(x: int, y: int = 2) -> Job[int]:
        return flows.pure(x * y)

    @memoize("g")
    def g(x: int) -> Job[int]:
        return flows.pure(-x)

    def make(x: int) -> Flow[int]:
        if x == 5:
            raise ValueError("five")
        if x > 10:
            return (g, f, flows.pure)[x % 3](x)
        return f(x) if x % 2 else f(x, y=3)

    async with running(program) as store:
        found = await map_concurrently(make, range(20), errors="return")
        assert isinstance(found[5], failures.Failed)
        expected = [x * 2 if x % 2 else x * 3 for x in range(11)] + [(-x, x * 2, x)[x % 3] for x in range(11, 20)]
        assert found[:5] + found[6:] == expected[:5] + expected[6:]
        with pytest.raises(ValueError, match="five"):
            await map_concurrently(make, range(20))
        assert store.flights == {}


async def test_functions_that_want_their_map(program: ProgramInfo) -> None:
    """A function that starts calls of its own: its own one is an error, those beside it are computed once."""
    ran: list[int] = []

    @memoize("f")
    def f(x: int) -> Flow[int]:
        ran.append(x)
        if x == 2:
            return f(2)
        return f(x - 1).map(lambda before: before + 1) if x > 5 else flows.pure(x)

    @memoize("g")
    def g(x: int) -> Flow[int]:
        ran.append(x)
        other = g(x + 1).start() if x < 14 else None
        if other is None:
            return flows.pure(x)
        return flows.pure(None).then(lambda _: Job(flows.Native("other", lambda: wait(other))))

    async def wait(other: asyncio.Future[int]) -> int:
        return await other

    async with running(program) as store, asyncio.timeout(40):
        assert await f(0) == 0
        with pytest.raises(MisuseError, match=r"f\(2\) waits for its own result"):
            await map_concurrently(f, range(10))
        assert await map_concurrently(f, range(3, 10)) == list(range(3, 10))
        ran.clear()
        assert await map_concurrently(g, range(10, 15)) == [14] * 5
        assert sorted(ran) == list(range(10, 15))
        assert store.flights == {}


@pytest.mark.parametrize("on_change", ["warn", "recompute", "ignore"])
async def test_a_changed_function(program: ProgramInfo, on_change: Any, several: list[int]) -> None:
    """Each of many is judged as one by itself is."""

    def make(shift: int) -> Callable[[int], Job[int]]:
        @memoize("f", on_change=on_change)
        def f(x: int) -> Job[int]:
            return flows.pure(x + shift)

        return f

    async with running(program):
        assert await map_concurrently(make(0), range(10)) == list(range(10))
    async with running(program):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = await map_concurrently(make(100), range(20))
        again = [x + 100 for x in range(20)]
        assert found == (again if on_change == "recompute" else [*range(10), *again[10:]])
        assert [one.category for one in told] == ([FunctionChanged] if on_change == "warn" else [])
    assert several == [9, 19]


async def test_a_cancelled_map_leaves_nothing(program: ProgramInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it was waiting for; what was on its way to the disk may be found later."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Event()

    @memoize("f")
    def f(x: int) -> Job[int]:
        return flows.pure(x)

    tasks: list[asyncio.Task[None]] = []
    for name, first in (("ask_all", 0), ("record_all", 200)):
        original = getattr(Store, name)

        def held(self: Store, items: Any, original: Any = original) -> asyncio.Future[Any]:
            future: asyncio.Future[Any] = loop.create_future()

            async def later() -> None:
                await gate.wait()
                future.set_result(await original(self, items))

            tasks.append(loop.create_task(later()))
            return future

        async with running(program) as store:
            tasks.clear()
            assert await map_concurrently(f, range(100, 105)) == list(range(100, 105))
            with monkeypatch.context() as patched:
                patched.setattr(Store, name, held)
                if name == "ask_all":  # nothing is known at once
                    patched.setattr(Store, "peek_all", lambda self, map_name, keys: [(False, None)] * len(keys))
                gate.clear()
                mapped = map_concurrently(f, [100, *range(first, first + 10)]).start()
                await turns()
                assert tasks
                mapped.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await mapped
                assert store.flights == {}
                gate.set()
                await asyncio.gather(*tasks)
            assert await map_concurrently(f, range(first, first + 9)) == list(range(first, first + 9))


async def test_several_that_have_to_be_asked_for(program: ProgramInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are not in memory come with one question; who joins meanwhile asks by itself."""
    asked: list[int] = []
    ask_all = Store.ask_all

    @memoize("f")
    def f(x: int) -> Job[int]:
        return flows.pure(-x)

    def counted(self: Store, names: Any) -> Any:
        asked.append(len(names))
        return ask_all(self, names)

    async with running(program):
        assert await map_concurrently(f, range(300)) == [-x for x in range(300)]
    monkeypatch.setattr(Store, "ask_all", counted)
    async with running(program) as store:
        assert await f(0) == 0  # and those beside it
        mapped = map_concurrently(f, range(400)).start()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ("memoize:f:1", '{"x":150}') in store.flights
        assert await asyncio.gather(f(150), f(390)) == [-150, -390]
        assert await mapped == [-x for x in range(400)]
        assert store.flights == {}
    assert asked
    assert sum(asked) < 300


def histories(seed: int) -> list[tuple[str, Any]]:
    """Return what to do: maps over xs, and calls beside them."""
    chance = random.Random(seed)
    return [
        (
            chance.choice(["map", "map", "both", "cancel"]),
            [chance.randrange(60) for _ in range(chance.randrange(1, 40))],
        )
        for _ in range(6)
    ]


async def play(program: ProgramInfo, seed: int, together: bool) -> list[Any]:
    """Play a history, in two runs; return what callers saw, and what ran how often."""
    ran: dict[int, int] = {}

    @memoize("f")
    def f(x: int) -> Flow[Any]:
        ran[x] = ran.get(x, 0) + 1
        if x % 11 == 3:
            raise ValueError(x)
        if x % 7 == 2:
            return f(x + 60).map(lambda value: [x, value])
        return flows.pure([x] if x % 5 == 1 else x / 3 if x % 2 else f"text {x}")

    seen: list[Any] = []
    for _ in range(2):
        async with running(program, together) as store:
            for what, xs in histories(seed):
                mapped = map_concurrently(lambda x: f(x=x), xs, limit=len(xs) // 2 + 1, errors="return").start()
                if what == "both":
                    await turns(2)
                    beside = await asyncio.gather(*(f(x) for x in xs[:5]), return_exceptions=True)
                    seen.append([repr(one) for one in beside])
                if what == "cancel":
                    await turns(xs[0] % 4)
                    mapped.cancel()
                    await asyncio.wait([mapped])
                else:
                    seen.append([getattr(one, "call", one) for one in await mapped])
            whole = await map_concurrently(f, range(60), errors="return")
            seen.append([getattr(one, "call", one) for one in whole])
            assert store.flights == {}
    return seen


@pytest.mark.parametrize("seed", range(8))
async def test_both_ways_give_the_same(tmp_path: Path, seed: int) -> None:
    """The same history, with and without: the same results, the same failures, the same rows."""
    alone, together = (ProgramInfo.new(tmp_path / name) for name in ("alone", "together"))
    assert await play(alone, seed, False) == await play(together, seed, True)
    first, second = rows(alone), rows(together)
    if any(what == "cancel" for what, _ in histories(seed)):  # what is there of a cancelled map, is a matter of time
        common = {*first, *second} - ({*first} ^ {*second})
        assert {row[1] for row in common} >= {f'{{"x":{x}}}' for x in range(60) if x % 11 != 3 and x != 9}
    else:
        assert first == second


async def test_the_file_is_sound(program: ProgramInfo) -> None:
    """Checksums, seals, counts and index are as those of entries that were inserted one by one."""

    @memoize("f")
    def f(x: str) -> Job[str]:
        return flows.pure(x * 2)

    xs = ["", "a", "é", "\ud800", "'", '"', "\\", "x" * 5000, *map(str, range(50))]
    async with running(program):
        assert await map_concurrently(f, xs) == [x * 2 for x in xs]
    assert isinstance(program.database, Path)
    with closing(DatabaseFile.open(program.database, "reader")) as file:
        file.know()
        found = file.load("memoize:f:1")
        assert len(found) == len(xs)
        assert file.damaged == []
        assert all(file.lookup("memoize:f:1", key) is not None for key in found)


KILLED = """
import asyncio, os, sys
from hyperflow import flow
from hyperflow.concurrent import map_concurrently
from hyperflow.database import memoize
from hyperflow.program import ProgramInfo
from tests.database.test_memo_map import running

@memoize("f")
def f(x: int) -> flow.Job[int]:
    return flow.pure(x)

async def main():
    async with running(ProgramInfo.new(sys.argv[1] + "-dir", database=sys.argv[1])):
        start = int(sys.argv[2])
        while True:
            for x in await map_concurrently(f, range(start, start + 50)):
                os.write(1, f"{x}\\n".encode())
            start += 50
asyncio.run(main())
"""


async def test_killed_while_recording(program: ProgramInfo) -> None:
    """What callers have seen is there, whenever the program is killed."""
    acknowledged: set[int] = set()
    for number in range(2):
        command = [sys.executable, "-c", KILLED, str(program.database), str(number * 10**6)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            seen = b""
            while len(seen) < random.randint(1, 20_000):  # a moment that depends on progress, not on the clock
                data = os.read(writer.stdout.fileno(), 4096)
                assert data, "the writer ended by itself"
                seen += data
            writer.send_signal(signal.SIGKILL)
            seen += writer.communicate()[0]
        acknowledged |= {int(line) for line in seen.split(b"\n")[:-1]}
    async with running(program) as store:
        found = dict(await store.lookup_all("memoize:f:1"))
    assert len(acknowledged) > 10
    assert {f'{{"x":{x}}}' for x in acknowledged} <= found.keys()


async def test_maps_leave_no_garbage(program: ProgramInfo) -> None:
    """Neither calls that went together, nor those that went on by themselves, leave cycles."""
    gate = Gate()
    gate.open.set()
    numbers = iter(range(10**6))

    @memoize("f")
    def f(x: int) -> Flow[int]:
        return gate.flow(x) if x % 10 == 7 else flows.pure(x)

    @memoize("g")
    def g(x: int) -> Flow[int]:
        return gate.flow(x)

    async with running(program):

        async def run() -> None:
            xs = [next(numbers) for _ in range(20)]
            await map_concurrently(f, xs)
            await map_concurrently(g, xs)

        assert await garbage(run) == {}
