"""File: a file, a directory or a URL, known by its content, on whichever node asks for it."""

from __future__ import annotations

import os
from pathlib import Path


class File:
    """A file that evaluations use, wherever they run: `genome = hf.File("genome.fa")`."""

    def __init__(self, path_or_url: str | os.PathLike[str]) -> None:
        self.source = os.fspath(path_or_url)

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal; of a directory, of the list of what is in it."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Bytes; of a directory, of all files in it."""
        raise NotImplementedError

    def path(self) -> Path:
        """Return where it is: on a worker, the node's own copy, which comes there if it is not there yet."""
        raise NotImplementedError

    def __fspath__(self) -> str:
        return str(self.path())
