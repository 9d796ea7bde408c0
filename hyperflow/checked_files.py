"""Checked files: a header in plain text, a payload, and a checksum over both.

    hyperflow 1 {"kind": "result", "size": 123, "digest": "...", ...}
    payload

Guarantees: A file appears under its name complete and on the disk, or not at all. A file that was cut or altered, or
that another user could have written, is refused before a byte of its payload is used, because the payload is a pickle.
The checksum is against accidents; strangers are kept out because only the user can write the file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import stat
from pathlib import Path
from typing import Any

from hyperflow import files
from hyperflow.errors import ConfigurationError, HyperflowError

MAGIC = b"hyperflow 1 "
LONGEST_HEADER = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


class Damaged(HyperflowError):
    """A file of a run is not as it was written."""


def write_file(path: Path, data: bytes) -> None:
    """Do as `files.write_whole`; raise ConfigurationError, which says what to do, if the file cannot be written."""
    try:
        files.write_whole(path, data)
    except OSError as error:
        text = f"cannot write {path}: {error.strerror or error}; what was written before is safe"
        todo = "Free space there" if error.errno in FULL else "See to it that it can be written"
        raise ConfigurationError(f"{text}. {todo}, and resume the program") from error


def write_checked(path: Path, kind: str, payload: bytes, **header: Any) -> None:
    """Write a checked file; raises as `write_file` does."""
    write_file(path, with_checksum(kind, payload, header))


def with_checksum(kind: str, payload: bytes, header: dict[str, Any]) -> bytes:
    """Return the contents of a checked file."""
    header = {"kind": kind, **header, "size": len(payload)}
    header["digest"] = _digest(header, payload)
    return MAGIC + json.dumps(header).encode() + b"\n" + payload


def read_checked(path: Path, kind: str) -> tuple[dict[str, Any], bytes]:
    """Return header and payload of a checked file.

    Raises:
        FileNotFoundError: It is not there.
        Damaged: It is not what was written, or another user could have written it.
    """
    data = read_private(path)
    end = data.find(b"\n", 0, LONGEST_HEADER)
    try:
        if not data.startswith(MAGIC) or end < 0:
            raise ValueError("it does not begin as it should")
        header = json.loads(data[len(MAGIC) : end])
        payload = data[end + 1 :]
        digest = header.pop("digest")
        if header["kind"] != kind:
            raise ValueError(f"it is a {header['kind']}, not a {kind}")
        if len(payload) != header["size"]:
            raise ValueError(f"it has {len(payload)} bytes, and should have {header['size']}: it was cut short")
        if digest != _digest(header, payload):
            raise ValueError("its checksum is wrong: it was altered")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    return header, payload


def _digest(header: dict[str, Any], payload: bytes) -> str:
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=20)
    digest.update(payload)
    return digest.hexdigest()


def read_private(path: Path) -> bytes:
    """Read a file that only this user can have written; raises Damaged otherwise."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise Damaged(f"{path} is no ordinary file")
        if objection := _objection(found):
            raise Damaged(f"{path} {objection}; it is not used, because what it holds is trusted")
        return file.read()


def check_private(directory: Path) -> None:
    """Raise ConfigurationError if another user could write to this directory: it holds pickles, which are trusted."""
    try:
        found = directory.lstat()
    except OSError as error:
        raise ConfigurationError(f"cannot look at {directory}: {error.strerror or error}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{directory} is not a directory")
    if objection := _objection(found):
        advice = "use one of your own"
        if found.st_uid == os.geteuid():
            advice = f"if you know that nobody did, type: chmod go-w {shlex.quote(str(directory))}"
        raise ConfigurationError(
            f"{directory} {objection}, and holds pickles, which can do anything when they are read; {advice}"
        )


def _objection(found: os.stat_result) -> str:
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to you (user {os.geteuid()})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""
