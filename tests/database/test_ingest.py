"""Taking over: what Jobs recorded in files of their own comes into the program's, once, whoever is killed."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hyperflow.database import ingest as ingesting
from hyperflow.database import place
from hyperflow.database.entries import checksum
from hyperflow.database.ingest import Ingested, ingest
from hyperflow.database.layout import Counts
from hyperflow.database.store import DamagedEntry, Store, copy_database, open_database
from hyperflow.errors import ConfigurationError, DatabaseError
from tests.database.test_copy import digests
from tests.database.test_crash import WRITER

ROOT = Path(__file__).resolve().parents[2]


def rows(path: Path) -> list[tuple[Any, ...]]:
    """Read the entries of a database, all but their ids."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        columns = "map, key, value, size, program, time, checksum"
        return connection.execute(f"SELECT {columns} FROM entries ORDER BY id").fetchall()


async def record(path: Path, program_id: str, *keys: str) -> None:
    """Make a Job's file, or add to it."""
    async with open_database(path, program_id) as store:
        for key in keys:
            await store.insert("m", key, f"value of {key}")


def start_writer(path: Path, program_id: str, journal: str) -> "subprocess.Popen[bytes]":
    """Start a process that inserts without end, and prints what is recorded."""
    command = [sys.executable, "-c", WRITER, str(path), program_id, journal]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


async def test_each_entry_is_taken_once_as_it_is(tmp_path: Path) -> None:
    """Program, time and order stay; taking again adds what came since, and else nothing."""
    await record(tmp_path / "job", "job-1", "a", "b", "a")
    async with open_database(tmp_path / "db", "master") as store:
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(3, 3)
        assert await ingest(store, tmp_path / "job", "job-1", ended=True) == Ingested(3, 0)
        await record(tmp_path / "job", "job-1", "c")
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(4, 1)

    assert rows(tmp_path / "db") == rows(tmp_path / "job")
    async with open_database(tmp_path / "db", "master") as store:
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(4, 0)


async def test_maps_in_memory_see_them(tmp_path: Path) -> None:
    """A value that was absent, or older, is the new one at once, in a map that was used before."""
    await record(tmp_path / "job", "job-1", "a", "b")
    async with open_database(tmp_path / "db", "master") as store:
        await store.insert("m", "a", "old")
        assert await store.lookup("m", "b") is None

        await ingest(store, tmp_path / "job", "job-1")

        assert await store.lookup("m", "a") == "value of a"
        assert await store.lookup_all("m") == [("a", "value of a"), ("b", "value of b")]


async def test_maps_see_them_when_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being recorded when the taking is cancelled is recorded, and seen."""
    await record(tmp_path / "job", "job-1", "a")
    async with open_database(tmp_path / "db", "master") as store:
        assert await store.lookup("m", "a") is None
        calling = store.thread.call
        reached = asyncio.Event()

        def call(run: Callable[[Any], Any]) -> Any:
            future = calling(run)
            if "Store.ingest." in run.__qualname__:
                reached.set()
            return future

        monkeypatch.setattr(store.thread, "call", call)
        taking = asyncio.ensure_future(ingest(store, tmp_path / "job", "job-1"))
        await reached.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await calling(lambda file: None)

        assert await store.lookup("m", "a") == "value of a"
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(1, 0)


async def test_what_a_job_was_started_with_is_not_taken(tmp_path: Path) -> None:
    """Only its own entries are, though they stand in one file."""
    await record(tmp_path / "db", "master", "a")
    copy_database(tmp_path / "db", tmp_path / "job")
    await record(tmp_path / "job", "job-1", "b")

    async with open_database(tmp_path / "db", "master") as store:
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(2, 1)

    assert [row[1] for row in rows(tmp_path / "db")] == ["a", "b"]


async def test_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is taken in pieces of bounded length, each with its watermark, and comes whole."""
    monkeypatch.setattr(ingesting, "PIECE", 7)
    monkeypatch.setattr(ingesting, "PIECE_CHARACTERS", 60)
    await record(tmp_path / "job", "job-1", *(str(n) for n in range(50)))
    pieces: list[int] = []
    real = Store.ingest

    async def counted(self: Store, entries: Any, *rest: Any) -> bool:
        pieces.append(len(entries))
        return await real(self, entries, *rest)

    monkeypatch.setattr(Store, "ingest", counted)
    async with open_database(tmp_path / "db", "master") as store:
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(50, 50)

    assert max(pieces) <= 7
    assert rows(tmp_path / "db") == rows(tmp_path / "job")


async def test_two_calls_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the work: each entry is taken by one of them."""
    monkeypatch.setattr(ingesting, "PIECE", 3)
    await record(tmp_path / "job", "job-1", *(str(n) for n in range(50)))
    async with open_database(tmp_path / "db", "master") as store:
        taken = await asyncio.gather(*(ingest(store, tmp_path / "job", "job-1") for _ in range(4)))

    assert sum(each.count for each in taken) == 50
    assert rows(tmp_path / "db") == rows(tmp_path / "job")


async def test_nothing_recorded_yet(tmp_path: Path) -> None:
    """A file that is not there, in a directory that is not there, or empty, is no error."""
    (tmp_path / "empty").touch(0o600)
    async with open_database(tmp_path / "db", "master") as store:
        for name in ("missing", "nowhere/job", "empty"):
            assert await ingest(store, tmp_path / name, "job-1") == Ingested(0, 0)


async def test_another_file_under_the_same_id(tmp_path: Path) -> None:
    """A Job that began anew in a new file is read from its beginning, not from where the old one ended."""
    async with open_database(tmp_path / "db", "master") as store:
        await record(tmp_path / "job", "job-1", "a", "b")
        await ingest(store, tmp_path / "job", "job-1")
        (tmp_path / "job").unlink()
        await record(tmp_path / "job", "job-1", "c", "d", "e")

        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(3, 3)
        assert [key for key, _ in await store.lookup_all("m")] == ["a", "b", "c", "d", "e"]


async def test_the_run_directory_was_moved(tmp_path: Path) -> None:
    """A file is known by its program and entries, not by its path."""
    await record(tmp_path / "job", "job-1", "a")
    async with open_database(tmp_path / "db", "master") as store:
        await ingest(store, tmp_path / "job", "job-1")
        (tmp_path / "job").rename(tmp_path / "moved")
        assert await ingest(store, tmp_path / "moved", "job-1") == Ingested(1, 0)


async def test_damaged_entries_are_left_out(tmp_path: Path) -> None:
    """Each is reported; the sound ones are taken."""
    await record(tmp_path / "job", "job-1", "a", "b", "c")
    with closing(sqlite3.connect(tmp_path / "job")) as connection:
        connection.execute("UPDATE entries SET value = 'another' WHERE key = 'b'")
        connection.commit()
    async with open_database(tmp_path / "db", "master") as store:
        with pytest.warns(DamagedEntry, match="entry 2 in .*job is damaged"):
            assert await ingest(store, tmp_path / "job", "job-1") == Ingested(3, 2, 1)
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(3, 0)

    assert [row[1] for row in rows(tmp_path / "db")] == ["a", "c"]


async def test_a_gap(tmp_path: Path) -> None:
    """While the Job may be writing, what comes after a gap waits for the missing page; afterwards the gap is told."""
    await record(tmp_path / "job", "job-1", "a", "b", "c")
    with closing(sqlite3.connect(tmp_path / "job")) as connection:
        connection.execute("DELETE FROM entries WHERE key = 'b'")
        connection.commit()
    async with open_database(tmp_path / "db", "master") as store:
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(1, 1)
        with pytest.warns(DamagedEntry, match=r"entries 2 to 2 in .*job are missing"):
            assert await ingest(store, tmp_path / "job", "job-1", ended=True) == Ingested(3, 1, 1)


async def test_refused_sources(tmp_path: Path) -> None:
    """What others can write, is no database of ours, or is damaged, is refused by name."""
    await record(tmp_path / "open", "job-1", "a")
    (tmp_path / "open").chmod(0o666)
    (tmp_path / "text").write_text("dear diary, " * 100)
    (tmp_path / "text").chmod(0o600)
    await record(tmp_path / "short", "job-1", *(f"{n:01000}" for n in range(20)))
    os.truncate(tmp_path / "short", 9000)
    async with open_database(tmp_path / "db", "master") as store:
        with pytest.raises(ConfigurationError, match="open can be written by others"):
            await ingest(store, tmp_path / "open", "job-1")
        with pytest.raises(ConfigurationError, match="is a directory"):
            await ingest(store, tmp_path, "job-1")
        with pytest.raises(DatabaseError, match="text is not a results database"):
            await ingest(store, tmp_path / "text", "job-1")
        with pytest.raises(DatabaseError, match=r"short.*damaged"):
            await ingest(store, tmp_path / "short", "job-1", ended=True)


@pytest.mark.parametrize("journal", ["wal", "rollback"])
async def test_from_a_writing_job_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str) -> None:
    """Entries come while the Job writes; when it is killed in the middle, nothing that it had recorded is lost."""
    monkeypatch.setattr(place, "is_local", lambda path: journal == "wal")
    async with open_database(tmp_path / "db", "master") as store:
        for number in range(4):
            path, program_id = tmp_path / f"job{number}", f"w{number}"
            writer = start_writer(path, program_id, journal)
            assert writer.stdout is not None
            seen = b""
            limit = random.randint(2_000, 10_000)
            while len(seen) < limit:  # a moment that depends on progress, not on the clock
                data = await asyncio.to_thread(os.read, writer.stdout.fileno(), 4096)
                assert data, "the writer ended by itself"
                seen += data
                await ingest(store, path, program_id)
            writer.send_signal(signal.SIGKILL)
            seen += writer.communicate()[0]
            before = digests(path)
            await ingest(store, path, program_id)
            assert digests(path) == before  # it is only read, as long as the Job may live

            await ingest(store, path, program_id, ended=True)

            acknowledged = {f"{program_id}-{line.decode()}" for line in seen.split(b"\n")[:-1]}
            assert len(acknowledged) > 100
            assert acknowledged <= {key for key, _ in await store.lookup_all("m")}

    expected = [row for number in range(4) for row in rows(tmp_path / f"job{number}")]
    assert sorted(rows(tmp_path / "db")) == sorted(expected)


HALF_DONE = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # so that a transaction reaches the file before it ends
connection.execute("BEGIN IMMEDIATE")
insert = "INSERT INTO entries VALUES (?, 'm', ?, ?, 1, 'job-1', 0, x'00', 2, '{}', NULL)"
for n in range(500):
    connection.execute(insert, (100 + n, n, "x" * 5000))
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_journal_of_a_killed_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-done transaction is rolled back when the Job is known to have ended, and not before."""
    monkeypatch.setattr(place, "is_local", lambda path: False)
    await record(tmp_path / "job", "job-1", "a", "b")
    killed = subprocess.run([sys.executable, "-c", HALF_DONE, str(tmp_path / "job")], check=False)
    assert killed.returncode == -signal.SIGKILL
    before = digests(tmp_path / "job")
    assert "job-journal" in before

    async with open_database(tmp_path / "db", "master") as store:
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(0, 0)
        assert digests(tmp_path / "job") == before
        assert await ingest(store, tmp_path / "job", "job-1", ended=True) == Ingested(2, 2)


TAKER = """
import asyncio, sys
from pathlib import Path
from hyperflow.database import ingest
from hyperflow.database.store import open_database
ingest.PIECE = 5
async def main():
    async with open_database(sys.argv[1], "master") as store:
        taking = store.ingest
        async def take(*arguments):
            taken = await taking(*arguments)
            print("piece", flush=True)
            sys.stdin.readline()
            return taken
        store.ingest = take
        await ingest.ingest(store, Path(sys.argv[2]), "job-1")
asyncio.run(main())
"""


async def test_the_one_who_takes_is_killed(tmp_path: Path) -> None:
    """However often it is killed, in the end each entry is there once."""
    count = 2000
    async with open_database(tmp_path / "job", "job-1") as store:
        await asyncio.gather(*(store.insert("m", str(n), "x") for n in range(count)))
    status, kills = -signal.SIGKILL, 0
    while status == -signal.SIGKILL:
        taker = subprocess.Popen(
            [sys.executable, "-c", TAKER, str(tmp_path / "db"), str(tmp_path / "job")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert taker.stdin is not None
        assert taker.stdout is not None
        for _ in range(random.randint(20, 120)):
            if not taker.stdout.readline():
                taker.wait()
                break
            taker.stdin.write(b"go on\n")
        taker.kill()  # somewhere in the next piece
        taker.communicate()
        status = taker.returncode
        kills += status == -signal.SIGKILL

    assert status == 0
    assert kills > 1
    assert rows(tmp_path / "db") == rows(tmp_path / "job")


async def test_the_checksum_is_the_jobs(tmp_path: Path) -> None:
    """An entry is found damaged later by what its Job wrote, not by what was read from the Job's file."""
    await record(tmp_path / "job", "job-1", "a")
    async with open_database(tmp_path / "db", "master") as store:
        await ingest(store, tmp_path / "job", "job-1")

    assert [row[6] for row in rows(tmp_path / "db")] == [checksum("m", "a", "value of a")]


async def test_entries_and_watermark_are_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it cannot be noted how far the file was read, its entries are not recorded either."""

    def fail(self: Counts, connection: sqlite3.Connection, before: Counts) -> None:
        connection.execute("no SQL")

    await record(tmp_path / "job", "job-1", "a")
    async with open_database(tmp_path / "db", "master") as store:
        with monkeypatch.context() as patch:
            patch.setattr(Counts, "write", fail)
            with pytest.raises(DatabaseError, match=r"cannot write to .*db"):
                await ingest(store, tmp_path / "job", "job-1")
        assert await store.lookup("m", "a") is None
        assert rows(tmp_path / "db") == []
        assert await ingest(store, tmp_path / "job", "job-1") == Ingested(1, 1)
