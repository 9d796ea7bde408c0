"""{every file of a run directory} x {missing, cut, flipped, swapped, unreadable, another user's}.

The master is killed at work, a file is damaged, and the program is resumed. What cannot be mended by the program has to
be told; then the user puts the old file back, and the program has to end well.
"""

import functools
import os
import pickle
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs

from hyperflow import checked_files
from tests.chaos.case import Case, NotRun
from tests.chaos.ledger import Ledger
from tests.chaos.login_run import LoginRun
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.chaos.workload import Workload

# What jobs could not do while files were damaged is tried again by the program itself.
WORK = Workload(keys=36, seconds=0.4, world="cluster", jobs=3, words=("--on-error", "retry:9"))

STRANGER = 12345
"""A user of whom this machine knows nothing."""


# -------------------------------------------------------------------------------------------------------- files


def of_run(name: str) -> Callable[[LoginRun], Path]:
    """Return what finds a file of the run directory."""

    def find(run: LoginRun) -> Path:
        path = (run.home or run.disk) / name
        if not path.exists():
            raise NotRun(f"the run has no {name}")
        return path

    return find


def of_job(pattern: str) -> Callable[[LoginRun], Path]:
    """Return what finds a file of one of the jobs, chosen at random."""

    def find(run: LoginRun) -> Path:
        found = sorted(run.home.glob(f"jobs/[0-9]*/{pattern}")) if run.home else []
        if not found:
            raise NotRun(f"no job has a {pattern}")
        return run.rng.choice(found)

    return find


def rival(path: Path) -> Path:
    """Return the same file of another job, or the directory of another one."""
    job = path if path.name.isdecimal() else path.parent
    names = [one / path.name if path != job else one for one in job.parent.glob("[0-9]*") if one != job]
    others = [one for one in names if one.exists()]
    if not others:
        raise NotRun(f"there is no other {path.name}")
    return others[0]


# ------------------------------------------------------------------------------------------------------- damage


def missing(run: Run, path: Path) -> None:
    """Remove it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def cut(run: Run, path: Path) -> None:
    """Cut it somewhere."""
    size = path.stat().st_size
    os.truncate(path, run.rng.randrange(size) if size else 0)


def flipped(run: Run, path: Path) -> None:
    """Flip a bit somewhere."""
    data = bytearray(path.read_bytes())
    if not data:
        raise NotRun(f"{path.name} is empty")
    data[run.rng.randrange(len(data))] ^= 1 << run.rng.randrange(8)
    path.write_bytes(data)


def swap(path: Path, other: Path) -> None:
    """Swap two files or directories."""
    between = path.with_name("between")
    path.rename(between)
    other.rename(path)
    between.rename(other)


def swapped(run: Run, path: Path) -> None:
    """Swap it with that of another job."""
    other = rival(path)
    swap(path, other)
    (run.place / "swapped").write_text(f"{path}\n{other}")


def unreadable(run: Run, path: Path) -> None:
    """Put something in its place that cannot be read as a file."""
    missing(run, path)
    match run.rng.choice(("directory", "pipe", "link to itself")):
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to(path.name)


def note_stranger(place: str, name: str) -> None:
    """Note that a stranger's pickle was unpickled."""
    Ledger(Path(place)).note("stranger", told=name)


class Trap:
    """Its pickle notes that it was unpickled."""

    def __init__(self, run: Run, name: str) -> None:
        self.told = str(run.place), name

    def __reduce__(self) -> tuple[Callable[[str, str], None], tuple[str, str]]:
        return note_stranger, self.told


def another_users(run: Run, path: Path) -> None:
    """Let another user have written it: a sound one, but for its owner, whose pickle tells when it is unpickled."""
    for name in os.listdir(path) if path.is_dir() else ():
        another_users(run, path / name)
    data = path.read_bytes() if path.is_file() else b""
    if data.startswith(checked_files.MAGIC):
        kind = "call" if path.name == "call" else "result"
        header, _ = checked_files.read_checked(path, kind)
        about = {name: value for name, value in header.items() if name not in {"kind", "size"}}
        data = checked_files.with_checksum(kind, pickle.dumps(Trap(run, path.name)), about)
        path.write_bytes(data)
    os.chown(path, STRANGER, STRANGER)


def writable_by_all(run: Run, path: Path) -> None:
    """Let everybody write to it."""
    path.chmod(0o777)


WAYS: dict[str, Callable[[Run, Path], None]] = {
    "missing": missing,
    "cut": cut,
    "flipped": flipped,
    "swapped": swapped,
    "unreadable": unreadable,
    "another user's": another_users,
    "writable by all": writable_by_all,
}


# ------------------------------------------------------------------------------------------------------- attacks


def keep(run: LoginRun, path: Path) -> None:
    """Keep a copy of a file, for the user who puts it back."""
    (run.place / "kept").mkdir()
    subprocess.run(["cp", "--archive", str(path), str(run.place / "kept" / "copy")], check=True)
    (run.place / "kept" / "of").write_text(str(path))


def put_back(run: Run) -> None:
    """Put the old files back, where the program could not go on without them."""
    if run.turns[-1].code == 0:
        return
    if (run.place / "swapped").exists():  # not the copies: jobs may have written to the files since
        swap(*map(Path, (run.place / "swapped").read_text().split("\n")))
        return
    path = Path((run.place / "kept" / "of").read_text())
    if path.is_symlink() or path.exists():
        missing(run, path)
    shutil.move(run.place / "kept" / "copy", path)


def first_result(run: Run) -> None:
    """Wait until the program has the result of a job."""
    run.until("received", 1)


def until_master_is_dead(run: LoginRun, moment: Callable[[Run], None], quiet: bool) -> None:
    """Kill the master at a moment; if it is to be quiet, wait until its jobs have ended, too."""
    moment(run)
    if (master := run.one("head")) is None:
        raise NotRun("the program had ended before")
    master.signal(signal.SIGKILL)
    run.wait()
    if quiet:
        run.until_no_jobs()


def damage(run: Run, find: Callable[[LoginRun], Path], way: str, moment: Callable[[Run], None], quiet: bool) -> None:
    """Kill the master, damage a file, and resume the program."""
    assert isinstance(run, LoginRun)
    until_master_is_dead(run, moment, quiet)
    try:
        path = find(run)
    except NotRun:
        run.start()  # the program has not failed by itself
        raise
    keep(run, path)
    WAYS[way](run, path)
    run.start()


def damage_at_work(run: Run, find: Callable[[LoginRun], Path], way: str) -> None:
    """Damage a file while the master and jobs are at work."""
    assert isinstance(run, LoginRun)
    run.at_work()
    path = find(run)
    keep(run, path)
    WAYS[way](run, path)


# --------------------------------------------------------------------------------------------------------- cases


@attrs.frozen
class File:
    """A file of a run: how it is found, what words tell of it (none: nothing depends on it), when it is there."""

    find: Callable[[LoginRun], Path]
    told: str = ""
    moment: Callable[[Run], None] = Run.at_work
    quiet: bool = False
    """Whether it is there, or is trusted, only when the jobs have ended."""
    ways: tuple[str, ...] = tuple(WAYS)


ONE = tuple(way for way in WAYS if way != "swapped")
"""Of a file of which a run has only one."""
DIRECTORY = ("missing", "another user's", "writable by all")

FILES = {
    "program.json": File(of_run("program.json"), r"program\.json", ways=ONE),
    "master.lock": File(of_run("master.lock"), r"master\.lock", ways=ONE),
    "results.sqlite": File(of_run("results.sqlite"), r"results\.sqlite|database", ways=ONE),
    "results.sqlite-wal": File(of_run("results.sqlite-wal"), r"results\.sqlite|database", ways=ONE),
    "results.sqlite.lock": File(of_run("results.sqlite.lock"), r"results\.sqlite\.lock", ways=ONE),
    "log/": File(of_run("log"), r"/log\b", ways=DIRECTORY),
    "data/": File(of_run("data"), r"/data\b", ways=DIRECTORY),
    "control/": File(of_run("control"), r"/control\b", ways=DIRECTORY),
    "jobs/": File(of_run("jobs"), r"/jobs\b", ways=DIRECTORY),
    "jobs/N/": File(of_job(""), r"/jobs/\d", ways=("missing", "swapped", "another user's", "writable by all")),
    "jobs/N/call": File(of_job("call"), r"/call\b"),
    "jobs/N/job.json": File(of_job("job.json"), r"job\.json"),
    "jobs/N/script.sh": File(of_job("script.sh")),
    "jobs/N/slurm.out": File(of_job("slurm.out")),
    "jobs/N/status.json": File(of_job("status.json")),
    "jobs/N/claim": File(of_job("claim.1")),
    "jobs/N/result": File(of_job("result.1.0"), r"result\.1\.0", moment=first_result),
    "jobs/N/result, new": File(of_job("result.1.0"), r"result\.1\.0|left no result", quiet=True),
    "jobs/N/results.sqlite": File(of_job("results.1.0.sqlite"), r"results\.1\.0\.sqlite", ways=ONE),
    "jobs/N/results.sqlite, closed": File(of_job("results.1.0.sqlite"), r"results\.1\.0\.sqlite", quiet=True),
    "jobs/N/log/": File(of_job("log.1.0"), ways=DIRECTORY),
}
AT_WORK = {name: file for name, file in FILES.items() if not name.startswith("jobs/N/result") and name != "jobs/"}


def _case(name: str, file: File, way: str, attack: Callable[[Run], None]) -> Case:
    more = {Promise.PRIVATE} if way in {"another user's", "writable by all"} else set[Promise]()
    return Case(
        table="run files",
        name=name,
        attack=attack,
        mend=put_back,
        workload=WORK,
        world="cluster",
        survives=not file.told,
        told=file.told,
        tries=frozenset({Promise.NEWEST, Promise.DAMAGE, *more}) if file.told else frozenset({Promise.NEWEST}),
    )


TABLE = (
    *(
        _case(
            f"{name} {way}, the master killed",
            file,
            way,
            functools.partial(damage, find=file.find, way=way, moment=file.moment, quiet=file.quiet),
        )
        for name, file in FILES.items()
        for way in file.ways
    ),
    *(
        _case(f"{name} {way} at work", file, way, functools.partial(damage_at_work, find=file.find, way=way))
        for name, file in AT_WORK.items()
        for way in file.ways
    ),
)
