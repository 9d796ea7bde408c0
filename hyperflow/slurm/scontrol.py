"""What `scontrol show job` says about a job: how it is asked, and its text to data."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

import attrs

from hyperflow.errors import SlurmError
from hyperflow.wire import gpus

Run: TypeAlias = Callable[[Sequence[str], Mapping[str, str]], str]
"""Runs a command with additional environment variables, and returns what it printed: `run_command`, or a test's."""

TIMEOUT = 60.0
"""Seconds for a command of Slurm; it asks the controller again after `MessageTimeout`, 10 s."""


@attrs.frozen
class JobRecord:
    """The part of Slurm's record of a job that the environment may lack; `nodes` is a list as Slurm writes it.

    `details` are what it grants on each node: nodes as Slurm writes them, their GPUs, and bytes of memory (0 where
    Slurm does not count it).

    `head`, `end_time` and `restarts` mean the same as in an `Allocation`.
    """

    job_id: int
    nodes: str
    head: str
    end_time: float | None
    restarts: int
    details: tuple[tuple[str, tuple[str, ...], int], ...] = ()


def ask(job_id: int, run: Run | None = None) -> JobRecord:
    """Ask Slurm for the record of a job; blocks until Slurm's controller answers.

    Raises:
        SlurmError: scontrol could not be run, or failed, or said something unexpected.
    """
    # Seconds since 1970: local times are ambiguous once a year.
    text = (run or run_command)(["scontrol", "show", "job", "-d", str(job_id), "-o"], {"SLURM_TIME_FORMAT": "%s"})
    return parse(text, job_id)


def requeue(job_id: int, run: Run | None = None) -> None:
    """Put a running batch job back into the queue, under its number; Slurm then ends all that it runs.

    Raises:
        SlurmError: Slurm refused, for example because the job was not submitted with --requeue.
    """
    (run or run_command)(["scontrol", "requeue", str(job_id)], {})


def run_command(argv: Sequence[str], variables: Mapping[str, str], timeout: float | None = None) -> str:
    """Run a command of Slurm, and return what it printed; `timeout` is TIMEOUT unless given."""
    timeout = TIMEOUT if timeout is None else timeout
    command = " ".join(argv)
    try:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            process_group=0,  # what a wrapper starts is killed with it
        )
    except FileNotFoundError:
        raise SlurmError(f"`{command}`: there is no {argv[0]} in PATH ({os.environ.get('PATH', '')})") from None
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise SlurmError(f"`{command}` gave no answer within {timeout:g} s; does Slurm's controller run?") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise SlurmError(f"`{command}` exited with {process.returncode}: {errors.strip() or output.strip()}")
    return output


# The patterns include the neighbours of a field, because a job's name may be anything, also "EndTime=0".
_ID = re.compile(r"JobId=(\d+) ")
_RESTARTS = re.compile(r" Requeue=\d+ Restarts=(\d+) BatchFlag=")
_END = re.compile(r" StartTime=\S+ EndTime=(\S+) Deadline=")
_NODES = re.compile(r" NodeList=(\S+) BatchHost=(\S+) ")
_DETAILS = re.compile(r" Nodes=(\S+) CPU_IDs=\S+ Mem=(\d+) GRES=(\S*)")
_GPUS = re.compile(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)(?:\(IDX:([0-9,-]+)\))?")


def _gpus(text: str) -> tuple[str, ...]:
    """Return the GPUs in a list such as `gpu:a100:2(IDX:0-1),shard:0`; those that are only counted count from 0."""
    ids: list[str] = []
    for count, listed in _GPUS.findall(text):
        ids += gpus.numbered(listed) if listed else map(str, range(len(ids), len(ids) + int(count)))
    return tuple(ids)


def parse(text: str, job_id: int) -> JobRecord:
    """Read what `scontrol show job ID -o` says with SLURM_TIME_FORMAT=%s; an array's first job gives all its jobs."""
    for line in text.splitlines():
        found = _ID.match(line)
        if found and int(found[1]) == job_id:
            nodes, end = _NODES.search(line), _one(_END, line)
            if nodes is None:
                raise SlurmError(f"scontrol names no nodes for job {job_id}; it said: {line}")
            if not end.isdigit() and end not in {"Unknown", "NONE"}:
                raise SlurmError(f"scontrol says EndTime={end} for job {job_id}, no number of seconds; it said: {line}")
            restarts = int(_one(_RESTARTS, line))
            details = tuple((each[1], _gpus(each[3]), int(each[2]) << 20) for each in _DETAILS.finditer(line))
            return JobRecord(job_id, nodes[1], nodes[2], float(end) if end.isdigit() else None, restarts, details)
    raise SlurmError(f"scontrol has no record of job {job_id}; it said: {text.strip()[:500] or 'nothing'}")


def _one(pattern: re.Pattern[str], line: str) -> str:
    match = pattern.search(line)
    if match is None:
        raise SlurmError(f"scontrol's record of a job has nothing like `{pattern.pattern.strip()}`; it said: {line}")
    return match[1]
