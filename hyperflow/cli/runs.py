"""Runs on the disk: which exist, which one a command means, and the state of their jobs as their files have it.

Reading changes nothing, so it works from any host that sees the files, whether or not a master runs. `retry`, which
records something for the next master, holds the run's lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from hyperflow import checked_files, files, program
from hyperflow._job import run_in_new_loop
from hyperflow.checked_files import Damaged
from hyperflow.errors import ConfigurationError
from hyperflow.master import rundir
from hyperflow.master.lifecycle import AT_REST, Cause, Kind, Record, State, Verdict
from hyperflow.master.rundir import CUT_OFF, HeldRun, JobDirectory
from hyperflow.master.view import JobView, story, traceback_of
from hyperflow.private import Held
from hyperflow.slurm.client import PollIntervals, SlurmClient
from hyperflow.slurm.script import SbatchOptions

SLURM_SECONDS = 30.0
"""How long a command tries to reach Slurm; a master tries for a day."""


@attrs.frozen
class Run:
    """A run on the disk: its directory, and the contents of its program.json."""

    home: Path
    about: dict[str, Any]

    @property
    def program_id(self) -> str:
        """Its id."""
        return str(self.about["program_id"])

    @property
    def local(self) -> bool:
        """Whether its jobs run on the master's machine, without Slurm."""
        return bool(self.about.get("local"))

    @property
    def finished(self) -> bool:
        """Whether its program has come to its end by itself."""
        return "finished" in self.about

    @property
    def command(self) -> list[str]:
        """The program's command line, without --resume."""
        kept: list[str] = []
        words = iter(self.about["argv"])
        for word in words:
            if word == "--resume":
                next(words, None)
            elif not word.startswith("--resume="):
                kept.append(word)
        return kept

    def jobs(self) -> list[JobView]:
        """Return the jobs from their files; a job that cannot be read is skipped."""
        return [
            JobView.of(record, directory, directory.read_status(), directory.changed_at())
            for directory, record in self._records()
        ]

    def checked(self) -> Run:
        """Return the run as its own directory has it, for what is to be started by it.

        Raises ConfigurationError if others can write there, or the directory is another run's meanwhile.
        """
        with Held.open(self.home) as held:
            run = _from(self.home, held / "program.json")
        if run is None or run.program_id != self.program_id:
            raise ConfigurationError(f"{self.home / 'program.json'} cannot be read, or is another run's meanwhile")
        return run

    def states(self) -> list[State]:
        """Return the states of the jobs, as their files have them; the cheapest look at a run."""
        return [record.state for _, record in self._records()]

    def why(self, number: int, running: bool) -> tuple[str, str]:
        """Return all that is known about a job, and the traceback of its error by itself; `running`: the program runs.

        Raises ConfigurationError if there is no such job, or it is unreadable.
        """
        directory = JobDirectory(self.home / "jobs" / str(number))
        try:
            record = directory.read_record()
            return story(record, directory, running), traceback_of(record, directory)
        except FileNotFoundError:
            numbers = ", ".join(str(record.number) for _, record in self._records()) or "none yet"
            raise ConfigurationError(f"{self.home} has no job {number}; it has {numbers}") from None
        except (OSError, Damaged) as error:
            raise ConfigurationError(str(error)) from None

    def retry(self, numbers: Sequence[int] | str, changes: Mapping[str, Any]) -> list[JobView]:
        """Record, while no master runs, that the next one is to submit jobs again; "all": those held or failed.

        Raises:
            ConfigurationError: A number or an option does not exist, or a job is not at rest; then nothing is recorded.
            RunInUse: A master has started since.
        """
        with self._locked() as held:
            there = {record.number: (directory, record) for directory, record in _records_of(held)}
            if isinstance(numbers, str):
                failed = (State.HELD, State.FAILED)
                numbers = [number for number, (_, record) in there.items() if record.state in failed]
            again: list[tuple[JobDirectory, Record]] = []
            for number in numbers:
                if number not in there:
                    raise ConfigurationError(f"there is no job {number} in {self.home}")
                directory, record = there[number]
                options = SbatchOptions(**record.options).changed(**changes)
                after = record.retried(attrs.asdict(options))
                if after is record:
                    raise ConfigurationError(f"job {number}, {record.name} is {record.state}: it need not be retried")
                again.append((directory, after))
            for directory, record in again:
                directory.write_record(record)
            return [JobView.of(record, directory, None, directory.changed_at()) for directory, record in again]

    def check_retry(self, numbers: Sequence[int] | str) -> None:
        """Raise ConfigurationError if there is a number that `retry_all_of` would refuse."""
        states = {record.number: record.state for _, record in self._records()}
        for number in numbers if not isinstance(numbers, str) else ():
            if number not in states:
                raise ConfigurationError(f"there is no job {number} in {self.home}")
            if states[number] is State.DONE:
                raise ConfigurationError(f"job {number} is done: it need not be retried")

    def retry_all_of(self, numbers: Sequence[int] | str, changes: Mapping[str, Any]) -> None:
        """Record a retry as `retry` does, of jobs that are queued or run, too: those are cancelled before."""
        states = {record.number: record.state for _, record in self._records()}
        if not isinstance(numbers, str):
            under_way = [number for number in numbers if states.get(number, State.DONE) not in AT_REST]
            if under_way:
                self.cancel(under_way)
            numbers = [number for number in numbers if states.get(number) is not State.NEW or number in under_way]
        self.retry(numbers, changes)

    def cancel(self, numbers: Sequence[int] | str) -> tuple[list[JobView], list[int]]:
        """End jobs at Slurm while no master runs, and hold them; "all": all that are not at rest.

        They are found at Slurm by their tokens. Returns the jobs that are held, and the numbers of those that had left
        their results before: these stay as they are, for the next master.

        Raises:
            ConfigurationError: A number does not exist, or a job is at rest; then nothing is done.
            SlurmError: Slurm cannot be asked; then nothing is done.
            RunInUse: A master has started since.
        """
        with self._locked() as held:
            there = {record.number: (directory, record) for directory, record in _records_of(held)}
            chosen = self._to_cancel(numbers, there)
            # Looked at before: the signal that ends a job makes it leave a result, too.
            finished = [record.number for directory, record in chosen if _has_result(directory, record)]
            tokens = [record.attempt.token for _, record in chosen if record.attempt is not None]
            if tokens and not self.local:
                run_in_new_loop(_end_at_slurm(tokens))
            ended: list[JobView] = []
            for directory, record in chosen:
                if record.number not in finished:
                    cause = Cause(Kind.CANCELLED, "it was cancelled by `hyperflow cancel`")
                    after = record.failed(record.epoch.attempt, cause, Verdict.HOLD)
                    directory.write_record(after)
                    ended.append(JobView.of(after, directory, None, directory.changed_at()))
            return ended, finished

    def _to_cancel(
        self, numbers: Sequence[int] | str, there: Mapping[int, tuple[JobDirectory, Record]]
    ) -> list[tuple[JobDirectory, Record]]:
        if isinstance(numbers, str):
            chosen = [each for each in there.values() if each[1].state not in AT_REST]
            if not chosen:
                raise ConfigurationError(f"no job of {self.home} is queued or running")
            return chosen
        for number in numbers:
            if number not in there:
                raise ConfigurationError(f"there is no job {number} in {self.home}")
            record = there[number][1]
            if record.state in AT_REST:
                raise ConfigurationError(f"{record.title} is {record.state}; there is nothing to cancel")
        return [there[number] for number in dict.fromkeys(numbers)]

    @contextmanager
    def _locked(self) -> Iterator[HeldRun]:
        """Hold the run's directories and its lock within a scope."""
        try:
            held = HeldRun.open(self.home, self.program_id)
        except OSError as error:
            raise ConfigurationError(f"{self.home} has no jobs: {error.strerror or error}") from error
        with closing(held):
            lock = rundir.take_lock(held, self.program_id)
            try:
                yield held
            finally:
                lock.release()

    def _records(self) -> list[tuple[JobDirectory, Record]]:
        with suppress(OSError), closing(HeldRun.open(self.home, self.program_id)) as held:
            return _records_of(held)
        return []


def _records_of(held: HeldRun) -> list[tuple[JobDirectory, Record]]:
    found: list[tuple[JobDirectory, Record]] = []
    for directory in rundir.job_directories(held.home.path, held):
        with suppress(OSError, Damaged):
            found.append((directory, directory.read_record()))
    return found


def _has_result(directory: JobDirectory, record: Record) -> bool:
    """Whether a job has come to its end; one that was cut off with its allocation has not."""
    starts = [epoch for epoch in directory.results() if epoch.attempt == record.epoch.attempt and epoch >= record.epoch]
    try:
        return bool(starts) and directory.read_result(starts[-1])[0] != CUT_OFF
    except Damaged:
        return True  # the next master tells what is wrong with it


async def _end_at_slurm(tokens: Sequence[str]) -> None:
    """End all that was submitted under some tokens."""
    client = SlurmClient(PollIntervals(first_retry=1.0, give_up_after=SLURM_SECONDS))
    found = await client.find(tokens)
    await client.cancel([number for numbers in found.values() for number in numbers])


def read(home: Path) -> Run | None:
    """Return the run of a Cluster program that is in a directory; None if none is."""
    return _from(home, home / "program.json")


def _from(home: Path, place: checked_files.Place) -> Run | None:
    try:
        about = files.from_json(checked_files.read_private(place))
        words = [str(word) for word in about["argv"]]
        return Run(home, {**about, "program_id": str(about["program_id"]), "argv": words})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, Damaged):
        return None


def _names(base_dir: Path) -> list[str]:
    """Return what may be runs, the oldest first: ids begin with the time."""
    with suppress(OSError):
        return sorted(os.listdir(base_dir))
    return []


def newest_runs(base_dir: Path, most: int | None) -> tuple[list[Run], int]:
    """Return the newest runs in a base directory, the oldest of them first, and how many names were not looked at.

    No more is read than what is returned: a base directory may hold many thousands of runs.
    """
    base_dir = base_dir.absolute()
    names = _names(base_dir)
    found: list[Run] = []
    while names and (most is None or len(found) < most):
        if (run := read(base_dir / names.pop())) is not None:
            found.append(run)
    return found[::-1], len(names)


def find(which: str | None, base_dir: Path) -> Run:
    """Return the run with this id, beginning of an id, or directory; for None, the newest one.

    Raises:
        ConfigurationError: No run fits, or several do.
    """
    if which is not None and (run := read(Path(which).absolute())) is not None:
        return run
    if which is None:
        newest, _ = newest_runs(base_dir, 1)
        if not newest:
            raise none_in(base_dir)
        return newest[0]
    names = [name for name in _names(base_dir) if name.startswith(which)]
    found = (read(base_dir.absolute() / name) for name in ([which] if which in names else names))
    runs = {run.home: run for run in found if run is not None}
    if not runs and not newest_runs(base_dir, 1)[0]:
        raise none_in(base_dir)
    run = runs[chosen(which, sorted(runs), base_dir)]
    if run.program_id != run.home.name:  # in a directory that a group can write to, others may have renamed it
        raise ConfigurationError(
            f"{run.home} is run {run.program_id}; somebody has renamed it. If that was you, type the directory's path"
        )
    return run


def chosen(which: str | None, homes: Sequence[Path], base_dir: Path) -> Path:
    """Return that of the directories, the oldest first, which an id or its beginning means; for None, the newest.

    Raises:
        ConfigurationError: None fits, or several do.
    """
    if which is not None:
        return program.chosen(which, homes, base_dir)
    if not homes:
        raise none_in(base_dir)
    return homes[-1]


def is_lone_job(home: Path) -> bool:
    """Whether a directory is that of a job that was run by itself, with `run_job_local` or `run_job_slurm`."""
    marks = (home / "log" / "events.jsonl", home / "vars")
    return not (home / "program.json").exists() and any(mark.exists() for mark in marks)


def is_ours(home: Path) -> bool:
    """Whether a directory is this user's; who shares a base directory could put anything beside our runs."""
    try:
        return home.stat().st_uid == os.geteuid()
    except OSError:
        return False


def none_in(base_dir: Path) -> ConfigurationError:
    """Return the error that there is no run at all."""
    lone: list[Path] = []
    with suppress(OSError):
        lone = [home for home in sorted(base_dir.absolute().iterdir()) if is_lone_job(home) and is_ours(home)]
    if lone:
        return ConfigurationError(
            f"there are no runs of Cluster programs in {base_dir.absolute()}, and only these have such jobs. "
            f"{lone[-1].name} is of run_job_local or run_job_slurm: for it there are `hyperflow show`, `logs`, "
            "`nodes`, `node` and `var`"
        )
    return ConfigurationError(f"there are no runs in {base_dir.absolute()}; --base-dir names another place")
