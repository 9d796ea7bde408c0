"""Files that come to a launcher: who is told what when something is in the way. Head and workers are pretended."""

import errno
import hashlib
import os
import selectors
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperflow.launcher import node_files
from hyperflow.launcher.node_files import NodeFiles
from hyperflow.launcher.peers import Peers
from hyperflow.wire import frames, messages, scratch
from hyperflow.wire.frames import FileHere, Kind
from hyperflow.wire.messages import Fetched, FileHeld, FileHold, FileOrder
from hyperflow.wire.numbers import NO_WORKER, DefinitionNumber, WorkerNumber

SEVEN = DefinitionNumber(7)
ONE, TWO = WorkerNumber(1), WorkerNumber(2)
DATA = b"data" * 1000


class Node:
    """Files of a launcher, and what it says."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.to_head: list[bytes] = []
        self.to_workers: list[bytes] = []
        self.peers = Peers(selector, lambda name, cause: None, lambda moment: None)
        self.files = NodeFiles(self.peers, self.to_head.append, lambda worker, data: self.to_workers.append(data))

    def comes(self, worker: WorkerNumber, serial: int = 1, *, known: bool = False, size: int = len(DATA)) -> None:
        """A file is on its way."""
        self.order(FileOrder(SEVEN, size, serial, known, ""), worker)

    def order(self, order: messages.Message, worker: WorkerNumber = NO_WORKER) -> None:
        """Hear the head."""
        ((kind, number, body),) = frames.Reader().feed(messages.framed(order, worker))
        self.files.handle(kind, number, body)

    def fetched(self) -> list[Fetched]:
        """Return what the head was told."""
        return [messages.read(Fetched, body) for _, _, body in frames.Reader().feed(b"".join(self.to_head))]

    def told(self) -> list[tuple[WorkerNumber, FileHere]]:
        """Return what workers were told."""
        said = frames.Reader().feed(b"".join(self.to_workers))
        return [(worker, FileHere.of(body)) for _, worker, body in said]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Give a test a node, whose descriptors are all closed afterwards."""
    monkeypatch.setattr(scratch, "place", tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with selectors.DefaultSelector() as selector:
        made = Node(selector)
        yield made
        made.files.forget(SEVEN)
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_all_who_wait_are_told(node: Node) -> None:
    """Each gets the number of its own request, and where the file is; who comes later, too."""
    node.comes(ONE, 3)
    node.comes(TWO, 4, known=True)
    node.files.fill(SEVEN, memoryview(DATA[:100]))
    assert not node.told()
    node.files.fill(SEVEN, memoryview(DATA[100:]))
    node.comes(ONE, 5, known=True)
    assert [(worker, here.serial) for worker, here in node.told()] == [(ONE, 3), (TWO, 4), (ONE, 5)]
    for _, here in node.told():
        assert Path(f"/proc/{here.pid}/fd/{here.fd}").read_bytes() == DATA
        assert here.digest == hashlib.sha256(DATA).digest()


def test_the_disk_gets_full(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told, so is the head, and nothing of the file is left; what else comes of it is dropped."""

    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    node.comes(ONE)
    node.files.fill(SEVEN, memoryview(DATA[:100]))
    monkeypatch.setattr("hyperflow.wire.shared_memory.os.write", full)
    node.files.fill(SEVEN, memoryview(DATA[100:]))
    ((worker, here),) = node.told()
    assert (worker, here.error) == (ONE, errno.ENOSPC)
    (said,) = node.fetched()
    assert said.own
    assert "No space left" in said.cause
    assert SEVEN not in node.files
    assert node.peers.find(frames.NUMBER.pack(SEVEN)) is None


def test_the_disk_gets_full_while_it_comes_from_another_node(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same; a parent that cannot give it is the head's business only."""

    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    node.comes(ONE)
    assert node.files.fetched(SEVEN, "it has left")
    assert not node.told()
    monkeypatch.setattr("hyperflow.wire.shared_memory.os.write", full)
    content = node.peers.find(frames.NUMBER.pack(SEVEN))
    assert content is not None
    with pytest.raises(OSError, match="No space left"):
        content.block.append(memoryview(DATA))
    assert node.files.fetched(SEVEN, "no room for it")
    assert node.told()[0][1].error == errno.ENOSPC
    assert [said.own for said in node.fetched()] == [False, True]
    assert not node.files.fetched(SEVEN, "")


def test_more_than_is_free(node: Node) -> None:
    """It is refused before anything comes."""
    node.comes(ONE, size=1 << 60)
    ((_, here),) = node.told()
    assert here.error == errno.ENOSPC
    assert "are free" in here.text
    assert node.fetched()[0].own


def test_no_scratch_directory(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says why there is none."""
    monkeypatch.setattr(scratch, "place", None)
    monkeypatch.setattr(scratch, "why_not", "there is none")
    node.comes(ONE)
    assert node.told()[0][1].text == "there is none"


def test_a_file_that_has_failed_meanwhile(node: Node) -> None:
    """The head did not know when it sent a worker there: that one is to ask again, and nobody waits for nothing."""
    node.comes(ONE)
    node.files.worker_gone(ONE)
    assert node.fetched()[0].own
    node.comes(TWO, 9, known=True)
    assert [(worker, here.serial, here.error) for worker, here in node.told()] == [(TWO, 9, errno.EAGAIN)]
    assert SEVEN not in node.files


def test_one_of_two_workers_goes(node: Node) -> None:
    """The file goes on coming for the other one."""
    node.comes(ONE)
    node.comes(TWO, known=True)
    node.files.worker_gone(ONE)
    node.files.fill(SEVEN, memoryview(DATA))
    assert [worker for worker, _ in node.told()] == [TWO]


def test_from_the_beginning(node: Node) -> None:
    """The head sends it after all: what has come from another node does not count."""
    node.comes(ONE)
    node.files.fill(SEVEN, memoryview(b"other"))
    node.comes(NO_WORKER, 0, known=True)
    node.files.fill(SEVEN, memoryview(DATA))
    ((_, here),) = node.told()
    assert here.digest == hashlib.sha256(DATA).digest()
    assert Path(f"/proc/{here.pid}/fd/{here.fd}").read_bytes() == DATA


def test_a_file_system_without_unnamed_files(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file gets a name, and loses it at once."""
    monkeypatch.setattr(node_files.os, "O_TMPFILE", os.O_DIRECTORY | os.O_RDWR)
    node.comes(ONE)
    node.files.fill(SEVEN, memoryview(DATA))
    assert node.told()[0][1].digest == hashlib.sha256(DATA).digest()


def test_what_is_held_is_read_in_pieces(node: Node, tmp_path: Path) -> None:
    """As far as there is any; what was forgotten gives nothing."""
    path = tmp_path / "kept"
    path.write_bytes(DATA)
    node.order(FileHold(SEVEN, str(path), len(DATA)))
    path.unlink()
    node.files.handle(Kind.FILE_PULL, ONE, memoryview(frames.FILE_PULL.pack(SEVEN, 100, 50)))
    node.files.forget(SEVEN)
    node.files.handle(Kind.FILE_PULL, ONE, memoryview(frames.FILE_PULL.pack(SEVEN, 100, 50)))
    held, *pieces = frames.Reader().feed(b"".join(node.to_head))
    assert not messages.read(FileHeld, held[2]).cause
    assert [bytes(body[frames.FILE_PIECE.size :]) for _, _, body in pieces] == [DATA[100:150], b""]


@pytest.mark.parametrize("instead", ["nothing", "a link", "a pipe", "another size"])
def test_what_cannot_be_held(node: Node, tmp_path: Path, instead: str) -> None:
    """What was kept is gone, or there is something else in its place: the head is told."""
    path = tmp_path / "kept"
    if instead == "a link":
        path.symlink_to("/etc/passwd")
    elif instead == "a pipe":
        os.mkfifo(path)
    elif instead == "another size":
        path.write_bytes(b"x")
    node.order(FileHold(SEVEN, str(path), len(DATA)))
    path.unlink(missing_ok=True)
    ((_, _, body),) = frames.Reader().feed(b"".join(node.to_head))
    assert messages.read(FileHeld, body).cause
    assert SEVEN not in node.files
