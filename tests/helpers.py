"""What more than one test needs."""

import asyncio
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from hyperflow.wire import frames
from hyperflow.wire.numbers import WorkerNumber

T = TypeVar("T")


async def wait_until(
    predicate: Callable[[], T], timeout: float, what: str, *, state: Callable[[], object] | None = None
) -> T:
    """
    Ask again and again until the predicate's answer is true, and return it.

    For integration tests only, where another process has no event to offer: everything else can be awaited.
    When time is up, the error shows the last answer, or what *state* returns where the answer says too little.
    """
    patience = _Patience(timeout, what, state)
    while not (seen := predicate()):  # noqa: ASYNC110 - there is no event to wait for in another process
        await asyncio.sleep(patience.pause(seen))
    return seen


def block_until(
    predicate: Callable[[], T], timeout: float, what: str, *, state: Callable[[], object] | None = None
) -> T:
    """Do as `wait_until()`, in a test without an event loop."""
    patience = _Patience(timeout, what, state)
    while not (seen := predicate()):
        time.sleep(patience.pause(seen))
    return seen


def answers_of(body: memoryview) -> Iterator[tuple[WorkerNumber, float, memoryview]]:
    """Yield worker, age and records of each part of a frame of answers."""
    at, parts = frames.parts_of_answers(body)
    for worker, size, age in parts:
        yield worker, age, body[at : at + size]
        at += size
    assert at == len(body), "answers that are longer than their frame"


PATIENCE = 20.0
"""Seconds that a wait lasts at least before it fails: on two cores with other tests beside, all may take that long.
Where all is well it costs nothing. A test that measures a time looks at a clock itself."""


class _Patience:
    """The pauses of one wait, until its time is up."""

    def __init__(self, timeout: float, what: str, state: Callable[[], object] | None) -> None:
        timeout = max(timeout, PATIENCE)
        self.timeout = timeout
        self.what = what
        self.state = state
        self.deadline = time.monotonic() + timeout
        self.next = 0.002

    def pause(self, seen: object) -> float:
        if time.monotonic() > self.deadline:
            last = self.state() if self.state else seen
            raise TimeoutError(f"{self.what}: not within {self.timeout} s; last seen: {last!r}")
        self.next = min(self.next * 1.5, 0.1)
        return self.next


def alive(pid: int) -> bool:
    """Does this process still run? A zombie does not: it only waits for its parent, or for a lazy init, to look."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def module_at(path: Path) -> ModuleType:
    """Return the module of a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
