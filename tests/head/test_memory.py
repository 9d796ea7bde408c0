"""Memory limits: what an evaluation has, with all its processes, is looked at; beyond its limit it is killed."""

import asyncio
import builtins
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.errors import MemoryLimitExceeded
from hyperflow.launcher import memory
from hyperflow.launcher.memory import MemoryLimits
from hyperflow.wire.messages import MEMORY_LIMIT, WorkerEnded
from hyperflow.wire.numbers import Seq
from tests.helpers import alive, wait_until
from tests.support import local

MB = 1 << 20

HOLDS = "import sys, time; kept = bytearray(200 << 20); time.sleep(1000)"


def greedy() -> int:
    """Take 200 MB, and never end."""
    kept = bytearray(200 * MB)
    time.sleep(1000)
    return len(kept)


def by_a_child(note: Path) -> None:
    """Have a program that has left the group and the session take 200 MB; note its number."""
    child = subprocess.Popen([sys.executable, "-c", HOLDS], start_new_session=True)
    note.write_text(str(child.pid))
    child.wait()


def until_looked_at() -> None:
    """Wait until the launcher has looked at this worker twice."""
    from hyperflow.worker import worker

    assert worker._worker is not None
    for _ in range(2):
        while not worker._worker.claims.seen():
            time.sleep(0.01)


def shares(count: int) -> int:
    """Share 100 MB with forked children, and be looked at meanwhile."""
    kept = bytearray(100 * MB)
    pids = [pid for _ in range(count) if (pid := os.fork()) or time.sleep(1000)]
    until_looked_at()
    for pid in pids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return len(kept)


def keeps() -> int:
    """Leave 200 MB in the process."""
    sys.kept = bytearray(200 * MB)  # type: ignore[attr-defined]
    return os.getpid()


async def test_a_limit() -> None:
    """Who has more is killed; the error says how much that was, and what to type. Retries cover it."""
    async with local(cpus=1) as env, asyncio.timeout(40):
        with pytest.raises(hf.MemoryLimitExceeded, match=r"150M.*using\(memory=\"[23]\d\dM\"\)") as caught:
            await hf.remote_eval(greedy).using(memory="150M", retries=1)
        error = caught.value
        assert isinstance(error, MemoryError)
        assert (error.limit, error.before, error.status) == (150 * MB, 0, -9)
        assert 150 * MB < error.peak < 300 * MB
        assert env.statistics().retried == 1
        assert await hf.remote_eval(os.getpid).using(memory="150M") > 0


async def test_processes_that_have_left_the_group(tmp_path: Path) -> None:
    """They count, and are ended, too."""
    async with local(cpus=1), asyncio.timeout(40):
        with pytest.raises(hf.MemoryLimitExceeded):
            await hf.remote_eval(by_a_child, tmp_path / "pid").using(memory="150M")
        pid = int((tmp_path / "pid").read_text())
        await wait_until(lambda: not alive(pid), 10, "the program has ended")


async def test_what_is_shared_counts_once() -> None:
    """Forked children that only read what they got from their parent take no more memory."""
    async with local(cpus=1), asyncio.timeout(40):
        assert await hf.remote_eval(shares, 4).using(memory="250M") == 100 * MB


async def test_what_earlier_evaluations_have_left() -> None:
    """A worker that has most of the limit already is replaced, and nobody is charged."""
    async with local(cpus=1) as env, asyncio.timeout(40):
        first = await hf.remote_eval(keeps)
        assert await hf.remote_eval(os.getpid).using(memory="1G") == first
        assert await hf.remote_eval(os.getpid).using(memory="300M") != first
        assert env.statistics().failed == env.statistics().retried == 0


async def test_a_limit_below_what_a_worker_needs() -> None:
    """That is told, and not tried again."""
    async with local(cpus=1) as env, asyncio.timeout(40):
        with pytest.raises(hf.MemoryLimitExceeded, match="before it runs anything") as caught:
            await hf.remote_eval(time.sleep, 1000).using(memory="1M", retries=5)
        assert caught.value.before > MB
        assert env.statistics().retried == 0


def test_memory_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another user's process, what it shares counts, too; that is said once."""

    def refusing(path: str, *args: Any, **options: Any) -> Any:
        if "smaps_rollup" in path:
            raise PermissionError(13, "Permission denied")
        return builtins.open(path, *args, **options)

    limits = MemoryLimits(lambda _: None, set)
    exact = limits._proportional(os.getpid())
    monkeypatch.setattr(memory, "open", refusing, raising=False)
    for _ in range(2):
        assert limits._proportional(os.getpid()) >= exact > MB
    assert limits._proportional(0) == 0
    assert capsys.readouterr().err.count("cannot be read in detail") == 1


def test_the_kernel_was_first() -> None:
    """The error is the same; it says who it was, and survives pickle."""
    ended = WorkerEnded(-9, Seq(1), "", True, "", 100)
    error = MemoryLimitExceeded("evaluation 1 of f()", "w", "n", ended.status, "log", "", ended.peak_memory, 4 << 30)
    again = pickle.loads(pickle.dumps(error))

    assert MEMORY_LIMIT == "memory limit"
    assert "the kernel did so" in str(error)
    assert 'using(memory="6G")' in str(again) == str(error)
    assert isinstance(again, MemoryError)
