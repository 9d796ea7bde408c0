"""What can go wrong on a cluster, made to happen: every fault here can be undone, and `Cluster.repair()` undoes all."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from tests.cluster import daemons
from tests.cluster.home import host_key, make_keys
from tests.cluster.host import Host, Process
from tests.cluster.network import Network


@attrs.frozen
class Faults:
    """The faults of one cluster. Hosts are named: `login`, `node1`, ..."""

    hosts: Mapping[str, Host]
    network: Network
    boot_hosts: Callable[..., None]

    # ------------------------------------------------------------------------------------- processes

    def kill(self, host: str, inner_pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process by the number that it has on its host."""
        for process in self.hosts[host].processes():
            if process.inner_pid == inner_pid:
                process.kill(number)

    def kill_ssh_sessions(self, host: str) -> int:
        """Kill what sshd has started for each connection to this host; return how many processes that were."""
        listener = daemons.find("sshd", self.hosts[host])
        sessions = [p for p in self.hosts[host].processes() if p.name == "sshd" and p != listener]
        for process in sessions:
            _kill(process.pid)
        return len(sessions)

    def stop_daemon(self, host: str, name: str, number: int = signal.SIGKILL) -> None:
        """End a daemon (slurmd, sshd, slurmctld) with a signal. Jobs and sessions go on."""
        daemons.stop(name, self.hosts[host], number)

    def start_daemon(self, host: str, name: str) -> None:
        """Start a daemon again."""
        daemons.start(name, self.hosts[host])

    def freeze(self, host: str) -> None:
        """
        Stop every process on a host, as a node does that swaps or whose file system hangs: its kernel still answers.

        (With SIGSTOP, not with a control group: that works everywhere, and what is stopped can still be killed.)
        """
        while running := [p for p in self.hosts[host].processes() if not _is_stopped(p)]:
            for process in running:
                _kill(process.pid, signal.SIGSTOP)

    def thaw(self, host: str) -> None:
        """Let a host's processes go on."""
        processes = self.hosts[host].processes()
        for process in processes:
            _kill(process.pid, signal.SIGCONT)
        # What carried a test's command onto the host has stopped along with it.
        for parent in {process.parent for process in processes} - {process.pid for process in processes}:
            _kill(parent, signal.SIGCONT)

    def crash(self, host: str) -> None:
        """Switch a host off, as a power failure does."""
        self.hosts[host].switch_off()

    def boot(self, host: str) -> None:
        """Switch a host on again."""
        self.boot_hosts(host)

    # --------------------------------------------------------------------------------------- network

    def cut(self, host: str) -> None:
        """Pull a host's network cable: it hears nothing and cannot be heard."""
        self.network.cut(host)

    def mend(self, host: str) -> None:
        """Put the cable back."""
        self.network.mend(host)

    def lose(self, source: str, target: str) -> None:
        """Lose in silence what one host sends to another, in this direction only."""
        self.network.lose(source, target)

    def find(self, source: str, target: str) -> None:
        """Deliver again what one host sends to another."""
        self.network.find(source, target)

    # ------------------------------------------------------------------------------------------- ssh

    def change_host_key(self, host: str) -> None:
        """Give a host's sshd another key, as a machine that was installed anew has, or an impostor."""
        key = host_key(self.hosts[host].directory, host)
        for path in (key, _public(key)):
            if not _kept(path).exists():
                path.rename(_kept(path))
        make_keys(key)
        self._restart_sshd(host)

    def restore_host_key(self, host: str) -> None:
        """Give a host's sshd back the key that is known."""
        key = host_key(self.hosts[host].directory, host)
        if _kept(key).exists():
            for path in (key, _public(key)):
                shutil.move(_kept(path), path)
            self._restart_sshd(host)

    def _restart_sshd(self, host: str) -> None:
        daemons.stop("sshd", self.hosts[host])
        daemons.start("sshd", self.hosts[host])

    # ----------------------------------------------------------------------------------------- repair

    def undo(self) -> None:
        """Undo every fault."""
        off = [name for name, host in self.hosts.items() if host.outer is None]
        if off:
            self.boot_hosts(*off)
        for name, host in self.hosts.items():
            if any(_is_stopped(process) for process in host.processes()):
                self.thaw(name)
        self.network.heal()
        for name, host in self.hosts.items():
            self.restore_host_key(name)
            for daemon in daemons.names(name):
                daemons.start(daemon, host)


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_stopped(process: Process) -> bool:
    try:
        return Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"TtZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def _kept(path: Path) -> Path:
    return path.with_name(f"{path.name}.known")
