"""Copies of files and directories that are what they are said to be, or are not there.

Guarantees: a copy is compared with its digest while it is written, so a source that changes meanwhile, or is another
file on this node, is found. What is left of a copy that failed is removed. Copies are read-only. They may be executed
where the source may; a single file always may, because its digest does not say.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hyperflow.errors import FileUnavailable
from hyperflow.files import opened, write_all
from hyperflow.staging import content
from hyperflow.staging.content import CHUNK, Entry, State
from hyperflow.wire.removal import remove

FILE_MODE, EXECUTABLE, DIRECTORY_MODE = 0o444, 0o555, 0o555


class Differs(Exception):
    """What was copied is something else; in words."""


class Wanted(NamedTuple):
    """What is to be copied."""

    digest: str
    size: int
    is_dir: bool
    names: Sequence[str] | None = None
    """Of a directory: those in it that count; None for all."""


def copy(source: Path, wanted: Wanted, to: Path) -> None:
    """Copy a file or a directory to a name that is free, or where the rest of an earlier copy is.

    Raises:
        Differs: It is something else, or has changed while it was read.
        FileUnavailable: It holds what cannot travel.
        OSError: It cannot be read, or the copy not be written: see `is_full`.
    """
    remove(to)
    try:
        if wanted.is_dir:
            copy_directory(source, wanted, to)
        else:
            copy_file(source, wanted, to)
    except BaseException:
        remove(to)
        raise


def copy_file(source: Path, wanted: Wanted, to: Path, mode: int = EXECUTABLE) -> None:
    """Copy a file; raises as `copy` does, and leaves what it has written."""
    with opened(source) as file:
        before = State.of(os.fstat(file.fileno()))
        if wanted.digest and before.size != wanted.size:
            raise Differs(content.in_words(before))
        digest = _copied(file.read, to, mode)
        if (after := State.of(os.fstat(file.fileno()))) != before:
            raise Differs(f"{content.in_words(before)}, and {content.in_words(after)} a moment later")
    if digest != wanted.digest:
        raise Differs(f"{content.in_words(before)}, sha256 {digest[:12]}")


def _copied(read: Callable[[int], bytes], to: Path, mode: int) -> str:
    """Write what is read to a new file; return its digest."""
    made = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    digest = hashlib.sha256()
    try:
        while data := read(CHUNK):
            digest.update(data)
            write_all(made, data)
        os.fchmod(made, mode)
    finally:
        os.close(made)
    return digest.hexdigest()


def copy_directory(source: Path, wanted: Wanted, to: Path) -> None:
    """Copy a directory; raises as `copy` does, and leaves what it has written."""
    entries: list[Entry] = []
    os.mkdir(to, 0o700)
    for name, found, target in content.walk(source, wanted.names):
        if target:
            os.symlink(target, to / name)
            entries.append(Entry(name, "link", target=target))
        elif stat.S_ISDIR(found.st_mode):
            os.mkdir(to / name, 0o700)
            entries.append(Entry(name, "directory"))
        else:
            is_executable = bool(found.st_mode & 0o100)
            with opened(source / name) as file:
                digest = _copied(file.read, to / name, EXECUTABLE if is_executable else FILE_MODE)
            entries.append(Entry(name, "file", is_executable, digest, os.lstat(to / name).st_size))
    if (digest := content.digest_of(content.manifest(entries))) != wanted.digest:
        size = content.total(entries)
        raise Differs(f"{len(entries)} files and directories, {content.sized(size)}, sha256 {digest[:12]}")
    seal(to)


def seal(top: Path) -> None:
    """Let nobody write into the directories of a copy."""
    for place, directories, _ in os.walk(top):
        for name in directories:
            if not os.path.islink(os.path.join(place, name)):
                os.chmod(os.path.join(place, name), DIRECTORY_MODE)
    os.chmod(top, DIRECTORY_MODE)


def build(entries: Sequence[Entry], to: Path, fetch: Callable[[Entry, Path], None]) -> None:
    """Make a directory of what a manifest says, and of files that are fetched one by one to a name."""
    os.mkdir(to, 0o700)
    for entry in entries:
        if entry.kind == "link":
            os.symlink(entry.target, to / entry.name)
        elif entry.kind == "directory":
            os.mkdir(to / entry.name, 0o700)
        else:
            fetch(entry, to / entry.name)
            os.chmod(to / entry.name, EXECUTABLE if entry.executable else FILE_MODE)
    seal(to)


def state_of(path: Path, is_dir: bool) -> str:
    """Return a text that changes with whatever changes a copy; "" if there is none of that kind."""
    try:
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode) != is_dir or not (is_dir or stat.S_ISREG(found.st_mode)):
            return ""
        states = [("", *State.of(found))]
        if is_dir:
            states += [(name, *State.of(each)) for name, each, _ in content.walk(path)]
    except (OSError, FileUnavailable):
        return ""
    return hashlib.sha256(repr(states).encode()).hexdigest()


def digest_of(path: Path, is_dir: bool) -> str:
    """Return the digest of a copy; "" if it cannot be read, or is of another kind."""
    if not state_of(path, is_dir):
        return ""
    try:
        if not is_dir:
            return content.digest_file(path)[0]
        entries, _ = content.look(path, None, lambda name, _: content.digest_file(path / name)[0])
        return content.digest_of(content.manifest(entries))
    except (OSError, FileUnavailable):
        return ""
