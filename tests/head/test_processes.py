"""Whatever a function does to its process: its await ends, its CPUs come back, and the next task starts clean."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

import hyperflow as hf
from tests import attacks
from tests.helpers import alive, wait_until
from tests.support import local


async def cpus_back(env: hf.JobEnv) -> None:
    """Wait until all CPUs are free, and none is used by what ended."""
    await wait_until(lambda: env.statistics().cpus_free == 1, 9, "the CPU is back", state=env.statistics)


@pytest.mark.parametrize("leave", [attacks.by_setpgid, attacks.by_setsid])
@pytest.mark.parametrize("end", [attacks.by_return, attacks.by_exit, attacks.by_sleep])
async def test_zombie_in_the_group(leave: Callable[[], None], end: Callable[[], Any]) -> None:
    """A zombie that nobody reaps, in the group of a worker, keeps neither the await nor the CPU."""
    limit = 0.3 if end is attacks.by_sleep else None
    errors = {attacks.by_exit: hf.WorkerDied, attacks.by_sleep: hf.TimeLimitExceeded}
    async with local(cpus=1) as env, asyncio.timeout(15):
        # fresh: the worker ends after it
        flow = hf.remote_eval(attacks.zombie_in_the_group, leave, end).using(time_limit=limit, fresh_process=True)
        with pytest.raises(errors[end]) if end in errors else contextlib.nullcontext():
            await flow
        await cpus_back(env)
        assert await hf.remote_eval(attacks.probe) == ""


@pytest.mark.parametrize("attack", attacks.LEFT_BEHIND, ids=lambda attack: attack.__name__)
async def test_next_task_starts_clean(attack: Callable[[], Any]) -> None:
    """What a function leaves in its process does not reach the next evaluation."""
    async with local(cpus=1) as env, asyncio.timeout(20):
        for _ in range(2):
            cpus = await hf.remote_eval(os.sched_getaffinity, 0)
            await hf.remote_eval(attack)
            assert await hf.remote_eval(attacks.probe_async, 0.6) == ""
            assert await hf.remote_eval(os.sched_getaffinity, 0) == cpus
        stats = env.statistics()
        assert (stats.failed, stats.late) == (0, 0)
        await cpus_back(env)


@pytest.mark.parametrize("attack", attacks.LEFT_BEHIND, ids=lambda attack: attack.__name__)
async def test_what_was_prefetched_starts_clean(attack: Callable[[], Any]) -> None:
    """Nor does it reach those that were at the worker already."""
    async with local(cpus=1) as env, asyncio.timeout(30):
        await hf.remote_map(attacks.probe, [0.0] * 3, 1)
        flows = [hf.remote_eval(attack if n % 8 == 3 else attacks.probe) for n in range(24)]
        got = await hf.concurrently(*flows)
        assert [wrong for n, wrong in enumerate(got) if n % 8 != 3] == [""] * 21
        assert env.statistics().failed == 0


@pytest.mark.parametrize("attack", attacks.CUT_OFF, ids=lambda attack: attack.__name__)
async def test_function_that_cuts_its_worker_off(attack: Callable[[], Any]) -> None:
    """A function after which no answer can be sent gets its error, and only it."""
    async with local(cpus=1) as env, asyncio.timeout(20):
        futures = [hf.remote_eval(attack if n == 2 else attacks.probe).start() for n in range(6)]
        got = await asyncio.gather(*futures, return_exceptions=True)
        assert got[:2] + got[3:] == [""] * 5
        assert type(got[2]) is hf.WorkerDied or got[2] is None
        await cpus_back(env)


def stray(how: str) -> list[int]:
    """On a worker: leave processes outside of its session, one below the other; return their numbers."""
    ready, tell = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.write(tell, f"{os.getpid()}\n".encode())
            time.sleep(1000)
        os.write(tell, f"{os.getpid()}\n".encode())
        time.sleep(1000)
    data = b""
    while data.count(b"\n") < 2:
        data += os.read(ready, 100)
    if how == "exit":
        os._exit(1)
    return [int(word) for word in data.split()]


async def test_daemons_end_with_their_worker() -> None:
    """Daemons that a function forked, two deep, without a word of whose they are, end with its worker."""
    async with local(cpus=1) as env:
        pids = await hf.remote_eval(stray, "return").using(fresh_process=True)
        await cpus_back(env)
        await wait_until(lambda: not any(map(alive, pids)), 9, "the daemons have ended")


async def test_quick_functions_are_looked_at_again() -> None:
    """Also what takes no time at all is found when it does the same again."""
    async with local(cpus=1):
        for _ in range(20):
            await hf.remote_eval(attacks.ignored_children)
        assert await hf.remote_eval(attacks.probe) == ""
