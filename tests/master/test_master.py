"""What the master does about failures, results and people, with a Slurm that does what the test says."""

import asyncio
import contextlib
import errno
import gc
import itertools
import json
import logging
import os
import shutil
import weakref
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow import checked_files
from hyperflow._cluster import ClusterEnv
from hyperflow.errors import SlurmError
from hyperflow.master import calls
from hyperflow.master.lifecycle import Epoch, State
from hyperflow.slurm.queue import BatchState
from tests.helpers import wait_until
from tests.master.fake_slurm import FakeBatch, FakeSlurm, Fate, write_result
from tests.master.support import QUICK, open_fake


@hf.job
async def double(x: int) -> int:
    """Be a job."""
    if x < 0:
        raise ValueError(f"{x} is negative")
    return 2 * x


@asynccontextmanager
async def going(flow: Awaitable[Any]) -> AsyncIterator[asyncio.Future[Any]]:
    """Run a flow beside the test."""
    future = asyncio.ensure_future(flow)
    await asyncio.sleep(0)  # it makes its call before the test goes on
    try:
        yield future
    finally:
        future.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await future


def state_of(env: ClusterEnv, number: int = 1) -> State:
    """Return a job's state."""
    return next(job.state for job in env.master.jobs() if job.number == number)


async def until(env: ClusterEnv, state: State, number: int = 1) -> None:
    """Wait until a job is in a state."""
    await wait_until(
        lambda: env.master.jobs() and state_of(env, number) is state,
        5,
        f"job {number} is {state}",
        state=env.master.jobs,
    )


async def test_failed_job_is_held_and_others_go_on(tmp_path: Path) -> None:
    """A job that raises is held with its cause; the job beside it has its result; the flow that waits still waits."""
    async with open_fake(tmp_path, FakeSlurm()) as env, going(hf.remote_eval_job(double(-1))) as bad:
        assert await hf.remote_eval_job(double(4)) == 8
        await until(env, State.HELD)
        assert not bad.done()
        (held, _) = env.master.jobs()
        assert held.cause == "exception: ValueError: -1 is negative"
        story = env.master.why(1)
        assert "job 1, double(-1): held" in story
        assert "hyperflow retry 1" in story
        assert env.statistics().jobs == {"held": 1, "done": 1}


async def test_own_exception_arrives_as_itself(tmp_path: Path) -> None:
    """With on_error="raise" the program gets the job's own exception, with the remote traceback as a note."""
    async with open_fake(tmp_path, FakeSlurm(), on_error="raise") as env:
        with pytest.raises(ValueError, match="-1 is negative") as caught:
            await hf.remote_eval_job(double(-1))
        assert "Traceback" in caught.value.__notes__[0]
        assert state_of(env) is State.FAILED


async def test_slurms_end_is_the_cause(tmp_path: Path) -> None:
    """A job without a result is held for what Slurm says of its end, and the error of that kind can be had."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("ended", "TIMEOUT"))
        await until(env, State.HELD)
        assert "time limit" in env.master.jobs()[0].cause
        assert "--time" in env.master.why(1)
        await env.master.give_up([1])
        with pytest.raises(hf.JobTimeLimitExceeded, match="time limit"):
            await waiting


async def test_retry_with_other_options(tmp_path: Path) -> None:
    """A retry changes what is asked of Slurm, and the flow that waited gets the result. Nonsense changes nothing."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        with pytest.raises(hf.ConfigurationError, match="only what is held"):
            await env.master.retry([1])
        slurm.tell(1, BatchState("ended", "OUT_OF_MEMORY"))
        await until(env, State.HELD)
        for numbers, changes in (([1, 2], {}), ([1], {"tim": 1}), ([1], {"time": "soon"})):
            with pytest.raises(hf.ConfigurationError):
                await env.master.retry(numbers, **changes)
        assert state_of(env) is State.HELD
        slurm.run_at_once = True
        await env.master.retry([1], mem="8G")
        assert await waiting == 2
        assert slurm.jobs[2].order.options.mem == "8G"
        assert slurm.jobs[1].order.token != slurm.jobs[2].order.token


@pytest.mark.parametrize(
    ("on_error", "submissions", "error"),
    [
        (hf.Resubmit(2, then="raise"), 3, hf.JobCrashed),
        ({hf.JobCrashed: hf.Resubmit(1, then="raise"), Exception: "hold"}, 2, hf.JobCrashed),
        ({hf.JobOutOfMemory: hf.Resubmit(5), hf.JobFailed: "raise"}, 1, hf.JobCrashed),
    ],
)
async def test_policies(tmp_path: Path, on_error: Any, submissions: int, error: type[Exception]) -> None:
    """What is done about a failure follows its class, and is tried so often."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm, on_error=on_error), going(hf.remote_eval_job(double(1))) as waiting:
        for number in range(1, submissions + 1):
            await wait_until(lambda number=number: number in slurm.jobs, 5, f"submission {number}")  # type: ignore[misc]
            slurm.tell(number, BatchState("ended", "FAILED", signal=11))
        with pytest.raises(error):
            await waiting
    assert len(slurm.jobs) == submissions


async def test_what_people_want_is_not_retried(tmp_path: Path) -> None:
    """A job that somebody has cancelled is held, also where crashes are tried again."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm, on_error=hf.Resubmit(3)) as env, going(hf.remote_eval_job(double(1))):
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("ended", "CANCELLED", reason="by user 7"))
        await until(env, State.HELD)
        assert len(slurm.jobs) == 1


async def test_hopeless_request(tmp_path: Path) -> None:
    """A job that Slurm says it cannot start is taken from the queue, after a while, and held."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))):
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("pending", "PENDING", reason="PartitionTimeLimit", hopeless="too long"))
        await until(env, State.HELD)
        assert "hopeless: too long" in env.master.jobs()[0].cause
    assert slurm.jobs[1].cancelled


async def test_cancelled_await_cancels_job(tmp_path: Path) -> None:
    """Cancelling the flow ends the job at Slurm; a time limit of the program's does so, too."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env:
        with pytest.raises(TimeoutError):
            await hf.remote_eval_job(double(1)).timeout(0.1)
    assert slurm.jobs[1].cancelled
    assert state_of(env) is State.CANCELLED


async def test_program_that_fails_leaves_its_jobs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the program itself costs no job; what is with Slurm is told, and the next run goes on with it."""

    async def flawed() -> None:
        await hf.concurrently(hf.remote_eval_job(double(1)), hf.remote_eval_job(double(2)), flaw())

    @hf.cluster
    async def flaw() -> None:
        await wait_until(lambda: len(slurm.jobs) == 2, 5, "both are submitted")
        raise ZeroDivisionError

    slurm = FakeSlurm(run_at_once=False)
    with pytest.raises(ZeroDivisionError):
        async with open_fake(tmp_path, slurm):
            await flawed()
    assert "To end them: scancel 1 2" in caplog.text
    for number in (1, 2):
        slurm.run(number)
    async with open_fake(tmp_path, slurm, resume=True):
        assert await hf.concurrently(*(hf.remote_eval_job(double(x)) for x in (1, 2))) == (2, 4)
    assert len(slurm.jobs) == 2
    assert not slurm.jobs[1].cancelled


async def test_leaving(tmp_path: Path) -> None:
    """After leave(cancel_jobs=False), cancelled flows leave their jobs, and the next master goes on with them."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        await env.master.leave(cancel_jobs=False)
        waiting.cancel()
    assert not slurm.jobs[1].cancelled
    slurm.run(1)
    async with open_fake(tmp_path, slurm, resume=True):
        assert await hf.remote_eval_job(double(1)) == 2
    assert len(slurm.jobs) == 1


async def test_leaving_nothing(tmp_path: Path) -> None:
    """leave(cancel_jobs=True) ends all jobs at Slurm."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))):
        await until(env, State.QUEUED)
        await env.master.leave(cancel_jobs=True)
        assert slurm.jobs[1].cancelled
        assert state_of(env) is State.CANCELLED


async def test_cancel_by_people_holds(tmp_path: Path) -> None:
    """`hyperflow cancel` ends the job, and holds it, so that it can be tried again."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        await env.master.cancel([1])
        assert slurm.jobs[1].cancelled
        assert state_of(env) is State.HELD
        with pytest.raises(hf.ConfigurationError, match="nothing to cancel"):
            await env.master.cancel([1])
        slurm.run_at_once = True
        await env.master.retry(env.master.numbers(State.HELD))
        assert await waiting == 2


async def test_requeue_is_a_new_epoch(tmp_path: Path) -> None:
    """After Slurm has started a job again, the result of the first start is late: it is counted, and does not count."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("running", "RUNNING", nodes="node1", restarts=1))
        await until(env, State.RUNNING)
        write_result(slurm.jobs[1].order.directory, Epoch(1, 0))
        await wait_until(lambda: env.statistics().late == 1, 5, "the late result is counted")
        assert not waiting.done()
        slurm.run(1, restarts=1)
        assert await waiting == 2
        assert env.statistics().returned == 1


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda data: data[:-3], "cut short"),
        (lambda data: data[:-3] + b"xyz", "altered"),
        (lambda data: b"rubbish", "does not begin"),
        (lambda data: b"", "does not begin"),
        (lambda data: data.replace(b'"attempt": 1', b'"attempt": 2'), "altered"),
    ],
)
async def test_damaged_result_is_held(tmp_path: Path, damage: Any, word: str) -> None:
    """A result that was cut or altered is never unpickled: the job is held with a clear text, and can be retried."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        directory = slurm.jobs[1].order.directory
        write_result(directory, Epoch(1))
        path = directory.result(Epoch(1))
        path.write_bytes(damage(path.read_bytes()))
        slurm.tell(1, BatchState("ended", "COMPLETED"))
        await until(env, State.HELD)
        assert word in env.master.jobs()[0].cause
        slurm.run_at_once = True
        await env.master.retry([1])
        assert await waiting == 2


async def test_result_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A result that others could have written is not unpickled."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))):
        await until(env, State.QUEUED)
        directory = slurm.jobs[1].order.directory
        write_result(directory, Epoch(1))
        directory.result(Epoch(1)).chmod(0o666)
        slurm.tell(1, BatchState("ended", "COMPLETED"))
        await until(env, State.HELD)
        assert "can be written by others" in env.master.jobs()[0].cause


async def test_held_stays_held_after_restart(tmp_path: Path) -> None:
    """A hold survives its master; the next one can retry it."""
    slurm = FakeSlurm()
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(-1))):
        await until(env, State.HELD)
        await env.master.leave(cancel_jobs=False)
    async with open_fake(tmp_path, slurm, resume=True) as env, going(hf.remote_eval_job(double(-1))):
        await asyncio.sleep(0.05)  # long enough for it to do something that it should not do
        assert state_of(env) is State.HELD
        assert len(slurm.jobs) == 1
        await env.master.retry([1])
        await until(env, State.HELD)
        await wait_until(lambda: len(slurm.jobs) == 2, 5, "it is submitted again")


async def test_max_jobs(tmp_path: Path) -> None:
    """No more jobs than `max_jobs` are with Slurm at a time; all are done in the end."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm, max_jobs=2) as env:
        flow = hf.map_concurrently(lambda x: hf.remote_eval_job(double(x)), range(5))
        async with going(flow) as waiting:
            for number in range(1, 6):
                await wait_until(lambda number=number: number in slurm.jobs, 5, f"job {number}")  # type: ignore[misc]
                there = [job for job in slurm.jobs.values() if not job.watch.state.final]
                assert len(there) <= 2
                assert env.statistics().waiting <= 5
                slurm.run(number)
            assert await waiting == [0, 2, 4, 6, 8]


async def test_combinators(tmp_path: Path) -> None:
    """What works with jobs works with Cluster flows: race, as_completed, retry, then."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm, on_error="raise") as env:
        async with going(hf.race(hf.remote_eval_job(double(1)), hf.remote_eval_job(double(2)))) as winner:
            await until(env, State.QUEUED, 2)
            slurm.run(2)
            assert await winner == 4
        await wait_until(lambda: slurm.jobs[1].cancelled, 5, "the loser is cancelled")
        slurm.run_at_once = True
        found = [pair async for pair in hf.as_completed(lambda x: hf.remote_eval_job(double(x)), range(3))]
        assert sorted(found) == [(0, 0), (1, 2), (2, 4)]
        assert await hf.remote_eval_job(double(3)).then(lambda x: hf.remote_eval_job(double(x))) == 12
        count = len(slurm.jobs)
        with pytest.raises(ValueError, match="negative"):
            await hf.remote_eval_job(double(-1)).retry(2)
        assert len(slurm.jobs) == count + 3


async def test_edited_program(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Jobs that the program no longer asks for are named: a hint at the first new call, the list at the end."""
    slurm = FakeSlurm()
    async with open_fake(tmp_path, slurm):
        await hf.remote_eval_job(double(1))
        await hf.remote_eval_job(double(2))
    caplog.clear()
    async with open_fake(tmp_path, slurm, resume=True) as env:
        assert await hf.remote_eval_job(double(2)) == 4
        assert [job.name for job in env.master.unmatched()] == ["double(1)"]
        assert await hf.remote_eval_job(double(3)) == 6
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "double(3) is a new call" in told[0]
    assert "job 1, double(1)" in told[0]
    assert told[1] == "job 1: double(1): the program no longer makes this call"
    assert len(told) == 2


async def test_equal_calls_are_told_apart(tmp_path: Path) -> None:
    """Two equal calls are two jobs, and each finds its own again."""
    slurm = FakeSlurm()
    for resume in (False, True):
        async with open_fake(tmp_path, slurm, resume=resume) as env:
            assert await hf.replicate_concurrently(2, hf.remote_eval_job(double(5))) == [10, 10]
            assert not env.master.unmatched()
    assert len(slurm.jobs) == 2


async def test_second_master_is_refused(tmp_path: Path) -> None:
    """While a master runs, another one is refused, with the host and process of the first."""
    async with open_fake(tmp_path, FakeSlurm()):
        with pytest.raises(hf.RunInUse) as caught:
            async with open_fake(tmp_path, FakeSlurm(), resume=True):
                pass
    assert caught.value.pid == os.getpid()
    assert f"process {os.getpid()} on {os.uname().nodename}" in str(caught.value)


async def test_master_elsewhere_is_refused(tmp_path: Path) -> None:
    """Of a master on another host nobody here knows whether it lives; the text says what to type if it does not."""
    async with open_fake(tmp_path, FakeSlurm()) as env:
        lock = env.master.run.home / "master.lock"
        owner = json.loads(lock.read_text())
    lock.write_text(json.dumps({**owner, "host": "login7", "machine": "elsewhere", "pid": 77}))
    with pytest.raises(hf.RunInUse, match="process 77 on login7") as caught:
        async with open_fake(tmp_path, FakeSlurm(), resume=True):
            pass
    assert f"rm {lock}" in str(caught.value)


async def test_dead_master_is_replaced(tmp_path: Path) -> None:
    """The lock of a master of this host that has ended is taken over."""
    async with open_fake(tmp_path, FakeSlurm()) as env:
        lock = env.master.run.home / "master.lock"
        owner = json.loads(lock.read_text())
    lock.write_text(json.dumps({**owner, "pid": 2**22 + 1, "started": "1"}))
    async with open_fake(tmp_path, FakeSlurm(), resume=True):
        assert await hf.remote_eval_job(double(1)) == 2


@pytest.mark.parametrize("part", [".", "jobs"])
async def test_directory_writable_by_others_is_refused(tmp_path: Path, part: str) -> None:
    """A run directory in which others could put pickles is not used."""
    async with open_fake(tmp_path, FakeSlurm()) as env:
        home = env.master.run.home
    (home / part).chmod(0o777)
    with pytest.raises(hf.ConfigurationError, match=r"can be written by others.*chmod go-w"):
        async with open_fake(tmp_path, FakeSlurm(), resume=True):
            pass
    (home / part).chmod(0o700)


async def test_resume_of_nothing(tmp_path: Path) -> None:
    """A run that is not there is refused with the places that were looked at."""
    with pytest.raises(hf.ConfigurationError, match=r"no run to resume.*program\.json"):
        async with hf.open_cluster(resume="20200101-000000-abcdef", base_dir=tmp_path):
            pass


async def test_two_submissions_of_one_attempt(tmp_path: Path) -> None:
    """Where sbatch came through twice, the job that has claimed the attempt is followed."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        slurm.add(slurm.jobs[1].order)
        directory = slurm.jobs[1].order.directory
        directory.claim(1).write_text('{"batch_id": 2, "restarts": 0}')
        directory.claim(1).chmod(0o600)
        slurm.tell(1, BatchState("ended", "COMPLETED", exit_code=0))
        await wait_until(lambda: env.master.jobs()[0].batch_id == 2, 5, "the other one is followed")
        slurm.run(2)
        assert await waiting == 2


async def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the run directory cannot be written the program ends with a clear error; resumed, it has lost nothing."""
    slurm = FakeSlurm()
    count = 0

    def replace(old: Any, new: Any) -> None:
        nonlocal count
        count += 1
        if count > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("hyperflow.files.os.replace", replace)
        async with open_fake(tmp_path, slurm):
            with pytest.raises(hf.ConfigurationError, match=r"No space left on device.*resume the program"):
                await hf.map_concurrently(lambda x: hf.remote_eval_job(double(x)), range(3))
    async with open_fake(tmp_path, slurm, resume=True):
        assert await hf.map_concurrently(lambda x: hf.remote_eval_job(double(x)), range(3)) == [0, 2, 4]
    assert len(slurm.jobs) == 3


async def test_mended_program(tmp_path: Path) -> None:
    """A held job of a program that was mended meanwhile runs the new code when it is tried again."""

    @hf.job
    async def work(x: int) -> int:
        raise ValueError("a slip of the pen")

    wrong = work

    @hf.job  # type: ignore[no-redef]
    async def work(x: int) -> int:
        return 2 * x

    slurm = FakeSlurm()
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(wrong(3))):
        await until(env, State.HELD)
        await env.master.leave(cancel_jobs=False)
    async with open_fake(tmp_path, slurm, resume=True) as env, going(hf.remote_eval_job(work(3))) as waiting:
        assert state_of(env) is State.HELD
        await env.master.retry([1])
        assert await waiting == 6
        assert len(env.master.jobs()) == 1


async def test_held_job_is_told_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A program that is started again and waits for a job that is held says so."""
    slurm = FakeSlurm()
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(-1))):
        await until(env, State.HELD)
        await env.master.leave(cancel_jobs=False)
    caplog.clear()
    async with open_fake(tmp_path, slurm, resume=True), going(hf.remote_eval_job(double(-1))):
        await wait_until(lambda: "double(-1) is held: exception: ValueError" in caplog.text, 5, "it is told")


class Value:
    """Something that can be referred to."""


@hf.job
async def value() -> Value:
    """Return it."""
    return Value()


async def test_results_are_not_kept(tmp_path: Path) -> None:
    """The master does not hold on to a result that the program has had."""
    async with open_fake(tmp_path, FakeSlurm()):
        found = weakref.ref(await hf.remote_eval_job(value()))
        await asyncio.sleep(0)  # the event loop itself has it until its next turn
        gc.collect()
        assert found() is None


async def test_many_calls_at_once(tmp_path: Path) -> None:
    """While many jobs are being made, others have their turn."""
    async with open_fake(tmp_path, FakeSlurm()) as env:
        made: list[int] = []
        async with going(hf.map_concurrently(lambda x: hf.remote_eval_job(double(x)), range(20))) as waiting:
            while len(env.master.jobs()) < 20:
                made.append(len(env.master.jobs()))
                await asyncio.sleep(0)
            assert await waiting == [2 * x for x in range(20)]
    assert max(after - before for before, after in itertools.pairwise(made)) <= 2


async def test_lost_submissions_share_a_question(tmp_path: Path) -> None:
    """After a master that was killed while it submitted many jobs, Slurm is asked once for all of them."""
    slurm = FakeSlurm(run_at_once=False)
    flow = hf.map_concurrently(lambda x: hf.remote_eval_job(double(x)), range(5))
    async with open_fake(tmp_path, slurm) as env, going(flow):
        await wait_until(lambda: len(slurm.jobs) == 5, 5, "all are submitted")
        await until(env, State.QUEUED, 5)
        await env.master.leave(cancel_jobs=False)
    for job in slurm.jobs.values():
        record = job.order.directory.read_record()
        lost = attrs.evolve(record.attempts[0], batch_id=None)
        job.order.directory.write_record(attrs.evolve(record, state=State.SUBMITTING, attempts=(lost,)))
    fate = Fate()
    async with open_fake(tmp_path, slurm, resume=True, fate=fate) as env, going(flow):
        await wait_until(lambda: all(job.state is State.QUEUED for job in env.master.jobs()), 5, "all are found")
        assert [job.batch_id for job in env.master.jobs()] == [1, 2, 3, 4, 5]
        await env.master.leave(cancel_jobs=False)
    assert fate.steps.count("find") == 1


async def test_node_that_does_not_see_the_run(tmp_path: Path) -> None:
    """Where a node cannot open slurm.out, that is what the job is held for, and not Slurm's number for it."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))):
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("ended", "FAILED", nodes="node7", exit_code=0, signal=53))
        await until(env, State.HELD)
        assert "crash: node7 could not write slurm.out" in env.master.jobs()[0].cause
        assert "another --base-dir" in env.master.why(1)


async def test_refusal_in_slurms_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list has what sbatch has said, and `why` all of it."""

    async def refuse(*_: object) -> int:
        raise SlurmError("sbatch refused script.sh:\n  sbatch: error: invalid partition specified: fast\nsee sinfo")

    monkeypatch.setattr(FakeBatch, "submit_order", refuse)
    async with open_fake(tmp_path, FakeSlurm()) as env, going(hf.remote_eval_job(double(1))):
        await until(env, State.HELD)
        (job,) = env.master.jobs()
        assert job.cause == "refused: it could not be submitted: invalid partition specified: fast"
        assert "see sinfo" in env.master.why(1)


async def test_hopeless_job_says_what_to_type(tmp_path: Path) -> None:
    """While a job waits that Slurm cannot start, `why` says so already, and the log once."""
    slurm = FakeSlurm(run_at_once=False)
    timeouts = attrs.evolve(QUICK, hopeless=60.0)
    async with open_fake(tmp_path, slurm, timeouts=timeouts) as env, going(hf.remote_eval_job(double(1))):
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("pending", "PENDING", reason="PartitionTimeLimit", hopeless="too long"))
        await wait_until(lambda: "PartitionTimeLimit" in env.master.why(1), 5, "it is seen")
        assert "a longer time limit than the partition allows" in env.master.why(1)
        assert "hyperflow cancel 1; then " in env.master.why(1)
        await env.master.leave(cancel_jobs=False)


async def test_swapped_results(tmp_path: Path) -> None:
    """A result that belongs to another job is not taken, although it is whole."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))):
        await until(env, State.QUEUED)
        directory = slurm.jobs[1].order.directory
        header = {"run": directory.home.name, "job": 2, "outcome": "value", "attempt": 1, "restarts": 0}
        checked_files.write_checked(directory.result(Epoch(1)), "result", calls.pack_value(77, ""), **header)
        slurm.tell(1, BatchState("ended", "COMPLETED"))
        await until(env, State.HELD)
        assert "job 2, attempt 1" in env.master.jobs()[0].cause


def tasks_of_drivers() -> list[str]:
    """Return the names of the tasks that work for jobs."""
    return sorted(name for task in asyncio.all_tasks() if "driver" in (name := task.get_name()))


async def test_a_job_at_rest_costs_no_task(tmp_path: Path) -> None:
    """A job that is held or done, that Slurm has queued, or that waits for a slot, has no task at work for it."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm, max_jobs=3) as env:
        calls = [asyncio.ensure_future(hf.remote_eval_job(double(x))) for x in (1, -1, 2, 3)]
        await wait_until(lambda: len(slurm.jobs) == 3, 5, "three are submitted")
        await wait_until(lambda: not tasks_of_drivers(), 5, "all rest", state=tasks_of_drivers)
        assert [job.state for job in env.master.jobs()] == [State.QUEUED] * 3 + [State.NEW]
        slurm.run(1)
        slurm.run(2)
        await until(env, State.DONE)
        await until(env, State.HELD, 2)
        await until(env, State.QUEUED, 4)
        await wait_until(lambda: not tasks_of_drivers(), 5, "all rest", state=tasks_of_drivers)
        slurm.run(3)
        slurm.run(4)
        assert [await calls[0], await calls[2], await calls[3]] == [2, 4, 6]
        await env.master.give_up([2])
        with pytest.raises(ValueError, match="-1 is negative"):
            await calls[1]


async def test_running_jobs_share_one_look(tmp_path: Path) -> None:
    """However many jobs run, one task sees to it that their files are looked at, and it ends with the last of them."""
    slurm = FakeSlurm(run_at_once=False)

    def looking() -> int:
        return sum(task.get_name() == "looks at files" for task in asyncio.all_tasks())

    async with open_fake(tmp_path, slurm) as env:
        waiting = asyncio.ensure_future(hf.map_concurrently(lambda x: hf.remote_eval_job(double(x)), range(3)))
        await wait_until(lambda: len(slurm.jobs) == 3, 5, "all are submitted")
        for number in slurm.jobs:
            slurm.tell(number, BatchState("running", "RUNNING", nodes="node1"))
            await until(env, State.RUNNING, number)
        assert looking() == 1
        for number, job in slurm.jobs.items():  # Slurm says nothing: the files do
            write_result(job.order.directory, Epoch(1), number)
        assert await waiting == [0, 2, 4]
        await wait_until(lambda: looking() == 0, 5, "nobody looks")


@pytest.mark.parametrize(("argument", "on_error"), [(4, "hold"), (-4, "raise"), (-4, "hold")])
async def test_result_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: int, on_error: str
) -> None:
    """A result file is read and hashed once: whether it holds a value, or an error, also one that is held first."""
    read: list[str] = []
    really = checked_files.read_checked

    def count(path: checked_files.Place, kind: str, expected: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        read.append(f"{kind} {path.name}")
        return really(path, kind, expected)

    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm, on_error=on_error) as env:
        waiting = asyncio.ensure_future(hf.remote_eval_job(double(argument)))
        await until(env, State.QUEUED)
        write_result(slurm.jobs[1].order.directory, Epoch(1))
        monkeypatch.setattr(checked_files, "read_checked", count)
        slurm.tell(1, BatchState("ended", "COMPLETED", exit_code=0))
        if argument > 0:
            assert await waiting == 8
        else:
            if on_error == "hold":
                await until(env, State.HELD)
                await env.master.give_up([1])
            with pytest.raises(ValueError, match="-4 is negative"):
                await waiting
        assert read == ["result result.1.0"]


async def test_outcome_is_let_go(tmp_path: Path) -> None:
    """What was read of a result is not kept once it was given to the flow, nor while no flow waits for it."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        slurm.run(1)
        assert await waiting == 2
        assert env.master._drivers[1]._outcome is None
    async with open_fake(tmp_path, FakeSlurm(), resume=True) as env:
        assert await hf.remote_eval_job(double(1)) == 2
        assert env.master._drivers[1]._outcome is None


class Trap:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return exit, (7,)


@hf.job
async def trap() -> Any:
    """Return a trap."""
    return Trap()


async def test_result_that_ends_its_reader(tmp_path: Path) -> None:
    """A result whose class raises SystemExit when it is read does not end the master: the job is held."""
    async with open_fake(tmp_path, FakeSlurm()) as env, going(hf.remote_eval_job(trap())) as waiting:
        await until(env, State.HELD)
        assert "its result cannot be made here: SystemExit: 7" in env.master.jobs()[0].cause
        assert not waiting.done()


async def test_slot_of_a_flow_that_goes_away(tmp_path: Path) -> None:
    """A flow that is cancelled while its job waits for a slot leaves its place to the next one."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm, max_jobs=1) as env:
        first, second, third = (asyncio.ensure_future(hf.remote_eval_job(double(x))) for x in (1, 2, 3))
        await wait_until(lambda: len(env.master.jobs()) == 3 and state_of(env) is State.QUEUED, 5, "one has the slot")
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        slurm.run(1)
        assert await first == 2
        await until(env, State.CANCELLED, 2)
        await until(env, State.QUEUED, 3)
        slurm.run(2)
        assert await third == 6


async def test_run_directory_swapped_under_the_master(tmp_path: Path) -> None:
    """A result from a directory that somebody has put in the place of the run's is not taken."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        home, directory = env.master.run.home, slurm.jobs[1].order.directory
        shutil.copytree(home, tmp_path / "evil")
        home.rename(tmp_path / "away")
        (tmp_path / "evil").rename(home)
        header = {"run": home.name, "job": 1, "attempt": 1, "restarts": 0, "outcome": "value"}
        checked_files.write_checked(directory.result(Epoch(1)), "result", calls.pack_value(666, ""), **header)
        directory.write_result(Epoch(1), 1, "value", calls.pack_value(2, ""))
        slurm.tell(1, BatchState("ended", "COMPLETED"))
        assert await waiting == 2
        assert (tmp_path / "away" / "jobs" / "1" / "result.1.0").exists()


async def test_late_result_of_a_held_job_counts(tmp_path: Path) -> None:
    """Slurm forgets a job, which is held; when its result comes after all, it is taken, and the flow goes on."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("gone"))
        await until(env, State.HELD)
        write_result(slurm.jobs[1].order.directory, Epoch(1))
        async with asyncio.timeout(40):
            assert await waiting == 2
        assert state_of(env) is State.DONE
        assert len(slurm.jobs) == 1


async def test_late_result_since_the_last_master(tmp_path: Path) -> None:
    """A result that has come while no master ran is taken by the next one; a late error changes nothing."""
    slurm = FakeSlurm(run_at_once=False)
    async with open_fake(tmp_path, slurm) as env, going(hf.remote_eval_job(double(1))):
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("gone"))
        await until(env, State.HELD)
        await env.master.leave(cancel_jobs=False)
    write_result(slurm.jobs[1].order.directory, Epoch(1))
    async with open_fake(tmp_path, slurm, resume=True), asyncio.timeout(40):
        assert await hf.remote_eval_job(double(1)) == 2


async def test_late_result_at_a_retry(tmp_path: Path) -> None:
    """Retrying a job whose result has come meanwhile takes the result, and computes nothing again."""
    slurm = FakeSlurm(run_at_once=False)
    timeouts = attrs.evolve(QUICK, look=1000.0)
    async with open_fake(tmp_path, slurm, timeouts=timeouts) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("gone"))
        await until(env, State.HELD)
        write_result(slurm.jobs[1].order.directory, Epoch(1))
        await env.master.retry([1])
        assert await waiting == 2
        assert len(slurm.jobs) == 1


async def test_forgotten_job_is_cancelled_before_the_next_attempt(tmp_path: Path) -> None:
    """A job that Slurm has forgotten, and may run, is cancelled before it is submitted again."""
    slurm, fate = FakeSlurm(run_at_once=False), Fate()
    options = {"fate": fate, "on_error": hf.Resubmit(1)}
    async with open_fake(tmp_path, slurm, **options) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        slurm.tell(1, BatchState("gone"))
        await wait_until(lambda: len(slurm.jobs) == 2, 5, "it is submitted again")
        token = slurm.tokens[1]
        assert fate.steps.index("scancel 1") < fate.steps.index(f"before sbatch {token}")
        slurm.run(2)
        assert await waiting == 2


async def test_forgotten_job_that_gives_signs_of_life(tmp_path: Path) -> None:
    """Slurm has forgotten a job whose own file is renewed all the time: it is waited for, and its result counts."""
    slurm = FakeSlurm(run_at_once=False)
    timeouts = attrs.evolve(QUICK, grace=0.3)
    async with open_fake(tmp_path, slurm, timeouts=timeouts) as env, going(hf.remote_eval_job(double(1))) as waiting:
        await until(env, State.QUEUED)
        directory = slurm.jobs[1].order.directory
        slurm.tell(1, BatchState("gone"))
        for beat in range(100):
            text = json.dumps({"attempt": 1, "restarts": 0, "batch_id": 1, "time": beat})
            checked_files.write_file(directory.status, text.encode())
            await asyncio.sleep(0.01)
        assert state_of(env) is State.ENDED
        write_result(directory, Epoch(1))
        assert await waiting == 2
