"""Programs as users start them: scripts that end with `hyperflow.main`, in pipes and on a terminal."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.helpers import block_until
from tests.programs.runs import TOP, surroundings

SCRIPT = '''
import asyncio
import os
import hyperflow as hf
from hyperflow.master.batch import LocalBatch

if "AS_SLURM" in os.environ:
    LocalBatch.local = False  # the master takes its jobs for ones that do not end with it


@hf.job
async def waits(name: str) -> str:
    """Wait for a file."""
    while not os.path.exists(name):
        await asyncio.sleep(0.02)
    return name


@hf.cluster
async def search(*names: str, fail: bool = False) -> str | None:
    """Wait for files.

    Args:
        fail: Whether to fail at the end.
    """
    print("begun", flush=True)
    found = await hf.map_concurrently(lambda name: hf.remote_eval_job(waits(name)), names)
    if fail:
        raise ValueError("failed as it was told")
    return " ".join(found) or None

hf.main(search)
'''


def script(directory: Path) -> list[str]:
    """Write the program, and return how it is started."""
    path = directory / "program.py"
    path.write_text(SCRIPT)
    return [sys.executable, "-W", "error", str(path)]


def run(directory: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the program to its end in a directory."""
    done = subprocess.run(
        [*script(directory), *words],
        cwd=directory,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@contextmanager
def started(directory: Path, *words: str, before: Sequence[str] = ()) -> Iterator["subprocess.Popen[str]"]:
    """Have the program running in a directory for a scope."""
    with subprocess.Popen(
        [*before, *script(directory), *words],
        cwd=directory,
        env=surroundings(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_listed(directory: Path, words: str) -> None:
    """Wait until `hyperflow list` says something."""

    def listed() -> str:
        command = [sys.executable, "-m", "hyperflow", "list"]
        return subprocess.run(
            command, cwd=directory, env=surroundings(), capture_output=True, text=True, check=False
        ).stdout

    block_until(lambda: words in listed(), 20, f"{words!r} in the list", state=listed)


def hyperflow(directory: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command of `hyperflow`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "hyperflow", *words],
        cwd=directory,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Terminal:
    """A program on a terminal of its own: what it shows, and what is typed."""

    def __init__(self, process: "subprocess.Popen[bytes]", screen: int) -> None:
        self.process = process
        self._screen = screen
        self._seen = b""

    @property
    def text(self) -> str:
        """All that was shown so far, without the terminal's own language."""
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self._screen, 65536):
                self._seen += data
        text = self._seen.decode(errors="replace").replace("\x1b[2K", "\n")  # a line is drawn anew
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")

    def wait_for(self, words: str) -> str:
        """Wait until something is shown, and return all up to there; it is not found again."""
        seen = block_until(
            lambda: self.text.partition(words) if words in self.text else None,
            20,
            f"{words!r} on the terminal",
            state=lambda: self.text,
        )
        assert seen is not None
        self._seen = seen[2].encode()
        return "".join(seen[:2])

    def type(self, keys: str) -> None:
        """Type."""
        os.write(self._screen, keys.encode())

    def end(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        # Read on meanwhile: a program cannot end while its output has no room.
        block_until(lambda: (self.text, self.process.poll())[1] is not None, 20, "the end", state=lambda: self.text)
        return self.process.wait()


@contextmanager
def on_terminal(
    directory: Path,
    *words: str,
    columns: int = 60,
    rows: int = 12,
    env: Mapping[str, str] | None = None,
    stdout: IO[str] | None = None,
) -> Iterator[Terminal]:
    """Run the program on a terminal of this size."""
    screen, terminal = pty.openpty()
    try:
        termios.tcsetwinsize(terminal, (rows, columns))
        os.set_blocking(screen, False)
        settings = {"TERM": "xterm-256color", **(env or {})}
        with subprocess.Popen(
            [sys.executable, "-c", LEADER, *script(directory), *words],
            cwd=directory,
            env={name: value for name, value in surroundings(**settings).items() if name not in ("COLUMNS", "LINES")},
            stdin=terminal,
            stdout=stdout or terminal,
            stderr=terminal,
            start_new_session=True,
        ) as process:
            try:
                yield Terminal(process, screen)
            finally:
                process.kill()
    finally:
        os.close(screen)
        os.close(terminal)


LEADER = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal that of its session, so that Ctrl-C on it is a signal."""

__all__ = ("SCRIPT", "TOP", "Terminal", "hyperflow", "on_terminal", "run", "script", "started", "wait_listed")
