"""A look at all pages of a database file, in a thread of its own, while the program works with it.

What an answer depends on is checked when it is read (see `layout`). This finds the other damage early: `quick_check`
reads the whole file, and what it finds is logged, with what to type. Large files are left to `hyperflow check`, because
they would take the disk from the program and make it wait at its end; so are files without a WAL, whose readers and
writer wait for each other.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

from hyperflow.database import layout

logger = logging.getLogger("hyperflow")

LARGEST = 256 * 1024 * 1024
"""Bytes; it takes about a second."""


class BackgroundCheck:
    """A check that is under way until it has ended, or `stop` is called."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopped = False
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name=f"hyperflow-check {path.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait until the file is closed."""
        self._stopped = True
        with suppress(sqlite3.Error, AttributeError):  # it has just ended
            self._connection.interrupt()  # type: ignore[union-attr]
        self._thread.join()

    def _run(self) -> None:
        try:
            found = self._find()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            found = str(error)
        if found != "ok" and not self._stopped:
            logger.error("%s", layout.damaged(self._path, found))

    def _find(self) -> str:
        uri = f"{self._path.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=1.0, check_same_thread=False)) as connection:
            self._connection = connection
            layout.prepare(connection)
            if self._stopped:
                return "ok"
            return "; ".join(str(text) for (text,) in connection.execute("PRAGMA quick_check(3)"))
