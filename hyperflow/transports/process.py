"""Transports: how a node launcher is started and reached. Each gives one stream of bytes.

A transport is a value. `start` runs the launcher's command on its node and connects the two ends:

    connection = await transport.start(command, receiver, log_file)
    connection.write(parts)            the receiver's `data_received` and `connection_lost` are called

Guarantees: the launcher's stderr goes to `log_file`; the end of the stream is the end of the node; `wait_closed`
returns when none of its processes is left.

To add one: write a class with these members (see Local below, Srun in srun.py, Ssh in ssh.py). Nothing else has to
change.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, Self

import attrs

from hyperflow.errors import LauncherError
from hyperflow.wire import processes, survivors
from hyperflow.wire.frames import Bytes

logger = logging.getLogger("hyperflow")

_HOME = str(Path(__file__).resolve().parents[2])

WRITE_AHEAD = 1 << 22
"""Backpressure: a stream that holds so many bytes asks for a pause."""

KILL_AFTER = 8.0
"""Seconds after the end of its stream until a local launcher is killed. It and its keeper need less to end by
themselves, unless both of them were stopped."""

LOOK = 0.02
"""Seconds between looks whether a launcher has ended, where the kernel does not tell."""

_NOT_PORTABLE = {
    *("PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME", "HOST", "TERM", "TTY", "DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR"),
    *("SLURMD_NODENAME", "SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_GTIDS", "SLURM_TASK_PID"),
    *("SLURM_CPUS_ON_NODE", "SLURM_TOPOLOGY_ADDR", "SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS"),
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"),
}
_NOT_PORTABLE_PREFIXES = (
    *("SSH_", "DBUS_", "XDG_SESSION_", "SLURM_STEP", "SLURM_LAUNCH", "SLURM_SRUN", "SLURM_CPU_BIND"),
    *("HYPERFLOW_LAUNCHER", "HYPERFLOW_SERVICE", "HYPERFLOW_BEFORE_PROLOGUE", "HYPERFLOW_OFFER", "HYPERFLOW_CALL_BACK"),
)


def python_command(module: str) -> list[str]:
    """Return the command that runs a module's `main` with this Python.

    The interpreter's path is absolute, so that no environment has to be activated. With -P, a file in the current
    directory is not taken for a module of the standard library. hyperflow's own path is added because it may run
    without being installed; not by PYTHONPATH, which users' own programs would inherit.
    """
    code = f"import sys; sys.path.append({_HOME!r}); from {module} import main; main()"
    return [sys.executable, "-P", "-c", code]


LAUNCHER_MODULE = "hyperflow.launcher.launcher"
LAUNCHER = python_command(LAUNCHER_MODULE)


class CutOff(ConnectionError):
    """A stream has ended, and nothing says that the other end knows it, or has ended too."""


class Receiver(Protocol):
    """The head's end of a stream; the names are those of asyncio's protocols."""

    def data_received(self, data: bytes) -> None: ...

    def pause_writing(self) -> None:
        """The stream holds enough. What is written now is kept in memory."""

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        """The stream has ended. A CutOff says that the launcher may go on until its silence_limit."""


class Connection(Protocol):
    """A stream to a launcher."""

    @property
    def is_pipe(self) -> bool:
        """Whether the kernel tells each end when the other one is gone, so that silence proves nothing."""
        ...

    def write(self, parts: Sequence[Bytes]) -> None:
        """Queue bytes for sending; never blocks."""

    def close(self) -> None:
        """End the stream, which ends the launcher."""

    async def wait_closed(self) -> None:
        """Wait until the launcher, and all that it started, have gone."""


class Transport(Protocol):
    """A way to start a launcher. One that starts it within a Slurm job has `within_job`, which is true."""

    @property
    def node(self) -> str:
        """The node's name, for ids and logs."""
        ...

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        """Start the launcher; raises LauncherError with the cause."""
        ...


class _Protocol(asyncio.Protocol):
    def __init__(self, receiver: Receiver, remote: bool) -> None:
        self.data_received = receiver.data_received  # type: ignore[method-assign]
        self.pause_writing = receiver.pause_writing  # type: ignore[method-assign]
        self.resume_writing = receiver.resume_writing  # type: ignore[method-assign]
        self._ended = receiver.connection_lost
        self._remote = remote

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(CutOff(str(exc) if exc else "") if self._remote else exc)


class ProcessConnection:
    """A stream to a launcher on this machine, or through a process on this machine."""

    def __init__(self, transport: asyncio.Transport, process: Process, number: str, is_pipe: bool) -> None:
        self.is_pipe = is_pipe
        self._number = number
        self._transport = transport
        self._process = process
        self._kill_at = math.inf

    def write(self, parts: Sequence[Bytes]) -> None:
        self._transport.write(b"".join(parts))

    def pause_reading(self) -> None:
        """Take nothing more from the launcher for now; for who only passes it on."""
        with suppress(RuntimeError):
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        with suppress(RuntimeError):
            self._transport.resume_reading()

    def close(self) -> None:
        self._kill_at = min(self._kill_at, time.monotonic() + KILL_AFTER)
        self._transport.close()

    async def wait_closed(self) -> None:
        with _end_of(self._process.pid) as ended:
            while self._process.poll() is None:
                if time.monotonic() > self._kill_at:
                    processes.kill_all([*processes.descendants(self._process.pid), self._process.pid])
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await ended.wait()
                    await asyncio.sleep(0)
        if self._process.returncode != 0:
            # Keeper and launcher find all that is left of each other, but both may have been killed at once.
            processes.kill_all(survivors.left(self._number, os.environ.get(survivors.JOB, "")))


@contextmanager
def _end_of(pid: int) -> Iterator[asyncio.Event]:
    """Set an event when a child ends; a program that has done its work waits for that."""
    ended = asyncio.Event()
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # a kernel before 5.3, or somebody else has reaped it
        yield ended
        return
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ended.set)
    try:
        yield ended
    finally:
        loop.remove_reader(fd)
        os.close(fd)


class Process(Protocol):
    """A child of this process: a `subprocess.Popen`, or one that was forked."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None: ...

    def wait(self) -> int | None: ...

    def kill(self) -> None: ...


class Started:
    """A process on this machine with a stream to us as its stdin and stdout. The end of the scope ends it, unless
    a head has connected to it.

    Starting and connecting are two steps, so that a launcher can start while its head is still importing.
    """

    def __init__(self, sock: socket.socket, process: Process, number: str) -> None:
        self._sock = sock
        self._process = process
        self._number = number
        self._connected = False

    async def connect(self, receiver: Receiver, *, remote: bool = False) -> ProcessConnection:
        """Connect the stream to a receiver; `remote`: the launcher is not this process, but behind it."""
        self._sock.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(lambda: _Protocol(receiver, remote), sock=self._sock)
        transport.set_write_buffer_limits(WRITE_AHEAD)
        self._connected = True
        return ProcessConnection(transport, self._process, self._number, is_pipe=not remote)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._connected:
            self._sock.close()
            self._process.kill()
            self._process.wait()


class Spawned(Started):
    """One that runs a command; its stderr goes to the log file, to a descriptor, or else into the stream."""

    def __init__(
        self, command: Sequence[str], log_file: Path | int | None, environ: Mapping[str, str] | None = None
    ) -> None:
        ours, theirs = socket.socketpair()
        number = os.urandom(16).hex()
        try:
            with theirs, _opened(theirs.fileno() if log_file is None else log_file) as log:
                process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=log,
                    env={**(os.environ if environ is None else environ), survivors.VARIABLE: number},
                    start_new_session=True,  # Ctrl-C in the terminal is for the head, which ends us in order
                )
        except OSError as error:
            ours.close()
            raise LauncherError(f"cannot start {' '.join(command)}: {error}") from error
        super().__init__(ours, process, number)


def _opened(log: Path | int) -> IO[bytes]:
    return log.open("ab") if isinstance(log, Path) else open(os.dup(log), "wb")


def launcher_log(log_dir: Path, node: str) -> Path:
    """Return the log file of a node's launcher."""
    return log_dir / f"launcher-{node}.log"


def with_prologue(command: Sequence[str], prologue: str) -> list[str]:
    """Return a command that runs in sh after some lines of the user's, such as `module load`.

    What they print must not get into the stream. With `-e`, a module that is missing is an error. The launcher takes
    over the head's variables; what `env` said before the prologue tells it which of them the prologue has set.
    """
    if not prologue.strip():
        return list(command)
    before = 'HYPERFLOW_BEFORE_PROLOGUE="$(env)"\nexport HYPERFLOW_BEFORE_PROLOGUE'
    return ["/bin/sh", "-ec", f"{before}\n{{\n{prologue}\n}} >&2 </dev/null\nexec {shlex.join(command)}"]


def portable_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that mean on another node what they mean here."""
    return {
        name: value
        for name, value in variables.items()
        if name not in _NOT_PORTABLE and not name.startswith(_NOT_PORTABLE_PREFIXES)
    }


@attrs.frozen
class Local:
    """A launcher on this machine, at the other end of a pair of sockets; `spawned` if it has been started already."""

    node: str = attrs.field(factory=socket.gethostname)
    spawned: Started | None = None

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        if self.spawned is not None:
            return await self.spawned.connect(receiver)
        with Spawned(command, log_file) as process:
            return await process.connect(receiver)
