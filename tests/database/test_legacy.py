"""Databases of schema version 1: everything in them is read, and what is new is of the new version."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

import hyperflow as hf
from hyperflow.database import place
from hyperflow.database.entries import SCHEMA_VERSION, checksum
from hyperflow.database.ingest import ingest
from hyperflow.database.server import key_digest
from hyperflow.database.store import Store, copy_database, open_database
from hyperflow.errors import DatabaseError
from hyperflow.program import ProgramInfo
from tests.database import legacy
from tests.database.conftest import running
from tests.postgres import Server

DUMP = Path(__file__).with_name("legacy.sql")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Make the file that the old version left."""
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMP.read_text())
    path.chmod(0o600)
    return path


def stored(path: Path, columns: str, where: str = "TRUE") -> list[tuple[Any, ...]]:
    """Read a file as SQLite does."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(f"SELECT {columns} FROM entries WHERE {where} ORDER BY id").fetchall()


def same(value: Any, other: Any) -> bool:
    """Tell whether two values and their types are equal, also of what is inside; only sets have no order."""
    if isinstance(value, int | set | frozenset):
        return type(value) is type(other) and bool(value == other)
    return repr(value) == repr(other)


async def check_all_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value is read, every key is found, and no recorded call runs."""
    for each, (hint, value) in zip(legacy.maps(), legacy.VALUES, strict=True):
        assert same(await each.lookup("k"), value), hint
    assert await legacy.maps()[2].lookup("long") == 3**5000
    numbers = hf.KeyValMap[Any, int]("keys", value=int)
    for number, key in enumerate(legacy.KEYS):
        assert await numbers.lookup(key) == number, key
    monkeypatch.setattr(legacy.spectrum.__memo__, "fn", None)  # type: ignore[attr-defined]
    for args, kwargs in legacy.CALLS:
        point, color = await legacy.spectrum(*args, **kwargs)
        assert (point, color) == (args[0], legacy.Color.RED)


async def test_every_value_and_key(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened as they are, in this program and in a later one."""
    program = ProgramInfo.new(tmp_path, database=old)
    for _ in range(2):
        async with running(program):
            await check_all_is_known(monkeypatch)
    assert set(stored(old, "schema_version, metadata")) == {(1, "{}")}


async def test_without_wal(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a network file system."""
    monkeypatch.setattr(place, "is_local", lambda path: False)
    async with running(ProgramInfo.new(tmp_path, database=old)):
        await check_all_is_known(monkeypatch)


async def test_old_keys_and_new_keys_are_the_same(old: Path, tmp_path: Path) -> None:
    """What is recorded again has, to the letter, the keys of the old file, and values of the new version."""
    count = len(stored(old, "id"))
    async with running(ProgramInfo.new(tmp_path, database=old)):
        await legacy.fill.__wrapped__()
    fresh = stored(old, "map, key", f"id > {count}")

    assert fresh == [each for each in stored(old, "map, key", f"id <= {count}") if not each[0].startswith("memoize:")]
    assert set(stored(old, "schema_version", f"id > {count}")) == {(SCHEMA_VERSION,)}
    assert all(text.isascii() for (text,) in stored(old, "value"))


async def test_new_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the old version took comes back in the new one, too."""
    program = ProgramInfo.new(tmp_path)
    async with running(program):
        await legacy.fill.__wrapped__()
    async with running(program):
        await check_all_is_known(monkeypatch)
    assert isinstance(program.database, Path)
    assert set(stored(program.database, "schema_version")) == {(SCHEMA_VERSION,)}


async def test_a_program_starts_from_an_old_one(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is upgraded, the original stays as it is, to the byte."""
    before = old.read_bytes()
    copy_database(old, tmp_path / "copy")
    async with running(ProgramInfo.new(tmp_path, database=tmp_path / "copy")):
        await check_all_is_known(monkeypatch)
    assert old.read_bytes() == before


@pytest.mark.parametrize("ended", [True, False])
async def test_an_old_job_is_ingested(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """Its entries come as they are, from a file that is only read, and are known as old ones."""
    ((program_id,),) = set(stored(old, "program"))
    before = old.read_bytes()
    program = ProgramInfo.new(tmp_path)
    async with running(program) as store:
        assert isinstance(store, Store)
        await hf.KeyValMap("keys").lookup(0)  # the map is in memory when the entries come
        done = await ingest(store, old, program_id, ended=ended)
        assert done.count == len(stored(old, "id"))
        assert done.damaged == 0
        await check_all_is_known(monkeypatch)
    async with running(program):
        await check_all_is_known(monkeypatch)
    assert old.read_bytes() == before


async def test_damage_of_the_new_columns_is_seen(tmp_path: Path) -> None:
    """The checksum covers the schema version and the metadata."""
    path = tmp_path / "db"
    for change in ("schema_version = 1", """metadata = '{"seconds": 1}'"""):
        async with open_database(path, "p") as store:
            await store.insert("m", "k", "[1]")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"UPDATE entries SET {change}")
            connection.commit()
        with pytest.warns(hf.database.DamagedEntry, match="is damaged"):
            async with open_database(path, "p") as store:
                assert await store.lookup("m", "k") is None


async def test_metadata_of_later_versions(tmp_path: Path) -> None:
    """An entry with metadata, which this version does not write yet, is read, and ingested with it."""
    async with open_database(tmp_path / "job", "job") as store:
        await store.insert("m", "k", "[1]")
    told = '{"seconds": 1.5}'
    with closing(sqlite3.connect(tmp_path / "job")) as connection:
        values = (told, checksum("m", "k", "[1]", SCHEMA_VERSION, told))
        connection.execute("UPDATE entries SET metadata = ?, checksum = ?", values)
        connection.commit()
    async with open_database(tmp_path / "db", "p") as store:
        assert isinstance(store, Store)
        await ingest(store, tmp_path / "job", "job")
        assert await store.lookup("m", "k") == "[1]"
    assert stored(tmp_path / "db", "metadata, schema_version") == [(told, SCHEMA_VERSION)]


SERVER = """
CREATE TABLE hyperflow_entries (
    id BIGINT GENERATED ALWAYS AS IDENTITY, map TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    program TEXT NOT NULL, time DOUBLE PRECISION NOT NULL, digest BYTEA NOT NULL, checksum BYTEA NOT NULL,
    PRIMARY KEY (digest, id)
);
CREATE INDEX hyperflow_entries_of_map ON hyperflow_entries (left(map, 200), id);
CREATE TABLE hyperflow_layout (version INTEGER NOT NULL);
INSERT INTO hyperflow_layout VALUES (1)
"""
OLD_INSERT = (
    "INSERT INTO hyperflow_entries (map, key, value, program, time, digest, checksum) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


@pytest.fixture
def old_server(server_url: str, old: Path) -> str:
    """Make the tables that the old version left on a server, with the entries of the file."""
    with psycopg.connect(server_url) as connection:
        connection.execute(SERVER)
        for map_name, key, *others, digest in stored(old, "map, key, value, program, time, checksum"):
            connection.execute(OLD_INSERT, (map_name, key, *others, key_digest(map_name, key), digest))
    return server_url


async def test_an_old_server(
    old_server: str, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables are upgraded once; programs of the old version go on beside the new ones."""
    program = ProgramInfo.new(tmp_path, database=old_server)
    async with running(program):
        await check_all_is_known(monkeypatch)
        assert len(await hf.KeyValMap[Any, int]("keys", value=int, key=legacy.KEY).lookup_all()) == len(legacy.KEYS)
        await legacy.maps()[0].insert("new", None)
        with psycopg.connect(old_server) as connection:
            value = ("m", '"k"', "[1]", "p", 0.0, key_digest("m", '"k"'), checksum("m", '"k"', "[1]", 1))
            connection.execute(OLD_INSERT, value)
        assert await hf.KeyValMap[Any, Any]("m", value=tuple[int]).lookup("k") == (1,)
    async with running(program):
        await check_all_is_known(monkeypatch)
    versions = "SELECT schema_version, metadata, count(*) FROM hyperflow_entries GROUP BY 1, 2 ORDER BY 1"
    count = len(stored(tmp_path / "old.sqlite", "id"))
    (first, *others) = postgres.admin(versions, database="test")
    assert first == (1, "{}", count + 1)
    assert [(version, number) for version, _, number in others] == [(SCHEMA_VERSION, 1)]
    assert postgres.admin("SELECT version FROM hyperflow_layout ORDER BY 1", database="test") == [(1,), (2,)]


async def test_only_its_owner_can_upgrade_a_server(old_server: str, postgres: Server) -> None:
    """Others are told so; afterwards they can use it."""
    stranger = postgres.url("test", "stranger")
    postgres.admin("CREATE ROLE stranger LOGIN")
    postgres.admin("GRANT SELECT, INSERT ON hyperflow_entries, hyperflow_layout TO stranger", database="test")
    try:
        with pytest.raises(DatabaseError, match="schema version 1, and only who made them can upgrade them to 2"):
            async with open_database(stranger, "p"):
                pass
        async with open_database(old_server, "p"):
            pass
        async with open_database(stranger, "p") as store:
            await store.insert("m", "k", "1")
            assert await store.lookup("m", "k") == "1"
    finally:
        postgres.admin("DROP OWNED BY stranger", database="test")
        postgres.admin("DROP ROLE stranger")
