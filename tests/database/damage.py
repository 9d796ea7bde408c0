"""Ways to damage a database file, one small function each; tests choose where and how."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    """Change one byte, as a failing disk would."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def places(path: Path, page: int = 4096, step: int = 256) -> Iterator[int]:
    """Return offsets in every page: its header, its first cell pointers, and more of them all over the page."""
    for start in range(0, path.stat().st_size, page):
        inside = {0, 1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 40, *range(97, page, step), page - 1, page - 9}
        if start == 0:
            inside |= set(range(100, 140)) | set(range(16, 100))
        yield from (start + offset for offset in sorted(inside))


def remove(path: Path) -> None:
    """Remove a file that somebody has open."""
    path.unlink()


def replace(path: Path) -> None:
    """Put a copy in the place of a file that somebody has open."""
    copy = path.with_name(path.name + ".copy")
    copy.write_bytes(path.read_bytes())
    os.replace(copy, path)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes hang for a while, as a machine does that has no memory left; they are not gone."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
