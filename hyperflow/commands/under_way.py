"""Which tasks run, for who looks from outside: a small file in the log directory of the array's job.

A task is in it when it has run for half a second and has said so. The file is written again at most once a second, off
the event loop, and is gone when nothing runs. It is believed only while its program runs: after a kill it stays.

Rejected: a map of the results database, to which each change would be added for ever; the control socket, which is not
reached from another host.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hyperflow import files
from hyperflow.commands.running import Posted

NAME = "running.json"

PAUSE = 1.0
"""Seconds between two times that it is written, at least."""


class Running(NamedTuple):
    """A task that runs: where, since when (seconds since 1970), which try of it, under which token."""

    node: str
    since: float
    attempt: int
    token: str


class UnderWay:
    """The tasks of an array that run."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / NAME
        self._running: dict[int, Posted] = {}
        self._since: dict[int, float] = {}
        self._ends: dict[int, dict[str, int]] = {}
        """By number and stream, where that ends so far."""
        self._writing: asyncio.Task[None] | None = None
        self._changed = False
        self._closed = False

    def heard(self, posted: Posted) -> None:
        """A task says something: it runs."""
        before = self._running.get(posted.number)
        if before is None or before.token < posted.token:
            self._running[posted.number] = posted._replace(data=b"")
            self._since[posted.number] = time.time()
            self._ends[posted.number] = {}
            self._write_soon()
        if posted.stream and posted.token == self._running[posted.number].token:
            self._ends[posted.number][posted.stream] = posted.place + len(posted.data)

    def ended(self, number: int) -> tuple[Posted, dict[str, int]] | None:
        """A task has ended; return what its last try has said first, and how much of each stream has come."""
        posted = self._running.pop(number, None)
        if posted is None:
            return None
        del self._since[number]
        self._write_soon()
        return posted, self._ends.pop(number)

    def _write_soon(self) -> None:
        self._changed = True
        if self._writing is None and not self._closed:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._changed:
                self._changed = False
                began = time.monotonic()
                told: dict[str, list[object]] = {
                    str(number): [posted.node, self._since[number], posted.attempt, posted.token]
                    for number, posted in sorted(self._running.items())
                }
                with suppress(OSError):  # people see less then
                    await asyncio.to_thread(_put, self._file, told)
                await asyncio.sleep(max(PAUSE, 10 * (time.monotonic() - began)))
        finally:
            self._writing = None

    async def close(self) -> None:
        """Remove the file."""
        self._closed = True
        if self._writing is not None:
            self._writing.cancel()
            with suppress(asyncio.CancelledError):
                await self._writing
        with suppress(OSError):
            self._file.unlink(missing_ok=True)


def _put(file: Path, told: dict[str, list[object]]) -> None:
    if told:
        files.write_whole(file, json.dumps(told).encode(), durable=False)
    else:
        file.unlink(missing_ok=True)


def read(file: Path) -> dict[int, Running]:
    """Return what a file tells; nothing if there is none, or it is none of ours."""
    try:
        return {int(number): Running(*of) for number, of in files.from_json(file.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
