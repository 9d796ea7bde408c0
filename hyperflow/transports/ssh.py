"""The ssh transport: a launcher on another node, over one connection.

Guarantees:
- Each node is contacted once. At most `handshakes` run at a time, and each begins after a random delay, because many
  sites drop or throttle bursts. A connection that is dropped before the login is tried again, with growing pauses. A
  refusal (wrong key, no permission) is final: it would be the same the next time.
- The node's host key is always checked, against the user's and the system's known_hosts files, or only against the file
  that the setting `known_hosts` names. What the user's ssh configuration says about them does not count. Every policy
  refuses a key that differs from the known one.
- Keys, agent and configuration are the user's; nobody is asked for a password; nothing is forwarded.
- Shell start-up files may print, and the login shell need not be a sh. A start-up file that hangs is ended. What one
  leaves in the background may go on printing: the launcher's stream is a channel of its own, to a Unix socket of the
  launcher's (launcher/own_stream), where sshd allows that; else it is the session's stdin and stdout.

asyncssh instead of the ssh command: it needs no process per node and no pipe in between. Its traps: it does not read
the system's known_hosts by default; `UserKnownHostsFile none` in the user's configuration switches checking off; one
damaged line in a known_hosts file is an error; key exchange by GSSAPI goes without a host key; keepalive is off; each
connection logs a dozen lines as INFO. So all of these are set here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import shlex
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh
import attrs

from hyperflow.config import Settings
from hyperflow.errors import LauncherError
from hyperflow.transports.process import WRITE_AHEAD, CutOff, Receiver, with_prologue
from hyperflow.transports.ssh_advice import KnownKeys, explain, files_that_know, host_key_failure, read_keys
from hyperflow.wire.frames import HELLO, OFFERED, STAY, Bytes

JITTER = 0.05
"""Seconds within which handshakes that could begin together are spread."""

FIRST_PAUSE = 0.5
"""Seconds before a dropped connection is tried again; doubled each time."""

SLOW_ATTEMPTS = 2
"""How often a node is tried that does not answer at all: each time takes the whole `connect_timeout`."""

EXIT_GRACE = 1.0
"""Seconds in which sshd may tell how a launcher has ended whose stream has."""

OFFER = "HYPERFLOW_OFFER_SOCKET"
"""The variable that asks a launcher for a stream of its own (launcher/own_stream)."""

SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")

_slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


def known_hosts_files(pinned: str = "") -> list[str]:
    """Return the files of known host keys: only the pinned one, or the user's, the system's and our own."""
    if pinned:
        return [os.path.expanduser(pinned)]
    mine = [os.path.expanduser(f"~/.ssh/{name}") for name in ("known_hosts", "known_hosts2")]
    return [path for path in (*mine, *SYSTEM_KNOWN_HOSTS, str(accepted_keys_file())) if os.access(path, os.R_OK)]


def accepted_keys_file() -> Path:
    """Return hyperflow's own known_hosts file, which `host_keys = "accept-new"` writes."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(home) / "hyperflow" / "known_hosts"


def known_hosts(settings: Settings) -> asyncssh.SSHKnownHosts:
    """Return all known host keys."""
    found = [(path, os.stat(path)) for path in known_hosts_files(settings.known_hosts)]
    return _read_known_hosts(tuple((path, (status.st_mtime_ns, status.st_size)) for path, status in found))


@functools.lru_cache(maxsize=4)
def _read_known_hosts(files: tuple[tuple[str, tuple[int, int]], ...]) -> asyncssh.SSHKnownHosts:
    """Read each version of the files once: they may have thousands of lines, and a job hundreds of nodes."""
    return read_keys(*(path for path, _ in files))


EVALUATE = 'eval "$(printf %b "$0")"'


def shell_line(command: Sequence[str]) -> str:
    """Return a command for any login shell.

    sh runs it; the login shell only has to understand words in single quotes, as csh and fish do too. csh takes no line
    break and no exclamation mark in them, so those are escaped, and printf turns them back.
    """
    script = f"exec {shlex.join(command)}".replace("\\", "\\\\").replace("\n", "\\n").replace("!", "\\0041")
    return f"exec /bin/sh -c {shlex.quote(EVALUATE)} {shlex.quote(script)}"


@attrs.frozen
class Ssh:
    """A launcher on a node with an sshd; `node` is its name for Slurm and for ssh."""

    node: str
    settings: Settings = attrs.field(factory=Settings)

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> SshConnection:
        """Connect and start the launcher; raises LauncherError with the cause and what to do."""
        connection = await self._connect()
        try:
            made = SshConnection(connection, receiver, log_file)
            line = shell_line(with_prologue(["env", f"{OFFER}=1", *command], self.settings.prologue))
            async with asyncio.timeout(self.settings.connect_timeout):
                await connection.create_session(lambda: made, line, encoding=None, request_pty=False)
        except Exception as error:
            connection.abort()
            raise LauncherError(f"cannot start a launcher on {self.node}: {explain(error, self.node)}") from error
        except BaseException:
            connection.abort()
            raise
        return made

    async def output(self, command: Sequence[str]) -> str:
        """Run a command there that takes a moment, and return what it prints; raises LauncherError."""
        connection = await self._connect()
        try:
            async with asyncio.timeout(self.settings.start_timeout):
                done = await connection.run(shell_line(with_prologue(command, self.settings.prologue)))
        except (OSError, TimeoutError, asyncssh.Error) as error:
            raise LauncherError(f"cannot run anything on {self.node}: {explain(error, self.node)}") from error
        finally:
            connection.abort()
        if done.exit_status:
            said = str(done.stderr or "").strip()[-500:]
            raise LauncherError(f"{self.node}: {command[0]} ended with {done.exit_status}: {said}")
        return str(done.stdout or "")

    async def _connect(self) -> asyncssh.SSHClientConnection:
        """Connect, at most `handshakes` at a time; try again if the connection is dropped before the login."""
        slots = _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.settings.handshakes))
        pause = FIRST_PAUSE
        for attempt in range(1, self.settings.connect_attempts + 1):
            try:
                async with slots:
                    await asyncio.sleep(random.uniform(0, JITTER))
                    async with asyncio.timeout(self.settings.connect_timeout):
                        return await self._log_in()
            except LauncherError:
                raise
            # Whatever: asyncssh raises all sorts of errors over the user's keys and configuration, and over a
            # ProxyCommand that ends. It is this node's failure, and no reason to start none.
            except Exception as error:
                slow = isinstance(error, TimeoutError) and attempt >= SLOW_ATTEMPTS
                if attempt == self.settings.connect_attempts or slow or not may_pass(error):
                    raise LauncherError(f"cannot reach {self.node} by ssh: {explain(error, self.node)}") from error
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _log_in(self) -> asyncssh.SSHClientConnection:
        chatter = logging.getLogger("asyncssh")
        if chatter.level == logging.NOTSET:
            chatter.setLevel(logging.WARNING)
        refusals: list[str] = []
        try:
            connection, _ = await asyncssh.create_connection(
                lambda: _HostKeyPolicy(self.settings, refusals),
                self.node,
                self.settings.ssh_port or (),
                known_hosts=known_hosts(self.settings),
                encryption_algs=await ciphers(self.node),
                password_auth=False,
                kbdint_auth=False,
                gss_kex=False,
                agent_forwarding=False,
                x11_forwarding=False,
                # Only for the time before the launcher's greeting: from then on the head's heartbeat is quicker. It is
                # slow, because an answer to it may have to wait behind a lot of data.
                keepalive_interval=max(self.settings.node_timeout / 3, self.settings.heartbeat * 2),
                keepalive_count_max=3,
                login_timeout=self.settings.connect_timeout + 1,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            reason = refusals[0] if refusals else f"its host key was refused ({error})"
            raise LauncherError(f"cannot reach {self.node} by ssh: {reason}") from error
        return connection


async def ciphers(node: str) -> list[str]:
    """Return the ciphers in order of preference: the user's if ssh's configuration names any, else AES-GCM first.

    asyncssh prefers ChaCha20, as OpenSSH does; in Python, AES-GCM takes half as many calls for each packet of 32 kB.
    """
    here: Any = asyncssh.SSHClientConnectionOptions
    configured = (await here.construct(host=node, config=())).encryption_algs  # (): the files that ssh reads
    default = (await here.construct(host=node, config=None)).encryption_algs
    names = [name.decode() for name in configured]
    return sorted(names, key=lambda name: "gcm" not in name) if configured == default else names


class _HostKeyPolicy(asyncssh.SSHClient):
    """Is asked about keys that no file vouches for; `refusals` gets the reason for a refusal, and what to do."""

    def __init__(self, settings: Settings, refusals: list[str]) -> None:
        self._settings = settings
        self._refusals = refusals

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        mark, pinned = key.get_fingerprint(), self._settings.known_hosts
        files: list[str] = []
        known = any(asyncssh.match_known_hosts(known_hosts(self._settings), host, addr, port))
        if known:
            files = known_hosts_files(pinned)
            files = files_that_know(host, addr, port, files) or files  # or: one of them revokes it
        about = KnownKeys(host, port, tuple(files), pinned)
        if known or pinned or self._settings.host_keys != "accept-new":
            self._refusals.append(str(host_key_failure(host, about, mark)))
            return False
        try:
            keep_key(about.entry, key)
        except OSError as error:
            self._refusals.append(f"its host key {mark} is new and cannot be kept ({error})")
            return False
        return True


def keep_key(name: str, key: asyncssh.SSHKey) -> None:
    """Add a host's key to our own known_hosts file, in one write, because others may do the same."""
    path = accepted_keys_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{name} ".encode() + key.export_public_key().strip() + b"\n"
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb", buffering=0) as file:
        file.write(line)


def may_pass(error: BaseException) -> bool:
    """Whether a later attempt may succeed: the connection was dropped or timed out before any answer about us."""
    return isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError, TimeoutError, BrokenPipeError))


class SshConnection(asyncssh.SSHClientSession[bytes]):
    """A launcher's session; asyncssh calls the methods of a session, the link those of a connection."""

    is_pipe = False

    def __init__(self, connection: asyncssh.SSHClientConnection, receiver: Receiver, log_file: Path) -> None:
        self._connection = connection
        self._receiver = receiver
        self._log_file = log_file
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._stream: asyncssh.SSHUNIXChannel[bytes] | None = None  # the launcher's own
        self._opening: asyncio.Task[None] | None = None
        self._said: bytes | None = b""  # the end of what came before the launcher's greeting; None after that
        self._ended = False
        self._gone = asyncio.Event()  # the launcher's process has ended, or nobody can know

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(WRITE_AHEAD)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Take bytes of the session's stdout, or of its stderr."""
        if datatype is not None:
            with contextlib.suppress(OSError), self._log_file.open("ab") as log:
                log.write(data)
        elif self._stream is None:
            if self._said is not None:
                self._look_for_offer(data)
            self._receiver.data_received(data)

    def _look_for_offer(self, data: bytes) -> None:
        assert self._said is not None
        said = self._said + data
        _, offered, rest = said.partition(OFFERED)
        path, whole, _ = rest.partition(b"\n")
        if HELLO in said:
            self._said = None
        elif offered and whole and self._opening is None:
            self._said = b""
            self._opening = asyncio.get_running_loop().create_task(self._open(path.decode(errors="replace")))
        else:
            self._said = offered + rest if offered else said[-len(OFFERED) - len(HELLO) :]

    async def _open(self, path: str) -> None:
        """Open the launcher's own stream, or tell it that there is none."""
        try:
            await self._connection.create_unix_connection(lambda: _OwnStream(self), path, encoding=None)
        except (OSError, asyncssh.Error):
            if self._channel is not None and not self._channel.is_closing():
                self._channel.write(STAY)

    def stream_made(self, stream: asyncssh.SSHUNIXChannel[bytes]) -> None:
        self._stream = stream
        stream.set_write_buffer_limits(WRITE_AHEAD)

    def stream_data(self, data: bytes) -> None:
        self._said = None
        self._receiver.data_received(data)

    def stream_lost(self, error: Exception | None) -> None:
        """The launcher's own stream has ended: its process has, too, or will be ended by that in a moment."""
        asyncio.get_running_loop().call_later(0.0 if self._told else EXIT_GRACE, self._end, error)

    @property
    def _told(self) -> bool:
        return self._channel is not None and self._channel.get_returncode() is not None

    def exit_status_received(self, status: int) -> None:
        del status
        self._gone.set()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        del signal, core_dumped, msg, lang
        self._gone.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._end(exc)

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._receiver.connection_lost(error if self._told else CutOff(str(error or "")))

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()

    def write(self, parts: Sequence[Bytes]) -> None:
        channel = self._stream if self._stream is not None else self._channel
        if channel is not None and not channel.is_closing():
            channel.write(b"".join(parts))

    def close(self) -> None:
        if self._said is not None and self._channel is not None:
            with contextlib.suppress(OSError):  # a start-up file or prologue that hangs would not notice the end
                self._channel.send_signal("KILL")
        self._gone.set()
        self._connection.abort()

    async def wait_closed(self) -> None:
        if self._stream is not None:
            await self._stream.wait_closed()
            await self._gone.wait()  # not the session's end: what start-up files have left behind may hold it
        elif self._channel is not None:
            await self._channel.wait_closed()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self._connection.close()
        await self._connection.wait_closed()


class _OwnStream(asyncssh.SSHUNIXSession[bytes]):
    """The launcher's own stream, beside its session."""

    def __init__(self, owner: SshConnection) -> None:
        self._owner = owner
        self.pause_writing = owner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = owner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, chan: asyncssh.SSHUNIXChannel[bytes]) -> None:
        self._owner.stream_made(chan)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        del datatype
        self._owner.stream_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.stream_lost(exc)
