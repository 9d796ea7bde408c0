"""The run directory: all of a run of a Cluster program that has to survive the master.

    base_dir/<program_id>/
      program.json               how the program was started: what its jobs need to be like it
      master.lock                the master that runs now: host, process, since when
      results.sqlite             the program's results; the master alone writes to it
      log/  data/                as in any program; log/master.log is what `hyperflow.main` has logged
      control/                   the address of the running master (control/place.py)
      locks/                     the locks and their holders (see `lockfiles`)
      vars/                      variables that people may set (`ExtVar`)
      jobs/<n>/                  one directory for each job
        call                     the pickled job (a checked file)
        script.sh                the last batch script
        job.json                 state, attempts with their tokens and Slurm ids, options, why it is held
        slurm.out                what the script and the job's process have printed
        status.json              how the job's evaluations stand, every few seconds
        scope.json               the locks in whose scope it is awaited, if there are any
        claim.<a>                which Slurm job has taken attempt <a>
        result.<a>.<r>           its outcome (a checked file): a value or an error
        error.<a>.<r>.txt        the error's traceback, for people
        results.<a>.<r>.sqlite   what it has recorded, until it is in the program's database
        log.<a>.<r>/             logs of its launchers and workers

<a> counts submissions, <r> how often Slurm has started that one again (a requeue, a lost node). Together they are
the fencing token of a start. Each start writes to files of its own, so one that was given up and still runs cannot
touch the files of its successor.

Guarantees: files appear complete or not at all (see `checked_files`). A job's directory appears with its call and
job.json in it. A run directory that others could write to is not used. What is unpickled or trusted is opened through
descriptors of the run's directories that were checked once and are held (see `private`), and says itself of which run,
job and start it is: who can write above a run directory can give its name to another one of the user's.

Rejected: one database of jobs for a run. It would be a second truth beside the files of the jobs, and nobody could read
it with `cat` when something has gone wrong.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from hyperflow import checked_files, files
from hyperflow.checked_files import Damaged
from hyperflow.database.ownership import Owner, Ownership
from hyperflow.errors import ConfigurationError, DatabaseError, RunInUse
from hyperflow.master.lifecycle import Attempt, Cause, Epoch, Record
from hyperflow.offers import Offers
from hyperflow.private import Held
from hyperflow.program import ProgramInfo

FORMAT = 1

VALUE, ERROR, CUT_OFF = "value", "error", "cut off"
"""How a start ends. "cut off": its allocation ended, and another start may do better."""

LOOKED_AT = 1000
"""How many lines of slurm.out are looked at for the beginning of the newest start."""

_BEGUN = re.compile(r"^hyperflow: start (\d+)\.(\d+) of this job begins.*\n?", re.MULTILINE)


def begins(epoch: Epoch, host: str) -> str:
    """Return what a start writes into slurm.out when it begins, after "hyperflow: "."""
    return f"start {epoch} of this job begins on {host}"


@attrs.define(eq=False)
class HeldRun:
    """The directories of a run that are held: its own, and that of its jobs; `program_id` is what the run must be."""

    home: Held
    jobs: Held
    program_id: str

    @classmethod
    def open(cls, home: Path, program_id: str | None = None) -> HeldRun:
        """Open a run's directories; without a `program_id`, it is the one that program.json names.

        Raises:
            FileNotFoundError: It has no jobs yet.
            ConfigurationError: Others could write there, or it is another run.
        """
        held = Held.open(home)
        try:
            says = str((_read_json(held / "program.json") or {}).get("program_id", ""))
            if program_id is not None and says not in ("", program_id):
                raise ConfigurationError(f"{home} is run {says}, and should be {program_id}; was it moved or replaced?")
            return cls(held, held.enter("jobs"), says if program_id is None else program_id)
        except BaseException:
            held.close()
            raise

    def close(self) -> None:
        self.jobs.close()
        self.home.close()


class JobDirectory:
    """The directory of one job; the module's docstring tells what each file is.

    What is trusted is read and written through `run`, if it is held, else through the run's directories, which are
    opened anew each time. The paths are for people, and for what others write or nobody has to trust.
    """

    def __init__(self, path: Path, run: HeldRun | None = None) -> None:
        self.path = path
        self.home = path.parent.parent
        self.call = path / "call"
        self.script = path / "script.sh"
        self.output = path / "slurm.out"
        self.status = path / "status.json"
        self._run = run

    @contextmanager
    def _opened(self) -> Iterator[tuple[Held, str]]:
        """Give the held directory and the run's id, within a scope; raises OSError and ConfigurationError."""
        run = self._run
        if run is not None and not run.jobs.closed:
            with run.jobs.enter(self.path.name) as here:
                yield here, run.program_id
            return
        run = HeldRun.open(self.home)
        try:
            with run.jobs.enter(self.path.name) as here:
                yield here, run.program_id
        finally:
            run.close()

    @property
    def number(self) -> int:
        """The job's number; a directory that is being made has none yet."""
        return int(self.path.name)

    def about(self) -> dict[str, Any]:
        """Return what the run's program.json says; nothing if it cannot be read."""
        return _read_json(self.home / "program.json") or {}

    def claim(self, attempt: int) -> Path:
        return self.path / f"claim.{attempt}"

    def result(self, epoch: Epoch) -> Path:
        return self.path / f"result.{epoch}"

    def traceback(self, epoch: Epoch) -> Path:
        return self.path / f"error.{epoch}.txt"

    def read_traceback(self, epoch: Epoch) -> str:
        """Return the traceback of the error that a start has ended with; "" if it has left none."""
        return files.read_text(self.traceback(epoch))

    def database(self, epoch: Epoch) -> Path:
        return self.path / f"results.{epoch}.sqlite"

    def log_dir(self, epoch: Epoch) -> Path:
        return self.path / f"log.{epoch}"

    def results(self) -> list[Epoch]:
        """Return the starts that have left a result."""
        return self._epochs(r"result\.(\d+)\.(\d+)")

    def databases(self) -> list[Epoch]:
        """Return the starts that have left a database."""
        return self._epochs(r"results\.(\d+)\.(\d+)\.sqlite")

    def _epochs(self, pattern: str) -> list[Epoch]:
        with self._opened() as (here, _):
            matches = [re.fullmatch(pattern, name) for name in here.names()]
        return sorted(Epoch(int(match[1]), int(match[2])) for match in matches if match)

    def read_claim(self, attempt: int) -> dict[str, Any] | None:
        return self._read_json(self.claim(attempt).name)

    def read_status(self) -> dict[str, Any] | None:
        return self._read_json(self.status.name)

    def _read_json(self, name: str) -> dict[str, Any] | None:
        with suppress(OSError, ConfigurationError), self._opened() as (here, _):
            return _read_json(here / name)
        return None

    def put_claim(self, attempt: int, claim: dict[str, Any], *, over: bool = False) -> None:
        """Take an attempt; raises FileExistsError if it is taken, unless it is the caller's own (`over`)."""
        put = files.write_whole if over else files.put_new
        with self._opened() as (here, _):
            put((here / self.claim(attempt).name).through, json.dumps(claim).encode())

    def write_script(self, text: str) -> None:
        """Keep a batch script for people; what is submitted is the text, not the file."""
        with self._opened() as (here, _):
            checked_files.write_file(here / self.script.name, text.encode())

    def read_output(self, lines: int = 15) -> tuple[Epoch | None, str]:
        """Return which start was the last that said so in slurm.out, if one did, and the end of what came after."""
        text = files.tail(self.output, lines=LOOKED_AT, size=65536)
        begun = list(_BEGUN.finditer(text))
        after = text[begun[-1].end() :] if begun else text
        start = Epoch(int(begun[-1][1]), int(begun[-1][2])) if begun else None
        return start, "\n".join(after.splitlines()[-lines:])

    def write_result(self, epoch: Epoch, batch_id: int, outcome: str, payload: bytes) -> None:
        """Write how a start has ended: with `VALUE`, `ERROR` or `CUT_OFF`."""
        with self._opened() as (here, program_id):
            header = {**self._start(program_id, epoch), "outcome": outcome, "batch_id": batch_id}
            checked_files.write_checked(here / self.result(epoch).name, "result", payload, **header)

    def read_result(self, epoch: Epoch) -> tuple[str, bytes]:
        """Return how a start has ended, and the pickle of its value or error.

        Raises:
            Damaged: The result is not there, was cut or altered, or belongs to another run, job or start.
        """
        path = self.result(epoch)
        try:
            with self._opened() as (here, program_id):
                expected = self._start(program_id, epoch)
                header, payload = checked_files.read_checked(here / path.name, "result", expected)
                return str(header["outcome"]), payload
        except (OSError, ConfigurationError) as error:
            raise Damaged(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        except KeyError as error:
            raise Damaged(f"{path} is damaged: it does not say {error}") from error

    def _start(self, program_id: str, epoch: Epoch) -> dict[str, Any]:
        return {"run": program_id, "job": self.number, "attempt": epoch.attempt, "restarts": epoch.restarts}

    def write_call(self, call: bytes, identity: str, number: int | None = None) -> None:
        """Write the pickled job; a directory that is being made has no `number` of its own yet."""
        with self._opened() as (here, program_id):
            header = {"run": program_id, "job": self.number if number is None else number, "identity": identity}
            checked_files.write_checked(here / self.call.name, "call", call, **header)

    def read_call(self) -> bytes:
        """Return the pickled job; raises Damaged if it is not the one of this run and job."""
        try:
            with self._opened() as (here, program_id):
                expected = {"run": program_id, "job": self.number}
                return checked_files.read_checked(here / self.call.name, "call", expected)[1]
        except (OSError, ConfigurationError) as error:
            raise Damaged(f"cannot read {self.call}: {getattr(error, 'strerror', None) or error}") from error

    def renew_call(self, call: bytes, identity: str) -> None:
        """Replace the pickled job if it differs; the next start runs the new one."""
        with suppress(Damaged):
            if self.read_call() == call:
                return
        self.write_call(call, identity)

    def write_scope(self, holders: Sequence[str]) -> None:
        """Note the locks in whose scope the job is awaited; its own locks look there for cycles of waiting."""
        with self._opened() as (here, _):
            if holders or "scope.json" in here.names():
                checked_files.write_file(here / "scope.json", json.dumps({"holders": list(holders)}).encode())

    def read_scope(self) -> list[str]:
        told = self._read_json("scope.json") or {}
        return [str(one) for one in told.get("holders", [])]

    def write_record(self, record: Record) -> None:
        """Write job.json; it is on the disk when this returns."""
        text = json.dumps({"format": FORMAT, **attrs.asdict(record)}, indent=1)
        with self._opened() as (here, _):
            checked_files.write_file(here / "job.json", text.encode() + b"\n")

    def changed_at(self) -> float:
        """Return when job.json was last written, in seconds since 1970."""
        return (self.path / "job.json").stat().st_mtime

    def read_record(self) -> Record:
        """Return what job.json says; raises OSError if it is not there, and Damaged if it cannot be used."""
        path = self.path / "job.json"
        try:
            with self._opened() as (here, _):
                data = files.from_json(checked_files.read_private(here / "job.json"))
            if data.pop("format") != FORMAT:
                raise ValueError("it was written by a newer version of hyperflow")
            if self.path.name.isdigit() and data["number"] != self.number:
                raise ValueError(f"it is of job {data['number']}")
            data["attempts"] = tuple(Attempt(**attempt) for attempt in data["attempts"])
            if data["cause"] is not None:
                data["cause"] = Cause(**data["cause"])
            return Record(**data)
        except ConfigurationError as error:
            raise Damaged(str(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{path} is damaged: {error}") from error


def _read_json(path: checked_files.Place) -> dict[str, Any] | None:
    """Return what a small file holds; None if it is not there, or not (yet) whole."""
    try:
        found = files.from_json(checked_files.read_private(path))
    except (OSError, ValueError, Damaged):
        return None
    return found if isinstance(found, dict) else None


@attrs.define(eq=False)
class RunDirectory:
    """The directory of one run, held by its master; open it with `RunDirectory.open`, and `close` it."""

    home: Path
    program: ProgramInfo
    lock: Ownership
    held: HeldRun

    @classmethod
    def open(cls, program: ProgramInfo, local: bool, echo: bool = False, offers: Offers | None = None) -> RunDirectory:
        """Take a run directory for this master alone.

        Args:
            local: Whether jobs run on this machine.
            echo: Whether jobs are to show what their evaluations print.
            offers: What the nodes of jobs have, where that cannot be found out.

        Raises:
            RunInUse: Another master runs on it; names host and process.
            ConfigurationError: Others could write to it, it cannot be written, or `local` has changed.
        """
        home = program.log_dir.parent
        with Held.open(home) as place:
            try:
                place.make("jobs").close()
            except OSError as error:
                raise ConfigurationError(f"cannot make {home / 'jobs'}: {error.strerror or error}") from error
        held = HeldRun.open(home, program.program_id)
        try:
            run = cls(home, program, take_lock(held, program.program_id), held)
            try:
                run._begin(local, echo, offers or Offers())
            except BaseException:
                run.lock.release()
                raise
        except BaseException:
            held.close()
            raise
        return run

    def _begin(self, local: bool, echo: bool, offers: Offers) -> None:
        place = self.held.home / "program.json"
        known = _read_json(place) or {}
        if known.get("local", local) != local:
            here = "on this machine (--local)" if known["local"] else "on Slurm"
            raise ConfigurationError(f"the jobs of {self.home} run {here}; resume it in the same way")
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        about = {
            "format": FORMAT,
            "program_id": self.program.program_id,
            "database": str(self.program.database),
            "local": local,
            "echo": echo,
            "gpus": offers.gpus,
            "memory": offers.memory,
            "resources": dict(offers.resources),
            "python": sys.executable,
            "script": os.path.abspath(script) if script else None,
            "argv": sys.argv,
            "directory": os.getcwd(),
            # "" stands for the directory in which Python happens to run.
            "sys_path": [os.path.abspath(entry) for entry in sys.path],
            "created": known.get("created", time.time()),
        }
        checked_files.write_file(place, json.dumps(about, indent=1).encode() + b"\n")
        jobs = self.held.jobs
        for leftover in [name for name in jobs.names() if name.startswith(".new-")]:
            shutil.rmtree((jobs / leftover).through, ignore_errors=True)  # nobody was promised anything about its call
        os.fsync(jobs.number)  # an earlier master may have been killed between naming a job and this

    def add(self, record: Record, call: bytes) -> JobDirectory:
        """Make the directory of a new job; it appears with its call and record, or not at all."""
        jobs = self.held.jobs
        draft, number = f".new-{record.number}-{secrets.token_hex(4)}", str(record.number)
        try:
            jobs.make(draft).close()
            made = JobDirectory(jobs.path / draft, self.held)
            made.write_call(call, record.identity, record.number)
            made.write_record(record)
            os.rename((jobs / draft).through, (jobs / number).through)
            os.fsync(jobs.number)
        except OSError as error:
            where = f"{jobs.path}: {error.strerror or error}"
            raise ConfigurationError(f"cannot make a job's directory in {where}") from error
        return JobDirectory(jobs.path / number, self.held)

    def jobs(self) -> list[JobDirectory]:
        """Return the directories of its jobs, by number."""
        return job_directories(self.home, self.held)

    def finish(self) -> None:
        """Note that the program has come to its end, so that there is nothing to resume."""
        place = self.held.home / "program.json"
        about = _read_json(place)
        if about is not None:
            with suppress(ConfigurationError, OSError):  # only for people
                text = json.dumps({**about, "finished": time.time()}, indent=1)
                checked_files.write_file(place, text.encode() + b"\n")

    def close(self) -> None:
        self.lock.release()
        self.held.close()


def begun(program: ProgramInfo) -> bool:
    """Whether a program has had a master before."""
    return (program.log_dir.parent / "program.json").exists()


def job_directories(home: Path, held: HeldRun | None = None) -> list[JobDirectory]:
    """Return the directories of a run's jobs, by number; raises OSError if there is no such run."""
    there = os.listdir(home / "jobs") if held is None else held.jobs.names()
    jobs = home / "jobs"
    return [JobDirectory(jobs / name, held) for name in sorted(filter(str.isdecimal, there), key=int)]


def take_lock(run: HeldRun, program_id: str) -> Ownership:
    """Become the only one that may change a run's jobs, while `run` is held.

    Raises RunInUse, with host and process, if there is another.
    """
    home, place = run.home.path, (run.home / "master").through
    try:
        return Ownership.acquire(place, program_id)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace(str(place), str(home / "master"))) from error
    except DatabaseError:
        path = home / "master.lock"
        owner = Owner.from_text(files.read_text((run.home / "master.lock").through))
        if owner is None:
            raise RunInUse(str(home), "", 0, f"look at {path}, which does not say by whom") from None
        # A process of another host cannot be seen from here, and the run must not have two masters.
        sure = f"only if you know that process {owner.pid} on {owner.host} has ended, type: rm {shlex.quote(str(path))}"
        advice = "wait until it ends, or end it" if owner.is_near() else f"end it there; {sure}"
        raise RunInUse(str(home), owner.host, owner.pid, advice) from None


def find(resume: str | os.PathLike[str], base_dir: str | os.PathLike[str]) -> ProgramInfo:
    """Return the program of an earlier run, given its id or its directory.

    Raises:
        ConfigurationError: There is no such run, or it is not one that can be resumed.
    """
    candidates = [Path(resume), Path(base_dir) / resume]
    home = next((path.absolute() for path in candidates if (path / "program.json").exists()), None)
    if home is None:
        places = " nor in ".join(str(path.absolute()) for path in candidates)
        raise ConfigurationError(f"resume={str(resume)!r}: there is no run to resume in {places} (no program.json)")
    with Held.open(home) as held:
        about = _read_json(held / "program.json")
    if about is None or about.get("format") != FORMAT:
        raise ConfigurationError(f"{home / 'program.json'} cannot be read, or is of a newer version of hyperflow")
    return ProgramInfo.existing(home, about["program_id"], about["database"])
