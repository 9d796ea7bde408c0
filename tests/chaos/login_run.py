"""A Cluster program on the login host of the test cluster: its master there, its jobs in allocations of their own.

Slurm's commands can be made to fail for the program (`run.shims`), as it finds them in its PATH; and in other
directories of shims for what runs in jobs (`run.job_shims`).
"""

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from hyperflow import files
from tests.chaos.cluster_run import ClusterRun
from tests.chaos.run import Process
from tests.chaos.workload import Workload
from tests.cluster import packages
from tests.cluster.host import Command
from tests.helpers import block_until
from tests.imports import TOP

COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "scontrol", "srun")

CALM = {"HYPERFLOW_HEARTBEAT": "1", "HYPERFLOW_NODE_TIMEOUT": "15", "HYPERFLOW_SILENCE_LIMIT": "20"}
"""Settings of the jobs: nodes that are lost are tried elsewhere, and this machine is busy."""

AGAIN = {"held", "failed", "cancelled"}
"""States of jobs that a person has to decide about."""


class Shims:
    """Slurm's commands as scripts in a directory, which can be made to fail a number of times each."""

    def __init__(self, directory: Path, path: str = packages.PATH) -> None:
        self.directory = directory
        self.path = path
        """The PATH of the real commands, which sbatch hands on to jobs."""
        directory.mkdir()
        for name in COMMANDS:
            self.restore(name)

    def fail(self, name: str, lines: str, times: int) -> None:
        """Let lines of shell take the place of the next calls of a command; in them `real` is the real one."""
        shots = [str(self._shot(name, number)) for number in range(times)]
        self.restore(name)  # forget an earlier fault
        self._write(name, f"for shot in {shlex.join(shots)}; do mkdir $shot 2>/dev/null && {{ {lines}\nexit; }}; done")

    def failed(self, name: str) -> int:
        """Return how many calls have failed."""
        return len(list(self.directory.glob(f".{name}-*")))

    def restore(self, name: str) -> None:
        """Let a command be the real one again."""
        self._write(name, "")
        for shot in self.directory.glob(f".{name}-*"):
            shot.rmdir()

    def _shot(self, name: str, number: int) -> Path:
        return self.directory / f".{name}-{number}"

    def _write(self, name: str, lines: str) -> None:
        real = f"PATH={shlex.quote(self.path)} {shlex.quote(shutil.which(name, path=packages.PATH) or name)}"
        new = self.directory / f"{name}.new"  # a script that runs is not changed under the shell's feet
        new.write_text(f'#!/bin/sh\nreal() {{ {real} "$@"; }}\n{lines}\nreal "$@"\n')
        new.chmod(0o755)
        new.replace(self.directory / name)


class LoginRun(ClusterRun):
    """A run of a Cluster program. Started again, it resumes, after jobs that have failed were told to be retried."""

    def __init__(self, place: Path, workload: Workload, rng: random.Random) -> None:
        super().__init__(place, workload, rng)
        self.environment |= CALM
        self.job_shims = Shims(place / "job-commands")
        in_jobs = os.pathsep.join([str(self.job_shims.directory), packages.PATH])
        self.shims = Shims(place / "commands", in_jobs)
        self.environment["PATH"] = os.pathsep.join([str(self.shims.directory), packages.PATH])

    def start(self) -> None:
        """Start the program, or resume it."""
        if self.home is not None:
            self.environment["CHAOS_RESUME"] = str(self.home)
            if {record["state"] for record in self.records()} & AGAIN:
                self.type("retry", "--all", "--run", str(self.home))
        super().start()

    def _launch(self, command: list[str], variables: Mapping[str, str]) -> None:
        # Not to be inherited by jobs, which may run on into the next turn: they read the file.
        super()._launch(command, {name: value for name, value in variables.items() if name != "CHAOS_TURN"})

    def carry_on(self) -> None:
        """Let go on what carries the program onto its host, which has stopped along with it."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    # ------------------------------------------------------------------------------- the run directory

    @property
    def home(self) -> Path | None:
        """The run directory, once there is one."""
        found = sorted((self.disk / "runs").glob("[0-9]*-*"))
        return next((path for path in found if (path / "jobs").exists()), None)

    def job_directory(self, number: int) -> Path:
        """Return the directory of a job."""
        assert self.home
        return self.home / "jobs" / str(number)

    def records(self) -> list[dict[str, object]]:
        """Return what can be read of the jobs' records."""
        found: list[dict[str, object]] = []
        for path in sorted(self.home.glob("jobs/[0-9]*/job.json")) if self.home else []:
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(files.read_text(path)))
        return found

    def batch_ids(self) -> list[int]:
        """Return the Slurm jobs that are queued or run."""
        return sorted(self.cluster.slurm.squeue())

    def until_no_jobs(self) -> None:
        """Wait until Slurm has no job of ours any more."""
        block_until(lambda: not self.batch_ids(), self.patience, "all jobs have ended", state=self.said)

    def said(self) -> str:
        """Return what the program has printed in this turn, and what its jobs have."""
        return f"{super().said()}\n{self.reports()}"

    def reports(self) -> str:
        """Return what the jobs have printed."""
        outputs = sorted(self.home.glob("jobs/*/slurm.out")) if self.home else []
        return "\n".join(f"{path}:\n{files.tail(path, lines=30)}" for path in outputs)

    # --------------------------------------------------------------------------------------- commands

    def type(self, *words: str) -> str:
        """Type a command of hyperflow on the login host; return what it said, with its exit code."""
        done = self.cluster.login.run(
            [sys.executable, "-m", "hyperflow", *words], env=self._typed(), cwd=self.place, check=False, timeout=60
        )
        said = f"$ hyperflow {shlex.join(words)}\n{done.stdout}{done.stderr}exit code {done.returncode}\n"
        with (self.place / "typed").open("a") as file:
            file.write(said)
        return said

    def another(self, host: str = "login", **variables: str) -> Command:
        """Start the program once more on the same run directory, on one of the hosts."""
        argv = [sys.executable, "-m", "tests.chaos.program", str(self.place)]
        with (self.place / "output-another").open("ab") as output:
            return self.cluster.hosts[host].start(
                argv, env={**self._typed(), **variables}, cwd=self.place, stdout=output, stderr=output
            )

    def said_another(self) -> str:
        """Return what such programs have printed."""
        return (self.place / "output-another").read_text(errors="replace")

    def _typed(self) -> Mapping[str, str]:
        ours = {"CHAOS_PLACE": str(self.place), "TMPDIR": str(self.place / "tmp"), "PYTHONPATH": str(TOP)}
        return {**self.environment, **ours}

    # -------------------------------------------------------------------------------------- processes

    @property
    def master(self) -> Process | None:
        """The program's process, while it runs."""
        return next((one for one in self.processes().get("head", []) if one.host == "login"), None)

    def until_master(self) -> Process:
        """Wait until the program's process is there, and return it."""
        block_until(lambda: self.master, 20, "the program's process is there", state=self.said)
        assert self.master
        return self.master
