"""The ssh transport: a launcher on another node, through one connection that is made once.

Guarantees:
- Each node is contacted once. At most `handshakes` are under way at a time, each a random moment after another: many
  sites drop or throttle what comes in a burst. A connection that is dropped before the login is tried again, with
  growing pauses; a refusal (wrong key, no permission) is final, because it would be the same the next time.
- The node's host key is checked, always, against the user's and the system's known_hosts files, or those of the setting
  `known_hosts` alone, whatever the user's ssh configuration says about them. A key that is not the known one is refused
  under every policy.
- Keys, agent and configuration are the user's; nobody is asked for a password; nothing is forwarded.
- Neither a talkative shell start-up file nor a login shell that is no sh does harm. One that hangs is ended.

asyncssh and not the ssh command: no process per node, and the stream reaches us without a pipe in between. It has
traps: it does not read the system's known_hosts by default, a `UserKnownHostsFile none` in the user's configuration
switches checking off, one damaged line in a known_hosts file is an error, key exchange by GSSAPI goes without a host
key, keepalive is off, and each connection logs a dozen lines as INFO. So all of this is given here.
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
from typing import TYPE_CHECKING, Any

import attrs

from hyperflow.config import Settings
from hyperflow.errors import LauncherError
from hyperflow.transports.process import WRITE_AHEAD, CutOff, Receiver, with_prologue
from hyperflow.transports.ssh_advice import KnownKeys, explain, files_that_know, host_key_failure
from hyperflow.wire.frames import HELLO, Bytes

if TYPE_CHECKING:
    import asyncssh

JITTER = 0.05
"""Seconds within which handshakes that could begin together are spread."""

FIRST_PAUSE = 0.5
"""Seconds before a dropped connection is tried again; doubled each time."""

SLOW_ATTEMPTS = 2
"""How often a node is tried that does not answer at all, which takes the whole of `connect_timeout` each time."""

SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")

_slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


def known_hosts_files(pinned: str = "") -> list[str]:
    """Return the files that hold known host keys: the one that is pinned, or the user's, the system's and our own."""
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
    """Read files that have not changed since; there may be thousands of lines, and a job may have hundreds of nodes."""
    import asyncssh  # noqa: PLC0415 (see Ssh.start)

    known = asyncssh.import_known_hosts("")
    for path, _ in files:
        for line in Path(path).read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a damaged line vouches for nobody
                known.load(line)
    return known


EVALUATE = 'eval "$(printf %b "$0")"'


def shell_line(command: Sequence[str]) -> str:
    """Return a command for any login shell.

    sh runs it; what the login shell has to understand is words in single quotes, which csh and fish read too. csh
    takes no line break and no exclamation mark in them, so those travel in disguise, and printf makes them again.
    """
    script = f"exec {shlex.join(command)}".replace("\\", "\\\\").replace("\n", "\\n").replace("!", "\\0041")
    return f"exec /bin/sh -c {shlex.quote(EVALUATE)} {shlex.quote(script)}"


@attrs.frozen
class Ssh:
    """A launcher on a node that sshd answers on.

    Args:
        node: The node's name, as Slurm and ssh know it.
        settings: Policies and limits.
    """

    node: str
    settings: Settings = attrs.field(factory=Settings)

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> SshConnection:
        """Connect and start the launcher; raises LauncherError with the cause and what to do."""
        import asyncssh  # noqa: PLC0415 (costs 0.1 s, which a run on one machine need not pay)

        connection = await self._connect()
        try:
            made = SshConnection(connection, receiver, log_file)
            session: Any = made  # asyncssh calls it; a common base class would cost its import
            line = shell_line(with_prologue(command, self.settings.prologue))
            async with asyncio.timeout(self.settings.connect_timeout):
                await connection.create_session(lambda: session, line, encoding=None, request_pty=False)
        except (OSError, asyncssh.Error, TimeoutError) as error:
            connection.abort()
            raise LauncherError(f"cannot start a launcher on {self.node}: {explain(error, self.node)}") from error
        except BaseException:
            connection.abort()
            raise
        return made

    async def _connect(self) -> asyncssh.SSHClientConnection:
        """Connect, one of few at a time; what was dropped before the login is tried again."""
        import asyncssh  # noqa: PLC0415 (see start)

        slots = _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.settings.handshakes))
        pause = FIRST_PAUSE
        for attempt in range(1, self.settings.connect_attempts + 1):
            try:
                async with slots:
                    await asyncio.sleep(random.uniform(0, JITTER))
                    async with asyncio.timeout(self.settings.connect_timeout):
                        return await self._log_in()
            # ValueError: something in the user's keys or configuration that asyncssh does not understand
            except (OSError, asyncssh.Error, TimeoutError, ValueError) as error:
                slow = isinstance(error, TimeoutError) and attempt >= SLOW_ATTEMPTS
                if attempt == self.settings.connect_attempts or slow or not may_pass(error):
                    raise LauncherError(f"cannot reach {self.node} by ssh: {explain(error, self.node)}") from error
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _log_in(self) -> asyncssh.SSHClientConnection:
        import asyncssh  # noqa: PLC0415 (see start)

        chatter = logging.getLogger("asyncssh")
        if chatter.level == logging.NOTSET:
            chatter.setLevel(logging.WARNING)
        refusals: list[str] = []
        try:
            connection, _ = await asyncssh.create_connection(
                host_key_policy(self.settings, refusals),
                self.node,
                self.settings.ssh_port or (),
                known_hosts=known_hosts(self.settings),
                encryption_algs=await ciphers(self.node),
                password_auth=False,
                kbdint_auth=False,
                gss_kex=False,
                agent_forwarding=False,
                x11_forwarding=False,
                # Once the launcher has said hello, the head's own heartbeat is quicker to notice. This is for before,
                # and slow, because an answer to it may have to wait behind a lot of data.
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
    import asyncssh  # noqa: PLC0415 (see Ssh.start)

    here: Any = asyncssh.SSHClientConnectionOptions
    configured = (await here.construct(host=node, config=())).encryption_algs  # (): the files that ssh reads
    default = (await here.construct(host=node, config=None)).encryption_algs
    names = [name.decode() for name in configured]
    return sorted(names, key=lambda name: "gcm" not in name) if configured == default else names


def host_key_policy(settings: Settings, refusals: list[str]) -> Any:
    """Return asyncssh's client class for the policy: asked about keys that no file vouches for.

    Args:
        settings: They say which policy.
        refusals: Where to put the reason for a refusal, and what to do about it.
    """
    import asyncssh  # noqa: PLC0415 (see Ssh.start)

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            mark, pinned = key.get_fingerprint(), settings.known_hosts
            if any(asyncssh.match_known_hosts(known_hosts(settings), host, addr, port)):
                files = known_hosts_files(pinned)
                knowing = files_that_know(host, addr, port, files) or files  # or: one of them revokes it
                refusals.append(str(host_key_failure(host, KnownKeys(host, port, tuple(knowing), pinned), mark)))
                return False
            if pinned or settings.host_keys != "accept-new":
                refusals.append(str(host_key_failure(host, KnownKeys(host, port, (), pinned), mark)))
                return False
            try:
                keep_key(host if port == 22 else f"[{host}]:{port}", key)
            except OSError as error:
                refusals.append(f"its host key {mark} is new and cannot be kept ({error})")
                return False
            return True

    return Client


def keep_key(name: str, key: asyncssh.SSHKey) -> None:
    """Add a host's key to our own known_hosts file, in one write: others may be doing the same."""
    path = accepted_keys_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{name} ".encode() + key.export_public_key().strip() + b"\n"
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb", buffering=0) as file:
        file.write(line)


def may_pass(error: BaseException) -> bool:
    """Whether a later attempt can go better: the connection was dropped or timed out before any answer about us."""
    import asyncssh  # noqa: PLC0415 (see Ssh.start)

    if isinstance(error, (asyncssh.PermissionDenied, asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed)):
        return False
    return isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError, TimeoutError, BrokenPipeError))


class SshConnection:
    """A launcher's session; asyncssh calls the methods of a session, the link those of a connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection, receiver: Receiver, log_file: Path) -> None:
        self._connection = connection
        self._receiver = receiver
        self._log_file = log_file
        self._channel: Any = None
        self._greeting: bytes | None = b""  # the last of what came before the launcher's first words; None after those

    # ---- asyncssh's side ----------------------------------------------------------------------------------------

    def connection_made(self, channel: Any) -> None:
        """The session is there."""
        self._channel = channel
        channel.set_write_buffer_limits(WRITE_AHEAD)

    def session_started(self) -> None:
        """The command is running, as far as sshd says."""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Bytes have come: of the launcher's stdout, or of its stderr."""
        if datatype is None:
            if self._greeting is not None:
                said = self._greeting + data
                self._greeting = None if HELLO in said else said[-len(HELLO) :]
            self._receiver.data_received(data)
        else:
            with contextlib.suppress(OSError), self._log_file.open("ab") as log:
                log.write(data)

    def eof_received(self) -> bool:
        """The launcher has closed its end."""
        return False

    def exit_status_received(self, status: int) -> None:
        """The launcher has ended."""

    def exit_signal_received(self, signal: str, core_dumped: bool, message: str, language: str) -> None:
        """The launcher was killed."""

    def connection_lost(self, error: Exception | None) -> None:
        """The channel has ended."""
        told = self._channel is not None and self._channel.get_returncode() is not None
        self._receiver.connection_lost(error if told else CutOff(str(error or "")))

    def pause_writing(self) -> None:
        """Asyncssh holds enough bytes; it keeps what comes all the same."""
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        """Asyncssh can take more."""
        self._receiver.resume_writing()

    # ---- the link's side ----------------------------------------------------------------------------------------

    def write(self, parts: Sequence[Bytes]) -> None:
        """Send bytes, some time."""
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(b"".join(parts))

    def close(self) -> None:
        """End the stream now, whatever is still under way."""
        if self._greeting is not None and self._channel is not None:
            with contextlib.suppress(OSError):  # a start-up file or prologue that hangs would not notice
                self._channel.send_signal("KILL")
        self._connection.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, which the launcher does as the last thing."""
        if self._channel is not None:
            await self._channel.wait_closed()
        self._connection.close()
        await self._connection.wait_closed()
