"""The shelf: the files of a node by digest, as all workers of its launcher share them.

    files/
      <digest>            a file, or a directory, read-only
      <digest>.kept       there as long as it has to stay, used or not
      .<digest>.part      what is being written
      .names/<digest>/    symbolic links to it, by the names that files have elsewhere
      .locks/<digest>     shared (flock) while it is in use; says how large it is, and in which state it was verified
      .locks/<digest>.new exclusive while somebody makes or verifies it
      .locks/all          exclusive while somebody looks for room; says how large all are together, at most

Guarantees: the kernel releases the locks of whoever dies. What is in use is never removed; to be replaced because it is
damaged, it gets out of the way, and who has it open keeps it. Sizes are counted before something is written, so what
is on the shelf and on its way to it never has more than `limit` bytes together. When it was used last is the time of
its lock.

Rejected: a database of entries (one more file to be damaged, and a lock that a killed process could leave); one lock
for use and making (who finds damage would wait for those who use it, maybe for hours).
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from hyperflow.errors import FileUnavailable
from hyperflow.private import objection
from hyperflow.wire.removal import remove
from hyperflow.wire.scratch import TRASH

_LOCKS, _NAMES, _ALL, _NEW = ".locks", ".names", "all", ".new"

MANY, SPARE = 200, 20
"""Of so many entries, more than is needed is evicted when there is no room, a part of the limit: not for each one that
comes are all looked at.
"""


class Note(NamedTuple):
    """What is written down of an entry."""

    size: int = 0
    state: str = ""
    """As it was verified; "" as long as it is not."""


class Taken(NamedTuple):
    """Bytes that cannot go: what is in use, and what is pinned."""

    used: int
    pinned: int


class Use:
    """An entry in use, until `end`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def end(self) -> None:
        """Let it go."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    @property
    def note(self) -> Note:
        """What is written down of it."""
        return _read(self.number)

    @note.setter
    def note(self, note: Note) -> None:
        data = json.dumps(note).encode()
        os.pwrite(self.number, data, 0)
        os.ftruncate(self.number, len(data))

    def touch(self) -> None:
        """It is used now."""
        os.utime(self.number)


class Shelf:
    """The entries in one directory. Raises FileUnavailable if somebody else could have put something there."""

    def __init__(self, place: Path, limit: int) -> None:
        self.place = place
        self.limit = limit
        try:
            found = os.lstat(place)
            wrong = objection(found) or ("" if stat.S_ISDIR(found.st_mode) else "is no directory")
            for name in (_LOCKS, _NAMES):
                (place / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            wrong = f"cannot be used: {error.strerror or error}"
        if wrong:
            raise FileUnavailable(f"the cache of files on this node, {place}, {wrong}")

    def content(self, digest: str) -> Path:
        """Return where an entry is."""
        return self.place / digest

    def part(self, digest: str) -> Path:
        """Return where it is written first."""
        return self.place / f".{digest}.part"

    def pin(self, digest: str) -> None:
        """Keep an entry, whether it is used or not, until the file that says so is gone: the launcher removes it."""
        os.close(os.open(self._pin(digest), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def is_pinned(self, digest: str) -> bool:
        """Whether it is kept."""
        return self._pin(digest).exists()

    def _pin(self, digest: str) -> Path:
        return self.place / f"{digest}.kept"

    def named(self, digest: str, name: str) -> Path:
        """Return a name of an entry that ends as people know it: programs look at `.gz`."""
        link = self.place / _NAMES / digest / name
        target = os.path.join("..", "..", digest)
        with suppress(OSError):
            if os.readlink(link) == target:
                return link
        link.parent.mkdir(mode=0o700, exist_ok=True)
        draft = link.with_name(f".{os.urandom(8).hex()}")
        os.symlink(target, draft)
        os.replace(draft, link)  # whatever is there
        return link

    def use(self, digest: str) -> Use:
        """Begin to use an entry, whether it is there or not: from now on it stays."""
        while True:
            number = os.open(self._lock(digest), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(number, fcntl.LOCK_SH)
                if self._is(number, digest):
                    return Use(number)
            except BaseException:
                os.close(number)
                raise
            os.close(number)  # it was removed just now

    @contextmanager
    def making(self, digest: str) -> Iterator[None]:
        """Be the only one who makes, verifies or replaces an entry; wait for another one who does."""
        with self._locked(f"{digest}{_NEW}"):
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[int]:
        number = os.open(self.place / _LOCKS / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield number
        finally:
            os.close(number)

    def clear(self, digest: str) -> None:
        """Take away what is at the place of an entry; who has it open keeps it."""
        self._throw_away(self.content(digest), self.part(digest))

    def reserve(self, use: Use, digest: str, note: Note) -> Taken | None:
        """Make room for an entry, and note its size; return what is in the way, if there is not enough."""
        gone: list[Path] = []
        with self._locked(_ALL) as total:
            known = _total(total)
            if known is not None and known + note.size <= self.limit:
                _set_total(total, known + note.size)
                use.note = note
                return None
            notes = dict(self._notes(digest))
            free = self.limit - sum(each.size for _, each in notes.values()) - note.size
            spare = self.limit // SPARE if free < 0 and len(notes) > MANY else 0
            if free < 0:
                for other, (_, each) in sorted(notes.items(), key=lambda item: item[1][0]):
                    if not self.is_pinned(other) and self._evict(other, gone):
                        free += each.size
                        del notes[other]
                    if free >= spare:
                        break
            if free >= 0:
                _set_total(total, self.limit - free)
                use.note = note
        for path in gone:
            remove(path)
        if free >= 0:
            return None
        pinned = sum(each.size for digest, (_, each) in notes.items() if self.is_pinned(digest))
        return Taken(sum(each.size for _, each in notes.values()) - pinned, pinned)

    def evict_all(self) -> None:
        """Remove all that nobody uses."""
        gone: list[Path] = []
        with self._locked(_ALL):
            for digest, _ in list(self._notes("")):
                if not self.is_pinned(digest):
                    self._evict(digest, gone)
        for path in gone:
            remove(path)

    def _notes(self, but: str) -> Iterator[tuple[str, tuple[float, Note]]]:
        """Yield all entries but one: when each was used last, and its note."""
        with os.scandir(self.place / _LOCKS) as entries:
            for entry in entries:
                if entry.name not in (_ALL, but) and not entry.name.endswith(_NEW):
                    with suppress(OSError):
                        number = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                        try:
                            yield entry.name, (os.fstat(number).st_mtime, _read(number))
                        finally:
                            os.close(number)

    def _evict(self, digest: str, gone: list[Path]) -> bool:
        """Put an entry away if nobody uses it; what is to be removed is added to a list."""
        try:
            number = os.open(self._lock(digest), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is(number, digest):
                return False
            gone += self._put_aside(self.content(digest), self.part(digest), self.place / _NAMES / digest)
            with suppress(FileNotFoundError):  # who did this before may have been killed just then
                os.unlink(self.place / _LOCKS / f"{digest}{_NEW}")
            os.unlink(self._lock(digest))
        except OSError:
            return False
        finally:
            os.close(number)
        return True

    def _throw_away(self, *paths: Path) -> None:
        for path in self._put_aside(*paths):
            remove(path)

    def _put_aside(self, *paths: Path) -> Iterator[Path]:
        for path in paths:
            aside = self.place.parent / TRASH / f"file-{os.urandom(8).hex()}"
            with suppress(OSError):
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.chmod(path, 0o700)  # else its own entry for what is above it cannot be changed
                os.rename(path, aside)
                yield aside

    def _lock(self, digest: str) -> Path:
        return self.place / _LOCKS / digest

    def _is(self, number: int, digest: str) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.fstat(number), os.lstat(self._lock(digest)))
        return False


def _total(number: int) -> int | None:
    """Return what all entries have together at most; None if that is not known."""
    said = os.pread(number, 100, 0)
    return int(said) if said.isdigit() else None


def _set_total(number: int, total: int) -> None:
    os.ftruncate(number, 0)  # a kill in between leaves it unknown
    os.pwrite(number, b"%020d" % total, 0)


def _read(number: int) -> Note:
    with suppress(ValueError, TypeError):
        size, state = json.loads(os.pread(number, 1000, 0))
        return Note(int(size), str(state))
    return Note()
