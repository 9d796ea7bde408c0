"""The stand-in of benchmarks/scale.py says what a real launcher says to the same orders."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import stand_in
from hyperflow.shipping.packer import Packer
from hyperflow.transports.process import LAUNCHER
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import ForkOrder, Greeting, Setup
from hyperflow.wire.numbers import TaskNumber, WorkerNumber
from tests.helpers import answers_of

SECONDS = 0.02
"""How long a task takes, on both."""

TEAM = WorkerNumber(90)

Heard = tuple[int, int, memoryview]


@contextmanager
def real(_: Path) -> Iterator[socket.socket]:
    """Start a launcher."""
    ours, theirs = socket.socketpair()
    with theirs, subprocess.Popen(LAUNCHER, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        theirs.close()
        yield ours
        ours.close()
    assert process.returncode == 0


@contextmanager
def stood_in(_: Path) -> Iterator[socket.socket]:
    """Start a stand-in of one node."""
    with stand_in.running(1, 2, SECONDS) as there:
        transport = there.plans[0].transport
        assert isinstance(transport, stand_in.Transport)
        yield transport.sock
        transport.sock.close()


class Head:
    """Gives orders and notes the answers."""

    def __init__(self, sock: socket.socket, logs: Path) -> None:
        self.sock = sock
        self.logs = logs
        self.reader = frames.Reader()
        self.heard: list[Heard] = []
        sock.settimeout(30)
        packed = Packer().pack(time.sleep, (SECONDS,), {})
        self.definition, self.payload = packed.function, packed.payload

    def greeted(self) -> Greeting:
        """Skip what comes before the first frame, and read that."""
        said = b""
        while frames.HELLO not in said:
            said += self.sock.recv(1 << 16)
        self.heard += self.kept(said.partition(frames.HELLO)[2])
        self.wait(lambda: bool(self.heard))
        return messages.read(Greeting, self.heard.pop()[2])

    def kept(self, data: bytes) -> list[Heard]:
        """Cut into frames, and say that answers were read; signs of life come when they come."""
        found = [each for each in self.reader.feed(data) if each[0] != Kind.ALIVE]
        if answers := sum(each[0] == Kind.ANSWERS for each in found):
            self.order(frames.frame(Kind.HEARD, body=frames.NUMBER.pack(answers)))
        return found

    def wait(self, until: Callable[[], bool]) -> None:
        """Read until something is so."""
        while not until():
            data = self.sock.recv(1 << 16)
            assert data, "the stream has ended"
            self.heard += self.kept(data)

    def order(self, *orders: bytes) -> None:
        """Send frames."""
        self.sock.sendall(b"".join(orders))

    def fork(self, worker: int, fresh: bool = False) -> bytes:
        """Return the order to start a worker that knows the function."""
        number = WorkerNumber(worker)
        order = ForkOrder(f"w{worker}", str(self.logs / f"w{worker}.log"), (0,), False, fresh)
        given = frames.frame(Kind.GIVE, number, frames.NUMBER.pack(self.definition.number))
        return messages.framed(order, number) + given

    def tasks(self, worker: int, *numbers: int) -> bytes:
        """Return a frame of tasks."""
        records: list[frames.Bytes] = []
        for number in numbers:
            frames.add_task(records, TaskNumber(number), self.definition.number, self.payload)
        return b"".join(frames.records_frame(Kind.TASKS, WorkerNumber(worker), records))

    def batch(self, first: int, count: int) -> bytes:
        """Return a frame of tasks for the team."""
        body = frames.batch(self.definition.number, TaskNumber(first), [self.payload] * count)
        return b"".join(frames.records_frame(Kind.BATCH, TEAM, body))

    def count(self, kind: Kind) -> int:
        """Return how many of a kind have come; of results, all that are in the frames."""
        bodies = [body for each, _, body in self.heard if each == kind]
        return sum(len(list(frames.results(body))) for body in bodies) if kind == Kind.RESULTS else len(bodies)


def answers(body: memoryview) -> list[Any]:
    """Return what results say, without what takes as long as it takes."""
    measured: dict[TaskNumber, frames.Measured] = {}
    results = frames.results(body, measured)
    return [(task, task in measured, outcome, bytes(it), out) for task, outcome, _, it, out in results]


def told(heard: list[Heard]) -> dict[int, list[Any]]:
    """Return what was said of each worker, in order, without what takes as long as it takes."""
    found: dict[int, list[Any]] = {}
    for kind, worker, body in heard:
        said = found.setdefault(worker, [])
        if kind == Kind.RESULTS:
            said += answers(body)
        elif kind == Kind.ANSWERS:
            for member, _, records in answers_of(body):
                found[member] += answers(records)
        elif kind == Kind.ENDED:
            said.append({**json.loads(bytes(body)), "tail": "", "peak_memory": 0})
        elif kind != Kind.USED:  # CPU time, which the other one does not take
            said.append((kind, bytes(body)))
    return found


def conversation(open_one: Callable[[Path], AbstractContextManager[socket.socket]], logs: Path) -> Any:
    """Give the orders that a head gives; return the versions in the greeting, and what was said."""
    with open_one(logs) as sock:
        head = Head(sock, logs)
        greeting = head.greeted()
        paths = tuple(map(os.path.abspath, sys.path))
        head.order(messages.framed(Setup("n", "p", str(logs), paths, (), {}, (), 2.0, math.inf, None, False)))
        head.wait(lambda: head.count(Kind.READY) == 1)
        head.order(frames.frame(Kind.DEFINE, body=head.definition.body()))
        head.order(head.fork(1), head.tasks(1, 1), head.fork(2), head.tasks(2, 2, 3, 4), head.fork(3, fresh=True))
        head.wait(lambda: head.count(Kind.RESULTS) == 4)
        # The first is idle, and has started one: of the next four, two are taken back before they come.
        head.order(frames.frame(Kind.RETRACT, WorkerNumber(1), frames.SIZE.pack(4)), head.tasks(1, 5, 6, 7, 8))
        head.order(head.tasks(3, 9), frames.frame(Kind.ALIVE), frames.frame(Kind.FORGET, body=b""))
        head.wait(lambda: head.count(Kind.RESULTS) == 9 and head.count(Kind.ENDED) == 1)
        # A team: its queue, what is taken out of it before it is looked at, and who leaves.
        joins = frames.frame(Kind.JOIN, TEAM, frames.NUMBER.pack(1))
        head.order(head.batch(20, 3), joins)
        head.wait(lambda: head.count(Kind.LEFT) == 1)
        recalls = [frames.frame(Kind.RECALL, TEAM, frames.NUMBER.pack(count)) for count in (4, 1)]
        cancels = frames.frame(Kind.CANCEL, TEAM, frames.RANGE.pack(31, 2))
        head.order(head.batch(30, 6), head.batch(40, 2), joins, recalls[0], cancels, recalls[1])
        head.wait(lambda: head.count(Kind.LEFT) == 2)
        head.order(frames.frame(Kind.KILL, WorkerNumber(2)), frames.frame(Kind.RETIRE, WorkerNumber(1)))
        head.wait(lambda: head.count(Kind.ENDED) == 3)
        head.order(head.tasks(1, 10), head.fork(4), frames.frame(Kind.CLOSE))
        while data := sock.recv(1 << 16):
            head.heard += head.kept(data)
        return greeting[:3], told(head.heard)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("cc") is None, reason="it is compiled")
def test_same_orders_same_frames(tmp_path: Path) -> None:
    """Results, measurements, what was taken back, and the ends of workers of each kind, in the same order."""
    assert conversation(stood_in, tmp_path) == conversation(real, tmp_path)
