"""A master that is killed at any step, and the next one: nothing is submitted twice, nothing is done twice."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.master.driver import JobDriver
from tests.master.fake_slurm import FakeSlurm, Fate, Killed
from tests.master.support import open_fake

ran: Counter[int] = Counter()


@hf.job
async def square(x: int) -> int:
    """Count how often it is run."""
    ran[x] += 1
    return x * x


@hf.job
async def add(numbers: list[int]) -> int:
    """Depend on what others have returned."""
    ran[-1] += 1
    return sum(numbers)


@hf.cluster
async def program() -> int:
    """Two jobs side by side, then one that needs both."""
    squares = await hf.concurrently(*(hf.remote_eval_job(square(x)) for x in (2, 3)))
    return await hf.remote_eval_job(add(list(squares)))


def but_not_killed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what asyncio reports, except that the tasks of a killed master have been killed."""
    if not isinstance(context.get("exception"), Killed):
        loop.default_exception_handler(context)


async def run_once(base: Path, slurm: FakeSlurm, fate: Fate, resume: bool) -> int | None:
    """Run the program until its end, or until its master is killed."""
    with contextlib.suppress(Killed):
        async with open_fake(base, slurm, fate=fate, resume=resume):
            running = asyncio.ensure_future(program())
            dead = asyncio.ensure_future(fate.dead.wait())
            try:
                await asyncio.wait({running, dead}, return_when=asyncio.FIRST_COMPLETED)
                if fate.dead.is_set():
                    raise Killed
                return await running
            finally:
                running.cancel()
                dead.cancel()
                with contextlib.suppress(asyncio.CancelledError, Killed):
                    await running
    return None


async def steps_of_whole_run(base: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return all steps of a run that nobody disturbs."""
    asyncio.get_running_loop().set_exception_handler(but_not_killed)
    monkeypatch.setattr("os.fsync", lambda file: None)  # a process is killed, not the machine
    fate = Fate()
    fate.patch(monkeypatch)
    assert await run_once(base, FakeSlurm(), fate, False) == 13
    return fate.steps


async def killed_and_resumed(
    base: Path, at: int, monkeypatch: pytest.MonkeyPatch, forgetful: bool
) -> tuple[int | None, list[str]]:
    """Kill a run at a step and run it again; return its result and the tokens of all submissions."""
    ran.clear()
    slurm = FakeSlurm()
    fate = Fate(at)
    fate.patch(monkeypatch)
    assert await run_once(base, slurm, fate, False) is None
    submitted = slurm.tokens
    if forgetful:  # what has ended Slurm no longer knows
        slurm = FakeSlurm(first=100)
    else:
        submitted = []
    fate = Fate()
    fate.patch(monkeypatch)
    result = await run_once(base, slurm, fate, any(base.glob("*/program.json")))
    return result, submitted + slurm.tokens


@pytest.mark.parametrize("forgetful", [False, True])
async def test_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: bool) -> None:
    """Wherever the master is killed, the next one has the right result, with three submissions and three runs."""
    steps = await steps_of_whole_run(tmp_path / "whole", monkeypatch)
    assert len(steps) > 40
    for at, step in enumerate(steps):
        where = f"killed at step {at}, {step}"
        result, submitted = await killed_and_resumed(tmp_path / f"{at}", at, monkeypatch, forgetful)
        assert result == 13, where
        assert ran == {2: 1, 3: 1, -1: 1}, where
        assert len(submitted) == len(set(submitted)) == 3, where


async def test_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A master that did not ask for lost submissions would be caught by the test above."""

    async def guess(self: JobDriver) -> None:
        self._put(self.record.not_there())

    steps = await steps_of_whole_run(tmp_path / "whole", monkeypatch)
    monkeypatch.setattr(JobDriver, "_look_up", guess)
    at = next(number for number, step in enumerate(steps) if step.startswith("after sbatch"))
    result, submitted = await killed_and_resumed(tmp_path / "killed", at, monkeypatch, False)
    assert result == 13
    assert len(submitted) == 4
