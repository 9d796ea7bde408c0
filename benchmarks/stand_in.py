"""Launchers that cost nothing: one C process (stand_in.c) in the place of many nodes with all their workers.

So the head can be measured alone, with more nodes and workers than this machine could run. The program is compiled for
the purpose, with the numbers and records of frames that hyperflow has now.
"""

import asyncio
import contextlib
import json
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import attrs

from benchmarks.harness import Skipped
from hyperflow._job import JobEnv, open_job
from hyperflow.config import read_settings
from hyperflow.head.fleet import NodePlan
from hyperflow.launcher import head_stream, launcher, teams
from hyperflow.transports.process import WRITE_AHEAD, Connection, Receiver
from hyperflow.wire import answer_ring, frames, messages
from hyperflow.wire.frames import Kind, Outcome
from hyperflow.wire.messages import Ready, WorkerEnded
from hyperflow.wire.numbers import NO_WORKER, Seq, TaskNumber
from hyperflow.worker import measure

SOURCE = Path(__file__).with_name("stand_in.c")
NONE = r"\x80\x05N."
"""What every task returns, as a pickle."""

CLOSING = 30.0
"""Seconds for the stand-in to see the end of its orders."""


def definitions() -> list[str]:
    """Return what the compiler has to know: the wire as it is here."""
    ended = json.dumps(WorkerEnded(-1001, Seq(-1002), "-1003", False, "", 0, TaskNumber(-1004))._asdict())
    for number, form in (("-1001", "%d"), ("-1002", "%llu"), ("-1003", "%s"), ("-1004", "%llu")):
        ended = ended.replace(number, form)
    texts = {
        "READY_BODY": json.dumps(json.dumps(Ready(False)._asdict())),
        "ENDED_FORMAT": json.dumps(ended),
        "CANCELLED": json.dumps(messages.CANCELLED),
        "NONE": f'"{NONE}"',
    }
    numbers = {
        "BEGIN_WORD": frames.BEGIN,
        "END_WORD": frames.END_NUMBER,
        "HEADER_SIZE": frames.HEADER.size,
        "TASK_SIZE": frames.TASK.size,
        "RESULT_SIZE": frames.RESULT.size,
        "MEASURED_SIZE": frames.MEASURED.size,
        "MEASURED_FROM": measure.WORTH,
        "IS_MEASURED": frames.IS_MEASURED,
        "BATCH_SIZE": frames.BATCH.size,
        "RANGE_SIZE": frames.RANGE.size,
        "ANSWERED_SIZE": frames.ANSWERED.size,
        "JOIN_TEAM": int(Kind.JOIN),
        "JOIN_SHARE": teams.JOIN_SHARE,
        "JOIN_MOST": teams.JOIN_MOST,
        "WORTH_JOINING": teams.WORTH_JOINING,
        "TEAM_WAKE": teams.TEAM_WAKE,
        "WAKE": answer_ring.WAKE,
        "ENOUGH": head_stream.ENOUGH,
        "NO_WORKER": NO_WORKER,
        "SEVERAL": frames.SEVERAL,
        "VALUE": int(Outcome.VALUE),
        "SKIPPED": int(Outcome.SKIPPED),
        **{kind.name: int(kind) for kind in Kind},
        "JOIN": teams.JOIN,
        "MOST_UNHEARD": teams.MOST_UNHEARD,
    }
    return [f"-D{name}={value}" for name, value in (texts | numbers).items()]


def compiled(place: Path) -> Path:
    """Compile the stand-in into a directory; raises Skipped without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Skipped("it needs a C compiler, for launchers that cost nothing")
    program = place / "stand_in"
    subprocess.run([compiler, "-O2", "-Wall", *definitions(), "-o", program, SOURCE, "-lm"], check=True)
    return program


def hello(host: str, cpus: int) -> bytes:
    """Return what a launcher says first, for a node with so many CPUs that shares no memory with us."""
    greeting = launcher.greeting(None)._replace(host=host, affinity=tuple(range(cpus)), quota=None)
    return frames.HELLO + messages.framed(greeting)


class _Protocol(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self.data_received = receiver.data_received  # type: ignore[method-assign]
        self.pause_writing = receiver.pause_writing  # type: ignore[method-assign]
        self.resume_writing = receiver.resume_writing  # type: ignore[method-assign]
        self.connection_lost = receiver.connection_lost  # type: ignore[method-assign]


@attrs.frozen
class _Connection:
    """Like that of a local launcher, which has no process of its own here."""

    transport: asyncio.WriteTransport
    is_pipe: bool = True

    def write(self, parts: Sequence[frames.Bytes]) -> None:
        self.transport.write(b"".join(parts))

    def close(self) -> None:
        self.transport.close()

    async def wait_closed(self) -> None:
        pass


@attrs.frozen
class Transport:
    """The way to one node of a stand-in."""

    node: str
    sock: socket.socket

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:  # noqa: ARG002
        """Connect; it runs already."""
        self.sock.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(lambda: _Protocol(receiver), sock=self.sock)
        transport.set_write_buffer_limits(WRITE_AHEAD)
        return _Connection(transport)


@attrs.frozen
class Sample:
    """What the stand-in says of itself at a moment of `time.monotonic`."""

    moment: float
    received: int
    answered: int
    running: int
    manned: int


@attrs.frozen
class StandIn:
    """A stand-in that runs."""

    process: subprocess.Popen[bytes]
    output: Path
    plans: Sequence[NodePlan]

    def lose(self, count: int, after: int) -> None:
        """End the streams of so many nodes when so many more tasks have come."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"lose {count} {after}\n".encode())
        self.process.stdin.flush()

    def samples(self) -> list[Sample]:
        """Return what it has said until now, every 50 ms."""
        lines = self.output.read_text().splitlines()
        return [Sample(float(words[0]), *map(int, words[1:])) for words in map(str.split, lines)]

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has had."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9


@contextlib.contextmanager
def running(nodes: int, cpus: int, seconds: float = 0.0, spread: float = 0.0) -> Iterator[StandIn]:
    """Run a stand-in for so many nodes, on which a task lasts `seconds` * (1 +- `spread`); 0 for no time at all."""
    with tempfile.TemporaryDirectory() as place:
        program, output = compiled(Path(place)), Path(place, "samples")
        pairs = _pairs(nodes)
        for number, (_, theirs) in enumerate(pairs):
            theirs.sendall(hello(f"n{number}", cpus))
        fds = [theirs.fileno() for _, theirs in pairs]
        arguments = [seconds, spread, read_settings().heartbeat, ",".join(map(str, fds))]
        with output.open("wb") as stdout:
            process = subprocess.Popen(
                [program, *map(str, arguments)], stdin=subprocess.PIPE, stdout=stdout, pass_fds=fds
            )
        for _, theirs in pairs:
            theirs.close()
        plans = [NodePlan(Transport(f"n{number}", ours), cpus) for number, (ours, _) in enumerate(pairs)]
        try:
            yield StandIn(process, output, plans)
        finally:
            process.communicate(timeout=CLOSING)  # closes its stdin
            if process.returncode != 0:
                raise RuntimeError(f"the stand-in ended with {process.returncode}")


def _pairs(nodes: int) -> list[tuple[socket.socket, socket.socket]]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 2 * nodes + 200 > most:
        raise Skipped(f"{nodes} nodes need {2 * nodes + 200} open files, and the limit is {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return [socket.socketpair() for _ in range(nodes)]


@contextlib.asynccontextmanager
async def opened(
    nodes: int, cpus: int, seconds: float = 0.0, spread: float = 0.0
) -> AsyncIterator[tuple[JobEnv, StandIn]]:
    """Make a job's environment of them the current one."""
    with running(nodes, cpus, seconds, spread) as there:
        async with open_job(there.plans, None, settings=read_settings(), preload=()) as env:
            yield env, there
