"""What is recorded of tasks: known again later, compactly; and posts of workers, whatever becomes of them."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.commands.known import Known
from hyperflow.commands.outputs import Recorder
from hyperflow.commands.records import OUTPUT, TaskRecord, piece_of, piece_text, task_key
from hyperflow.commands.running import TaskDone, TaskFailed, run_task
from hyperflow.testing import open_inline_job


def _done(code: int = 0, out: bytes = b"") -> TaskDone:
    return TaskDone(code, 0.25, 0.125, 4096, "node1", 1, out, b"", 0, 0, "1a2b")


def test_records_come_back() -> None:
    """As they were, whatever is in their texts."""
    for record in (
        TaskRecord("done", 0, 1e-7, 12345.6, 1 << 40, "node1", 3, "", 5, 1 << 35, "18a"),
        TaskRecord("failed", None, error='a "quoted" \\ line\nä\0€ 😀'),
    ):
        assert TaskRecord.of(record.text()) == record
    with pytest.raises(ValueError, match="no record"):
        TaskRecord.of('{"what": 1}')


@pytest.mark.parametrize(
    "data", [b"", b"text\n", "äöü€😀".encode(), b"\xff\0\xfe", bytes(range(256)), "€".encode()[:2]]
)
def test_pieces_come_back(data: bytes) -> None:
    """Bytes of any kind."""
    assert piece_of(piece_text(data)) == data


async def test_what_is_known_later() -> None:
    """The newest record of a number counts, and only under its key."""
    async with open_inline_job():
        recorder = Recorder()
        await recorder.ended(1, "key", _done(3))
        await recorder.ended(2, "key", asyncio.CancelledError())
        assert (await recorder.ended(1, "key", _done())).state == "done"
        await recorder.ended(1_000, "other", hf.WorkerDied("run_task(1000)", "worker-1@node1", "node1", -9), None)
        await recorder.ended(3, "key", asyncio.CancelledError(), "skipped")
        known = await recorder.known()
        await recorder.close()
    assert known[1, "key"].state == "done"
    assert known[2, "key"].state == "cancelled"
    assert known[3, "key"].state == "skipped"
    assert known[1_000, "other"].state == "failed"
    assert (1, "another") not in known
    assert (4, "key") not in known
    assert (5_000_000, "key") not in known
    assert len(known) == 4


def test_a_million_are_known_in_little_memory() -> None:
    """Some two hundred bytes of each."""
    known = Known()
    text = TaskRecord("done", 0, 0.123, 0.1, 26_000_000, "node17", 1, "", 12, 0, "18a2b3c4d5e6f708").text()
    for number in range(1, 100_001):
        known.add(task_key(number, f"{number:064x}"), text)
    assert known[77_777, f"{77_777:064x}"].node == "node17"
    assert known.is_done(77_777, f"{77_777:064x}")
    assert known.size < 100_000 * 300


# ---- posts -----------------------------------------------------------------------------------------------------------


def _post(name: str, content: object) -> None:
    from hyperflow.worker import worker

    worker.post(name, content)


def _say_and_fail(first: int, times: Path) -> int:
    """Post ten numbers; fail at the first time."""
    attempt = hf.worker_info().attempt
    for number in range(first, first + 10):
        _post("heard", (attempt, number))
    if attempt == 1:
        raise ValueError(str(times))
    return first


def _say_and_die(first: int) -> int:
    """Post ten numbers; die at the first time."""
    attempt = hf.worker_info().attempt
    for number in range(first, first + 10):
        _post("heard", (attempt, number))
    if attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return first


@pytest.mark.process
@pytest.mark.parametrize("dies", [False, True])
def test_posts_of_several_tries(tmp_path: Path, dies: bool) -> None:
    """On the same worker or another one: those of each try come in order, those of the last all."""

    @hf.job
    async def job() -> list[tuple[int, int]]:
        heard: list[tuple[int, int]] = []
        from hyperflow import environment

        environment.current().evaluator.receivers["heard"] = heard.append
        flow = hf.remote_eval(_say_and_die, 100) if dies else hf.remote_eval(_say_and_fail, 100, tmp_path)
        await flow.using(retries=1, crash_limit=3)
        return heard

    heard = hf.run_job_local(job(), cpus=1, progress=False)
    assert [number for attempt, number in heard if attempt == 2] == list(range(100, 110))
    first = [number for attempt, number in heard if attempt == 1]
    assert first == list(range(100, 100 + len(first)))


def _flood(count: int) -> int:
    block = os.urandom(1 << 16)
    for _ in range(count):
        _post("blocks", block)
    return count


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:nothing is pinned")
def test_a_slow_receiver_bounds_memory() -> None:
    """A thousand posts of 64 KiB from four workers: the head holds few of them at a time."""

    @hf.job
    async def job() -> tuple[int, int]:
        from hyperflow import environment

        loop = asyncio.get_running_loop()
        waiting = most = count = 0

        def take(block: bytes) -> asyncio.Future[None]:
            nonlocal waiting, most, count
            waiting, count = waiting + len(block), count + 1
            most = max(most, waiting)
            taken: asyncio.Future[None] = loop.create_future()

            def done() -> None:
                nonlocal waiting
                waiting -= len(block)
                taken.set_result(None)

            loop.call_later(0.002, done)
            return taken

        environment.current().evaluator.receivers["blocks"] = take
        await hf.map_concurrently(lambda n: hf.remote_eval(_flood, n), [250] * 4)
        return count, most

    count, most = hf.run_job_local(job(), cpus=4, progress=False)
    assert count == 1000
    assert most <= 4 * 16 << 16


def _say_for_ever() -> None:
    for number in range(1_000_000):
        _post("heard", number)
        time.sleep(0.01)


@pytest.mark.process
def test_posts_of_a_cancelled_evaluation_end() -> None:
    """They come in order until then, and the worker's next evaluation may post, too."""

    @hf.job
    async def job() -> tuple[list[int], int]:
        from hyperflow import environment

        heard: list[int] = []
        enough = asyncio.Event()

        def take(number: int) -> None:
            heard.append(number)
            if number == 20:
                enough.set()

        receivers = environment.current().evaluator.receivers
        receivers["heard"] = take
        evaluation = hf.remote_eval(_say_for_ever).start()
        await enough.wait()
        evaluation.cancel()
        await asyncio.wait([evaluation])
        blocks: list[bytes] = []
        receivers["blocks"] = blocks.append
        await hf.remote_eval(_flood, 40)
        return heard, len(blocks)

    heard, blocks = hf.run_job_local(job(), cpus=1, progress=False)
    assert heard == list(range(len(heard)))
    assert blocks == 40


@pytest.mark.process
async def test_a_task_in_the_inline_environment(tmp_path: Path) -> None:
    """A command runs there as on a worker."""
    async with open_inline_job():
        recorder = Recorder()
        argv = ["/bin/sh", "-c", "pwd; sleep 0.7; exit 4"]
        with pytest.raises(TaskFailed) as caught:
            await hf.remote_eval(run_task, 1, argv, str(tmp_path), None, "")
        record = await recorder.ended(1, "key", caught.value)
        await recorder.close()
    assert (record.exit_code, record.out, record.node) == (4, len(str(tmp_path)) + 1, caught.value.done.node)
    assert caught.value.done.out_posted == record.out


async def test_a_database_that_takes_nothing() -> None:
    """Who waits for a record gets the error, each an own one; closing does not hang."""
    async with open_inline_job() as env:

        def broken(entries: list[tuple[str, str, str]]) -> asyncio.Future[list[None]]:
            raise hf.DatabaseError(f"the disk is full: {len(entries)} entries")

        env.database.record_all = broken  # type: ignore[method-assign]
        recorder = Recorder()
        recorded = [recorder.ended(number, "key", _done()) for number in (1, 2)]
        for each in recorded:
            with pytest.raises(hf.DatabaseError, match="the disk is full: 2 entries"):
                await each
        await recorder.close()


@pytest.mark.process
async def test_a_post_that_fails(tmp_path: Path) -> None:
    """The task fails with that, and leaves no command."""
    async with open_inline_job() as env:

        def refuse(content: object) -> None:
            raise OSError(f"no more: {content!r:.10}")

        env.evaluator.receivers[OUTPUT] = refuse
        pid = tmp_path / "pid"
        with pytest.raises(OSError, match="no more"):
            await hf.remote_eval(run_task, 1, ["/bin/sh", "-c", f"echo $$ > {pid}; sleep 100"], "", None, "")
    assert not Path("/proc", pid.read_text().strip()).exists()
