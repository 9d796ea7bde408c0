"""What happened, written down outside of hyperflow: one file that only grows, a line for each event.

Each line is written by one `write` with O_APPEND: the order of the lines is the order of the events, on all hosts of
this machine, and whatever clocks say. A line that is there has happened, also when its writer was killed then.

Two facts come from the kernel and not from a line, because a killed process writes none: a task holds a lock on its key
and on one of its node's seats while it lives (`fcntl.lockf`: the kernel frees it when the process ends, and children do
not inherit it). A task that finds its key or all seats taken writes that down.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs


@attrs.frozen
class Entry:
    """One line."""

    what: str
    """start, end, taken (its key is being computed elsewhere), crowded (no free seat), shared (another one holds its
    lock, too), ack, cancelled, failed, told, ended.

    Of the jobs of a Cluster program: began, received (the result of which start); stranger (somebody else's pickle was
    unpickled)."""
    key: int
    run: int
    """Which start of the program this belongs to: 0, 1, ..."""
    host: str
    pid: int
    told: str = ""


@attrs.frozen
class Ledger:
    """The ledger of one case, in a directory of its own."""

    place: Path

    def note(self, what: str, key: int = -1, told: str = "") -> None:
        """Add a line."""
        run = int(os.environ.get("CHAOS_TURN") or (self.place / "turn").read_text())
        line = json.dumps([what, key, run, os.uname().nodename, os.getpid(), told]) + "\n"
        file = os.open(self.place / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def entries(self) -> list[Entry]:
        """Return all lines so far."""
        try:
            lines = (self.place / "ledger").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [Entry(*json.loads(line)) for line in lines if line.endswith("\n")]

    def count(self, what: str) -> int:
        """Return how many lines of one kind there are."""
        return sum(entry.what == what for entry in self.entries())

    @contextlib.contextmanager
    def working(self, key: int, seats: int, job: str = "") -> Iterator[None]:
        """Be the task of this key: hold the key and a seat of this job on this host, and note start and end."""
        held = [self._lock(f"key-{key}")]
        if held[0] is None:
            self.note("taken", key)
        host = os.stat("/proc/self/ns/net").st_ino  # two hosts of a cluster may say the same name
        seat = next((s for s in (self._lock(f"seat-{host}-{job}-{i}") for i in range(seats)) if s), None)
        if seat is None:
            self.note("crowded", key)
        self.note("start", key)
        try:
            yield
            self.note("end", key)
        finally:
            for file in (*held, seat):
                if file is not None:
                    os.close(file)

    @contextlib.contextmanager
    def alone(self, lock: int, key: int) -> Iterator[None]:
        """Be the holder of a lock of hyperflow's: hold one of the kernel's, which another holder would find taken."""
        held = self._lock(f"lock-{lock}")
        if held is None:
            self.note("shared", key)
        try:
            yield
        finally:
            if held is not None:
                os.close(held)

    def _lock(self, name: str) -> int | None:
        file = os.open(self.place / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return None
        return file


def value_of(key: int) -> int:
    """Return what the task of a key has to return."""
    return key * 7919 + 1


def work(  # noqa: PLR0913, PLR0917 (what a workload may ask for)
    place: str,
    key: int,
    seconds: float,
    seats: int,
    payload: Sequence[int] = (),
    leaves: bool = False,
    burns: bool = False,
    lock: int | None = None,
    job: str = "",
) -> int:
    """Be the task: on a worker. The payload has its own index at each place."""
    ledger = Ledger(Path(place))
    with contextlib.ExitStack() as stack:
        stack.enter_context(ledger.working(key, seats, job))
        if lock is not None:
            from hyperflow import with_lock

            stack.enter_context(with_lock(f"lock {lock}"))
            stack.enter_context(ledger.alone(lock, key))
        if leaves:
            subprocess.Popen(["sleep", "300"], start_new_session=True)
        if not burns:
            time.sleep(seconds)
        until = time.process_time() + seconds
        while burns and time.process_time() < until:
            pass
    wrong = int(payload[key]) - key if len(payload) else 0
    return value_of(key) + wrong
