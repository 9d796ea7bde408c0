"""Runs of arrays, gone on with: `hyperflow resume`, and `hyperflow retry RUN --tasks failed`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hyperflow.cli import records
from hyperflow.errors import ConfigurationError
from hyperflow.private import Held

PLACE = Path("array", "spec.json")


def find(run: str | None, base_dir: Path) -> Path | None:
    """Return the directory of a run of an array, by default the newest run of all kinds in the base directory.

    None if that run is something else, or is not there.
    """
    if run is None:
        home = max(_runs(base_dir), default=base_dir)
    else:
        try:
            home = records.find(run, base_dir).home
        except ConfigurationError:  # one that has not begun has left no record
            home = Path(run) if (Path(run) / PLACE).exists() else base_dir / run
    return home.absolute() if (home / PLACE).is_file() else None


def _runs(base_dir: Path) -> list[Path]:
    """Return the directories of runs; their names begin with the time."""
    try:
        return [home for home in base_dir.iterdir() if (home / "log").is_dir()]
    except OSError:
        return []


def go_on(home: Path, chosen: str = "") -> int:
    """Run what of an array is not done, where it was typed, in this process.

    Raises:
        ConfigurationError: It runs; somebody else could have written what is to be run.
    """
    from hyperflow.commands import program  # noqa: PLC0415 (the other commands about jobs need none of it)
    from hyperflow.commands.spec import ArraySpec  # noqa: PLC0415 (the same)

    with Held.open(home) as held, held.enter("array"):
        spec = ArraySpec.read(home / "array")
    program.check_idle(home)
    which = f"those that are not done: {chosen}" if chosen else f"{spec.count:,} tasks"
    where = f"hyperflow: in {spec.directory}: {home.name}, {which}"
    print(where, file=sys.stderr, flush=True)
    try:
        os.chdir(spec.directory)
    except OSError as error:
        raise ConfigurationError(f"{spec.directory}, where the array was typed: {error.strerror}") from None
    sys.argv[1:] = spec.words  # it is what `hyperflow runs` is to show
    return program.run(home, chosen)


def retry(run: str | None, base_dir: Path, chosen: str) -> int:
    """Run tasks of an array again that are not done; raises ConfigurationError."""
    home = find(run, base_dir)
    if home is None:
        found = records.find(run, base_dir)
        raise ConfigurationError(
            f"{found.home} is no run of `hyperflow array`, so it has no tasks; its jobs: hyperflow list"
        )
    if not chosen:
        raise ConfigurationError(
            "--tasks: say which, such as failed, or 3,17-20; all that are not done: hyperflow resume"
        )
    return go_on(home, chosen)
