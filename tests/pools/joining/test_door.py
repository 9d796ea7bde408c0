"""Who comes to the port of a pool: nodes with the key, and strangers, who get no further and cost little."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncssh
import attrs
import pytest

from hyperflow.pools.joining import door as door_module
from hyperflow.pools.joining.access import USER, new_key
from hyperflow.pools.joining.door import Door
from hyperflow.pools.joining.join_request import JoinRequest
from hyperflow.pools.joining.joined import Member
from tests.helpers import wait_until

STRANGERS = 1000

FLOOD = """
import os, socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
held = []
for number in range(count):
    one = socket.create_connection(("127.0.0.1", port))
    try:
        if number % 3 == 0:
            one.sendall(os.urandom(100_000))
        elif number % 3 == 1:
            one.sendall(b"SSH-2.0-" + b"x")
    except OSError:
        pass
    held.append(one)
print("all", flush=True)
sys.stdin.read()
"""
"""A process that opens many connections, says nonsense or nothing in them, and holds them."""


@attrs.define
class Open:
    """A door, the keys, and who has come in."""

    door: Door
    port: int
    host_key: asyncssh.SSHKey
    client_key: asyncssh.SSHKey
    came: list[tuple[Member, JoinRequest]] = attrs.field(factory=list)

    async def log_in(self, **changes: object) -> asyncssh.SSHClientConnection:
        options: dict[str, object] = {
            "known_hosts": ([self.host_key.convert_to_public()], [], []),
            "client_keys": [self.client_key],
            "username": USER,
            "agent_path": None,
            "config": None,
        }
        return await asyncssh.connect("127.0.0.1", self.port, **(options | changes))  # type: ignore[arg-type]

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def opened() -> AsyncIterator[Open]:
    """Open a door; at the end nobody is left there, and no task."""
    before = asyncio.all_tasks()
    host_key, client_key = new_key(), new_key()
    sock = socket.create_server(("127.0.0.1", 0))
    came: list[tuple[Member, JoinRequest]] = []
    door = Door(host_key, client_key, lambda member, request: came.append((member, request)))
    door.open(sock)
    try:
        yield Open(door, sock.getsockname()[1], host_key, client_key, came)
    finally:
        await door.close()
        for member, _ in came:
            await member.abort()
    await wait_until(lambda: asyncio.all_tasks() <= before, 5, "no task is left")


async def ends(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the other side ends the connection."""
    said = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(20):
            while data := await reader.read(1 << 16):
                said += data
    return said


async def test_one_key_and_nothing_else_opens() -> None:
    """Another key, another user, a password, another way of logging in: an ssh refusal. The host key is the pool's."""
    async with opened() as place:
        for changes in (
            {"client_keys": [new_key()]},
            {"username": "root"},
            {"client_keys": [], "password": "secret", "preferred_auth": "password,keyboard-interactive"},
            {"client_keys": [], "preferred_auth": "none,hostbased,gssapi-with-mic"},
        ):
            with pytest.raises(asyncssh.PermissionDenied):
                await place.log_in(**changes)
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            await place.log_in(known_hosts=([new_key().convert_to_public()], [], []))
        assert place.came == []


async def test_a_node_can_do_one_thing() -> None:
    """With the key there is no shell, no file transfer, no forwarding; a request that makes no sense is answered so."""
    async with opened() as place:
        async with await place.log_in() as connection:
            with pytest.raises(asyncssh.Error):
                await connection.create_process()
        async with await place.log_in() as connection:
            with pytest.raises(asyncssh.Error):
                await connection.start_sftp_client()
        for nonsense in ("join {}", "id", 'join {"name": 1}', "join " + "[" * 3000, "join " + "x" * 100_000):
            async with await place.log_in() as connection:
                done = await connection.run(nonsense)
                assert done.exit_status == 1, done
                assert "join" in str(done.stderr) or "same Python" in str(done.stderr), done.stderr
        async with await place.log_in() as connection:
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_connection("127.0.0.1", place.port)
            with pytest.raises(asyncssh.ChannelListenError):
                await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", place.port)
        async with await place.log_in() as connection:
            session, _ = await connection.create_session(
                asyncssh.SSHClientSession, JoinRequest("../evil\n").command, encoding=None
            )
            await wait_until(lambda: place.came, 5, "it has come in")
            assert place.came[0][1].name == "evil-"
            with pytest.raises(asyncssh.Error):  # it may join once
                await connection.create_session(asyncssh.SSHClientSession, JoinRequest("again").command, encoding=None)
            with pytest.raises(asyncssh.Error):
                await connection.create_session(asyncssh.SSHClientSession, "log", encoding=None)
            session.write(b"what nobody has asked for")
            await place.came[0][0].gone.wait()


async def test_strangers_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage, silence, one byte at a time, a login that never comes, too many bytes: each connection is ended."""
    monkeypatch.setattr(door_module, "LOGIN_PATIENCE", 1.0)
    async with opened() as place:
        garbage = await place.raw()
        garbage[1].write(b"\0\r\n" * 1000)
        silent = await place.raw()
        flood = await place.raw()
        flood[1].write(b"SSH-2.0-x\r\n" + os.urandom(1 << 20))
        slow = await place.raw()
        for byte in b"SSH-2.0-slow":
            slow[1].write(bytes([byte]))
        idle = await place.log_in()  # with the key, and then nothing
        for reader, writer in (garbage, silent, flood, slow):
            assert (await ends(reader))[:8] in (b"SSH-2.0-", b"")
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await asyncio.wait_for(idle.wait_closed(), 10)  # noqa: TID251 - a test
        assert place.came == []


@pytest.mark.process
async def test_a_thousand_strangers_cost_little() -> None:
    """While a thousand connections come and stay, the event loop is never held for long; then a node gets in."""
    async with opened() as place:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                before = time.thread_time()  # not by the clock on the wall: other processes need the CPUs, too
                await asyncio.sleep(0)
                await asyncio.sleep(0.001)
                longest = max(longest, time.thread_time() - before)

        ticking = asyncio.ensure_future(tick())
        files, began, used = len(os.listdir("/proc/self/fd")), time.monotonic(), time.thread_time()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FLOOD, str(place.port), str(STRANGERS)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"all\n"
        await wait_until(lambda: place.door.refused >= STRANGERS // 2, 30, "most are sent away")
        assert len(os.listdir("/proc/self/fd")) < files + door_module.PENDING + 10
        share = (time.thread_time() - used) / (time.monotonic() - began)
        print(f"longest turn {longest * 1000:.1f} ms, {share:.0%} of a CPU, refused {place.door.refused}")
        await process.communicate(b"")
        ticking.cancel()
        assert longest < 0.1
        connection = await _patiently(place)
        connection.abort()
        await connection.wait_closed()


async def _patiently(place: Open) -> asyncssh.SSHClientConnection:
    while True:
        try:
            return await place.log_in()
        except (asyncssh.ConnectionLost, ConnectionResetError):
            await asyncio.sleep(0.1)
