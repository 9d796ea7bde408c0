"""A shell on a node that obeys three commands: echo a text, read a file, write a file.

A transport starts it in the same way as a launcher, but it needs nothing on the node except /bin/sh. So a failure here
has nothing to do with Python.

A command is three lines: a verb, a path, a text. An answer is one line: `+` or `-`, and the text or the error. The
script is one line, because a csh as login shell accepts no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
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
        self._node = node
        self._said = asyncio.StreamReader(limit=sys.maxsize)
        self.connection: Connection | None = None

    def data_received(self, data: bytes) -> None:
        """Keep what the shell says."""
        self._said.feed_data(data)

    def pause_writing(self) -> None:
        """Nothing to do: all commands are short."""

    resume_writing = pause_writing

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 (part of the interface)
        """Wake the waiter with end-of-stream."""
        self._said.feed_eof()

    async def ask(self, verb: str, path: str = "", text: str = "") -> str:
        """Send a command and return its answer; raises Refused if it fails, LauncherError if the shell has ended."""
        assert self.connection is not None
        self.connection.write([f"{verb}\n{path}\n{text}\n".encode(errors="surrogateescape")])
        answer = (await self.read_until(b"\n")).decode(errors="replace")[:-1]
        if not answer.startswith("+"):
            raise Refused(answer.removeprefix("-"))
        return answer[1:]

    async def read_until(self, end: bytes) -> bytes:
        """Return what the shell says up to this; raises LauncherError if it has ended before."""
        try:
            return await self._said.readuntil(end)
        except asyncio.IncompleteReadError as error:
            said = error.partial.decode(errors="replace").strip()
            raise LauncherError(f"the shell on {self._node} ended{': ' if said else ''}{said[-500:]}") from None


@asynccontextmanager
async def open_probe(transport: Transport, log_file: Path) -> AsyncIterator[Probe]:
    """Keep a shell on a node open within a scope. A LauncherError says that it did not start or has ended."""
    probe = Probe(transport.node)
    probe.connection = await transport.start(["/bin/sh", "-c", SCRIPT], probe, log_file)
    try:
        await probe.read_until(MARK)
        yield probe
    except LauncherError as error:
        lines = (line.strip() for line in files.tail(log_file, lines=5).splitlines())
        if tail := " | ".join(filter(None, lines))[-500:]:
            raise LauncherError(f"{error}; it said: {tail}") from error
        raise
    finally:
        probe.connection.close()
        with contextlib.suppress(Exception):  # the stream is cut in any case
            async with asyncio.timeout(CLOSE_SECONDS):
                await probe.connection.wait_closed()
