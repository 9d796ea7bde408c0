"""An array that is killed half way, resumed, mended and retried; and what its ledger says of each run of each task.

The ledger is outside of hyperflow: the C program of the tasks (`ledger.c`) writes into it, so nothing that hyperflow
believes or forgets changes it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs

from tests.helpers import block_until
from tests.imports import TOP

FAILING = 100
"""Of so many numbers one fails, until the cause is mended."""


class Typed(Protocol):
    """What is left of a command that has ended."""

    returncode: int
    stdout: str
    stderr: str


class Where(Protocol):
    """Where commands are typed, and how all that comes of them is killed at once."""

    def run(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float) -> Typed: ...

    def start(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> subprocess.Popen[Any]: ...

    def kill_all(self) -> None: ...


class Here:
    """This machine. Who belongs to a story is known by a variable that all of its processes have inherited."""

    def __init__(self) -> None:
        self.mark = f"TEST_STORY={os.getpid()}.{id(self)}"

    def run(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float) -> Typed:
        return subprocess.run(
            argv, cwd=cwd, env=self._env(env), timeout=timeout, capture_output=True, text=True, check=False
        )

    def start(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> subprocess.Popen[Any]:
        with log.open("ab") as output:
            return subprocess.Popen(
                argv, cwd=cwd, env=self._env(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _env(self, more: Mapping[str, str]) -> dict[str, str]:
        name, _, value = self.mark.partition("=")
        return {**os.environ, **more, name: value}

    def alive(self) -> list[int]:
        """Return all processes of this story that run."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            return self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def kill_all(self) -> None:
        """Stop all of them first, so that none sees another one end; then kill them."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self.alive():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        block_until(lambda: not self.alive(), 20, "all have ended", state=self.alive)


@attrs.frozen
class Entry:
    """A line of the ledger."""

    what: str
    number: int
    pid: int
    moment: float


@attrs.define
class Story:
    """One array of so many tasks, in a directory of its own.

    Args:
        where: Where its commands are typed.
        place: The directory, which all nodes see.
        tasks: How many.
        options: Of `hyperflow array`: where the tasks are to run.
        micros: How long each task takes.
    """

    where: Where
    place: Path
    tasks: int
    options: Sequence[str]
    micros: int = 2000

    @property
    def mended(self) -> Path:
        return self.place / "mended"

    def compile(self) -> None:
        """Compile the program of the tasks."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        assert compiler, "there is no C compiler"
        source = Path(__file__).with_name("ledger.c")
        subprocess.run([compiler, "-O1", "-o", str(self.place / "ledger"), str(source)], check=True)

    def type(self, *words: str, timeout: float = 50) -> Typed:
        """Type a command of hyperflow's."""
        argv = [sys.executable, "-m", "hyperflow", *words]
        return self.where.run(argv, cwd=self.place, env=self._env, timeout=timeout)

    @property
    def _env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(TOP), "HYPERFLOW_PROGRESS": "0", "COLUMNS": "140"}

    def start(self) -> subprocess.Popen[Any]:
        """Start the array, and do not wait."""
        words = ["array", "--range", f"1-{self.tasks}", "--base-dir", str(self.place / "runs"), *self.options]
        command = ["./ledger", str(self.place / "entries"), str(self.mended), "{n}", str(self.micros)]
        argv = [sys.executable, "-m", "hyperflow", *words, "--", *command]
        return self.where.start(argv, cwd=self.place, env=self._env, log=self.place / "log")

    @property
    def run(self) -> Path:
        """The run's directory."""
        return next(path for path in (self.place / "runs").iterdir() if path.is_dir())

    def entries(self) -> list[Entry]:
        """Return what is in the ledger."""
        path = self.place / "entries"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Entry(what, int(number), int(pid), float(at)) for what, number, pid, at in map(str.split, lines)]

    def often(self, what: str) -> Counter[int]:
        """Return how often each task has this entry."""
        return Counter(entry.number for entry in self.entries() if entry.what == what)

    def wait_done(self, count: int, array: subprocess.Popen[Any], timeout: float) -> None:
        """Wait until so many tasks are done by the ledger, while the array runs."""

        def are_done() -> bool:
            assert array.poll() is None, self.said()
            return self.often("done").total() >= count

        block_until(are_done, timeout, f"{count} tasks are done", state=self.said)

    def said(self) -> str:
        """Return the end of what the array has printed."""
        log = self.place / "log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else "nothing"

    def known(self) -> dict[int, dict[str, Any]]:
        """Return what `hyperflow tasks --json` says of each task."""
        done = self.type("tasks", str(self.run), "--json")
        assert done.returncode == 0, done.stderr
        rows = map(json.loads, done.stdout.splitlines())
        return {row["number"]: row for row in rows}

    def in_state(self, state: str) -> set[int]:
        """Return the tasks that hyperflow says are in this state."""
        return {number for number, row in self.known().items() if row["state"] == state}

    def files(self) -> int:
        """Return how many files the run has left."""
        return sum(path.is_file() for path in (self.place / "runs").rglob("*"))


@attrs.frozen
class Told:
    """What the ledger and hyperflow say after each part of a story."""

    before: Counter[int]
    recorded: set[int]
    after: Counter[int]
    failed: set[int]
    done: Counter[int]
    states: Counter[str]
    files: int
    codes: tuple[int, int]

    @property
    def in_flight(self) -> int:
        """How many tasks succeeded twice: once before the kill, and not recorded then."""
        return sum(count > 1 for count in self.done.values())

    def wrong(self, tasks: int) -> list[str]:
        """Return each promise that is broken."""
        failing = {number for number in range(1, tasks + 1) if number % FAILING == 0}
        twice = {number for number, count in self.done.items() if count > 1}
        found = {
            f"recorded as done, and ran again: {sorted(twice & self.recorded)[:5]}": twice & self.recorded,
            f"recorded as done, and not in the ledger: {sorted(self.recorded - set(self.before))[:5]}": (
                self.recorded - set(self.before)
            ),
            f"twice, and not before the kill: {sorted(twice - set(self.before))[:5]}": twice - set(self.before),
            f"three times: {[n for n, count in self.done.items() if count > 2][:5]}": (
                [n for n, count in self.done.items() if count > 2]
            ),
            f"not done at last: {tasks - len(self.done)} tasks": len(self.done) != tasks,
            f"failed after the resume: {sorted(self.failed)[:5]} of {len(self.failed)}": self.failed != failing,
            f"states at last: {dict(self.states)}": self.states != Counter({"done": tasks}),
            f"exit codes of resume and retry: {self.codes}": self.codes != (1, 0),
        }
        return [text for text, broken in found.items() if broken]


def play(story: Story, limit: float) -> Told:
    """Play the whole story: start, kill everything half way, resume, mend, retry what has failed."""
    story.compile()
    with story.start() as array:
        try:
            story.wait_done(story.tasks // 2, array, limit)
        finally:
            story.where.kill_all()
            array.kill()
    before, recorded = story.often("done"), story.in_state("done")
    resumed = story.type("resume", str(story.run), timeout=limit)
    after, failed = story.often("done"), story.in_state("failed")
    story.mended.touch()
    retried = story.type("retry", str(story.run), "--tasks", "failed", timeout=limit)
    waited = story.type("wait", str(story.run), timeout=limit)
    states = Counter(row["state"] for row in story.known().values())
    if (resumed.returncode, retried.returncode, waited.returncode) != (1, 0, 0):
        print(resumed.stdout, resumed.stderr, retried.stdout, retried.stderr, waited.stdout, waited.stderr, sep="\n")
    codes = (resumed.returncode, retried.returncode or waited.returncode)
    return Told(before, recorded, after, failed, story.often("done"), states, story.files(), codes)
