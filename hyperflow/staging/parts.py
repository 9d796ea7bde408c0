"""What an output is while it comes home: a part beside its destination, and what worker and head say of it.

For each output the head makes a marker beside the destination, `.NAME.TOKEN.part`, which says whose it is. A worker
that reads the very same there sees that directory, and writes `.NAME.TOKEN.part.TRY` beside it; one that does not sends
the content. The head gives what is whole its name.

Guarantees: a part without a marker is nobody's. It is made after its marker, and looked at once more when it is there;
the head removes the marker first. A part that is a directory is written to through its descriptor: in the place of a
group somebody else could put a link in its place.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal, NamedTuple, TypeAlias

import attrs

from hyperflow.staging.keeping import KeptAt

RECEIVER = "landing"
"""Who takes what workers post of outputs."""

PIECE = 1 << 20
"""Bytes of a file that travel together."""

LONGEST = 150
"""Bytes of an output's name that its part's name has; a file's name may have 255."""

EntryKind: TypeAlias = Literal["file", "directory", "link"]


@attrs.frozen(repr=False)
class Ticket:
    """What a worker has to know to bring outputs home: where the marker of each is, and what it says."""

    token: str
    markers: dict[str, str]
    proof: str

    def __repr__(self) -> str:
        return "..."  # in the calls that errors show


class Entry(NamedTuple):
    """One file of an output, as a worker has brought it."""

    asked: str  # the output
    name: str  # its place in it, relative; "" for an output that is one file, and for the top of a directory
    kind: EntryKind
    mode: int = 0o644
    target: str = ""  # of a link: relative, within the output
    size: int = 0
    digest: str = ""  # of a file: SHA-256, in hexadecimal


class Piece(NamedTuple):
    """Bytes of a file at an offset."""

    token: str
    run: str  # which try of the command
    asked: str
    name: str
    offset: int
    content: bytes


class Begun(NamedTuple):
    """A try of the command is about to write parts."""

    token: str
    run: str


class Kept(NamedTuple):
    """A file that stays on its node, in the cache there."""

    name: str  # the output, or what fits its pattern
    at: KeptAt


class Manifest(NamedTuple):
    """All that a try of the command has brought; `failed`: the command had failed. `kept`: what stays on the node."""

    token: str
    run: str
    failed: bool
    again: bool  # it is not the first try
    entries: tuple[Entry, ...]
    kept: tuple[Kept, ...]


Post: TypeAlias = "Piece | Begun | Manifest"


def marker_name(name: str, token: str) -> str:
    """Return what the marker of an output is called."""
    short = os.fsencode(name)[:LONGEST]
    return f".{os.fsdecode(short)}.{token}.part"


def part_of(marker: str, run: str) -> str:
    """Return where a try of the command writes an output."""
    return f"{marker}.{run}"


def in_tree(part: str, name: str) -> str:
    """Return the place of a file of an output within its part."""
    return os.path.join(part, name) if name else part


@contextmanager
def held(part: str) -> Iterator[str]:
    """Open a part that is a directory, and yield a path to it that stays; raises OSError if it is not ours."""
    number = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(number).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "somebody else has put another directory in its place", part)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def is_there(marker: str, proof: str) -> bool:
    """Whether a marker is seen here and says this."""
    with suppress(OSError):
        number = os.open(marker, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(number, 65536) == proof.encode()
        finally:
            os.close(number)
    return False
