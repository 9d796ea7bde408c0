"""A results database that is opened when it is first used.

Only where nothing can be in the way, which else is told when the program begins: in a temporary directory that the
program has just made for itself. Most programs without a directory of their own record nothing; and to import SQLite,
and to make a file that survives any crash, takes longer than all else that the begin of a run needs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperflow.errors import DatabaseError

if TYPE_CHECKING:
    from hyperflow.database.store import Store
    from hyperflow.environment import ResultsDatabase


@asynccontextmanager
async def on_demand(path: Path, program_id: str) -> AsyncIterator[ResultsDatabase]:
    """Open the database within a scope as soon as somebody uses it; the end of the scope closes it.

    What opening it raises, each of its users gets.
    """
    async with AsyncExitStack() as stack:
        deferred: Any = _Deferred(path, program_id, stack)
        yield deferred


class _Deferred:
    """What is asked of it, it asks of the store."""

    def __init__(self, path: Path, program_id: str, stack: AsyncExitStack) -> None:
        self._path = path
        self._program_id = program_id
        self._stack = stack
        self._pid = os.getpid()
        self._store: Store | None = None

    def __getattr__(self, name: str) -> Any:
        if self._store is None:
            self._store = self._opened()
        return getattr(self._store, name)

    def _opened(self) -> Store:
        if os.getpid() != self._pid:
            raise DatabaseError(
                f"the results database {self._path} belongs to process {self._pid}; a process forked from it cannot "
                "use it. Return results from the evaluation and record them in the job"
            )
        from hyperflow.database.store import Store  # noqa: PLC0415 (see above)

        store = Store(self._path, self._program_id)
        store.thread.opened.add_done_callback(store.thread.not_opened)
        self._stack.push_async_callback(_closed, store)
        return store


async def _closed(store: Store) -> None:
    """Close what was opened; if that has failed, its users know."""
    try:
        await store.thread.wait_opened()
    except asyncio.CancelledError:
        raise
    except BaseException:  # noqa: BLE001 (see above)
        return
    await store.close()
