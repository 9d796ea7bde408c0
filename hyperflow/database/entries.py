"""Entries: what one record of a database consists of, in a file and on a server alike.

Guarantees: every entry has the schema version in which its value was written, and metadata, a JSON object of which
each member may be missing. "code" is the fingerprint of the memoized function that gave the value, and "origin" tells
how that went (see `origins`). For who reads the results without the program there are "function", its module and name,
"parameters", those that are in the key, in the function's order, and "classes", the modules of the classes in keys and
values by their names in the database. An entry's checksum covers all of it but the program and the time: SQLite's own
check, and most disks, do not see a flipped byte in a value.

Schema version 1 had neither column, and values without tags (see `untagged`). Entries of that version stay as they are,
also where they are copied or ingested.
"""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

SCHEMA_VERSION = 2

NO_METADATA = "{}"

ORIGIN = ', "origin": {'
"""What is before it in the metadata is the same for many entries, and read once for all of them."""


_blank = hashlib.blake2b(digest_size=16).copy
"""To copy one is quicker than to make one."""


class DamagedEntry(RuntimeWarning):
    """An entry of the results database is not what was written; it counts as absent."""


Entry = tuple[str, str, str]
"""Map, key, value."""

Row = tuple[str, str, str, str, float, bytes, int, str]
"""Map, key, value, program, time, checksum, schema version, metadata: an entry as the file has it."""


def warn_of(damaged: list[str]) -> None:
    """Warn of damaged entries, and take them off the list; called by a store's method."""
    while damaged:
        warnings.warn(damaged.pop(0), DamagedEntry, stacklevel=3)


def checksum(map_name: str, key: str, value: str, version: int = SCHEMA_VERSION, metadata: str = NO_METADATA) -> bytes:
    """Return the checksum of an entry, which also shows that it belongs to this map and key."""
    if version == 1:
        text = f"{len(map_name)}:{len(key)}:{map_name}{key}{value}"
    else:
        text = f"{version}:{len(map_name)}:{len(key)}:{len(value)}:{map_name}{key}{value}{metadata}"
    made = _blank()
    made.update(text.encode("utf-8", "surrogatepass"))
    return made.digest()


def checksums(
    maps: Iterable[str], keys: Iterable[str], values: Iterable[str], metadata: Iterable[str]
) -> Iterator[bytes]:
    """Yield the `checksum` of each of some new entries. What many have in common is put into words once."""
    last_map, head = None, ""
    for map_name, key, value, about in zip(maps, keys, values, metadata, strict=True):
        if map_name is not last_map:
            last_map, head = map_name, f"{SCHEMA_VERSION}:{len(map_name)}:"
        made = _blank()
        text = f"{head}{len(key)}:{len(value)}:{map_name}{key}{value}{about}"
        made.update(text.encode("utf-8", "surrogatepass"))
        yield made.digest()


def is_sound(map_name: object, key: object, value: object, digest: bytes, version: int, metadata: str) -> bool:
    """Tell whether an entry is as it was written. What is damaged may be of any type that SQLite knows."""
    if not (isinstance(map_name, str) and isinstance(key, str) and isinstance(value, str)):
        return False
    return digest == checksum(map_name, key, value, version, metadata)


class FromCode(str):
    """The text of a value, with the fingerprint of the code that gave it, and all metadata of a new entry."""

    __slots__ = ("code", "metadata")
    code: str
    metadata: str

    @classmethod
    def of(cls, text: str, code: str, metadata: str = NO_METADATA) -> FromCode:
        made = cls(text)
        made.code = code
        made.metadata = metadata
        return made


class Columns(NamedTuple):
    """New entries, column by column; those after the keys and values may be endless, if they are alike."""

    maps: Sequence[str]
    keys: Sequence[str]
    values: Sequence[str]
    programs: Iterable[str]
    times: Iterable[float]
    checksums: Iterable[bytes]
    versions: Iterable[int]
    metadata: Iterable[str]

    @classmethod
    def of(cls, entries: Sequence[Entry], program_id: str, when: float) -> Columns:
        """Return new entries that this version of the program records now."""
        maps = [map_name for map_name, _, _ in entries]
        keys = [key for _, key, _ in entries]
        texts = [str(value) for _, _, value in entries]
        abouts = [value.metadata if type(value) is FromCode else NO_METADATA for _, _, value in entries]
        of_all = checksums(maps, keys, texts, abouts)
        return cls(maps, keys, texts, repeat(program_id), repeat(when), of_all, repeat(SCHEMA_VERSION), abouts)

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> Columns:
        """Return entries as a file has them."""
        columns: Any = ([row[at] for row in rows] for at in range(len(cls._fields)))
        return cls(*columns)


def text_of(value: str, version: int, metadata: str = NO_METADATA) -> str:
    """Return a value's text, marked if it has no tags, and if it is known which code gave it."""
    if version == 1:
        from hyperflow.database import untagged  # noqa: PLC0415 (for old entries only)

        return untagged.Text(value)
    if metadata == NO_METADATA:
        return value
    same, has_origin, _ = metadata.partition(ORIGIN)
    code = _code(same + "}" if has_origin else metadata)
    return FromCode.of(value, code) if code else value


@functools.lru_cache(maxsize=256)
def _code(metadata: str) -> str:
    code = members(metadata).get("code")
    return code if isinstance(code, str) else ""


def members(metadata: str) -> dict[str, Any]:
    """Return the members of metadata, none if it is not what it should be."""
    try:
        found = json.loads(metadata)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def metadata_with(**members: Any) -> str:
    """Return metadata of the members that say something."""
    return json.dumps({name: value for name, value in members.items() if value})


def with_origin(metadata: str, origin: str) -> str:
    """Return metadata with the JSON object that tells how a value came about; it goes last."""
    return f"{metadata[:-1]}{ORIGIN}{origin[1:]}}}"


def metadata_of(value: str) -> str:
    """Return the metadata of a new entry with this value."""
    return value.metadata if isinstance(value, FromCode) else NO_METADATA
