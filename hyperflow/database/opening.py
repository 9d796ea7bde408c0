"""Opening a program's results database: a file, or a server where the program names one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hyperflow import program
from hyperflow.database.store import Store
from hyperflow.errors import ConfigurationError

if TYPE_CHECKING:
    from hyperflow.database.shared import SharedStore


def open_database(target: str | os.PathLike[str], program_id: str) -> AbstractAsyncContextManager[Store | SharedStore]:
    """Open a program's results database for a scope, and make it if it is not there.

    Leaving the scope waits until everything queued is recorded, also when cancelled.

    Args:
        target: A file, which only one process at a time can have open; or `postgresql://user@host/database`, which
            many can. The URL has no password in it: `~/.pgpass` is the place for that.
        program_id: Goes into every entry; who finds the file locked, or lists the server's connections, sees it.

    Raises:
        ConfigurationError: The place cannot be used: a directory, read-only, writable by others; or the URL is wrong.
        DatabaseError: The file is in use, damaged, not hyperflow's, or of a newer version; or the server refuses us.
    """
    if not program.is_url(target):
        return _scope(lambda: Store(Path(target), program_id))
    url = program.checked_url(str(target))
    try:
        from hyperflow.database.shared import SharedStore  # noqa: PLC0415 - psycopg is optional
    except ImportError as error:
        raise ConfigurationError(
            f"database={url!r} needs psycopg ({error}); type: pip install 'hyperflow[postgresql]'"
        ) from error
    return _scope(lambda: SharedStore(url, program_id))


@asynccontextmanager
async def _scope(start: Callable[[], Store | SharedStore]) -> AsyncIterator[Store | SharedStore]:
    store = start()
    await store.thread.wait_opened()
    try:
        yield store
    finally:
        await store.close()
