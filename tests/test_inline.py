"""The inline environment: what tests of users' programs may rely on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import attrs
import pytest

from hyperflow.checkpoints import time_left
from hyperflow.concurrent import concurrently, map_concurrently, race
from hyperflow.database import KeyValMap, memoize, new_work_dir
from hyperflow.environment import peek, using
from hyperflow.errors import (
    ConfigurationError,
    EvaluationExited,
    HyperflowError,
    ImpossibleRequest,
    MisuseError,
    NotInFlow,
    SerializationError,
    TimeLimitExceeded,
)
from hyperflow.flow import Flow, Job
from hyperflow.options import OptionChanges
from hyperflow.ranks import remote_command
from hyperflow.remote import remote_eval, remote_map
from hyperflow.testing import open_inline_job
from hyperflow.worker.worker import worker_info

running: dict[str, asyncio.Event] = {}
"""Who runs, and what ends them: functions of this module travel by name, so they see this very dictionary."""


async def waits(name: str) -> str:
    """Run until somebody says so."""
    running[name] = asyncio.Event()
    try:
        await running[name].wait()
    finally:
        del running[name]
    return name


async def turns(count: int) -> None:
    """Let the event loop go on until so many run."""
    async with asyncio.timeout(40):
        while len(running) != count:  # noqa: ASYNC110 (a turn each for those that are to run)
            await asyncio.sleep(0)


def double(x: int) -> int:
    """Double."""
    return 2 * x


def sees_nothing() -> bool:
    """Say whether no environment is in force."""
    return peek() is None


async def test_evaluations_and_maps() -> None:
    """Plain and async functions, closures, chunks."""
    n = 3

    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x * n

    async with open_inline_job(cpus=2) as env:
        assert await remote_eval(double, 4) == 8
        assert await remote_eval(lambda x: x * n, 4) == 12
        assert await remote_map(later, range(10), chunk_size=3) == [3 * x for x in range(10)]
        assert await map_concurrently(lambda x: remote_eval(double, x), range(50)) == [2 * x for x in range(50)]
        statistics = env.statistics()
        assert (statistics.done, statistics.cpus, statistics.cpus_free, statistics.waiting) == (2 + 4 + 50, 2, 2, 0)
    assert peek() is None


async def test_nothing_is_shared_by_accident() -> None:
    """A function gets copies and sees no environment, as on a worker; `ship=False` lets a test look inside."""
    seen: list[int] = []

    def note(xs: list[int]) -> list[int]:
        seen.append(1)
        xs.append(1)
        return xs

    xs: list[int] = []
    async with open_inline_job():
        assert await remote_eval(note, xs) == [1]
        assert (xs, seen) == ([], [])
        assert await remote_eval(lambda: len(seen)) == 0
        read = remote_eval(lambda: list(xs))
        assert await read == []
        xs.append(7)
        assert await read == [7]
        xs.clear()
        assert await remote_eval(sees_nothing)
    async with open_inline_job(ship=False):
        assert await remote_eval(note, xs) is xs
        assert (xs, seen) == ([1], [1])


async def test_what_cannot_be_shipped_fails() -> None:
    """Functions, arguments and results, with the words of the real engine; without shipping nothing is in the way."""
    lock = threading.Lock()
    cases: list[tuple[Flow[Any], str]] = [
        (remote_eval(lambda: lock.locked()), "variable 'lock' captured by"),  # noqa: PLW0108
        (remote_eval(str, [lock]), r"an argument of str .*\[0\]\[0\]"),
        (remote_eval(lambda: threading.Lock()), r"the result of .*<lambda>\(\) cannot be sent"),  # noqa: PLW0108
    ]
    for flow, words in cases:
        async with open_inline_job():
            with pytest.raises(SerializationError, match=words):
                await flow
        async with open_inline_job(ship=False):
            await flow


async def test_no_more_run_than_there_are_cpus() -> None:
    """First come, first served, by the CPUs that each asks for; a large one is not starved."""
    async with open_inline_job(cpus=3) as env:
        flows: list[Job[str]] = [remote_eval(waits, name) for name in "abcd"]
        futures = [flows[0].start(), flows[1].using(cpus=3).start(), flows[2].start(), flows[3].start()]
        await turns(1)
        assert env.statistics().waiting == 3
        running["a"].set()
        await futures[0]
        await turns(1)
        running["b"].set()
        await futures[1]
        await turns(2)
        assert set(running) == {"c", "d"}
        futures[2].cancel()
        running["d"].set()
        assert await futures[3] == "d"
        assert (env.statistics().cpus_free, env.statistics().cancelled) == (3, 1)


async def test_cancelling_ends_an_async_evaluation() -> None:
    """And one that waits for its CPUs gives up its place."""
    async with open_inline_job() as env:
        race_ = asyncio.ensure_future(_awaited(race(remote_eval(waits, "a"), remote_eval(waits, "b"))))
        await turns(1)
        race_.cancel()
        with pytest.raises(asyncio.CancelledError):
            await race_
        assert running == {}
        assert await remote_eval(double, 1) == 2
        assert env.statistics().cpus_free == 1


async def _awaited(flow: Flow[Any]) -> Any:
    return await flow


async def test_the_end_of_the_scope_ends_everything() -> None:
    """What still runs is cancelled and awaited; nothing can be submitted any more."""
    async with open_inline_job(cpus=2) as env:
        future = remote_eval(waits, "a").start()
        await turns(1)
    assert future.cancelled()
    assert running == {}
    assert not env.program.data_dir.exists()
    with pytest.raises(NotInFlow):
        await remote_eval(double, 1)
    with pytest.raises(HyperflowError, match="was closed"):
        env.evaluator.submit(double, (1,), {}, env.options)


async def test_options() -> None:
    """Impossible requests are refused at once, retries are counted, a time limit holds for async functions."""
    attempts: list[int] = []

    def fails() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("not yet")
        return len(attempts)

    async with open_inline_job(cpus=2, ship=False) as env:
        with pytest.raises(ImpossibleRequest, match=r"using\(cpus=3\).* 2 CPUs"):
            remote_eval(double, 1).using(cpus=3).start()
        with pytest.raises(OSError, match="not yet") as caught:
            await remote_eval(fails).using(retries=1)
        assert "(tried 2 times)" in caught.value.__notes__
        assert await remote_eval(fails).using(retries=1) == 3
        assert env.statistics().retried == 1
        with pytest.raises(TimeLimitExceeded, match=r"waits\('a'\) ran longer than its time_limit of 0\.01 s"):
            await remote_eval(waits, "a").using(time_limit=0.01, retries=5)
        assert env.statistics().retried == 6  # a time limit is tried again, too
        with pytest.raises(EvaluationExited, match=r"SystemExit\(3\)"):
            await remote_eval(exit, 3)
        assert env.statistics().cpus_free == 2


async def test_gpus_memory_and_tokens() -> None:
    """They are counted as on real nodes: who finds none waits, and who could never have them is refused."""
    async with open_inline_job(cpus=4, gpus=["0"], memory="4G", resources={"licence": 2}, ship=False) as env:
        inside: list[tuple[float, float]] = []

        async def look() -> None:
            stands = env.statistics()
            inside.append((stands.gpus_free, stands.tokens_free["licence"]))
            await asyncio.sleep(0)

        with using(gpus=0.5, resources={"licence": 1}):
            await concurrently(*(remote_eval(look) for _ in range(4)))

        assert len(inside) == 4
        assert min(inside) >= (0.0, 0)
        assert (env.statistics().gpus_free, env.statistics().tokens_free) == (1, {"licence": 2})
        many: list[OptionChanges] = [
            {"gpus": 2},
            {"memory": "5G"},
            {"resources": {"licence": 3}},
            {"resources": {"other": 1}},
        ]
        for wrong in many:
            with pytest.raises(ImpossibleRequest):
                await remote_eval(abs, 1).using(**wrong)


async def test_options_about_nodes_have_no_effect_here() -> None:
    """There are no nodes to lose, and no CPU that idles: what is asked for is accepted."""
    async with open_inline_job(cpus=2) as env:
        with using(crash_limit=1, straggler_factor=1.5):
            assert await map_concurrently(lambda x: remote_eval(double, x), range(30)) == [2 * x for x in range(30)]
        assert (env.statistics().copied, env.statistics().nodes_aside) == (0, 0)


async def test_results_and_work_dirs() -> None:
    """Maps, memoized functions and work directories are there for the time of the scope."""

    @attrs.frozen
    class Point:
        x: int

    calls: list[int] = []

    @memoize("squares", version=1)
    def square(x: int) -> Job[int]:
        calls.append(x)
        return remote_eval(pow, x, 2)

    squares: KeyValMap[int, int] = KeyValMap("numbers", key=int, value=int)
    async with open_inline_job():
        assert await concurrently(square(3), square(3)) == (9, 9)
        assert await square(3) == 9
        assert calls == [3]
        await squares.insert(1, 1)
        await squares.insert(1, 2)
        assert await squares.lookup(1) == 2
        assert dict(await squares.lookup_all()) == {1: 2}
        directory = await new_work_dir(Point(1))
        assert directory.is_dir()
    async with open_inline_job():
        assert await squares.lookup(1) is None
    assert not directory.exists()


@pytest.mark.parametrize("cpus", [0, -1, True, 1.5])
async def test_nonsense_is_refused(cpus: Any) -> None:
    """As by the real thing."""
    with pytest.raises(ConfigurationError, match="cpus="):
        async with open_inline_job(cpus=cpus):
            pass


async def test_what_there_is_is_counted() -> None:
    """GPUs, memory and tokens are waited for, larger priorities first; more than there is is refused."""
    begun: list[str] = []

    async def note(name: str) -> str:
        begun.append(name)
        await asyncio.sleep(0)
        return name

    async with open_inline_job(cpus=4, gpus=["0"], memory="8G", resources={"licence": 1}, ship=False) as env:

        async def one(name: str, **asked: Any) -> str:
            return await remote_eval(note, name).using(**asked)

        licensed = [one("a", resources={"licence": 1}), one("b", resources={"licence": 1})]
        large = [one("c", memory="8G"), one("d", gpus=1, priority=1), one("e", gpus=0.5, priority=2)]
        assert await asyncio.gather(*licensed, *large) == ["a", "b", "c", "d", "e"]
        assert begun.index("e") < begun.index("d") < begun.index("c")
        for refused in ({"gpus": 2}, {"memory": "9G"}, {"resources": {"licence": 2}}, {"nodes": 2}, {"cpus": 5}):
            with pytest.raises(ImpossibleRequest, match=f"using.{next(iter(refused))}="):
                await one("f", **refused)
        waits = asyncio.ensure_future(one("g", gpus=1))
        await asyncio.sleep(0)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        await asyncio.sleep(0)
        assert env.statistics().cpus_free == 4


async def test_worker_info() -> None:
    """A function sees what it has, and which try it is; the job itself is no worker."""

    def info() -> Any:
        here = worker_info()
        if here.attempt == 1:
            raise ValueError(here)
        return here

    async with open_inline_job(cpus=2, gpus=["0"], memory="1G"):
        here = await remote_eval(info).using(cpus=2, gpus=0.5, memory="1M", retries=1)
        with pytest.raises(MisuseError):
            _ = worker_info()
    assert (here.service_id, here.cpus, here.gpus) == ("inline", (0, 1), ("0",))
    assert (here.memory, here.attempt, here.pinned, here.log_file) == (1 << 20, 2, False, "")


async def test_durations_as_people_write_them() -> None:
    """A time limit is a number of seconds, or a text as in `min_time`."""

    async def left() -> float:
        return time_left()

    async with open_inline_job():
        assert 80 < await remote_eval(left).using(time_limit="1m30s") <= 90
        for wrong in ("soon", "", 0, -1):
            with pytest.raises(ConfigurationError, match=r'time_limit=.*"10m"'):
                await remote_eval(left).using(time_limit=wrong)


async def test_a_generator_as_a_result() -> None:
    """The error leads to remote_stream."""

    def numbers() -> Any:
        yield 1

    async with open_inline_job():
        with pytest.raises(SerializationError, match=r"async for x in hyperflow\.remote_stream"):
            await remote_eval(numbers)


@pytest.mark.process
async def test_a_command_has_its_programs_name() -> None:
    """Unless it was given another one."""
    async with open_inline_job() as env:
        await remote_command(["/bin/echo", "1"], capture=True)
        await remote_command(["echo", "1"], capture=True).using(name="two")
        assert set(env.statistics().functions) == {"echo", "two"}
