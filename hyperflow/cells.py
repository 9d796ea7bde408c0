"""Background work of a notebook's cells whose failure nobody has awaited: it is told at the end of the next cell.

Guarantees: a failure is told once, as soon as a cell ends after it; not if somebody has awaited it by then. What is
told may still be awaited. Nothing is kept that was told, awaited or cancelled.

Why not asyncio's own "exception was never retrieved": it comes when the future is forgotten, and a notebook forgets
nothing: its variables, and the results of its cells, live as long as the kernel.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from hyperflow import failures

MOST_TOLD = 10
"""So many failures are told in full at the end of one cell."""


class _Events(Protocol):
    def register(self, event: str, function: Callable[..., None]) -> None: ...
    def unregister(self, event: str, function: Callable[..., None]) -> None: ...


def _events() -> _Events | None:
    """Return where IPython announces cells; None where there is no IPython."""
    ipython: Any = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return None if shell is None else shell.events


def watch() -> Callable[[], None] | None:
    """Watch what cells start on this event loop, and return what ends that; without IPython, do nothing."""
    if (events := _events()) is None:
        return None
    watcher = Watcher(asyncio.get_running_loop())
    watcher.begin()
    events.register("post_run_cell", watcher.tell)

    def end() -> None:
        events.unregister("post_run_cell", watcher.tell)
        watcher.end()
        watcher.tell()

    return end


@attrs.define(eq=False)
class Watcher:
    """Collects failures of tasks and evaluations of one event loop, and tells those that nobody has awaited."""

    loop: asyncio.AbstractEventLoop
    _failed: list[asyncio.Future[Any]] = attrs.field(factory=list[asyncio.Future[Any]], init=False)
    _tidy_at: int = attrs.field(default=100, init=False)
    _earlier_factory: Any = attrs.field(default=None, init=False)

    def begin(self) -> None:
        """See the tasks that are created from now on, and the evaluations that fail."""
        self._earlier_factory = self.loop.get_task_factory()
        self.loop.set_task_factory(self._make_task)
        failures.watcher = self._seen

    def end(self) -> None:
        """Look no more."""
        if failures.watcher == self._seen:
            failures.watcher = None
        if self.loop.get_task_factory() == self._make_task:  # else somebody has put another one in front of it
            self.loop.set_task_factory(self._earlier_factory)

    def tell(self, *_: object) -> None:
        """Print what has failed and was not awaited."""
        lost = [future for future in self._failed if _is_unseen(future)]
        self._failed.clear()
        self._tidy_at = 100
        for future in lost[:MOST_TOLD]:
            print(_in_words(future), file=sys.stderr)
        for future in lost[MOST_TOLD:]:
            future.exception()
        if len(lost) > MOST_TOLD:
            print(f"... and {len(lost) - MOST_TOLD} more failed in the background", file=sys.stderr)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        make = self._earlier_factory
        task = asyncio.Task(coroutine, loop=loop, **options) if make is None else make(loop, coroutine, **options)
        task.add_done_callback(self._seen)
        return task

    def _seen(self, future: asyncio.Future[Any]) -> None:
        if not _is_unseen(future):
            return
        self._failed.append(future)
        if len(self._failed) >= self._tidy_at:  # those that somebody has awaited meanwhile need not be kept
            self._failed = [one for one in self._failed if _is_unseen(one)]
            self._tidy_at = 2 * len(self._failed) + 100


def _is_unseen(future: asyncio.Future[Any]) -> bool:
    """Whether a future has failed and nobody has asked for its exception: what asyncio itself looks at."""
    return future.done() and bool(getattr(future, "_log_traceback", False))


def _in_words(future: asyncio.Future[Any]) -> str:
    error = future.exception()
    assert error is not None
    name = f" (task {future.get_name()})" if isinstance(future, asyncio.Task) else ""
    failures.shorten(error)
    trace = "".join(traceback.format_exception(error)).rstrip()
    return f"Failed in the background{name}, and nobody has awaited it:\n{trace}"
