"""Contents that nodes hand on to each other, launcher to launcher, so that the head sends them to a few nodes only.

A content has a name, a size and a digest. The head says who is to fetch what from whom (head/broadcast.py); it also
hands out the secret with which both ends of a connection prove themselves (wire/proving.py). What is fetched is passed
on while it still arrives.

    child > parent     the proof; what it wants is the name and how much of it is there already
    parent > child     the bytes that are missing, and no others

Guarantees:
- What does not have the head's digest is never used: the digest came from the head, by a way of its own, so nobody
  between the nodes can change a content. He can read it: it is not encrypted.
- Nothing here blocks. A slow child is served when its connection takes more; a parent from which nothing comes for
  SILENCE, or that cannot be reached within CONNECT_PATIENCE, is given up, and the head is told why.
- What is half there is kept when the parent changes.
- Nothing listens before the head says so, and no more than MOST_CHILDREN are listened to.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence

from hyperflow.wire import proving
from hyperflow.wire.shared_memory import Block

MOST_CHILDREN = 64
"""Connections at a time. The head sends a few to each node, and some more when a node is lost."""

CONNECT_PATIENCE = 5.0
"""Seconds to connect and prove oneself."""

SILENCE = 30.0
"""Seconds in which nothing comes of a content, or a child takes nothing."""

PIECE = 1 << 18
"""Bytes that are read or sent at a time, before others have their turn."""

OFFSET = struct.Struct("<Q")

Done = Callable[[bytes, str], None]
"""Gets a name, and why it could not be fetched; "" if it is here."""


class Counted(Block):
    """A block that computes the digest of what comes into it."""

    __slots__ = ()

    def restart(self) -> None:
        """Begin it again."""
        raise NotImplementedError

    @property
    def digest(self) -> bytes:
        """SHA-256 of it."""
        raise NotImplementedError


class Content:
    """Something that is handed on, as far as it is here."""

    __slots__ = ("block", "size")

    def __init__(self, block: Block, size: int) -> None:
        self.block = block
        self.size = size


class Peers:
    """The connections from and to other launchers."""

    def __init__(self, selector: selectors.BaseSelector, done: Done, wake_by: Callable[[float], object]) -> None:
        self._selector = selector
        self._wake_by = wake_by
        self._done = done
        self._secret = b""
        self._listener: socket.socket | None = None
        self._contents: dict[bytes, Content] = {}
        self._fetches: dict[bytes, _Fetch] = {}
        self.children: set[_Child] = set()
        """Those who have connected to get something."""
        self._variables = dict(os.environ)  # before the head's take their place

    # ---- what there is ----------------------------------------------------------------------------------------------

    def hold(self, name: bytes, block: Block, size: int) -> None:
        """Hand a content on, from now on; it may still be arriving."""
        self.drop(name)
        self._contents[name] = Content(block, size)
        self.grown(name)

    def grown(self, name: bytes) -> None:
        """More of it is here: go on with the children that have waited for that."""
        for child in [child for child in self.children if child.name == name]:
            child.wake()

    def drop(self, name: bytes) -> None:
        """It is not handed on any more, and not fetched."""
        self._contents.pop(name, None)
        self.stop(name)

    def stop(self, name: bytes) -> None:
        """It is not fetched any more, and comes some other way."""
        if (fetch := self._fetches.pop(name, None)) is not None:
            fetch.hang_up()

    def end(self, name: bytes) -> None:
        """Nothing more of it will be here: children are to look for another parent."""
        self.drop(name)
        for child in [child for child in self.children if child.name == name]:
            child.leave()

    def find(self, name: bytes) -> Content | None:
        """Return a content that is here, or arriving."""
        return self._contents.get(name)

    # ---- to parents -------------------------------------------------------------------------------------------------

    def fetch(self, name: bytes, digest: str, hosts: Sequence[str], port: int) -> None:
        """Get the rest of a content from this parent, no longer from an earlier one."""
        fetch = self._fetches.get(name)
        if fetch is None:
            content = self._contents[name]
            fetch = self._fetches[name] = _Fetch(self, name, content, digest)
        fetch.begin(hosts, port)

    def ended(self, name: bytes, cause: str) -> None:
        """A content is here, or cannot be had from its parent."""
        if not cause:
            del self._fetches[name]
        self._done(name, cause)

    @property
    def selector(self) -> selectors.BaseSelector:
        return self._selector

    @property
    def secret(self) -> bytes:
        return self._secret

    # ---- from children ----------------------------------------------------------------------------------------------

    def know(self, secret: bytes) -> None:
        """Learn the secret, with which a child proves itself to its parent."""
        self._secret = secret

    def listen(self) -> tuple[tuple[str, ...], int]:
        """Take connections; return where: addresses and a port, 0 where nobody could come."""
        if self._listener is None:
            try:
                self._listener = proving.listener()
            except OSError:
                return (), 0
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        return tuple(_addresses(self._variables)), self._listener.getsockname()[1]

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):  # who has gone again
            sock, _ = self._listener.accept()
            if len(self.children) >= MOST_CHILDREN:
                sock.close()
            else:
                sock.setblocking(False)
                self.children.add(_Child(self, sock))

    def patience(self, seconds: float) -> float:
        """Return when these seconds are over; `check` is to be called then."""
        until = time.monotonic() + seconds
        self._wake_by(until)
        return until

    def gone(self, child: _Child) -> None:
        """A child has what it wanted, or has left."""
        self.children.discard(child)

    # ---- clocks and the end -----------------------------------------------------------------------------------------

    @property
    def moment(self) -> float | None:
        """When somebody will have been silent for too long."""
        return min((each.until for each in self._all()), default=None)

    def _all(self) -> list[_Child | _Fetch]:
        return [*self.children, *self._fetches.values()]

    def check(self, now: float) -> None:
        """Give up who has been silent for too long."""
        for each in [each for each in self._all() if now >= each.until]:
            each.too_late()

    def close(self) -> None:
        """In a forked worker: let go of all connections."""
        for sock in (self._listener, *(each.sock for each in self._all())):
            if sock is not None:
                sock.close()


class _Fetch:
    """A content that is being fetched from a parent, or waits for the head to name another one."""

    def __init__(self, peers: Peers, name: bytes, content: Content, digest: str) -> None:
        import hashlib  # noqa: PLC0415 (5 ms, which a launcher that fetches nothing does not pay)

        self.sock: socket.socket | None = None
        self.until = float("inf")
        self._peers = peers
        self._name = name
        self._content = content
        self._digest = digest
        self._counts_itself = isinstance(content.block, Counted)
        self._hash = hashlib.sha256()
        self._hosts: list[str] = []
        self._port = 0
        self._reasons: list[str] = []
        self._caller: proving.Caller | None = None  # while we prove ourselves
        self._heard = b""

    def begin(self, hosts: Sequence[str], port: int) -> None:
        """Turn to this parent."""
        self.hang_up()
        self._hosts, self._port, self._reasons = list(hosts), port, []
        self._next_host()

    def _next_host(self) -> None:
        if not self._hosts:
            self.until = float("inf")  # until the head names another one
            self._peers.ended(self._name, "; ".join(self._reasons) or "its parent has no address")
            return
        host = self._hosts.pop(0)
        self._reasons.append(f"{host} port {self._port}")
        try:
            self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            self.sock.setblocking(False)
            self._heard = b""
            self._caller = proving.Caller(self._peers.secret, OFFSET.pack(self._content.block.size) + self._name)
            self.until = self._peers.patience(CONNECT_PATIENCE)
            with contextlib.suppress(BlockingIOError):
                self.sock.connect((host, self._port))
            self._peers.selector.register(self.sock, selectors.EVENT_WRITE, self._connected)
        except OSError as error:
            self._failed(str(error))

    def _connected(self) -> None:
        assert self.sock is not None, self._name
        assert self._caller is not None, self._name
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._failed(os.strerror(error))
            return
        try:
            self.sock.send(self._caller.hello)  # a new connection takes some hundred bytes at once
            self._peers.selector.modify(self.sock, selectors.EVENT_READ, self._readable)
        except OSError as error:
            self._failed(str(error))

    def _readable(self) -> None:
        assert self.sock is not None, self._name
        wanted = self._content.size - self._content.block.size
        try:
            if self._caller is not None:
                self._prove(self.sock, self._caller)
                return
            data = self.sock.recv(min(PIECE, wanted))
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(str(error))
            return
        if not data:
            self._failed("it has ended the connection")
            return
        self.until = self._peers.patience(SILENCE)
        if not self._counts_itself:
            self._hash.update(data)
        try:
            self._content.block.append(memoryview(data))
        except OSError as error:
            self._hosts.clear()  # there is none at other addresses either
            self._failed(f"no room for it: {error}")
            return
        self._peers.grown(self._name)
        if len(data) == wanted:
            self._whole()

    def _prove(self, sock: socket.socket, caller: proving.Caller) -> None:
        self._heard += sock.recv(proving.CHALLENGE - len(self._heard)) or _nothing()
        if len(self._heard) == proving.CHALLENGE:
            sock.send(caller.reply(self._heard))
            self._caller = None
            self.until = self._peers.patience(SILENCE)

    def _whole(self) -> None:
        self.hang_up()
        cause = ""
        block = self._content.block
        found = block.digest.hex() if isinstance(block, Counted) else self._hash.hexdigest()
        if found != self._digest:
            # What children have of it has the wrong digest, too: they find out by themselves.
            import hashlib  # noqa: PLC0415 (see above)

            cause = "what has come does not have the head's digest"
            if isinstance(block, Counted):
                block.restart()
            else:
                os.ftruncate(block.fd, 0)
                os.lseek(block.fd, 0, os.SEEK_SET)
                block.size = 0
                self._hash = hashlib.sha256()
        self._peers.ended(self._name, cause)

    def _failed(self, reason: str) -> None:
        self.hang_up()
        self._reasons[-1] += f": {reason}"
        self._next_host()

    def too_late(self) -> None:
        """Nothing has come for too long."""
        self._failed("nothing came" if self._caller is None else "it cannot be reached")

    def hang_up(self) -> None:
        """End the connection, if there is one."""
        if self.sock is not None:
            with contextlib.suppress(KeyError):
                self._peers.selector.unregister(self.sock)
            self.sock.close()
            self.sock = None
        self.until = float("inf")


def _nothing() -> bytes:
    raise ConnectionError("it has ended the connection")


class _Child:
    """Another launcher, which fetches a content here."""

    def __init__(self, peers: Peers, sock: socket.socket) -> None:
        self.sock = sock
        self.name: bytes | None = None
        """What it wants, once it has proved itself."""
        self.until = peers.patience(CONNECT_PATIENCE)
        self._peers = peers
        self._called = proving.Called(peers.secret)
        self._sent = 0
        self._waiting = True  # for more of the content
        peers.selector.register(sock, selectors.EVENT_READ, self._readable)

    def _readable(self) -> None:
        try:
            data = self.sock.recv(proving.HELLO_HEAD + proving.LONGEST_WISH)
            if not data or self.name is not None:
                raise ConnectionError("it leaves, or says more than it should")
            answer = self._called.feed(data)
            if answer:
                self.sock.send(answer)
            if self._called.wish is not None:
                (self._sent,) = OFFSET.unpack_from(self._called.wish)
                self.name = self._called.wish[OFFSET.size :]
                self.until = self._peers.patience(SILENCE)
                self.wake()
        except BlockingIOError:
            pass
        except (OSError, struct.error):
            self.leave()

    def wake(self) -> None:
        """More of the content is here, maybe."""
        if self._waiting and self._missing() > 0:
            self._waiting = False
            self._peers.selector.modify(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self._turn)

    def _missing(self) -> int:
        """How much is here that it does not have."""
        content = self._peers.find(self.name) if self.name is not None else None
        return content.block.size - self._sent if content is not None else 0

    def _turn(self) -> None:
        content = self._peers.find(self.name) if self.name is not None else None
        if content is None:  # forgotten meanwhile
            self.leave()
            return
        try:
            count = min(PIECE, content.block.size - self._sent)
            if count > 0:
                self._sent += os.sendfile(self.sock.fileno(), content.block.fd, self._sent, count)
                self.until = self._peers.patience(SILENCE)
        except BlockingIOError:
            self._readable()  # it has nothing to say: it has left, maybe
            return
        except OSError:
            self.leave()
            return
        if self._sent >= content.size:
            self.leave()
        elif self._missing() <= 0:
            self._waiting = True
            self._peers.selector.modify(self.sock, selectors.EVENT_READ, self._readable)

    def too_late(self) -> None:
        """It takes nothing."""
        self.leave()

    def leave(self) -> None:
        """End the connection; what was sent still arrives."""
        self._peers.selector.unregister(self.sock)
        self.sock.close()
        self._peers.gone(self)


def _addresses(variables: dict[str, str]) -> list[str]:
    """Return the addresses at which other nodes may reach this machine; no name, whose look-up could take long."""
    found: list[str] = []
    near = variables.get("SLURM_LAUNCH_NODE_IPADDR", "")  # srun's host: our address on the way there
    if near:
        with contextlib.suppress(OSError), _datagrams(near) as sock:
            sock.connect((near, 9))  # sends nothing
            found.append(sock.getsockname()[0])
    words = variables.get("SSH_CONNECTION", "").split()
    if len(words) == 4:
        # It may be inherited from another machine: then it cannot be bound to.
        with contextlib.suppress(OSError), _datagrams(words[2]) as sock:
            sock.bind((words[2], 0))
            found.append(words[2])
    return list(dict.fromkeys(found))


def _datagrams(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
