"""`hyperflow check` and `hyperflow repair`: are the files of a run as they were written, and what to do if not.

Checking changes nothing, and works while the run is at work. Repairing takes the database's lock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter

from hyperflow import checked_files
from hyperflow.checked_files import Damaged
from hyperflow.cli import heads
from hyperflow.cli.answers import BASE_DIR, REFUSED, BaseDir, Json, answering
from hyperflow.database.repair import Repaired, examine, repair
from hyperflow.errors import ConfigurationError
from hyperflow.master import rundir

What: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="A run: its id, the beginning of it, or its directory; by default the newest. Or a database's file."
    ),
]


def add_to(main: App) -> None:
    """Add the commands to the command line."""
    for command in (check, repair_):
        main.command(answering(command))


def check(run: What = None, /, *, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Read all that a run has recorded, every page of its databases and every result, and say what is damaged.

    The exit code is 1 if anything is. `hyperflow repair` saves what is whole in a damaged database.
    """
    place = _place(run, base_dir)
    found = [examine(path) for path in _databases(place)]
    others = [] if place.is_file() else list(_damaged_files(place))
    wrong = bool(others) or any(each.problems for each in found)
    if as_json:
        rows = [{"path": str(each.path), "entries": each.entries, "problems": each.problems} for each in found]
        print(json.dumps({"run": str(place), "ok": not wrong, "databases": rows, "files": others}, indent=2))
        return REFUSED if wrong else 0
    for each in found:
        print(f"{each.path}: {each.entries} entries, {'damaged:' if each.problems else 'all whole'}")
        for problem in each.problems:
            print(f"    {problem}")
        if each.problems:
            print(f"    to go on with all that is whole in it, type: hyperflow repair {each.path}")
    for other in others:
        print(other)
    if not found:
        print(f"{place} has no database's file")
    return REFUSED if wrong else 0


def repair_(
    run: What = None,
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(name=["--output", "-o"], help="The new file; by default it takes the place of the old one."),
    ] = None,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Make new files of all that is whole in the damaged databases of a run that is not at work; the old ones are kept.

    The old file gets another name beside the new one, which is printed. What is missing is computed again when a
    program asks for it.
    """
    place = _place(run, base_dir)
    if output is not None and not place.is_file():
        raise ConfigurationError("--output is for one database: name its file, as `hyperflow check` shows it")
    damaged = [path for path in _databases(place) if output is not None or examine(path).problems]
    done = [repair(path, output) for path in damaged]
    if as_json:
        rows = [
            {"new": str(each.new), "old": str(each.old), "entries": each.entries, "lost": each.lost} for each in done
        ]
        print(json.dumps({"run": str(place), "repaired": rows}, indent=2))
        return 0
    for each in done:
        print(_in_words(each))
    if not done:
        print(f"nothing in {place} has to be repaired")
    return 0


def _in_words(done: Repaired) -> str:
    lost = "how many are missing is not known" if done.lost is None else f"{done.lost} could not be saved"
    words = f"{done.new}: {done.entries} entries, {lost}; the damaged file is kept as {done.old}"
    if done.without_watermarks:
        words += "; how far some jobs' results had been taken is lost, so they may be taken once more"
    return words


def _place(run: str | None, base_dir: Path) -> Path:
    """Return a database's file, or the directory of a run."""
    if run is not None and Path(run).is_file():
        return Path(run).absolute()
    if run is not None and any(Path(run).glob("*.sqlite")):  # a run that has no event log
        return Path(run).absolute()
    return heads.find(run, base_dir)


def _databases(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    found = [*sorted(place.glob("*.sqlite")), *sorted(place.glob("jobs/*/results.*.sqlite"))]
    with suppress(OSError, ValueError, KeyError, TypeError):
        elsewhere = Path(json.loads((place / "program.json").read_text())["database"])
        if elsewhere.is_file() and elsewhere not in found:
            found.append(elsewhere)
    return found


def _damaged_files(home: Path) -> Iterator[str]:
    """Return what is wrong with the records, calls and results of a run's jobs."""
    if not (home / "jobs").is_dir():
        return
    for directory in rundir.job_directories(home):
        reads: list[Callable[[], object]] = [directory.read_record]
        reads.append(partial(checked_files.read_checked, directory.call, "call"))
        reads += [partial(directory.read_result, epoch) for epoch in directory.results()]
        for read in reads:
            try:
                read()
            except (OSError, Damaged) as error:
                yield str(error)
