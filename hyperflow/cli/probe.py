"""A shell on a node that obeys three commands: echo a text, read a file, write a file.

A transport starts it in the same way as a launcher, but it needs nothing on the node except /bin/sh. So a failure here
has nothing to do with Python.

A command is three lines: a verb, a path, a text. An answer is one line: `+` or `-`, and the text or the error. The
script is one line, because a csh as login shell accepts no others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hyperflow import files
from hyperflow.errors import LauncherError
from hyperflow.transports.process import Connection, Transport

MARK = b"<hyperflow doctor>\n"
"""What comes before it is output of the shell's start-up files."""

CLOSE_SECONDS = 12.0
"""Seconds to wait for the shell's end; longer than a transport takes to kill it."""

_ANSWER = 'then printf "%s\\n" "+$found"; else printf "%s\\n" "-$found"; fi;;'
SCRIPT = (
    'printf "\\n%s\\n" "<hyperflow doctor>"; '
    "while IFS= read -r verb && IFS= read -r path && IFS= read -r text; do case $verb in "
    'echo) printf "%s\\n" "+$text";; '
    f'read) if found=$(cat "$path" 2>&1); {_ANSWER} '
    f'write) if found=$( {{ printf "%s\\n" "$text" >"$path"; }} 2>&1 ); {_ANSWER} '
    "esac; done"
)


class Refused(Exception):
    """A command failed on the node; the text is what the shell printed."""


class Probe:
    """The head's end of a shell on a node. Made by `open_probe`."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.connection: Connection | None = None
        self._said = b""
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._marked = False

    def data_received(self, data: bytes) -> None:
        """Cut the bytes after the mark into lines."""
        self._said += data
        if not self._marked:
            _, mark, rest = self._said.partition(MARK)
            if not mark:
                return
            self._marked, self._said = True, rest
            self._lines.put_nowait(MARK)
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            self._lines.put_nowait(line)

    def pause_writing(self) -> None:
        """Nothing to do: all commands are short."""

    def resume_writing(self) -> None:
        """Nothing to do: all commands are short."""

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 (part of the interface)
        """Wake the waiter with end-of-stream."""
        self._lines.put_nowait(None)

    async def begin(self) -> None:
        """Wait until the shell has started."""
        await self._next()

    async def ask(self, verb: str, path: str = "", text: str = "") -> str:
        """Send a command and return its answer; raises Refused if it fails, LauncherError if the shell has ended."""
        assert self.connection is not None
        self.connection.write([f"{verb}\n{path}\n{text}\n".encode(errors="surrogateescape")])
        answer = (await self._next()).decode(errors="replace")
        if not answer.startswith("+"):
            raise Refused(answer.removeprefix("-"))
        return answer[1:]

    async def _next(self) -> bytes:
        line = await self._lines.get()
        if line is None:
            self._lines.put_nowait(None)
            said = "" if self._marked else self._said.decode(errors="replace").strip()
            raise LauncherError(f"the shell on {self.node} ended{': ' if said else ''}{said[-500:]}")
        return line


@asynccontextmanager
async def open_probe(transport: Transport, log_file: Path) -> AsyncIterator[Probe]:
    """Keep a shell on a node open within a scope.

    Raises:
        LauncherError: It could not be started, or it ended; the text has its output.
    """
    probe = Probe(transport.node)
    probe.connection = await transport.start(["/bin/sh", "-c", SCRIPT], probe, log_file)
    try:
        await probe.begin()
        yield probe
    except LauncherError as error:
        if tail := log_tail(log_file):
            raise LauncherError(f"{error}; it said: {tail}") from error
        raise
    finally:
        probe.connection.close()
        with contextlib.suppress(Exception):  # the stream is cut in any case
            async with asyncio.timeout(CLOSE_SECONDS):
                await probe.connection.wait_closed()


def log_tail(log_file: Path) -> str:
    """Return the last output of a program, in one line."""
    lines = (line.strip() for line in files.tail(log_file, lines=5).splitlines())
    return " | ".join(filter(None, lines))[-500:]
