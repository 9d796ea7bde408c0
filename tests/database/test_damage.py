"""One byte of a database changes: it is told, or no answer is another one."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hyperflow.database import layout, place
from hyperflow.database.entries import checksum
from hyperflow.database.ingest import ingest
from hyperflow.database.repair import Examined, examine, repair
from hyperflow.database.store import DamagedEntry, Store, open_database
from hyperflow.errors import ConfigurationError, DatabaseError, HyperflowError
from tests.database import damage
from tests.database.test_crash import ROOT
from tests.helpers import wait_until

MAPS = ("memoize:energy:1", "m", "work directories")


async def fill(path: Path, count: int = 120) -> None:
    """Record entries of three maps: short ones, long ones, and a few that are newer than others of their key."""
    async with open_database(path, "20260101-000000-abcdef") as store:
        for name in MAPS:
            await asyncio.gather(*(store.insert(name, f"key {n}", f"[{n}]") for n in range(count)))
        await store.insert("m", "long", "x" * 9000)
        await asyncio.gather(*(store.insert("m", f"key {n}", f'"newer {n}"') for n in range(5)))


async def answers(path: Path) -> dict[str, dict[str, str]]:
    """Look everything up, as programs do, and record something more."""
    async with open_database(path, "reader") as store:
        found = {name: dict(await store.lookup_all(name)) for name in MAPS}
        for name in MAPS:
            for key in list(found[name])[::40]:
                assert await store.lookup(name, key) == found[name][key]
        await store.insert("new", "k", "1")
    async with open_database(path, "reader") as store:
        assert await store.lookup("new", "k") == "1"
        assert {name: dict(await store.lookup_all(name)) for name in MAPS} == found
    return found


async def told_or_the_same(path: Path, expected: object, ask: Callable[[Path], object]) -> str:
    """Return how damage was told, "" if the answers are the same; anything else is an error of the test."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            found = await ask(path)  # type: ignore[misc]
        except HyperflowError as error:
            return str(error)
    told = [str(each.message) for each in seen if issubclass(each.category, DamagedEntry)]
    assert told or found == expected
    return told[0] if told else ""


def mended(whole: Path, offset: int, mask: int) -> None:
    """Repair a file in which one byte is wrong: at most one entry is lost, nothing is made up, the old file is kept."""
    damaged = whole.with_name("damaged")
    shutil.copy(whole, damaged)
    damage.flip(damaged, offset, mask)
    done = repair(damaged)
    assert examine(damaged).problems == ()
    before, after = entries_of(whole), entries_of(damaged)
    assert after in (before, [each for each in before if each in after])
    assert len(before) - len(after) == (done.lost or 0) <= 1
    done.old.unlink()


def entries_of(path: Path) -> list[tuple[str, str, str, str, float]]:
    """Return all entries, the oldest first."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT map, key, value, program, time FROM entries ORDER BY id").fetchall()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mask", [0xFF, 0x01])
async def test_one_byte_of_any_page(in_memory: Path, mask: int) -> None:
    """Told before an answer depends on it, wherever it is; most places matter."""
    whole, path = in_memory / "whole", in_memory / "db"
    await fill(whole, 80)
    expected = await answers(whole)
    told = tried = 0
    for offset in list(damage.places(whole))[:: 3 if mask == 0xFF else 5]:
        shutil.copy(whole, path)
        damage.flip(path, offset, mask)
        tried += 1
        try:
            told += bool(await told_or_the_same(path, expected, answers))
            if tried % 5 == 0:
                mended(whole, offset, mask)
        except Exception as error:
            raise AssertionError(f"byte {offset % 4096} of page {offset // 4096 + 1}") from error

    assert tried > 100
    assert told > tried / 4


async def taken(path: Path) -> dict[str, str]:
    """Take what a job that has ended recorded into an empty database, and look it up."""
    target = path.with_name("target")
    target.unlink(missing_ok=True)
    async with open_database(target, "program") as store:
        assert isinstance(store, Store)
        await ingest(store, path, "20260101-000000-abcdef", ended=True)
        await ingest(store, path, "20260101-000000-abcdef", ended=True)
        return dict(await store.lookup_all("m"))


@pytest.mark.timeout(300)
async def test_one_byte_of_a_file_that_is_taken(in_memory: Path) -> None:
    """The same where a job's results come into its program's database."""
    whole, path = in_memory / "whole", in_memory / "db"
    await fill(whole, 80)
    expected = await taken(whole)
    assert len(expected) == 81
    for offset in list(damage.places(whole))[::5]:
        shutil.copy(whole, path)
        damage.flip(path, offset)
        try:
            await told_or_the_same(path, expected, taken)
        except Exception as error:
            raise AssertionError(f"byte {offset % 4096} of page {offset // 4096 + 1}") from error


WRITER = """
import asyncio, os, signal, sys
from hyperflow.database.store import open_database
async def main():
    async with open_database(sys.argv[1], "20260101-000000-abcdef") as store:
        for n in range(12):
            await store.insert("m", f"key {n}", f"[{n}]")
            await store.insert("m", f"long {n}", "x" * 5000)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def files_of(path: Path) -> list[Path]:
    """Return a database and its log."""
    return [path, path.with_name(path.name + "-wal")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ask", ["open", "take"])
async def test_one_byte_of_a_log(in_memory: Path, ask: str) -> None:
    """What a killed program leaves in its write-ahead log: told, or all of it is there; a repair saves it."""
    whole, path = in_memory / "whole", in_memory / "db"
    (in_memory / "target").touch(mode=0o600)
    subprocess.run([sys.executable, "-c", WRITER, str(whole)], check=False, cwd=ROOT)
    whole.with_name("whole.lock").unlink()
    _, log = files_of(whole)
    assert log.stat().st_size > 100_000

    async def ask_map(path: Path) -> dict[str, str]:
        if ask == "take":
            return await taken(path)
        async with open_database(path, "reader") as store:
            return dict(await store.lookup_all("m"))

    def copy(target: Path) -> None:
        for source, each in zip(files_of(whole), files_of(target), strict=True):
            shutil.copy(source, each)

    copy(path)
    expected = await ask_map(path)
    assert len(expected) == 24
    frames = range(32, log.stat().st_size - 1, 24 + 4096)
    offsets = [*range(32), *(start + inside for start in frames for inside in (0, 3, 7, 9, 14, 17, 23, 24, 500, 4000))]
    told = 0
    for offset in offsets[::6]:
        path.with_name("db-shm").unlink(missing_ok=True)
        copy(path)
        damage.flip(path.with_name("db-wal"), offset)
        told += bool(await told_or_the_same(path, expected, ask_map))
        if offset % 5 == 0:
            copy(in_memory / "damaged")
            damage.flip(in_memory / "damaged-wal", offset)
            done = repair(in_memory / "damaged")
            assert len(set(expected) - {key for _, key, *_ in entries_of(in_memory / "damaged")}) <= 1
            for each in files_of(done.old):
                each.unlink(missing_ok=True)

    assert told > len(offsets) / 10


@pytest.mark.parametrize("missing", [0, 1])
async def test_a_file_without_its_log(in_memory: Path, caplog: pytest.LogCaptureFixture, missing: int) -> None:
    """Of a killed program's file and log one is not there: that is told, and the other one stays as it is."""
    path = in_memory / "db"
    subprocess.run([sys.executable, "-c", WRITER, str(path)], check=False, cwd=ROOT)
    pair = files_of(path)
    before = pair[1 - missing].read_bytes()
    damage.remove(pair[missing])
    if missing:
        async with open_database(path, "p"):
            assert "its last entries are lost" in caplog.text
    else:
        with pytest.raises(DatabaseError, match=r"db is not there any more, but .*db-wal"):
            async with open_database(path, "p"):
                pass
        assert pair[1].read_bytes() == before
        assert not path.exists()


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
async def test_a_pipe_beside_it(tmp_path: Path, suffix: str) -> None:
    """A pipe in the place of the log or of its index is told, and not waited for."""
    await fill(tmp_path / "db", 1)
    os.mkfifo(tmp_path / f"db{suffix}")

    with pytest.raises(DatabaseError, match=rf"db{suffix} belongs to .*, and is no ordinary file"):
        async with open_database(tmp_path / "db", "reader"):
            pass


@pytest.mark.parametrize("ask", ["open", "look up", "take"])
async def test_a_log_that_was_cut(in_memory: Path, ask: str) -> None:
    """A log that lacks its end, or all of it, or has zeros there: told, because its index knows how long it was."""
    whole, path = in_memory / "whole", in_memory / "db"
    (in_memory / "target").touch(mode=0o600)
    subprocess.run([sys.executable, "-c", WRITER, str(whole)], check=False, cwd=ROOT)
    whole.with_name("whole.lock").unlink()
    files = [*files_of(whole), whole.with_name("whole-shm")]
    size = files[1].stat().st_size

    async def ask_map(path: Path) -> dict[str, str]:
        if ask == "take":
            return await taken(path)
        async with open_database(path, "reader") as store:
            if ask == "look up":
                found = {key: await store.lookup("m", key) for n in range(12) for key in (f"key {n}", f"long {n}")}
                return {key: text for key, text in found.items() if text is not None}
            return dict(await store.lookup_all("m"))

    for kept in (size, size - 1, size - 4200, size // 2, 40, 32, 10, 0):
        for source in files:
            shutil.copy(source, path.with_name(source.name.replace("whole", "db")))
        log = path.with_name("db-wal")
        contents = log.read_bytes()
        log.write_bytes(contents[:kept])
        told = await told_or_the_same(path, None, ask_map) if kept < size else str(len(await ask_map(path)))
        assert "can be read" in told if kept < size else told == "24"
    for source in files:
        shutil.copy(source, path.with_name(source.name.replace("whole", "db")))
    log.write_bytes(contents[:-8192] + bytes(8192))
    assert "can be read" in await told_or_the_same(path, None, ask_map)


async def test_an_empty_file(in_memory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An emptied file is told; if a log is beside it, it is an error, and a repair saves what is in the log."""
    path = in_memory / "db"
    subprocess.run([sys.executable, "-c", WRITER, str(path)], check=False, cwd=ROOT)
    path.write_bytes(b"")
    with pytest.raises(DatabaseError, match=r"db is empty, but .*db-wal.* type: hyperflow repair"):
        async with open_database(path, "p"):
            pass
    assert examine(path).problems == (f"it is empty, but its log {path}-wal is not",)
    assert repair(path).entries == 24
    assert examine(path) == Examined(path, 24, ())

    path.write_bytes(b"")
    assert caplog.text == ""
    async with open_database(path, "p"):
        assert "is empty and counts as a new results database" in caplog.text


async def test_pages_are_looked_at_while_a_program_works(
    in_memory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage of what nobody reads is told, too, with what to type."""
    path = in_memory / "db"
    await fill(path)
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries_of_map'").fetchone()
    damage.flip(path, (root - 1) * 4096 + 3)
    async with open_database(path, "reader"):
        await wait_until(lambda: "hyperflow repair" in caplog.text, 20, "the check of all pages")
    assert str(path) in caplog.text

    caplog.clear()
    monkeypatch.setattr("hyperflow.database.background.LARGEST", 0)
    async with open_database(path, "reader"):
        pass
    assert caplog.text == ""


async def test_a_version_2_file_is_upgraded(tmp_path: Path) -> None:
    """Its entries are counted, and from then on one that is missing is noticed."""
    path = tmp_path / "old"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        layout.prepare(connection)
        connection.executescript(
            f"PRAGMA application_id = {place.APPLICATION_ID}; PRAGMA user_version = 2; {' '.join(layout.SCHEMAS[:2])}"
        )
        for n in range(9):
            row = ("m", f"k{n}", "[1]")
            connection.execute(
                "INSERT INTO entries VALUES (NULL, ?, ?, ?, 3, 'p', 1.0, ?, 2, '{}')", (*row, checksum(*row))
            )
    path.chmod(0o600)
    async with open_database(path, "p") as store:
        assert len(await store.lookup_all("m")) == 9
        await store.insert("m", "k9", "[1]")
    assert examine(path) == Examined(path, 10, ())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM entries WHERE key = 'k3'")
        connection.commit()
    assert "map 'm' has 10 entries, and 9 of them can be found" in examine(path).problems
    with pytest.raises(DatabaseError, match=r"it has 10 entries, and 9 of them.*hyperflow repair .*old"):
        async with open_database(path, "p") as store:
            await store.lookup("m", "k1")
    with pytest.raises(DatabaseError, match=r"map 'm' has 10 entries in it, and 9 of them.*hyperflow repair .*old"):
        async with open_database(path, "p") as store:
            await store.lookup_all("m")
    done = repair(path, tmp_path / "new")
    assert (done.entries, done.lost, done.old) == (9, 1, path)
    async with open_database(tmp_path / "new", "p") as store:
        assert len(await store.lookup_all("m")) == 9


async def test_repair_keeps_what_was_taken(tmp_path: Path) -> None:
    """A repaired program's database takes nothing twice, and entries keep their order."""
    await fill(tmp_path / "job")
    async with open_database(tmp_path / "db", "program") as store:
        assert isinstance(store, Store)
        await ingest(store, tmp_path / "job", "20260101-000000-abcdef")
        await store.insert("m", "key 1", '"newest"')
    damage.flip(tmp_path / "db", 4096 + 3)
    repair(tmp_path / "db")
    async with open_database(tmp_path / "db", "program") as store:
        assert isinstance(store, Store)
        assert (await ingest(store, tmp_path / "job", "20260101-000000-abcdef")).count == 0
        assert await store.lookup("m", "key 1") == '"newest"'


async def test_repair_refuses(tmp_path: Path) -> None:
    """A file that is in use, that is not there, that is no file of ours alone; and it replaces nothing."""
    async with open_database(tmp_path / "db", "p") as store:
        await store.insert("m", "k", "1")
        with pytest.raises(DatabaseError, match="in use by program p"):
            repair(tmp_path / "db")
    with pytest.raises(ConfigurationError, match="exists already"):
        repair(tmp_path / "db", tmp_path / "db")
    with pytest.raises(ConfigurationError, match="no results database"):
        repair(tmp_path / "nowhere")
    (tmp_path / "db").chmod(0o666)
    with pytest.raises(ConfigurationError, match="can be written by others"):
        repair(tmp_path / "db")
    assert [path.name for path in tmp_path.iterdir()] == ["db"]
