"""The cluster's Slurm, as a user on the login host has it."""

import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from tests.cluster.host import Host
from tests.helpers import block_until

FINISHED = frozenset(
    ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE"]
)


@attrs.frozen
class Slurm:
    """Commands of Slurm, run on the login host."""

    login: Host

    def sbatch(
        self,
        script: str,
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str | None] | None = None,
        **options: str | int | bool,
    ) -> int:
        """
        Submit a script and return the job's id.

        Options are those of sbatch: `nodes=3`, `ntasks_per_node=1`, `signal="B:USR1@50"`, `requeue=True`. Output goes
        to slurm-ID.out in *cwd*, which is the home directory unless something else is said.
        """
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}"
        answer = self.login.run(["sbatch", "--parsable", *flags(options)], cwd=cwd, env=env, input=text).stdout
        return int(answer.strip())

    def job(self, job_id: int) -> dict[str, str]:
        """Return what scontrol says about a job. (Values with spaces in them are cut off at the first.)"""
        return _fields(self.scontrol("show", "job", str(job_id), "-o"))

    def node(self, name: str) -> dict[str, str]:
        """Return what scontrol says about a node."""
        return _fields(self.scontrol("show", "node", name, "-o"))

    def wait_for(self, job_id: int, *states: str, timeout: float = 45) -> dict[str, str]:
        """Wait until a job is in one of these states, or has ended if none is named; return what scontrol says."""
        job: dict[str, str] = {}

        def arrived() -> bool:
            job.update(self.job(job_id))
            return job["JobState"] in (states or FINISHED)

        def seen() -> str:
            output = Path(job["StdOut"])
            said = output.read_text(errors="replace")[-2000:] if output.is_file() else ""
            return f"{job['JobState']} {job['Reason']}\n{said}"

        block_until(arrived, timeout, f"job {job_id} is {' or '.join(states) or 'at its end'}", state=seen)
        return job

    def output(self, job_id: int) -> str:
        """Return what a job has written to its output so far."""
        path = Path(self.job(job_id)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def scancel(self, job_id: int, *words: str) -> None:
        """Cancel a job, or send it the signal that the words ask for."""
        self.login.run(["scancel", *words, str(job_id)])

    def scontrol(self, *words: str) -> str:
        """Run scontrol and return what it prints."""
        return self.login.run(["scontrol", *words]).stdout

    def squeue(self) -> dict[int, str]:
        """Return the state of every job that has not ended."""
        lines = self.login.run(["squeue", "--noheader", "--format=%A %T"]).stdout.splitlines()
        return {int(job_id): state for job_id, state in (line.split() for line in lines)}

    def sinfo(self) -> dict[str, str]:
        """Return the state of every node: idle, mixed, allocated, down*, ..."""
        lines = self.login.run(["sinfo", "--noheader", "--Node", "--format=%N %T"]).stdout.splitlines()
        return dict(line.split() for line in lines)

    def wait_idle(self, timeout: float = 45) -> None:
        """Wait until every node is idle."""
        block_until(lambda: set(self.sinfo().values()) == {"idle"}, timeout, "all nodes are idle", state=self.sinfo)


def flags(options: Mapping[str, str | int | bool]) -> list[str]:
    """Turn keywords into a command's options."""
    given = {name.replace("_", "-"): value for name, value in options.items() if value is not False}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


def _fields(line: str) -> dict[str, str]:
    return dict(re.findall(r"(?:^|\s)(\S+?)=(\S*)", line))
