"""Locks between Jobs: files that one of them has at a time, whoever dies; first as such, then with real Jobs."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import attrs
import pytest

import hyperflow as hf
from hyperflow.locking.keys import of_semaphore
from hyperflow.locking.rules import LockRequest
from hyperflow.master.lifecycle import Attempt, Epoch, Record, State
from hyperflow.master.lockfiles import Holder, LockFiles, sweep
from hyperflow.master.rundir import JobDirectory
from hyperflow.master.shared import Timeouts
from tests.helpers import wait_until

QUICK = Timeouts(look=0.05)

numbers = iter(range(1, 1_000_000))


def request(keys: str, *parents: LockRequest) -> LockRequest:
    """Want some keys, one for each letter."""
    return LockRequest(next(numbers), tuple(keys), f"flow {keys}", None, parents)


def files(home: Path, job: int = 1) -> LockFiles:
    """Return what takes locks for a job, whose process is this one."""
    return LockFiles(home, Holder.this_process(job, Epoch(1)))


def held(home: Path) -> list[str]:
    """Return which keys are held."""
    return sorted(path.read_text().strip() for path in (home / "locks").glob("*/*,*") if path.parent.name != "queue")


def left(home: Path) -> list[Path]:
    """Return all that there is of locks."""
    return [path for path in (home / "locks").rglob("*") if path.name != "queue"]


def there(home: Path) -> list[Path]:
    """Return what all see of locks and places in the queue: not what is still being written."""
    return [path for path in left(home) if not any(name.startswith(".") for name in path.relative_to(home).parts)]


async def test_all_or_none_in_order(tmp_path: Path) -> None:
    """Who wants two locks has neither while one is held; who came first gets on first; nothing is left at the end."""
    one, two, three = (files(tmp_path, job) for job in (1, 2, 3))
    a, ab, b = request("a"), request("ab"), request("b")
    await one.take(a)
    second = asyncio.create_task(two.take(ab))
    await wait_until(lambda: len(there(tmp_path)) == 3, 5, "the second one is in the queue")
    third = asyncio.create_task(three.take(b))
    await wait_until(lambda: len(there(tmp_path)) == 4, 5, "the third one is, too", state=lambda: there(tmp_path))
    assert held(tmp_path) == ["a"]
    await one.give_back(a)
    await second
    assert held(tmp_path) == ["a", "b"]
    assert not third.done()
    await two.give_back(ab)
    await third
    await three.give_back(b)
    assert left(tmp_path) == []


async def test_files_are_private_and_say_who(tmp_path: Path) -> None:
    """Nobody else can enter the directory; the holder's name says which start of which job it is."""
    mine, one = files(tmp_path, 7), request("a")
    await mine.take(one)
    (path,) = (path for path in (tmp_path / "locks").glob("*/*,*"))
    assert (tmp_path / "locks").stat().st_mode & 0o777 == 0o700
    assert Holder.from_name(path.name) == Holder.this_process(7, Epoch(1))
    await mine.give_back(one)


def ended_process() -> int:
    """Return the number of a process that is no more."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


async def test_holder_of_this_machine_that_has_gone(tmp_path: Path) -> None:
    """What a process of this machine has left, lock or place in the queue, is nobody's as soon as it has gone."""
    dead = LockFiles(tmp_path, attrs.evolve(Holder.this_process(1, Epoch(1)), pid=ended_process()))
    one, two = request("a"), request("a")
    dead._place.mkdir()
    dead._queue.mkdir()
    dead._line_up(two, ["a"])
    assert dead._take_one("a", "a", one.number)
    living = files(tmp_path, 2)
    async with asyncio.timeout(40):
        await living.take(request("a"))
    sweep(tmp_path, lambda holder: holder.job == 2)
    sweep(tmp_path, lambda holder: holder.job == 1)
    assert left(tmp_path) == []


ENDS = ["result", "requeued", "next attempt", "given up", "swept"]


@pytest.mark.parametrize("end", ENDS)
async def test_holder_elsewhere_that_has_ended(tmp_path: Path, end: str) -> None:
    """A Job of another machine has its locks until the run directory says that this start of it has ended."""
    job = JobDirectory(tmp_path / "jobs" / "1")
    job.path.mkdir(parents=True)
    record = Record(1, "f()", "f()", {}, State.RUNNING, (Attempt(1, "token", 5),))
    job.write_record(record)
    far = LockFiles(tmp_path, attrs.evolve(Holder.this_process(1, Epoch(1)), machine="elsewhere"))
    await far.take(request("a"))
    waits = asyncio.create_task(files(tmp_path, 2).take(request("a")))
    await wait_until(lambda: len(there(tmp_path)) == 3, 5, "it waits")
    await asyncio.sleep(0.1)  # several looks
    assert not waits.done()
    match end:
        case "result":
            job.result(Epoch(1)).touch()
        case "requeued":
            job.claim(1).write_text('{"batch_id": 5, "restarts": 1}')
            job.claim(1).chmod(0o600)
        case "next attempt":
            job.write_record(attrs.evolve(record, attempts=(*record.attempts, Attempt(2, "other"))))
        case "given up":
            job.write_record(attrs.evolve(record, state=State.FAILED))
        case _:
            sweep(tmp_path, lambda holder: holder.job == 1 and holder.epoch <= Epoch(1))
    async with asyncio.timeout(40):
        await waits


async def test_taken_over_meanwhile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who gives back what somebody else has by now takes nothing away, and says so."""
    one, two = files(tmp_path, 1), files(tmp_path, 2)
    mine, theirs = request("a"), request("a")
    await one.take(mine)
    sweep(tmp_path, lambda holder: holder.job == 1)
    await two.take(theirs)
    await one.give_back(mine)
    assert held(tmp_path) == ["a"]
    assert "was taken from us" in caplog.text


async def test_contention(tmp_path: Path) -> None:
    """Many who want some of few locks, and are cancelled now and then: one holder each, all get on, nothing is left."""
    chance = random.Random(1)
    jobs = [files(tmp_path, job) for job in range(1, 4)]
    holders: dict[str, int] = {}

    async def work(job: LockFiles) -> None:
        for _ in range(6):
            mine = request("".join(chance.sample("abcde", 2)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.choice([0.01, 100])):
                    await job.take(mine)
                    assert not holders.keys() & set(mine.keys)
                    holders.update(dict.fromkeys(mine.keys, mine.number))
                    try:
                        await asyncio.sleep(0)
                    finally:
                        for key in mine.keys:
                            del holders[key]
                        await job.give_back(mine)

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        for job in jobs * 2:
            group.create_task(work(job))
    assert left(tmp_path) == []


async def test_circle_through_jobs(tmp_path: Path) -> None:
    """Two Jobs that hold what the other one wants: the one that came to wait last is refused, the other one gets on."""
    one, two = files(tmp_path, 1), files(tmp_path, 2)
    a, b = request("a"), request("b")
    await one.take(a)
    await two.take(b)
    first = asyncio.create_task(one.take(request("b", a)))
    await wait_until(lambda: len(there(tmp_path)) == 5, 5, "the first one waits")
    with pytest.raises(hf.Deadlock, match=r"flow a \(in job 2\) waits for a"):
        await two.take(request("a", b))
    assert not first.done()
    await two.give_back(b)
    await first


def place_of(count: int, *parents: LockRequest) -> LockRequest:
    """Want a place of a semaphore."""
    return LockRequest(next(numbers), (of_semaphore('"s"', count),), "flow s", None, parents)


async def test_semaphore_of_several_jobs(tmp_path: Path) -> None:
    """Two Jobs have the two places, the third waits until one of them gives its place back; nothing is left."""
    one, two, three = (files(tmp_path, job) for job in (1, 2, 3))
    first, second, third = (place_of(2) for _ in range(3))
    await one.take(first)
    await two.take(second)
    waiting = asyncio.create_task(three.take(third))
    await wait_until(
        lambda: len(there(tmp_path)) == 5, 5, "the third one is in the queue", state=lambda: there(tmp_path)
    )
    assert held(tmp_path) == ['2 of "s"'] * 2
    await one.give_back(first)
    await waiting
    assert held(tmp_path) == ['2 of "s"'] * 2
    await two.give_back(second)
    await three.give_back(third)
    assert left(tmp_path) == []


async def test_two_counts_in_two_jobs(tmp_path: Path) -> None:
    """A Job that meets places of another count says both, and has none; when they are free, it may take one."""
    one, two = files(tmp_path, 1), files(tmp_path, 2)
    first = place_of(2)
    await one.take(first)
    with pytest.raises(hf.ConfigurationError, match=r'Semaphore\("s", 3\): Semaphore\("s", 2\) is in use'):
        await two.take(place_of(3))
    await one.give_back(first)
    assert left(tmp_path) == []
    third = place_of(3)
    await two.take(third)
    await two.give_back(third)
    assert left(tmp_path) == []


async def test_circle_of_all_holders_in_jobs(tmp_path: Path) -> None:
    """A Job that holds a place and wants one more waits for the other holder, until that wants one more, too."""
    one, two = files(tmp_path, 1), files(tmp_path, 2)
    first, second = place_of(2), place_of(2)
    await one.take(first)
    await two.take(second)
    more = place_of(2, first)
    waiting = asyncio.create_task(one.take(more))
    await wait_until(lambda: len(there(tmp_path)) == 5, 5, "it waits", state=lambda: there(tmp_path))
    with pytest.raises(hf.Deadlock):
        await two.take(place_of(2, second))
    assert not waiting.done()
    await two.give_back(second)
    await waiting
    await one.give_back(more)
    await one.give_back(first)
    assert left(tmp_path) == []


async def test_only_the_last_one_of_a_circle_is_refused(tmp_path: Path) -> None:
    """Of two that hold all places and want one more, the first one is not refused, however often it looks first."""
    one, two = files(tmp_path, 1), files(tmp_path, 2)
    first, second = place_of(2), place_of(2)
    await one.take(first)
    await two.take(second)
    more, most = place_of(2, first), place_of(2, second)
    assert not one._try(more)
    assert not two._try(most)
    assert not any(one._try(more) for _ in range(3))
    with pytest.raises(hf.Deadlock, match="in job 2"):
        two._try(most)


async def test_place_of_a_dead_job(tmp_path: Path) -> None:
    """The place of a process that has ended is taken over."""
    dead = LockFiles(tmp_path, attrs.evolve(Holder.this_process(1, Epoch(1)), pid=ended_process()))
    await dead.take(place_of(1))
    two = files(tmp_path, 2)
    mine = place_of(1)
    await two.take(mine)
    await two.give_back(mine)
    assert left(tmp_path) == []


# ---- real Jobs ------------------------------------------------------------------------------------------------------


async def add_one(path: str) -> None:
    """On a worker or in a flow: wrong if another one does the same at the same time."""
    async with hf.with_lock("number"):
        number = int(Path(path).read_text())
        await asyncio.sleep(0.002)
        Path(path).write_text(str(number + 1))


@hf.job
async def add(path: str, count: int) -> None:
    """Add, in the head and on workers."""
    await hf.concurrently(*(hf.remote_eval(add_one, path) for _ in range(count)))
    await add_one(path)


@hf.job
async def dies(path: str) -> None:
    """Be killed with a lock."""
    async with hf.with_lock("number"):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)


@hf.job
async def stays(path: str) -> None:
    """Hold a lock and never come back."""
    async with hf.with_lock("number"):
        Path(path).touch()
        await asyncio.sleep(1000)


async def test_two_jobs_and_the_cluster(tmp_path: Path) -> None:
    """Two Jobs, their workers, and the Cluster's own flow exclude each other; at the end nothing is held."""
    path = tmp_path / "number"
    path.write_text("0")
    async with hf.open_cluster(base_dir=tmp_path, local=True, timeouts=QUICK) as env:
        jobs = [hf.remote_eval_job(add(str(path), 12)).start() for _ in range(2)]
        mine = [add_one(str(path)) for _ in range(5)]
        await asyncio.gather(*jobs, *mine)
        assert path.read_text() == "31"
        await wait_until(lambda: not held(env.master.run.home), 5, "all is released")


async def test_jobs_that_die(tmp_path: Path) -> None:
    """A Job that is killed, and one that is cancelled, hold a lock no more; a cycle through a Job is refused."""
    path, mark = tmp_path / "number", tmp_path / "mark"
    path.write_text("0")
    async with hf.open_cluster(base_dir=tmp_path, local=True, timeouts=QUICK, on_error="raise"):
        with pytest.raises(hf.JobCrashed):
            await hf.remote_eval_job(dies(str(mark)))
        assert mark.exists()
        mark.unlink()
        await add_one(str(path))
        waiting = asyncio.ensure_future(hf.remote_eval_job(stays(str(mark))).start())
        await wait_until(mark.exists, 20, "it holds the lock")
        waiting.cancel()
        began = time.monotonic()
        await add_one(str(path))
        assert time.monotonic() - began < 15
        async with hf.with_lock("number"):
            with pytest.raises(hf.Deadlock, match=r"in job 3\) waits for"):
                await hf.remote_eval_job(add(str(path), 0))
    assert path.read_text() == "2"
