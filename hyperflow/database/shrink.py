"""Shrink: a database file without the maps that nobody needs any more.

In a file that programs use, entries are only ever added. So this makes a new file of all others, entry by entry as they
are, and puts it in the old one's place when it is complete and on the disk.
"""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

import attrs

from hyperflow.database import file as files
from hyperflow.database import place
from hyperflow.database.entries import is_sound
from hyperflow.database.file import DatabaseFile
from hyperflow.database.layout import damaged
from hyperflow.database.ownership import Ownership
from hyperflow.database.reading import FileReader, Size
from hyperflow.database.tables import parts
from hyperflow.errors import ConfigurationError, DatabaseError
from hyperflow.files import sync_directory as sync

PIECE = 200
"""Entries in one transaction; their values may be long."""


@attrs.frozen
class Superseded:
    """The results of one version of a memoized function, when another version has recorded since."""

    map_name: str
    name: str
    version: str
    newest: str
    """The version that recorded last."""
    size: Size


def superseded(path: Path) -> list[Superseded]:
    """Return the maps of a file that belong to versions which are no longer the newest of their function.

    Raises:
        ConfigurationError, DatabaseError: The file cannot be read.
    """
    reader = FileReader(place.resolved(path))
    versions: dict[str, dict[str, str]] = defaultdict(dict)
    for map_name in reader.maps():
        name, version, kind = parts(map_name)
        if kind == "memoized":
            versions[name][version] = map_name
    found: list[Superseded] = []
    for name, maps in versions.items():
        if len(maps) < 2:
            continue
        sizes = {version: reader.size(map_name) for version, map_name in maps.items()}
        newest = max(sizes, key=lambda version: sizes[version].time)
        found += [
            Superseded(maps[version], name, version, newest, size)
            for version, size in sizes.items()
            if version != newest
        ]
    return found


def without(path: Path, maps: Collection[str]) -> int:
    """Remove maps from a file that nobody has open; return how many bytes shorter it is.

    Raises:
        ConfigurationError: It is not the user's own, or a file cannot be made.
        DatabaseError: It is in use, or damaged; then it stays as it was.
    """
    path = place.resolved(path)
    if not place.check(path):
        raise DatabaseError(f"{path} is empty, not a results database")
    ownership = Ownership.acquire(path, "hyperflow gc")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with closing(DatabaseFile.open(path, "hyperflow gc")) as old:
            _copy(old, draft, maps)
        before = path.stat().st_size
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)
        return before - path.stat().st_size
    except OSError as error:
        raise ConfigurationError(f"cannot make a smaller {path}: {error.strerror or error}") from error
    finally:
        for ending in ("", "-wal", "-shm", "-journal"):
            draft.with_name(draft.name + ending).unlink(missing_ok=True)
        ownership.release()


def _copy(old: DatabaseFile, draft: Path, left_out: Collection[str]) -> None:
    columns = "id, map, key, value, program, time, checksum, schema_version, metadata"
    query = f"SELECT {columns} FROM entries NOT INDEXED WHERE id > ? ORDER BY id LIMIT {PIECE}"
    last = count = 0
    with closing(DatabaseFile.open(draft, "hyperflow gc")) as new:
        while True:
            with files.reported(old.path, "read"):
                rows = old.connection.execute(query, (last,)).fetchall()
            if not rows:
                break
            last, count = rows[-1][0], count + len(rows)
            for _, map_name, key, value, _, _, digest, version, metadata in rows:
                if not is_sound(map_name, key, value, digest, version, metadata):
                    raise damaged(old.path, f"an entry of map {map_name!r}")
            if kept := [row[1:] for row in rows if row[1] not in left_out]:
                new.add(kept)
        if count != old.counts.total.entries:
            raise damaged(old.path, f"it has {old.counts.total.entries} entries, and {count} of them can be found")
        if marks := old.watermarks():
            new.add([], marks)


__all__ = ("Superseded", "superseded", "without")
