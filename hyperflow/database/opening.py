"""Opening a program's results database: a file, or a server where the program names one."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from hyperflow import program
from hyperflow.database import store
from hyperflow.errors import ConfigurationError

if TYPE_CHECKING:
    from hyperflow.database.shared import SharedStore


def open_database(
    target: str | os.PathLike[str], program_id: str
) -> AbstractAsyncContextManager[store.Store | SharedStore]:
    """Open a program's results database for a scope; it is made if it is not there.

    Leaving the scope waits until everything queued is recorded, also when cancelled.

    Args:
        target: A file, which only one process at a time may have open; or `postgresql://user@host/database`, which
            many may. There is no password in it: `~/.pgpass` is the place for that.
        program_id: Is noted with every entry, and told to others who want the file.

    Raises:
        ConfigurationError: The place cannot be used: a directory, read-only, writable by others; or the URL is wrong.
        DatabaseError: The file is in use, damaged, not hyperflow's, or of a newer version; or the server refuses us.
    """
    if not program.is_url(target):
        return store.open_file(target, program_id)
    url = program.checked_url(str(target))
    try:
        from hyperflow.database.shared import open_shared  # noqa: PLC0415 - psycopg is optional
    except ImportError as error:
        raise ConfigurationError(
            f"database={url!r} needs psycopg ({error}); type: pip install 'hyperflow[postgresql]'"
        ) from error
    return open_shared(url, program_id)
