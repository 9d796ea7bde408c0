"""How the head counts evaluations, by function or by the name that they were given."""

import asyncio
import os
import time
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.events import reader
from hyperflow.events.summary import summarise
from hyperflow.head.engine import Engine
from hyperflow.progress.tally import Course, Group, Snapshot
from hyperflow.testing import open_inline_job
from tests.helpers import wait_until
from tests.support import local


def stands(env: hf.JobEnv) -> Snapshot:
    """Return how its evaluations stand."""
    assert isinstance(env.evaluator, Engine)
    return env.evaluator.progress()


def waits(directory: str) -> None:
    """Leave a mark, and wait for a file."""
    Path(directory, f"{os.getpid()}").touch()
    while not Path(directory, "gate").exists():
        time.sleep(0.01)


def fails(x: int) -> int:
    """Fail."""
    raise ValueError(x)


async def test_groups(tmp_path: Path) -> None:
    """Waiting, running, done, failed and cancelled ones are counted where they belong, also from the event log."""
    inside = tmp_path / "inside"
    inside.mkdir()
    async with local(cpus=2, program=hf.ProgramInfo.new(tmp_path / "runs")) as env:
        assert stands(env) == Snapshot(cpus=2, nodes=1)
        with hf.using(name="scan 3"):
            ones = [hf.remote_eval(waits, str(inside)).start() for _ in range(5)]
            broken = hf.remote_eval(fails, 1).start()
        other = hf.remote_eval(abs, -1).start()
        await wait_until(lambda: len(list(inside.iterdir())) == 2, 20, "two run")
        assert stands(env).groups == (Group("scan 3", 6, running=2), Group("abs", 1))
        other.cancel()
        ones[-1].cancel()
        (inside / "gate").touch()
        with pytest.raises(ValueError, match="1"):
            await broken
        await asyncio.gather(*ones[:-1])
        await wait_until(lambda: not stands(env).busy, 10, "nothing runs")
        assert stands(env).groups == (Group("scan 3", 6, done=4, failed=1, cancelled=1), Group("abs", 1, cancelled=1))
        log = env.program.log_dir / "events.jsonl"
    found = summarise(reader.read(log)).functions
    assert {name: (it.done, it.failed, it.cancelled) for name, it in found.items()} == {
        "scan 3": (4, 1, 1),
        "abs": (0, 0, 1),
    }


async def test_maps() -> None:
    """Maps that run are told with their lengths, and their chunks stand under the function; then they are forgotten."""
    seen: list[tuple[Course, ...]] = []

    def look(x: int) -> hf.Job[int]:
        seen.append(stands(env).courses)
        return hf.remote_eval(abs, x)

    async with local(cpus=1) as env:
        await hf.map_concurrently(look, range(3), limit=1)
        await hf.map_concurrently(look, iter(range(1))).using(name="scan")
        assert seen == [
            (Course("map_concurrently of look", 0, 3),),
            (Course("map_concurrently of look", 1, 3),),
            (Course("map_concurrently of look", 2, 3),),
            (Course("map_concurrently of scan", 0, None),),
        ]
        completed = hf.as_completed(lambda x: hf.remote_eval(abs, x), range(2), limit=1)
        seen += [stands(env).courses async for _ in completed]
        assert seen[-2:] == [(Course("as_completed of <lambda>", ended, 2),) for ended in (1, 2)]
        mapping = hf.remote_map(abs, range(1000), chunk_size=10).start()
        await asyncio.sleep(0)
        assert stands(env).courses == (Course("remote_map of abs", 0, 1000),)
        await mapping
        with pytest.raises(ValueError, match="3"):
            await hf.remote_map(fails, [3, 4], chunk_size=2)
        assert stands(env).courses == ()
        assert [(group.name, group.ended) for group in stands(env).groups] == [("abs", 105), ("scan", 1), ("fails", 1)]


@pytest.mark.parametrize("name", ["", " ", 3, "x" * 201, "two\nlines", "\x1b[2J", "back\\slash"])
async def test_names_that_make_no_sense(name: object) -> None:
    """A name stands in lines of lists and logs."""
    with pytest.raises(hf.ConfigurationError, match="name="):
        hf.pure(1).using(name=name)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_map_of_something_with_a_strange_name() -> None:
    """What cannot be a name does not stop a map."""

    class Strange:
        def __call__(self, x: int) -> int:
            return x

        def __repr__(self) -> str:
            return "two\nlines \\"

    async with open_inline_job():
        assert await hf.remote_map(Strange(), [1, 2], chunk_size=2) == [1, 2]
        assert await hf.remote_eval(abs, -1).using(name="scan 3") == 1
