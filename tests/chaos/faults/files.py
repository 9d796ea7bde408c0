"""{every file of a run} x {missing, cut, flipped, swapped, unreadable, another user's} x {at work, between turns}.

What was recorded may be lost with the file that had it; but that is told before an answer depends on it. Then the user
does what the message says, which is the last turn's beginning: puts the file back, or types `hyperflow repair`.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.chaos import boxes
from tests.chaos.case import Case, NotRun
from tests.chaos.faults.processes import members, middle
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.helpers import block_until
from tests.imports import TOP

FILES = {
    "database": "results.sqlite",
    "WAL": "results.sqlite-wal",
    "index of the WAL": "results.sqlite-shm",
    "lock": "results.sqlite.lock",
    "configuration": "config.toml",
    "event log": "runs/*/log/events.jsonl",
    "log of a worker": "runs/*/log/*worker*",
    "log of the launcher": "runs/*/log/*launcher*",
    "directory of logs": "runs/*/log",
    "directory of the program": "runs/*",
    "directory of all": "runs",
}

# --------------------------------------------------------------------------------------------------- damages


def missing(run: Run, path: Path) -> None:
    """Remove it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def emptied(run: Run, path: Path) -> None:
    """Cut it to nothing."""
    os.truncate(path, 0)


def cut(run: Run, path: Path) -> None:
    """Cut its end off, anywhere."""
    os.truncate(path, run.rng.randrange(1, path.stat().st_size))


def flipped(run: Run, path: Path) -> None:
    """Change one bit of it."""
    at = run.rng.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << run.rng.randrange(8)]))


def torn(run: Run, path: Path) -> None:
    """Fill a block of it with zeros, as after a loss of power."""
    size = path.stat().st_size
    at = run.rng.randrange(0, size, 4096)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(min(4096, size - at)))


def swapped(run: Run, path: Path) -> None:
    """Put something else into its place: another file, or a directory where a file was."""
    other = path.with_name(f"{path.name}.other")
    if path.is_dir():
        other.mkdir(0o700)
        path.rename(path.with_name(f"{path.name}.away"))
    else:
        other.write_bytes(os.urandom(path.stat().st_size or 100))
    other.rename(path)


def unreadable(run: Run, path: Path) -> None:
    """Take the rights away."""
    path.chmod(0)


def of_another_user(run: Run, path: Path) -> None:
    """Give it to another user."""
    try:
        os.chown(path, 65534, 65534)
    except PermissionError as error:
        raise NotRun(f"cannot give a file away: {error}") from None


def writable_by_others(run: Run, path: Path) -> None:
    """Let everybody write to it."""
    path.chmod(0o777 if path.is_dir() else 0o666)


Damage = Callable[[Run, Path], None]
OF_FILES: tuple[Damage, ...] = (
    missing,
    emptied,
    cut,
    flipped,
    torn,
    swapped,
    unreadable,
    of_another_user,
    writable_by_others,
)
OF_EMPTY_FILES: tuple[Damage, ...] = (missing, swapped, unreadable, of_another_user, writable_by_others)
OF_DIRECTORIES: tuple[Damage, ...] = (missing, swapped, unreadable, of_another_user, writable_by_others)


# --------------------------------------------------------------------------------------------------- attacks


def find(run: Run, name: str) -> Path:
    """Return the file of this name, of the newest program."""
    found = sorted(run.disk.glob(FILES[name]))
    if not found:
        raise NotRun(f"there is no {FILES[name]} at that moment")
    return run.rng.choice(found) if "worker" in name else found[-1]


def keep(run: Run) -> None:
    """Keep what is whole, as a backup does."""
    boxes.command("cp", "-a", str(run.disk), str(run.place / "backup"))  # with its sockets


def while_open(run: Run, name: str, damage: Damage) -> None:
    """Damage a file at work; when the program has ended, start it again with what it has left."""
    middle(run)
    damage(run, find(run, name))
    run.wait()
    run.start()


def after_a_kill(run: Run, name: str, damage: Damage) -> None:
    """Kill all at work, damage a file, and start again."""
    middle(run)
    for process in members(run, ("head", "keeper", "launcher", "worker")):
        process.signal(signal.SIGKILL)
    run.wait()
    block_until(lambda: not run.left(), 10, "all have ended")
    keep(run)
    damage(run, find(run, name))
    run.start()


def after_an_end(run: Run, name: str, damage: Damage) -> None:
    """Damage a file when the program has ended, and start it again."""
    run.wait()
    keep(run)
    damage(run, find(run, name))
    run.start()


# ----------------------------------------------------------------------------------------------------- mends


def as_told(run: Run) -> None:
    """Do what the messages say: give rights back, remove a lock, take what was saved, repair; or take the backup."""
    for path in (run.disk, *run.disk.rglob("*")):
        os.chown(path, os.geteuid(), os.getegid())
        path.chmod(0o700 if path.is_dir() else 0o600)
    database = run.disk / "results.sqlite"
    (run.disk / "results.sqlite.lock").unlink(missing_ok=True)
    saved = sorted(run.disk.glob("results.sqlite.saved-*"), key=lambda path: path.stat().st_mtime)
    if saved:
        saved[-1].replace(database)
    if not _repaired(run, database):
        shutil.rmtree(run.disk)
        boxes.command("cp", "-a", str(run.place / "backup"), str(run.disk))
        (run.disk / "results.sqlite.lock").unlink(missing_ok=True)
    write_configuration(run)


def _repaired(run: Run, database: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "hyperflow", "repair", str(database)],
        capture_output=True, text=True, check=False, cwd=TOP,
    )  # fmt: skip
    (run.place / "repaired").write_text(f"{done.returncode}\n{done.stdout}{done.stderr}")
    return done.returncode == 0 or not (run.place / "backup").exists()


def write_configuration(run: Run) -> None:
    """Write a configuration."""
    (run.disk / "config.toml").write_text("heartbeat = 2.0\nnode_timeout = 30.0\n")


def prepare(run: Run) -> None:
    """Run without the rights of root, who may read everything; with a configuration."""
    boxes.without_rights(run)
    write_configuration(run)
    run.environment["HYPERFLOW_CONFIG"] = str(run.disk / "config.toml")


# ----------------------------------------------------------------------------------------------------- table

MOMENTS = {"while it is open": while_open, "after a kill": after_a_kill, "after an end": after_an_end}

TOLD = (
    r"damage|removed|not there|not a results|belongs to|can be written|read-only|cannot|locked|is empty|disk I/O|denied"
)
"""How all reports of a damaged or missing file read."""

LOGS = ("event log", "log of a worker", "log of the launcher")
"""For people; no result depends on them. Where nobody prints, the latter two are empty."""

CUT = "the kernel ends a process that reads where a file is mapped that was cut (SIGBUS)"

GONE = "a file that is gone with its log cannot be told from one that never was"


def _case(name: str, damage: Damage, moment: str) -> Case:
    kept = name in ("database", "WAL", "index of the WAL")
    excused: dict[Promise, str] = {}
    if name == "database" and damage is missing and moment == "after an end":
        excused[Promise.DAMAGE] = GONE
    if name == "index of the WAL" and damage in (emptied, cut) and moment == "while it is open":
        excused[Promise.TOLD] = CUT
    return Case(
        table="files",
        name=f"{name} {damage.__name__.replace('_', ' ')} {moment}",
        before=prepare,
        attack=functools.partial(MOMENTS[moment], name=name, damage=damage),
        mend=as_told,
        tries=frozenset({Promise.DAMAGE} if kept else ()),
        told=r"config\.toml|heartbeat" if name == "configuration" else TOLD,
        survives=name in LOGS,
        excused=excused,
    )


BETWEEN = ("while it is open", "after a kill")
"""When files are there that the end of a run removes."""

TABLE = (
    *(
        _case(name, damage, moment)
        for name in ("database", "configuration")
        for damage in OF_FILES
        for moment in MOMENTS
    ),
    *(
        _case(name, damage, moment)
        for name in ("WAL", "index of the WAL", "lock")
        for damage in OF_FILES
        for moment in BETWEEN
    ),
    *(_case("event log", damage, "while it is open") for damage in OF_FILES),
    *(_case(name, damage, "while it is open") for name in LOGS[1:] for damage in OF_EMPTY_FILES),
    *(
        _case(name, damage, moment)
        for name in ("directory of logs", "directory of the program", "directory of all")
        for damage in OF_DIRECTORIES
        for moment in BETWEEN
    ),
)
