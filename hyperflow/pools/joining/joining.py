"""A node joins a pool by itself: this process connects to the head, starts a launcher, and passes on what they say.

Guarantees:
- The head has to prove that it has the key of the access file; nothing is told to another one, and nothing of the
  user's ssh (keys, agent, configuration, known hosts) is used.
- When this process ends, however it ends, so does the launcher with all that it has started.
- Both ways, what one side does not take is not read from the other one.
- SIGTERM, SIGINT and SIGHUP ask the head to let the node go: nothing new is started, and what runs there has some time.
  A second one ends it at once.
- What ends this says why, and whether that was in order.

The launcher's environment is that of this process: what is set here wins over the head's variables, as in a pod, whose
HOME and PATH are its own. Where the run's directory is not shared, the workers' logs are in a private directory here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

import asyncssh
import attrs

from hyperflow import files
from hyperflow.errors import ConfigurationError, HyperflowError, LauncherError
from hyperflow.pools.joining import access as access_file
from hyperflow.pools.joining import join_request
from hyperflow.pools.joining.access import Access
from hyperflow.pools.joining.join_request import JoinRequest
from hyperflow.pools.joining.joined import END
from hyperflow.saying import in_words, printable
from hyperflow.transports.process import LAUNCHER, WRITE_AHEAD, ProcessConnection, Spawned

CONNECT_TIMEOUT = 10.0
"""Seconds for one attempt at one of the head's addresses, with the login."""

ATTEMPTS = 12
"""How often a connection is tried that is dropped before the login: many nodes may come at once."""

FIRST_PAUSE, LONGEST_PAUSE = 0.3, 5.0

KEEPALIVE = 30.0
"""Seconds between questions whether the head is there, until the launcher's heartbeat does that."""

LAST_WORDS = 10.0
"""Seconds in which the head may say why, after the launcher has ended."""

GRACE = 40.0
"""Seconds after a signal until this ends by itself, if the head does not let it go."""

LONGEST_WORDS = 8192

BEFORE_PROLOGUE = "HYPERFLOW_BEFORE_PROLOGUE"  # what is not in it counts as set by the node itself (launcher/zygote.py)


@attrs.frozen
class Joining:
    """How this machine joins.

    Args:
        cpus: How many to use; None for all that a process may use here.
        seconds_left: How long this machine is there; None if there is no end, or nobody knows.
        idle_timeout: Seconds without work after which to leave; None for never.
        name: How it is to be called.
    """

    cpus: int | None = None
    seconds_left: float | None = None
    idle_timeout: float | None = None
    name: str = attrs.field(factory=socket.gethostname)


@attrs.frozen
class Ended:
    """How it was: whether in order, and why."""

    in_order: bool
    why: str


def _nobody(name: str, logs: str) -> None:
    del name, logs


async def join(access: Access, how: Joining, on_joined: Callable[[str, str], object] = _nobody) -> Ended:
    """Be a node of a pool until that, or this machine, does not want it any more.

    Args:
        access: What its access file says.
        how: How to join.
        on_joined: Is told the name that the head has given this node, and where the logs are.

    Cancelling ends the launcher, and returns when all that it has started has gone.

    Raises:
        ConfigurationError: The access file is of another pool.
        LauncherError: The head cannot be reached.
    """
    connection = await _connected(access)
    shared = access_file.is_shared(access)
    log_dir = "" if shared else str(files.make_temporary("hyperflow-node-"))
    try:
        request = JoinRequest(how.name, how.cpus, how.seconds_left, how.idle_timeout, log_dir)
        return await _Visit(connection, request, lambda name: on_joined(name, log_dir or access.log_dir)).stay()
    finally:
        if log_dir:
            with contextlib.suppress(OSError):
                os.rmdir(log_dir)  # unless there are logs
        connection.abort()
        await connection.wait_closed()


async def _connected(access: Access) -> asyncssh.SSHClientConnection:
    """Log in at the first of the head's addresses that has its key."""
    pause = FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        failures: list[tuple[str, Exception]] = []
        for host in access.hosts:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    return await _log_in(host, access)
            except (OSError, TimeoutError, asyncssh.Error, UnicodeError) as error:  # the last: no name of a host
                failures.append((host, error))
        dropped = any(isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError)) for _, error in failures)
        if not dropped or attempt == ATTEMPTS:
            raise _explained(access, failures)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 2, LONGEST_PAUSE)
    raise AssertionError("the last attempt returns or raises")


async def _log_in(host: str, access: Access) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        host,
        access.port,
        config=None,
        username=access_file.USER,
        known_hosts=([access.public()], [], []),
        server_host_key_algs=["ssh-ed25519"],
        kex_algs=["curve25519-sha256"],
        encryption_algs=["aes128-gcm@openssh.com"],
        compression_algs=["none"],
        signature_algs=["ssh-ed25519"],
        client_keys=[access.private()],
        preferred_auth="publickey",
        agent_path=None,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_auth=False,
        gss_kex=False,
        x509_trusted_certs=None,
        client_version="hyperflow",
        keepalive_interval=KEEPALIVE,
        keepalive_count_max=4,
    )


def _explained(access: Access, failures: Sequence[tuple[str, Exception]]) -> HyperflowError:
    """Return the error that says why the head cannot be reached."""
    for host, error in failures:
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return ConfigurationError(
                f"this access file is of another pool: who listens at {host} port {access.port} has another key. Take "
                "the file of the pool that runs now: hyperflow pool access RUN > FILE"
            )
        if isinstance(error, asyncssh.PermissionDenied):
            return ConfigurationError(
                f"this access file is of another pool: the head at {host} port {access.port} does not take its key"
            )
    reasons = "; ".join(f"{host}: {in_words(error) or type(error).__name__}" for host, error in failures)
    return LauncherError(
        f"the head of the pool cannot be reached at port {access.port} ({reasons}). The pool may have ended; or a "
        'firewall is in between; or the head is called otherwise from here: "hosts" in the access file can be changed'
    )


class _Visit(asyncssh.SSHClientSession[bytes]):
    """The session with the head; asyncssh calls the methods of a session, the launcher's stream those of a receiver."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, request: JoinRequest, on_joined: Callable[[str], object]
    ) -> None:
        self._on_joined = on_joined
        self._connection = connection
        self._request = request
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._launcher: ProcessConnection | None = None
        self._line = b""  # the first, as far as it has come
        self._began = asyncio.Event()
        self._over = asyncio.Event()  # the session is
        self._lost: Exception | None = None
        self._words = b""
        self._signals = 0
        self._timers: list[asyncio.TimerHandle] = []

    async def stay(self) -> Ended:
        """Join, work, and leave."""
        loop = asyncio.get_running_loop()
        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        signals = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]  # nohup
        for number in signals:
            loop.add_signal_handler(number, self._leave)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                channel, _ = await self._connection.create_session(
                    lambda: self, self._request.command, encoding=None, request_pty=False
                )
            waiting = [loop.create_task(event.wait()) for event in (self._began, self._over)]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in waiting:
                one.cancel()
            if self._began.is_set():
                await self._serve(channel)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._over.wait()
        except (asyncssh.Error, OSError) as error:  # a TimeoutError is one, too
            self._lost = self._lost or error
        finally:
            for timer in self._timers:
                timer.cancel()
            for number in signals:
                loop.remove_signal_handler(number)
        return self._how_it_was()

    def _how_it_was(self) -> Ended:
        code = self._channel.get_exit_status() if self._channel is not None else None
        said = printable(self._words.decode(errors="replace").strip())
        if code is None:
            why = in_words(self._lost) if self._lost is not None else "it gave no reason"
            return Ended(False, said or f"the connection to the head has ended: {why}")
        return Ended(code == 0, said)

    async def _serve(self, channel: asyncssh.SSHClientChannel[bytes]) -> None:
        """Start the launcher, and pass on what it and the head say until it has gone."""
        reading, writing = os.pipe()
        os.environ[BEFORE_PROLOGUE] = ""
        try:
            with Spawned(LAUNCHER, writing) as process:
                os.close(writing)
                writing = -1
                launcher = await process.connect(_FromLauncher(channel))
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.environ.pop(BEFORE_PROLOGUE, None)
            if writing >= 0:
                os.close(writing)
        log = asyncio.get_running_loop().create_task(_pass_log(self._connection, reading))
        self._launcher = launcher
        if self._line:
            launcher.write([self._line])
        if self._over.is_set():
            launcher.close()
        try:
            await launcher.wait_closed()
        except asyncio.CancelledError:
            launcher.close()
            await launcher.wait_closed()
            raise
        finally:
            await asyncio.wait([log], timeout=1.0)
            log.cancel()
            await asyncio.wait([log])
        if not channel.is_closing():
            channel.write_eof()

    def _leave(self) -> None:
        """Ask the head to let this node go; the second time do not ask."""
        self._signals += 1
        if self._signals > 1 or self._channel is None or self._channel.is_closing():
            self._end()
            return
        with contextlib.suppress(OSError):
            self._channel.send_signal("TERM")
        self._timers.append(asyncio.get_running_loop().call_later(GRACE, self._end))

    def _end(self) -> None:
        if self._launcher is not None:
            self._launcher.close()
        else:
            self._connection.abort()

    # ---- a session ----------------------------------------------------------------------------------------------

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(WRITE_AHEAD)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is not None:
            self._words = (self._words + data.replace(END, b""))[:LONGEST_WORDS]
            if END in data and self._launcher is not None:
                self._launcher.close()
        elif self._launcher is not None:
            self._launcher.write([data])
        else:
            self._line += data
            if not self._began.is_set() and b"\n" in self._line:
                line, _, self._line = self._line.partition(b"\n")
                self._on_joined(str(files.from_json(line)["name"]))
                self._began.set()

    def eof_received(self) -> bool:
        if self._launcher is not None:
            self._launcher.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc
        self._over.set()
        if self._launcher is not None:
            self._launcher.close()

    def pause_writing(self) -> None:
        if self._launcher is not None:
            self._launcher.pause_reading()

    def resume_writing(self) -> None:
        if self._launcher is not None:
            self._launcher.resume_reading()


class _FromLauncher:
    """What comes from the launcher goes to the head."""

    def __init__(self, channel: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = channel

    def data_received(self, data: bytes) -> None:
        if not self._channel.is_closing():
            with contextlib.suppress(OSError):
                self._channel.write(data)

    def pause_writing(self) -> None:
        self._channel.pause_reading()

    def resume_writing(self) -> None:
        self._channel.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """What awaits the launcher's end sees it."""


async def _pass_log(connection: asyncssh.SSHClientConnection, reading: int) -> None:
    """Pass on what the launcher writes to stderr, until nobody can write there any more."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb"))
    try:
        writer, _, _ = await connection.open_session(join_request.LOG, encoding=None, request_pty=False)
        while data := await stream.read(1 << 16):
            writer.write(cast(Any, data))
            await writer.drain()
        writer.write_eof()
    except (asyncssh.Error, OSError) as error:
        logging.getLogger("hyperflow").info("the launcher's log cannot be passed on: %s", error)
    finally:
        pipe.close()
