"""OpenBLAS, which numpy and scipy bring along: how many threads it uses, by its own functions.

Variables such as OMP_NUM_THREADS tell it only before it is loaded. In a forked child it starts its threads again when
it needs them, as many as it had; the number is kept in the library, and so can be set before a fork.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_OTHERS = ("libmkl", "libiomp", "libomp", "libgomp", "libblis", "libflexiblas", "libatlas", "libtbb")
_NAMES = [(before, after) for before in ("scipy_", "") for after in ("", "64_", "64")]


def _mapped() -> set[str]:
    """Return the files of this process's libraries."""
    if "numpy" not in sys.modules:
        return set()
    with open("/proc/self/maps", "rb") as file:
        return {os.fsdecode(words[5].rstrip()) for line in file if len(words := line.split(None, 5)) > 5}


def others() -> bool:
    """Whether a numerical library with threads of its own is loaded of which nothing is known here."""
    return any(os.path.basename(path).startswith(_OTHERS) for path in _mapped())


def _libraries() -> Iterator[tuple[ctypes.CDLL, str, str]]:
    for path in _mapped():
        if "openblas" in os.path.basename(path):
            import ctypes  # noqa: PLC0415 (most programs have no such library)

            with contextlib.suppress(OSError):
                library = ctypes.CDLL(path)
                for before, after in _NAMES:
                    if hasattr(library, f"{before}openblas_set_num_threads{after}"):
                        yield library, before, after
                        break


def follow_environment() -> None:
    """Let it use as many threads as the variables say by now."""
    said = os.environ.get("OPENBLAS_NUM_THREADS", "")
    threads = int(said) if said.isdecimal() else 1
    if threads == 1:
        return  # as it is in a launcher
    for library, before, after in _libraries():
        library[f"{before}openblas_set_num_threads{after}"](threads)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let it use one thread in this scope, and in what is forked in it; outside, as many as before."""
    found = [(*each, each[0][f"{each[1]}openblas_get_num_threads{each[2]}"]()) for each in _libraries()]
    for library, before, after, _ in found:
        library[f"{before}openblas_set_num_threads{after}"](1)
    try:
        yield
    finally:
        for library, before, after, threads in found:
            library[f"{before}openblas_set_num_threads{after}"](threads)
