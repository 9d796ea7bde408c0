"""seed_sequence: each evaluation draws its own random numbers, and draws them again in the next run."""

import asyncio
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import hyperflow as hf
from hyperflow.testing import open_inline_job
from tests.support import Gate, environment, local, run_script, wait_at


def draw(*_: Any, **__: Any) -> int:
    """Draw a number."""
    return int(np.random.default_rng(hf.seed_sequence()).integers(1 << 60))


async def draw_later(x: int) -> int:
    """Draw it in an async function."""
    await asyncio.sleep(0)
    return draw(x)


@attrs.frozen
class Model:
    """An argument of a class."""

    n: int
    names: frozenset[str] = frozenset("abc")

    def draw(self) -> int:
        """Draw in a method."""
        return draw()


async def everything() -> list[Any]:
    """Draw in each way there is."""
    found = [await hf.remote_eval(draw, n) for n in range(3)]
    found += await hf.replicate_concurrently(3, hf.remote_eval(draw, 0))
    found += await hf.map_concurrently(lambda n: hf.remote_eval(draw_later, n), range(3))
    found += await hf.concurrently(
        hf.remote_eval(draw, Model(1)),
        hf.remote_eval(draw, Model(2)),
        hf.remote_eval(Model(1).draw),
        hf.remote_eval(functools.partial(draw, x=1)),
        hf.remote_eval(draw, np.zeros(3)),
        hf.remote_eval(draw, np.ones(3)),
        hf.remote_eval(draw, np.zeros(100_000)),
        hf.remote_eval(draw),
        hf.remote_eval(lambda: draw() + 0),
        hf.remote_eval(draw).using(seed=1),
    )
    found += [draw(), draw()]  # in the job itself
    found += await hf.remote_map(draw, range(50))
    found += await hf.remote_map(draw_later, range(50), chunk_size=7)
    found += await hf.remote_map(draw, range(50), chunk_size=3)
    return found


async def test_each_has_its_own() -> None:
    """All differ: arguments, equal calls, seeds, items, the job; in the next run, and inline, they are the same."""
    async with local(cpus=2):
        first = await everything()
    assert len(set(first)) == len(first)
    async with local(cpus=1):
        assert await everything() == first
    async with open_inline_job(cpus=2):
        assert await everything() == first
    async with open_inline_job(cpus=2):
        with hf.using(seed=7):
            other = await everything()
    assert len({*other} & {*first}) == 1  # the one with a seed of its own


async def test_equal_calls_in_the_order_of_submission(tmp_path: Path) -> None:
    """The first one to draw may be the last that was submitted, and others may have ended before anybody asked."""
    gate = Gate(tmp_path)

    def slow(x: int) -> int:
        wait_at(gate.path)
        return draw()

    def sometimes(x: int, path: str) -> int:
        if x == 0:
            return 0
        if x == 1 and not os.path.exists(path):
            open(path, "w").close()
            wait_at(gate.path)
        return draw()

    path = str(tmp_path / "mark")
    async with local(cpus=2):
        await hf.remote_eval(sometimes, 0, path)
        late = hf.remote_eval(sometimes, 1, path).start()
        await gate.wait_inside()
        early = await hf.remote_eval(sometimes, 1, path)
        gate.open()
        first = await late
    async with local(cpus=2):  # the mark is there: nobody waits
        await hf.remote_eval(sometimes, 0, path)
        assert [await hf.remote_eval(sometimes, 1, path) for _ in range(2)] == [first, early]
    del slow


async def test_another_try_draws_the_same(tmp_path: Path) -> None:
    """After an exception and after a crash; within one evaluation each call gives the same, and children of it."""

    def fails(path: str) -> list[int]:
        drawn = draw()
        with open(path, "a") as file:
            file.write(f"{drawn}\n")
        tries = len(Path(path).read_text().splitlines())
        if tries == 1:
            raise ValueError
        if tries == 2:
            os._exit(1)
        children = hf.seed_sequence().spawn(2)
        return [drawn, draw(), *(int(np.random.default_rng(child).integers(1 << 60)) for child in children)]

    for open_job, tries in ((local, 3), (open_inline_job, 0)):
        path = tmp_path / "tries"
        if not tries:
            path.write_text("inline\ninline\n")
        async with open_job(cpus=1):
            drawn = await hf.remote_eval(fails, str(path)).using(retries=2)
        assert len({*path.read_text().split()} - {"inline"}) == 1
        assert len({*drawn}) == 3
        assert drawn[0] == drawn[1]
        path.unlink()


def capturing(where: object) -> list[Any]:
    """Return lambdas that captured something, in a closure, as a default, within a decorator."""
    return [
        lambda: (draw(), where)[0],
        lambda _=where: draw() + 0,
        functools.wraps(lambda: draw() - 0 * len(str(where)))(lambda: draw() + len(str(where)) - len(str(where))),
        functools.partial(lambda _, x: (draw(x), where)[0], 1, x=2),
    ]


async def test_what_a_lambda_captured_does_not_count(tmp_path: Path) -> None:
    """Where its temporary directory is, for example; its code counts, because all lambdas have one name."""
    for open_job in (local, open_inline_job):
        found: list[list[int]] = []
        for where in (tmp_path / "a", tmp_path / "b", [1, 2]):
            async with open_job(cpus=1):
                found.append([await hf.remote_eval(fn) for fn in capturing(where)])
        assert found[0] == found[1] == found[2]
        assert len({*found[0]}) == 4


async def test_an_argument_that_was_put_counts() -> None:
    """By what it contains, as any other; not by the name that it has in this run."""
    drawn: list[list[int]] = []
    for _ in range(2):
        async with open_inline_job():
            drawn.append([await hf.remote_eval(draw, hf.put({"a", "b", n})) for n in range(2)])
    assert drawn[0] == drawn[1]
    assert len({*drawn[0]}) == 2


async def test_where_there_is_none() -> None:
    """Outside of a run, in a process or thread of an evaluation, without numpy: the error says what to do."""
    with pytest.raises(hf.NotInFlow, match=r"seed_sequence\(\) was awaited where nothing runs it"):
        hf.seed_sequence()

    def in_thread() -> None:
        import concurrent.futures

        with concurrent.futures.ThreadPoolExecutor() as pool:
            pool.submit(hf.seed_sequence).result()

    def without_numpy() -> None:
        sys.modules["numpy.random"] = None  # type: ignore[assignment]
        hf.seed_sequence()

    async with local(cpus=1):
        with pytest.raises(hf.MisuseError, match="hand a child of it on"):
            await hf.remote_eval(in_thread)
        with pytest.raises(hf.ConfigurationError, match=r"seed_sequence\(\) needs numpy .*pip install numpy"):
            await hf.remote_eval(without_numpy).using(fresh_process=True)


def test_the_same_in_each_process(tmp_path: Path) -> None:
    """A script draws the same numbers again, whatever the hash seed is; its Slurm jobs draw different ones."""
    source = """
import attrs, hyperflow as hf, numpy as np

@attrs.frozen
class Point:
    x: int
    names: frozenset

def draw(*_):
    return int(np.random.default_rng(hf.seed_sequence()).integers(1 << 60))

@hf.job
async def scan(n: int) -> list[int]:
    same = [draw(), *await hf.replicate_concurrently(2, hf.remote_eval(draw))]
    point = Point(n, frozenset("abc"))
    return [*same, await hf.remote_eval(draw, point), await hf.remote_eval(draw, {"x", "y"})]

@hf.cluster
async def program(times: int = 2) -> list[int]:
    found = [await hf.remote_eval_job(scan(1)) for _ in range(times)]
    found += [await hf.remote_eval_job(scan(2)), await hf.remote_eval_job(scan(1)).using(seed=5)]
    return [*sum(found, []), draw()]

hf.main(program)
"""
    texts = [
        run_script(tmp_path, source, "--local", "--on-error", "raise", PYTHONHASHSEED=seed).splitlines()[-1]
        for seed in ("1", "2")
    ]
    assert texts[0] == texts[1]
    numbers = [int(word) for word in texts[0].strip("[]").split(",")]
    assert len(numbers) == len({*numbers}) == 21


async def test_nothing_is_counted_for_those_that_do_not_ask() -> None:
    """And of those that ask the head keeps a number for each different call."""
    async with local(cpus=1) as env:
        await hf.map_concurrently(lambda n: hf.remote_eval(abs, n), range(100))
        streams: Any = env.evaluator.streams
        assert not streams.asking
        await hf.map_concurrently(lambda n: hf.remote_eval(draw, n), range(10))
        await hf.map_concurrently(lambda n: hf.remote_eval(abs, n), range(100))
        assert streams.asking == {"draw"}
        assert len(streams._equal) == 10


def test_numpy_is_imported_when_it_is_needed() -> None:
    """Not with hyperflow."""
    code = "import sys, hyperflow as hf; hf.seed_sequence; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
