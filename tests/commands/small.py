"""A small Job that runs tasks, and what is recorded of them: without the command line of `hyperflow array`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hyperflow as hf
from hyperflow.commands import sources
from hyperflow.commands.history import History
from hyperflow.commands.outputs import Recorder
from hyperflow.commands.records import Stream, TaskRecord
from hyperflow.commands.running import run_task
from hyperflow.commands.written import Written


class Small(NamedTuple):
    """A command, and how it is run."""

    argv: Sequence[str]
    cwd: str = ""
    env: dict[str, str] | None = None
    stdin: str = ""


def python(code: str) -> Small:
    """Return a task that is a Python program."""
    return Small([sys.executable, "-c", code])


def shell(script: str) -> Small:
    """Return a task that is a script."""
    return Small(["/bin/sh", "-c", script])


@hf.job
async def run_tasks(tasks: Sequence[Small], options: dict[str, Any]) -> list[TaskRecord]:
    """Run tasks and record them; their numbers begin at 1."""
    recorder = Recorder()
    ended = await hf.map_concurrently(
        lambda one: hf.remote_eval(run_task, one[0], one[1].argv, one[1].cwd, one[1].env, one[1].stdin).using(
            **options
        ),
        list(enumerate(tasks, 1)),
        errors="return",
    )
    recorded = [
        recorder.ended(number, f"key {number}", done.error if isinstance(done, hf.Failed) else done)
        for number, done in enumerate(ended, 1)
    ]
    records = [await each for each in recorded]
    await recorder.close()
    return records


def run(base_dir: Path, *tasks: Small, cpus: int = 1, **options: Any) -> tuple[Path, list[TaskRecord]]:
    """Run tasks on this machine; return the run's directory and the records."""
    program = hf.ProgramInfo.new(base_dir)
    records = hf.run_job_local(run_tasks(tasks, options), cpus=cpus, program=program, progress=False)
    return program.log_dir.parent, records


def written(home: Path, number: int, stream: Stream = "out") -> bytes:
    """Return what a task has written, as it is recorded."""
    with sources.opened(home) as opened:
        history = History(opened, 10_000, {})
        found = Written(stream, None)
        found.look(opened)
        record = history.record(number)
        token = record.token if record is not None and record.token else found.newest(number)
        return b"".join(data for _, data in found.read(opened, number, token))
