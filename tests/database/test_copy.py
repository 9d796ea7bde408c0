"""Copies: a later program goes on from an earlier one's results, and never changes them."""

import asyncio
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hyperflow.database import place
from hyperflow.database.place import LAYOUT_VERSION
from hyperflow.database.store import copy_database, open_database
from hyperflow.errors import ConfigurationError, DatabaseError
from hyperflow.program import ProgramInfo

ROOT = Path(__file__).resolve().parents[2]


def digests(path: Path) -> dict[str, str]:
    """Return what a database's files hold, except the shared index of a WAL, which is no data."""
    files = [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-journal")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()}


async def test_start_from_an_earlier_program(tmp_path: Path) -> None:
    """Its results are known, new ones shadow them, and its file stays the same to the byte."""
    first = ProgramInfo.new(tmp_path)
    async with open_database(first.database, first.program_id) as store:
        await store.insert("m", "a", "1")
        await store.insert("m", "b", "2")
    before = digests(first.database)

    second = ProgramInfo.new(tmp_path)
    copy_database(first.database, second.database)
    async with open_database(second.database, second.program_id) as store:
        await store.insert("m", "b", "3")
        assert await store.lookup_all("m") == [("a", "1"), ("b", "3")]

    assert digests(first.database) == before
    assert second.database.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in second.database.parent.iterdir() if path.is_file()] == ["results.sqlite"]


@pytest.mark.parametrize("wal", [True, False])
async def test_from_a_live_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wal: bool) -> None:
    """What was acknowledged before the copy began is in it, while the owner goes on writing."""
    monkeypatch.setattr(place, "is_local", lambda path: wal)
    async with open_database(tmp_path / "live", "p1") as store:
        await asyncio.gather(*(store.insert("m", f"before {n}", "x" * 500) for n in range(500)))
        storm = [asyncio.ensure_future(store.insert("m", f"during {n}", "x")) for n in range(2000)]
        copied = asyncio.get_running_loop().run_in_executor(None, copy_database, tmp_path / "live", tmp_path / "copy")
        await asyncio.gather(*storm)
        await copied
        await store.insert("m", "after", "x")

    async with open_database(tmp_path / "copy", "p2") as store:
        keys = {key for key, _ in await store.lookup_all("m")}
    assert {f"before {n}" for n in range(500)} <= keys
    assert "after" not in keys


async def test_from_a_program_that_was_killed(tmp_path: Path) -> None:
    """What is only in its WAL is copied, too, and neither file is changed."""
    code = (
        "import asyncio, sys\nfrom hyperflow.database.store import open_database\n"
        "async def main():\n    async with open_database(sys.argv[1], 'p1') as store:\n"
        "        await store.insert('m', 'k', '1')\n        print('done', flush=True)\n"
        "        await asyncio.Event().wait()\nasyncio.run(main())"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "db")], cwd=ROOT, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"done\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    before = digests(tmp_path / "db")
    assert "db-wal" in before

    copy_database(tmp_path / "db", tmp_path / "copy")

    assert digests(tmp_path / "db") == before
    async with open_database(tmp_path / "copy", "p2") as store:
        assert await store.lookup("m", "k") == "1"


async def test_from_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """An archive is a good source."""
    archive = tmp_path / "archive"
    archive.mkdir()
    async with open_database(archive / "db", "p1") as store:
        await store.insert("m", "k", "1")
    (archive / "db").chmod(0o400)
    archive.chmod(0o500)

    copy_database(archive / "db", tmp_path / "copy")

    archive.chmod(0o700)
    async with open_database(tmp_path / "copy", "p2") as store:
        assert await store.lookup("m", "k") == "1"


async def test_refused_sources(tmp_path: Path) -> None:
    """No file, an empty one, another program's, a newer one, a damaged one; no copy is left then."""
    with pytest.raises(ConfigurationError, match="missing"):
        copy_database(tmp_path / "missing", tmp_path / "copy")
    (tmp_path / "empty").touch()
    with pytest.raises(DatabaseError, match="empty"):
        copy_database(tmp_path / "empty", tmp_path / "copy")
    (tmp_path / "text").write_text("dear diary, " * 100)
    with pytest.raises(DatabaseError, match="not a results database"):
        copy_database(tmp_path / "text", tmp_path / "copy")
    async with open_database(tmp_path / "newer", "p"):
        pass
    with closing(sqlite3.connect(tmp_path / "newer")) as connection:
        connection.execute(f"PRAGMA user_version = {LAYOUT_VERSION + 1}")
    with pytest.raises(DatabaseError, match="newer version"):
        copy_database(tmp_path / "newer", tmp_path / "copy")
    async with open_database(tmp_path / "damaged", "p") as store:
        for n in range(20):
            await store.insert("m", str(n), "x" * 1000)
    os.truncate(tmp_path / "damaged", 9000)
    with pytest.raises(DatabaseError, match="damaged"):
        copy_database(tmp_path / "damaged", tmp_path / "copy")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "empty", "newer", "text"]


async def test_refused_targets(tmp_path: Path) -> None:
    """A copy replaces nothing."""
    async with open_database(tmp_path / "db", "p"):
        pass
    for target in (tmp_path / "db", tmp_path):
        with pytest.raises(ConfigurationError):
            copy_database(tmp_path / "db", target)
    with pytest.raises(ConfigurationError, match="no directory"):
        copy_database(tmp_path / "db", tmp_path / "nowhere" / "copy")
