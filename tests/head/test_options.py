"""fresh_process, retries, time_limit, and cancelling, which is killing."""

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

import hyperflow as hf
from tests import functions as f
from tests.helpers import alive, wait_until
from tests.support import Gate, local, wait_at

# ---- fresh_process -------------------------------------------------------------------------------------------------


async def test_fresh_process() -> None:
    """Each evaluation has a process of its own, which knows nothing of an earlier one and is gone afterwards."""
    async with local() as env:
        flow = hf.remote_eval(lambda: (os.getpid(), f.count_up())).using(fresh_process=True)
        ran = [*await hf.replicate_concurrently(20, flow), await flow]
        assert len({pid for pid, _ in ran}) == 21
        assert {count for _, count in ran} == {1}
        await wait_until(lambda: not any(alive(pid) for pid, _ in ran), 10, "the processes have ended")
        reused = await hf.replicate_concurrently(20, hf.remote_eval(os.getpid))
        assert len(set(reused)) <= 2
        await wait_until(lambda: env.statistics().cpus_free == 2, 10, "the CPUs are back")


async def test_fresh_process_that_does_not_end() -> None:
    """A fresh process whose exit handlers never return gives its result, and its CPU back."""

    def lingers() -> int:
        import atexit

        atexit.register(time.sleep, 1000)
        return os.getpid()

    async with local(cpus=1):
        async with asyncio.timeout(40):
            first = await hf.remote_eval(lingers).using(fresh_process=True)
            assert await hf.remote_eval(os.getpid) != first
        assert not alive(first)


async def test_fresh_processes_that_die() -> None:
    """A crash in a fresh process is charged to its evaluation, and the CPU comes back each time."""
    async with local(cpus=1):
        for _ in range(10):
            with pytest.raises(hf.WorkerDied):
                await hf.remote_eval(f.die, "exit 0").using(fresh_process=True)
        assert await hf.remote_eval(f.add, 1) == 1


# ---- retries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "SIGKILL", "exit 0"])
async def test_retries(tmp_path: Path, how: str) -> None:
    """An evaluation that raises or whose worker dies is started again, only as often as asked; each is counted."""
    async with local() as env:
        assert await hf.remote_eval(f.attempts, str(tmp_path / "a"), 2, how).using(retries=2) == 3
        assert env.statistics().retried == 2
        assert env.statistics().failed == 0
        kind = f.Boom if how == "raise" else hf.WorkerDied
        with pytest.raises(kind) as caught:
            await hf.remote_eval(f.attempts, str(tmp_path / "b"), 9, how).using(retries=3)
        assert "(tried 4 times)" in caught.value.__notes__
        assert (tmp_path / "b").read_text() == "xxxx"
        assert env.statistics().retried == 5
        assert env.statistics().failed == 1
        with pytest.raises(kind) as caught:
            await hf.remote_eval(f.attempts, str(tmp_path / "c"), 9, how)
        assert not any("tried" in note for note in getattr(caught.value, "__notes__", ()))
        assert (tmp_path / "c").read_text() == "x"


async def test_retries_with_fresh_process(tmp_path: Path) -> None:
    """A retry in fresh processes has a new process each time."""
    async with local():
        options = {"retries": 3, "fresh_process": True}
        assert await hf.remote_eval(f.attempts, str(tmp_path / "a"), 3, "SIGKILL").using(**options) == 4


async def test_no_retry_of_what_cannot_get_better(tmp_path: Path) -> None:
    """sys.exit() and an unpicklable result are final."""

    def leaves(path: str) -> None:
        f.attempts(path, 0, "raise")
        raise SystemExit(1)

    def lock(path: str) -> object:
        import threading

        f.attempts(path, 0, "raise")
        return threading.Lock()

    async with local():
        for fn, kind in [(leaves, hf.EvaluationExited), (lock, hf.SerializationError)]:
            path = tmp_path / fn.__name__
            with pytest.raises(kind):
                await hf.remote_eval(fn, str(path)).using(retries=3, time_limit=60)
            assert path.read_text() == "x"


async def test_retries_cover_the_limits(tmp_path: Path) -> None:
    """An evaluation that exceeded its time limit, or ran out of memory, is started again as often as asked."""

    def slow_at_first(path: str) -> int:
        tries = f.attempts(path, 0, "raise")
        if tries < 3:
            time.sleep(1000)
        return tries

    def large_at_first(path: str) -> int:
        tries = f.attempts(path, 0, "raise")
        if tries < 3:
            raise MemoryError
        return tries

    async with local() as env:
        assert await hf.remote_eval(slow_at_first, str(tmp_path / "a")).using(retries=2, time_limit=0.3) == 3
        assert await hf.remote_eval(large_at_first, str(tmp_path / "b")).using(retries=2) == 3
        assert env.statistics().retried == 4
        with pytest.raises(hf.TimeLimitExceeded, match=r"slow_at_first\('"):
            await hf.remote_eval(slow_at_first, str(tmp_path / "c")).using(retries=1, time_limit=0.3)
        assert (tmp_path / "c").read_text() == "xx"


# ---- time_limit ----------------------------------------------------------------------------------------------------


async def test_time_limit_kills_all(tmp_path: Path) -> None:
    """At its time limit an evaluation is killed with all its descendants; the error says so; others run on."""
    path = tmp_path / "pids"
    async with local() as env:
        beside = hf.remote_eval(f.spin, 0.5).start()
        began = time.monotonic()
        with pytest.raises(
            hf.TimeLimitExceeded, match=r"of family\('.*\) ran longer than its time_limit of 0.3 s"
        ) as caught:
            await hf.remote_eval(f.family, str(path)).using(time_limit=0.3)
        assert time.monotonic() - began < 10
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.seconds == 0.3
        assert Path(caught.value.log_file).exists()
        if path.exists():  # a very slow machine was not that far
            assert not any(alive(int(pid)) for pid in path.read_text().split())
        assert await beside == 0.5
        assert await hf.remote_eval(f.add, 1) == 1
        assert env.statistics().failed == 1


async def test_time_limit_is_the_evaluations_own(tmp_path: Path) -> None:
    """Waiting for a CPU does not count; and each of many evaluations at one worker has its limit anew."""
    gate = Gate(tmp_path)
    async with local(cpus=1):
        first = hf.remote_eval(wait_at, gate.path).start()
        await gate.wait_inside()
        queued = [hf.remote_eval(f.spin, 0.05).using(time_limit=5.0).start() for _ in range(3)]
        unlimited = [hf.remote_eval(f.spin, 0.01).start() for _ in range(3)]
        await asyncio.sleep(0)
        many = [hf.remote_eval(f.identity, n).using(time_limit=0.9).start() for n in range(500)]
        gate.open()
        await first
        assert await asyncio.gather(*queued, *unlimited) == [0.05] * 3 + [0.01] * 3
        assert await asyncio.gather(*many) == list(range(500))


@pytest.mark.parametrize("limit", [float("inf"), 40 * 86400, 1e300])
async def test_endless_time_limit(limit: float) -> None:
    """A time limit beyond all bounds is none."""
    async with local():
        assert await hf.remote_eval(f.spin, 0.01).using(time_limit=limit) == 0.01


async def test_time_limit_of_code_that_holds_the_gil() -> None:
    """A loop in C that never gives Python a chance is killed too."""

    def endless() -> None:
        import itertools

        sum(itertools.repeat(0))

    async with local(cpus=1):
        with pytest.raises(hf.TimeLimitExceeded):
            await hf.remote_eval(endless).using(time_limit=0.2)
        assert await hf.remote_eval(f.add, 1) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit": 0},
        {"time_limit": -1},
        {"time_limit": float("nan")},
        {"retries": -1},
        {"retries": 1.0},
        {"fresh_process": 1},
        {"cores": 1},
    ],
)
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    """A bad option is refused when the flow is made, by name."""
    with pytest.raises((hf.ConfigurationError, TypeError), match=next(iter(options))):
        hf.remote_eval(f.identity, 1).using(**options)


# ---- cancelling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stubborn", [False, True])
async def test_cancelling_kills_the_family(tmp_path: Path, stubborn: bool) -> None:
    """Cancelling ends children and grandchildren, also such as ignore SIGTERM; only then the CPUs return."""
    path = tmp_path / "pids"
    async with local(cpus=1) as env:
        future = hf.remote_eval(f.family, str(path), stubborn).start()
        await wait_until(path.exists, 20, "the family")
        pids = [int(pid) for pid in path.read_text().split()]
        assert len(pids) == 5
        assert all(map(alive, pids))
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert env.statistics().cpus_free == 0
        assert not any(await hf.remote_eval(lambda: [os.path.exists(f"/proc/{pid}") for pid in pids]))
        assert env.statistics().cancelled == 1
        assert env.statistics().failed == 0


async def test_cancelling_a_busy_loop_and_a_sleeper() -> None:
    """asyncio.timeout and race cancel what runs; the CPU is free again soon."""
    async with local(cpus=1):
        for fn in (f.spin, time.sleep):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await hf.remote_eval(fn, 1000)
            assert await hf.remote_eval(f.add, 1) == 1
            assert time.monotonic() - began < 10
        assert await hf.race(hf.remote_eval(f.identity, 5), hf.remote_eval(time.sleep, 1000)) == 5


async def test_many_cancels() -> None:
    """Of thousands of evaluations cancelled at random, waiting, queued or running, no other one is harmed or lost."""
    choice = random.Random(1)
    async with local() as env:
        for _ in range(4):
            futures = [hf.remote_eval(f.identity, n).start() for n in range(1000)]
            doomed: set[int] = set()
            while not all(future.done() for future in futures):
                for n in choice.sample(range(1000), 20):
                    if not futures[n].done() and len(doomed) < 300:
                        futures[n].cancel()
                        futures[n].cancel()  # once more does no harm
                        doomed.add(n)
                await asyncio.sleep(0)
            got = await asyncio.gather(*futures, return_exceptions=True)
            assert {n for n, g in enumerate(got) if isinstance(g, asyncio.CancelledError)} == doomed
            assert [g for n, g in enumerate(got) if n not in doomed] == [n for n in range(1000) if n not in doomed]
        await wait_until(lambda: env.statistics().cpus_free == 2, 20, "the CPUs are back", state=env.statistics)
        assert env.statistics().running == env.statistics().waiting == 0


async def test_cancelling_what_has_ended() -> None:
    """Cancelling after the end does nothing, and kills nobody."""
    async with local(cpus=1) as env:
        future = hf.remote_eval(os.getpid).start()
        pid = await future
        assert not future.cancel()
        assert await hf.remote_eval(os.getpid) == pid
        assert env.statistics().cancelled == 0


async def test_cancelled_while_it_is_recalled(tmp_path: Path) -> None:
    """A queued evaluation that is cancelled never runs, and its worker is not killed for it."""
    gate = Gate(tmp_path)
    ran = tmp_path / "ran"

    def perhaps(block: bool, path: str | None = None) -> int:
        if path:
            Path(path).touch()
        if block:
            wait_at(gate.path)
        return os.getpid()

    async with local(cpus=1) as env:
        (pid,) = set(await hf.map_concurrently(lambda n: hf.remote_eval(perhaps, False), range(100)))
        blocking = hf.remote_eval(perhaps, True).start()
        queued = hf.remote_eval(perhaps, False, str(ran)).start()
        await gate.wait_inside()
        queued.cancel()
        (worker,) = env.evaluator.scheduler.workers.values()
        await wait_until(lambda: len(worker.queue) == 1, 10, "the retract's answer")
        gate.open()
        assert await blocking == pid
        assert await hf.remote_eval(perhaps, False) == pid
        assert not ran.exists()


async def test_daemons_are_gone_after_the_run(tmp_path: Path) -> None:
    """A process that left its session and its parents is ended with its worker, at the latest with the run."""
    path = tmp_path / "pid"
    async with local():
        pid = await hf.remote_eval(f.daemon, str(path))
        assert alive(pid)
        fresh = await hf.remote_eval(f.daemon, str(path)).using(fresh_process=True)
    assert not alive(pid)
    assert not alive(fresh)
