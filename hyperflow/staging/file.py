"""File: a file, a directory or a URL, known by its content, on whichever node asks for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hyperflow.staging import content
from hyperflow.wire import scratch


class File:
    """A file that evaluations use, wherever they run: `genome = hf.File("genome.fa")`."""

    def __init__(self, path_or_url: str | os.PathLike[str]) -> None:
        self.source = os.path.abspath(os.fspath(path_or_url))
        self.node = ""
        self.is_dir = os.path.isdir(self.source)
        self._digest = ""
        self._size = 0

    @classmethod
    def known(
        cls, source: str, digest: str, size: int, *, is_dir: bool = False, node: str = "", names: Any = None
    ) -> File:
        """Return a File of which all is known already, `node`: on which node it is kept."""
        self = cls.__new__(cls)
        self.source, self._digest, self._size, self.is_dir, self.node = source, digest, size, is_dir, node
        self.names = names
        return self

    @property
    def name(self) -> str:
        """The last part of its path."""
        return os.path.basename(self.source)

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal; of a directory, of the list of what is in it."""
        if not self._digest:
            if self.is_dir:
                top = Path(self.source)
                entries, _ = content.look(top, None, lambda name, _: content.digest_file(top / name)[0])
                self._digest = content.digest_of(content.manifest(entries))
                self._size = sum(entry.size for entry in entries)
            else:
                self._digest, state = content.digest_file(self.source)
                self._size = state.size
        return self._digest

    @property
    def size(self) -> int:
        """Bytes; of a directory, of all files in it."""
        return (self.digest and self._size) or 0

    def path(self) -> Path:
        """Return where it is: on a worker, the node's own copy, which comes there if it is not there yet."""
        if scratch.worker is None:
            return Path(self.source)
        from hyperflow.staging.cache import node_cache  # noqa: PLC0415

        return node_cache().get(self)

    def __fspath__(self) -> str:
        return str(self.path())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and (self.digest, self.is_dir) == (other.digest, other.is_dir)

    def __hash__(self) -> int:
        return hash((self.digest, self.is_dir))

    def __reduce__(self) -> tuple[Any, ...]:
        return _known, (self.source, self.digest, self.size, self.is_dir, self.node)

    def __repr__(self) -> str:
        return f"File({self.source!r})"


def _known(source: str, digest: str, size: int, is_dir: bool, node: str) -> File:
    return File.known(source, digest, size, is_dir=is_dir, node=node)
