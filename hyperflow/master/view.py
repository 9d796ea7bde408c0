"""What people see of a program's jobs: counts, one line for each job, also as JSON, and the whole story of one."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from hyperflow import files, pages
from hyperflow.master import causes
from hyperflow.master.lifecycle import Kind, Record, State
from hyperflow.master.rundir import JobDirectory
from hyperflow.progress.tally import Group, Snapshot, fewer
from hyperflow.slurm import queue

FORMAT = 1
"""Goes up with incompatible changes only; members may be added without."""

MOST_LINES = 100
"""How many lines of a traceback a story quotes; the file has them all."""

TAILS = 3
"""How many logs of workers a story quotes."""


@attrs.frozen
class Progress:
    """How many of a job's evaluations are in each state."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0


@attrs.frozen
class ClusterStatistics:
    """How many jobs of a Cluster computation are in each state, and what has happened to them.

    Args:
        jobs: Jobs by state.
        waiting: Jobs that Slurm does not run yet.
        running: Jobs that run, or have ended and are being looked at.
        failed: Jobs whose error was raised in the program.
        held: Jobs that wait until the user decides.
        cancelled: Jobs that no flow wants any more.
        retried: How often a job was submitted again after a failure.
        returned: How often Slurm has put a job back into its queue and started it again.
        late: Results that came too late and were left aside.
        calls: How often each command of Slurm was run.
    """

    jobs: dict[str, int]
    waiting: int
    running: int
    done: int
    failed: int
    held: int
    cancelled: int
    retried: int
    returned: int
    late: int
    calls: dict[str, int]

    def in_words(self) -> dict[str, str]:
        """Return what there is to tell, by what it concerns."""
        happened = {"retried": self.retried, "returned": self.returned, "late": self.late}
        jobs = {**self.jobs, **happened}
        return {
            "jobs": ", ".join(f"{count} {name}" for name, count in jobs.items() if count) or "none yet",
            "calls of Slurm": ", ".join(f"{name} {count}" for name, count in self.calls.items()) or "none",
        }

    def _repr_html_(self) -> str:
        from hyperflow import displays  # noqa: PLC0415 (only a notebook asks)

        return displays.facts("", self.in_words())


@attrs.frozen
class JobView:
    """One job, as a list shows it; fields with the name of one of `Record` mean the same.

    Args:
        progress: How its evaluations stand.
        cause: Why it is held or has failed, in words.
        since: When it came into this state, in seconds since 1970.
        attempts: How often it was submitted.
    """

    number: int
    name: str
    state: State = attrs.field(converter=State)
    batch_id: int | None
    reason: str
    nodes: str
    progress: Progress
    cause: str
    since: float
    attempts: int
    directory: Path = attrs.field(converter=Path)

    @classmethod
    def of(cls, record: Record, directory: JobDirectory, status: dict[str, Any] | None, since: float) -> JobView:
        """Return the view of a job; `status` is what its status.json says."""
        same = {name: getattr(record, name) for name in ("number", "name", "state", "batch_id", "reason", "nodes")}
        cause = f"{record.cause.kind}: {record.cause.text}" if record.cause else ""
        progress, attempts = _progress(record, status or {}), len(record.attempts)
        return cls(**same, progress=progress, cause=cause, since=since, attempts=attempts, directory=directory.path)


def _progress(record: Record, status: dict[str, Any]) -> Progress:
    if (status.get("attempt"), status.get("restarts")) != attrs.astuple(record.epoch):
        return Progress()  # of an older start
    counts = {field.name: int(status.get(field.name, 0)) for field in attrs.fields(Progress)}
    over = record.state not in (State.RUNNING, State.ENDED)
    return Progress(**(counts | {"running": 0, "waiting": 0} if over else counts))


def stands(jobs: Sequence[JobView]) -> Snapshot:
    """Return how jobs and their evaluations stand, by the function of the job."""
    groups: dict[str, Group] = {}
    for job in jobs:
        counts, name = job.progress, job.name.partition("(")[0]
        submitted = counts.done + counts.failed + counts.running + counts.waiting
        one = Group(name, submitted, counts.done, counts.failed, 0, counts.running)
        groups[name] = groups.get(name, Group(name)).plus(one)
    states = Counter(str(job.state) for job in jobs)
    return Snapshot(fewer(list(groups.values())), jobs=", ".join(f"{count} {state}" for state, count in states.items()))


def job_to_json(job: JobView) -> dict[str, Any]:
    """Return a job as a JSON object."""
    return {**attrs.asdict(job), "state": str(job.state), "directory": str(job.directory)}


def job_from_json(data: Mapping[str, Any]) -> JobView:
    """Return the job that a JSON object describes; members that are not known here are ignored."""
    known: dict[str, Any] = {field.name: data[field.name] for field in attrs.fields(JobView)}
    counts = {field.name: data["progress"][field.name] for field in attrs.fields(Progress)}
    known["progress"] = Progress(**counts)
    return JobView(**known)


def story(record: Record, directory: JobDirectory, running: bool) -> str:
    """Tell all that is known of a job, and what to type; `running`: the program runs."""
    about = directory.about()
    lines = [f"job {record.number}, {record.name}: {record.state}"]
    if record.batch_id is not None:
        where = f" on {record.nodes}" if record.nodes else ""
        job = "on this machine (--local)" if about.get("local") else f"Slurm job {record.batch_id}"
        lines.append(f"  {job}, attempt {record.epoch.attempt}{where}")
    if record.reason:
        lines.append(f"  waits for: {record.reason}")
        if hopeless := queue.hopeless(record.reason):
            remedy = causes.REMEDIES[Kind.HOPELESS].format(number=record.number)
            lines.append(f"  {hopeless}. If that stays so for some minutes, it is held")
            lines.append(f"  to go on at once: hyperflow cancel {record.number}; then {remedy}")
    if record.cause is not None:
        lines += [f"  cause: {record.cause.kind}: {record.cause.text}"]
        if record.cause.slurm:
            lines.append("  Slurm says: " + record.cause.slurm.replace("\n", "\n    "))
    if told := traceback_of(record, directory):
        lines += [f"  its traceback ({directory.traceback(record.epoch)}):"]
        lines += [f"    | {line}" for line in told.splitlines()[-MOST_LINES:]]
    lines += _output(record, directory)
    logs = directory.log_dir(record.epoch)
    if record.state in (State.HELD, State.FAILED) and logs.is_dir():
        written = [path for path in logs.glob("*.log") if path.stat().st_size]
        for log in sorted(written, key=lambda path: path.stat().st_mtime)[-TAILS:]:
            lines += _quoted(log, 5)
        lines.append(f"  all logs: {shlex.quote(str(logs))}")
    lines.append(f"  its files: {shlex.quote(str(directory.path))} (script.sh is what was submitted)")
    if record.cause is not None and "finished" not in about:
        lines.append(f"  to go on: {causes.to_go_on(record.cause.kind, record.number, running)}")
        if kind := causes.ERRORS.get(record.cause.kind):  # an exception of its own is not one of ours
            lines.append(f"  {pages.about_error(kind)}")
    return "\n".join(lines)


def traceback_of(record: Record, directory: JobDirectory) -> str:
    """Return the traceback of the error that a job has ended with; "" if it has ended otherwise, or not yet."""
    return directory.read_traceback(record.epoch) if record.cause is not None and record.attempts else ""


def _output(record: Record, directory: JobDirectory) -> list[str]:
    """Quote what the newest start has printed; what an earlier attempt has, is told to be of that one."""
    start, text = directory.read_output()
    of = "" if start is None or start.attempt == record.epoch.attempt else f", of attempt {start.attempt}"
    if of and record.state is State.DONE:
        return []  # how it came to its end is no longer of interest
    return _quotation(f"{directory.output}{of}", text)


def _quoted(file: Path, lines: int) -> list[str]:
    return _quotation(str(file), files.tail(file, lines=lines))


def _quotation(title: str, text: str) -> list[str]:
    quoted = [f"    | {line}" for line in text.splitlines()]
    return [f"  the end of {title}:", *quoted] if quoted else []
