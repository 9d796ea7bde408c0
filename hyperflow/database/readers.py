"""Which reader a results database has: a file's, or a server's."""

from __future__ import annotations

import os
from pathlib import Path

from hyperflow import program
from hyperflow.database import place
from hyperflow.database.reading import FileReader, Reader
from hyperflow.errors import ConfigurationError


def reader(target: str | os.PathLike[str]) -> Reader:
    """Return what reads a file, or the database with this URL; that it can be read is checked at once.

    Raises:
        ConfigurationError: There is no such file, or it is none; the URL is wrong; psycopg is missing.
        DatabaseError: It is damaged, empty, not hyperflow's or of a newer version; the server refuses us.
    """
    found: Reader
    if program.is_url(target):
        url = program.checked_url(str(target))
        try:
            from hyperflow.database.server_reading import ServerReader  # noqa: PLC0415 - psycopg is optional
        except ImportError as error:
            raise ConfigurationError(
                f"{url!r} needs psycopg ({error}); type: pip install 'hyperflow[postgresql]'"
            ) from error
        found = ServerReader(url)
    else:
        found = FileReader(place.resolved(Path(target)))
    found.maps()
    return found
