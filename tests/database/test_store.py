"""The store: durable before it answers, newest first, one thread, nothing lost."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from hyperflow.database import file as files
from hyperflow.database import kept, place
from hyperflow.database.file import DatabaseFile
from hyperflow.database.store import DamagedEntry, Store, open_database
from hyperflow.errors import DatabaseError
from tests.database import damage


def on_disk(path: Path) -> list[tuple[str, str, str, str]]:
    """Read what another process would see now."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT map, key, value, program FROM entries ORDER BY id").fetchall()


async def test_insert_and_lookup(tmp_path: Path) -> None:
    """What was inserted is on the disk when insert returns, and is found; what was not is None."""
    async with open_database(tmp_path / "db", "p1") as store:
        assert await store.lookup("m", "k") is None
        await store.insert("m", "k", "1")
        assert on_disk(tmp_path / "db") == [("m", "k", "1", "p1")]
        assert await store.lookup("m", "k") == "1"
        assert await store.lookup("other", "k") is None


async def test_every_commit_is_synced(tmp_path: Path) -> None:
    """No kill shows this, only a power cut: SQLite's own answer has to do."""
    async with open_database(tmp_path / "db", "p") as store:
        assert await store.thread.call(lambda file: file.connection.execute("PRAGMA synchronous").fetchone()) == (2,)


async def test_newest_wins_and_nothing_is_overwritten(tmp_path: Path) -> None:
    """A later program shadows an earlier one's value; both stay in the file."""
    async with open_database(tmp_path / "db", "p1") as store:
        await store.insert("m", "a", "1")
        await store.insert("m", "b", "2")
    async with open_database(tmp_path / "db", "p2") as store:
        await store.insert("m", "a", "3")
        assert await store.lookup("m", "a") == "3"
        assert await store.lookup_all("m") == [("a", "3"), ("b", "2")]

    assert [(value, program) for _, _, value, program in on_disk(tmp_path / "db")] == [
        ("1", "p1"),
        ("2", "p1"),
        ("3", "p2"),
    ]


async def test_a_closed_database_is_one_file(tmp_path: Path) -> None:
    """Neither WAL nor lock stays, so that `cp` makes a good copy."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "k", "1")
        assert (tmp_path / "db-wal").exists() == place.is_local(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["db"]


async def test_many_inserts_share_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is queued at one moment is one commit, in the order of the calls."""
    batches: list[int] = []
    real = DatabaseFile.insert

    def counting(self: DatabaseFile, entries: Any) -> Any:
        entries = list(entries)
        batches.append(len(entries))
        return real(self, entries)

    monkeypatch.setattr(DatabaseFile, "insert", counting)
    async with open_database(tmp_path / "db", "p") as store:
        await asyncio.gather(*(store.insert("m", f"k{n % 100}", str(n)) for n in range(1000)))
        assert await store.lookup("m", "k99") == "999"

    assert sum(batches) == 1000
    assert len(batches) <= 3


async def test_lookups_in_memory_do_not_wait(tmp_path: Path) -> None:
    """After a map's first use a lookup ends without a turn of the loop."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "k", "1")
        await store.lookup("m", "k")
        lookup = store.lookup("m", "k")
        with pytest.raises(StopIteration) as ended:
            lookup.send(None)

    assert ended.value.value == "1"


async def test_long_values_are_read_when_asked_for(tmp_path: Path) -> None:
    """They are not kept in memory, neither after an insert nor after a lookup, and come back whole."""
    long = "x" * (kept.LONGEST + 1)
    for _ in range(2):
        async with open_database(tmp_path / "db", "p") as store:
            await store.insert("m", "k", long)
            assert await store.lookup("m", "k") == long
            assert store._kept.get("m", "k") is None
            assert await store.lookup_all("m") == [("k", long)]


async def test_memory_has_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it, short values are read from the disk, too, and the newest are kept."""
    monkeypatch.setattr(kept, "MEMORY_BUDGET", 4 * (kept.OVERHEAD + 5))
    async with open_database(tmp_path / "db", "p") as store:
        for n in range(10):
            await store.insert("m", str(n), f"123{n}")
        assert all(store._kept.get("m", str(n)) is None for n in range(6))
        assert [store._kept.get("m", str(n)) for n in range(6, 10)] == ["1236", "1237", "1238", "1239"]
        for _ in range(2):
            assert [await store.lookup("m", str(n)) for n in range(10)] == [f"123{n}" for n in range(10)]
        await store.insert("m", "3", "new")
        assert await store.lookup("m", "3") == "new"


async def test_a_load_and_inserts_at_the_same_time(tmp_path: Path) -> None:
    """A map that is being read for the first time misses no insert that happens meanwhile."""
    for round_number in range(20):
        async with open_database(tmp_path / f"db{round_number}", "p") as store:
            work = [store.insert("m", str(n), "1") for n in range(10)] + [store.lookup("m", "0") for _ in range(3)]
            await asyncio.gather(*work, store.insert("m", "last", "1"))
            assert len(await store.lookup_all("m")) == 11
            assert await store.lookup("m", "last") == "1"


async def test_closing_waits_for_what_is_queued(tmp_path: Path) -> None:
    """Also when the task that closes is cancelled, again and again."""

    async def use() -> None:
        async with open_database(tmp_path / "db", "p") as store:
            store.thread.call(lambda file: busy.wait(10))
            inserts.extend(asyncio.ensure_future(store.insert("m", f"handed over {n}", "1")) for n in range(50))
            await turns()
            inserts.extend(asyncio.ensure_future(store.insert("m", f"queued {n}", "1")) for n in range(50))
            await turns()
            started.set()

    async def turns() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    busy, started = threading.Event(), asyncio.Event()
    inserts: list[asyncio.Future[None]] = []
    task = asyncio.create_task(use())
    await started.wait()
    for _ in range(5):
        task.cancel()
        await turns()
    assert not task.done()
    busy.set()
    with suppress(asyncio.CancelledError):
        await task
    await asyncio.gather(*inserts)

    assert len(on_disk(tmp_path / "db")) == 100
    assert not (tmp_path / "db.lock").exists()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Nobody waits for a thread that has ended."""
    async with open_database(tmp_path / "db", "p") as store:
        pass
    for use in (store.insert("m", "k", "1"), store.lookup("m", "k"), store.lookup_all("m")):
        with pytest.raises(DatabaseError, match="was closed"):
            await use


async def test_a_lookup_that_is_overtaken_by_closing(tmp_path: Path) -> None:
    """It ends, with its result or with an error."""
    async with open_database(tmp_path / "db", "p") as store:
        lookups = [asyncio.create_task(store.lookup_all("m")), asyncio.create_task(store.lookup("m", "k"))]
        await asyncio.sleep(0)
    async with asyncio.timeout(40):
        for result in await asyncio.gather(*lookups, return_exceptions=True):
            assert result in (None, []) or isinstance(result, DatabaseError)


async def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    """An entry that SQLite does not take fails those beside it, is undone with them, and leaves the file usable."""
    async with open_database(tmp_path / "db", "p") as store:
        good, bad = asyncio.gather(store.insert("m", "a", "1")), asyncio.gather(store.insert("m", "\ud800", "1"))
        for insert in (good, bad):
            with pytest.raises(DatabaseError):
                await insert
        await store.insert("m", "b", "2")

    assert on_disk(tmp_path / "db") == [("m", "b", "2", "p")]


async def test_a_cancelled_insert_disturbs_nobody(tmp_path: Path) -> None:
    """Those beside it in the same transaction are recorded."""
    async with open_database(tmp_path / "db", "p") as store:
        first = asyncio.create_task(store.insert("m", "a", "1"))
        second = asyncio.create_task(store.insert("m", "b", "2"))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert await store.lookup("m", "b") == "2"


async def test_a_cancelled_first_lookup_disturbs_nobody(tmp_path: Path) -> None:
    """The others wait for the same load."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "k", "1")
        lookups = [asyncio.create_task(store.lookup("m", "k")) for _ in range(3)]
        await asyncio.sleep(0)
        lookups[0].cancel()
        assert await asyncio.gather(*lookups[1:]) == ["1", "1"]


async def test_a_forked_process_is_told(tmp_path: Path) -> None:
    """It has no thread, and would wait for ever."""
    async with open_database(tmp_path / "db", "p") as store:
        child = os.fork()
        if child == 0:
            try:
                store.insert("m", "k", "1").send(None)
            except DatabaseError as error:
                os._exit(7 if "forked" in str(error) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("failure", [ValueError("out of order"), MemoryError(), SystemExit(3)])
async def test_a_thread_that_ends_by_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    """All who wait, and all who come later, get an error that names the cause; closing works."""

    def fail(held: object) -> None:
        busy.wait(10)
        raise failure

    busy = threading.Event()
    monkeypatch.setattr(DatabaseFile, "tidy", fail)
    async with asyncio.timeout(40), open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "k", "1")
        waiting = [
            store.insert("m", "l", "1"),
            store.lookup_all("m"),
            store.insert("m", "n", "1"),
        ]
        assert await store.lookup("m", "k") == "1"  # is in memory
        tasks = [asyncio.ensure_future(each) for each in waiting]
        for _ in range(5):
            await asyncio.sleep(0)
        busy.set()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, DatabaseError)
            assert f"has ended: {type(failure).__name__}" in str(error)
            assert str(tmp_path / "db") in str(error)
        for late in (store.insert("m", "o", "1"), store.lookup("other", "k"), store.lookup_all("m")):
            with pytest.raises(DatabaseError, match="has ended"):
                await late

    assert "has ended" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["db"]
    assert on_disk(tmp_path / "db") == [("m", "k", "1", "p")]


@pytest.mark.parametrize("wal", [True, False])
@pytest.mark.parametrize("how", [damage.remove, damage.replace])
async def test_a_file_that_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[Path], None], wal: bool
) -> None:
    """The next insert says so, and nothing is believed safe from then on; what was recorded is saved beside it."""
    monkeypatch.setattr(place, "is_local", lambda path: wal)
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "a", "1")
        how(tmp_path / "db")
        for _ in range(2):
            with pytest.raises(DatabaseError, match=r"db was removed, replaced or moved.*saved in") as caught:
                await store.insert("m", "b", "2")
        assert await store.lookup("m", "a") == "1"

    assert not (tmp_path / "db-wal").exists()
    saved = tmp_path / str(caught.value).partition("saved in ")[2].partition(". ")[0]
    async with open_database(saved, "q") as store:
        assert await store.lookup("m", "a") == "1"


async def test_a_log_that_is_removed(tmp_path: Path) -> None:
    """What was recorded goes into the file; nothing more is accepted."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "a", "1")
        damage.remove(tmp_path / "db-wal")
        with pytest.raises(DatabaseError, match=r"write-ahead log .*db-wal was removed.*is in the file itself"):
            await store.insert("m", "b", "2")

    async with open_database(tmp_path / "db", "q") as store:
        assert await store.lookup("m", "a") == "1"


async def test_a_file_that_is_removed_after_the_last_insert(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Closing says so, or logs it if the program has another error."""
    with pytest.raises(DatabaseError, match=r"was removed.*saved in"):
        async with open_database(tmp_path / "db", "p") as store:
            await store.insert("m", "a", "1")
            damage.remove(tmp_path / "db")
    with pytest.raises(ZeroDivisionError):
        async with open_database(tmp_path / "db", "p") as store:
            damage.remove(tmp_path / "db")
            raise ZeroDivisionError
    assert "was removed" in caplog.text


async def test_a_directory_that_is_removed(tmp_path: Path) -> None:
    """An error, and no wait."""
    (tmp_path / "run").mkdir()
    with pytest.raises(DatabaseError, match=r"was removed.*could not be saved"):
        async with open_database(tmp_path / "run" / "db", "p") as store:
            await store.insert("m", "a", "1")
            shutil.rmtree(tmp_path / "run")
            await store.insert("m", "b", "1")


def database_threads() -> list[threading.Thread]:
    """Return the threads of open stores."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("hyperflow-database")]


def test_a_loop_that_is_closed_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread ends by itself, and gives file and lock back."""
    monkeypatch.setattr("hyperflow.database.thread.LOOP_CHECK", 0.01)

    async def opened() -> Store:
        store = Store(tmp_path / "db", "p")
        await store.thread.opened
        return store

    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(opened())
    loop.run_until_complete(store.insert("m", "k", "1"))
    (thread,) = database_threads()
    loop.close()
    thread.join(10)

    assert not thread.is_alive()
    assert [path.name for path in tmp_path.iterdir()] == ["db"]
    assert on_disk(tmp_path / "db") == [("m", "k", "1", "p")]


def flip(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes in the file, as a failing disk would."""
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


async def test_a_flipped_byte_in_a_value(tmp_path: Path) -> None:
    """SQLite finds the file in order; the entry is reported and treated as absent, the others are kept."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "a", '"precious"')
        await store.insert("m", "b", '"other"')
    flip(tmp_path / "db", b"precious", b"precioux")
    with closing(sqlite3.connect(tmp_path / "db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    async with open_database(tmp_path / "db", "p") as store:
        with pytest.warns(DamagedEntry, match="entry 1 of map 'm'"):
            assert await store.lookup("m", "a") is None
        assert await store.lookup_all("m") == [("b", '"other"')]


async def test_damage_is_told_before_anybody_hears_that_a_key_is_not_there(tmp_path: Path) -> None:
    """Whoever asks first after it was met with is told, for who met with it may have been cancelled."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "a", "1")
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as connection:
        connection.execute("UPDATE entries SET key = 'b'")

    async with open_database(tmp_path / "db", "p") as store:
        store.ask("m", "a").cancel()
        await store.thread.call(DatabaseFile.know)
        assert store.peek("m", "a") == (False, None)
        with pytest.warns(DamagedEntry, match="entry 1 of map 'm'"):
            assert await store.lookup("m", "a") is None


async def test_an_older_sound_entry_serves(tmp_path: Path) -> None:
    """Both for values in memory and for long ones."""
    long = "z" * kept.LONGEST
    async with open_database(tmp_path / "db", "p") as store:
        for key, tail in (("short", ""), ("long", long)):
            await store.insert("m", key, f"old {key}{tail}")
            await store.insert("m", key, f"new {key}{tail}")
    flip(tmp_path / "db", b"new short", b"nex short")
    flip(tmp_path / "db", b"new long", b"nex long")

    async with open_database(tmp_path / "db", "p") as store:
        with pytest.warns(DamagedEntry, match="short"):
            assert await store.lookup("m", "short") == "old short"
        with pytest.warns(DamagedEntry, match="long"):
            assert await store.lookup("m", "long") == f"old long{long}"


async def test_swapped_values(tmp_path: Path) -> None:
    """A value that was moved to another key is damaged, too: the checksum covers both."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "a", "1")
        await store.insert("m", "b", "2")
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as connection:
        connection.execute("UPDATE entries SET key = CASE key WHEN 'a' THEN 'b' ELSE 'a' END")

    async with open_database(tmp_path / "db", "p") as store:
        with pytest.warns(DamagedEntry):
            assert await store.lookup_all("m") == []


async def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A damaged text that is no UTF-8 hides no other entry."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "a", "value-a")
        await store.insert("m", "bbbb", "value-b")
    flip(tmp_path / "db", b"value-a", b"value-\xff")
    flip(tmp_path / "db", b"bbbb", b"bb\xffb")

    async with open_database(tmp_path / "db", "p") as store:
        with pytest.warns(DamagedEntry):
            assert await store.lookup_all("m") == []
        await store.insert("m", "a", "again")
        assert await store.lookup("m", "a") == "again"


async def test_a_file_that_was_cut(tmp_path: Path) -> None:
    """The error names the file and a way out; nobody gets wrong results."""
    async with open_database(tmp_path / "db", "p") as store:
        for n in range(50):
            await store.insert("m", str(n), "x" * 1000)
    size = (tmp_path / "db").stat().st_size
    os.truncate(tmp_path / "db", size // 2)

    with pytest.raises(DatabaseError, match=r"db.*hyperflow repair .*db"):
        async with open_database(tmp_path / "db", "p") as store:
            await store.lookup_all("m")


async def test_a_failed_fsync_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is accepted after it: a second fsync would lie. What is in memory can still be looked up."""

    class Failing:
        in_transaction = False

        def execute(self, sql: str) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC  # type: ignore[misc]
            raise error

    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "k", "1")
        assert await store.lookup("m", "k") == "1"

        def break_it(file: DatabaseFile) -> Any:
            real, file.connection = file.connection, Failing()  # type: ignore[assignment]
            return real

        real = await store.thread.call(break_it)
        with pytest.raises(DatabaseError, match="disk I/O error"):
            await store.insert("m", "k", "2")
        await store.thread.call(lambda file: setattr(file, "connection", real))
        with pytest.raises(DatabaseError, match="accepts nothing more"):
            await store.insert("m", "k", "3")
        assert await store.lookup("m", "k") == "1"

    assert on_disk(tmp_path / "db") == [("m", "k", "1", "p")]


async def test_without_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that is not local a rollback journal does, also for a file that had a WAL."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "a", "1")
    with closing(sqlite3.connect(tmp_path / "db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("SELECT * FROM entries").fetchall()
    monkeypatch.setattr(place, "is_local", lambda path: False)

    async with open_database(tmp_path / "db", "p") as store:
        await asyncio.gather(*(store.insert("m", str(n), "1") for n in range(100)))
        assert not (tmp_path / "db-wal").exists()
        assert not (tmp_path / "db-shm").exists()
        assert len(on_disk(tmp_path / "db")) == 101  # others can read meanwhile
        assert await store.lookup("m", "a") == "1"


async def test_a_reader_does_not_stop_commits(tmp_path: Path) -> None:
    """With a WAL, one who reads for a long time sees the past, and nobody waits."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "a", "1")
        with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM entries").fetchone() == (1,)
            for n in range(3000):
                inserts = [store.insert("m", str(n), "x" * 4000)]
                if n % 500 == 0:
                    await asyncio.gather(*inserts)
                else:
                    inserts[0].close()
            assert reader.execute("SELECT count(*) FROM entries").fetchone() == (1,)
        await store.insert("m", "b", "1")


async def test_the_wal_is_written_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not grow for ever."""
    monkeypatch.setattr(files, "WAL_LIMIT", 100_000)
    async with open_database(tmp_path / "db", "p") as store:
        for n in range(100):
            await store.insert("m", str(n), "x" * 10_000)
        size = (tmp_path / "db-wal").stat().st_size

    assert size < 600_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 kB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("wal", [True, False])
async def test_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch, wal: bool) -> None:
    """Who waits is told; nothing acknowledged is lost; when there is space again, the same store goes on."""
    monkeypatch.setattr(place, "is_local", lambda path: wal)
    ballast = small_disk / "ballast"
    acknowledged = []
    async with open_database(small_disk / "db", "p") as store:
        ballast.write_bytes(b"x" * 100_000)
        for n in range(100):
            try:
                await store.insert("m", str(n), "v" * 3000)
                acknowledged.append(str(n))
            except DatabaseError as error:
                told = str(error)
                break
        else:
            pytest.fail("the disk never got full")
        assert str(small_disk / "db") in told
        assert "free space" in told
        with pytest.raises(DatabaseError):
            await asyncio.gather(*(store.insert("m", f"lost {n}", "v" * 3000) for n in range(50)))
        assert {key for key, _ in await store.lookup_all("m")} >= set(acknowledged)
        ballast.unlink()
        await store.insert("m", "after", "1")
        acknowledged.append("after")

    async with open_database(small_disk / "db", "p") as store:
        found = {key for key, _ in await store.lookup_all("m")}
        assert found >= set(acknowledged)
        assert not any(key.startswith("lost") for key in found)


async def test_a_disk_that_is_full_at_the_start(small_disk: Path) -> None:
    """It is refused at once, and nothing is left behind."""
    with suppress(OSError):
        (small_disk / "ballast").write_bytes(b"x" * 300_000)

    with pytest.raises(Exception, match=str(small_disk / "db")) as caught:
        async with open_database(small_disk / "db", "p"):
            pass
    assert type(caught.value).__module__ == "hyperflow.errors"
    assert not (small_disk / "db.lock").exists()
