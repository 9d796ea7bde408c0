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
- A lost connection, also after the server's restart, is made again, for up to `RETRY_SECONDS`; so long a server that is
  away is waited for when the database is opened, too. One that is silent (stopped, or a network that swallows
  everything) counts as lost after half of that. So no call, and no closing, takes much longer than `RETRY_SECONDS`.
- If the answer to a commit was lost, its process on the server is ended, and the entries are looked up, before they are
  sent again: a process that was only stopped could commit them later, as the newest ones.
- Whoever connects sees to it that new ids are greater than all that are there. After a failover, or a restore of data
  alone, they may not be, and an older entry would be the newest. If the last entries that were acknowledged here are
  not there any more, that is an error.
- Every entry is as in a file (see `entries`). The first user who opens older tables with the right to upgrade them does
  so; programs of that older version keep working.

A key can be longer than an index entry, so the index is a digest of it. There is no index by id alone: the planner
would use it to find the newest entry of a key, and read from the end of the table through the entries of all keys.

Rejected: one table for each map, which would need the right to make tables at any time; and unique keys with an update
in place, which would overwrite what an earlier program has found.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Generator
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

logger = logging.getLogger("hyperflow")

T = TypeVar("T")

RETRY_SECONDS = 60.0
"""How long a server may be away or silent, unless the setting `database_timeout` says something else. After that every
call tries once."""

CONNECT_SECONDS = 10
"""How long one try to connect may take."""

AGAIN_SECONDS = 1.0
"""While the server is silent, a call so soon after one that has failed fails at once, so that many do not add up."""

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

HELLO = """
SELECT current_setting('synchronous_commit'), pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()
"""

END_BACKEND = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %s AND backend_start = %s AND usename = current_user
"""

NEWEST_ID = """
WITH RECURSIVE maps (name) AS (
    (SELECT left(map, 200) FROM hyperflow_entries ORDER BY 1 LIMIT 1)
    UNION ALL
    SELECT (SELECT left(map, 200) FROM hyperflow_entries WHERE left(map, 200) > maps.name ORDER BY 1 LIMIT 1)
    FROM maps WHERE maps.name IS NOT NULL
)
SELECT coalesce(max(
    (SELECT id FROM hyperflow_entries WHERE left(map, 200) = maps.name ORDER BY left(map, 200) DESC, id DESC LIMIT 1)
), 0) FROM maps WHERE maps.name IS NOT NULL
"""
"""The greatest id, map by map, because there is no index by id alone."""

LAST_ID = """
SELECT CASE WHEN has_sequence_privilege(ids, 'SELECT') THEN coalesce(pg_sequence_last_value(ids), 0) END
FROM (SELECT pg_get_serial_sequence('hyperflow_entries', 'id')::regclass) AS sequence (ids)
"""
"""The last id that was given, NULL for who may not know it."""

NEXT_ID = """
INSERT INTO hyperflow_entries (map, key, value, program, time, digest, checksum)
VALUES ('', '', '', '', 0, '', '') RETURNING id
"""
"""What a new entry would get; rolled back. It is for who may only insert."""

Found = tuple[bytes, int, str, str, str, bytes, int, str]
"""Digest, id, map, key, value, checksum, schema version, metadata."""

Answer = tuple[str | None, list[str]]
"""What was found for a key, and reports of damaged entries on the way."""


def key_digest(map_name: str, key: str) -> bytes:
    """Return what the index has for a key."""
    return hashlib.blake2b(f"{len(map_name)}:{map_name}{key}".encode(), digest_size=16).digest()


class Connection(psycopg.Connection[Any]):
    """A connection that is lost when the server says nothing, and takes nothing, for `silence` seconds."""

    silence = RETRY_SECONDS
    backend: tuple[Any, ...] | None = None
    """The process that serves it, and when that was started."""

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **more: Any) -> T:
        """Wait for an answer."""
        return super().wait(self._limited(gen), *args, **more)

    def _limited(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        last = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted  # nothing, ten times a second, while the server is silent
                now = time.monotonic()
                if ready:
                    last = now
                elif now - last > self.silence:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server has been silent for {self.silence:.3g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


@attrs.define(eq=False)
class Server:
    """A connection to the database; used by one thread. Its methods raise DatabaseError if the server stays away."""

    url: str
    program_id: str
    patience: float
    connection: Connection
    away: tuple[float, str] | None = None
    """While the server is away: until when calls fail without a try, and why."""
    recorded: tuple[Any, ...] | None = None
    """What `RECORDED` needs to find the first of the entries that were acknowledged last."""

    @classmethod
    def open(
        cls, url: str, program_id: str, patience: float = RETRY_SECONDS, leaving: threading.Event | None = None
    ) -> Server:
        """Connect, and make the tables if they are not there. The URL has been checked: it holds no password.

        A server that is away is waited for, up to `patience` seconds, or until `leaving` is set.

        Raises:
            ConfigurationError: The URL is wrong.
            DatabaseError: There is no such server or database, it wants another password, the tables cannot be used.
        """
        try:
            conninfo_to_dict(url)
        except psycopg.Error as error:
            raise ConfigurationError(f"database={url!r}: {text_of_error(error)}") from error
        leaving = leaving or threading.Event()
        deadline = time.monotonic() + patience
        pause = 0.05
        while True:
            left = max(deadline - time.monotonic(), 1.0)
            doing = "connect to"
            with ExitStack() as stack:
                try:
                    connection = stack.enter_context(closing(connect(url, program_id, left)))
                    connection.silence = min(patience / 2, left)
                    doing = "use"
                    _prepare(connection, url)
                    _check_ids(connection, url)
                except psycopg.Error as error:
                    error.with_traceback(None)  # its frames would keep a half made connection open
                    away = _is_away(error)
                    if not away or time.monotonic() >= deadline or leaving.is_set():
                        tried = f" (tried for {patience:g} s)" if away and not leaving.is_set() else ""
                        raise DatabaseError(
                            f"cannot {doing} {url}{tried}: {text_of_error(error)}{advice(error)}"
                        ) from error
                    if pause == 0.05:
                        logger.warning("waiting up to %g s for %s: %s", patience, url, text_of_error(error))
                else:
                    stack.pop_all()
                    return cls(url, program_id, patience, connection)
            leaving.wait(pause)
            pause = min(2 * pause, 1.0)

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

        _, _, _, program, when, digest, sum_, *_ = rows[0]
        first = digest, program, when, sum_

        def add(connection: psycopg.Connection[Any]) -> None:
            nonlocal tried
            again, tried = tried, True
            # If the answer was lost, not the entries: they are one transaction, so one stands for all.
            if again and connection.execute(RECORDED, first).fetchone() == (True,):
                return
            with connection.cursor() as cursor, cursor.copy(INSERT) as copy:
                for row in rows:
                    copy.write_row(row)

        self._retried("write to", add)
        self.recorded = first
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
        start = time.monotonic()
        if self.away is not None and start < self.away[0]:
            raise DatabaseError(f"cannot {doing} {self.url}: {self.away[1]}")
        limit = self.patience if self.away is None else self.patience / 6
        pause = 0.01
        while True:
            tried_at = time.monotonic()
            left = max(start + limit - tried_at, 0.05)
            try:
                if self.connection.closed:
                    self._reconnect(left)
                self.connection.silence = min(self.patience / 2, left)
                result = run(self.connection)
            except psycopg.Error as error:
                error.with_traceback(None)  # as above
                lost = self.connection.closed
                if not lost or self.away is not None or time.monotonic() >= start + limit:
                    now = time.monotonic()
                    self.away = (now + min(now - tried_at, AGAIN_SECONDS), text_of_error(error)) if lost else None
                    tried = f" (tried for {limit:g} s)" if lost else ""
                    raise DatabaseError(
                        f"cannot {doing} {self.url}{tried}: {text_of_error(error)}{advice(error)}"
                    ) from error
                if pause == 0.01:
                    logger.warning("%s is lost; trying for %g s: %s", self.url, limit, text_of_error(error))
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
            else:
                self.away = None
                return result

    def _reconnect(self, seconds: float) -> None:
        """Connect again, when it is certain that the old process on the server does nothing more, if that can be.

        Raises:
            DatabaseError: What was acknowledged is not there, or would not be the newest.
        """
        connection = connect(self.url, self.program_id, seconds)
        try:
            connection.silence = seconds
            if self.connection.backend is not None:
                for _ in range(20):
                    if not connection.execute(END_BACKEND, self.connection.backend).fetchall():
                        break
                    time.sleep(0.05)  # a process that is stopped will end when it goes on
            if not self._finds_recorded(connection):
                raise DatabaseError(
                    f"what program {self.program_id} has recorded in {self.url} is not there any more: after the "
                    "connection was lost, another server answers, or one that was restored from an older copy"
                )
            _check_ids(connection, self.url)
        except BaseException:
            connection.close()
            raise
        self.connection = connection

    def _finds_recorded(self, connection: Connection) -> bool:
        """Tell whether what was acknowledged last is there; if nothing was yet, whether the tables are."""
        recorded = (b"", "", 0.0, b"") if self.recorded is None else self.recorded
        try:
            found = connection.execute(RECORDED, recorded).fetchone() == (True,)
        except errors.UndefinedTable:
            return False
        return found or self.recorded is None


def connect(url: str, program_id: str, seconds: float) -> Connection:
    """Connect, within some seconds; raises psycopg's errors."""
    defaults: dict[str, Any] = {
        "connect_timeout": max(min(CONNECT_SECONDS, round(seconds)), 1),
        "fallback_application_name": f"hyperflow {program_id}",
        "tcp_user_timeout": 30_000,  # milliseconds until a network that swallows everything counts as lost
        "keepalives_idle": 30,
    }
    given = conninfo_to_dict(url)
    options = {name: value for name, value in defaults.items() if name not in given}
    connection = Connection.connect(url, autocommit=True, client_encoding="UTF8", **options)
    try:
        connection.silence = max(seconds, 1.0)
        synchronous, *backend = connection.execute(HELLO).fetchone() or ("off",)
        connection.backend = tuple(backend) if len(backend) == 2 and None not in backend else None
        if synchronous == "off":
            connection.execute("SET synchronous_commit = on")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_away(error: psycopg.Error) -> bool:
    """Tell whether a server that could not be used may be there soon: if it, or the network, did not answer at all."""
    if not isinstance(error, psycopg.OperationalError) or isinstance(error, errors.DiskFull):
        return False
    text = str(error)
    if any(word in text for word in ("password", "certificate", "SSL", "invalid")):
        return False
    passing = ("starting up", "shutting down", "recovery mode", "not yet accepting", "too many", "terminating")
    return "FATAL" not in text or any(word in text for word in passing)


def _check_ids(connection: psycopg.Connection[Any], url: str) -> None:
    """See to it that the next entry is the newest.

    Raises:
        DatabaseError: It would not be, and this user may not mend that.
    """
    if _next_is_newest(connection)[0]:
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('hyperflow'))")
        fine, newest = _next_is_newest(connection)
        if fine:
            return
        try:
            with connection.transaction():
                connection.execute("SELECT setval(pg_get_serial_sequence('hyperflow_entries', 'id'), %s)", (newest,))
        except errors.InsufficientPrivilege as error:
            raise DatabaseError(
                f"{url} would give new entries smaller ids than old ones, so older results would count as newer: it "
                "was restored without its sequence, or another server has taken its place. Who made the tables opens "
                "it once with hyperflow, or types in psql: "
                f"SELECT setval(pg_get_serial_sequence('hyperflow_entries', 'id'), {newest});"
            ) from error
    logger.warning("%s would have given new entries smaller ids than old ones; that was mended", url)


def _next_is_newest(connection: psycopg.Connection[Any]) -> tuple[bool, int]:
    """Tell whether the next entry's id will be greater than all others; and the greatest one."""
    (newest,) = connection.execute(NEWEST_ID).fetchone() or (0,)
    (last,) = connection.execute(LAST_ID).fetchone() or (None,)
    if last is None:
        with connection.transaction(force_rollback=True):
            (number,) = connection.execute(NEXT_ID).fetchone() or (0,)
        last = number - 1
    return last >= newest, newest


def _prepare(connection: psycopg.Connection[Any], url: str) -> None:
    """Check a newly opened database, and make its tables or upgrade them."""
    if connection.info.server_version < 100_000:
        raise DatabaseError(f"{url} is PostgreSQL {connection.info.server_version // 10_000}; 10 or later is needed")
    if connection.execute("SHOW server_encoding").fetchone() != ("UTF8",):
        raise DatabaseError(f"{url} cannot hold all characters; it needs a database made with: createdb -E UTF8 NAME")
    if connection.execute("SHOW transaction_read_only").fetchone() == ("on",):
        raise DatabaseError(f"{url} can only be read: it is a copy that follows another server, or was set so")
    version = version_of(connection)
    if version < SCHEMA_VERSION:
        with connection.transaction():
            # Of many who open it first at the same time, one makes the tables, or upgrades them.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('hyperflow'))")
            version = version_of(connection)
            try:
                for layout in LAYOUTS[version:]:
                    connection.execute(layout)
            except errors.InsufficientPrivilege as error:
                if version == 0:
                    raise
                told = text_of_error(error)
                raise DatabaseError(
                    f"the tables in {url} are of schema version {version}, and only who made them can upgrade them to "
                    f"{SCHEMA_VERSION}: let that user open the database once with this hyperflow ({told})"
                ) from error
            if version < SCHEMA_VERSION:
                connection.execute("INSERT INTO hyperflow_layout VALUES (%s)", (SCHEMA_VERSION,))
    if version > SCHEMA_VERSION:
        raise newer(url, version)
    for right in ("SELECT", "INSERT"):
        if connection.execute("SELECT has_table_privilege('hyperflow_entries', %s)", (right,)).fetchone() != (True,):
            raise DatabaseError(f"cannot use {url}: no right to {right}{_GRANT}")


def newer(url: str, version: int) -> DatabaseError:
    """Return the error that the tables are of a newer version."""
    return DatabaseError(
        f"the tables in {url} were made by a newer version of hyperflow (their schema version is {version}, this "
        f"one knows {SCHEMA_VERSION}); they were left as they are. Upgrade hyperflow to use them"
    )


def version_of(connection: psycopg.Connection[Any]) -> int:
    """Return the schema version of the tables, 0 if there are none."""
    # Not to_regclass(): within a transaction it may remember that there was no such table.
    if connection.execute(HAS_TABLES).fetchone() != (True,):
        return 0
    (version,) = connection.execute("SELECT max(version) FROM hyperflow_layout").fetchone() or (None,)
    return SCHEMA_VERSION + 1 if version is None else int(version)


def text_of_error(error: psycopg.Error) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())


_GRANT = (
    ". Its administrator, or who made the tables, types in psql: GRANT SELECT, INSERT ON hyperflow_entries, "
    "hyperflow_layout TO you; and who is to make them needs: GRANT CREATE ON SCHEMA public TO you;"
)


def advice(error: psycopg.Error) -> str:
    """Return what to do about an error, "" if that is not known."""
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

    def __init__(self, url: str, program_id: str, patience: float | None = None) -> None:
        self.url = url
        self.flights: dict[Any, Any] = {}
        leaving = threading.Event()
        seconds = patience or RETRY_SECONDS
        self.thread = DatabaseThread(
            url, lambda: closing(Server.open(url, program_id, seconds, leaving)), hurry=leaving.set
        )
        self._inserts: Batches[Server, Entry, None] = Batches(self.thread, Server.insert)
        self._lookups: Batches[Server, tuple[str, str], Answer] = Batches(self.thread, Server.lookup)

    async def insert(self, map_name: str, key: str, value: str) -> None:
        """Record a value, and return when it is committed. What a cancelled caller inserts may be recorded."""
        await self.record(map_name, key, value)

    def record(self, map_name: str, key: str, value: str) -> asyncio.Future[None]:
        """Record a value; the future is done when it is committed."""
        self.thread.check()
        if len(value) > LONGEST_VALUE:
            raise DatabaseError(f"a value of {len(value)} characters is too long for {self.url}: store a file's path")
        self._check_text(map_name, key, value)
        return self._inserts.put((map_name, key, value))

    async def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest value of a key, or None."""
        text, damaged = await self.ask(map_name, key)
        warn_of(damaged)
        return text

    def peek(self, map_name: str, key: str) -> tuple[bool, str | None]:  # noqa: ARG002 (others may have recorded it)
        """Know nothing without asking: other programs record there, too."""
        return False, None

    def ask(self, map_name: str, key: str) -> asyncio.Future[Answer]:
        """Read what a key has; all that is asked in one turn of the loop is one question."""
        self.thread.check()
        self._check_text(map_name, key)
        return self._lookups.put((map_name, key))

    async def lookup_all(self, map_name: str) -> list[tuple[str, str]]:
        """Return every key of a map with its newest value, the oldest key first."""
        self.thread.check()
        self._check_text(map_name)
        found, damaged = await self.thread.call(lambda server: server.read_all(map_name))
        warn_of(damaged)
        return found

    async def each(self, map_name: str, take: Callable[[str, str], None]) -> None:
        """Give each key of a map with its newest value to somebody, the oldest first."""
        for key, text in await self.lookup_all(map_name):
            take(key, text)

    def record_all(self, entries: list[Entry]) -> asyncio.Future[list[None]]:
        """Record entries; the future is done when they are committed."""
        self.thread.check()
        for entry in entries:
            self._check_text(*entry)
        return self._inserts.put_all(entries)

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
