"""Reading a results database on a PostgreSQL server, for who only looks at it (see `reading`).

Guarantees: each question makes a connection of its own, which can only read; nothing is made, upgraded or mended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, LiteralString

import attrs
import psycopg
from psycopg.conninfo import conninfo_to_dict

from hyperflow.database.entries import SCHEMA_VERSION, is_sound, text_of, warn_of
from hyperflow.database.reading import LONG, SAMPLE, Mark, Sample, Size
from hyperflow.database.server import CONNECT_SECONDS, Server, advice, connect, newer, text_of_error, version_of
from hyperflow.errors import ConfigurationError, DatabaseError

READ_ONLY = "SET default_transaction_read_only = on"

_OF_MAP = "WHERE left(map, 200) = left(%(map)s, 200) AND map = %(map)s"


class _Reading(Server):
    def _reconnect(self, seconds: float) -> None:
        self.connection = connect(self.url, self.program_id, seconds)
        self.connection.execute(READ_ONLY)


@attrs.define(eq=False)
class ServerReader:
    """Reads a database on a server; `where` is its URL."""

    where: str

    def maps(self) -> list[str]:
        """Return the names of the maps."""
        return [name for (name,) in self._rows("SELECT map FROM hyperflow_entries GROUP BY map ORDER BY min(id)")]

    def size(self, map_name: str) -> Size:
        """Tell what a map takes."""
        what = "count(DISTINCT digest), count(*), sum(length(value)::bigint), max(time)"
        ((keys, entries, characters, when),) = self._rows(f"SELECT {what} FROM hyperflow_entries {_OF_MAP}", map_name)
        return Size(int(keys), int(entries), int(characters or 0), float(when or 0))

    def sample(self, map_name: str) -> list[Sample]:
        """Return some of the newest entries, the newest first."""
        newest = f"{_OF_MAP} ORDER BY left(map, 200) DESC, id DESC LIMIT %(sample)s"
        what = "key, CASE WHEN length(value) <= %(long)s THEN value END, checksum, schema_version, metadata"
        return [
            (key, None if text is None else text_of(text, version, metadata), metadata)
            for key, text, digest, version, metadata in self._rows(
                f"SELECT {what} FROM hyperflow_entries {newest}", map_name
            )
            if text is None or is_sound(map_name, key, text, bytes(digest), version, metadata)
        ]

    def read_keys(self, map_name: str) -> list[str]:
        """Return the keys, the oldest first."""
        what = f"SELECT key FROM hyperflow_entries {_OF_MAP} GROUP BY key ORDER BY min(id)"
        return [key for (key,) in self._rows(what, map_name)]

    def read_all(self, map_name: str) -> list[tuple[str, str]]:
        """Return each key with its newest value, the oldest key first."""
        with closing(self._open()) as server:
            found, damaged = server.read_all(map_name)
        warn_of(damaged)
        return found

    def marks(self, map_name: str) -> Iterator[Mark]:
        """Yield all entries of a map without their values, the oldest first, also those that newer ones hide."""
        short = "CASE WHEN length(value) <= %(long)s THEN value END"
        what = f"SELECT id, key, program, time, {short}, checksum, schema_version, metadata FROM hyperflow_entries"
        for number, key, program, when, text, digest, *rest in self._rows(f"{what} {_OF_MAP} ORDER BY id", map_name):
            if text is None or is_sound(map_name, key, text, bytes(digest), *rest):
                yield Mark(number, key, program, when, rest[-1])

    def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest value of a key, or None."""
        with closing(self._open()) as server:
            ((text, damaged),) = server.lookup([(map_name, key)])
        warn_of(damaged)
        return text

    def _rows(self, query: LiteralString, map_name: str = "") -> list[tuple[Any, ...]]:
        values = {"map": map_name, "long": LONG, "sample": SAMPLE}
        with closing(self._open()) as server:
            try:
                return server.connection.execute(query, values).fetchall()
            except psycopg.Error as error:
                raise DatabaseError(f"cannot read {self.where}: {text_of_error(error)}{advice(error)}") from error

    def _open(self) -> Server:
        """Connect to read; nothing is made, upgraded or mended there."""
        url = self.where
        try:
            conninfo_to_dict(url)
        except psycopg.Error as error:
            raise ConfigurationError(f"database={url!r}: {text_of_error(error)}") from error
        try:
            connection = connect(url, "reader", CONNECT_SECONDS)
        except psycopg.Error as error:
            raise DatabaseError(f"cannot connect to {url}: {text_of_error(error)}{advice(error)}") from error
        try:
            connection.execute(READ_ONLY)
            version = version_of(connection)
            if version == 0:
                raise DatabaseError(f"{url} has no results of hyperflow: no program has recorded any there")
            if version > SCHEMA_VERSION:
                raise newer(url, version)
            if version < SCHEMA_VERSION:
                raise DatabaseError(
                    f"the tables in {url} are of schema version {version}: a program that uses the database upgrades "
                    f"them to {SCHEMA_VERSION} when it starts with this hyperflow; then they can be read"
                )
        except psycopg.Error as error:
            connection.close()
            raise DatabaseError(f"cannot read {url}: {text_of_error(error)}{advice(error)}") from error
        except BaseException:
            connection.close()
            raise
        return _Reading(url, "reader", CONNECT_SECONDS, connection)
