"""Programs that ran a job on a pool by themselves, started again: `hyperflow resume`."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

from hyperflow.cli import records
from hyperflow.errors import ConfigurationError
from hyperflow.private import Held
from hyperflow.program import CONTINUED
from hyperflow.records import record
from hyperflow.records.record import State


def find(run: str | None, base_dir: Path) -> Path | None:
    """Return the directory of a run that was a job on a pool; None if that run is something else, or is not there."""
    try:
        found = records.find(run, base_dir)
    except ConfigurationError:
        return None
    is_one = found.cluster is None and found.record is not None and found.record.kind == "job"
    return found.home if is_one and (found.home / "pool").is_dir() else None


def resume(home: Path) -> int:
    """Start its program again, in the place of this process.

    Raises:
        ConfigurationError: It runs, or its script is not there; somebody else could have written what is to be started.
    """
    with Held.open(home) as held, held.enter("log") as logs:
        found = record.read(logs / record.NAME)
    if found is None:
        raise ConfigurationError(f"{home / 'log' / record.NAME} cannot be read: start the program by hand")
    if found.state(time.time()) is State.RUNNING:
        raise ConfigurationError(f"{found.owner} still runs: it need not be resumed")
    script = Path(found.directory, *found.argv[:1])
    if not found.argv or not script.is_file():
        raise ConfigurationError(
            f"{home} was begun by {(*found.argv, 'an interactive session')[0]}, which is not there; open its pool "
            f"again with program=hyperflow.ProgramInfo.existing({str(home)!r}, {found.run!r}, {found.database!r})"
        )
    words = [sys.executable, *found.argv]
    print(f"hyperflow: in {found.directory}: {shlex.join(words)}", file=sys.stderr, flush=True)
    try:
        os.chdir(found.directory)
        os.execve(sys.executable, words, {**os.environ, CONTINUED: str(home)})
    except OSError as error:
        raise ConfigurationError(f"cannot start it: {error}") from None
