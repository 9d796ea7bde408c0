"""One job step for the launchers of many nodes: one srun, whatever their number.

srun gives all tasks of a step one stdin and mixes their stdout. So it carries a line to them, with a secret, and what
they print comes back with the number of the task before each line. The streams are TCP connections from the launchers
to us (launcher/call_back.py, wire/proving.py): from where slurmstepd connects to srun, too, and as little encrypted.

Guarantees:
- Those nodes share a step that are asked for within GATHER seconds; one by itself gets none here (NotThisWay).
- One that fails is told by its name, with what its task has printed; the others go on. Nothing ends the step but the
  end of all its launchers.
- Where no task of a step begins, or none connects, the step is given up and its nodes are to be reached one by one;
  also a node that cannot connect to us.
- The port is open until the last node is there, or has failed. Who does not know the secret is sent away.

What it costs the head per node is a connection and a line of text, 0.1 ms, beside the handshake of head/link.py.

(Rejected: all streams through srun's stdin and stdout. What goes to one node would go to all. A step for each node: an
srun is a process with several threads.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import attrs

from hyperflow import files
from hyperflow.config import Settings
from hyperflow.errors import LauncherError
from hyperflow.slurm.commands import clean
from hyperflow.transports.process import KILL_AFTER, WRITE_AHEAD, Connection, CutOff, Receiver, Spawned
from hyperflow.wire import proving, survivors
from hyperflow.wire.frames import CALLED, CANNOT_CALL, Bytes

OPTIONS = ("--overlap", "--cpu-bind=none", "--unbuffered", "--quiet", "--export=ALL")

GATHER = 0.02
"""Seconds in which nodes that are asked for get one step."""

LAST_WORDS = 0.3
"""Seconds in which what a task has printed may come after the news of its end."""

PROOF_PATIENCE = 10.0
"""Seconds that somebody who connects has to prove himself."""

STRANGERS = 100
"""How many who have not proved themselves are listened to at a time, beside the nodes."""

LONGEST_LINE = 1 << 16

_ENDED = re.compile(rb"srun: error: \S+: tasks? ([\d,-]+): (.*)")
_SAID = re.compile(rb" *(\d+): ?(.*)", re.DOTALL)


def srun_of(job: int | None) -> list[str]:
    """Return the beginning of a command line for a step: of a job, or of the one that we are in."""
    return ["srun", *([] if job is None else [f"--jobid={job}"]), *OPTIONS]


def environment_of(job: int | None) -> dict[str, str] | None:
    """Return the environment for that: of another job, without what belongs to ours; None for our own."""
    return None if job is None else clean(os.environ)


class NotThisWay(LauncherError):
    """A node cannot be reached through a step for many; by itself it may be."""


class Steps:
    """Gathers the nodes that are to be started, and starts a step for them."""

    def __init__(self, settings: Settings, job: int | None = None) -> None:
        self._settings = settings
        self._job = job  # that has the nodes; None for the one that we are in
        self._waiting: list[_Member] = []

    async def start(self, node: str, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        """Start a launcher; raises LauncherError with the cause, or NotThisWay."""
        loop = asyncio.get_running_loop()
        member = _Member(node, receiver, log_file, loop.create_future())
        self._waiting.append(member)
        if len(self._waiting) == 1:
            loop.call_later(GATHER, self._begin, command)
        try:
            return await member.arrival
        except BaseException:
            if member in self._waiting:
                self._waiting.remove(member)
            member.fail(LauncherError(f"{node} is not waited for any more"))  # where this is a cancel
            if member.step is not None:
                await member.step.left(member)
            raise

    def _begin(self, command: Sequence[str]) -> None:
        members, self._waiting = self._waiting, []
        if len(members) == 1:
            members[0].fail(NotThisWay("no other one is started with it"))
        elif members:
            _Step(members, self._settings, self._job).begin(command)


@attrs.define(eq=False)
class _Member:
    """A node of a step, which is to connect."""

    node: str
    receiver: Receiver
    log_file: Path
    arrival: asyncio.Future[Connection]
    step: _Step | None = None

    def fail(self, error: Exception) -> None:
        if not self.arrival.done():
            self.arrival.set_exception(error)
            if self.step is not None:
                self.step.settle()

    def ended(self, why: str) -> None:
        """Its task has ended, or nothing is known of it."""
        lines = "\n  | ".join([str(self.log_file), *files.tail(self.log_file).splitlines()])
        self.fail(LauncherError(f"the launcher on {self.node} ended during its start: {why}; its log: {lines}"))


class _Step:
    """An srun, and the port at which its launchers connect. It is the receiver of what srun says."""

    def __init__(self, members: Sequence[_Member], settings: Settings, job: int | None) -> None:
        self._members = {member.node: member for member in members}
        self._there = set(members)  # those that have not ended or failed
        self._awaited = len(members)  # how many have neither connected nor failed
        self._settings = settings
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._secret = os.urandom(proving.SECRET)
        self._nodes: dict[int, _Member] = {}  # by their tasks' numbers
        self._line = b""
        self._told = b""  # what the tasks are to know
        self._ends: list[tuple[_Member, str]] = []  # of tasks that have ended, with what srun said of it
        self._own_words: deque[str] = deque(maxlen=15)
        self._strangers = 0
        self._arrived = False
        self._server: asyncio.Server | None = None
        self._process: Connection | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._all_left = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        for member in members:
            member.step = self

    def begin(self, command: Sequence[str]) -> None:
        self._running = self._loop.create_task(self._run(command))

    async def _run(self, command: Sequence[str]) -> None:
        """Start srun; when none of its launchers is left, see to it that it ends."""
        try:
            with proving.listener() as sock:
                self._server = await self._loop.create_server(lambda: _Stranger(self), sock=sock.dup(), backlog=4096)
                told = f"\n{self._secret.hex()} {sock.getsockname()[1]} {socket.gethostname()}\n"
                self._told = told.encode()
            with Spawned(self._srun(command), None, environment_of(self._job)) as process:
                self._process = await process.connect(self, remote=True)
            after = self._settings.connect_timeout
            self._timers.append(self._loop.call_later(after, self._none_began, f"no task began within {after:g} s"))
        except (LauncherError, OSError) as error:
            self._give_up(str(error))
        await self._all_left.wait()
        self._close_port()
        if self._process is not None:
            self._process.close()
            await self._process.wait_closed()

    def _srun(self, command: Sequence[str]) -> list[str]:
        count = len(self._members)
        size = [f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", f"--nodelist={','.join(self._members)}"]
        alone = ["--kill-on-bad-exit=0", "--no-kill", "--wait=0"]  # the end of one, or of its node, is its own
        # The launchers are not to share the number that this srun has got (wire/survivors).
        first = f'unset {survivors.VARIABLE}; export HYPERFLOW_CALL_BACK=1; echo "{CALLED} $SLURMD_NODENAME" >&2'
        return [*srun_of(self._job), *size, *alone, "--label", "/bin/sh", "-c", f'{first}; exec "$@"', "sh", *command]

    # ---- what srun and its tasks say ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Sort lines: to a node's log, or news."""
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > LONGEST_LINE:
            lines, self._line = [*lines, self._line], b""
        for line in lines:
            if said := _SAID.fullmatch(line):
                self._task_said(int(said[1]), said[2])
            else:
                self._srun_said(line)

    def _task_said(self, task: int, line: bytes) -> None:
        text = line.decode(errors="replace")
        member = self._nodes.get(task)
        if member is None:
            if text.startswith(CALLED) and (found := self._members.get(text.removeprefix(CALLED).strip())):
                self._nodes[task] = found
                if len(self._nodes) == 1 and self._process is not None:
                    # Not before: while srun starts, it reads a byte of its stdin and loses it.
                    self._process.write([self._told])
                    after = self._settings.start_timeout
                    self._timers.append(self._loop.call_later(after, self._too_late, after))
                return
            self._own_words.append(text)
            return
        with contextlib.suppress(OSError), member.log_file.open("ab") as log:
            log.write(line + b"\n")
        if text.startswith(CANNOT_CALL):
            member.fail(NotThisWay(f"it cannot connect to the head: {text.removeprefix(CANNOT_CALL).strip()}"))

    def _srun_said(self, line: bytes) -> None:
        self._own_words.append(line.decode(errors="replace"))
        if ended := _ENDED.fullmatch(line):
            for task in _numbers(ended[1].decode()):
                if (member := self._nodes.get(task)) is not None and not member.arrival.done():
                    self._ends.append((member, ended[2].decode()))
                    self._timers.append(self._loop.call_later(LAST_WORDS, member.ended, ended[2].decode()))

    def pause_writing(self) -> None:
        """One line is never too much."""

    def resume_writing(self) -> None:
        """See pause_writing."""

    def connection_lost(self, error: Exception | None) -> None:
        """The srun has ended; a launcher that has connected goes on."""
        del error
        for ended, why in self._ends:
            ended.ended(why)
        said = "; ".join(self._own_words) or "it said nothing"
        if self._arrived:
            for member in self._there:
                member.ended(f"its srun has ended: {said}")
        else:
            self._give_up(f"srun has ended: {said}")

    # ---- who comes, who does not ---------------------------------------------------------------------------------

    def came(self) -> bool:
        """Somebody connects; return whether to listen to him."""
        self._strangers += 1
        return self._strangers <= len(self._there) + STRANGERS

    def went(self) -> None:
        """Somebody has proved himself, or left."""
        self._strangers -= 1

    @property
    def secret(self) -> bytes:
        return self._secret

    def arrived(self, name: str, transport: asyncio.Transport, rest: bytes) -> None:
        """A launcher has connected, and proved that it is of this step."""
        member = self._members.get(name)
        if member is None or member.arrival.done():
            transport.abort()
            return
        self._arrived = True
        transport.set_write_buffer_limits(WRITE_AHEAD)
        member.arrival.set_result(_Called(transport, member, rest))
        self.settle()

    def settle(self) -> None:
        """One more has connected or failed."""
        self._awaited -= 1
        if not self._awaited:
            self._close_port()

    def _none_began(self, why: str) -> None:
        if not self._nodes:
            self._give_up(why)

    def _too_late(self, seconds: float) -> None:
        why = f"they did not connect within {seconds:g} s"
        if not self._arrived:
            self._give_up(why)
        for member in self._there:
            member.ended(why)

    def _give_up(self, why: str) -> None:
        """Leave all nodes that are not there to another way."""
        said = f"{why}: {'; '.join(self._own_words)}" if self._own_words and self._arrived else why
        for member in self._there:
            member.fail(NotThisWay(said))

    def _close_port(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._server is not None:
            self._server.close()
            self._server = None

    async def left(self, member: _Member) -> None:
        """A launcher has ended, or failed to come; after the last one, wait for srun to end."""
        self._there.discard(member)
        if not self._there:
            self._all_left.set()
            if self._running is not None:
                await asyncio.shield(self._running)


def _numbers(text: str) -> list[int]:
    """Return the numbers of a text such as 0-2,5."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last or first) + 1)
    return found


class _Stranger(asyncio.Protocol):
    """Somebody who has connected and not proved himself yet."""

    def __init__(self, step: _Step) -> None:
        self._step = step
        self._called = proving.Called(step.secret)
        self._counted = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._counted = cast("asyncio.Transport", transport), True  # uvloop's is of another class
        self._timer = asyncio.get_running_loop().call_later(PROOF_PATIENCE, self._transport.abort)
        if not self._step.came():
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None, self
        try:
            answer = self._called.feed(data)
        except proving.Unproven:
            self._transport.abort()
            return
        if self._called.wish is None:
            self._transport.write(answer)
        else:
            self._over()
            self._step.arrived(self._called.wish.decode(errors="replace"), self._transport, self._called.rest)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._over()

    def _over(self) -> None:
        if self._counted:
            self._counted = False
            self._step.went()
        if self._timer is not None:
            self._timer.cancel()


def _ignored(data: bytes) -> None:
    """Nobody wants to know."""


class _Called(asyncio.Protocol):
    """A launcher that has connected: the protocol of its stream, and the connection that the link has."""

    is_pipe = False

    def __init__(self, transport: asyncio.Transport, member: _Member, rest: bytes) -> None:
        self._transport = transport
        self._member = member
        self._lost = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.pause_writing = member.receiver.pause_writing  # type: ignore[method-assign]
        self.resume_writing = member.receiver.resume_writing  # type: ignore[method-assign]
        self.data_received = member.receiver.data_received  # type: ignore[method-assign]
        transport.set_protocol(self)
        if rest:
            asyncio.get_running_loop().call_soon(member.receiver.data_received, rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        self._member.receiver.connection_lost(CutOff(str(exc) if exc else ""))

    def write(self, parts: Sequence[Bytes]) -> None:
        self._transport.write(b"".join(parts))

    def close(self) -> None:
        """End the stream. Its other end is closed when launcher and keeper have gone: until then we wait."""
        if self._timer is None and not self._lost.is_set():
            self.data_received = _ignored  # type: ignore[method-assign]
            self._transport.set_protocol(self)  # a loop may have taken the method as it was
            self._timer = asyncio.get_running_loop().call_later(KILL_AFTER, self._transport.abort)
            with contextlib.suppress(OSError):
                self._transport.write_eof()

    async def wait_closed(self) -> None:
        await self._lost.wait()
        if self._timer is not None:
            self._timer.cancel()
        assert self._member.step is not None, self._member
        await self._member.step.left(self._member)
