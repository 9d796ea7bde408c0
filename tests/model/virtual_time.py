"""An event loop without a clock: time passes only when it is told to, and jumps to the next timer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

MOST_TURNS = 1500
"""Of the loop, without time passing."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is due; it has no files, no threads and no signals."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self._until = 0.0
        self._turns = 0  # since time has passed
        self._selector = self  # the base class asks it how long there is nothing to do
        self.set_exception_handler(lambda *_: None)  # errors of tasks that a crash has left are nobody's

    def time(self) -> float:
        return self.now

    def select(self, timeout: float | None) -> list[Any]:
        """Let time pass until the next timer, or stop."""
        self._turns += 1
        if self._turns > MOST_TURNS:
            self._turns = 0
            raise RuntimeError("it goes on and on, and no time passes")
        if timeout != 0:
            self._turns = 0
            if timeout is not None and self.now + timeout <= self._until:
                self.now += timeout
            else:
                self.now = max(self.now, self._until)
                self.stop()
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def pass_time(self, seconds: float = 0.0) -> None:
        """Run all that is due within so many seconds."""
        self._until = self.now + seconds
        self.run_forever()

    def do(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a coroutine."""
        return self.create_task(work)

    def end(self) -> None:
        """Cancel all that is left, and close."""
        for _ in range(100):
            tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            try:
                self.pass_time()
            except RuntimeError:  # it has been told before
                break
        self.close()


@contextlib.contextmanager
def clock_of(*modules: str) -> Iterator[None]:
    """Let `time` in these modules be that of the loop that runs."""

    def now() -> float:
        return asyncio.get_running_loop().time()

    clock = SimpleNamespace(time=now, monotonic=now, localtime=lambda _: None, strftime=lambda *_: "now")
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(f"{module}.time", clock)
        yield
