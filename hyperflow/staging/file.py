"""File: a file, a directory, a pattern or a URL, known by its content, on whichever node asks for it.

Guarantees: two Files are equal if their contents are, wherever they are. An evaluation that gets one finds that content
or an error: a file that was changed after the program first used it is refused, with both states. What is touched or
moved is the same as before.

The content is looked at when it is first asked for: by an evaluation that the File goes to, by a key, by `==`. A File
of a missing path is refused at once.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hyperflow.errors import FileChanged, FileMissing, FileUnavailable, MisuseError
from hyperflow.staging import content, digests, listings
from hyperflow.staging.content import State
from hyperflow.wire import scratch

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = "file://"


class File:
    """A file that evaluations use, wherever they run: `genome = hf.File("genome.fa")`.

    Give it to an evaluation as an argument, or let its function refer to it; there `genome.path()` is a copy on that
    node's own disk, which comes once for all evaluations of the node and is read-only. `open(genome)` works, too.

    Args:
        path_or_url: A file; a directory; a pattern, such as "data/*.csv", which stands for a directory of what fits it
            now; or a URL, such as "https://..." or "s3://..." (`pip install 'hyperflow[files]'`), which is downloaded
            once, when its content is first asked for, into the run's directory. Relative paths are those of the
            program, on a worker those of the function.

    Raises:
        FileMissing: There is no such file, or nothing fits.
        FileUnavailable: It cannot be read, or is no file or directory.

    The digest, and so the first evaluation with it, costs reading it once (1 GB takes about a second), in the event
    loop; a later run with the unchanged file finds it in a cache of the user's. To wait for it elsewhere:
    `await asyncio.to_thread(lambda: genome.digest)`. A memoized function's key has the content and nothing else of it.
    """

    source: str
    """Where it is: an absolute path; a URL, without what is secret in it."""
    name: str
    """The last part of that."""
    node: str
    """On which node it is kept; "" if it is where the program runs."""
    is_dir: bool
    """Whether it is a directory, or what fitted a pattern."""
    names: Sequence[str] | None
    """What fitted the pattern, below `source`; None for all that is there."""

    def __init__(self, path_or_url: str | os.PathLike[str]) -> None:
        given = os.fspath(path_or_url)
        if not isinstance(cast(object, given), str) or not given or "\0" in given:
            raise MisuseError(f"File({path_or_url!r}): a path or a URL is needed, as a text")
        self._begin()
        if given.startswith(_LOCAL):
            given = given.removeprefix(_LOCAL)
        elif is_url(given):
            from hyperflow.staging import urls  # noqa: PLC0415 (few programs need it)

            urls.check(given)
            self._url, self.source, self.name = given, urls.shown(given), urls.last_part(given)
            return
        path = os.path.abspath(given)
        self.source, self.name = path, os.path.basename(path)
        try:
            found = os.stat(path)
        except OSError as error:
            if not glob.has_magic(given):
                raise _missing(given, path, error) from None
            self.source, self.names = _matched(given, path)
            self.is_dir, self.name = True, os.path.basename(self.source)
            return
        self.is_dir = stat.S_ISDIR(found.st_mode)
        if not self.is_dir and not stat.S_ISREG(found.st_mode):
            raise FileUnavailable(f"{path} is no ordinary file and no directory; a File has a content that stays")
        if not os.access(path, os.R_OK | (os.X_OK if self.is_dir else 0)):
            raise FileUnavailable(f"{path} cannot be read by you (user {os.geteuid()}); to see why: ls -ld {path}")

    def _begin(self) -> None:
        self.source = self.name = self.node = ""
        self.is_dir = False
        self.names = None
        self._url = ""
        self._digest = ""
        self._size = 0
        self._states: dict[str, State] = {}  # of the files that were read, by name; "" for a single one
        self._copy = ""  # of a URL: where its content is
        self._listing: tuple[str, int] = "", 0
        self._lock = threading.RLock()

    @classmethod
    def known(
        cls,
        source: str,
        digest: str,
        size: int,
        *,
        is_dir: bool = False,
        node: str = "",
        names: Sequence[str] | None = None,
        name: str = "",
        listing: tuple[str, int] = ("", 0),
    ) -> File:
        """Return a File of which all is known already.

        Args:
            source: Where it is.
            digest: See the attribute; `size`, too.
            size: In bytes.
            is_dir: Whether it is a directory.
            node: Where it is kept; "" if it is where the program runs.
            names: Of a directory: what counts of it.
            name: What it is called; the last part of the source if "".
            listing: Of a directory: a file with its manifest, and the size of that.
        """
        self = cls.__new__(cls)
        self._begin()
        self.source, self._digest, self._size, self.is_dir, self.node = source, digest, size, is_dir, node
        self.names, self.name, self._listing = names, name or os.path.basename(source), listing
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal; of a directory, of the list of what is in it.

        Raises:
            FileUnavailable: It cannot be read, or downloaded.
            FileChanged: It changes while it is read.
        """
        if not self._digest:
            with self._lock:
                if not self._digest:
                    self._look()
        return self._digest

    @property
    def size(self) -> int:
        """Bytes; of a directory, of all files in it."""
        return self._size if self.digest else 0

    @property
    def listing(self) -> tuple[str, int]:
        """Where the manifest of a directory is, for nodes that do not see that, and its size; "" where nowhere."""
        return self._listing

    def path(self) -> Path:
        """Return where it is: on a worker, the node's own copy, which comes there if it is not there yet.

        The copy stays until the evaluation ends, and nobody may change it; so return the File, and not its path. Its
        name ends as that of the original. In the job itself it is the original, and in open_inline_job, too. Blocks
        while the copy comes; to cancel the evaluation leaves nothing half copied.

        Raises:
            FileChanged: It is not what it was when the program first used it.
            FileUnavailable: It cannot be had on this node.
            ScratchFull: There is no room for it on this node.
        """
        if scratch.worker is None:
            return self._original()
        from hyperflow.staging.cache import node_cache  # noqa: PLC0415 (which needs this)

        return node_cache().named(self)

    def __fspath__(self) -> str:
        return str(self.path())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, File):
            return NotImplemented
        return self is other or (self.digest, self.is_dir) == (other.digest, other.is_dir)

    def __hash__(self) -> int:
        return hash((self.digest, self.is_dir))

    def __repr__(self) -> str:
        kept = f", on {self.node}" if self.node else ""
        return f"File({self.source!r}{kept})"

    def __reduce__(self) -> tuple[Any, ...]:
        digest = self.digest
        if self.is_dir and not self._listing[0]:
            self._listing = listings.write(self._entries())
        source = self._copy or self.source
        return _known, (source, digest, self._size, self.is_dir, self.node, self.names, self.name, self._listing)

    def to_key(self) -> list[Any]:
        """Return what counts of it in keys."""
        return [self.digest, self.is_dir]

    def to_value(self) -> list[Any]:
        """Return what the results database keeps of it."""
        _, (source, digest, size, is_dir, node, names, name, _) = self.__reduce__()
        return [digest, is_dir, size, source, node, None if names is None else list(names), name]

    @classmethod
    def from_value(
        cls,
        digest: str,
        is_dir: bool = False,
        size: int = 0,
        source: str = "",
        node: str = "",
        names: Sequence[str] | None = None,
        name: str = "",
    ) -> File:
        """Return what `to_value` was called on, as far as that says."""
        return cls.known(source, digest, size, is_dir=is_dir, node=node, names=names, name=name)

    # ---- the original ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Learn the digest and the size."""
        try:
            if self._url and not self._copy:
                from hyperflow.staging import urls  # noqa: PLC0415 (as above)

                self._copy, self._digest, self._size = urls.download(self._url)
                return
            if self.is_dir:
                entries = self._entries()
                self._size = content.total(entries)
                self._digest = content.digest_of(content.manifest(entries))
                return
            with digests.opened() as book:
                digest, state = book.digest(Path(self.source))
        except FileUnavailable:  # some of these are an OSError, too
            raise
        except OSError as error:
            raise FileUnavailable(f"{self.source} cannot be read: {error.strerror or error}") from error
        self._states, self._size, self._digest = {"": state}, state.size, digest

    def _entries(self) -> list[content.Entry]:
        """Read a directory."""
        top = Path(self.source)
        with digests.opened() as book:
            entries, self._states = content.look(top, self.names, lambda name, _: book.digest(top / name)[0])
        return entries

    def _original(self) -> Path:
        """Return where the original is, if it is what it was."""
        if self.node:
            raise FileUnavailable(
                f"{self.source} is kept on {self.node}, and not here: use it in an evaluation, or let it come home: "
                'Output(..., keep="home")'
            )
        path = Path(self._copy if self._url and self.digest else self.source)
        if self._digest and not self._url and not self._is_as_it_was():
            raise self._changed()
        return path

    def _is_as_it_was(self) -> bool:
        """Whether the original is what it was, by its state or else by its content."""
        again = File.known(self.source, "", 0, is_dir=self.is_dir, names=self.names)
        try:
            if not self.is_dir and self._states.get("") == State.of(os.stat(self.source)):
                return True
            again._look()
        except (OSError, FileUnavailable):
            return False
        if again._digest == self._digest:
            self._states = again._states
            return True
        return False

    def _changed(self) -> FileChanged:
        was = f"{content.in_words(self._states[''])}, " if "" in self._states else ""
        try:
            again = File(self.source)
            now = f"{content.in_words(State.of(os.stat(self.source)))}, sha256 {again.digest[:12]}"
        except (OSError, FileUnavailable) as error:
            now = f"it cannot be read ({error})"
        return FileChanged(
            f"{self.source} is not what it was when the program first used it: then {was}sha256 {self._digest[:12]}; "
            f"now {now}. Let nobody change it while the program runs; to use the new one, make a new File of it"
        )


def is_url(text: str) -> bool:
    """Whether something is a URL and not a path."""
    return _URL.match(text) is not None


def _known(
    source: str,
    digest: str,
    size: int,
    is_dir: bool,
    node: str,
    names: Sequence[str] | None,
    name: str,
    listing: tuple[str, int],
) -> File:
    return File.known(source, digest, size, is_dir=is_dir, node=node, names=names, name=name, listing=listing)


def _matched(given: str, path: str) -> tuple[str, tuple[str, ...]]:
    """Return the directory above all that fits a pattern, and what fits, below it."""
    parts = path.split(os.sep)
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    top = os.sep.join(parts[:fixed]) or os.sep
    names = sorted(os.path.relpath(match, top) for match in glob.iglob(path, recursive=True))
    names = [name for name in names if name != "."]
    if not names:
        raise FileMissing(f"nothing fits the pattern {given!r} in {top}")
    return top, tuple(names)


def _missing(given: str, path: str, error: OSError) -> FileUnavailable:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return FileUnavailable(f"{path} cannot be looked at: {error.strerror or error}")
    above, name = os.path.split(path)
    try:
        near = difflib.get_close_matches(name, os.listdir(above), 1)
    except OSError:
        near = []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    relative = "" if os.path.isabs(given) else f" (relative to {os.getcwd()})"
    return FileMissing(f"there is no file {given!r}{relative}{hint}")
