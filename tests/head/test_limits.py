"""Limits of a process (ulimit), and a program without standard streams: what is wrong is said, or nothing is."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.errors import CommandFailed
from hyperflow.files import limit_met
from tests.support import environment, local, run_script, script


def burn(hard: int) -> None:
    """On a worker: use up the CPU time."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (1, hard))
    while True:
        pass


@pytest.mark.parametrize("hard", [1, 100])
async def test_cpu_time(hard: int) -> None:
    """An evaluation that has used up its CPU time is told so, by whichever signal the kernel ended it."""
    async with local(cpus=1):
        with pytest.raises(hf.WorkerDied, match=r"SIGXCPU: .* as much CPU time .*ulimit -t") as caught:
            await hf.remote_eval(burn, hard)
        assert caught.value.status == -signal.SIGXCPU


async def test_killed_without_a_limit() -> None:
    """SIGKILL by somebody else stays that."""
    async with local(cpus=1):
        with pytest.raises(hf.WorkerDied, match="killed by SIGKILL while"):
            await hf.remote_eval(lambda: signal.raise_signal(signal.SIGKILL))


def test_command_that_writes_too_much() -> None:
    """A program that was ended by its limit of file size is told so."""
    assert "SIGXFSZ: it has written a file larger than one may be here (ulimit -f)" in str(CommandFailed(["x"], -25))
    assert "was killed by signal 63" in str(CommandFailed(["x"], -63))


def test_database_that_may_not_grow(tmp_path: Path) -> None:
    """A database that reaches the limit of file size says so, and not that the disk is broken."""
    source = """
import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
import hyperflow as hf
@hf.memoize("big")
def big(n: int) -> hf.Job[str]:
    return hf.pure("x" * 100_000)
@hf.job
async def main():
    for n in range(50):
        await big(n)
try:
    hf.run_job_local(main(), cpus=1, program=hf.ProgramInfo.new("runs"))
except hf.DatabaseError as error:
    print(error)
"""
    told = run_script(tmp_path, source)
    assert "a file may have 500000 bytes here (ulimit -f)" in told
    assert "disk I/O" not in told


def test_too_few_descriptors(tmp_path: Path) -> None:
    """A program that may open too few files is told so, with what to type."""
    source = """
import os, resource, hyperflow as hf, uvloop
program = hf.ProgramInfo.new("runs")
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 4, 4096))
hf.run_job_local(hf.pure(1), cpus=1, program=program)
"""
    assert "open at a time (ulimit -n); type: ulimit -n 4096" in run_script(tmp_path, source, check=False)


def test_no_more_threads() -> None:
    """Where no thread can be started, the limits that may have done it are named; other errors are nobody's limit."""
    assert "ulimit -u" in limit_met(RuntimeError("can't start new thread"))
    assert limit_met(RuntimeError("something else")) == limit_met(OSError("x")) == ""
    behind = RuntimeError("Cannot close a running event loop")
    behind.__context__ = OSError(errno.EMFILE, "Too many open files")
    assert "ulimit -n" in limit_met(behind)


WITHOUT = """
import os, subprocess, hyperflow as hf

@hf.memoize("squares")
def square(n: int) -> hf.Job[int]:
    return hf.remote_eval(pow, n, 2)

def program():
    return subprocess.run(["sh", "-c", "echo told; echo >&2 too; cat"], capture_output=True).stdout

@hf.job
async def main():
    print("printed")
    return await hf.map_concurrently(square, range(20)), await hf.remote_eval(program)

result = hf.run_job_local(main(), cpus=2, program=hf.ProgramInfo.new("runs"))
open("out", "w").write(repr(result))
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_standard_streams(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """A program that begins with closed descriptors does its work, and nothing is written where it does not belong."""
    path = script(tmp_path, WITHOUT)
    shut = " ".join(f"{fd}>&-" for fd in closed)
    line = ["sh", "-c", f'exec "$0" "$@" {shut}', sys.executable, str(path)]
    subprocess.run(line, cwd=tmp_path, env=environment(), check=True, capture_output=True, timeout=50)
    assert (tmp_path / "out").read_text() == repr(([n * n for n in range(20)], b"told\n"))
