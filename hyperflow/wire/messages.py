"""The messages with names in them: what head, launcher and worker say to each other besides tasks and results.

Each is a frozen record, and travels as a JSON object with exactly the record's members. One that misses a member, or
has one that nobody here knows, is refused by name: both ends are of one version, so something is wrong.

NamedTuple and not attrs or dataclasses: the launcher reads this while it starts, and those two take longer to import
than all that it imports. Sequences are tuples on both sides; JSON has lists in between.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from hyperflow.wire import frames
from hyperflow.wire.findings import Findings
from hyperflow.wire.frames import Kind, ProtocolError
from hyperflow.wire.numbers import NO_WORKER, LockSerial, Seq, TaskNumber, WorkerNumber
from hyperflow.wire.shared_memory import Offer


class Greeting(NamedTuple):
    """Launcher to head: the first frame. The first three have to be the same on both sides."""

    protocol: int  # version of frames and messages
    python: str
    hyperflow: str
    dill: str  # for people
    host: str
    pid: int  # the launcher's
    affinity: tuple[int, ...]  # the CPUs that it may run on
    quota: float | None  # how many CPUs' worth of time its control group grants; None for no limit
    memory: Offer | None  # by which the head can find out whether it shares memory with the launcher
    # What `findings.look` has found there.
    gpus: tuple[str, ...] = ()
    gpus_from: str = ""
    cards: int = 0
    total_memory: int = 0
    memory_from: str = ""
    domains: tuple[tuple[tuple[int, ...], tuple[str, ...]], ...] = ()
    boot: str = ""  # with the host's name it says which machine this is, by whatever name it was reached
    slurm_job: int = 0

    def findings(self) -> Findings:
        """Return what the launcher has found out about its machine."""
        return Findings(*(getattr(self, name) for name in Findings._fields))


class Setup(NamedTuple):
    """Head to launcher: the answer to the greeting. With it the node's Python finds what the head's finds."""

    node: str
    program_id: str
    cwd: str
    sys_path: tuple[str, ...]
    argv: tuple[str, ...]
    environment: dict[str, str]  # the variables that mean the same on each node
    preload: tuple[str, ...]  # modules to import before workers are forked
    heartbeat: float  # give a sign of life after so many seconds without one
    silence_limit: float  # end after so many seconds in which nothing came; inf where the stream's end is never missed
    memory: Offer | None  # the launcher's offer, the other way round; None to share nothing
    echo: bool  # whether the head wants to have what evaluations print
    scratch: str = ""  # where the launcher makes its scratch directory; "" for $TMPDIR there, or /tmp
    cache: int = 0  # bytes that the files there may have; 0 for half of what is free


class SysPath(NamedTuple):
    """Head to launcher to workers: the program has changed `sys.path`."""

    entries: tuple[str, ...]


class Ready(NamedTuple):
    """Launcher to head: the imports are done."""

    shares_memory: bool  # both can open what the other holds
    remark: str = ""  # what people should know


class ForkOrder(NamedTuple):
    """Head to launcher: start a worker."""

    name: str  # in logs and errors
    log_file: str
    cpus: tuple[int, ...]  # set aside for it
    pinned: bool  # to these CPUs
    fresh: bool  # it ends after one task
    gpus: tuple[str, ...] = ()  # ids of those that it sees


CANCELLED, TIME_LIMIT, MEMORY_LIMIT = "cancelled", "time limit", "memory limit"
"""The reasons of WorkerEnded that the head acts on; others are for people."""


class WorkerEnded(NamedTuple):
    """Launcher to head: a worker and its process group have gone."""

    status: int  # exit code, or minus the signal that ended it
    started: Seq  # of the last task that it started
    reason: str  # why the launcher ended it; empty if it ended by itself
    out_of_memory: bool  # the kernel ended it to get memory
    tail: str  # the end of its log, where it ended by itself or by its time limit
    peak_memory: int  # bytes; of an evaluation with a memory limit, of all its processes
    task: TaskNumber = TaskNumber(0)  # of a worker in a team: the one that it was in, if that has no answer
    memory_before: int = 0  # what a new worker had before it began, if that was more than its memory limit already


class LockWanted(NamedTuple):
    """Worker to head: an evaluation waits for some keys, all or none."""

    task: TaskNumber
    serial: LockSerial
    keys: tuple[str, ...]
    within: LockSerial | None  # the request in whose scope it asks


class LockReleased(NamedTuple):
    """Worker to head: an evaluation gives back what it got, or does not wait any longer."""

    task: TaskNumber
    serial: LockSerial


class LockReply(NamedTuple):
    """Head to worker: the keys are held, or they are refused."""

    serial: LockSerial
    refusal: str | None = None  # why not; None if they are held
    cycle: tuple[str, ...] | None = None  # the circle of waiting, a line for each, if it would be a deadlock
    misconfigured: bool = False  # whether the refusal is a ConfigurationError


class Printed(NamedTuple):
    """Worker to head: what an evaluation has printed."""

    task: TaskNumber
    lines: tuple[str, ...]
    left_out: int  # how many lines before these are only in the log


class Used(NamedTuple):
    """Worker to head: what short evaluations have used since it last said so."""

    sums: tuple[list[Any], ...]  # of each function: number, name of the group or "", name, seconds of CPU time


class StreamWanted(NamedTuple):
    """Worker to head: an evaluation draws random numbers."""

    task: TaskNumber


class StreamReply(NamedTuple):
    """Head to worker: what the stream of an evaluation is made of; nothing if it has ended."""

    task: TaskNumber
    words: tuple[int, ...]


class Facts(NamedTuple):
    """Head to worker: what an evaluation has to know besides its call, where it is not the usual."""

    task: TaskNumber
    attempt: int = 1  # which try it is
    memory: int | None = None  # bytes that it was promised
    nodes: tuple[str, ...] = ()  # all that it has; none where it has its own alone
    cpus: tuple[Sequence[int], ...] = ()  # on each of them
    gpus: tuple[Sequence[str], ...] = ()  # the same


class SlotWanted(NamedTuple):
    """Worker to head: an evaluation asks for its checkpoint directory."""

    task: TaskNumber


class SlotReply(NamedTuple):
    """Head to worker: where that is; or why there is none."""

    task: TaskNumber
    path: str
    refusal: str = ""


class RanksWanted(NamedTuple):
    """Worker to head: an evaluation wants a program to run on another of its nodes."""

    task: TaskNumber
    serial: int  # as the worker counts them
    node: str
    argv: tuple[str, ...]  # empty: the program with this number is to end
    cwd: str
    environment: dict[str, str]


class RanksEnded(NamedTuple):
    """Head to worker: that program has ended, or could not be started."""

    serial: int
    status: int  # exit code, or minus the signal that ended it
    text: str  # the end of what it said, or why it did not start


class Guest(NamedTuple):
    """Head to launcher: run a program as if it were a worker."""

    name: str
    log_file: str
    cpus: tuple[int, ...]
    pinned: bool
    gpus: tuple[str, ...]
    argv: tuple[str, ...]
    cwd: str
    environment: dict[str, str]  # beside the launcher's own


class Inspect(NamedTuple):
    """Head to launcher to the post-mortem copy of a process: a line for the debugger there."""

    task: TaskNumber
    serial: int
    line: str


class Inspected(NamedTuple):
    """The copy to launcher to head: what the line has printed."""

    task: TaskNumber
    serial: int
    text: str


class Listen(NamedTuple):
    """Head to launcher: the secret of those that hand blocks on."""

    secret: str  # in hexadecimal
    open: bool  # whether others are to connect; else it only needs to know the secret


class Listening(NamedTuple):
    """Launcher to head: where other launchers can connect to it."""

    hosts: tuple[str, ...]  # addresses
    port: int  # 0: nowhere


class Fetch(NamedTuple):
    """Head to launcher: a block comes from another node. What needs it waits for it."""

    number: int
    size: int
    digest: str  # SHA-256
    hosts: tuple[str, ...]  # of the node that has it or gets it; nothing: that is said later
    port: int
    is_file: bool = False


class Fetched(NamedTuple):
    """Launcher to head: a block is here."""

    number: int
    cause: str  # why it could not be had from that node; else ""
    own: bool = False  # it is this node that cannot have it, whoever sends it


class FileWanted(NamedTuple):
    """Worker to head: an evaluation needs a file, and does not see its source."""

    task: TaskNumber
    serial: int  # as the worker counts its requests
    digest: str  # SHA-256
    size: int
    source: str  # where the head finds it
    wrong: str  # what came at the first try had this digest; then the head sends it itself. "" at the first try


class FileOrder(NamedTuple):
    """Head to launcher: a content with this number is a file, and a worker waits for it."""

    number: int
    size: int
    serial: int  # of the worker's request
    known: bool  # it is on its way there, or there, already
    before: str  # what the worker is told with it: from where it came the first time, with wrong bytes


class FileHold(NamedTuple):
    """Head to launcher: hand a file on that was kept on that node."""

    number: int
    path: str
    size: int


class FileHeld(NamedTuple):
    """Launcher to head: it does."""

    number: int
    pid: int
    fd: int
    cause: str  # why not; else ""


class FileReleased(NamedTuple):
    """Head to launcher: nobody will want a file that was kept there."""

    path: str


Message = (
    Listen
    | Listening
    | Fetch
    | Fetched
    | FileWanted
    | FileOrder
    | FileHold
    | FileHeld
    | FileReleased
    | Greeting
    | Setup
    | SysPath
    | Ready
    | ForkOrder
    | WorkerEnded
    | LockWanted
    | LockReleased
    | LockReply
    | StreamWanted
    | StreamReply
    | Facts
    | SlotWanted
    | SlotReply
    | Printed
    | RanksWanted
    | RanksEnded
    | Guest
    | Used
    | Inspect
    | Inspected
)
M = TypeVar("M", bound=Message)

KINDS: dict[type[Message], Kind] = {
    Listen: Kind.LISTEN,
    Listening: Kind.LISTENING,
    Fetch: Kind.FETCH,
    Fetched: Kind.FETCHED,
    FileWanted: Kind.FILE_WANTED,
    FileOrder: Kind.FILE_COMES,
    FileHold: Kind.FILE_HOLD,
    FileHeld: Kind.FILE_HELD,
    FileReleased: Kind.FILE_RELEASED,
    Greeting: Kind.GREETING,
    Setup: Kind.SETUP,
    SysPath: Kind.PATH,
    Ready: Kind.READY,
    ForkOrder: Kind.FORK,
    WorkerEnded: Kind.ENDED,
    LockWanted: Kind.LOCK_WANTED,
    LockReleased: Kind.LOCK_RELEASED,
    LockReply: Kind.LOCK_REPLY,
    StreamWanted: Kind.STREAM_WANTED,
    StreamReply: Kind.STREAM_REPLY,
    Facts: Kind.FACTS,
    SlotWanted: Kind.SLOT_WANTED,
    SlotReply: Kind.SLOT_REPLY,
    Printed: Kind.PRINTED,
    RanksWanted: Kind.RANKS_WANTED,
    RanksEnded: Kind.RANKS_ENDED,
    Guest: Kind.GUEST,
    Used: Kind.USED,
    Inspect: Kind.INSPECT,
    Inspected: Kind.INSPECTED,
}


_BOOL = {False: "false", True: "true"}
_quoted = json.encoder.encode_basestring_ascii


def framed(message: Message, worker: WorkerNumber = NO_WORKER) -> bytes:
    """Return a message as a frame."""
    return frames.frame(KINDS[type(message)], worker, json.dumps(message._asdict()).encode())


def fork(order: ForkOrder, worker: WorkerNumber) -> bytes:
    """Return the same frame as `framed` in a fifth of the time: to fill a cluster takes hundreds of thousands."""
    cpus, gpus = ", ".join(map(str, order.cpus)), ", ".join(map(_quoted, order.gpus))
    text = (
        f'{{"name": {_quoted(order.name)}, "log_file": {_quoted(order.log_file)}, "cpus": [{cpus}], '
        f'"pinned": {_BOOL[order.pinned]}, "fresh": {_BOOL[order.fresh]}, "gpus": [{gpus}]}}'
    )
    return frames.frame(Kind.FORK, worker, text.encode())


def members(body: memoryview) -> dict[str, Any]:
    """Return the members of a message that may be of another version; raises ProtocolError if it is no JSON object."""
    try:
        found = json.loads(bytes(body))
    except ValueError as error:
        raise ProtocolError(f"a message that is not JSON: {error}") from None
    if type(found) is not dict:
        raise ProtocolError("a message that is not a JSON object")
    return found


def read(kind: type[M], body: memoryview) -> M:
    """Return a message; raises ProtocolError if its members are not those of its kind."""
    found = members(body)
    if found.keys() != set(kind._fields):
        missing, unknown = sorted(set(kind._fields) - found.keys()), sorted(found.keys() - set(kind._fields))
        raise ProtocolError(f"a {kind.__name__} without {missing}, and with unknown {unknown}")
    values: dict[str, Any] = {name: tuple(value) if type(value) is list else value for name, value in found.items()}
    return kind(**values)
