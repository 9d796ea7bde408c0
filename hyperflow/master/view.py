"""What people see of a program's jobs: counts, one line for each job, and the whole story of one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import attrs

from hyperflow import files
from hyperflow.master import causes
from hyperflow.master.lifecycle import Kind, Record, State
from hyperflow.master.rundir import JobDirectory
from hyperflow.slurm import queue

TAILS = 3
"""How many logs of workers a story quotes."""


@attrs.frozen
class Progress:
    """How a job's evaluations stand."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0


@attrs.frozen
class ClusterStatistics:
    """How the jobs of a Cluster computation stand.

    Args:
        jobs: Jobs by state.
        waiting: Jobs that Slurm does not run yet.
        running: Jobs that run, or have ended and are being looked at.
        done: Jobs that gave a result.
        failed: Jobs whose error was raised in the program.
        held: Jobs that wait for somebody's decision.
        cancelled: Jobs that no flow wanted any more.
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


@attrs.frozen
class JobView:
    """One job, as a list shows it.

    Args:
        number: Its number in the program.
        name: The call, cut.
        state: Where it is in its life.
        batch_id: Its newest Slurm id.
        reason: Why it waits, in Slurm's words.
        nodes: Where it runs, as Slurm writes it.
        progress: How its evaluations stand.
        cause: Why it is held or has failed.
        since: When it came into this state, in seconds since 1970.
        attempts: How often it was submitted.
        directory: Where its files are.
    """

    number: int
    name: str
    state: State
    batch_id: int | None
    reason: str
    nodes: str
    progress: Progress
    cause: str
    since: float
    attempts: int
    directory: Path

    @classmethod
    def of(cls, record: Record, directory: JobDirectory, status: dict[str, Any] | None, since: float) -> JobView:
        """Return the line of a job."""
        return cls(
            number=record.number,
            name=record.name,
            state=record.state,
            batch_id=record.batch_id,
            reason=record.reason,
            nodes=record.nodes,
            progress=_progress(record, status),
            cause=f"{record.cause.kind}: {record.cause.text}" if record.cause else "",
            since=since,
            attempts=len(record.attempts),
            directory=directory.path,
        )


def _progress(record: Record, status: dict[str, Any] | None) -> Progress:
    if status is None or (status.get("attempt"), status.get("restarts")) != (
        record.epoch.attempt,
        record.epoch.restarts,
    ):
        return Progress()  # of an older start
    over = record.state not in (State.RUNNING, State.ENDED)
    counts = {field.name: int(status.get(field.name, 0)) for field in attrs.fields(Progress)}
    return Progress(**{**counts, **({"running": 0, "waiting": 0} if over else {})})


def story(record: Record, directory: JobDirectory) -> str:
    """Tell all that is known of a job, and what to type."""
    lines = [f"job {record.number}, {record.name}: {record.state}"]
    if record.batch_id is not None:
        where = f" on {record.nodes}" if record.nodes else ""
        lines.append(f"  Slurm job {record.batch_id}, attempt {record.epoch.attempt}{where}")
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
    if quoted := files.tail(directory.output):
        lines += [f"  the end of {directory.output}:", *(f"    | {line}" for line in quoted.splitlines())]
    logs = directory.log_dir(record.epoch)
    if record.state in (State.HELD, State.FAILED) and logs.is_dir():
        for log in _newest(logs):
            if quoted := files.tail(log, lines=5):
                lines += [f"  the end of {log}:", *(f"    | {line}" for line in quoted.splitlines())]
        lines.append(f"  all logs: {shlex.quote(str(logs))}")
    lines.append(f"  its files: {shlex.quote(str(directory.path))} (script.sh is what was submitted)")
    if record.cause is not None:
        lines.append("  to go on: " + causes.REMEDIES[record.cause.kind].format(number=record.number))
    return "\n".join(lines)


def _newest(logs: Path) -> list[Path]:
    found = [path for path in logs.glob("*.log") if path.stat().st_size]
    return sorted(found, key=lambda path: path.stat().st_mtime)[-TAILS:]
