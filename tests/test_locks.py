"""Locks in a Job: in flows, in plain and async functions on workers, and when those who hold them die."""

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.config import Settings
from hyperflow.head.engine import open_engine
from hyperflow.head.fleet import NodePlan
from hyperflow.options import Options
from hyperflow.testing import open_inline_job
from hyperflow.transports.process import Local
from tests.helpers import alive, wait_until
from tests.support import Gate, local, wait_at


def add_one(path: str) -> None:
    """Read, wait a moment, and write: wrong if another one does so at the same time."""
    with hf.with_lock("number"):
        number = int(Path(path).read_text())
        time.sleep(0.001)
        Path(path).write_text(str(number + 1))


async def add_one_async(path: str) -> None:
    """Do the same in an async function."""
    async with hf.with_lock("number"):
        number = int(Path(path).read_text())
        await asyncio.sleep(0.001)
        Path(path).write_text(str(number + 1))


async def add_many_async(path: str) -> None:
    """Do it several times side by side, on one worker."""
    await asyncio.gather(*(add_one_async(path) for _ in range(5)))


@asynccontextmanager
async def held(key: str) -> AsyncIterator[None]:
    """Let another flow hold a lock meanwhile: what starts in the scope of one's own is taken to be awaited there."""
    has, go = asyncio.Event(), asyncio.Event()

    async def hold_it() -> None:
        async with hf.with_lock(key):
            has.set()
            await go.wait()

    task = asyncio.create_task(hold_it())
    await has.wait()
    yield
    go.set()
    await task


async def test_flows_and_workers_exclude_each_other(tmp_path: Path) -> None:
    """Flows, plain functions and async ones, several on one worker: each adds one, and none is lost."""
    path = tmp_path / "number"
    path.write_text("0")
    async with local(cpus=2) as env:
        work = [hf.remote_eval(fn, str(path)) for fn in (add_one, add_one_async, add_many_async) * 10]
        await asyncio.gather(*(one.start() for one in work), *(add_one_async(str(path)) for _ in range(10)))
        assert path.read_text() == "80"
        assert not env.evaluator.locks.requests
        assert not env.evaluator.worker_locks._serials


async def test_keys_are_values() -> None:
    """Equal values are one key, others are not; several may be taken at once, in any order, one of them twice."""
    async with open_inline_job(), hf.with_lock((1, "a")), hf.with_lock([1, "a"]):
        with pytest.raises(hf.Deadlock):
            await hf.with_lock((1, "a")).__aenter__()
    async with open_inline_job(), hf.with_locks(["b", 1, "b"]), hf.with_locks([]):
        pass
    with pytest.raises(hf.SerializationError):
        hf.with_lock(object())


async def test_misuse() -> None:
    """Outside of a run, a plain `with` in a flow, a text for many keys, one scope twice: told how to do it."""
    with pytest.raises(hf.NotInFlow, match="belongs in a flow"):
        await hf.with_lock("a").__aenter__()
    with pytest.raises(hf.MisuseError, match=r"with_lock\('abc'\)"):
        hf.with_locks("abc")
    async with open_inline_job():
        with pytest.raises(hf.MisuseError, match="async with"), hf.with_lock("a"):
            pass
        twice = hf.with_lock("a")
        async with twice:
            with pytest.raises(hf.MisuseError, match="one of its own"):
                await twice.__aenter__()


def from_a_thread() -> str:
    """On a worker: take a lock in a thread."""
    said: list[BaseException] = []

    def take() -> None:
        try:
            with hf.with_lock("a"):
                pass
        except hf.MisuseError as error:
            said.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return str(said[0])


async def once_more(key: str) -> None:
    """On a worker: take a lock, and "a" in its scope."""
    async with hf.with_lock(key), hf.with_lock("a"):
        pass


async def test_circles_are_refused() -> None:
    """One's own lock once more, that of the flow that awaits the evaluation, a cycle of two flows: refused."""
    async with local(cpus=2):
        assert "not by a process or thread" in await hf.remote_eval(from_a_thread)
        with pytest.raises(hf.Deadlock, match=r'evaluation \d+ of once_more on worker-\d@\S+ holds "a"'):
            await hf.remote_eval(once_more, "a")
        async with hf.with_lock("a"):
            with pytest.raises(hf.Deadlock, match=r'the flow in .* holds "a"'):
                await hf.remote_eval(once_more, "b")
        met = asyncio.Barrier(2)

        async def crossing(first: str, second: str) -> str:
            async with hf.with_lock(first):
                await met.wait()
                async with hf.with_lock(second):
                    return first

        got = await asyncio.gather(crossing("x", "y"), crossing("y", "x"), return_exceptions=True)
        (refused,) = (error for error in got if isinstance(error, hf.Deadlock))
        assert str(refused).count("holds") == 2
        assert len({"x", "y"}.intersection(got)) == 1


def takes_at_second_try(path: str, key: str) -> bool:
    """Fail at the first try; at the second one, want a lock."""
    if not Path(path).exists():
        Path(path).touch()
        raise ValueError("the first try")
    with hf.with_lock(key):
        return True


async def test_second_try_is_within_the_same_locks(tmp_path: Path) -> None:
    """An evaluation that is tried again is still in the scope of its flow's lock: to wait for that is refused."""
    async with local(cpus=2), hf.with_lock("a"):
        call = hf.remote_eval(takes_at_second_try, str(tmp_path / "once"), "a").using(retries=1)
        async with asyncio.timeout(40):
            with pytest.raises(hf.Deadlock, match=r'the flow in .* holds "a"'):
                await call


async def test_no_cpu_for_who_holds(tmp_path: Path) -> None:
    """A flow with a lock awaits an evaluation, and all CPUs are with those that wait for it: one is refused."""
    path = tmp_path / "number"
    path.write_text("0")
    async with local(cpus=2) as env:
        has, go = asyncio.Event(), asyncio.Event()

        async def holder() -> int:
            async with hf.with_lock("number"):
                has.set()
                await go.wait()
                return await hf.remote_eval(os.getpid)

        holding = asyncio.create_task(holder())
        await has.wait()
        waiting = [hf.remote_eval(add_one, str(path)).start() for _ in range(2)]
        await wait_until(lambda: len(env.evaluator.locks.requests) == 3, 20, "both wait")
        go.set()
        assert await holding
        got = await asyncio.gather(*waiting, return_exceptions=True)
    errors = [error for error in got if isinstance(error, hf.Deadlock)]
    assert len(errors) == 1
    assert "finds no free CPU" in str(errors[0])
    assert path.read_text() == "1"


async def test_tasks_that_come_meanwhile_are_kept(tmp_path: Path) -> None:
    """What was prefetched at a worker whose evaluation waits for a lock is done afterwards, each once."""
    path = tmp_path / "number"
    path.write_text("0")
    async with local(cpus=1) as env:
        await asyncio.gather(*(hf.remote_eval(add_one, str(path)).start() for _ in range(50)))  # now it is quick
        async with held("number"):
            more = [asyncio.ensure_future(hf.remote_eval(add_one, str(path)).start()) for _ in range(50)]
            await wait_until(lambda: len(env.evaluator.locks.requests) == 2, 20, "one waits")
            more += [asyncio.ensure_future(hf.remote_eval(add_one, str(path)).start()) for _ in range(50)]
        await asyncio.gather(*more)
    assert path.read_text() == "150"


def hold(pipe: str, key: str = "a") -> None:
    """On a worker: hold a lock until the gate opens."""
    with hf.with_lock(key):
        wait_at(pipe)


async def hold_async(pipe: str) -> None:
    """On a worker: hold a lock, and never come back."""
    async with hf.with_lock("a"):
        Path(f"{pipe}.{os.getpid()}").touch()
        await asyncio.sleep(1000)


async def take() -> float:
    """Take the lock, and say when."""
    async with hf.with_lock("a"):
        return time.monotonic()


async def test_killed_worker(tmp_path: Path) -> None:
    """A worker that is killed while it holds a lock, or waits for one, holds it no more."""
    gate = Gate(tmp_path)
    async with local(cpus=2) as env:
        held = asyncio.ensure_future(hf.remote_eval(hold, gate.path).start())
        await gate.wait_inside()
        waits = asyncio.ensure_future(hf.remote_eval(hold, gate.path).start())
        await wait_until(lambda: len(env.evaluator.locks.requests) == 2, 20, "the other one waits")
        (pid,) = (int(path.suffix[1:]) for path in tmp_path.glob("gate.*"))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(hf.WorkerDied):
            await held
        await gate.wait_inside(2)
        waits.cancel()
        assert await take()
        assert not env.evaluator.locks.requests


@pytest.mark.parametrize("fn", [hold, hold_async])
async def test_cancelled_holder(tmp_path: Path, fn: object) -> None:
    """An evaluation that is cancelled while it holds a lock still holds it until its process has gone."""
    gate = Gate(tmp_path)
    async with local(cpus=2) as env:
        held = asyncio.ensure_future(hf.remote_eval(fn, gate.path).start())  # type: ignore[arg-type]
        await gate.wait_inside()
        (pid,) = (int(path.suffix[1:]) for path in tmp_path.glob("gate.*"))
        waits = asyncio.ensure_future(take())
        held.cancel()
        await asyncio.sleep(0)
        assert not waits.done()
        await waits
        assert not alive(pid)
        assert not env.evaluator.locks.requests


async def test_cancelled_while_waiting(tmp_path: Path) -> None:
    """A flow or an evaluation that is cancelled while it waits is out of the queue; those behind it get on."""
    gate = Gate(tmp_path)
    async with local(cpus=2) as env:
        async with held("a"):
            waits = [
                asyncio.ensure_future(hf.remote_eval(hold, gate.path).start()),
                asyncio.ensure_future(take()),
                asyncio.ensure_future(take()),
            ]
            await wait_until(lambda: len(env.evaluator.locks.requests) == 4, 20, "all wait")
            for one in waits[:2]:
                one.cancel()
        assert await waits[2]
        assert gate.inside == 0
        got = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(one) for one in got] == [asyncio.CancelledError, asyncio.CancelledError, float]


async def test_time_limit_and_errors(tmp_path: Path) -> None:
    """The time limit goes on while a lock is held; whoever raises, or leaves a lock behind, holds it no more."""

    async def leave_behind() -> None:
        await hf.with_lock("a").__aenter__()

    def fail() -> None:
        with hf.with_lock("a"):
            raise ValueError("on purpose")

    gate = Gate(tmp_path)
    async with local(cpus=1) as env:
        with pytest.raises(hf.TimeLimitExceeded):
            await hf.remote_eval(hold, gate.path).using(time_limit=0.3)
        with pytest.raises(ValueError, match="on purpose"):
            await hf.remote_eval(fail)
        await hf.remote_eval(leave_behind)
        assert await take()
        assert not env.evaluator.locks.requests


async def test_fresh_process(tmp_path: Path) -> None:
    """An evaluation in a process of its own waits as long as it has to."""
    path = tmp_path / "number"
    path.write_text("0")
    async with local(cpus=1) as env:
        async with held("number"):
            waits = asyncio.ensure_future(hf.remote_eval(add_one, str(path)).using(fresh_process=True).start())
            await wait_until(lambda: len(env.evaluator.locks.requests) == 2, 20, "it waits")
        await waits
    assert path.read_text() == "1"


async def test_lost_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks of a lost node are free when what ran there must have ended, and not before."""
    monkeypatch.setattr("hyperflow.head.losses.END_GRACE", 1.0)
    gate = Gate(tmp_path)
    program = hf.ProgramInfo.new(tmp_path / "runs")
    nodes = [NodePlan(Local("one"), 1), NodePlan(Local("two"), 1)]
    async with open_engine(nodes, program, settings=Settings()) as engine:
        held = engine.submit(hold, (gate.path,), {}, Options())
        await gate.wait_inside()
        (worker,) = (one for one in engine.scheduler.workers.values() if one.queue)
        waits = asyncio.ensure_future(engine.locks.take(['"a"']))
        lost = time.monotonic()
        engine.fleet.links[worker.node].give_up("on purpose")
        number = await waits
        assert time.monotonic() - lost >= 1.0
        engine.locks.release(number)
        await gate.wait_inside(2)  # it runs again, on the other node
        gate.open()
        await held


async def dine(left: int, right: int, rounds: int, seed: int) -> int:
    """On a worker: take two forks and lay them down, many times."""
    chance = random.Random(seed)
    for _ in range(rounds):
        forks = [left, right] if chance.random() < 0.5 else [right, left]
        async with hf.with_locks(forks):
            await asyncio.sleep(0)
    return rounds


async def test_dining_philosophers() -> None:
    """Many who take two of few locks each, on workers and in flows, never wait in a cycle; all come to their end."""
    count, rounds = 7, 60
    async with local(cpus=2):
        there = [hf.remote_eval(dine, n, (n + 1) % count, rounds, n).start() for n in range(count)]
        here = [dine(n, (n + 1) % count, rounds, n) for n in range(count)]
        async with asyncio.timeout(40):
            assert await asyncio.gather(*there, *here) == [rounds] * 2 * count


async def test_inline(tmp_path: Path) -> None:
    """The inline environment has locks too: async functions wait, plain ones take what is free, cycles are refused."""
    path = tmp_path / "number"
    path.write_text("0")
    async with open_inline_job(cpus=4) as env:
        await hf.map_concurrently(lambda _: hf.remote_eval(add_one_async, str(path)), range(20))
        await hf.remote_eval(add_one, str(path))
        assert path.read_text() == "21"
        async with hf.with_lock("number"), hf.with_lock("a"):
            with pytest.raises(hf.Deadlock):
                await hf.remote_eval(add_one, str(path))
            with pytest.raises(hf.Deadlock):
                await hf.remote_eval(once_more, "b")
        await hf.remote_eval(once_more, "b")
        assert not env.evaluator.locks.requests


# ---- semaphores -----------------------------------------------------------------------------------------------------

TWO = hf.Semaphore("two", 2)


class Crowd:
    """Counts how many are inside at a time."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    async def pass_through(self, scope: hf.Semaphore) -> None:
        """Enter, let others run, and leave."""
        async with scope:
            self.inside += 1
            self.most = max(self.most, self.inside)
            for _ in range(3):
                await asyncio.sleep(0)
            self.inside -= 1


async def test_semaphore_in_flows() -> None:
    """As many flows as it has places are inside at a time, whether they share the object or only the name."""
    async with open_inline_job() as env:
        crowd = Crowd()
        shared = hf.Semaphore("crowd", 3)
        ways = [shared if at % 2 else hf.Semaphore("crowd", 3) for at in range(20)]
        await asyncio.gather(*map(crowd.pass_through, ways))
        assert (crowd.inside, crowd.most) == (0, 3)
        assert not env.evaluator.locks.requests


async def test_semaphore_among_keys() -> None:
    """with_locks takes a place of it and other keys, all or none; a lock of the same name is another thing."""
    async with open_inline_job(), held("two"), hf.Semaphore("one", 1), TWO:
        async with hf.with_locks([TWO, "other"]) as scope:
            assert "Semaphore('two', 2)" in repr(scope)
        with pytest.raises(hf.Deadlock, match="Semaphore"):
            await hf.with_locks([hf.Semaphore("one", 1), "other"]).__aenter__()
        async with hf.with_lock("other"):
            pass


@pytest.mark.parametrize(
    ("name", "n"), [("a", 0), ("a", -1), ("a", 1.5), ("a", True), ("a", "4"), ("", 1), (" ", 1), ("a\nb", 1), (7, 1)]
)
def test_semaphore_refuses(name: object, n: object) -> None:
    """A number below 1 or of another kind, a name that is none; the error shows the call."""
    with pytest.raises(hf.ConfigurationError, match=r"^Semaphore\("):
        hf.Semaphore(name, n)  # type: ignore[arg-type]


def enter(n: int) -> str:
    """Take a place on a worker."""
    with hf.Semaphore("two", n):
        return "inside"


async def test_two_counts_are_refused() -> None:
    """In one with_locks, in flows, and on a worker: an error that says both."""
    with pytest.raises(hf.ConfigurationError, match="one name has one count"):
        hf.with_locks([TWO, hf.Semaphore("two", 3)])
    async with local(cpus=1) as env:
        async with TWO:
            with pytest.raises(hf.ConfigurationError, match=r'Semaphore\("two", 3\): Semaphore\("two", 2\)'):
                await hf.Semaphore("two", 3).__aenter__()
            with pytest.raises(hf.ConfigurationError, match=r'Semaphore\("two", 3\): Semaphore\("two", 2\)'):
                await hf.remote_eval(enter, 3)
            assert await hf.remote_eval(enter, 2) == "inside"
        assert await hf.remote_eval(enter, 3) == "inside"
        assert not env.evaluator.locks.requests


def hold_a_place(pipe: str) -> None:
    """Hold a place until told to go."""
    with TWO:
        wait_at(pipe)


async def test_places_of_the_dead_are_free(tmp_path: Path) -> None:
    """A worker that is killed, and one that is cancelled, hold their places no more; a captured semaphore travels."""
    gate = Gate(tmp_path)
    async with local(cpus=2) as env:
        killed, cancelled = (asyncio.ensure_future(hf.remote_eval(hold_a_place, gate.path).start()) for _ in range(2))
        await gate.wait_inside(2)
        pid = next(int(path.suffix[1:]) for path in tmp_path.glob("gate.*"))
        os.kill(pid, signal.SIGKILL)
        done, _ = await asyncio.wait([killed, cancelled], return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(done.pop().exception(), hf.WorkerDied)
        async with TWO:
            killed.cancel()
            cancelled.cancel()
            async with asyncio.timeout(40), TWO:
                pass
        assert not env.evaluator.locks.requests


async def test_semaphore_inline() -> None:
    """The inline environment has it, too."""
    async with open_inline_job(cpus=2):
        assert await hf.remote_eval(enter, 2) == "inside"
        async with hf.Semaphore("two", 1):
            with pytest.raises(hf.ConfigurationError, match="is in use"):
                await hf.remote_eval(enter, 2)
