"""Contents go from launcher to launcher, over real connections; each node here is its select loop's turn."""

import errno
import hashlib
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperflow.launcher import peers as module
from hyperflow.launcher.node_files import NodeFile
from hyperflow.launcher.peers import PIECE, Peers
from hyperflow.wire import proving
from hyperflow.wire.shared_memory import Block
from tests.helpers import block_until

SECRET = os.urandom(proving.SECRET)
DATA = os.urandom(1 << 16) * 80  # 5 MB: more than the sockets hold
DIGEST = hashlib.sha256(DATA).hexdigest()
NAME = b"data"


class Node:
    """A launcher's peers, the content, and what it was told."""

    def __init__(self, secret: bytes = SECRET) -> None:
        self.selector = selectors.DefaultSelector()
        self.told: list[str] = []
        self.peers = Peers(self.selector, lambda name, cause: self.told.append(cause), lambda moment: None)
        self.peers.know(secret)
        self.block = Block(os.memfd_create("block"), 0)

    def holds(self, data: bytes = DATA) -> "Node":
        """Let the content be here, as far as given."""
        self.block.append(memoryview(data))
        self.peers.hold(NAME, self.block, len(DATA))
        return self

    def fetches(self, parent: "Node", digest: str = DIGEST) -> "Node":
        """Fetch the content from another node."""
        if self.peers.find(NAME) is None:
            self.peers.hold(NAME, self.block, len(DATA))
        self.peers.fetch(NAME, digest, *parent.peers.listen())
        return self

    def turn(self) -> None:
        """Do what there is to do now."""
        for key, _ in self.selector.select(0):
            key.data()

    @property
    def content(self) -> bytes:
        return os.pread(self.block.fd, len(DATA) + 1, 0)


Make = Callable[..., Node]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make nodes, whose connections end with the test."""
    monkeypatch.setenv("SSH_CONNECTION", "127.0.0.1 1 127.0.0.1 22")
    made: list[Node] = []

    def make(secret: bytes = SECRET) -> Node:
        made.append(Node(secret))
        return made[-1]

    yield make
    for each in made:
        each.peers.close()
        each.selector.close()
        each.block.close()


def until(predicate: Callable[[], Any], *nodes: Node) -> None:
    """Let nodes have their turns until something is so."""

    def look() -> Any:
        for each in nodes:
            each.turn()
        return predicate()

    block_until(look, 20, "it happens")


def test_it_is_passed_on_while_it_arrives(node: Make) -> None:
    """A chain of three: the last one has the beginning before the first one has the end."""
    first, second, third = node().holds(DATA[:PIECE]), node(), node()
    second.fetches(first)
    third.fetches(second)
    until(lambda: third.block.size == PIECE, first, second, third)
    assert second.block.size == PIECE

    first.block.append(memoryview(DATA[PIECE:]))
    first.peers.grown(NAME)
    until(lambda: third.told, first, second, third)

    assert (second.told, third.told) == ([""], [""])
    assert second.content == third.content == DATA


def test_the_parent_ends(node: Make) -> None:
    """A child keeps what it has, and gets the rest from another parent; also one that did not have it yet."""
    half = len(DATA) // 2
    first, second, child = node().holds(DATA[:half]), node().holds(DATA[: half + 10]), node()
    child.fetches(first)
    until(lambda: child.block.size == half, first, child)
    first.peers.close()
    until(lambda: child.told, child)
    assert "has ended the connection" in child.told[0]

    child.fetches(second)
    until(lambda: child.block.size == half + 10, second, child)
    second.block.append(memoryview(DATA[half + 10 :]))
    second.peers.grown(NAME)
    until(lambda: len(child.told) == 2, second, child)
    assert child.told[1] == ""
    assert child.content == DATA


def test_a_parent_that_knows_of_nothing_yet(node: Make) -> None:
    """The head's orders reach nodes in any order: a child that is early waits."""
    parent, child = node(), node()
    child.fetches(parent)
    until(lambda: any(each.name for each in parent.peers.children), parent, child)
    parent.holds()
    until(lambda: child.told, parent, child)
    assert child.content == DATA


def test_another_secret(node: Make) -> None:
    """Who does not know the secret gets nothing, and gives nothing."""
    stranger, parent, child = node(os.urandom(32)).holds(), node().holds(), node()
    child.fetches(stranger)
    until(lambda: child.told, stranger, child)
    assert "does not know the secret" in child.told[0]
    assert child.block.size == 0

    thief = node(os.urandom(32)).fetches(parent)
    until(lambda: thief.told, parent, thief)
    assert thief.block.size == 0


def test_another_content(node: Make) -> None:
    """What does not have the head's digest is thrown away, and can be had elsewhere."""
    wrong, right, child = node().holds(DATA[:-1] + bytes([DATA[-1] ^ 1])), node().holds(), node()
    child.fetches(wrong)
    until(lambda: child.told, wrong, child)
    assert child.told == ["what has come does not have the head's digest"]
    assert child.content == b""

    child.fetches(right)
    until(lambda: len(child.told) == 2, right, child)
    assert child.told[1] == ""
    assert child.content == DATA


def test_a_slow_child_holds_up_nobody(node: Make) -> None:
    """One that takes nothing keeps its place until it has been silent for too long."""
    parent, slow, quick = node().holds(), node(), node()
    slow.fetches(parent)
    until(lambda: slow.block.size, parent, slow)
    quick.fetches(parent)
    until(lambda: quick.told, parent, quick)
    assert quick.content == DATA
    assert 0 < slow.block.size < len(DATA)

    (left,) = parent.peers.children
    assert parent.peers.moment == left.until
    parent.peers.check(left.until - 1)
    assert parent.peers.children
    parent.peers.check(left.until)
    assert not parent.peers.children
    assert parent.peers.moment is None


def test_a_parent_that_is_silent(node: Make) -> None:
    """It is given up, and so is one that is not there."""
    child = node()
    child.peers.hold(NAME, child.block, len(DATA))
    with proving.listener() as deaf:
        child.peers.fetch(NAME, DIGEST, ["127.0.0.1", "::1"], deaf.getsockname()[1])
        until(lambda: child.selector.get_map() and child.peers.moment, child)
        for _ in range(2):
            child.turn()
            child.peers.check(float(child.peers.moment or 0))
    assert len(child.told) == 1
    assert child.told[0].count("cannot be reached") == 2

    child.peers.fetch(NAME, DIGEST, ["127.0.0.1"], 9)  # the port "discard", which nobody serves
    until(lambda: len(child.told) == 2, child)
    assert "refused" in child.told[1]


def test_what_is_forgotten(node: Make) -> None:
    """A content that is dropped is handed on no longer, and what fetches it ends."""
    parent, child = node().holds(DATA[:PIECE]), node()
    child.fetches(parent)
    until(lambda: child.block.size == PIECE, parent, child)
    child.peers.drop(NAME)
    assert child.peers.moment is None
    assert child.told == []
    until(lambda: not parent.peers.children, parent)


def test_no_more_than_so_many_children(node: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is sent away at once."""
    monkeypatch.setattr(module, "MOST_CHILDREN", 1)
    parent = node().holds()
    _, port = parent.peers.listen()
    with socket.create_connection(("127.0.0.1", port)) as one, socket.create_connection(("127.0.0.1", port)) as two:
        until(lambda: parent.peers.children, parent)
        until(lambda: True, parent)
        two.settimeout(10)
        assert two.recv(1) == b""
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(1)


@pytest.fixture
def file_of(tmp_path: Path) -> Iterator[Callable[[], NodeFile]]:
    """Make files, which are closed with the test."""
    made: list[NodeFile] = []

    def make() -> NodeFile:
        fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        made.append(NodeFile(fd, 0, len(DATA)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_wrong_bytes_in_a_file(node: Make, file_of: Callable[[], NodeFile]) -> None:
    """A file computes its digest itself; what is wrong is dropped, and comes again from the next parent."""
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    bad, good, child = node().holds(wrong), node().holds(), node()
    file = file_of()
    child.peers.hold(NAME, file, len(DATA))
    child.fetches(bad)
    until(lambda: child.told, bad, child)
    assert "does not have the head's digest" in child.told[0]
    assert file.size == os.fstat(file.fd).st_size == 0

    child.fetches(good)
    until(lambda: len(child.told) == 2, good, child)
    assert child.told[1] == ""
    assert file.digest.hex() == DIGEST
    assert os.pread(file.fd, len(DATA) + 1, 0) == DATA


def test_a_parent_that_gives_it_up(node: Make) -> None:
    """Its children notice at once, although they have all that was there, and wait for more."""
    parent, child = node().holds(DATA[:PIECE]), node()
    child.fetches(parent)
    until(lambda: child.block.size == PIECE, parent, child)
    parent.peers.end(NAME)
    until(lambda: child.told, parent, child)
    assert "has ended the connection" in child.told[0]
    assert not parent.peers.children


def test_no_room_for_a_file(node: Make, file_of: Callable[[], NodeFile]) -> None:
    """The file remembers why: no other parent helps."""
    parent, child, file = node().holds(), node(), file_of()
    child.peers.hold(NAME, file, len(DATA))
    os.close(file.fd)
    file.fd = os.open("/dev/full", os.O_WRONLY)
    child.fetches(parent)
    until(lambda: child.told, parent, child)
    assert "no room for it" in child.told[0]
    assert file.failure is not None
    assert file.failure.errno == errno.ENOSPC
