"""Places: what is no good place for a database is refused before anything is written."""

import os
import socket
import sqlite3
from pathlib import Path

import pytest

from hyperflow.database import place
from hyperflow.database.place import LAYOUT_VERSION
from hyperflow.database.store import open_database
from hyperflow.errors import ConfigurationError, DatabaseError

MOUNTS = """\
21 1 8:1 / / rw,relatime - ext4 /dev/sda rw
22 21 0:5 / /home rw shared:7 - nfs4 server:/home rw
23 22 0:6 / /home/with\\040space rw - xfs /dev/sdb rw
24 21 0:7 / /scratch rw - lustre 10.0.0.1@tcp:/scratch rw
25 24 0:8 / /scratch rw - tmpfs tmpfs rw
26 21 0:9 / /odd rw - fuse.sshfs x rw
a line that makes no sense
"""


@pytest.mark.parametrize(
    ("path", "kind", "local"),
    [
        ("/var/x", "ext4", True),
        ("/home/me/x", "nfs4", False),
        ("/homeless/x", "ext4", True),
        ("/home/with space/x", "xfs", True),
        ("/scratch/x", "tmpfs", True),
        ("/odd/x", "fuse.sshfs", False),
    ],
)
def test_file_system_types(path: str, kind: str, local: bool) -> None:
    """The innermost mount decides, of two at one point the later; what is not known to be local is remote."""
    assert place.file_system_type(Path(path), MOUNTS) == kind
    assert place.is_local(Path(path), MOUNTS) is local


def test_unknown_is_not_local() -> None:
    """Without mounts to look at, the careful answer."""
    assert not place.is_local(Path("/x"), "")


async def refused(path: Path, error: type[Exception], match: str) -> None:
    """Check that opening is refused, that the path is named, and that nothing was left beside it."""
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    content = path.read_bytes() if path.is_file() else b""
    with pytest.raises(error, match=match) as caught:
        async with open_database(path, "test"):
            pass
    assert str(path) in str(caught.value)
    if before:
        assert sorted(path.parent.iterdir()) == before
    if content:
        assert path.read_bytes() == content


async def test_directories(tmp_path: Path) -> None:
    """A directory is no file, and one that is missing is not made: it may be a typing mistake."""
    await refused(tmp_path, ConfigurationError, "is a directory")
    await refused(tmp_path / "missing" / "x.sqlite", ConfigurationError, "there is no directory")


async def test_other_kinds_of_files(tmp_path: Path) -> None:
    """A FIFO would block, a socket makes no sense, and a file with two names has two locks."""
    os.mkfifo(tmp_path / "fifo")
    await refused(tmp_path / "fifo", ConfigurationError, "not an ordinary file")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        await refused(tmp_path / "socket", ConfigurationError, "not an ordinary file")
    (tmp_path / "one").touch(0o600)
    os.link(tmp_path / "one", tmp_path / "two")
    await refused(tmp_path / "two", ConfigurationError, "hard links")


@pytest.mark.parametrize(("mode", "match"), [(0o660, "chmod go-w"), (0o602, "chmod go-w"), (0o400, "read-only")])
async def test_modes(tmp_path: Path, mode: int, match: str) -> None:
    """A file that others can write is not trusted; one that cannot be written is refused at once."""
    path = tmp_path / "x.sqlite"
    async with open_database(path, "test"):
        pass
    path.chmod(mode)

    await refused(path, ConfigurationError, match)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_other_owner(tmp_path: Path) -> None:
    """A file of another user is refused, also by root, whose side files that user could not remove."""
    path = tmp_path / "x.sqlite"
    async with open_database(path, "test"):
        pass
    os.chown(path, 12345, 12345)

    await refused(path, ConfigurationError, "belongs to user 12345")


async def test_what_is_no_database(tmp_path: Path) -> None:
    """A text, a damaged head and another program's database are left as they are."""
    text = tmp_path / "text"
    text.write_text("dear diary, " * 100)
    text.chmod(0o600)
    await refused(text, DatabaseError, "not a results database")
    with_head = tmp_path / "head"
    with_head.write_bytes(b"SQLite format 3\0")
    with_head.chmod(0o600)
    await refused(with_head, DatabaseError, "damaged")
    other = tmp_path / "other"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    other.chmod(0o600)
    await refused(other, DatabaseError, "not one of hyperflow's")


async def test_newer_version(tmp_path: Path) -> None:
    """A database of a newer hyperflow is refused and stays the same to the byte."""
    path = tmp_path / "x.sqlite"
    async with open_database(path, "test"):
        pass
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {LAYOUT_VERSION + 1}")
    connection.close()

    await refused(path, DatabaseError, "newer version of hyperflow")


async def test_new_files_are_private(tmp_path: Path) -> None:
    """Database, WAL and lock can be read by their user alone, whatever the umask."""
    old = os.umask(0)
    try:
        async with open_database(tmp_path / "x.sqlite", "test") as store:
            await store.insert("m", "k", "1")
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    finally:
        os.umask(old)

    assert {"x.sqlite", "x.sqlite.lock", "x.sqlite-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}


async def test_empty_files_and_links(tmp_path: Path) -> None:
    """An empty file becomes a database, and a link to one is the same database with the same lock."""
    (tmp_path / "x.sqlite").touch(0o600)
    (tmp_path / "link").symlink_to("x.sqlite")
    async with open_database(tmp_path / "x.sqlite", "test"):
        with pytest.raises(DatabaseError, match="in use"):
            async with open_database(tmp_path / "link", "test"):
                pass
