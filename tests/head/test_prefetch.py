"""Prefetching: quick evaluations are queued at busy workers, and come back when one of them blocks."""

import asyncio
import os
from pathlib import Path

import hyperflow as hf
from hyperflow.events import reader
from tests.support import Gate, local, wait_at


async def test_what_waits_behind_a_blocker_runs_elsewhere(tmp_path: Path) -> None:
    """
    A function that mostly takes microseconds blocks for long: what was queued behind it is run elsewhere meanwhile.

    Nothing of that is charged to anybody, and nothing runs twice.
    """
    gate = Gate(tmp_path)
    effects = tmp_path / "effects"

    def mostly_quick(n: int) -> tuple[int, int]:
        if n == 5000:
            wait_at(gate.path)
        fd = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{n}\n".encode())
        os.close(fd)
        return n, os.getpid()

    program = hf.ProgramInfo.new(tmp_path / "runs")
    async with local(program=program) as env:
        await hf.map_concurrently(lambda n: hf.remote_eval(mostly_quick, -n - 1), range(500))
        futures = {n: hf.remote_eval(mostly_quick, n).start() for n in range(4000, 6000)}
        await gate.wait_inside()
        blocked = futures.pop(5000)
        async with asyncio.timeout(40):
            got = await asyncio.gather(*futures.values())
        assert not blocked.done()
        assert [n for n, _ in got] == list(futures)
        gate.open()
        n, pid = await blocked
        assert n == 5000
        assert pid in {pid for _, pid in got}  # it has done others before
        stats = env.statistics()
        assert (stats.failed, stats.retried, stats.late) == (0, 0, 0)
        assert stats.returned == 0
    assert any("retracted" in event for event in reader.read(program.log_dir / "events.jsonl"))
    assert sorted(map(int, effects.read_text().split())) == sorted([*range(-500, 0), *range(4000, 6000)])


async def test_every_worker_blocks_in_turn(tmp_path: Path) -> None:
    """Blockers on all workers but one: the rest of the work gets done by that one."""
    gate = Gate(tmp_path)

    def mostly_quick(n: int) -> int:
        if n in (300, 600, 900):
            wait_at(gate.path)
        return n

    async with local(cpus=4):
        await hf.map_concurrently(lambda n: hf.remote_eval(mostly_quick, -n), range(1, 500))
        futures = {n: hf.remote_eval(mostly_quick, n).start() for n in range(2000)}
        blocked = [futures.pop(n) for n in (300, 600, 900)]
        async with asyncio.timeout(40):
            assert await asyncio.gather(*futures.values()) == list(futures)
        assert not any(future.done() for future in blocked)
        await gate.wait_inside(3)
        gate.open()
        assert await asyncio.gather(*blocked) == [300, 600, 900]


async def test_long_ones_do_not_queue_behind_each_other(tmp_path: Path) -> None:
    """With four evaluations that block, on four CPUs, all four are inside at the same time, each in a process."""
    gate = Gate(tmp_path)
    async with local(cpus=4):
        for n in range(2):
            futures = [hf.remote_eval(wait_at, gate.path).start() for _ in range(4)]
            await gate.wait_inside(4)
            gate.open()
            await asyncio.gather(*futures)
            for mark in tmp_path.glob("gate.*"):
                mark.unlink()
            assert n in (0, 1)


async def test_order_of_submission_is_kept(tmp_path: Path) -> None:
    """On one CPU evaluations start in the order in which they were submitted, of whatever function and size."""
    path = tmp_path / "order"

    def quick(n: int) -> None:
        with open(path, "a") as file:
            file.write(f"{n}\n")

    def other(n: int) -> None:
        with open(path, "a") as file:
            file.write(f"{n}\n")

    async with local(cpus=1):
        await hf.map_concurrently(lambda n: hf.remote_eval((quick, other)[n % 3 == 0], n), range(1000))
    assert [int(line) for line in path.read_text().split()] == list(range(1000))
