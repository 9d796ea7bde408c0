"""Whatever a function does to its process: its await ends, its CPUs come back, and the next task starts clean."""

import asyncio
import contextlib
import gc
import importlib
import os
import random
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
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
    async with local(cpus=1) as env, asyncio.timeout(40):
        # fresh: the worker ends after it
        flow = hf.remote_eval(attacks.zombie_in_the_group, leave, end).using(time_limit=limit, fresh_process=True)
        with pytest.raises(errors[end]) if end in errors else contextlib.nullcontext():
            await flow
        await cpus_back(env)
        assert await hf.remote_eval(attacks.probe) == ""


@pytest.mark.parametrize("attack", attacks.LEFT_BEHIND, ids=lambda attack: attack.__name__)
async def test_next_task_starts_clean(attack: Callable[[], Any]) -> None:
    """What a function leaves in its process does not reach the next evaluation."""
    async with local(cpus=1) as env, asyncio.timeout(40):
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
    async with local(cpus=1) as env, asyncio.timeout(40):
        await hf.remote_map(attacks.probe, [0.0] * 3, 1)
        flows = [hf.remote_eval(attack if n % 8 == 3 else attacks.probe) for n in range(24)]
        got = await hf.concurrently(*flows)
        assert [wrong for n, wrong in enumerate(got) if n % 8 != 3] == [""] * 21
        assert env.statistics().failed == 0


@pytest.mark.parametrize("attack", attacks.CUT_OFF, ids=lambda attack: attack.__name__)
async def test_function_that_cuts_its_worker_off(attack: Callable[[], Any]) -> None:
    """A function after which no answer can be sent gets its error, and only it."""
    async with local(cpus=1) as env, asyncio.timeout(40):
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


@pytest.mark.parametrize("attack", attacks.SET, ids=lambda attack: attack.__name__)
async def test_what_was_set_is_put_back(attack: Callable[[], Any]) -> None:
    """Directory, environment, limits and the like are for the next evaluation as they were, also after a quick one."""
    async with local(cpus=1) as env, asyncio.timeout(40):
        before = await hf.remote_eval(attacks.surroundings)
        for _ in range(3):
            await hf.remote_eval(attack)
            assert await hf.remote_eval(attacks.surroundings) == before
        assert env.statistics().failed == 0


async def test_what_cannot_be_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose own directory is gone makes place for another one; one that only went away does not."""

    def leave() -> int:
        os.chdir("/")
        return os.getpid()

    def leave_for_ever(directory: Path) -> int:
        os.chdir("/")
        directory.rmdir()
        return os.getpid()

    directory = tmp_path / "data"
    directory.mkdir()
    monkeypatch.chdir(directory)
    async with local(cpus=1, program=hf.ProgramInfo.new(tmp_path / "runs")) as env:
        pid = await hf.remote_eval(leave)
        assert await hf.remote_eval(leave_for_ever, directory) == pid
        assert await hf.remote_eval(leave) != pid
        assert env.statistics().failed == 0
    logs = "".join(path.read_text() for path in tmp_path.glob("runs/*/log/*.log"))
    assert "changed its working directory, which cannot be put back" in logs


async def test_seeds_of_one_evaluation() -> None:
    """What one evaluation has seeded, the next one does not draw; numpy, too, which the first one imports."""

    def seed_numpy() -> float:
        import numpy as np

        np.random.seed(1)
        return float(np.random.random())

    def draw_numpy() -> float:
        import numpy as np

        return float(np.random.random())

    def draw_random() -> float:  # by its name, the generator's method would travel with its state
        return random.random()

    async with local(cpus=1):
        for seeded, draw in ((attacks.seed, draw_random), (seed_numpy, draw_numpy)):
            numbers = [await hf.remote_eval(seeded) for _ in range(2)]
            drawn = [await hf.remote_eval(draw) for _ in range(2)]
            numbers += [await hf.remote_eval(seeded)]
            assert len({*numbers}) == 1
            assert len({*numbers, *drawn}) == 3


async def test_what_a_module_sets_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module sets while it is imported is there as long as the module is."""
    (tmp_path / "sets_much.py").write_text(
        "import os, sys, warnings\n"
        "os.environ['SET_BY_MODULE'] = 'yes'\nsys.setrecursionlimit(5000)\nwarnings.simplefilter('error')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def imports() -> None:
        importlib.import_module("sets_much")
        os.environ["SET_BY_FUNCTION"] = "yes"

    def found() -> tuple[str | None, str | None, int, str]:
        return (
            os.environ.get("SET_BY_MODULE"),
            os.environ.get("SET_BY_FUNCTION"),
            sys.getrecursionlimit(),
            warnings.filters[0][0],
        )

    async with local(cpus=1):
        await hf.remote_eval(imports)
        assert await hf.remote_eval(found) == ("yes", None, 5000, "error")


async def test_setters_go_home_by_name() -> None:
    """Functions that are watched on workers can be results and arguments, as others."""
    setters = [os.chdir, os.umask, os.putenv, socket.setdefaulttimeout, gc.disable, sys.setrecursionlimit]
    async with local(cpus=1):
        assert await hf.remote_eval(lambda: [os.chdir, random.seed]) == [os.chdir, random.seed]
        assert await hf.remote_eval(lambda setters: setters, setters) == setters
