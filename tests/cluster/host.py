"""One host of a cluster, seen from outside: it is booted, runs commands, shows its processes, is switched off."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import attrs

from hyperflow.wire.processes import children
from tests import leaks
from tests.cluster import packages, place
from tests.helpers import block_until

INIT = Path(__file__).with_name("init.py")
UNSHARE = ("unshare", "--net", "--uts", "--pid", "--fork", "--kill-child", "--propagation", "slave", "--mount-proc")
# Of the variables here, what a host gets too. (A host is another machine: our agents and sessions are not there.)
NOT_INHERITED = ("SLURM", "SSH_", "XDG_", "DBUS_", "SYSTEMD_", "MUNGE")

Stream: TypeAlias = int | IO[Any] | None


@attrs.frozen
class Process:
    """A process on a host."""

    pid: int
    """Its number here, for signals from a test."""
    inner_pid: int
    """Its number on the host, the one that it sees itself."""
    parent: int
    name: str
    command: str

    @property
    def is_daemon(self) -> bool:
        """Whether it belongs to the cluster and not to its users. Sessions of sshd do too."""
        return self.name in {"slurmctld", "slurmscriptd", "slurmd", "slurmstepd", "munged", "sshd"}

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


class CommandError(Exception):
    """A command on a host failed; the text shows the command and what it printed."""


class Command(subprocess.Popen[str]):
    """A command that runs on a host. What Popen itself knows of is what brought it there, and dies with it."""

    def signal(self, number: int) -> None:
        """Send a signal to the command, so that it can do something about it."""
        block_until(lambda: children(self.pid) or self.poll() is not None, 5, "the command starts")
        for child in children(self.pid):
            os.kill(child, number)

    def kill(self) -> None:
        """Kill the command, and its carrier ends. (The other way, a command that has hardly begun would survive.)"""
        if self.poll() is not None:
            return
        os.kill(self.pid, signal.SIGSTOP)  # so that it starts nothing meanwhile
        commands = children(self.pid)
        for command in commands:
            with contextlib.suppress(ProcessLookupError):
                os.kill(command, signal.SIGKILL)
        if commands:
            os.kill(self.pid, signal.SIGCONT)
        else:
            super().kill()

    def __exit__(self, *reason: Any) -> None:
        """Kill the command, if it still runs."""
        self.kill()
        super().__exit__(*reason)


class Host:
    """One host: namespaces that one init holds together."""

    def __init__(self, name: str, address: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.address = address
        self.directory = directory
        self.environment = dict(environment)
        self._starting: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<host {self.name} {self.address}>"

    # ------------------------------------------------------------------------------------- on and off

    def boot(self, binds: Sequence[tuple[Path, str]], lifeline: int | None) -> None:
        """Start the host's init. It ends when the lifeline does, a pipe's end to read from; without one it stays."""
        settings = {
            "name": self.name,
            "binds": [(str(source), target) for source, target in binds],
            "lifeline": lifeline is not None,
        }
        argv = [*UNSHARE, "--", sys.executable, "-ISE", str(INIT), json.dumps(settings)]
        with self._init_log.open("ab") as log:
            self._starting = subprocess.Popen(
                # What stays becomes a child of the machine's init, and so nobody here has to bury it.
                argv if lifeline is not None else ["setsid", "--fork", "sh", "-c", 'echo $$; exec "$@"', "-", *argv],
                stdin=subprocess.DEVNULL if lifeline is None else lifeline,
                stdout=subprocess.PIPE,
                stderr=log,
                env={"PATH": packages.PATH},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the tests
            )
        outer = self._starting.pid
        if lifeline is None:
            assert self._starting.stdout
            outer = int(self._starting.stdout.readline() or 0)
            self._starting.wait()
        leaks.SPARED.add(outer)
        place.record(self.directory, self.name, outer)

    def wait_booted(self) -> None:
        """Wait until the init says that the host is furnished."""
        assert self._starting
        assert self._starting.stdout
        with self._starting.stdout as answer:
            if answer.readline() != b"ready\n":
                raise CommandError(f"{self.name} did not boot:\n{self._init_log.read_text()}")

    def switch_off(self) -> None:
        """Kill everything on the host at once, as a power failure does; return when it is gone."""
        outer = self.outer
        if outer is not None:
            place.end([outer])
            leaks.SPARED.discard(outer)
        if self._starting is not None:
            self._starting.wait()
            if self._starting.stdout:
                self._starting.stdout.close()
            self._starting = None

    @property
    def _init_log(self) -> Path:
        return self.directory / f"{self.name}.init.log"

    @property
    def outer(self) -> int | None:
        """The process that the host hangs on; None when it is off."""
        return place.recorded(self.directory).get(self.name)

    @property
    def init(self) -> int:
        """The host's process 1, as a number here."""
        outer = self.outer
        inner = children(outer) if outer else []
        if not inner:
            raise CommandError(f"{self.name} is switched off")
        return inner[0]

    # -------------------------------------------------------------------------------------- commands

    def enter(self, argv: Sequence[str], cwd: str | Path | None = None) -> list[str]:
        """Return the command that runs a command on the host, at home or in *cwd*; it dies with what runs it."""
        return [
            *("nsenter", "--target", str(self.init), "--net", "--uts", "--mount", "--pid", "--root", "--"),
            *("env", f"--chdir={cwd or self.environment['HOME']}"),
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *argv,
        ]

    def env(self, extra: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Return the environment that a login to this host would give; None in *extra* takes a variable away."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        merged: dict[str, str | None] = {**ours, "PATH": packages.PATH, **self.environment, **(extra or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: str | Path | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
    ) -> Command:
        """Start a command on the host, and do not wait for it; `with` kills it at the end."""
        return Command(
            self.enter(argv, cwd),
            env=self.env(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: str | Path | None = None,
        input: str | None = None,  # noqa: A002 - as subprocess.run() has it
        timeout: float = 30,
        check: bool = True,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on the host; what it printed is in the result, and in the error if it fails."""
        with self.start(argv, env=env, cwd=cwd, stdin=subprocess.PIPE) as command:
            try:
                out, error = command.communicate(input or "", timeout)
            except subprocess.TimeoutExpired:
                raise CommandError(f"{self.name}: {shlex.join(argv)} took longer than {timeout} s") from None
        if check and command.returncode:
            said = (out + error).strip()
            raise CommandError(f"{self.name}: {shlex.join(argv)} exited with {command.returncode}:\n{said}")
        return subprocess.CompletedProcess(list(argv), command.returncode, out, error)

    def daemon(self, argv: Sequence[str]) -> None:
        """Run a command that leaves a daemon behind. It gets nothing of our environment, as if at the host's start."""
        done = subprocess.run(
            self.enter(argv, "/"),
            env={"PATH": packages.PATH, "SLURM_CONF": self.environment["SLURM_CONF"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would be held open by the daemon
            stderr=(log := (self.directory / f"{self.name}.daemons.log").open("ab")),
            check=False,
        )
        log.close()
        if done.returncode:
            said = (self.directory / f"{self.name}.daemons.log").read_text()
            raise CommandError(f"{self.name}: {shlex.join(argv)} exited with {done.returncode}:\n{said}")

    # ------------------------------------------------------------------------------------- processes

    def processes(self) -> list[Process]:
        """Return what runs on the host, its init left out; a zombie does not run."""
        init = self.init
        space = os.readlink(f"/proc/{init}/ns/pid")
        found = (_look(int(name), space) for name in os.listdir("/proc") if name.isdigit() and int(name) != init)
        return [process for process in found if process is not None]


def _look(pid: int, space: str) -> Process | None:
    here = Path(f"/proc/{pid}")
    try:
        if os.readlink(here / "ns" / "pid") != space:
            return None
        status = dict(line.split(":\t", 1) for line in (here / "status").read_text().splitlines() if ":\t" in line)
        if status["State"][0] in "ZX":
            return None
        command = (here / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # it has just ended
    inner = int(status["NSpid"].split()[-1])
    return Process(pid, inner, int(status["PPid"]), status["Name"], command)
