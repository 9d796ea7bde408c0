"""A whole cluster: how it comes up, what can be done with it, how it goes down."""

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster import daemons, home, packages, place
from tests.cluster.faults import Faults
from tests.cluster.host import Host, Process
from tests.cluster.network import LOGIN, Network, address
from tests.cluster.slurm import Slurm
from tests.cluster.slurm_conf import CGROUP_CONF, gres_conf, slurm_conf
from tests.helpers import block_until

SWITCH = "switch"
THREE_NODES = (4, 4, 4)
"""CPUs that each node says it has, whatever this machine has."""


class Cluster:
    """A login host and nodes, in a directory of their own.

    `hosts` has all of them by name, and what can be done on one (`run()`, `start()`, `processes()`); `slurm` has
    sbatch and friends; `faults` what can go wrong. The home directory is `home`.
    """

    def __init__(self, directory: Path, cpus: Sequence[int], gpus: int = 0) -> None:
        self.directory = directory
        self.gpus = gpus
        self.home = directory / "home"
        self.cpus = {f"node{number}": count for number, count in enumerate(cpus, 1)}
        environment = {
            "HOME": str(self.home),
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": "/bin/bash",
            "SLURM_CONF": str(directory / "slurm" / "slurm.conf"),
        }
        self.hosts = {name: Host(name, address(name), directory, environment) for name in (LOGIN, *self.cpus)}
        self.network = Network(Host(SWITCH, "", directory, environment), self.hosts)
        self.slurm = Slurm(self.hosts[LOGIN])
        self.faults = Faults(self.hosts, self.network, self._boot)
        self._lifeline: tuple[int, int] | None = None
        self._binds: list[tuple[Path, str]] = []

    @property
    def login(self) -> Host:
        """The login host."""
        return self.hosts[LOGIN]

    @property
    def nodes(self) -> dict[str, Host]:
        """The nodes, by name."""
        return {name: self.hosts[name] for name in self.cpus}

    # ----------------------------------------------------------------------------------- up and down

    def up(self, *, lifeline: bool = True) -> None:
        """Bring the cluster up, in its directory, which is there and empty. With a lifeline, it ends with us."""
        if lifeline:
            self._lifeline = os.pipe()
        for name in ("log", "munge", "slurm", "slurm/state", *(f"slurm/tmp.{node}" for node in self.cpus)):
            (self.directory / name).mkdir(mode=0o700)
        (self.directory / "munge" / "key").write_bytes(os.urandom(128))
        (self.directory / "munge" / "key").chmod(0o600)
        Path(self.login.environment["SLURM_CONF"]).write_text(slurm_conf(self.directory, self.cpus, self.gpus))
        (self.directory / "slurm" / "gres.conf").write_text(gres_conf(self.gpus))
        (self.directory / "slurm" / "cgroup.conf").write_text(CGROUP_CONF)
        self._binds = home.write_etc(self.directory, self.hosts)
        home.furnish(self.directory, self.hosts)
        self.network.switch.boot([], self._hold)
        self._boot(*self.hosts)
        self.slurm.wait_idle()

    @property
    def _hold(self) -> int | None:
        return self._lifeline[0] if self._lifeline else None

    def _boot(self, *names: str) -> None:
        booting = [self.hosts[name] for name in names]
        for host in booting:
            host.boot(self._binds, self._hold)
        switch = self.network.switch
        if set(names) == set(self.hosts):
            switch.wait_booted()
            self.network.build()
        for host in booting:
            host.wait_booted()
        self.network.plug_in(*names)
        if LOGIN in names:
            daemons.start("munged", self.login)
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(_start_daemons, booting))

    def down(self) -> None:
        """Take everything down and remove the directory; also after a start that failed half-way."""
        with contextlib.ExitStack() as stack:  # does all of it, whatever fails
            stack.callback(place.remove, self.directory)
            for end in self._lifeline or ():
                stack.callback(os.close, end)
            for host in (*self.hosts.values(), self.network.switch):
                stack.callback(host.switch_off)
        self._lifeline = None

    # ---------------------------------------------------------------------------------------- looking

    def sshd_log(self, host: str) -> str:
        """Return what a host's sshd has logged."""
        log = daemons.sshd_log(self.hosts[host])
        return log.read_text(errors="replace") if log.exists() else ""

    def connections(self, host: str) -> int:
        """Return how many connections a host's sshd has seen, whatever became of them."""
        return len(re.findall(r"^Connection from ", self.sshd_log(host), re.MULTILINE))

    def accepted(self, host: str) -> int:
        """Return how many connections a host's sshd has let in."""
        return len(re.findall(r"^Accepted publickey for ", self.sshd_log(host), re.MULTILINE))

    def strangers(self) -> dict[str, list[Process]]:
        """Return what runs on each host that neither belongs to the cluster nor to a job of Slurm, where there is any.

        What a test itself runs there with `start()` is among it.
        """
        found: dict[str, list[Process]] = {}
        for name, host in self.hosts.items():
            if strange := [process for process in host.processes() if not process.is_daemon]:
                found[name] = strange
        return found

    @contextlib.contextmanager
    def network_of(self, host: str) -> Iterator[None]:
        """
        Let this thread open its sockets on a host, so that code under test can run right here.

        Only the network is the host's: neither names nor files. Nodes have to be called by `address()`.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as here, open(f"/proc/{self.hosts[host].init}/ns/net") as there:
            if libc.setns(there.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"cannot enter the network of {host}")
            try:
                yield
            finally:
                libc.setns(here.fileno(), 0)

    # --------------------------------------------------------------------------------------- repairing

    def repair(self, grace: float = 10.0) -> list[str]:
        """
        Make the cluster as it was when it came up, and say what a test had left running for longer than the grace.

        Faults are undone, jobs are cancelled, what still runs is killed, the home directory is furnished afresh.
        """
        self.faults.undo()
        if jobs := self.slurm.squeue():
            self.login.run(["scancel", *map(str, jobs)])
        deadline = time.monotonic() + grace
        while (left := self.strangers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        said = [f"{host}: {p.inner_pid} {p.command}" for host, processes in left.items() for p in processes]
        for process in (p for processes in left.values() for p in processes):
            with contextlib.suppress(ProcessLookupError):
                process.kill(signal.SIGKILL)
        for host in self.hosts:
            self.faults.kill_ssh_sessions(host)
        block_until(lambda: not self.slurm.squeue(), 20, "all jobs are gone", state=self.slurm.squeue)
        for name, state in self.slurm.sinfo().items():
            if state.rstrip("*") in {"down", "drained", "draining"}:
                self.slurm.scontrol("update", f"nodename={name}", "state=resume")
        self.slurm.wait_idle()
        home.furnish(self.directory, self.hosts)
        return said


def _start_daemons(host: Host) -> None:
    for name in daemons.names(host.name):
        daemons.start(name, host)


@contextlib.contextmanager
def cluster(cpus: Sequence[int] = THREE_NODES, gpus: int = 0) -> Iterator[Cluster]:
    """
    Hold a cluster with a node for each number of CPUs, each with so many GPUs. Up and down are within seconds.

    Raises:
        RuntimeError: It cannot be on this machine; the text says why.
    """
    if reason := packages.obstacle():
        raise RuntimeError(reason)
    place.sweep()
    held = Cluster(place.make(), cpus, gpus)
    try:
        held.up()
        yield held
    finally:
        held.down()
