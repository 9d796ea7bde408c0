"""The door of a pool: the port at which nodes that join are let in, and all others are not.

The head is an ssh server there that does one thing. It has a key of its own, and knows one other key; there is no other
way to log in, no shell, no file transfer, nothing is forwarded.

Guarantees, whoever connects and whatever he sends:
- Who does not have the key gets no further than the refusal of an ssh server.
- Before the login a connection may send BEFORE_LOGIN bytes and has LOGIN_PATIENCE seconds; PENDING of them may be there
  at a time, and RATE begin per second, after the first BURST. Others are closed at once, ACCEPTS per ACCEPT_PAUSE. So
  strangers take a small part of the head's event loop, and never much of it at a time (tests/pools/joining/test_door.py
  measures that); nodes that come while they do have to try again, which they do by themselves.
- With the key, but without a request to join that makes sense, the connection ends as soon.
- No file descriptor and no task is left of any of them.

(Rejected: asyncssh's own listener, which takes whoever comes. A thread of its own: what nodes send would have to change
threads, all day, for the sake of strangers. A secret that has to be said before ssh begins: strangers would be cheaper
by some milliseconds, and it would not be ssh any more, which firewalls and people know.)
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
from collections.abc import Callable

import asyncssh

from hyperflow.errors import ConfigurationError
from hyperflow.pools.joining.access import USER
from hyperflow.pools.joining.join_request import JoinRequest
from hyperflow.pools.joining.joined import Member, MemberLog

logger = logging.getLogger("hyperflow")

PENDING = 50
"""Connections that are not let in yet, at a time."""

LOGIN_PATIENCE = 10.0
"""Seconds until a connection must have been let in."""

BEFORE_LOGIN = 1 << 14
"""Bytes that a connection may send before the login; a node needs a third of them."""

BURST, RATE = 50.0, 20.0
"""Logins that may begin at once, and then per second. One costs the head some five milliseconds."""

ACCEPTS, ACCEPT_PAUSE = 50, 0.05
"""Connections that are accepted, maybe to be closed at once, before a pause of so many seconds."""

BACKLOG = 128

OnMember = Callable[[Member, JoinRequest], None]


class Door:
    """A port, and those who stand before it.

    Args:
        host_key: By which nodes know us.
        client_key: The public key of those who may come in.
        on_member: Is called with each node that is let in; whoever takes it has to end it.
    """

    def __init__(self, host_key: asyncssh.SSHKey, client_key: asyncssh.SSHKey, on_member: OnMember) -> None:
        self._host_key = host_key
        self._client_key = client_key.public_data
        self._on_member = on_member
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._pending: set[asyncio.Task[None]] = set()
        self._allowance = BURST
        self._counted = self._loop.time()
        self._pause: asyncio.TimerHandle | None = None
        self.refused = 0
        """Connections that were closed at once because there were too many."""

    def open(self, sock: socket.socket) -> None:
        """Let nodes in who come to this socket; it is closed by `close`."""
        chatter = logging.getLogger("asyncssh")
        if chatter.level == logging.NOTSET:
            chatter.setLevel(logging.WARNING)
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._sock = sock
        self._listen()

    async def close(self) -> None:
        """Close the port, and end those who are not let in yet."""
        if self._pause is not None:
            self._pause.cancel()
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None
        pending = list(self._pending)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _listen(self) -> None:
        self._pause = None
        if self._sock is not None:
            self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        assert self._sock is not None
        for _ in range(ACCEPTS):
            try:
                sock, _address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError:  # it has gone already; or there are too many open files
                break
            if self._may_begin():
                sock.setblocking(False)
                task = self._loop.create_task(self._receive(sock))
                self._pending.add(task)
                task.add_done_callback(self._pending.discard)
            else:
                self.refused += 1
                sock.close()
        # The rest waits in the kernel's queue; also after an error, which would come again at once.
        self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(ACCEPT_PAUSE, self._listen)

    def _may_begin(self) -> bool:
        now = self._loop.time()
        self._allowance = min(BURST, self._allowance + (now - self._counted) * RATE)
        self._counted = now
        if len(self._pending) >= PENDING or self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True

    async def _receive(self, sock: socket.socket) -> None:
        """Let somebody in, or not."""
        server = _Server(self._client_key)
        connection: asyncssh.SSHServerConnection | None = None
        let_in: tuple[Member, JoinRequest] | None = None
        try:
            async with asyncio.timeout(LOGIN_PATIENCE):
                connection = await asyncssh.run_server(
                    sock,
                    config=None,
                    server_factory=lambda: server,
                    server_host_keys=[self._host_key],
                    server_version="hyperflow",
                    # What one of ours speaks. (A stranger is not to choose what costs us most.)
                    kex_algs=["curve25519-sha256"],
                    encryption_algs=["aes128-gcm@openssh.com"],
                    compression_algs=["none"],
                    signature_algs=["ssh-ed25519"],
                    public_key_auth=True,
                    password_auth=False,
                    kbdint_auth=False,
                    host_based_auth=False,
                    gss_host=None,
                    gss_kex=False,
                    gss_auth=False,
                    x509_trusted_certs=None,
                    allow_pty=False,
                    line_editor=False,
                    x11_forwarding=False,
                    agent_forwarding=False,
                    allow_scp=False,
                    encoding=None,
                    login_timeout=LOGIN_PATIENCE,
                    keepalive_interval=0,  # heartbeats of the launcher's are quicker
                )
                member, request = await server.request
            if isinstance(request, ConfigurationError):
                await member.dismiss(1, str(request))
            else:
                let_in = member, request
        except Exception as error:  # noqa: BLE001 (asyncssh raises all sorts of errors over what strangers send)
            logger.debug("a connection to the port of the pool has ended before it joined: %s", error)
        finally:
            if connection is None:
                sock.close()
            elif let_in is None:
                connection.abort()
                with contextlib.suppress(Exception):
                    await connection.wait_closed()
        if let_in is not None:
            self._on_member(*let_in)


class _Server(asyncssh.SSHServer):
    """One connection, as asyncssh asks about it."""

    def __init__(self, client_key: bytes) -> None:
        self._client_key = client_key
        self._connection: asyncssh.SSHServerConnection | None = None
        self._counting: _Counting | None = None
        self._member: Member | None = None
        self._has_log = False
        self.request: asyncio.Future[tuple[Member, JoinRequest | ConfigurationError]] = (
            asyncio.get_running_loop().create_future()
        )

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._counting = _Counting(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.request.done():
            self.request.set_exception(exc or ConnectionResetError("it has ended the connection"))
            self.request.exception()  # nobody may wait for it

    def begin_auth(self, username: str) -> bool:
        del username
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == USER and hmac.compare_digest(key.public_data, self._client_key)

    def auth_completed(self) -> None:
        assert self._counting is not None
        self._counting.stop()

    def session_requested(self) -> Member | MemberLog | bool:
        """Have one session of each kind."""
        if self._connection is None or self._has_log:
            return False
        if self._member is None:
            self._member = Member(self._connection, self._on_request)
            return self._member
        self._has_log = True
        return MemberLog(self._member)

    def _on_request(self, member: Member, request: JoinRequest | ConfigurationError) -> None:
        if not self.request.done():
            self.request.set_result((member, request))


class _Counting(asyncio.Protocol):
    """Stands before a connection until its login, and ends it if it sends more than a login needs."""

    def __init__(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connection = connection
        self._received = 0
        # asyncssh has no limit of its own, and no public way to put one there.
        transport = connection._transport  # pyright: ignore[reportPrivateUsage]
        assert transport is not None
        self._transport = transport
        self.eof_received = connection.eof_received  # type: ignore[method-assign]
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]
        transport.set_protocol(self)

    def stop(self) -> None:
        self._transport.set_protocol(self._connection)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > BEFORE_LOGIN:
            self._transport.abort()
        else:
            self._connection.data_received(data)
