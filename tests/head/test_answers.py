"""Answers of a worker with more in hand: they come although no message tells of them, and outlive their worker."""

import asyncio
import os
import signal
import time
from pathlib import Path

import hyperflow as hf
from hyperflow.events.reader import read
from tests.support import Gate, local, wait_at


async def test_answers_do_not_wait_for_a_long_task(tmp_path: Path) -> None:
    """What was answered before it comes while it runs, wherever it is in the batch that the worker has in hand."""
    gate = Gate(tmp_path)

    def mostly_quick(n: int, long: int) -> int:
        if n == long:
            wait_at(gate.path)
        return n

    async with local(cpus=1), asyncio.timeout(40):
        for long in (1, 2, 7, 199):
            await hf.map_concurrently(lambda n: hf.remote_eval(mostly_quick, n, -1), range(10))
            futures = [hf.remote_eval(mostly_quick, n, long).start() for n in range(200)]
            assert await asyncio.gather(*futures[:long]) == list(range(long))
            assert not futures[long].done()
            gate.open()
            assert await asyncio.gather(*futures) == list(range(200))


async def test_answers_outlive_their_worker(tmp_path: Path) -> None:
    """A worker that is killed in a task has answered those before it: none runs again, and that one is charged."""
    effects = tmp_path / "effects"

    def mostly_quick(n: int, deadly: int) -> int:
        fd = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"%d\n" % n)
        os.close(fd)
        if n == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    async with local(cpus=1), asyncio.timeout(60):
        for deadly in (1, 2, 57, 198, 199):
            await hf.map_concurrently(lambda n: hf.remote_eval(mostly_quick, n, -1), range(10))
            effects.write_bytes(b"")
            got = await hf.map_concurrently(
                lambda n, deadly=deadly: hf.remote_eval(mostly_quick, n, deadly), range(200), errors="return"
            )
            failed = got[deadly]
            assert isinstance(failed, hf.Failed)
            assert type(failed.error) is hf.WorkerDied
            assert [each for each in got if not isinstance(each, hf.Failed)] == [n for n in range(200) if n != deadly]
            assert sorted(map(int, effects.read_text().split())) == list(range(200)), "each has run once"


async def test_what_an_evaluation_has_used_comes_with_its_answer(tmp_path: Path) -> None:
    """Whichever way that goes: in a batch or alone, with buffers, or an error; of a quick one it is not measured."""

    def takes(kind: str) -> object:
        end = time.process_time() + (0.02 if kind != "quick" else 0)
        while time.process_time() < end:
            pass
        if kind == "fails":
            raise ValueError(kind)
        return bytearray(1 << 20) if kind == "large" else kind

    kinds = ["quick", "slow", "large", "fails", *["slow"] * 4]
    async with local(cpus=1, program=hf.ProgramInfo.new(tmp_path)) as env, asyncio.timeout(60):
        await hf.map_concurrently(lambda kind: hf.remote_eval(takes, kind), kinds, errors="return")
        for kind in kinds[:4]:
            await hf.concurrently(hf.remote_eval(takes, kind), errors="return")
    measured = [event for event in read(env.program.log_dir / "events.jsonl") if event["state"] == "measured"]
    slow = [number for number, kind in enumerate([*kinds, *kinds[:4]], 1) if kind != "quick"]
    assert sorted(event["of"] for event in measured) == slow
    assert all(event["cpu"] >= 0.02 and event["memory"] > 1 << 20 for event in measured)
