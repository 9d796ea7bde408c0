"""A results database on a PostgreSQL server, which many programs and Jobs write to at a time.

`SharedStore` is for the event loop; its thread has a `Server`, which holds the connection and is synchronous.

Guarantees:
- Entries are only ever added, by any number of processes. The newest entry of a key, the one with the greatest id, is
  its value, for all of them. Within one process a memoized call is computed once; when two processes compute it at the
  same time, both record it and each keeps its own result.
- When `insert` returns, the entries are committed, as durably as the server is set up to be: a role's or a database's
  `synchronous_commit = off` is overridden.
- Requests of one moment go together (see `thread`): a thousand inserts cost one commit, a thousand lookups one round
  trip.
- `lookup` asks the server each time, so it sees at once what another process has recorded. (Rejected: a cache. It would
  make a lookup cheaper than a round trip, and show values that others have long replaced.)
- A lost connection, also after the server's restart, is made again, for up to `RETRY_SECONDS`. If the answer to a
  commit was lost, the entries are looked up before they are sent again.
- Every entry is as in a file (see `entries`). The first user who opens older tables with the right to upgrade them does
  so; programs of that older version keep working.

A key can be longer than an index entry, so the index is a digest of it. There is no index by id alone: the planner
would use it to find the newest entry of a key, and read from the end of the table through the entries of all keys.

Rejected: one table for each map, which would need the right to make tables at any time; and unique keys with an update
in place, which would overwrite what an earlier program has found.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, TypeVar

import attrs
import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from hyperflow.database import plain
from hyperflow.database.entries import SCHEMA_VERSION, Entry, checksum, is_sound, metadata_of, text_of, warn_of
from hyperflow.database.thread import Batches, DatabaseThread
from hyperflow.errors import ConfigurationError, DatabaseError

T = TypeVar("T")

RETRY_SECONDS = 60.0
"""How long to try to connect again after a lost connection; after that every call tries once."""

LONGEST_VALUE = 100_000_000
"""Characters; PostgreSQL stores no more than a billion bytes in one place, and takes twice as many to send them."""

LAYOUTS = (
    """
CREATE TABLE hyperflow_entries (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    map TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    program TEXT NOT NULL,
    time DOUBLE PRECISION NOT NULL,
    digest BYTEA NOT NULL,
    checksum BYTEA NOT NULL,
    PRIMARY KEY (digest, id)
);
CREATE INDEX hyperflow_entries_of_map ON hyperflow_entries (left(map, 200), id);
CREATE TABLE hyperflow_layout (version INTEGER NOT NULL);
""",
    """
ALTER TABLE hyperflow_entries
    ADD COLUMN schema_version INTEGER NOT NULL DEFAULT 1,
    ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
""",
)
"""What makes each schema version of the one before; the first one makes the tables."""

HAS_TABLES = (
    "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'hyperflow_layout' AND pg_table_is_visible(pg_class.oid))"
)

INSERT = (
    "COPY hyperflow_entries (map, key, value, program, time, digest, checksum, schema_version, metadata) FROM STDIN"
)

FOUND = "digest, id, map, key, value, checksum, schema_version, metadata"

NEWEST = f"""
SELECT found.* FROM unnest(%s::bytea[]) AS asked (digest) CROSS JOIN LATERAL (
    SELECT {FOUND} FROM hyperflow_entries AS entry
    WHERE entry.digest = asked.digest ORDER BY id DESC LIMIT 1
) AS found
"""

OLDER = f"SELECT {FOUND} FROM hyperflow_entries WHERE digest = %s AND id < %s ORDER BY id DESC LIMIT 1"

WHOLE_MAP = (
    f"SELECT {FOUND} FROM hyperflow_entries WHERE left(map, 200) = left(%(map)s, 200) AND map = %(map)s ORDER BY id"
)

RECORDED = (
    "SELECT EXISTS (SELECT FROM hyperflow_entries WHERE digest = %s AND program = %s AND time = %s AND checksum = %s)"
)

Found = tuple[bytes, int, str, str, str, bytes, int, str]
"""Digest, id, map, key, value, checksum, schema version, metadata."""

Answer = tuple[str | None, list[str]]
"""What was found for a key, and reports of damaged entries on the way."""


def key_digest(map_name: str, key: str) -> bytes:
    """Return what the index has for a key."""
    return hashlib.blake2b(f"{len(map_name)}:{map_name}{key}".encode(), digest_size=16).digest()


@attrs.define(eq=False)
class Server:
    """A connection to the database; used by one thread. Its methods raise DatabaseError if the server stays away."""

    url: str
    program_id: str
    connection: psycopg.Connection[Any]
    away: bool = False

    @classmethod
    def open(cls, url: str, program_id: str) -> Server:
        """Connect, and make the tables if they are not there. The URL has been checked: it holds no password.

        Raises:
            ConfigurationError: The URL is wrong.
            DatabaseError: There is no such server or database, it wants another password, the tables cannot be used.
        """
        try:
            conninfo_to_dict(url)
        except psycopg.Error as error:
            raise ConfigurationError(f"database={url!r}: {_text(error)}") from error
        doing = "connect to"
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(closing(_connect(url, program_id)))
                doing = "use"
                _prepare(connection, url)
            except psycopg.Error as error:
                raise DatabaseError(f"cannot {doing} {url}: {_text(error)}{_advice(error)}") from error
            stack.pop_all()
        return cls(url, program_id, connection)

    def insert(self, entries: list[Entry]) -> list[None]:
        """Add entries in one transaction, and return when it is committed.

        If it raises, none was added, unless the server went away for good just then.
        """
        now = time.time()
        rows: list[tuple[str, str, str, str, float, bytes, bytes, int, str]] = []
        for map_name, key, value in entries:
            about = metadata_of(value)
            sums = key_digest(map_name, key), checksum(map_name, key, value, SCHEMA_VERSION, about)
            rows.append((map_name, key, str(value), self.program_id, now, *sums, SCHEMA_VERSION, about))
        tried = False

        def add(connection: psycopg.Connection[Any]) -> None:
            nonlocal tried
            again, tried = tried, True
            if again:
                _, _, _, program, when, digest, sum_, *_ = rows[0]
                (recorded,) = connection.execute(RECORDED, (digest, program, when, sum_)).fetchone() or (False,)
                if recorded:  # the answer was lost, not the entries; they are one transaction, so one stands for all
                    return
            with connection.cursor() as cursor, cursor.copy(INSERT) as copy:
                for row in rows:
                    copy.write_row(row)

        self._retried("write to", add)
        return [None] * len(rows)

    def lookup(self, places: list[tuple[str, str]]) -> list[Answer]:
        """Return the newest sound value of each of some keys (map and key)."""
        digests = [key_digest(*each) for each in places]

        def ask(connection: psycopg.Connection[Any]) -> dict[bytes, Answer]:
            found = connection.execute(NEWEST, (list(set(digests)),), binary=True).fetchall()
            return {row[0]: self._sound(connection, row) for row in found}

        answers = self._retried("read", ask)
        return [answers.get(digest, (None, [])) for digest in digests]

    def read_all(self, map_name: str) -> tuple[list[tuple[str, str]], list[str]]:
        """Return each key of a map with its newest sound value, the oldest key first; and reports of damaged ones."""

        def ask(connection: psycopg.Connection[Any]) -> tuple[list[tuple[str, str]], list[str]]:
            values: dict[str, str] = {}
            damaged: list[str] = []
            with connection.transaction(), connection.cursor("hyperflow", binary=True) as cursor:
                cursor.itersize = 5000
                for row in cursor.execute(WHOLE_MAP, {"map": map_name}):
                    if is_sound(*row[2:]):
                        values[row[3]] = text_of(row[4], *row[6:])
                    else:
                        damaged.append(self._report(row))
            return list(values.items()), damaged

        return self._retried("read", ask)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _sound(self, connection: psycopg.Connection[Any], row: Found) -> Answer:
        damaged: list[str] = []
        while not is_sound(*row[2:]):
            damaged.append(self._report(row))
            older = connection.execute(OLDER, row[:2], binary=True).fetchone()
            if older is None:
                return None, damaged
            row = older
        return text_of(row[4], *row[6:]), damaged

    def _report(self, row: Found) -> str:
        return f"entry {row[1]} of map {row[2]!r}, key {row[3]!r:.80}, in {self.url} is damaged; it counts as absent"

    def _retried(self, doing: str, run: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Run a function with the connection; while the connection gets lost, again with a new one."""
        deadline = time.monotonic() + (0 if self.away else RETRY_SECONDS)
        pause = 0.01
        while True:
            try:
                if self.connection.closed:
                    self.connection = _connect(self.url, self.program_id)
                result = run(self.connection)
            except psycopg.Error as error:
                lost = self.connection.closed
                if not lost or time.monotonic() >= deadline:
                    self.away = lost
                    tried = f" (tried for {RETRY_SECONDS:g} s)" if lost else ""
                    raise DatabaseError(f"cannot {doing} {self.url}{tried}: {_text(error)}{_advice(error)}") from error
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
            else:
                self.away = False
                return result


def _connect(url: str, program_id: str) -> psycopg.Connection[Any]:
    defaults: dict[str, Any] = {
        "connect_timeout": 10,
        "fallback_application_name": f"hyperflow {program_id}",
        "tcp_user_timeout": 30_000,  # milliseconds until a network that swallows everything counts as lost
        "keepalives_idle": 30,
    }
    given = conninfo_to_dict(url)
    options = {name: value for name, value in defaults.items() if name not in given}
    connection = psycopg.connect(url, autocommit=True, client_encoding="UTF8", **options)
    try:
        if connection.execute("SHOW synchronous_commit").fetchone() == ("off",):
            connection.execute("SET synchronous_commit = on")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: psycopg.Connection[Any], url: str) -> None:
    """Check a newly opened database, and make its tables or upgrade them."""
    if connection.info.server_version < 100_000:
        raise DatabaseError(f"{url} is PostgreSQL {connection.info.server_version // 10_000}; 10 or later is needed")
    if connection.execute("SHOW server_encoding").fetchone() != ("UTF8",):
        raise DatabaseError(f"{url} cannot hold all characters; it needs a database made with: createdb -E UTF8 NAME")
    if connection.execute("SHOW transaction_read_only").fetchone() == ("on",):
        raise DatabaseError(f"{url} can only be read: it is a copy that follows another server, or was set so")
    version = _version(connection)
    if version < SCHEMA_VERSION:
        with connection.transaction():
            # Of many who open it first at the same time, one makes the tables, or upgrades them.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('hyperflow'))")
            version = _version(connection)
            try:
                for layout in LAYOUTS[version:]:
                    connection.execute(layout)
            except errors.InsufficientPrivilege as error:
                if version == 0:
                    raise
                raise DatabaseError(
                    f"the tables in {url} are of schema version {version}, and only who made them can upgrade them to "
                    f"{SCHEMA_VERSION}: let that user open the database once with this hyperflow ({_text(error)})"
                ) from error
            if version < SCHEMA_VERSION:
                connection.execute("INSERT INTO hyperflow_layout VALUES (%s)", (SCHEMA_VERSION,))
    if version > SCHEMA_VERSION:
        raise DatabaseError(
            f"the tables in {url} were made by a newer version of hyperflow (their schema version is {version}, this "
            f"one knows {SCHEMA_VERSION}); they were left as they are. Upgrade hyperflow to use them"
        )
    for right in ("SELECT", "INSERT"):
        if connection.execute("SELECT has_table_privilege('hyperflow_entries', %s)", (right,)).fetchone() != (True,):
            raise DatabaseError(f"cannot use {url}: no right to {right}{_GRANT}")


def _version(connection: psycopg.Connection[Any]) -> int:
    """Return the schema version of the tables, 0 if there are none."""
    # Not to_regclass(): within a transaction it may remember that there was no such table.
    if connection.execute(HAS_TABLES).fetchone() != (True,):
        return 0
    (version,) = connection.execute("SELECT max(version) FROM hyperflow_layout").fetchone() or (None,)
    return SCHEMA_VERSION + 1 if version is None else int(version)


def _text(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


_GRANT = (
    ". Its administrator, or who made the tables, types in psql: GRANT SELECT, INSERT ON hyperflow_entries, "
    "hyperflow_layout TO you; and who is to make them needs: GRANT CREATE ON SCHEMA public TO you;"
)


def _advice(error: psycopg.Error) -> str:
    if isinstance(error, errors.InsufficientPrivilege):
        return _GRANT
    if isinstance(error, errors.DiskFull):
        return "; free space on the server. Nothing that was recorded before is lost"
    text = str(error)
    if "password" in text:
        return (
            ". Passwords are kept in ~/.pgpass (chmod 600), one line for each: HOST:PORT:DATABASE:USER:PASSWORD; "
            "or in the file that PGPASSFILE names"
        )
    if "database" in text and "does not exist" in text:
        return "; to make it, type: createdb NAME"
    return ""


class SharedStore:
    """A results database on a server; made by `open_database`, used from one event loop.

    Its methods raise DatabaseError when the server cannot be reached, or the database was closed.
    """

    def __init__(self, url: str, program_id: str) -> None:
        self.url = url
        self.thread = DatabaseThread(url, lambda: closing(Server.open(url, program_id)))
        self._inserts: Batches[Server, Entry, None] = Batches(self.thread, Server.insert)
        self._lookups: Batches[Server, tuple[str, str], Answer] = Batches(self.thread, Server.lookup)

    async def insert(self, map_name: str, key: str, value: str) -> None:
        """Record a value, and return when it is committed. What a cancelled caller inserts may be recorded."""
        self.thread.check()
        if len(value) > LONGEST_VALUE:
            raise DatabaseError(f"a value of {len(value)} characters is too long for {self.url}: store a file's path")
        self._check_text(map_name, key, value)
        await self._inserts.add((map_name, key, value))

    async def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest value of a key, or None."""
        self.thread.check()
        self._check_text(map_name, key)
        text, damaged = await self._lookups.add((map_name, key))
        warn_of(damaged)
        return text

    async def lookup_all(self, map_name: str) -> list[tuple[str, str]]:
        """Return every key of a map with its newest value, the oldest key first."""
        self.thread.check()
        self._check_text(map_name)
        found, damaged = await self.thread.call(lambda server: server.read_all(map_name))
        warn_of(damaged)
        return found

    async def close(self) -> None:
        """Record what is queued, and close the connection. If cancelled, it still finishes this first."""
        await self.thread.close(self._inserts, self._lookups)

    def _check_text(self, *texts: str) -> None:
        # One that the server cannot take would make all others of its batch fail.
        for text in texts:
            if "\0" in text or not plain.is_text(text):
                raise DatabaseError(
                    f"{text!r:.60} cannot be recorded in {self.url}: it has characters that are no text"
                )
