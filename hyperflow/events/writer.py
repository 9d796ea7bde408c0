"""The event log: one JSON line per change of state of workers and tasks, with times.

    {"t": 1763600000.123456, "state": "running", "tasks": [7, 8, 9], "worker": "worker-0@node1"}

Tasks that change together share a line: to write one for each would cost a quarter of the way of an evaluation. Lines
are written a moment later, in batches, and the last ones may be missing after a kill: this is a record for people and
plots, not what the results depend on. A disk that is full costs the log, not the run.
"""

from __future__ import annotations

import json
import time
import warnings
from io import BufferedWriter
from pathlib import Path


class EventLog:
    """Collects lines; `flush` writes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self._file: BufferedWriter | None = path.open("ab")

    def tasks(self, state: str, numbers: list[int], more: str = "") -> None:
        """Note the new state of some tasks. `more` is JSON members with a comma before them."""
        self.lines.append(f'{{"t": {time.time():.6f}, "state": "{state}", "tasks": {numbers}{more}}}\n')

    def note(self, **members: object) -> None:
        """Note anything else."""
        self.lines.append(json.dumps({"t": round(time.time(), 6), **members}) + "\n")

    def flush(self) -> None:
        """Write what has been collected."""
        lines, self.lines = self.lines, []
        if self._file is None or not lines:
            return
        try:
            self._file.write("".join(lines).encode())
            self._file.flush()
        except OSError as error:
            text = f"the event log {self.path} ends here: {error}; the run goes on"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            self._abandon()

    def _abandon(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                file.raw.close()

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        self._abandon()
