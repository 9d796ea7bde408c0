"""The allocation that this process is in: nodes, CPUs, end; from Slurm's environment variables.

It works in a batch script (`sbatch`), in a shell on a node (`srun --pty`), and in `salloc` on a login host, which is no
node of the allocation. Nothing is guessed: a variable that is missing or contradicts another one is an error.

What the variables mean, as seen in real allocations (tests/slurm/golden):
- `SLURM_JOB_*` are the job's. Inside srun, `SLURM_NNODES`, `SLURM_NTASKS` and `SLURM_TASKS_PER_NODE` are the *step's*:
  with `srun -N1` in a job of three nodes they tell of one node.
- `SLURM_JOB_CPUS_PER_NODE` is what was granted, node by node, in the order of `SLURM_JOB_NODELIST`.
- `SLURMD_NODENAME` is inherited like all others: in an `salloc` that was started inside another job it is that job's.
- When the job ends is not in the environment of Slurm 22.05; newer ones say what held at its start. scontrol knows.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Mapping, Sequence

import attrs

from hyperflow.errors import SlurmError
from hyperflow.slurm import nodelist, scontrol

logger = logging.getLogger("hyperflow.slurm")

PAUSES = (1.0, 3.0, 9.0)
"""Seconds after which scontrol is asked again: slurmctld may just be starting."""


@attrs.frozen
class Node:
    """One node of an allocation: how many of its CPUs are ours; what else Slurm says, None where it does not.

    Args:
        tasks: Those that Slurm plans there.
        gpus: Ids of our GPUs, as the node counts them.
        memory: Bytes.
    """

    name: str
    cpus: int
    tasks: int | None = None
    gpus: tuple[str, ...] | None = None
    memory: int | None = None


@attrs.frozen
class Allocation:
    """What Slurm has granted to the job that this process belongs to.

    Args:
        job_id: Unique, also for the jobs of an array.
        nodes: All of them, in Slurm's order.
        head: The node on which a batch script runs: the first.
        here: The node on which this process runs; None on a login host.
        end_time: When Slurm ends it, in seconds since 1970; None where there is no limit, or nobody said.
        restart_count: How often Slurm has put it back into the queue after a start.
    """

    job_id: int
    nodes: tuple[Node, ...]
    head: str
    here: str | None = None
    end_time: float | None = None
    restart_count: int = 0

    @property
    def cpus(self) -> int:
        return sum(node.cpus for node in self.nodes)


def read(
    environ: Mapping[str, str], *, hostname: str | None = None, record: scontrol.JobRecord | None = None
) -> Allocation:
    """Read the allocation from variables, and from Slurm's record of the job if there is one.

    `hostname`, what this machine calls itself, tells which of the nodes it is.

    Raises:
        SlurmError: A variable is missing, or two contradict each other.
    """
    variables = _Variables(environ)
    job_id = variables.integer("SLURM_JOB_ID")
    if environ.get("SLURM_HET_SIZE", "1") not in {"", "0", "1"}:
        raise SlurmError(
            f"SLURM_HET_SIZE={environ['SLURM_HET_SIZE']}: this is a heterogeneous job, of which hyperflow can only use "
            "one part; submit the parts as jobs of their own"
        )
    names = variables.nodes("SLURM_JOB_NODELIST")
    number = variables.integer("SLURM_JOB_NUM_NODES", len(names))
    if number != len(names):
        listed = variables.text("SLURM_JOB_NODELIST")
        raise SlurmError(f"SLURM_JOB_NUM_NODES={number}, but SLURM_JOB_NODELIST={listed} has {len(names)} nodes")
    cpus = variables.counts("SLURM_JOB_CPUS_PER_NODE", names)
    tasks = _tasks(variables, names)
    details: dict[str, tuple[tuple[str, ...], int]] = {}
    if record is not None:
        _confirm(record, job_id, variables, names)
        for nodes, gpus, memory in record.details:
            details |= dict.fromkeys(nodelist.expand(nodes), (gpus, memory))
    return Allocation(
        job_id=job_id,
        nodes=tuple(
            Node(name, cpus[name], tasks.get(name), *_more(variables, cpus[name], details.get(name))) for name in names
        ),
        head=record.head if record else names[0],
        here=_here(environ, names, hostname or ""),
        end_time=record.end_time if record else float(variables.integer("SLURM_JOB_END_TIME", 0)) or None,
        restart_count=record.restarts if record else variables.integer("SLURM_RESTART_COUNT", 0),
    )


def find(environ: Mapping[str, str], run: scontrol.Run | None = None, pauses: Sequence[float] = PAUSES) -> Allocation:
    """Read the allocation that this process is in, and ask scontrol, which blocks, if the environment lacks its end.

    It is asked, too, which GPUs the job has on each node: the environment tells only those of this one.

    Nothing else has to be asked for: a missing `SLURM_RESTART_COUNT` means that there was no restart. If scontrol gives
    no answer, also after these pauses, a warning says that the end is not known: slurmctld may be away for a while when
    a job starts, and the job can run.

    Raises:
        SlurmError: There is no allocation, or Slurm contradicts itself.
    """
    hostname = socket.gethostname()
    allocation = read(environ, hostname=hostname)
    has_gpus = any(name.startswith(("SLURM_GPUS", "SLURM_JOB_GPUS")) for name in environ)
    if environ.get("SLURM_JOB_END_TIME") and not has_gpus:
        return allocation
    record = _ask(allocation.job_id, run, pauses)
    return allocation if record is None else read(environ, hostname=hostname, record=record)


def _ask(job_id: int, run: scontrol.Run | None, pauses: Sequence[float]) -> scontrol.JobRecord | None:
    until = time.monotonic() + scontrol.TIMEOUT  # one that hangs is not asked again
    left = list(pauses)
    while True:
        try:
            return scontrol.ask(job_id, run)
        except SlurmError as error:
            if not left or time.monotonic() > until:
                text = "it is not known when this allocation ends, so work may be cut off at its end: %s"
                logger.warning(text, error)
                return None
        time.sleep(left.pop(0))


class _Variables:
    """Environment variables; each error names the variable."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ

    def text(self, name: str) -> str:
        value = self.environ.get(name, "")
        if value:
            return value
        if "SLURM_JOB_ID" not in self.environ:
            raise SlurmError(
                "SLURM_JOB_ID is not set: this process is not inside a Slurm allocation. Start it in a script for "
                "sbatch or in salloc, or use run_job_local() to run on this machine alone"
            )
        what = "is empty" if name in self.environ else "is not set"
        raise SlurmError(f"{name} {what}, although SLURM_JOB_ID={self.environ['SLURM_JOB_ID']} is set")

    def integer(self, name: str, default: int | None = None) -> int:
        if default is not None and not self.environ.get(name):
            return default
        value = self.text(name)
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise SlurmError(f"{name}={value!r} is not a number")
        return int(value)

    def nodes(self, name: str) -> tuple[str, ...]:
        value = self.text(name)
        try:
            names = nodelist.expand(value)
        except SlurmError as error:
            raise SlurmError(f"{name} is {error}") from None
        if not names:
            raise SlurmError(f"{name}={value!r} names no node")
        if len(set(names)) < len(names):
            twice = next(each for each in names if names.count(each) > 1)
            raise SlurmError(f"{name}={value} names {twice} more than once")
        return names

    def repeated(self, name: str) -> list[int]:
        """Read numbers node by node, such as `4(x2),2`."""
        numbers: list[int] = []
        for part in self.text(name).split(","):
            match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", part)
            if match is None:
                raise SlurmError(f"{name}={self.text(name)!r}: {part!r} is not of the form 4 or 4(x2)")
            repetitions = int(match[2] or 1)
            if repetitions > nodelist.MOST_NODES:
                raise SlurmError(f"{name}={self.text(name)!r} has more than {nodelist.MOST_NODES} nodes")
            numbers += [int(match[1])] * repetitions
        return numbers

    def counts(self, name: str, names: tuple[str, ...]) -> dict[str, int]:
        """Read one number for each of the job's nodes."""
        numbers = self.repeated(name)
        if len(numbers) != len(names):
            listed = self.text("SLURM_JOB_NODELIST")
            raise SlurmError(
                f"{name}={self.text(name)} is for {len(numbers)} nodes, "
                f"but SLURM_JOB_NODELIST={listed} has {len(names)}"
            )
        if 0 in numbers:
            raise SlurmError(f"{name}={self.text(name)} grants a node no CPU")
        return dict(zip(names, numbers, strict=True))


def _tasks(variables: _Variables, names: tuple[str, ...]) -> dict[str, int]:
    """Read the tasks per node: of the job's nodes, or inside srun of the step's, or the user's `--ntasks-per-node`."""
    name, step = "SLURM_TASKS_PER_NODE", "SLURM_STEP_NODELIST"
    if not variables.environ.get(name):
        if not variables.environ.get("SLURM_NTASKS_PER_NODE"):
            return {}
        return dict.fromkeys(names, variables.integer("SLURM_NTASKS_PER_NODE"))
    numbers = variables.repeated(name)
    if len(numbers) == len(names):
        return dict(zip(names, numbers, strict=True))
    if variables.environ.get(step):
        of_step = variables.nodes(step)
        if len(numbers) == len(of_step) and set(of_step) <= set(names):
            return dict(zip(of_step, numbers, strict=True))
    found = ", ".join(
        f"{each}={variables.environ[each]}" for each in ("SLURM_JOB_NODELIST", step) if each in variables.environ
    )
    raise SlurmError(f"{name}={variables.text(name)} is for {len(numbers)} nodes, which does not fit {found}")


def _more(
    variables: _Variables, cpus: int, details: tuple[tuple[str, ...], int] | None
) -> tuple[tuple[str, ...] | None, int | None]:
    """Return the GPUs and the memory that Slurm grants on a node, as far as it says."""
    gpus, memory = details or (None, 0)
    if not memory and variables.environ.get("SLURM_MEM_PER_NODE"):
        memory = variables.integer("SLURM_MEM_PER_NODE") << 20
    elif not memory and variables.environ.get("SLURM_MEM_PER_CPU"):
        memory = variables.integer("SLURM_MEM_PER_CPU") * cpus << 20
    return gpus, memory or None


def _confirm(record: scontrol.JobRecord, job_id: int, variables: _Variables, names: tuple[str, ...]) -> None:
    if record.job_id != job_id:
        raise SlurmError(f"SLURM_JOB_ID={job_id}, but scontrol speaks of job {record.job_id}")
    if set(nodelist.expand(record.nodes)) != set(names):
        listed = variables.text("SLURM_JOB_NODELIST")
        raise SlurmError(
            f"SLURM_JOB_NODELIST={listed}, but scontrol says that job {job_id} has {record.nodes}; if the job was "
            "resized, source the script that `scontrol update` left (slurm_job_*_resize.sh) first"
        )


def _here(environ: Mapping[str, str], names: tuple[str, ...], hostname: str) -> str | None:
    # A node's name is mostly, but not always, that of its host; and a host may call itself node1.cluster.example.
    for candidate in (environ.get("SLURMD_NODENAME", ""), hostname, hostname.partition(".")[0]):
        if candidate in names:
            return candidate
    return None
