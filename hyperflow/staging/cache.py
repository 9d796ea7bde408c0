"""The node's cache of files, as a worker uses it: what comes there once is there for all evaluations of the node.

Guarantees:
- What `get` returns has the content that was asked for: it was compared with the digest when it came, and is compared
  again when it is not in the state in which it was left. Damaged, cut off and foreign files are replaced.
- It is copied once, however many workers ask at the same time: the others wait. If the one that copies is killed,
  another one begins anew.
- It stays until the evaluation has ended. The evaluation that does not fit beside what others have in use waits for a
  while; one that alone wants more than there is room for fails at once, with the sizes.

A copy comes from where the node sees the source; if that is not there, or is something else, from the head. (Rejected:
to use the source where it is. A shared file system that is slow is the reason why people ask for copies, and one that
changes under an evaluation is nobody's fault.)
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from hyperflow.errors import FileChanged, FileUnavailable, MisuseError, ScratchFull
from hyperflow.saying import rounded_up
from hyperflow.staging import asking, content, copying
from hyperflow.staging.content import Entry
from hyperflow.staging.copying import Differs, Wanted
from hyperflow.staging.shelf import Note, Shelf, Taken, Use
from hyperflow.wire import scratch
from hyperflow.wire.removal import remove
from hyperflow.worker import worker

PATIENCE = 60.0
"""Seconds to wait for files that other evaluations have in use, if there is no room beside them."""

_LOOK = 0.05
"""Seconds between looks whether there is room."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Known(Protocol):
    """What a File says of itself."""

    source: str
    name: str
    node: str
    is_dir: bool
    names: Sequence[str] | None

    @property
    def digest(self) -> str:
        """See File; so the others."""
        ...

    @property
    def size(self) -> int: ...
    @property
    def listing(self) -> tuple[str, int]: ...


class NodeCache:
    """Files of this node by digest, in a directory that all workers of a launcher share."""

    def __init__(self, place: Path, limit: int) -> None:
        self.shelf = Shelf(place, limit)
        self._uses: dict[str, Use] = {}
        self._sizes: dict[str, int] = {}
        self._lock = threading.RLock()  # an evaluation may have threads

    def get(self, file: Known) -> Path:
        """Return the node's copy of a file, which nobody may change; it stays there until the evaluation ends.

        Blocks while it comes. When it has come, the first call of each evaluation looks at its state, for a directory
        at that of each file; a further one does not.

        Raises:
            FileUnavailable: It cannot be had here; FileChanged: there is another one in its place.
            ScratchFull: There is no room for it.
        """
        wanted = Wanted(file.digest, file.size, file.is_dir, file.names)
        there = self.shelf.content(wanted.digest)
        with self._lock:
            if wanted.digest in self._uses:
                return there
        use = self.shelf.use(wanted.digest)
        try:
            if not self._is_sound(use.note, there, wanted.is_dir):
                with self.shelf.making(wanted.digest):
                    if not self._is_sound(use.note, there, wanted.is_dir):
                        self._make(use, wanted, lambda part: self._bring(file, wanted, part))
            use.touch()
        except BaseException:
            use.end()
            raise
        self._keep(wanted.digest, wanted.size, use)
        return there

    def named(self, file: Known) -> Path:
        """Do the same, and return it by a name that ends as that of the file: programs look at `.gz`."""
        there = self.get(file)
        try:
            return self.shelf.named(file.digest, file.name) if file.name else there
        except OSError:  # a disk that is full to the last byte; a name that is too long here
            return there

    def put(self, path: Path, digest: str) -> Path:
        """Move or copy a file or directory of this node into it, where it stays until `<its path>.kept` is gone.

        Raises:
            FileChanged: It has another digest.
            ScratchFull: There is no room for it.
        """
        is_dir = path.is_dir()
        wanted = Wanted(digest, _size_of(path), is_dir)
        there = self.shelf.content(digest)
        use = self.shelf.use(digest)
        try:
            with self.shelf.making(digest):
                if not self._is_sound(use.note, there, is_dir):
                    self._make(use, wanted, lambda part: self._take(path, wanted, part))
                self.shelf.pin(digest)
            use.touch()
        except BaseException:
            use.end()
            raise
        self._keep(digest, wanted.size, use)
        return there

    def _take(self, path: Path, wanted: Wanted, part: Path) -> None:
        """Move something of this node, or copy it if it is another one's, too."""
        found = os.lstat(path)
        if wanted.is_dir or (found.st_nlink == 1 and not path.is_relative_to(self.shelf.place)):
            _move(path, wanted, part)
        else:
            remove(part)
            _copy(path, wanted, part)

    def ended(self) -> None:
        """The evaluation has ended: nothing of it is in use any more."""
        with self._lock:
            for use in self._uses.values():
                use.end()
            self._uses.clear()
            self._sizes.clear()

    def _keep(self, digest: str, size: int, use: Use) -> None:
        with self._lock:
            if digest in self._uses:  # another thread of the evaluation was quicker
                use.end()
            else:
                self._uses[digest], self._sizes[digest] = use, size
        worker.at_end("files in use", self.ended)

    @staticmethod
    def _is_sound(note: Note, there: Path, is_dir: bool) -> bool:
        return note.state != "" and note.state == copying.state_of(there, is_dir)

    def _make(self, use: Use, wanted: Wanted, bring: Callable[[Path], None]) -> None:
        """Let an entry be there; we are the only one who does."""
        there, part = self.shelf.content(wanted.digest), self.shelf.part(wanted.digest)
        if copying.digest_of(there, wanted.is_dir) != wanted.digest:
            self.shelf.clear(wanted.digest)  # damaged, foreign, or not there
            self._reserve(use, wanted)
            try:
                self._with_room(wanted, lambda: bring(part))
                os.rename(part, there)
            except BaseException:
                remove(part)
                use.note = Note()
                raise
        use.note = Note(wanted.size, copying.state_of(there, wanted.is_dir))

    def _reserve(self, use: Use, wanted: Wanted) -> None:
        """Wait until there is room for an entry."""
        own = sum(self._sizes.values())
        limit = self.shelf.limit
        if own + wanted.size > limit:
            besides = f", besides {content.sized(own)} that this evaluation has in use already" if own else ""
            raise self._full(
                f"{content.sized(wanted.size)} are wanted{besides}, and all files may have {content.sized(limit)} "
                f'together: more is HYPERFLOW_CACHE={rounded_up(own + wanted.size)}, or cache="..." of run_*'
            )
        until = time.monotonic() + PATIENCE
        while (taken := self.shelf.reserve(use, wanted.digest, Note(wanted.size))) is not None:
            if time.monotonic() > until or taken.pinned + own + wanted.size > limit:
                raise self._full(f"{content.sized(wanted.size)} are wanted, and {self._told(taken)}")
            time.sleep(_LOOK)

    def _told(self, taken: Taken) -> str:
        kept = f", {content.sized(taken.pinned)} are outputs that stay there (keep='node')" if taken.pinned else ""
        return (
            f"of the {content.sized(self.shelf.limit)} that all files may have together, {content.sized(taken.used)} "
            f'are in use{kept}: more is HYPERFLOW_CACHE=..., or cache="..." of run_*'
        )

    def _with_room(self, wanted: Wanted, bring: Callable[[], None]) -> None:
        """Write an entry; if the disk is full, once more without all that nobody uses."""
        try:
            bring()
        except OSError as error:
            if error.errno not in _FULL:
                raise
        else:
            return
        self.shelf.evict_all()
        try:
            bring()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            why = f"a file of {content.sized(wanted.size)} does not fit ({error.strerror})"
            raise self._full(why, scratch.free()) from error

    def _full(self, why: str, free: int = -1) -> ScratchFull:
        return ScratchFull(_node(), str(self.shelf.place.parent), why, free)

    def _bring(self, file: Known, wanted: Wanted, part: Path) -> None:
        """Copy a file from where it is seen, or have it sent."""
        differs = ""
        if not file.node:
            try:
                copying.copy(Path(file.source), wanted, part)
            except Differs as error:
                differs = str(error)
            except OSError as error:
                if error.errno in (*_FULL, errno.EFBIG):
                    raise
            else:
                return
        try:
            _fetch(file, wanted, part)
        except (FileUnavailable, MisuseError) as error:
            if differs and not isinstance(error, FileChanged):
                raise FileChanged(
                    f"{file} is another one on {_node()}, or has changed: when the program first used it, it had "
                    f"{content.sized(wanted.size)}, sha256 {wanted.digest[:12]}; here it has {differs}. "
                    f"And it cannot be sent: {error}"
                ) from error
            raise


def _fetch(file: Known, wanted: Wanted, part: Path) -> None:
    """Have a file, or a directory file by file, come from elsewhere."""
    remove(part)
    if not wanted.is_dir:
        _fetch_file(wanted.digest, wanted.size, file.source, part)
        os.chmod(part, copying.EXECUTABLE)
        return
    listed = part.with_name(f"{part.name}-list")
    try:
        source, size = file.listing
        if not source:
            raise FileUnavailable(
                f"{file} is a directory that this node does not see, and was not sent from a run: give it as an "
                "argument to the evaluation, from the job"
            )
        _fetch_file(wanted.digest, size, source, listed)
        entries = content.entries_of(listed.read_bytes())
    finally:
        remove(listed)

    def fetch(entry: Entry, to: Path) -> None:
        _fetch_file(entry.digest, entry.size, os.path.join(file.source, entry.name), to)

    copying.build(entries, part, fetch)


def _fetch_file(digest: str, size: int, source: str, to: Path) -> None:
    """Have a file come; who asks for it compares it with its digest already."""
    came = asking.fetch(digest, size, source, to.parent)
    wanted = Wanted(digest, came.stat().st_size, is_dir=False)
    try:
        os.rename(came, to)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(came, wanted, to)


def _move(path: Path, wanted: Wanted, part: Path) -> None:
    """Move something of this node, or copy it if it is on another disk."""
    remove(part)
    try:
        os.rename(path, part)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(path, wanted, part)
        return
    if wanted.is_dir:
        copying.seal(part)
    elif stat.S_ISREG(os.lstat(part).st_mode):
        os.chmod(part, copying.EXECUTABLE)
    if copying.digest_of(part, wanted.is_dir) != wanted.digest:
        if wanted.is_dir:
            os.chmod(part, 0o700)
        os.rename(part, path)
        raise FileChanged(f"{path} is not what it was when its digest was computed")


def _copy(path: Path, wanted: Wanted, part: Path) -> None:
    try:
        copying.copy(path, wanted, part)
    except Differs as error:
        raise FileChanged(f"{path} has another digest than {wanted.digest[:12]}: it has {error}") from None


def _size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a directory."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(found.st_size for _, found, target in content.walk(path) if not target)


def _node() -> str:
    try:
        return worker.worker_info().node
    except MisuseError:  # a test
        return socket.gethostname()


_cache: NodeCache | None = None


def node_cache() -> NodeCache:
    """Return the cache of this worker's node; raises FileUnavailable where there is none."""
    global _cache  # noqa: PLW0603 (a worker has one)
    if scratch.place is None:
        node = _node()
        raise FileUnavailable(
            f"files need a scratch directory, and on {node} {scratch.why_not}. Name one that can be written: "
            'HYPERFLOW_SCRATCH=/local, or scratch="/local" of run_*'
        )
    place = scratch.place / scratch.FILES
    if _cache is None or _cache.shelf.place != place:  # a worker may be the head of a run of its own
        _cache = NodeCache(place, scratch.cache_limit)
    return _cache
