"""A run on the three-node test cluster (tests/cluster): in Slurm, or on its login host.

One run at a time has the cluster. So no mark is needed: what runs on the hosts and is no daemon belongs to the run.
"""

import atexit
import contextlib
import random
import shlex
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.case import NotRun
from tests.chaos.run import Process, Run, role_of
from tests.chaos.workload import Workload
from tests.cluster import packages
from tests.cluster import place as places
from tests.cluster.cluster import THREE_NODES, Cluster
from tests.cluster.host import CommandError
from tests.cluster.slurm import FINISHED
from tests.helpers import block_until

QUICK = {"HYPERFLOW_HEARTBEAT": "0.5", "HYPERFLOW_NODE_TIMEOUT": "4", "HYPERFLOW_SILENCE_LIMIT": "6"}
"""Settings that let a lost node be noticed while a case is tried."""

POLL = 0.5
"""Seconds between two questions to Slurm."""


class _Shared:
    """The cluster, which is brought up when the first run wants it, and goes down with the harness."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None

    def take(self) -> Cluster:
        """Wait for the cluster, and have it alone."""
        self._lock.acquire()
        try:
            if self._cluster is None:
                self._cluster = self._up()
        except BaseException:
            self._lock.release()
            raise
        return self._cluster

    def _up(self) -> Cluster:
        packages.install()
        if reason := packages.obstacle():
            raise NotRun(reason)
        places.sweep()
        made = Cluster(places.make(), THREE_NODES)
        atexit.register(self.down)
        try:
            made.up()
        except BaseException:
            made.down()
            raise
        return made

    def give_back(self) -> None:
        """Repair the cluster for the next; one that is beyond repair is taken down, and the next run makes its own."""
        try:
            if self._cluster:
                self._cluster.repair()
        except Exception as error:  # noqa: BLE001 - a slow Slurm breaks no promise of ours
            print(f"the cluster is made anew: {error}", flush=True)
            self.down()
        finally:
            self._lock.release()

    def down(self) -> None:
        """Take it down."""
        if self._cluster:
            cluster, self._cluster = self._cluster, None
            cluster.down()


SHARED = _Shared()


class ClusterRun(Run):
    """A run whose program is on the login host of a cluster that it has for itself, until close()."""

    patience = 90.0

    def __init__(self, place: Path, workload: Workload, rng: random.Random) -> None:
        super().__init__(place, workload, rng)
        self.environment |= QUICK
        self.cluster = SHARED.take()

    def _launch(self, command: list[str], variables: Mapping[str, str]) -> None:
        with self._output.open("wb") as output:
            self._process = self.cluster.login.start(
                command, env=variables, cwd=self.place, stdout=output, stderr=output
            )

    def at_work(self) -> None:
        """Wait for a moment at which evaluations run, and make sure that there still is something to attack."""
        super().at_work()
        if not self.running:
            raise NotRun(f"the program had ended before its moment came: {self.said()[-1000:]}")

    def left(self) -> list[Process]:
        """Return what runs on the hosts and is no daemon."""
        found: list[Process] = []
        for name, host in self.cluster.hosts.items():
            with contextlib.suppress(CommandError):  # it is switched off
                ours = [process for process in host.processes() if not process.is_daemon]
                # A shell that has these words for an argument is not what they name.
                told = {p.pid: (p.parent, p.name if p.name in {"bash", "sh"} else p.command) for p in ours}
                found += [Process(p.pid, p.parent, role_of(p.pid, told), p.command, name) for p in ours]
        return found

    def kill_all(self) -> None:
        """Cancel all jobs, and kill everything on all hosts."""
        with contextlib.suppress(CommandError):  # slurmctld may be away
            self.cluster.login.run(["scancel", "--user=root"], timeout=10)
        super().kill_all()

    def close(self) -> None:
        """Repair the cluster, and give it back."""
        try:
            super().close()
        finally:
            SHARED.give_back()


class SlurmRun(ClusterRun):
    """A run in an allocation of all nodes: its program is the batch script."""

    def __init__(self, place: Path, workload: Workload, rng: random.Random) -> None:
        super().__init__(place, workload, rng)
        self.job = 0
        """The Slurm job of this turn."""
        self.batch: dict[str, str | int | bool] = {
            "nodes": len(self.cluster.nodes),
            "ntasks_per_node": workload.cpus,
            "no_kill": True,  # or Slurm ends the job when a node does not answer
            "no_requeue": True,
            "open_mode": "append",  # a job that is put back into the queue goes on with its output
        }
        """Options of sbatch."""
        self.attacked: set[str] = set()
        """The nodes that an attack has chosen."""
        self.shell = ""
        """Lines of shell before the program in the batch script."""
        self._asked = 0.0
        self._state: dict[str, str] = {}

    def _launch(self, command: list[str], variables: Mapping[str, str]) -> None:
        script = f"{self.shell}\nexec {shlex.join(command)}"
        self.job = self.cluster.slurm.sbatch(
            script, cwd=self.place, env=variables, output=str(self._output), **self.batch
        )
        self._asked = 0.0

    @property
    def state(self) -> dict[str, str]:
        """What Slurm says about the job; it is asked twice a second at most. Its last answer while it is away."""
        if time.monotonic() - self._asked > POLL:
            with contextlib.suppress(CommandError):
                self._state = self.cluster.slurm.job(self.job)
            self._asked = time.monotonic()
        return self._state

    @property
    def running(self) -> bool:
        """Whether the job has not ended."""
        return self.job != 0 and self.state["JobState"] not in FINISHED

    def _code(self) -> int | None:
        try:
            block_until(lambda: not self.running, self.patience, "the job ends")
        except TimeoutError:
            return None
        status, _, number = self.state["ExitCode"].partition(":")
        code = int(status) or -int(number)
        return code or (0 if self.state["JobState"] == "COMPLETED" else -9)

    @property
    def head_host(self) -> str:
        """The node that the program runs on."""
        return self.state["BatchHost"]

    @property
    def other_hosts(self) -> list[str]:
        """The nodes of the job that the program does not run on."""
        return [name for name in self.cluster.nodes if name != self.head_host]


def in_slurm(run: Run) -> SlurmRun:
    """Return a run as what it is in the world "slurm"."""
    assert isinstance(run, SlurmRun)
    return run
