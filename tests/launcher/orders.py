"""A real launcher, driven over its pipe: what tests say to it, and what it says."""

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperflow.shipping.packer import Packer
from hyperflow.transports.process import LAUNCHER
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import ForkOrder, Setup, WorkerEnded
from hyperflow.wire.numbers import TaskNumber, WorkerNumber
from tests.helpers import answers_of

TEAM = WorkerNumber(90)


@contextmanager
def launcher() -> Iterator[socket.socket]:
    """Start a launcher; it ends with the scope."""
    ours, theirs = socket.socketpair()
    with theirs, subprocess.Popen(LAUNCHER, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        theirs.close()
        yield ours
        ours.close()
    assert process.returncode == 0


class Head:
    """Gives orders and notes the answers."""

    def __init__(self, sock: socket.socket, logs: Path) -> None:
        self.sock = sock
        self.logs = logs
        self.reader = frames.Reader()
        self.packer = Packer()
        self.results: dict[int, tuple[int, Any]] = {}
        """Of each task: who answered, and the payload (with an outcome other than VALUE: the outcome)."""
        self.order_of: list[int] = []
        self.recalled: list[tuple[int, int]] = []
        self.recalls = 0
        self.retracted: list[tuple[int, int]] = []
        self.skipped: list[tuple[int, int]] = []
        self.left: list[int] = []
        self.ended: dict[int, WorkerEnded] = {}
        self.hears = True
        """Whether it tells the launcher which answers it has read."""
        self.said: list[str] = []
        """Kinds of frames, in order."""
        self._orders: list[bytes] = []
        self._is_waiting = False
        sock.settimeout(30)
        data = b""
        while frames.HELLO not in data:
            data += sock.recv(1 << 16)
        self._note(data.partition(frames.HELLO)[2])
        paths = tuple(map(os.path.abspath, sys.path))
        self.order(messages.framed(Setup("n", "p", str(logs), paths, (), {}, (), 2.0, math.inf, None, False)))
        self.wait(lambda: "READY" in self.said)

    def order(self, *orders: bytes) -> None:
        """Send frames."""
        self._orders += orders
        if not self._is_waiting:
            self.sock.sendall(b"".join(self._orders))
            self._orders.clear()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Send all that is ordered in this scope together."""
        self._is_waiting = True
        yield
        self._is_waiting = False
        self.order()

    def define(self, fn: Callable[..., Any]) -> int:
        """Tell it of a function, and return its number."""
        packed = self.packer.pack(fn, (0,), {})
        self.order(frames.frame(Kind.DEFINE, body=packed.function.body()))
        return packed.function.number

    def fork(self, function: int, *workers: int) -> None:
        """Start workers that know a function."""
        for worker in workers:
            number = WorkerNumber(worker)
            order = ForkOrder(f"w{worker}", str(self.logs / f"w{worker}.log"), (0,), False, False)
            self.order(messages.framed(order, number), frames.frame(Kind.GIVE, number, frames.NUMBER.pack(function)))

    def join(self, *workers: int) -> None:
        """Let workers serve the team."""
        self.order(frames.frame(Kind.JOIN, TEAM, b"".join(map(frames.NUMBER.pack, workers))))

    def batch(self, fn: Callable[..., Any], function: int, first: int, args: Sequence[Any]) -> None:
        """Send tasks."""
        payloads = [self.packer.pack(fn, (arg,), {}).payload for arg in args]
        body = frames.batch(function, TaskNumber(first), payloads)  # type: ignore[arg-type]
        self.order(b"".join(frames.records_frame(Kind.BATCH, TEAM, body)))

    def recall(self, most: int) -> None:
        """Ask for tasks back."""
        self.order(frames.frame(Kind.RECALL, TEAM, frames.NUMBER.pack(most)))

    def cancel(self, first: int, count: int) -> None:
        """Say that nobody waits for these."""
        self.order(frames.frame(Kind.CANCEL, TEAM, frames.RANGE.pack(first, count)))

    def hear(self, count: int) -> None:
        """Say that so many frames of answers were read."""
        self.order(frames.frame(Kind.HEARD, body=frames.NUMBER.pack(count)))

    def wait(self, until: Callable[[], bool]) -> None:
        """Read until something is so."""
        while not until():
            data = self.sock.recv(1 << 16)
            assert data, "the stream has ended"
            self._note(data)

    def _note(self, data: bytes) -> None:
        for kind, worker, body in self.reader.feed(data):
            if kind != Kind.ALIVE:
                self.said.append(Kind(kind).name)
            if kind == Kind.ANSWERS:
                if self.hears:
                    self.hear(1)
                for member, _, records in answers_of(body):
                    self._answered(member, records)
            elif kind == Kind.RESULTS:
                self._answered(worker, body)
            elif kind == Kind.RETRACTED:
                self.retracted.append(frames.SEQS.unpack(body))
            elif kind == Kind.RECALLED:
                self.recalls += 1
                self.recalled += frames.RANGE.iter_unpack(body)
            elif kind == Kind.LEFT:
                self.left += [each for (each,) in frames.NUMBER.iter_unpack(body)]
            elif kind == Kind.ENDED:
                self.ended[worker] = messages.read(WorkerEnded, body)

    def _answered(self, worker: int, records: memoryview) -> None:
        for task, outcome, _, payload, buffers in frames.results(records):
            assert task not in self.results, "answered twice"
            if outcome == frames.Outcome.SKIPPED:
                self.skipped.append((task, *frames.SIZE.unpack(payload)))
                continue
            self.results[task] = worker, (outcome, bytes(payload), buffers)
            self.order_of.append(task)
