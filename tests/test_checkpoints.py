"""time_left, ending, checkpoint_dir and attempt: a function that is started again goes on from what it had saved."""

import asyncio
import logging
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.database.ownership import Owner
from hyperflow.head.allocation_end import Drain, End, Notice
from hyperflow.head.checkpoint_directories import Directories, in_short
from hyperflow.head.ends import Ends
from hyperflow.testing import open_inline_job
from hyperflow.wire import frames
from tests.head.test_trust import engine, nodes
from tests.support import Gate, local


def steps(total: int, fails_at: int) -> tuple[int, list[str]]:
    """Count up to a number, one step at a time; fail at another one, at the first try. Return where this try began."""
    place = hf.checkpoint_dir()
    saved = place / "step"
    began = int(saved.read_text()) if saved.exists() else 0
    for step in range(began, total):
        if step == fails_at and began == 0:
            raise RuntimeError(str(place))
        saved.write_text(str(step + 1))
    return began, [str(place)]


@hf.memoize("steps")
def all_steps(total: int, fails_at: int) -> hf.Job[tuple[int, list[str]]]:
    """Do the same, and record it."""
    return hf.remote_eval(steps, total, fails_at)


async def test_a_retry_goes_on() -> None:
    """It finds what the first try has saved; when it has succeeded, the directory has gone."""
    async with open_inline_job() as env:
        with hf.using(retries=1):
            began, (place,) = await hf.remote_eval(steps, 10, 7)
        assert began == 7
        assert not Path(place).exists()
        with pytest.raises(RuntimeError) as failed:
            await hf.remote_eval(steps, 10, 7)
        assert (Path(str(failed.value)) / "step").read_text() == "7"  # it stays
        assert Path(str(failed.value)).is_relative_to(env.program.data_dir)


async def test_a_memoized_call_goes_on() -> None:
    """Whoever asks for it again, and only for it."""
    async with open_inline_job():
        with pytest.raises(RuntimeError):
            await all_steps(10, 7)
        with pytest.raises(RuntimeError):
            await all_steps(10, 6)
        began, (place,) = await all_steps(10, 7)
        assert began == 7
        assert not Path(place).exists()


def where(_: int) -> str:
    """Return the directory."""
    return str(hf.checkpoint_dir())


@hf.memoize("places")
@hf.job
async def places(_: int) -> list[str]:
    """Return those of equal calls side by side, and of another one."""
    return [*await hf.map_concurrently(lambda x: hf.remote_eval(hold, x), [1, 1, 2])]


async def hold(_: int) -> str:
    """Return the directory when others have theirs, too."""
    found = str(hf.checkpoint_dir())
    for _ in range(10):
        await asyncio.sleep(0)
    return found


async def test_equal_calls_side_by_side() -> None:
    """Each has one of its own."""
    async with open_inline_job(cpus=3):
        assert len(set(await places(0))) == 3


async def test_items_of_a_chunk() -> None:
    """They are one evaluation, and each has a directory of its own."""
    async with open_inline_job():
        found = await hf.remote_map(where, range(4), chunk_size=4)
    assert len(set(found)) == 4
    assert len({Path(each).parent for each in found}) == 1


def test_what_tells_calls_apart() -> None:
    """The function's name, the arguments and what it captured; not what cannot be told apart by content."""

    def of(n: int) -> Any:
        return lambda x: (x, n)

    calls = [(steps, (1, 2), {}), (steps, (1, 3), {}), (where, (1,), {}), (of(1), (1,), {}), (of(2), (1,), {})]
    assert len({in_short(call) for call in calls}) == len(calls)
    assert in_short((of(1), (1,), {})) == in_short((of(1), (1,), {}))
    assert in_short((steps, (object(),), {}))


def test_one_owner_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that another run has is left alone, and the next one is empty; in the same Slurm job it is taken."""
    program = hf.ProgramInfo.new(tmp_path)
    first, second = Directories(program), Directories(program)
    text = first.text(1, ("map", "key"), (steps, (1, 2), {}))
    path, is_new = first.take(1, text)
    assert is_new
    recorded = f'"{path}"'
    with caplog.at_level(logging.WARNING, "hyperflow"):
        other, _ = second.take(1, text, recorded)
    assert other != path
    assert "is in use by" in caplog.text
    first.close()
    assert second.take(2, text, recorded) == (path, False)
    second.close()
    assert not path.with_name(f"{path.name}.lock").exists()


@pytest.mark.parametrize("job", ["", "7"])
def test_an_owner_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    """It may be at work, unless Slurm has started its job again."""
    monkeypatch.setenv("SLURM_JOB_ID", job)
    program = hf.ProgramInfo.new(tmp_path)
    before = Directories(program)
    path, _ = before.take(1, before.text(1, ("map", "key"), (where, (1,), {})))
    lock = path.with_name(f"{path.name}.lock")
    lock.write_text(lock.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1').replace('"host": "', '"host": "not-'))
    assert (owner := Owner.from_text(lock.read_text())) is not None
    assert not owner.is_gone()
    after = Directories(program)
    found, _ = after.take(1, "text", f'"{path}"')
    assert (found == path) is bool(job)
    after.close()


def test_one_that_was_removed(tmp_path: Path) -> None:
    """It is replaced by a new one."""
    directories = Directories(hf.ProgramInfo.new(tmp_path))
    path, is_new = directories.take(1, "text", f'"{tmp_path / "gone"}"')
    assert path.is_dir()
    assert is_new
    directories.remove(path)
    directories.close()


async def test_in_the_job_itself() -> None:
    """There is no try of it, and no end that is known."""
    async with open_inline_job():
        assert (hf.time_left(), hf.ending()) == (math.inf, False)
        with pytest.raises(hf.MisuseError, match="new_work_dir"):
            hf.checkpoint_dir()


def test_outside_of_a_run() -> None:
    """A function under test has no end, and no directory."""
    assert (hf.time_left(), hf.ending()) == (math.inf, False)
    with pytest.raises(hf.NotInFlow):
        hf.checkpoint_dir()


def left() -> tuple[float, bool]:
    """Return what a function sees."""
    return hf.time_left(), hf.ending()


async def test_time_limits_inline() -> None:
    """They count there, too."""
    async with open_inline_job():
        assert await hf.remote_eval(left) == (math.inf, False)
        seconds, near = await hf.remote_eval(left).using(time_limit=100)
        assert 50 < seconds <= 100
        assert not near


async def test_nodes_are_told() -> None:
    """Of the end, of a signal, and of their being drained."""
    told = list[tuple[str, float, float]]()

    def write(node: str, parts: list[frames.Bytes]) -> None:
        (part,) = parts
        told.extend((node, *frames.ENDS.unpack(body)) for _, _, body in frames.Reader().feed(bytes(part)))

    drain = Drain(lambda _: None, lambda _: None)
    ends = Ends(drain, {"b"}, write)
    ends.tell_new("a")
    assert not told  # nothing is known yet
    drain.expect(End(time.time() + 1000, 100.0))
    ends.tell("a", "b", "c")
    assert [(node, round(left, -1), round(near, -1)) for node, left, near in told] == [
        ("a", 990, 900),
        ("b", 990, 0),
        ("c", 990, 900),
    ]
    told.clear()
    drain.begin(End(None, 0.0), Notice("a signal", 20.0))
    ends.tell("a")
    assert ends.is_ending()
    assert told[0][2] == 0
    assert 10 < told[0][1] <= 15
    drain.close()


def go_on(path: str) -> tuple[int, int, float, bool]:
    """Save how far it has come; at its first try, be killed."""
    info, saved = hf.worker_info(), hf.checkpoint_dir() / "saved"
    found = list[Path]()
    thread = threading.Thread(target=lambda: found.append(hf.checkpoint_dir()))
    thread.start()
    thread.join()
    assert found == [saved.parent]
    if info.attempt == 1:
        saved.write_text("40")
        Path(path).write_text(str(saved))
        os.kill(os.getpid(), signal.SIGKILL)
    return info.attempt, int(saved.read_text()) + 2, hf.time_left(), hf.ending()


@pytest.mark.process
async def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """The next try goes on from what was saved; both know which they are, and how much time they have."""
    path = tmp_path / "saved"
    async with local(cpus=1):
        attempt, result, seconds, near = await hf.remote_eval(go_on, str(path)).using(retries=1, time_limit=300)
        assert (attempt, result, near) == (2, 42, False)
        assert 200 < seconds <= 300
        assert await hf.remote_eval(lambda: hf.worker_info().attempt) == 1
        assert await hf.remote_eval(left) == (math.inf, False)
    assert not Path(path.read_text()).exists()


def climb(gate: str, how: str) -> tuple[int, str, list[str]]:
    """Save where it is. At the first try, lose the node, or wait until it is drained, and give back the place."""
    info, saved = hf.worker_info(), hf.checkpoint_dir() / "saved"
    if info.attempt > 1:
        return info.attempt, info.node, saved.read_text().split()
    saved.write_text(f"reached {info.node}")
    Path(f"{gate}.inside").touch()
    if how == "lost":
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    while not hf.ending():
        time.sleep(0.001)
    raise hf.AllocationEnding


@pytest.mark.process
@pytest.mark.parametrize("how", ["lost", "drained"])
async def test_a_node_that_goes(tmp_path: Path, how: str) -> None:
    """Its evaluation goes on elsewhere from what it had saved, and has used no retries."""
    gate = Gate(tmp_path)
    async with nodes("north", "south", cpus=1) as env:
        running = hf.remote_eval(climb, gate.path, how).start()
        if how == "drained":
            await gate.wait_inside()
            (busy,) = (worker for worker in engine(env).scheduler.workers.values() if worker.is_busy)
            engine(env).put_aside(busy.node)
        attempt, node, saved = await running
    assert attempt == 2
    assert saved[0] == "reached"
    assert {saved[1], node} == {"north", "south"}
