"""What takes space in a base directory, what of it can go, and how it goes. `hyperflow gc` asks; see `gc`.

Guarantees:
- Nothing of a run goes while anything of it runs, or may run: its master, the owner of its database, the head of a job,
  a job that Slurm still knows. That is looked at again when the run's locks are held.
- A run stays while the results of one that stays name its work directories, or a program uses its database.
- What goes is reached through descriptors, name by name; no symbolic link is followed, so nothing outside of the base
  directory goes. (Of parts of outputs, which are elsewhere, see output_parts.py.)
- A run goes in one step, by its name; a `hyperflow gc` that is killed leaves a rest that the next one removes.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import attrs

from hyperflow import files, program
from hyperflow.cli import heads
from hyperflow.control import place as control
from hyperflow.control.client import owner
from hyperflow.database import shrink
from hyperflow.database.ownership import Owner, Ownership
from hyperflow.database.readers import reader
from hyperflow.database.results import Results
from hyperflow.database.workdir import CHECKPOINT_DIRS, CHECKPOINTS, WORK_DIRS
from hyperflow.errors import ConfigurationError, DatabaseError, HyperflowError
from hyperflow.master import rundir
from hyperflow.master.lifecycle import AT_REST
from hyperflow.private import Held

REST = ".gc-"
"""What is being removed has a name that begins so."""

LEFTOVER = re.compile(
    r".*\.sqlite\.(damaged-\d+|saved-[0-9a-f]{8})(-wal|-shm|-journal)?|\..*\.sqlite\.[0-9a-f]{16}(-wal|-shm|-journal)?"
)
"""Files that repairs, rescues and killed programs have left beside a database."""

WORK_DIR = re.compile(r"(.*-)?[0-9a-f]{20}")


@attrs.frozen
class Finding:
    """Something that takes space: "run", "results" (of an old version), "work directory", "checkpoint", or "leftover".

    `kept` says why it has to stay; "" if it can go. `size` is in bytes, of `results` the characters of their values;
    `time` is when it was last written. `map_name` is that of the results.
    """

    kind: str
    path: Path
    size: int
    time: float
    about: str
    kept: str = ""
    map_name: str = ""


@attrs.frozen
class _Used:
    size: int
    time: float


def used(path: Path) -> _Used:
    """Return how many bytes a file or directory takes on the disk, and when anything in it was last written."""
    size, newest = 0, 0.0
    waiting = [path]
    while waiting:
        one = waiting.pop()
        with suppress(OSError):  # removed meanwhile, or not ours to read
            found = one.lstat()
            size += found.st_blocks * 512
            newest = max(newest, found.st_mtime)
            if stat.S_ISDIR(found.st_mode):
                waiting += one.iterdir()
    return _Used(size, newest)


def find(base_dir: Path, before: float, only: Path | None = None) -> list[Finding]:
    """Return what takes space, with what can go if it was last written before a time; of one run only, if it is named.

    Raises:
        ConfigurationError: There is no such directory, or others could write to it.
    """
    Held.open(base_dir).close()
    homes = [home for home in heads.all_in(base_dir) if not home.is_symlink()]
    databases = _databases(base_dir, homes)
    needed, unknown = _needed(base_dir, homes, databases)
    found: list[Finding] = []
    for home in homes:
        there = used(home)
        unfinished = "" if only == home else _resumable(home)
        kept = runs(home) or young(there.time, before) or unfinished or unknown.get(home, "")
        found.append(Finding("run", home, there.size, there.time, _about(home), kept))
    found = _with_needs(found, needed)
    gone = {one.path for one in found if not one.kept and only in (None, one.path)}
    for home in homes:
        if home not in gone:
            found += _inside(home, before, databases, unknown)
    if only is not None:
        return [one for one in found if one.path == only or only in one.path.parents]
    found += _rests(base_dir)
    for database in sorted(path for path in databases if isinstance(path, Path) and path.parent == base_dir):
        found += _old_versions(database, before)
    return found


# ---- what has to stay ------------------------------------------------------------------------------------------------


def runs(home: Path) -> str:
    """Say what of a run is at work, or may be; "" if nothing is."""
    if (master := owner(home)) is not None and not master.is_gone():
        return f"its master runs: process {master.pid} on {master.host}"
    for lock in home.glob("*.sqlite.lock"):
        if (holder := Owner.from_text(files.read_text(lock))) is None or not holder.is_gone():
            return f"its results are in use by {holder or f'somebody (see {lock})'}"
    return _jobs_at_work(home)


def _jobs_at_work(home: Path) -> str:
    if at_work := _head_at_work(home):
        return at_work
    if not (home / "jobs").is_dir():
        return ""
    try:
        directories = rundir.job_directories(home)
        for directory in directories:
            record = directory.read_record()
            if record.state not in AT_REST:
                return f"job {record.number} is {record.state}; `hyperflow cancel` ends it, or resume the program"
    except (OSError, HyperflowError) as error:
        return f"what its jobs do is not known: {error}"
    return next((words for directory in directories if (words := _head_at_work(directory.path))), "")


def _head_at_work(home: Path) -> str:
    address = control.read(home)
    if address is None or (address.host == socket.gethostname() and not Path(f"/proc/{address.pid}").exists()):
        return ""
    words = f"process {address.pid} on {address.host} runs it"
    return words if address.host == socket.gethostname() else f"{words}, or did not end well ({home / 'control'})"


def young(newest: float, before: float) -> str:
    """Say why something stays that was written lately; "" if it was not."""
    return "" if newest < before else "it is not old enough (--older-than)"


def _about(home: Path) -> str:
    told = _program_json(home)
    if told is None:
        return "a job by itself"
    return "finished" if "finished" in told else "not finished"


def _resumable(home: Path) -> str:
    told = _program_json(home)
    if told is None or "finished" in told:
        return ""
    return f"`hyperflow resume` would go on with it. If it is not to: hyperflow gc {home.name} --delete"


def _program_json(home: Path) -> dict[str, object] | None:
    try:
        found = files.from_json((home / "program.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _databases(base_dir: Path, homes: list[Path]) -> dict[Path | str, list[Path]]:
    """Return the databases that are known here, each with the runs that use it."""
    found: dict[Path | str, list[Path]] = {path: [] for path in base_dir.glob("*.sqlite") if path.is_file()}
    for home in homes:
        told = (_program_json(home) or {}).get("database")
        own = home / "results.sqlite"
        if isinstance(told, str) and (program.is_url(told) or Path(told).is_file()):
            found.setdefault(told if program.is_url(told) else Path(told), []).append(home)
        if own.is_file() and home not in found.get(own, ()):
            found.setdefault(own, []).append(home)
    return found


def _needed(
    base_dir: Path, homes: list[Path], databases: dict[Path | str, list[Path]]
) -> tuple[dict[Path, set[Path]], dict[Path, str]]:
    """Return for each run who needs it (runs, or databases beside them); and why that is not known of some."""
    needed: dict[Path, set[Path]] = {home: set() for home in homes}
    unknown: dict[Path, str] = {}
    for database, users in databases.items():
        where = database if isinstance(database, Path) else base_dir
        inside = next((home for home in homes if home in where.parents), None)
        if inside is not None:
            needed[inside] |= {user for user in users if user != inside}
        try:
            for named in _work_dirs(database):
                home = next((home for home in homes if home in named.parents), None)
                if home is not None:
                    needed[home] |= {user for user in (users or [where]) if user != home}
        except HyperflowError as error:
            unknown |= dict.fromkeys(homes, f"which work directories {database} names is not known: {error}")
    for home in homes:
        if not any(home in users for users in databases.values()) and _has_work_dirs(home):
            unknown.setdefault(home, "its results are elsewhere, and may name its work directories")
    return needed, unknown


def _has_work_dirs(home: Path) -> bool:
    with suppress(OSError):
        return any(path.name != CHECKPOINT_DIRS or any(path.iterdir()) for path in (home / "data").iterdir())
    return False


def _work_dirs(database: Path | str) -> list[Path]:
    found = reader(database)
    maps, results = found.maps(), Results(found)
    named = results.map(WORK_DIRS).values() if WORK_DIRS in maps else ()
    paths = [Path(str(value)) for value in named]
    saved = results.map(CHECKPOINTS).values() if CHECKPOINTS in maps else ()
    paths += [path for path in map(Path, map(str, saved)) if path.is_dir()]  # most are gone, with their evaluations
    return paths


def _with_needs(found: list[Finding], needed: dict[Path, set[Path]]) -> list[Finding]:
    """Keep the runs, too, that others need which are kept."""
    runs = {one.path: one for one in found}
    while True:
        for path, one in runs.items():
            users = sorted(user for user in needed[path] if user not in runs or runs[user].kept)
            if users and not one.kept:
                runs[path] = attrs.evolve(one, kept=f"{users[0].name} uses its results or work directories")
                break
        else:
            return list(runs.values())


# ---- what is inside of runs that stay --------------------------------------------------------------------------------


def _inside(
    home: Path, before: float, databases: dict[Path | str, list[Path]], unknown: dict[Path, str]
) -> Iterator[Finding]:
    if runs(home):  # what it has begun to write looks like a leftover
        return
    for place in (home, *_directories(home / "jobs")):
        for path in _names(place):
            if LEFTOVER.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
                there = used(path)
                about = "a draft" if path.name.startswith(".") else "an old file that was damaged or saved"
                yield Finding("leftover", path, there.size, there.time, about, young(there.time, before))
    for path in _names(home / "jobs"):
        if path.name.startswith(".new-"):
            there = used(path)
            yield Finding("leftover", path, there.size, there.time, "a draft", young(there.time, before))
    yield from _work_dirs_of_nobody(home, before, databases, unknown)
    for path in _names(home / "data" / CHECKPOINT_DIRS):
        there = used(path)
        about = "its lock" if path.suffix == ".lock" else "what an evaluation has saved that did not succeed"
        yield Finding("checkpoint", path, there.size, there.time, about, young(there.time, before))
    if (own := home / "results.sqlite").is_file() and not own.is_symlink():
        yield from _old_versions(own, before)


def _names(place: Path) -> list[Path]:
    with suppress(OSError):
        return [] if place.is_symlink() else sorted(place.iterdir())
    return []


def _directories(place: Path) -> list[Path]:
    return [path for path in _names(place) if path.is_dir() and not path.is_symlink()]


def _work_dirs_of_nobody(
    home: Path, before: float, databases: dict[Path | str, list[Path]], unknown: dict[Path, str]
) -> Iterator[Finding]:
    """Yield the work directories that no results name: their object got another one, or the results are gone."""
    candidates = [path for path in _directories(home / "data") if WORK_DIR.fullmatch(path.name)]
    if not candidates or home in unknown:
        return
    named = {path for database in databases for path in _work_dirs(database)}
    for path in candidates:
        if path not in named:
            there = used(path)
            about = "no results name it"
            yield Finding("work directory", path, there.size, there.time, about, young(there.time, before))


def _old_versions(database: Path, before: float) -> Iterator[Finding]:
    try:
        found = shrink.superseded(database)
    except HyperflowError:
        return
    for one in found:
        about = f"{one.name}, version {one.version}: {one.size.keys} results; version {one.newest} is in use"
        kept = young(one.size.time, before)
        yield Finding("results", database, one.size.characters, one.size.time, about, kept, one.map_name)


def _rests(base_dir: Path) -> Iterator[Finding]:
    for path in _names(base_dir):
        if path.name.startswith(REST) and path.is_dir() and not path.is_symlink():
            there = used(path)
            yield Finding("leftover", path, there.size, there.time, "a run that was being removed")


# ---- how it goes -----------------------------------------------------------------------------------------------------


def remove(base_dir: Path, found: list[Finding]) -> tuple[int, list[str]]:
    """Remove what can go; return how many bytes that freed, and what could not be removed, and why."""
    freed, failures = 0, list[str]()
    shrunk: dict[Path, set[str]] = {}
    for one in found:
        if one.kept:
            continue
        if one.kind == "results":
            shrunk.setdefault(one.path, set()).add(one.map_name)
            continue
        try:
            freed += _remove_run(base_dir, one.path) if one.kind == "run" else _remove(one.path)
        except (OSError, HyperflowError) as error:
            failures.append(f"{one.path} stays: {error}")
    for database, maps in shrunk.items():
        try:
            freed += shrink.without(database, maps)
        except HyperflowError as error:
            failures.append(f"{database} stays as it is: {error}")
    return freed, failures


def _remove_run(base_dir: Path, home: Path) -> int:
    with ExitStack() as stack:
        base = stack.enter_context(Held.open(base_dir))
        held = stack.enter_context(base.enter(home.name))
        if (home / "program.json").exists():
            told = _program_json(home) or {}
            program_id = str(told.get("program_id", home.name))
            stack.callback(Ownership.acquire((held / "master").through, program_id).release)
        if (own := home / "results.sqlite").is_file():
            stack.callback(Ownership.acquire(own, "hyperflow gc").release)
        if at_work := _jobs_at_work(home):
            raise ConfigurationError(at_work)
        gone = f"{REST}{home.name}-{secrets.token_hex(4)}"
        os.rename(home.name, gone, src_dir_fd=base.number, dst_dir_fd=base.number)
        if not os.path.samestat(os.stat(gone, dir_fd=base.number, follow_symlinks=False), os.fstat(held.number)):
            raise DatabaseError(f"{base_dir / gone} took the place of {home} meanwhile; look what it is")
        return _remove_tree(base, gone)


def _remove(path: Path) -> int:
    with Held.open(path.parent) as held:
        if stat.S_ISDIR(os.stat(path.name, dir_fd=held.number, follow_symlinks=False).st_mode):
            return _remove_tree(held, path.name)
        size = used(path).size
        os.unlink(path.name, dir_fd=held.number)
        return size


def _remove_tree(above: Held, name: str) -> int:
    size = used(above.path / name).size
    try:
        shutil.rmtree(name, dir_fd=above.number)  # follows no symbolic link, whoever puts one there meanwhile
    except RecursionError:  # before Python 3.13
        path = shlex.quote(str(above.path / name))
        raise ConfigurationError(f"directories in it are nested too deeply for Python; type: rm -r {path}") from None
    return size
