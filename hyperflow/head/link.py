"""The head's end of one node's stream: the handshake, and frames from then on.

A launcher of our own on this machine need not be waited for (`lead`): what is written before it has answered is kept.

Guarantees: a launcher of another version is refused before anything is sent to it, by an error that names both
versions. If a launcher does not answer in time, the error names its log. The end of the stream is reported once.

Backpressure: when the stream holds WRITE_AHEAD bytes (transports/process), what follows is kept here uncopied, in
order, until the stream takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import mmap
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hyperflow import files
from hyperflow._version import __version__
from hyperflow.aio import settled
from hyperflow.config import Settings
from hyperflow.errors import ConfigurationError, LauncherError
from hyperflow.head.channels import Channels
from hyperflow.request import CPUS_ONLY
from hyperflow.transports.process import LAUNCHER, Connection, CutOff, Transport, launcher_log, portable_environment
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.machine import CpuChoice
from hyperflow.wire.messages import Greeting, Ready, Setup, SysPath
from hyperflow.wire.numbers import NO_WORKER, BlockNumber, DefinitionNumber, WorkerNumber
from hyperflow.wire.shared_memory import Block, Offer, Proof, is_shared
from hyperflow.wire.views import Ended, Views

NOISE_KEPT = 1 << 12
"""Bytes that are kept of what a login prints before the launcher's first line: they are told if it never comes."""

CLOSE_GRACE = 10.0
"""Seconds for a launcher to end in order; after that its stream is ended."""

MOST_IDLE = 64
"""Blocks of results that stay mapped although nobody looks at them."""

ANSWERS = int(Kind.ANSWERS)
"""As a plain number, because each frame is compared with it."""

OF_PEERS = frozenset(map(int, (Kind.LISTENING, Kind.FETCHED, Kind.FILE_HELD, Kind.FILE_PIECE)))
OF_LINKS = OF_PEERS | set(map(int, (Kind.ALIVE, Kind.BLOCK, Kind.CONTENT, Kind.BROKEN)))
"""Kinds of frames that the engine does not see."""

_ENDED = "its stream ended"

BlockKey = tuple[WorkerNumber, BlockNumber]
Frame = tuple[int, WorkerNumber, memoryview]
"""Kind, worker, body."""

OnFrames = Callable[[Sequence[Frame]], None]
OnPeers = Callable[[str, int, memoryview], object]
OnLost = Callable[["Link", str, bool], None]
"""Gets the cause, and a flag: True if the node may still be running because it has not noticed."""


def _nothing() -> None:
    """Do nothing."""


def nobody(node: str, kind: int, body: memoryview) -> None:
    """Do nothing."""


class Link:
    """One node's launcher, as the head sees it.

    `on_frames` gets all frames after the handshake, as many at a time as come in one read. `on_lost` is called once, if
    the node is given up or its stream ends before `close`.
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        log_dir: Path,
        on_frames: OnFrames,
        on_lost: OnLost,
        name: str | None = None,
    ) -> None:
        self.node = name or transport.node
        """Its name for people and for us: that of the transport, unless another one has that."""
        self.log_file = launcher_log(log_dir, self.node)
        self.greeting: Greeting | None = None
        self.on_greeting: Callable[[], object] = _nothing
        self.on_peers: OnPeers = nobody
        """Gets the node, and what its launcher says about what it gets from other nodes: kind and body."""
        self.cpus = CpuChoice((), False)
        """Those to hand out there."""
        self.capacity = CPUS_ONLY
        """What else there is."""
        self.remark = ""
        """What the launcher has to say to people."""
        self.unheard = 0
        """Frames of answers that have come, of which the launcher was not told that they have been read."""
        self.last_received = self._last_sent = time.monotonic()
        self._silence = 0.0  # seconds in which we listened and nothing came
        self._transport = transport
        self._settings = settings
        self._noise: bytes | None = b""  # what came before the launcher's first line (HELLO); None after that
        self._log_dir = log_dir
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._reader = frames.Reader()
        self._connection: Connection | None = None
        self._full = False  # whether the stream holds more than it should
        self._backlog: deque[Sequence[frames.Bytes]] = deque()  # what waits for it
        self._room: asyncio.Future[None] | None = None  # of those who wait for it
        self._early: list[Callable[[], None]] | None = None  # what is to be written after the handshake
        self._shares_memory = False
        self.channels: Channels | None = None
        """Those of its workers, if they are on this machine."""
        self._path: list[str] = []  # the `sys.path` that the node knows
        self._blocks: dict[BlockKey, memoryview | OSError] = {}  # of results that have not come yet
        self._views = Views[BlockKey](MOST_IDLE)
        self._filled: dict[BlockKey, int] = {}  # bytes that have come of a block
        self.closing: asyncio.Task[None] | None = None
        """Ends what is left of it, once it is no node of the fleet any more."""
        self.ended_in_order = False
        """Whether its launcher has said that nothing is left there; known when it is closed."""
        self._closing = False
        self._lost = False
        self._cut_off = False  # the stream has ended, and the launcher may go on
        self._ended = asyncio.Event()
        # What comes during the handshake; None afterwards.
        self._inbox: asyncio.Queue[tuple[int, memoryview] | LauncherError] | None = asyncio.Queue()

    def ids_at(self, places: Sequence[int]) -> tuple[int, ...]:
        """Return the ids of some CPUs, given as places in their order; raises LauncherError if there are fewer."""
        ids = self.cpus.ids
        if wrong := [place for place in places if not 0 <= place < len(ids)]:
            raise LauncherError(f"CPU {wrong[0]} of {self.node} is lent, but only {len(ids)} can be used there")
        return tuple(ids[place] for place in places)

    def places_of(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the places of some CPUs, given as ids."""
        place_of = {each: place for place, each in enumerate(self.cpus.ids)}
        return tuple(place_of[each] for each in ids)

    def memory_for(self, cpus: int) -> int:
        """Return the memory that goes with so many CPUs."""
        return -(-self.capacity.memory * cpus // max(len(self.cpus.ids), 1))

    def lead(self) -> None:
        """Take orders from now on; `start` follows."""
        self._early = []

    async def start(
        self,
        program_id: str,
        preload: Sequence[str],
        echo: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start the launcher and shake hands. `environment`: what is portable of ours, if that is known already.

        Raises:
            LauncherError: It could not be started, is of another version, or did not answer.
            ConfigurationError: A module of `preload` does not import.
        """
        self._connection = await self._transport.start(LAUNCHER, self, self.log_file)
        proof: Proof | None = None
        try:
            kind, body = await self._next(self._settings.start_timeout)
            if kind != Kind.GREETING:
                raise LauncherError(f"the launcher on {self.node} began with a frame of kind {kind}")
            greeting = self.greeting = self._read_greeting(body)
            self.on_greeting()
            if is_shared(greeting.memory):
                proof = Proof()
            setup = self._setup(program_id, preload, proof.offer() if proof is not None else None, echo)
            setup = setup._replace(environment=environment or portable_environment(os.environ))
            self._connection.write([messages.framed(setup)])
            kind, body = await self._next(None)  # imports take what they take
            if kind == Kind.FAILED:
                raise ConfigurationError(f"preload on {self.node}: {bytes(body).decode(errors='replace')}")
            self._shares_memory, self.remark = messages.read(Ready, body)
            if self._shares_memory:
                self.channels = Channels(self.write)
            self._inbox = None
            early, self._early = self._early or [], None
            for write in early:
                write()
        except BaseException:
            await self.close()
            raise
        finally:
            if proof is not None:
                proof.close()

    def _setup(self, program_id: str, preload: Sequence[str], memory: Offer | None, echo: bool) -> Setup:
        is_pipe = self._connection is not None and self._connection.is_pipe
        return Setup(
            node=self.node,
            program_id=program_id,
            cwd=os.getcwd(),
            sys_path=self._take_path(),
            argv=tuple(sys.argv),
            environment={},
            preload=tuple(preload),
            heartbeat=self._settings.heartbeat,
            silence_limit=math.inf if is_pipe else self._settings.silence_limit,
            memory=memory,
            echo=echo,
            scratch=self._settings.scratch,
            cache=int(self._settings.cache or 0),
        )

    def follow_path(self) -> None:
        """Tell the node where modules are, if the program has changed that."""
        if sys.path != self._path and not (self._early is not None and not self._path):  # else it is still to be told
            self.write([messages.framed(SysPath(self._take_path()))])

    def _take_path(self) -> tuple[str, ...]:
        self._path = sys.path[:]
        return tuple(map(os.path.abspath, sys.path))

    async def _next(self, seconds: float | None) -> tuple[int, memoryview]:
        assert self._inbox is not None
        try:
            async with asyncio.timeout(seconds):
                said = await self._inbox.get()
        except TimeoutError:
            raise LauncherError(
                f"the launcher on {self.node} did not say anything for {seconds:g} s; its log: {self._tail()}"
            ) from None
        if isinstance(said, LauncherError):
            raise said
        return said

    def _read_greeting(self, body: memoryview) -> Greeting:
        """Compare the versions first: a launcher of another one may have another greeting."""
        ours = {"protocol": frames.PROTOCOL_VERSION, "python": sys.version.split()[0], "hyperflow": __version__}
        try:
            theirs = messages.members(body)
            if theirs.get("protocol") == frames.PROTOCOL_VERSION:
                self.greeting = messages.read(Greeting, body)  # `hyperflow doctor` shows it, also if it is refused
            for what, here in ours.items():
                if theirs.get(what) != here:
                    raise LauncherError(
                        f"{what} is {here} here and {theirs.get(what)} on {self.node}; "
                        "use one and the same Python environment"
                    )
            return messages.read(Greeting, body)
        except frames.ProtocolError as error:
            raise LauncherError(f"the greeting of the launcher on {self.node} makes no sense: {error}") from error

    def write(self, parts: Sequence[frames.Bytes]) -> None:
        """Send frames; after the end of the stream they go nowhere."""
        if self._early is not None:
            self._early.append(functools.partial(self.write, parts))
            return
        if self._connection is not None and not self._lost:
            if self._views.ended:  # before tasks whose results could go there
                self._return(self._views.collect())
            if self._full:
                self._backlog.append(parts)
            else:
                self._connection.write(parts)
            self._last_sent = time.monotonic()

    def write_block(self, number: DefinitionNumber, block: Block) -> None:
        """Send a large buffer, or where it is. What is written later comes after it."""
        if self._early is not None:
            self._early.append(functools.partial(self.write_block, number, block))
            return
        place = (os.getpid(), block.fd) if self._shares_memory else (0, -1)
        self.write([frames.frame(Kind.BLOCK, body=frames.BLOCK.pack(number, block.size, *place))])
        if not self._shares_memory:
            for parts in frames.content(number, NO_WORKER, block.view()):
                self.write(parts)

    @property
    def way(self) -> str:
        """How the node is reached: "ssh", "srun", "local"."""
        return type(self._transport).__name__.lower()

    @property
    def slurm_job(self) -> str:
        """The Slurm job whose step the launcher is, where the transport knows it; else ""."""
        return str(getattr(self._transport, "job", None) or "")

    @property
    def shares_memory(self) -> bool:
        """Whether a block need not travel: both can open what the other holds, or will be found to."""
        return self._shares_memory or self._early is not None

    def pause_writing(self) -> None:
        """Queue the data in order; do not copy pieces of blocks."""
        self._full = True

    def resume_writing(self) -> None:
        """Write what was kept, until there is too much again."""
        self._full = False
        while self._backlog and not self._full and self._connection is not None:
            self._connection.write(self._backlog.popleft())
        if not self._full:
            self._tell_room()

    async def room(self) -> bool:
        """Wait until the stream takes more, and nothing else waits for it; return whether it has not ended."""
        while (self._full or self._backlog) and not (self._lost or self._closing):
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)
        return not (self._lost or self._closing)

    def _tell_room(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def found(self, worker: WorkerNumber, buffers: Sequence[frames.Buffer]) -> list[memoryview]:
        """Return the buffers of a result, with those that are in blocks; raises OSError if one could not be opened."""
        if self.channels is not None:
            buffers = self.channels.taken(worker, buffers)
        return [self._take_block(worker, BlockNumber(each)) if isinstance(each, int) else each for each in buffers]

    def _take_block(self, worker: WorkerNumber, number: BlockNumber) -> memoryview:
        block = self._blocks.pop((worker, number))
        if isinstance(block, OSError):
            raise block
        return block

    def _return(self, blocks: Iterable[Ended[BlockKey]]) -> None:
        """Tell workers which blocks of theirs nobody looks at, and whether we keep them mapped."""
        for (worker, number), kept in blocks:
            self.write([frames.frame(Kind.RETURNED, worker, frames.RETURNED.pack(number, kept))])

    def drop_blocks(self, worker: WorkerNumber) -> None:
        """A worker has ended: nobody can use what it sent without a result."""
        for key in [key for key in self._blocks if key[0] == worker]:
            del self._blocks[key]
        self._views.drop_of(lambda key: key[0] == worker)
        if self.channels is not None:
            self.channels.drop(worker)

    def beat(self, now: float, lapse: float) -> None:
        """Give a sign of life if there was none lately; give the node up if it gave none for long.

        `lapse` is how many seconds we listened since the last beat. Time in which the event loop was blocked counts
        little: what has come since is not read yet.
        """
        if self._inbox is not None:
            return  # it is not up yet
        if self._views.ended:
            self.write([])
        self._return([Ended(key, kept=False) for key in self._views.drop_old(now)])
        if now - self._last_sent >= self._settings.heartbeat:
            self.write([frames.frame(Kind.ALIVE)])
        self._silence = min(self._silence + lapse, now - self.last_received)
        if self._silence > self._settings.node_timeout:
            self.give_up(f"nothing was heard of it for {now - self.last_received:.1f} s", silent=True)

    def data_received(self, data: bytes) -> None:
        """Cut the stream into frames and hand them on."""
        self.last_received = time.monotonic()  # any byte: a sign of life may have to wait behind a large result
        if self._noise is not None:
            data = self._skip_noise(data)
        try:
            received = self._reader.feed(data)
        except frames.ProtocolError as error:
            self._on_foreign(f"{error}; something on {self.node} writes into the stream of its launcher")
            return
        kinds = [frame[0] for frame in received]
        if not OF_LINKS.isdisjoint(kinds):
            received = self._take_own(received)
        if self._inbox is not None:
            for kind, _, body in received:
                self._inbox.put_nowait((kind, body))
        elif received:
            self.unheard += kinds.count(ANSWERS)
            self._on_frames(received)

    def tell_heard(self) -> None:
        """Tell the launcher that all has been read: it may send more answers."""
        self.write([frames.frame(Kind.HEARD, body=frames.NUMBER.pack(self.unheard))])
        self.unheard = 0

    def _take_own(self, received: list[Frame]) -> list[Frame]:
        """Deal with the frames that are for the link, and return the others."""
        others: list[Frame] = []
        for kind, worker, body in received:
            if kind not in OF_LINKS:
                others.append((kind, worker, body))
            elif kind == Kind.BROKEN:
                said = bytes(body).decode(errors="replace")
                if others and self._inbox is None:
                    self._on_frames(others)  # what came before it counts
                self._on_foreign(f"{said}; something on {self.node} writes or reads where its launcher reads")
                return []
            elif kind in OF_PEERS:
                if not self._closing:  # else another node may have its name by now
                    self.on_peers(self.node, kind, body)
            elif kind != Kind.ALIVE:
                self._on_block(kind, worker, body)
        return others

    def _on_foreign(self, what: str) -> None:
        """Give a node up in whose stream others write, and say so: what comes next makes no sense."""
        self.give_up(
            f"in its stream there were {what}: what a start-up file of the shell (.bashrc, /etc/profile.d), a prologue "
            "or a prolog of Slurm's has started in the background, maybe; its input and output belong to /dev/null"
        )

    def _on_block(self, kind: int, worker: WorkerNumber, body: memoryview) -> None:
        if kind == Kind.CONTENT:
            key = (worker, *frames.NUMBER.unpack_from(body))
            view, at = self._blocks.get(key), self._filled.get(key, 0)
            piece = body[frames.NUMBER.size :]
            if isinstance(view, memoryview):
                view[at : at + len(piece)] = piece
                self._filled[key] = at + len(piece)
                if at + len(piece) == len(view):
                    del self._filled[key]
            return
        number, size, pid, fd = frames.BLOCK.unpack(body)
        try:
            if pid == 0:
                self._blocks[worker, number] = memoryview(mmap.mmap(-1, size))
            else:
                with contextlib.closing(Block.at(pid, fd, size)) as block:
                    self._blocks[worker, number] = self._views.of(block, (worker, number))
        except OSError as error:  # too many open files, no memory
            self._blocks[worker, number] = error
        if pid != 0:
            self.write([frames.frame(Kind.TAKEN, worker, frames.NUMBER.pack(number))])

    def connection_lost(self, error: Exception | None) -> None:
        """Report the end of the stream, unless it was wanted."""
        self._ended.set()
        self._cut_off = isinstance(error, CutOff)
        self.give_up(f"{_ENDED}{f': {error}' if error and str(error) else ''}", isinstance(error, CutOff))

    def give_up(self, cause: str, silent: bool = False) -> None:
        """Stop using the node and end its stream. `silent`: the node may still be running."""
        if self._lost:
            return
        self._lost = True
        self._tell_room()
        self._views.close()
        if self.channels is not None:
            self.channels.close()
        self.abort()  # also what sends nonsense must end
        if self._inbox is not None:
            why = f": {cause}" if cause != _ENDED else ""
            text = f"the launcher on {self.node} ended during its start{why}; its log: {self._tail()}"
            self._inbox.put_nowait(LauncherError(text))
        elif not self._closing:
            self._on_lost(self, cause, silent)

    def _skip_noise(self, data: bytes) -> bytes:
        """Return what follows the launcher's first line, if that has come."""
        noise, hello, rest = ((self._noise or b"") + data).partition(frames.HELLO)
        if hello:
            self._noise = None
            return rest
        self._noise = noise[-NOISE_KEPT:]
        return b""

    def _tail(self) -> str:
        lines = files.tail(self.log_file).splitlines()
        if self._noise:
            lines += self._noise.decode(errors="replace").splitlines()[-15:]
        return "\n  | ".join([str(self.log_file), *lines])

    def abort(self) -> None:
        """End the stream now, and so the launcher, whatever it is doing; `close` then waits for that."""
        if self._connection is not None:
            self._connection.close()

    async def close(self) -> None:
        """Let the launcher end in order, and wait until it has gone."""
        connection, self._closing = self._connection, True
        if connection is None:
            return
        self._tell_room()
        if self._inbox is None:
            self._backlog.clear()
            self.write([frames.frame(Kind.CLOSE)])
        else:  # it may be importing; it has no workers yet that could end in order
            connection.close()
        waiting = asyncio.ensure_future(connection.wait_closed())
        timer = asyncio.get_running_loop().call_later(CLOSE_GRACE, connection.close)
        try:
            await settled(waiting, on_cancel=connection.close)  # cancelled: the end of the stream ends it at once
            in_time = not timer.cancelled() and asyncio.get_running_loop().time() < timer.when()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_GRACE):
                    await self._ended.wait()  # the last words of the launcher
            self.ended_in_order = in_time and self._inbox is None and not self._cut_off
            waiting.result()
        finally:
            timer.cancel()
            connection.close()
