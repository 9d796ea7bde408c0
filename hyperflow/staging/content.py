"""What is in a file or a directory: its digest, and the state in which it was seen.

Guarantees: a digest depends on nothing but content. For a file that is SHA-256 of its bytes. For a directory it is that
of its manifest: relative names, kinds, whether files may be executed, digests and sizes, in the order of the names.
Times, owners and other modes do not count. What is no file, directory or symbolic link is refused, and so is a link
that leads out of the directory: elsewhere it would lead to something else.

A manifest begins with a line that no other file of ours has, so the manifest can travel as a file of that digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from hyperflow.errors import FileChanged, FileUnavailable
from hyperflow.files import opened
from hyperflow.saying import as_written

MANIFEST = b"hyperflow manifest 1\n"
"""How a manifest begins."""

CHUNK = 1 << 20


class State(NamedTuple):
    """What tells without reading whether a file was changed. (The time of the change of the inode cannot be set.)"""

    size: int
    mtime: int  # ns, as `ctime`
    ctime: int
    inode: int
    device: int

    @classmethod
    def of(cls, found: os.stat_result) -> State:
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


class Entry(NamedTuple):
    """What a directory holds under a name: "file", "directory" or "link"."""

    name: str
    kind: str
    executable: bool = False
    digest: str = ""
    size: int = 0
    target: str = ""


def manifest(entries: Sequence[Entry]) -> bytes:
    """Return the manifest of a directory."""
    lines = (json.dumps(entry) for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)))
    return MANIFEST + "".join(f"{line}\n" for line in lines).encode()


def entries_of(data: bytes) -> list[Entry]:
    """Return what a manifest says; raises ValueError if it is none."""
    if not data.startswith(MANIFEST):
        raise ValueError("it is no manifest")
    entries = [Entry(*json.loads(line)) for line in data[len(MANIFEST) :].splitlines()]
    for entry in entries:
        _check_name(entry)
    return entries


def _check_name(entry: Entry) -> None:
    parts = entry.name.split("/")
    if entry.name.startswith("/") or {"", ".", ".."} & set(parts) or "\0" in entry.name:
        raise ValueError(f"it names {entry.name!r}")
    if entry.kind == "link" and leads_out(entry.name, entry.target):
        raise ValueError(f"its link {entry.name!r} leads out of it, to {entry.target!r}")


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> tuple[str, State]:
    """Read a file; return its digest, and its state, which was the same before and after.

    Raises:
        FileChanged: It changes while it is read.
        OSError: It cannot be read, or is no ordinary file.
    """
    with opened(path) as file:
        before = State.of(os.fstat(file.fileno()))
        digest = hashlib.file_digest(cast("BinaryIO", file), "sha256").hexdigest()  # type: ignore[arg-type]
        after = State.of(os.fstat(file.fileno()))
    if before != after:
        raise FileChanged(f"{os.fspath(path)} changes while it is read: {in_words(before)} before, {in_words(after)}")
    return digest, after


def sized(count: int) -> str:
    """Tell a number of bytes to people."""
    return as_written(count) if count >= 1024 else f"{count} bytes"


def in_words(state: State) -> str:
    """Tell a state to people."""
    import time  # noqa: PLC0415 (only errors ask)

    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.mtime // 10**9))
    return f"{sized(state.size)} of {when}.{state.mtime % 10**9:09d}"


def walk(top: Path, names: Sequence[str] | None = None) -> Iterator[tuple[str, os.stat_result, str]]:
    """Yield what a directory holds, or some names in it with all that is below: name, state, the target of a link.

    What is above a name comes before it.

    Raises:
        FileUnavailable: It holds something that cannot travel.
        OSError: It cannot be read.
    """
    waiting = sorted(os.listdir(top) if names is None else _with_parents(names), reverse=True)
    only = frozenset() if names is None else frozenset(waiting).difference(names)
    seen = set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = os.lstat(top / name)
        target = os.readlink(top / name) if stat.S_ISLNK(found.st_mode) else ""
        if target and leads_out(name, target):
            raise FileUnavailable(
                f"{top / name} is a symbolic link that leads out of {top}, to {target}: on another node it would lead "
                "elsewhere. Put a copy in its place, or give that file as a File of its own"
            )
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or target):
            raise FileUnavailable(f"{top / name} is no file, directory or symbolic link; it cannot travel")
        yield name, found, target
        if stat.S_ISDIR(found.st_mode) and name not in only:
            waiting += sorted((f"{name}/{each}" for each in os.listdir(top / name)), reverse=True)


def _with_parents(names: Sequence[str]) -> set[str]:
    return {"/".join(parts[:end]) for parts in (name.split("/") for name in names) for end in range(1, len(parts) + 1)}


def leads_out(name: str, target: str) -> bool:
    """Whether a link leads out of the directory that it is in, at any depth."""
    if os.path.isabs(target):
        return True
    end = os.path.normpath(os.path.join(os.path.dirname(name), target))
    return end == ".." or end.startswith("../")


def look(
    top: Path, names: Sequence[str] | None, digest: Callable[[str, os.stat_result], str]
) -> tuple[list[Entry], dict[str, State]]:
    """Return what a directory holds, and the states of its files, given what tells the digest of each."""
    entries: list[Entry] = []
    states: dict[str, State] = {}
    for name, found, target in walk(top, names):
        if target:
            entries.append(Entry(name, "link", target=target))
        elif stat.S_ISDIR(found.st_mode):
            entries.append(Entry(name, "directory"))
        else:
            states[name] = State.of(found)
            entries.append(Entry(name, "file", bool(found.st_mode & 0o100), digest(name, found), found.st_size))
    return entries, states


def total(entries: Sequence[Entry]) -> int:
    """Return the bytes of all files."""
    return sum(entry.size for entry in entries)
