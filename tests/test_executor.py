"""concurrent.futures over an environment: the standard library's rules, and what is ours."""

import asyncio
import concurrent.futures as cf
import decimal
import functools
import gc
import os
import random
import signal
import threading
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow import executor
from hyperflow.testing import open_inline_job
from tests.helpers import alive, block_until, wait_until
from tests.support import run_script


def square(x: int) -> int:
    """Return a square."""
    return x * x


def wait_for(path: str) -> str:
    """Run until a file is there."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return path


@hf.job
async def a_job() -> int:
    """Return a number."""
    return 1


def die() -> None:
    """End the worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_in_place_of_a_process_pool() -> None:
    """What the standard library's executors do, with functions that need not be importable."""
    offset = 10
    with hf.Executor(max_workers=2) as pool:
        assert pool.submit(square, 3).result() == 9
        assert list(pool.map(lambda x, y: x + y + offset, range(5), range(5))) == [10, 12, 14, 16, 18]
        assert list(pool.map(square, range(100), chunksize=7)) == [x * x for x in range(100)]
        assert sorted(f.result() for f in cf.as_completed([pool.submit(square, x) for x in range(5)])) == [
            0,
            1,
            4,
            9,
            16,
        ]
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
        with pytest.raises(ValueError, match="chunksize"):
            pool.map(square, [1], chunksize=0)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(square, 1)


def test_a_crash_fails_its_own_future_only() -> None:
    """The pool is not broken by a worker that dies, as a ProcessPoolExecutor is."""
    with hf.Executor(max_workers=2) as pool:
        crashing = pool.submit(die)
        others = [pool.submit(square, x) for x in range(20)]
        with pytest.raises(hf.WorkerDied):
            crashing.result()
        assert [other.result() for other in others] == [x * x for x in range(20)]
        assert pool.submit(square, 7).result() == 49


def test_cancel_is_honest(tmp_path: Path) -> None:
    """What cancel() took back never runs; what it did not, does."""
    gate = str(tmp_path / "go")

    def marks(x: int) -> int:
        wait_for(gate)
        (tmp_path / str(x)).touch()
        return x

    with hf.Executor(max_workers=1) as pool:
        futures = [pool.submit(marks, x) for x in range(10)]
        block_until(futures[0].running, 10, "one runs")
        cancelled = {x for x, future in enumerate(futures) if future.cancel()}
        Path(gate).touch()
        cf.wait(futures)
    assert 0 not in cancelled
    assert 9 in cancelled
    assert {int(path.name) for path in tmp_path.iterdir() if path.name != "go"} == set(range(10)) - cancelled


def test_shutdown_that_cancels(tmp_path: Path) -> None:
    """With cancel_futures, what has not begun is cancelled, and what has is waited for."""
    gate = tmp_path / "go"
    pool = hf.Executor(max_workers=1)
    futures = [pool.submit(wait_for, str(gate)) for _ in range(5)]
    block_until(futures[0].running, 10, "one runs")
    pool.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    assert futures[0].result() == str(gate)
    assert futures[-1].cancelled()
    pool.shutdown()


def test_the_initializer_runs_once_in_each_worker(tmp_path: Path) -> None:
    """What it sets is there for all calls; one that fails breaks the executor, which says so."""

    def prepare(word: str) -> None:
        os.environ["PREPARED"] = word
        (tmp_path / str(os.getpid())).touch()

    def prepared(_: int) -> tuple[int, str]:
        return os.getpid(), os.environ["PREPARED"]

    with hf.Executor(max_workers=2, initializer=prepare, initargs=("yes",)) as pool:
        seen = list(pool.map(prepared, range(50)))
    assert {word for _, word in seen} == {"yes"}
    assert {str(pid) for pid, _ in seen} == {path.name for path in tmp_path.iterdir()}

    def fails() -> None:
        raise ValueError("not today")

    broken = hf.Executor(max_workers=1, initializer=fails)
    with pytest.raises(cf.BrokenExecutor, match="ValueError: not today"):
        broken.submit(square, 1).result()
    with pytest.raises(cf.BrokenExecutor, match="not today"):
        broken.submit(square, 2).result()
    broken.shutdown()


def test_what_an_initializer_sets_stays() -> None:
    """In the environment, the random generator, signal handlers, contexts and threads; what calls set is put back."""

    def prepare() -> None:
        os.environ["WORD"] = "initializer"
        random.seed(7)
        decimal.getcontext().prec = 5
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        threading.Thread(target=threading.Event().wait, daemon=True, name="stays").start()

    def look(x: int) -> tuple[Any, ...]:
        there = os.environ["WORD"], decimal.getcontext().prec, signal.getsignal(signal.SIGUSR1), random.getstate()[1][0]
        names = [thread.name for thread in threading.enumerate()]
        os.environ["WORD"] = "call"
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        random.seed(x)
        return (*there, "stays" in names, os.getpid())

    random_7 = random.Random(7).getstate()[1][0]
    with hf.Executor(max_workers=1, initializer=prepare) as pool:
        seen = list(pool.map(look, range(20)))
    assert {each[:-1] for each in seen} == {("initializer", 5, signal.SIG_IGN, random_7, True)}
    assert len({each[-1] for each in seen}) == 1


def test_bad_max_workers() -> None:
    """It is the ValueError that libraries expect, and a ConfigurationError."""
    for wrong in (0, -1, 1.5, "two"):
        with pytest.raises(ValueError, match="greater than 0") as info:
            hf.Executor(max_workers=wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert isinstance(info.value, hf.ConfigurationError)


def test_options_and_bad_ones() -> None:
    """Options are those of using(); one that makes no sense is refused at once."""
    with pytest.raises(hf.ConfigurationError, match="retires"):
        hf.Executor(max_workers=1, retires=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with hf.Executor(max_workers=1, retries=1) as pool:
        with pytest.raises(hf.WorkerDied, match="tried 2 times"):
            pool.submit(die).result()
        with pytest.raises(hf.MisuseError, match="makes flows"):
            pool.submit(a_job)
    with hf.Executor(max_workers=1, time_limit=0.2) as pool, pytest.raises(hf.TimeLimitExceeded):
        pool.submit(time.sleep, 60).result()


def test_a_forked_child_is_told() -> None:
    """In a forked child there is no thread that would work for it."""
    with hf.Executor(max_workers=1) as pool:
        assert pool.submit(square, 2).result() == 4
        child = os.fork()
        if child == 0:
            try:
                pool.submit(square, 3)
            except RuntimeError as error:
                os._exit(7 if "forked child" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_the_last_reference_ends_it() -> None:
    """Without shutdown, the workers end with the executor (the leak gate looks); what was submitted is done."""
    pool = hf.Executor(max_workers=1)
    future = pool.submit(square, 5)
    del pool
    gc.collect()
    assert future.result() == 25


def test_the_end_of_the_interpreter_waits(tmp_path: Path) -> None:
    """What was submitted is done before the interpreter ends, as with the standard library's executors."""
    source = (
        "import hyperflow as hf, pathlib, time\n"
        "def late(path):\n    time.sleep(0.2)\n    path.touch()\n"
        "hf.Executor(max_workers=1).submit(late, pathlib.Path('done').absolute())\n"
    )
    run_script(tmp_path, source)
    assert (tmp_path / "done").exists()


def test_the_end_of_the_interpreter_in_an_environment(tmp_path: Path) -> None:
    """With work pending in an environment that was never closed, the interpreter ends all the same."""
    source = (
        "import asyncio, hyperflow as hf, os, time\n"
        "async def main():\n"
        "    env = await hf.start_local(cpus=1)\n"
        "    pool = env.executor()\n"
        "    print(await asyncio.wrap_future(pool.submit(os.getpid)), flush=True)\n"
        "    return [pool.submit(time.sleep, 1000) for _ in range(5)]\n"
        "loop = asyncio.new_event_loop()\n"
        "futures = loop.run_until_complete(main())\n"
        "loop.call_soon(loop.stop)\n"  # as Jupyter's kernels leave it
    )
    worker = int(run_script(tmp_path, source))
    block_until(lambda: not alive(worker), 10, "the worker has ended")


async def test_over_an_environment() -> None:
    """From the loop by run_in_executor, from threads by result(); shutdown leaves the environment."""
    async with hf.open_local_job(cpus=2) as env:
        with env.executor() as pool:
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(pool, square, 3) == 9
            assert await asyncio.to_thread(lambda: pool.submit(square, 4).result()) == 16
            futures = [asyncio.wrap_future(pool.submit(square, x)) for x in range(100)]
            assert await asyncio.gather(*futures) == [x * x for x in range(100)]
        assert await hf.remote_eval(square, 5) == 25


@pytest.mark.unit
async def test_over_an_inline_environment() -> None:
    """The same in `open_inline_job`: options, failures, threads, a shutdown; what happens is in one process."""
    async with open_inline_job(cpus=2) as env:
        with env.executor(cpus=2, retries=1) as pool:
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(pool, square, 3) == 9
            assert await asyncio.to_thread(lambda: list(pool.map(square, range(20), chunksize=3))) == [
                x * x for x in range(20)
            ]
            with pytest.raises(ZeroDivisionError):
                await asyncio.wrap_future(pool.submit(divmod, 1, 0))
            assert env.statistics().retried == 1
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(square, 1)
        with pytest.raises(hf.ImpossibleRequest):
            await asyncio.wrap_future(env.executor(cpus=3).submit(square, 1))
        assert await hf.remote_eval(square, 5) == 25
        left = env.executor(max_workers=1)
    with pytest.raises(cf.BrokenExecutor, match="was closed"):
        await asyncio.wrap_future(left.submit(square, 1))
    with pytest.raises(cf.BrokenExecutor, match="was closed"):
        left.submit(square, 1)


async def test_waiting_on_the_loop_is_refused() -> None:
    """result() on the event loop would wait for ever: it says so; so does a shutdown with work pending."""
    async with hf.open_local_job(cpus=1) as env:
        pool = env.executor()
        future = pool.submit(square, 3)
        with pytest.raises(hf.MisuseError, match="wrap_future"):
            future.result()
        with pytest.raises(hf.MisuseError, match="wrap_future"):
            pool.shutdown()
        assert await asyncio.wrap_future(future) == 9
        assert future.result() == 9
        pool.shutdown()


async def test_many_submissions_do_not_starve_flows() -> None:
    """What waits here is not in the environment's queue: a flow beside it has its turn."""
    async with hf.open_local_job(cpus=1) as env:
        pool = env.executor()
        futures = [pool.submit(functools.partial(time.sleep, 0.01)) for _ in range(200)]
        assert await hf.remote_eval(square, 3) == 9
        assert sum(future.done() for future in futures) < 100
        pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.wait([asyncio.wrap_future(future) for future in futures])


async def test_an_environment_that_is_closed() -> None:
    """What waited fails with that reason, and what comes is refused."""
    async with hf.open_local_job(cpus=1) as env:
        pool = env.executor()
        idle = env.executor()
        futures = [pool.submit(time.sleep, 60) for _ in range(5)]
        await wait_until(futures[0].running, 10, "one runs")
    ended: list[Any] = [await asyncio.to_thread(future.exception, 10) for future in futures]
    assert all(isinstance(error, cf.BrokenExecutor) for error in ended), ended
    with pytest.raises(RuntimeError):
        pool.submit(square, 1)
    with pytest.raises(cf.BrokenExecutor, match="was closed"):
        await asyncio.wrap_future(idle.submit(square, 1))


def test_inside_an_evaluation() -> None:
    """A function on a worker may open its own executor, on the CPUs that it has."""

    def nested() -> tuple[int, list[int]]:
        with hf.Executor() as pool:
            return pool._max_workers, list(pool.map(square, range(4)))

    assert hf.run_job_local(hf.remote_eval(nested), cpus=1) == (1, [0, 1, 4, 9])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CPUs were asked for", category=RuntimeWarning)
        assert hf.run_job_local(hf.remote_eval(nested).using(cpus=3), cpus=3) == (3, [0, 1, 4, 9])


@pytest.mark.unit
def test_what_waits_takes_little_memory() -> None:
    """Each submission takes less than two kilobytes, of which its future has most."""
    dispatcher = executor.Dispatcher(1)
    pool = executor.EnvironmentExecutor(dispatcher, {})
    pool.submit(square, 0)
    tracemalloc.start()
    futures = [pool.submit(square, 1) for _ in range(2000)]
    each = tracemalloc.get_traced_memory()[0] / len(futures)
    tracemalloc.stop()
    assert each < 2048
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_a_loop_that_has_ended() -> None:
    """A call for an environment whose event loop is gone fails, and shutdown does not wait."""

    async def leave() -> cf.Executor:
        async with hf.open_local_job(cpus=1) as env:
            return env.executor()

    pool = asyncio.run(leave())
    with pytest.raises(cf.BrokenExecutor, match="has ended"):
        pool.submit(square, 1).result(10)
    with pytest.raises(cf.BrokenExecutor, match="has ended"):
        pool.submit(square, 1)
    pool.shutdown()


def test_threads_submit_side_by_side() -> None:
    """submit() may be called from any thread."""
    with hf.Executor(max_workers=2) as pool:
        found: list[int] = []

        def many(first: int) -> None:
            found.extend(pool.map(square, range(first, first + 50)))

        threads = [threading.Thread(target=many, args=(first,)) for first in range(0, 200, 50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == [x * x for x in range(200)]
