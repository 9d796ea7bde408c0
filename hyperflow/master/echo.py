"""Shows what evaluations in the jobs of a program print, where it asks for it (`open_cluster(echo=True)`).

The head of a job writes the lines into its slurm.out (head/echo.py), a bounded number a second. Here they are read from
there, a second later, and shown with the number of the job. On a shared directory they may come some seconds late.

Guarantees: what is shown is bounded, too; what is left out is counted and told. A job whose file cannot be read, or was
removed, is left out.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from hyperflow.aio import settled
from hyperflow.master import rundir
from hyperflow.saying import printable
from hyperflow.wire.rate import Rate

PAUSE = 1.0
"""Seconds between two looks."""

MOST = 1 << 18
"""Bytes that are read of a job's file with one look."""

OFTEN, AT_FIRST = 400, 1000
"""Lines that are shown in a second, and at once."""

_LINE = re.compile(r"(\d\d:\d\d:\d\d) \[#(\d+ .*)", re.DOTALL)
_LEFT_OUT = re.compile(r"hyperflow: (\d+) lines? (?:was|were) left out here: ")


class JobsEcho:
    """How far each job's slurm.out was read."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._read = {path: size for path, size in self._files()}  # noqa: C416 (what earlier starts wrote is old)
        self._rate = Rate(OFTEN, AT_FIRST)
        self._left_out = 0

    def _files(self) -> list[tuple[Path, int]]:
        found: list[tuple[Path, int]] = []
        with suppress(OSError):
            for directory in rundir.job_directories(self._home):
                with suppress(OSError):
                    found.append((directory.output, directory.output.stat().st_size))
        return found

    def look(self) -> list[str]:
        """Return what has come since the last look, as lines that can be shown; blocks."""
        shown: list[str] = []
        for path, size in self._files():
            if size > self._read.get(path, 0):
                for line in self._new_lines(path):
                    self._take(path.parent.name, line, shown)
        if self._left_out and self._rate.allows():
            shown.append(f"hyperflow: {self._left_out} lines of jobs were left out here: hyperflow logs {self._home}")
            self._left_out = 0
        return shown

    def _new_lines(self, path: Path) -> list[str]:
        start = self._read.get(path, 0)
        with suppress(OSError), path.open("rb") as file:
            file.seek(start)
            data = file.read(MOST)
            whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == MOST else b"")
            self._read[path] = start + len(whole)
            return whole.decode(errors="replace").split("\n")
        return []

    def _take(self, job: str, line: str, shown: list[str]) -> None:
        if match := _LEFT_OUT.match(line):
            self._left_out += int(match[1])
        elif match := _LINE.fullmatch(line):
            if self._rate.allows():
                shown.append(printable(f"{match[1]} [{job}.#{match[2]}"))
            else:
                self._left_out += 1


@asynccontextmanager
async def echoing(home: Path) -> AsyncIterator[None]:
    """Show on standard error what the jobs of the run in this directory print, within the scope."""
    echo = await asyncio.to_thread(JobsEcho, home)

    async def show() -> None:
        lines = await asyncio.to_thread(echo.look)
        with suppress(OSError, ValueError, AttributeError):  # a closed standard error, or none
            for line in lines:
                sys.stderr.write(line + "\n")
            sys.stderr.flush()

    async def follow() -> None:
        while True:
            await show()
            await asyncio.sleep(PAUSE)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        await settled(following)
        await show()
