"""Maps of memoized functions that evaluate: what goes together does as what goes by itself.

The launchers are pretended (see `tests.head.test_bulk`): they evaluate here, in an order that a seed decides.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow._job import open_job
from hyperflow.config import Settings
from hyperflow.database.memo_map import Evaluations
from hyperflow.database.store import Store
from hyperflow.head.engine import Engine
from hyperflow.head.fleet import NodePlan
from hyperflow.program import ProgramInfo
from hyperflow.wire import frames
from tests.database.test_memo import turns
from tests.head.test_bulk import Boom, Node, World, in_words, twice
from tests.test_failures_memory import garbage

ROOT = Path(__file__).resolve().parents[2]


class Noted(World):
    """One that knows which numbers each argument had."""

    def __init__(self, *how: Any, **more: Any) -> None:
        super().__init__(*how, **more)
        self.numbers: dict[int, set[int]] = defaultdict(set)

    def frame(self, task: int, x: int) -> list[frames.Bytes]:
        """Return the record that answers a task."""
        self.numbers[x].add(task)
        return super().frame(task, x)


class First(random.Random):
    """Dice by which one answer comes at a time."""

    def choice(self, seq: Any) -> Any:
        """Return the first."""
        return seq[0]


@asynccontextmanager
async def running(program: ProgramInfo, world: World) -> AsyncIterator[hf.JobEnv]:
    """Open a job on three nodes; at its end, nothing is left of what was evaluated and recorded in it."""
    settings = Settings(heartbeat=1000.0, node_timeout=2000.0, silence_limit=3000.0)
    plans = [NodePlan(Node(world, name), 2) for name in ("a", "b", "c")]
    async with open_job(plans, program, settings=settings, preload=[], progress=False) as env:
        yield env
        await turns(50)
        engine, store = env.evaluator, env.database
        assert isinstance(engine, Engine)
        assert isinstance(store, Store)
        assert store.flights == {}
        assert (engine.scheduler.waiting, engine.scheduler.sent) == (0, 0)
        assert not engine._evaluations  # pyright: ignore[reportPrivateUsage]
        assert not engine._makings  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were evaluated together, each time."""
    seen: list[int] = []
    begun = Evaluations.begun

    def counted(self: Evaluations, count: int) -> int:
        seen.append(count)
        return begun(self, count)

    monkeypatch.setattr(Evaluations, "begun", counted)
    return seen


@hf.memoize("f", version=1)
def f(x: int) -> hf.Flow[Any]:
    """Evaluate, mostly."""
    if x % 41 == 40:
        raise KeyError(x)
    if x % 37 == 36:
        return hf.pure([x])
    if x % 31 == 30:
        return f(x + 300).map(lambda value: [x, value])
    return hf.remote_eval(twice, x)


def rows(program: ProgramInfo) -> dict[int, tuple[Any, ...]]:
    """Return what was recorded, by argument: all but the metadata; that without the origin; the origin.

    If a map was cancelled while something was recorded, there may be an older one.
    """
    assert isinstance(program.database, Path)
    with closing(sqlite3.connect(program.database)) as base:
        found = base.execute("SELECT key, value, size, schema_version, metadata FROM entries ORDER BY id").fetchall()
    made: dict[int, tuple[Any, ...]] = {}
    for key, *row, metadata in found:
        about = json.loads(metadata)
        origin = about.pop("origin")
        made[json.loads(key)["x"]] = tuple(row), about, origin
    return made


def histories(seed: int) -> list[tuple[str, list[int], int | None]]:
    """Return maps to run: what happens to each, its arguments, its limit."""
    dice = random.Random(seed)
    kinds = ["map", "both", "cancel", "map", "raise"]
    dice.shuffle(kinds)
    return [
        (kind, [dice.randrange(120) for _ in range(dice.randrange(20, 100))], dice.choice((None, 7, 30)))
        for kind in kinds
    ]


async def play(program: ProgramInfo, world: Noted, seed: int) -> list[Any]:
    """Play a history; return what callers saw."""
    seen: list[Any] = []
    async with running(program, world):
        for what, xs, limit in histories(seed):
            errors: Any = "raise" if what == "raise" else "return"
            mapped = hf.map_concurrently(f, xs, limit=limit, errors=errors).start()
            if what == "both":
                await turns(4)
                beside = await asyncio.gather(*(f(x) for x in xs[:9]), return_exceptions=True)
                seen.append([type(one) if isinstance(one, Exception) else one for one in beside])
            if what == "cancel":
                await turns(xs[0] % 30)
                mapped.cancel()
            await asyncio.wait([mapped])
            if what in ("map", "both"):
                seen.append([in_words(one) for one in await mapped])
            elif what == "raise" and mapped.exception() is None:
                seen.append(await mapped)
        seen.append([in_words(one) for one in await hf.map_concurrently(f, range(300), errors="return")])
    return seen


@pytest.mark.parametrize("seed", range(6))
async def test_both_ways_give_the_same(
    tmp_path: Path, seed: int, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failures, deaths, results that cannot be read or recorded, joins, cancels, a lost node: rows and origins, too."""
    some = random.Random(seed).sample(range(300), 20)

    def world() -> Noted:
        made = Noted(seed, fails=some[:8], dies=some[8:12], odd=some[12:])
        if seed % 2:
            made.at[40 + 20 * seed] = made.lose
        return made

    programs = [ProgramInfo.new(tmp_path / name) for name in ("together", "alone")]
    worlds = [world(), world()]
    first = await play(programs[0], worlds[0], seed)
    assert max(together) > 50
    monkeypatch.setattr(Engine, "open_map", lambda *_: None)
    assert await play(programs[1], worlds[1], seed) == first
    of_both = [rows(program) for program in programs]
    assert len(of_both[0]) > 150
    assert of_both[0].keys() == of_both[1].keys()
    for x, (row, about, origin) in of_both[0].items():
        other = of_both[1][x]
        assert (row, about) == other[:2]
        assert origin.keys() - {"texts"} == other[2].keys() - {"texts"}
        for mine, where in ((origin, worlds[0]), (other[2], worlds[1])):
            assert mine["seconds"] >= 0
            if "evaluations" in mine:
                count, lowest, highest = mine["evaluations"]
                assert (count, lowest) == (1, highest)
                assert lowest in where.numbers[x]
                assert mine["cpu_seconds"] == 1e-6
                assert len(mine["nodes"]) == 1
                assert mine["nodes"][0] in ("a", "b", "c")


async def test_who_joins_keeps_it_when_the_map_is_cancelled(program: ProgramInfo, together: list[int]) -> None:
    """Its evaluation goes on, once; the rest is cancelled. Who leaves as the last ends it."""
    for leaves in (False, True):
        world = Noted(1)
        world.dice = First()
        async with running(program, world) as env:
            store: Any = env.database
            xs = [x + 700 * leaves for x in range(300) if x % 7 != 3]
            cancelled = asyncio.Event()
            world.at[20] = cancelled.set
            mapped = hf.map_concurrently(g, xs).start()
            await turns(2)
            assert max(together) > 100
            assert len(store.flights) == len(xs)
            joined = [g(x).start() for x in xs[-3:]]
            await cancelled.wait()
            assert not any(one.done() for one in joined)
            mapped.cancel()
            if leaves:
                await turns(1)  # the map has left them
                for one in joined:
                    one.cancel()
                await asyncio.gather(mapped, *joined, return_exceptions=True)
                await turns(50)
                assert mapped.cancelled()
                assert all(one.cancelled() for one in joined)
                assert not world.runs.keys() & set(xs[-3:])
            else:
                with pytest.raises(asyncio.CancelledError):
                    await mapped
                assert await asyncio.gather(*joined) == [2 * x for x in xs[-3:]]
                assert all(world.runs[x] == 1 for x in xs[-3:])
            assert len(world.runs) < len(xs) / 2


async def test_equal_keys_are_evaluated_once(program: ProgramInfo) -> None:
    """Within one map, and between two."""
    world = Noted(2)
    async with running(program, world):
        xs = [x % 20 for x in range(0, 400, 4)]
        made = await asyncio.gather(*(hf.map_concurrently(g, xs).start() for _ in range(3)))
    assert made == [[2 * x for x in xs]] * 3
    assert set(world.runs.values()) == {1}


@hf.memoize("g", version=1)
def g(x: int) -> hf.Flow[int]:
    """Evaluate."""
    return hf.remote_eval(twice, x)


async def test_one_of_many_fails(program: ProgramInfo, together: list[int]) -> None:
    """Its error names the memoized call, ends the map and cancels the rest; what was recorded stays."""
    world = Noted(3, fails=[70])
    xs = [x for x in range(100) if x % 7 != 3]
    async with running(program, world):
        with pytest.raises(Boom, match="70") as caught:
            await hf.map_concurrently(g, xs)
        assert "g(70)" in "".join(getattr(caught.value, "__notes__", ()))
        world.fails.clear()
        assert await hf.map_concurrently(g, xs) == [2 * x for x in xs]
    assert max(together) > 50
    assert sorted(rows(program)) == xs


async def test_what_is_started_beside_its_evaluation_is_noted(program: ProgramInfo) -> None:
    """An origin has all evaluations that were part of it, and recorded values that were read."""

    @hf.memoize("h", version=1)
    def h(x: int) -> hf.Flow[int]:
        started.append(hf.remote_eval(twice, x + 7000).start())
        started.append(g(1).start())
        return hf.remote_eval(twice, x)

    started: list[asyncio.Future[Any]] = []
    world = Noted(4)
    xs = [x for x in range(50) if x % 7 != 3]
    async with running(program, world):
        assert await g(1) == 2
        await hf.map_concurrently(h, xs)
        await asyncio.wait(started)
    with closing(sqlite3.connect(str(program.database))) as base:
        found = base.execute("SELECT metadata FROM entries WHERE map = 'memoize:h:1'").fetchall()
    origins = [json.loads(metadata)["origin"] for (metadata,) in found]
    assert len(origins) == len(xs)
    assert all(len(origin["parents"]) == 1 for origin in origins)
    assert any(origin["evaluations"][0] == 2 for origin in origins)


KILLED = """
import asyncio, os, sys
import hyperflow as hf
from hyperflow.program import ProgramInfo
from tests.database.test_memo_evaluated import Noted, g, running

async def main():
    async with running(ProgramInfo.new(sys.argv[1] + "-dir", database=sys.argv[1]), Noted(5)):
        start = int(sys.argv[2])
        while True:
            for x in await hf.map_concurrently(g, range(start, start + 350, 7)):
                os.write(1, f"{x // 2}\\n".encode())
            start += 350
asyncio.run(main())
"""


async def test_killed_while_recording(program: ProgramInfo) -> None:
    """What callers have seen is there, whenever the program is killed."""
    acknowledged: set[int] = set()
    command = [sys.executable, "-c", KILLED, str(program.database), "0"]
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
    assert len(acknowledged) > 10
    assert acknowledged <= rows(program).keys()


async def test_maps_leave_no_garbage(program: ProgramInfo) -> None:
    """Neither when all is well, nor when one fails or the map is cancelled."""
    world = Noted(6)
    numbers = iter(range(0, 10**6, 700))
    async with running(program, world):

        async def run() -> None:
            first = next(numbers)
            await hf.map_concurrently(g, range(first, first + 350, 7))
            mapped = hf.map_concurrently(g, range(first + 350, first + 700, 7)).start()
            await turns(3)
            mapped.cancel()
            await asyncio.wait([mapped])

        assert await garbage(run) == {}
