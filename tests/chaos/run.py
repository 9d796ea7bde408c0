"""One run of the program under attack: its start, its processes by role, its end, and its second turn."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from tests.chaos.ledger import Entry, Ledger
from tests.chaos.workload import Workload
from tests.helpers import block_until
from tests.imports import TOP


@attrs.frozen
class Ended:
    """How one turn of the program ended."""

    code: int | None
    """None: it did not end in time, and was killed."""
    output: str
    seconds: float


@attrs.frozen
class Process:
    """A process of a run."""

    pid: int
    parent: int
    role: str
    command: str
    host: str = ""
    """On a cluster: which host it runs on."""

    def signal(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; it may be gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Run:
    """A run on this machine. `place` is its directory: ledger, output, TMPDIR; its `disk` has what hyperflow writes."""

    patience = 40.0
    """Seconds that a run has for its end, after its fault."""

    def __init__(self, place: Path, workload: Workload, rng: random.Random) -> None:
        self.place = place
        self.workload = workload
        self.rng = rng
        self.disk = place / "disk"
        """The database and the run directories: a disk of its own for cases that fill it."""
        self.ledger = Ledger(place)
        self.turn = -1
        self.turns: list[Ended] = []
        self.environment: dict[str, str] = {}
        self.within: list[str] = []
        """What the program's command is put into: prlimit, unshare, ..."""
        self.groups: dict[str, Path] = {}
        """The control groups that it is in, by their controllers."""
        self.undo = contextlib.ExitStack()
        """What is to be undone when the case is over: mounts, control groups."""
        self.faults = contextlib.ExitStack()
        """What undoes the fault; it is closed before the last turn."""
        self._process: subprocess.Popen[Any] | None = None
        self._started = 0.0
        for directory in (place / "tmp", self.disk):
            directory.mkdir(parents=True)
        workload.write(place)

    # ------------------------------------------------------------------------------------- start and end

    @property
    def mark(self) -> str:
        """What stands in the environment of each process of this run: a variable, and the end of PATH."""
        return f"CHAOS_PLACE={self.place}"

    def start(self) -> None:
        """Start the program, or start it again."""
        self.turn += 1
        (self.place / "turn").write_text(str(self.turn))
        path = os.pathsep.join(path for path in (self.environment.get("PYTHONPATH"), str(TOP)) if path)
        ours = {"CHAOS_PLACE": str(self.place), "CHAOS_TURN": str(self.turn), "TMPDIR": str(self.place / "tmp")}
        command = [*self.within, sys.executable, "-m", "tests.chaos.program", str(self.place)]
        self._started = time.monotonic()
        # The watcher keeps PATH, and nothing else.
        programs = f"{self.environment.get('PATH', os.environ['PATH'])}:{self.mark}"
        self._launch(command, {**self.environment, **ours, "PYTHONPATH": path, "PATH": programs})

    def _launch(self, command: list[str], variables: Mapping[str, str]) -> None:
        """Start a command in the run's directory, with these variables beside the usual ones."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                *(command, -1, None, subprocess.DEVNULL, output, output),
                env={**os.environ, **variables}, cwd=self.place, start_new_session=True,
            )  # fmt: skip

    @property
    def _output(self) -> Path:
        return self.place / f"output-{self.turn}"

    def said(self) -> str:
        """Return what the program has printed in this turn."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def reports(self) -> str:
        """Return what the run has reported outside of the ledger."""
        return ""

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> Ended:
        """Wait for the end; a program that does not end in time is killed, and its code is None."""
        code = self._code()
        if code is None:
            self.kill_all()
        self.turns.append(Ended(code, self.said(), time.monotonic() - self._started))
        return self.turns[-1]

    def _code(self) -> int | None:
        """Wait for the end, and return the exit code."""
        assert self._process
        try:
            return self._process.wait(self.patience)
        except subprocess.TimeoutExpired:
            return None

    def kill_all(self) -> None:
        """Kill everything of this run, for good."""
        for _ in range(50):
            if not (left := self.left()):
                break
            for process in left:
                process.signal(signal.SIGKILL)
            time.sleep(0.02)
        if self._process:
            self._process.wait()

    def close(self) -> None:
        """Give back what the run has held; the case is over."""
        with self.undo, self.faults:
            self.kill_all()

    # --------------------------------------------------------------------------------------- moments

    def until(self, what: str, count: int, patience: float = 30.0) -> None:
        """Wait until the ledger has so many lines of this kind in this turn, or the program has ended."""
        block_until(
            lambda: not self.running or self.seen(what) >= count, patience, f"{count} x {what}", state=self.said
        )

    def seen(self, what: str) -> int:
        """Return how many lines of this kind this turn has."""
        return sum(entry.what == what and entry.run == self.turn for entry in self.ledger.entries())

    def until_true(self, predicate: Callable[[], object], what: str, patience: float = 30.0) -> None:
        """Wait until something is true, or the program has ended."""
        block_until(lambda: not self.running or predicate(), patience, what, state=self.said)

    def at_work(self) -> None:
        """Wait for a moment, chosen at random, at which evaluations run and some are acknowledged."""
        self.until("ack", self.rng.randint(1, max(1, self.workload.keys // 3)))

    # -------------------------------------------------------------------------------------- processes

    def left(self) -> list[Process]:
        """Return all living processes with this run's mark."""
        return marked(self.mark)

    def processes(self) -> dict[str, list[Process]]:
        """Return the run's processes by role: head, keeper, launcher, worker, watcher, srun, child."""
        found: dict[str, list[Process]] = {}
        for process in self.left():
            found.setdefault(process.role, []).append(process)
        return found

    def one(self, role: str, host: str = "") -> Process | None:
        """Return a process of this role (on this host), chosen at random; None if there is none now."""
        found = [process for process in self.processes().get(role, []) if host in ("", process.host)]
        return self.rng.choice(sorted(found, key=lambda process: process.pid)) if found else None

    def acknowledged(self) -> dict[int, Entry]:
        """Return the first acknowledgement of each key."""
        found: dict[int, Entry] = {}
        for entry in self.ledger.entries():
            if entry.what == "ack":
                found.setdefault(entry.key, entry)
        return found


def marked(mark: str) -> list[Process]:
    """Return all living processes on this machine that have this text in their environment, with their roles."""
    wanted = mark.encode()
    found: dict[int, tuple[int, str]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                place = Path("/proc", name)
                state, parent = (place / "stat").read_bytes().rpartition(b")")[2].split()[:2]
                if state in b"ZX" or wanted not in (place / "environ").read_bytes():
                    continue
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found[int(name)] = int(parent), command
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has just ended
    return [Process(pid, parent, role_of(pid, found), command) for pid, (parent, command) in found.items()]


def role_of(pid: int, found: Mapping[int, tuple[int, str]]) -> str:
    """Name a process by what it runs and whose child it is: keeper, launcher and workers have one command line."""
    command = found[pid][1]
    if "tests.chaos.program" in command:
        return "head"
    if command.startswith("srun "):
        return "srun"
    if "hyperflow.master.runner" in command:
        return "runner"
    if "hyperflow.wire.survivors" in command:
        return "watcher"
    if "hyperflow.launcher" not in command:
        return "child"
    depth = 0
    while (pid := found[pid][0]) in found and "hyperflow.launcher" in found[pid][1]:
        depth += 1
    return ("keeper", "launcher", "worker")[min(depth, 2)]
