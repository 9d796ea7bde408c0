"""What runs in an allocation: reads a job's call, runs it, writes its result.

    python -c "..." JOB_DIRECTORY RUN ATTEMPT [--local ID CPUS IDS]

Guarantees:
- A result appears complete, under the name of this start of the job, and only after everything that the job has
  recorded is on the disk and its database is closed.
- One Slurm job runs an attempt. If sbatch was called twice for it, because the first answer was lost, the second job
  finds the claim of the first one, and ends without doing anything.
- A job that Slurm starts again, although it has written its result, does not compute it again.
- Nothing is unpickled from a directory that others can write to, and nothing of another run or job: which one this is
  stands in the command line, and so in the script that Slurm keeps.

Errors before the job itself runs are written to slurm.out, which the master quotes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from hyperflow import checked_files, files
from hyperflow._job import open_local_job, open_slurm_job, run_in_new_loop
from hyperflow.database.store import copy_database
from hyperflow.environment import Environment, Statistics
from hyperflow.errors import AllocationEnding, ConfigurationError, HyperflowError
from hyperflow.flow import Flow
from hyperflow.master import calls, lockfiles
from hyperflow.master.lifecycle import Epoch, Record
from hyperflow.master.rundir import CUT_OFF, ERROR, VALUE, HeldRun, JobDirectory, begins
from hyperflow.program import ProgramInfo, is_url
from hyperflow.shipping import rebuild
from hyperflow.wire import processes

STATUS_PAUSE = 2.0
"""Seconds between two writes of status.json."""

RESULT_PATIENCE, RESULT_PAUSE = 600.0, 5.0
"""Seconds for which a result that cannot be written is tried again, and between two tries."""

REFUSED = 70
"""The exit code when the job was not run, and slurm.out says why."""

RAISED = 1
"""The exit code when the job's result is an error. Slurm's lists then show it as FAILED."""


@attrs.frozen
class Place:
    """Where this process runs; `cpus`, their `ids` and `memory` are for a job on this machine."""

    batch_id: int
    restarts: int = 0
    cpus: int | None = None
    ids: tuple[int, ...] = ()
    memory: int | None = None


@attrs.frozen
class Task:
    """One start of a job."""

    directory: JobDirectory
    record: Record
    epoch: Epoch
    place: Place
    about: dict[str, Any]

    def program(self) -> ProgramInfo:
        """Return directories and database for this start."""
        log_dir = self.directory.log_dir(self.epoch)
        log_dir.mkdir(mode=0o700, exist_ok=True)
        program_id = f"{self.about['program_id']}-{self.record.number}-{self.epoch}"
        data_dir = self.directory.home / "data"
        shared = self.about["database"]
        if is_url(shared):
            return ProgramInfo(program_id, shared, log_dir, data_dir, call=self.record.identity)
        earlier = [epoch for epoch in self.directory.databases() if epoch < self.epoch]
        # The master takes the rows of earlier starts now and then, and certainly before a new attempt.
        again = earlier and earlier[-1].attempt == self.epoch.attempt
        source = self.directory.database(earlier[-1]) if again else Path(shared)
        target = self.directory.database(self.epoch)
        if source.exists() and not target.exists():
            try:
                copy_database(source, target)
            except HyperflowError as error:  # it would only save work
                _say(f"begins with an empty database: {error}")
        return ProgramInfo(program_id, target, log_dir, data_dir, call=self.record.identity)

    def write(self, outcome: str, payload: bytes) -> None:
        self.directory.write_result(self.epoch, self.place.batch_id, outcome, payload)


def main() -> None:
    """Run the job that the command line names."""
    signal.signal(signal.SIGUSR1, _pass)  # until the job listens for it, it would end this process
    try:
        sys.exit(run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), _place(sys.argv[4:])))
    except (HyperflowError, OSError) as error:
        _say(f"{type(error).__name__}: {error}")
        sys.exit(REFUSED)


def _say(text: str) -> None:
    """Write a line to slurm.out. If its disk is full, the job must not lose its result for that."""
    with suppress(OSError):
        print(f"hyperflow: {text}", file=sys.stderr, flush=True)


def _place(words: list[str]) -> Place:
    if words:
        processes.die_with_parent()
        _, number, cpus, ids, memory = words
        pinned = tuple(int(one) for one in ids.split(",") if one)
        return Place(int(number), cpus=int(cpus), ids=pinned, memory=int(memory) or None)
    return Place(int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_RESTART_COUNT") or 0))


def run(path: Path, program_id: str, attempt: int, place: Place) -> int:
    """Run a job of a run and return the exit code."""
    held = HeldRun.open(path.parent.parent, program_id)
    try:
        return _run_held(JobDirectory(path, held), held, attempt, place)
    finally:
        held.close()


def _run_held(directory: JobDirectory, held: HeldRun, attempt: int, place: Place) -> int:
    epoch = Epoch(attempt, place.restarts)
    _say(begins(epoch, socket.gethostname()))
    about = files.from_json(checked_files.read_private(held.home / "program.json"))
    _be_like_the_master(about, place)
    task = Task(directory, directory.read_record(), epoch, place, about)
    if not claim(directory, epoch, place):
        _say(f"another Slurm job has taken attempt {attempt}; nothing is left to do")
        return 0
    for earlier in directory.results():
        if earlier.attempt == attempt and earlier < epoch:
            with suppress(checked_files.Damaged):
                outcome, payload = directory.read_result(earlier)
                if outcome == CUT_OFF:
                    continue
                _say(f"an earlier start ({earlier}) has left its result; it counts")
                task.write(outcome, payload)
                return 0
    return run_in_new_loop(_run(task))


def _pass(_number: int, _frame: object) -> None:
    """Receive a signal without effect. (Child processes would inherit SIG_IGN.)"""


def _be_like_the_master(about: dict[str, Any], place: Place) -> None:
    """Find modules and relative paths where the program finds them; in a local job, take its CPUs."""
    sys.path += [entry for entry in about["sys_path"] if entry not in sys.path]
    with suppress(OSError):  # a directory that this node does not have is no reason not to run
        os.chdir(about["directory"])
    sys.argv = about["argv"]
    if place.ids and len(place.ids) == place.cpus:
        os.sched_setaffinity(0, place.ids)


def claim(directory: JobDirectory, epoch: Epoch, place: Place) -> bool:
    """Take an attempt for this Slurm job; return False if another one has it."""
    path = directory.claim(epoch.attempt)
    mine = {"batch_id": place.batch_id, "restarts": place.restarts, "host": socket.gethostname(), "since": time.time()}
    try:
        directory.put_claim(epoch.attempt, mine)
    except FileExistsError:
        found = directory.read_claim(epoch.attempt)
        if found is None:
            words = f"{path} cannot be read, so that nobody knows who has taken attempt {epoch}"
            raise checked_files.Damaged(words) from None
        if found["batch_id"] != place.batch_id:
            return False
        directory.put_claim(epoch.attempt, mine, over=True)  # in the place of an earlier start's
    return True


async def _run(task: Task) -> int:
    where = f", in Slurm job {task.place.batch_id}" if task.place.cpus is None else ""
    context = f"raised by {task.record.title}{where}; its files: {task.directory.path}"
    try:
        job = rebuild.receive_one(task.directory.read_call())
        payload = calls.pack_value(await _evaluate(task, job), task.record.title)
        outcome = VALUE
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the job's outcome
        outcome = CUT_OFF if isinstance(error, AllocationEnding) else ERROR
        payload = calls.pack_error(error, context)
        with suppress(OSError):  # it is for people; the result has it, too
            told = calls.error_for_people(error, context).encode("utf-8", "backslashreplace")
            files.write_whole(task.directory.traceback(task.epoch), told)
        _say(f"{task.record.title} has ended with {type(error).__name__}")
    # At the time limit there are some seconds between TERM and KILL, enough for the result.
    before = signal.signal(signal.SIGTERM, _pass)
    try:
        await _write_patiently(task, outcome, payload)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0 if outcome == VALUE else RAISED


async def _write_patiently(task: Task, outcome: str, payload: bytes) -> None:
    """Write the result. If the disk is full, try again for a while: the result may be hours of work."""
    deadline = time.monotonic() + RESULT_PATIENCE
    while True:
        try:
            task.write(outcome, payload)
            return
        except ConfigurationError as error:
            if time.monotonic() > deadline:
                raise
            _say(f"{error}; trying again")
            await asyncio.sleep(RESULT_PAUSE)


async def _evaluate(task: Task, job: Flow[Any]) -> Any:
    program, cpus = task.program(), task.place.cpus
    holder = lockfiles.Holder.this_process(task.record.number, task.epoch, task.place.batch_id)
    echo, tokens = bool(task.about.get("echo")), task.about.get("resources")
    if cpus is None:
        gpus, memory = task.about.get("gpus"), task.about.get("memory")
        opened = open_slurm_job(
            gpus=gpus, memory=memory, resources=tokens, program=program, echo=echo, progress=False
        )  # the master shows it
    else:
        opened = open_local_job(
            cpus=cpus, memory=task.place.memory, resources=tokens, program=program, echo=echo, progress=False
        )
    async with opened as env:
        lockfiles.share(env, task.directory.home, holder, task.directory.read_scope())
        telling = asyncio.create_task(_tell(task, env))
        try:
            return await job
        finally:
            telling.cancel()
            _write_status(task, env.statistics())


async def _tell(task: Task, env: Environment) -> None:
    """Write status.json every few seconds."""
    while True:
        # Counted here: workers come and go in this thread while another one would look at them.
        await asyncio.to_thread(_write_status, task, env.statistics())
        await asyncio.sleep(STATUS_PAUSE)


def _is_short(member: attrs.Attribute[Any], _: object) -> bool:
    return member.name != "functions"  # which may be many; the event log has them


def _write_status(task: Task, stands: Statistics) -> None:
    start = {**attrs.asdict(task.epoch), "batch_id": task.place.batch_id, "host": socket.gethostname()}
    status = {**start, "time": time.time(), **attrs.asdict(stands, filter=_is_short)}
    with suppress(OSError):  # it is only for people; a full disk shows up where it matters
        files.write_whole(task.directory.status, json.dumps(status).encode(), durable=False)
