"""A node that has joined by itself, as the head sees it: its ssh session, the stream to its launcher.

The node has started the connection, and starts its launcher when it is told to; from then on all is as with a launcher
that the head has started by ssh (transports/ssh.py): the greeting, the comparison of versions, the signs of life.

How it ends. The node sends the end of its stream when its launcher, and all that this had started, has gone; the end of
the connection without that is a CutOff. Then it waits for an exit code, and why: `dismiss`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import asyncssh
import attrs

from hyperflow.errors import ConfigurationError, LauncherError
from hyperflow.pools.joining import join_request
from hyperflow.pools.joining.join_request import JoinRequest
from hyperflow.transports.process import KILL_AFTER, WRITE_AHEAD, CutOff, Receiver
from hyperflow.wire import frames
from hyperflow.wire.frames import Bytes, Kind

LONGEST_LOG = 1 << 20
"""Bytes of a launcher's log that are taken from a node."""

END_PATIENCE = KILL_AFTER + 4.0
"""Seconds after the end of its stream until a node must have ended its launcher."""

END = b"\0"
"""Tells a node, beside its launcher's stream, to end that. (The end of ours would leave no way to say why.)"""

DISMISS_PATIENCE = 5.0
"""Seconds that a node has to read why it is not needed any more, and then to let the connection end."""

_CLOSE = [frames.frame(Kind.CLOSE)]


class Member(asyncssh.SSHServerSession[bytes]):
    """The session of a node: asyncssh calls the methods of a session, the link those of a connection.

    Args:
        on_request: Is called with what it asks for, or with what is wrong with that.
    """

    is_pipe = False

    def __init__(
        self,
        connection: asyncssh.SSHServerConnection,
        on_request: Callable[[Member, JoinRequest | ConfigurationError], None],
    ) -> None:
        self.gone = asyncio.Event()
        """Nothing of it is left, or nobody can know."""
        self.wants_to_leave = asyncio.Event()
        self.in_order = False
        """Whether its launcher was asked to end, and has done so."""
        self._connection = connection
        self._on_request = on_request
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._receiver: Receiver | None = None
        self._log_file: Path | None = None
        self._logged = 0
        self._asked_to_end = False
        self._told = False  # of the end of its launcher
        self._timer: asyncio.TimerHandle | None = None

    # ---- a session ----------------------------------------------------------------------------------------------

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(WRITE_AHEAD)

    def exec_requested(self, command: str) -> bool:
        """Take the request; what makes no sense gets an answer that says so, and no more."""
        try:
            self._on_request(self, join_request.read(command))
        except ConfigurationError as error:
            self._on_request(self, error)
        return True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        del datatype
        if self._receiver is None:
            self._connection.abort()  # it has nothing to say yet
        else:
            self._receiver.data_received(data)

    def eof_received(self) -> bool:
        """Its launcher has gone. We may still say something."""
        self._told = True
        self.in_order = self._asked_to_end
        self._end(None)
        return True

    def signal_received(self, signal: str) -> None:
        """The node is to end soon, or its user wants it back."""
        del signal
        self.wants_to_leave.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(CutOff(str(exc or "")))

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.pause_writing()

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.resume_writing()

    # ---- a connection -------------------------------------------------------------------------------------------

    def begin(self, name: str, receiver: Receiver, log_file: Path) -> None:
        """Let the node start its launcher; raises LauncherError."""
        if self.gone.is_set() or self._channel is None or self._channel.is_closing():
            raise LauncherError(f"{name} has gone before its launcher was started")
        self._receiver, self._log_file = receiver, log_file
        self._channel.write(json.dumps({"name": name}).encode() + b"\n")

    def write(self, parts: Sequence[Bytes]) -> None:
        self._asked_to_end = self._asked_to_end or parts == _CLOSE
        if self._channel is not None and not self._channel.is_closing() and not self.gone.is_set():
            with contextlib.suppress(OSError):
                self._channel.write(b"".join(parts))

    def close(self) -> None:
        """End the stream, upon which the node ends its launcher, and says so."""
        if self._timer is None and not self.gone.is_set() and self._channel is not None:
            self._timer = asyncio.get_running_loop().call_later(END_PATIENCE, self._connection.abort)
            with contextlib.suppress(OSError):
                self._channel.write_stderr(END)

    async def wait_closed(self) -> None:
        await self.gone.wait()

    # ---- for the pool -------------------------------------------------------------------------------------------

    async def dismiss(self, code: int, why: str) -> None:
        """Tell the node how it was, and let it go; nothing of it is used any more."""
        if self._channel is not None and not self._channel.is_closing():
            with contextlib.suppress(OSError):
                self._channel.write_stderr(why.encode(errors="replace"))
                self._channel.exit(code)
        if self._channel is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DISMISS_PATIENCE):
                    await self._channel.wait_closed()  # the node has read it
        self._connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISMISS_PATIENCE):
                await self._connection.wait_closed()
        await self.abort()

    async def abort(self) -> None:
        """End the connection."""
        self._connection.abort()
        await self._connection.wait_closed()

    def log(self, data: bytes) -> None:
        """Take a part of the launcher's log, which is kept beside those of other nodes."""
        if self._log_file is None or self._logged >= LONGEST_LOG:
            return
        self._logged += len(data)
        with contextlib.suppress(OSError), self._log_file.open("ab") as file:
            file.write(data if self._logged < LONGEST_LOG else b"(the rest is left out)\n")

    def _end(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.gone.is_set():
            self.gone.set()
            if self._receiver is not None:
                self._receiver.connection_lost(error)


class MemberLog(asyncssh.SSHServerSession[bytes]):
    """The other session of a node: what its launcher writes to stderr."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def exec_requested(self, command: str) -> bool:
        return command == join_request.LOG

    def data_received(self, data: bytes, datatype: int | None) -> None:
        del datatype
        self._member.log(data)


@attrs.frozen(eq=False)
class Joined:
    """The transport of a node that has joined: its launcher is started where the node is.

    Args:
        node: The name that the head has given it.
        member: Its session.
    """

    node: str
    member: Member

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Member:
        """Let the node start its launcher; raises LauncherError."""
        del command  # of another machine: it starts its own Python
        self.member.begin(self.node, receiver, log_file)
        return self.member
