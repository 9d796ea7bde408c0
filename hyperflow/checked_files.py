"""Checked files: a header in plain text, a payload, and a checksum over both.

    hyperflow 1 {"kind": "result", "size": 123, "digest": "...", ...}
    payload

Guarantees: A file appears under its name complete and on the disk, or not at all. A file that was cut or altered, or
that another user could have written, is refused before a byte of its payload is used, because the payload is a pickle.
The checksum is against accidents; strangers are kept out because only the user can write the file. Which run, job and
start a file belongs to is in its header, because whole directories of the user's can be swapped by others where these
can write above them. A place is a name in a held directory (see `private`), or a path where that is enough.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from hyperflow import files
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.private import Entry, objection

Place: TypeAlias = Path | Entry
"""Where a file is."""

MAGIC = b"hyperflow 1 "
LONGEST_HEADER = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


class Damaged(HyperflowError):
    """A file of a run is not as it was written."""


def write_file(path: Place, data: bytes) -> None:
    """Do as `files.write_whole`; raise ConfigurationError, which says what to do, if the file cannot be written."""
    try:
        files.write_whole(path.through if isinstance(path, Entry) else path, data)
    except OSError as error:
        text = f"cannot write {path}: {error.strerror or error}; what was written before is safe"
        todo = "Free space there" if error.errno in FULL else "See to it that it can be written"
        raise ConfigurationError(f"{text}. {todo}, and resume the program") from error


def write_checked(path: Place, kind: str, payload: bytes, **header: Any) -> None:
    """Write a checked file; raises as `write_file` does."""
    write_file(path, with_checksum(kind, payload, header))


def with_checksum(kind: str, payload: bytes, header: dict[str, Any]) -> bytes:
    """Return the contents of a checked file."""
    header = {"kind": kind, **header, "size": len(payload)}
    header["digest"] = _digest(header, payload)
    return MAGIC + json.dumps(header).encode() + b"\n" + payload


def read_checked(path: Place, kind: str, expected: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], bytes]:
    """Return header and payload of a checked file; `expected` is what its header has to say.

    Raises:
        FileNotFoundError: It is not there.
        Damaged: It is not what was written, is of another run, job or start, or another user could have written it.
    """
    return taken_apart(read_private(path), str(path), kind, expected)


def taken_apart(
    data: bytes, name: str, kind: str, expected: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], bytes]:
    """Return header and payload of the contents of a checked file; raises Damaged, which calls it by `name`."""
    end = data.find(b"\n", 0, LONGEST_HEADER)
    try:
        if not data.startswith(MAGIC) or end < 0:
            raise ValueError("it does not begin as it should")
        header = files.from_json(data[len(MAGIC) : end])
        payload = data[end + 1 :]
        digest = header.pop("digest")
        if header["kind"] != kind:
            raise ValueError(f"it is a {header['kind']}, not a {kind}")
        if len(payload) != header["size"]:
            raise ValueError(f"it has {len(payload)} bytes, and should have {header['size']}: it was cut short")
        if digest != _digest(header, payload):
            raise ValueError("its checksum is wrong: it was altered")
        if expected is not None and (says := {member: header.get(member) for member in expected}) != expected:
            raise ValueError(f"it is of {_words(says)}, and should be of {_words(expected)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{name} is damaged: {error}") from error
    return header, payload


def _words(members: Mapping[str, Any]) -> str:
    return ", ".join(f"{member} {value}" for member, value in members.items())


def _digest(header: dict[str, Any], payload: bytes) -> str:
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=20)
    digest.update(payload)
    return digest.hexdigest()


def read_private(path: Place) -> bytes:
    """Read a file that only this user can have written; raises Damaged otherwise."""
    # Not blocking: somebody may have put a pipe there.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    number = path.open(flags) if isinstance(path, Entry) else os.open(path, flags)
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise Damaged(f"{path} is no ordinary file")
        if reason := objection(found):
            raise Damaged(f"{path} {reason}; it is not used, because what it holds is trusted")
        with os.fdopen(number, "rb", closefd=False) as file:  # which would not close what it cannot open: a directory
            return file.read()
    finally:
        os.close(number)
