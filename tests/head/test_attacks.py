"""Functions that misbehave on purpose or by accident, and storms: nothing hangs, leaks, is lost or wrongly charged."""

import asyncio
import contextlib
import gc
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from tests import functions as f
from tests.helpers import alive, block_until, wait_until
from tests.support import local


async def launcher_of(env: hf.JobEnv) -> int:
    """Return the pid of a local run's launcher, which is not waited for when the run begins."""
    (link,) = env.evaluator.fleet.links.values()  # type: ignore[attr-defined]
    greeting = await wait_until(lambda: link.greeting, 10, "the launcher has answered")
    return int(greeting.pid)


async def goes_on(env: hf.JobEnv) -> None:
    """Check that the run is well: plain and async functions, on all CPUs."""
    flows = [hf.remote_eval((f.add, f.add_async)[n % 2], n) for n in range(40)]
    assert list(await hf.concurrently(*flows)) == list(range(40))


async def test_workers_killed_at_random(tmp_path: Path) -> None:
    """2,000 evaluations whose workers are killed with -9 again and again: with retries, each has its own result."""
    choice = random.Random(7)

    def work(n: int) -> int:
        f.spin(0.001)
        return n

    async with local() as env:
        futures = [hf.remote_eval(work, n).using(retries=50).start() for n in range(2000)]
        launcher = await launcher_of(env)
        killed = 0
        while not all(future.done() for future in futures):
            workers = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and parent(int(pid)) == launcher]
            if workers:
                with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(choice.choice(workers), signal.SIGKILL)
                killed += 1
            await asyncio.sleep(0.02)
        assert await asyncio.gather(*futures) == list(range(2000))
        stats = env.statistics()
        assert killed > 10
        assert stats.failed == 0
        assert 0 < stats.retried <= killed
        await wait_until(lambda: env.statistics().cpus_free == 2, 10, "the CPUs are back", state=env.statistics)


def parent(pid: int) -> int:
    """Return the parent of a process, 0 if it has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


async def test_garbage_collection_storm() -> None:
    """Evaluations that nobody keeps a reference to but the loop are neither collected nor lost."""
    got: list[int] = []
    async with local() as env:

        async def one(n: int) -> None:
            got.append(await hf.remote_eval(lambda: n))

        waiting = [asyncio.ensure_future(one(n)) for n in range(30)]
        while not all(task.done() for task in waiting):
            gc.collect()
            await asyncio.sleep(0)
        for n in range(30):
            hf.remote_eval(f.identity, n).start()
        gc.collect()
        await wait_until(lambda: env.statistics().done == 60, 20, "all are done", state=env.statistics)
    assert sorted(got) == list(range(30))


@pytest.mark.parametrize("child", ["returns", "raises", "exits"])
async def test_fork_inside_a_function(child: str) -> None:
    """A child that a function forked and that comes back out of it does not answer in its parent's place."""

    def forks() -> str:
        pid = os.fork()
        if pid == 0:
            if child == "raises":
                raise RuntimeError("in the child")
            if child == "exits":
                sys.exit(5)
            return "child"
        os.waitpid(pid, 0)
        return "parent"

    async with local(cpus=1) as env:
        for _ in range(5):
            assert await hf.remote_eval(forks) == "parent"
        await goes_on(env)
        assert env.statistics().late == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_multiprocessing_inside_a_function(method: str) -> None:
    """A function may use a process pool of its own; what it leaves of it ends with the worker."""

    def pool() -> tuple[list[int], list[int]]:
        import multiprocessing

        kept = multiprocessing.get_context(method).Pool(2)
        print("kept", file=open(os.devnull, "w"))
        globals()["kept"] = kept
        return kept.map(abs, range(-10, 0)), [p.pid for p in multiprocessing.active_children()]

    async with local(cpus=1) as env:
        got, pids = await hf.remote_eval(pool)
        assert got == list(range(10, 0, -1))
        await goes_on(env)
    assert not any(map(alive, pids))


async def test_threads_inside_a_function() -> None:
    """Threads that a function leaves running disturb neither later evaluations nor the end."""

    def threads() -> int:
        import threading

        for _ in range(5):
            threading.Thread(target=time.sleep, args=(1000,)).start()
        threading.Thread(target=lambda: 1 / 0).start()
        return threading.active_count()

    began = time.monotonic()
    async with local(cpus=1) as env:
        assert await hf.remote_eval(threads) >= 6
        await goes_on(env)
        assert await hf.remote_eval(threads).using(fresh_process=True) >= 6
    assert time.monotonic() - began < 10


async def test_function_closes_the_loop() -> None:
    """A function that closes, stops or replaces the worker's event loop harms later async functions in no way."""

    def closes() -> None:
        asyncio.get_event_loop_policy().get_event_loop().close()

    async def stops() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)

    def runs_own() -> int:
        return asyncio.run(f.add_async(1, 2))

    async with local(cpus=1) as env:
        assert await hf.remote_eval(f.add_async, 1) == 1
        await hf.remote_eval(closes)
        await goes_on(env)
        with pytest.raises(RuntimeError):
            await hf.remote_eval(stops)
        await goes_on(env)
        assert await hf.remote_eval(runs_own) == 3
        await goes_on(env)


async def test_function_changes_its_process() -> None:
    """Signal handlers, limits, streams, working directory and more that functions change do not stop the worker."""

    def changes() -> int:
        import signal
        import threading

        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(signum, signal.SIG_IGN)
        os.chdir("/")
        os.environ.clear()
        os.umask(0o777)
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
        sys.argv.clear()
        sys.setrecursionlimit(100)
        threading.stack_size(65536)
        gc.disable()
        sys.settrace(lambda *_: None)
        return os.getpid()

    async with local(cpus=1) as env:
        pid = await hf.remote_eval(changes)
        await goes_on(env)
        future = hf.remote_eval(f.spin, 1000).start()
        await wait_until(lambda: env.statistics().running == 1, 10, "it runs")
        future.cancel()
        await goes_on(env)
        assert not alive(pid)


async def test_function_in_a_group_of_its_own() -> None:
    """A function that leaves the process group, or whose children do, is still ended with all of them."""

    def leaves(path: str) -> None:
        import subprocess

        child = subprocess.Popen(["sleep", "1000"], process_group=0)
        other = subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000"], start_new_session=True)
        with open(path, "w") as file:
            file.write(f"{child.pid} {other.pid}")
        time.sleep(1000)

    import tempfile

    async with local(cpus=1) as env:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "pids"
            future = hf.remote_eval(leaves, str(path)).start()
            await wait_until(lambda: path.exists() and path.read_text().count(" "), 20, "the children")
            pids = [int(pid) for pid in path.read_text().split()]
        future.cancel()
        await goes_on(env)
        await wait_until(lambda: not any(map(alive, pids)), 10, "the children have ended")


async def test_odd_values() -> None:
    """Answers are what was asked for, also of functions that answer in odd types."""
    odd: list[Any] = [
        None,
        NotImplemented,
        ...,
        True,
        int,
        f.add,
        f.Adder,
        {1: {2}},
        b"",
        "",
        (),
        [[], {}],
        -0.0,
        float("inf"),
    ]
    async with local() as env:
        for value in odd:
            assert await hf.remote_eval(lambda value=value: value) == value
            assert await hf.remote_eval(f.identity, value) == value
        await goes_on(env)


async def test_returned_flow_and_coroutine() -> None:
    """A function that returns a coroutine is awaited on the worker."""
    async with local():
        assert await hf.remote_eval(lambda: f.add_async(1, 2)) == 3


@pytest.mark.parametrize("size", [1 << 18, (1 << 18) - 13, (1 << 18) + 1, 5_000_003])
async def test_sizes_around_the_chunk(size: int) -> None:
    """Arguments and results of any size pass, next to small ones, in both directions at the same time."""
    async with local():
        sent = [bytes([n]) * (size + n) for n in range(6)]
        flows = [hf.remote_eval(f.identity, part) for big in sent for part in (big, 1, [big, big[:10]])]
        got = await hf.concurrently(*flows)
    assert [got[n] for n in range(0, 18, 3)] == sent


async def test_flood_of_large_results_while_the_head_is_busy() -> None:
    """Results that pile up while the head does something else all arrive."""
    async with local() as env:
        futures = [hf.remote_eval(lambda n: bytes([n % 256]) * 500_000, n).start() for n in range(100)]
        await asyncio.sleep(0)
        for _ in range(20):
            f.spin(0.02)
            await asyncio.sleep(0)
        got = await asyncio.gather(*futures)
        assert [(len(g), g[0]) for g in got] == [(500_000, n) for n in range(100)]
        await goes_on(env)


async def test_alternating_sizes() -> None:
    """Requests of all sizes in turn, with crashes and cancels among them, leave every CPU free in the end."""
    choice = random.Random(3)

    def work(n: int) -> int:
        if n % 17 == 0:
            os._exit(1)
        return n

    async with local(cpus=5) as env:
        futures = []
        for n in range(300):
            options = {"cpus": choice.randint(1, 5), "fresh_process": n % 11 == 0, "retries": n % 2}
            futures.append(hf.remote_eval(work, n).using(**options).start())
        await asyncio.sleep(0.05)
        for n in range(0, 300, 13):
            futures[n].cancel()
        got = await asyncio.gather(*futures, return_exceptions=True)
        for n, value in enumerate(got):
            if n % 13 and n % 17:
                assert value == n
            elif n % 13:
                assert type(value) is hf.WorkerDied
        await wait_until(lambda: env.statistics().cpus_free == 5, 10, "the CPUs are back", state=env.statistics)
        await goes_on(env)


@pytest.fixture
def few_processes() -> Iterator[Path]:
    """Make a control group that limits the number of processes."""
    place = Path(f"/sys/fs/cgroup/pids/hyperflow-test-{uuid.uuid4().hex[:8]}")
    try:
        place.mkdir()
    except OSError as error:
        pytest.skip(f"cannot limit the number of processes here: {error}")
    yield place
    block_until(lambda: not (place / "cgroup.procs").read_text(), 10, "the group is empty")
    place.rmdir()


async def test_no_process_can_be_forked_for_a_while(few_processes: Path) -> None:
    """An evaluation for which no process can be forked waits until one can, quietly."""
    async with local() as env:
        (few_processes / "cgroup.procs").write_text(str(await launcher_of(env)))
        (few_processes / "pids.max").write_text("1")
        waiting = hf.remote_eval(os.getpid).start()
        await wait_until(lambda: env.statistics().returned > 3, 10, "some attempts")
        began, count = time.monotonic(), env.statistics().returned
        await wait_until(lambda: env.statistics().returned > count + 3, 10, "more attempts")
        assert time.monotonic() - began > 0.1
        (few_processes / "pids.max").write_text("max")
        async with asyncio.timeout(40):
            assert await waiting
        assert env.statistics().failed == 0


async def test_no_process_can_be_forked_any_more(few_processes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be forked for long, and nothing runs, the node is lost: nothing waits for ever."""
    monkeypatch.setattr("hyperflow.head.fleet.FAILED_STARTS_SECONDS", 0.3)
    async with local() as env:
        (few_processes / "cgroup.procs").write_text(str(await launcher_of(env)))
        (few_processes / "pids.max").write_text("1")
        async with asyncio.timeout(40):
            with pytest.raises(hf.NodeLost, match="no worker could start: cannot fork"):
                await hf.remote_eval(os.getpid)


async def test_workers_that_die_at_birth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preloaded module that kills every forked child makes the node lost, with the status of its workers."""
    (tmp_path / "kills_children.py").write_text("import os\nos.register_at_fork(after_in_child=lambda: os._exit(9))")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("hyperflow.head.fleet.FAILED_STARTS_SECONDS", 0.3)
    async with local(preload=["kills_children"]), asyncio.timeout(40):
        with pytest.raises(hf.NodeLost, match="no worker could start: status 9"):
            await hf.remote_eval(os.getpid)
