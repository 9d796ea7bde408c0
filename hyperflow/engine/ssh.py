"""The ssh transport: a launcher on another node, through one connection that is made once.

Guarantees:
- Each node is contacted once. At most `handshakes` are under way at a time, each a random moment after another: many
  sites drop or throttle what comes in a burst. A connection that is dropped before the login is tried again, with
  growing pauses; a refusal (wrong key, no permission) is final, because it would be the same the next time.
- The node's host key is checked, always, against the user's and the system's known_hosts files, whatever the user's
  ssh configuration says about them. A key that is not the known one is refused under every policy.
- Keys, agent and configuration are the user's; nobody is asked for a password; nothing is forwarded.
- Neither a talkative shell start-up file nor a login shell that is no sh does harm.

asyncssh and not the ssh command: no process per node, and the stream reaches us without a pipe in between. It has
traps: it does not read the system's known_hosts by default, a `UserKnownHostsFile none` in the user's configuration
switches checking off, and keepalive is off. So all three are given here.
"""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from hyperflow.config import Settings
from hyperflow.engine.transport import Receiver, with_prologue
from hyperflow.engine.wire import Bytes
from hyperflow.errors import LauncherError

if TYPE_CHECKING:
    import asyncssh

JITTER = 0.05
"""Seconds within which handshakes that could begin together are spread."""

FIRST_PAUSE = 0.5
"""Seconds before a dropped connection is tried again; doubled each time."""

SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")

_slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


def known_hosts_files() -> list[str]:
    """Return the files that hold known host keys: the user's, the system's and our own, as far as they are there."""
    mine = [os.path.expanduser(f"~/.ssh/{name}") for name in ("known_hosts", "known_hosts2")]
    return [path for path in (*mine, *SYSTEM_KNOWN_HOSTS, str(accepted_keys_file())) if os.access(path, os.R_OK)]


def accepted_keys_file() -> Path:
    """Return hyperflow's own known_hosts file, which `host_keys = "accept-new"` writes."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(home) / "hyperflow" / "known_hosts"


def shell_line(command: Sequence[str]) -> str:
    """Return a command for any login shell.

    sh runs it; what the login shell has to understand is one word in single quotes, and csh and fish read those alike.
    """
    return f"exec /bin/sh -c {shlex.quote('exec ' + shlex.join(command))}"


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
            await connection.create_session(lambda: session, line, encoding=None, request_pty=False)
        except (OSError, asyncssh.Error) as error:
            connection.abort()
            raise LauncherError(f"cannot start a launcher on {self.node}: {error}") from error
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
            except (OSError, asyncssh.Error, TimeoutError) as error:
                if attempt == self.settings.connect_attempts or not may_pass(error):
                    raise LauncherError(f"cannot reach {self.node} by ssh: {advice(error, self.node)}") from error
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _log_in(self) -> asyncssh.SSHClientConnection:
        import asyncssh  # noqa: PLC0415 (see start)

        connection, _ = await asyncssh.create_connection(
            host_key_policy(self.settings),
            self.node,
            self.settings.ssh_port or (),
            known_hosts=asyncssh.read_known_hosts(known_hosts_files()),
            password_auth=False,
            kbdint_auth=False,
            agent_forwarding=False,
            x11_forwarding=False,
            keepalive_interval=self.settings.heartbeat,
            keepalive_count_max=max(3, int(self.settings.node_timeout / self.settings.heartbeat)),
            login_timeout=self.settings.connect_timeout,
        )
        return connection


def host_key_policy(settings: Settings) -> Any:
    """Return asyncssh's client class for the policy: asked about keys that no file vouches for."""
    import asyncssh  # noqa: PLC0415 (see Ssh.start)

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            known = asyncssh.match_known_hosts(asyncssh.read_known_hosts(known_hosts_files()), host, addr, port)
            if any(known[:3]):
                return False  # the host is known, by another key
            if settings.host_keys != "accept-new":
                return False
            path = accepted_keys_file()
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = host if port == 22 else f"[{host}]:{port}"
            with path.open("ab") as file:
                file.write(f"{name} ".encode() + key.export_public_key().strip() + b"\n")
            return True

    return Client


def may_pass(error: BaseException) -> bool:
    """Whether a later attempt can go better: the connection was dropped or timed out before any answer about us."""
    import asyncssh  # noqa: PLC0415 (see Ssh.start)

    if isinstance(error, (asyncssh.PermissionDenied, asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed)):
        return False
    return isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError, TimeoutError, BrokenPipeError))


def advice(error: BaseException, node: str) -> str:
    """Return what went wrong and what to do about it."""
    import asyncssh  # noqa: PLC0415 (see Ssh.start)

    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return (
            f"its host key is not the known one, or none is known ({error}). Look with `ssh {node}`; for new keys "
            'either `ssh-keyscan` them into ~/.ssh/known_hosts or set host_keys = "accept-new"'
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return f"it does not accept our keys ({error}). Try `ssh -o BatchMode=yes {node} true`, or set transport = srun"
    if isinstance(error, ConnectionRefusedError):
        return f"no sshd answers there ({error})"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class SshConnection:
    """A launcher's session; asyncssh calls the methods of a session, the link those of a connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection, receiver: Receiver, log_file: Path) -> None:
        self._connection = connection
        self._receiver = receiver
        self._log_file = log_file
        self._channel: Any = None

    # ---- asyncssh's side ----------------------------------------------------------------------------------------

    def connection_made(self, channel: Any) -> None:
        """The session is there."""
        self._channel = channel

    def session_started(self) -> None:
        """The command is running, as far as sshd says."""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Bytes have come: of the launcher's stdout, or of its stderr."""
        if datatype is None:
            self._receiver.data_received(data)
        else:
            with self._log_file.open("ab") as log:
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
        self._receiver.connection_lost(error)

    def pause_writing(self) -> None:
        """Asyncssh holds enough bytes; it keeps what comes all the same."""

    def resume_writing(self) -> None:
        """Asyncssh can take more."""

    # ---- the link's side ----------------------------------------------------------------------------------------

    def write(self, parts: Sequence[Bytes]) -> None:
        """Send bytes, some time."""
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(b"".join(parts))

    def close(self) -> None:
        """End the stream now, whatever is still under way."""
        self._connection.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, which the launcher does as the last thing."""
        if self._channel is not None:
            await self._channel.wait_closed()
        self._connection.close()
        await self._connection.wait_closed()
