"""What the engine's tests with real processes share: a small run, gates that the test opens, scripts of a user."""

import contextlib
import os
import select
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import hyperflow as hf
from tests.helpers import wait_until
from tests.imports import TOP


@contextlib.asynccontextmanager
async def local(cpus: int | None = 2, **options: Any) -> AsyncIterator[hf.JobEnv]:
    """Open a job on this machine, which may have fewer CPUs than the test wants."""
    async with contextlib.AsyncExitStack() as stack:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*CPUs were asked for", category=RuntimeWarning)
            env = await stack.enter_async_context(hf.open_local_job(cpus=cpus, **options))
        yield env


class Gate:
    """Where evaluations wait until the test lets them go: a named pipe, until its writer has gone."""

    def __init__(self, directory: Path, name: str = "gate") -> None:
        self.path = str(directory / name)
        os.mkfifo(self.path)

    @property
    def inside(self) -> int:
        """How many have come so far; each leaves a mark before it waits."""
        return len(list(Path(self.path).parent.glob(f"{Path(self.path).name}.*")))

    async def wait_inside(self, count: int = 1) -> None:
        """Wait until so many have come."""
        await wait_until(lambda: self.inside >= count, 20, f"{count} at the gate")

    def open(self) -> None:
        """Let all go that are here; if there is nobody yet, wait for the first."""
        os.close(os.open(self.path, os.O_WRONLY))


def wait_at(path: str) -> str:
    """On a worker: leave a mark and wait at the gate."""
    # Opened before the mark is there: whoever is seen is let go, also the last of many.
    with open(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as pipe:
        Path(f"{path}.{os.getpid()}").touch()
        hung_up = select.poll()
        hung_up.register(pipe, 0)
        hung_up.poll()  # until a writer has come and gone
    return path


def script(directory: Path, source: str, name: str = "script.py") -> Path:
    """Write a user's script."""
    path = directory / name
    path.write_text(source)
    return path


def environment(**more: str) -> dict[str, str]:
    """Return what a script needs to find hyperflow, which need not be installed."""
    return {**os.environ, "PYTHONPATH": str(TOP), "PYTHONWARNINGS": "ignore::RuntimeWarning", **more}


def run_script(directory: Path, source: str, *arguments: str, check: bool = True, **more: str) -> str:
    """Run a user's script to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(script(directory, source)), *arguments],
        cwd=directory, env=environment(**more), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout + ("" if check else done.stderr)


def start_script(directory: Path, source: str, arguments: Sequence[str] = (), **more: str) -> subprocess.Popen[str]:
    """Start a user's script; its output is a pipe."""
    return subprocess.Popen(
        [sys.executable, str(script(directory, source)), *arguments],
        cwd=directory, env=environment(**more), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def notes(error: BaseException) -> str:
    """Return all notes of an exception."""
    return "\n".join(getattr(error, "__notes__", []))


def logs(env: hf.JobEnv) -> str:
    """Return what all workers have logged."""
    return "".join(path.read_text(errors="replace") for path in sorted(env.program.log_dir.glob("worker-*.log")))
