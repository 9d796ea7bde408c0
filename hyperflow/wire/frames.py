"""Frames: what travels between head, launcher and worker, to bytes and back.

A frame is a header (length of the body, kind, worker) and a body. The launcher routes by header. It does not read the
bodies of tasks and results, which are pickles for a worker or the head. Other bodies are messages (see messages.py) or
plain numbers.

A frame begins with BEGIN and ends with END. So bytes of others in the stream (what a shell's start-up file has left in
the background, say), or bytes that others have taken out of it, are noticed before a body that is not whole, or not
ours, is handed on: the END is not where it should be. (Rejected: a checksum of each body. Nobody changes bytes, which
TCP and ssh check, too; it takes a second for each gigabyte.)

Many tasks travel in one frame, one record each; so do many results. Buffers (numpy arrays, by pickle's protocol 5)
follow their pickle, uncopied. A large one is replaced by the number of a block, which was sent before (see
shared_memory.py), one in a channel by its place there (see channel.py).

Backpressure: a block's content travels in frames of its own (CONTENT). The sender writes the next one when the stream
takes it, so a large array does not fill the sender's memory.
"""

from __future__ import annotations

import enum
import re
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hyperflow.wire.channel import IN_CHANNEL
from hyperflow.wire.numbers import NO_WORKER, DefinitionNumber, TaskNumber, WorkerNumber

PROTOCOL_VERSION = 13

HEADER = struct.Struct("<IQBI")  # BEGIN, length of the body, kind, worker
TAIL = struct.Struct("<I")  # END
TASK = struct.Struct("<QIHQ")  # task, function, number of buffers, length of what follows
RESULT = struct.Struct("<QBfHQ")  # task, outcome, seconds, number of buffers, length of what follows
TASK_HEAD = struct.Struct("<IQBIQIHQ")  # HEADER and TASK of a frame with one task, packed at once
RESULT_HEAD = struct.Struct("<IQBIQBfHQ")  # HEADER and RESULT of a frame with one result, packed at once
DEFINITION = struct.Struct("<IBH")  # its number, its shape, how many blocks; their numbers and its pickle follow
NUMBER = struct.Struct("<I")
SIZE = struct.Struct("<Q")
KEPT = struct.Struct("<QI")  # task, the process of its copy; 0: it has gone
SECONDS = struct.Struct("<d")
ENDS = struct.Struct("<dd")  # seconds until a node ends, and until that is near; inf where nobody knows
SEQS = struct.Struct("<QQ")
MEASURED = struct.Struct("<fQQQ")  # seconds of CPU time, bytes of memory, read, written: see IS_MEASURED
RETURNED = struct.Struct("<I?")  # a block, and whether it is worth to be filled again
BATCH = struct.Struct("<IQI")  # function, first task, number of tasks; their lengths and their payloads follow
RANGE = struct.Struct("<QI")  # first task, number of tasks
ANSWERED = struct.Struct("<IIf")  # worker, bytes of its records, seconds since it had ended the last of them
CHANNEL = struct.Struct("<Qq")  # process and descriptor that hold it
BLOCK = struct.Struct("<QQQq")  # its number, size, process and descriptor that hold it; process 0: CONTENT follows
FILE_HERE = struct.Struct("<IQqI32sI")  # serial, process, descriptor, number of an error, digest, length of a text
FILE_PULL = struct.Struct("<IQI")  # a content, where to begin, how many bytes
FILE_PIECE = struct.Struct("<IQ")  # a content, where its bytes begin; they follow, none where they cannot be read

BEGIN, END_NUMBER = 0xF5FBC1F9, 0xFAC0F6FD
"""Of bytes that no text has in UTF-8."""

END = TAIL.pack(END_NUMBER)

IS_BLOCK = 1 << 63
"""Set in the size of a buffer that is in a block; the other bits are the block's number."""

IS_MEASURED = 0x80
"""Set in the outcome of a result whose content begins with what its evaluation has used, as MEASURED."""

CHUNK = 1 << 16
"""Bytes to read at a time. For more than 128 kB, malloc maps new memory each time, and a read takes 7 µs, not 2."""

CONTENT_PIECE = 1 << 18
"""Bytes of a block that travel in one frame."""

LARGEST_BODY = 1 << 40
"""A longer body is nonsense on the stream, not data."""

SHOWN = 100
"""Bytes of what is not ours that are shown."""

HELLO = b"\n<hyperflow launcher>\n"
"""What a launcher's stream begins with. What comes before it (from a shell, say) is skipped."""

OFFERED = b"\n<hyperflow socket>\n"
"""What a launcher says on stdout before the path of its socket, where it is asked for one (launcher/own_stream)."""

STAY = b"stay\n"
"""The head's answer: it cannot reach that socket; the stream is stdin and stdout."""

SEVERAL = 2
"""In the place of the worker, in RESULTS and WRITTEN from one: it has so many tasks in hand, or more; else 0 or 1."""

CALLED, CANNOT_CALL = "<hyperflow node>", "<hyperflow cannot call back>"
"""What is said first on each node of a step, before its name; and what before the reason, where a launcher of it
cannot connect to the head (launcher/call_back)."""

_LENGTH = array("I").itemsize

Bytes = bytes | bytearray | memoryview

Measured = tuple[float, int, int, int]
"""What an evaluation has used, as MEASURED has it."""


class Kind(enum.IntEnum):
    """What a frame is; the comment says between whom."""

    GREETING = 1  # launcher > head: versions and CPUs
    SETUP = 2  # head > launcher: paths, environment, limits, what to import
    READY = 3  # launcher > head: the imports are done
    FAILED = 4  # launcher > head: an import failed; text
    FORK = 5  # head > launcher: start a worker
    DEFINE = 6  # head > launcher > worker: a function or class, to be kept
    GIVE = 7  # head > launcher: pass a kept definition on to a worker
    FORGET = 8  # head > launcher > worker: definitions that will not be used again
    TASKS = 9  # head > launcher > worker
    RETURNED = 39  # both ways, between worker and head: blocks of the other's that nobody looks at any more
    CHANNEL = 38  # head > launcher > worker: where on this machine its channel is
    NAMED = 35  # head > launcher > worker: what the program calls the tasks that follow
    LIMIT = 10  # head > launcher: kill the worker unless it answers within so many seconds
    LIMIT_MEMORY = 52  # head > launcher: kill the worker when it has more bytes, until it answers
    RETRACT = 11  # head > launcher: take back what the worker has not started
    KILL = 12  # head > launcher
    RETIRE = 13  # head > launcher > worker
    CLOSE = 14  # head > launcher
    RESULTS = 15  # worker > launcher > head
    RETRACTED = 16  # launcher > head: seqs that the worker will not run
    ENDED = 17  # launcher > head: a worker and its group have gone
    ALIVE = 18  # both ways: nothing but that
    BLOCK = 19  # head > launcher > worker, worker > launcher > head: a large buffer
    CONTENT = 20  # between head and launcher that share no memory: the next piece of a block
    TAKEN = 21  # head > launcher: blocks of a worker that it has mapped
    LOCK_WANTED = 22  # worker > launcher > head: a function waits for locks
    LOCK_REPLY = 23  # head > launcher > worker: it has them, or they are refused
    LOCK_RELEASED = 24  # worker > launcher > head: it gives them back
    PATH = 25  # head > launcher > worker: sys.path has changed
    STREAM_WANTED = 26  # worker > launcher > head: a function draws random numbers
    STREAM_REPLY = 27  # head > launcher > worker: what they are made of
    PRINTED = 29  # worker > launcher > head: what an evaluation has printed, where the program asks for it
    KEEP = 31  # head > launcher > worker: leave a copy of the process if this task fails
    KEPT = 32  # worker > launcher > head: it is there, or not any more
    INSPECT = 33  # head > launcher > copy: a line for the debugger there
    INSPECTED = 34  # copy > launcher > head: what that has printed
    LISTEN = 40  # head > launcher: take connections of other launchers; with the secret
    LISTENING = 41  # launcher > head: where
    FETCH = 42  # head > launcher: a block comes from another node
    FETCHED = 43  # launcher > head: it is here, or could not be had there
    JOIN = 44  # head > launcher, to a team: these workers, which are idle, serve its queue from now on
    BATCH = 45  # head > launcher, to a team, and launcher > worker: tasks of one function with consecutive numbers
    RECALL = 46  # head > launcher, to a team: give back the newest ones that no worker has, so many at most
    RECALLED = 47  # launcher > head, of a team: tasks that it will not run
    CANCEL = (
        48  # head > launcher, to a team: nobody waits for these: drop them, end the workers that are in one of them
    )
    ANSWERS = 49  # launcher > head, of a team: answers of some of its workers
    HEARD = 51  # head > launcher: it has read so many frames of ANSWERS
    LEFT = 50  # launcher > head, of a team: these workers have nothing to do, and serve it no more
    PIECE = 59  # worker > launcher > head: the next value of a generator, as a result
    MORE = 60  # head > launcher > worker: up to where its pieces were read
    USED = 53  # worker > launcher > head: what short evaluations have used, in sums
    WRITTEN = 37  # worker > launcher: up to where there are answers in the ring (answer_ring.py)
    ENDS = 54  # head > launcher: when the node ends
    FACTS = 55  # head > launcher > worker: what is not as usual about the task that follows
    SLOT_WANTED = 56  # worker > launcher > head: an evaluation asks for its checkpoint directory
    SLOT_REPLY = 57  # head > launcher > worker: where it is
    HAS = 58  # worker > launcher > head: functions for which it keeps what was made for them
    RANKS_WANTED = 61  # worker > launcher > head: start a program on another node of the evaluation, or end it
    RANKS_ENDED = 62  # head > launcher > worker: it has ended
    GUEST = 63  # head > launcher: run a program as if it were a worker
    FILE_WANTED = 64  # worker > launcher > head: an evaluation needs a file that it does not see
    FILE_COMES = 65  # head > launcher: a content that comes is a file, for which this worker waits
    FILE_HERE = 66  # head, launcher > worker: where it is, what is in it, or why it cannot be had
    FILE_HOLD = 67  # head > launcher: others want a file that was kept there
    FILE_HELD = 68  # launcher > head: it can be had from there, or cannot
    FILE_PULL = 69  # head > launcher: send a piece of that here
    FILE_PIECE = 70  # launcher > head: the piece
    FILE_RELEASED = 71  # head > launcher: nobody will want a file that was kept there
    BROKEN = 28  # launcher > head: what came from the head is no frame; text


_KINDS = frozenset(map(int, Kind))


class Shape(enum.IntEnum):
    """What a definition is, which says when a worker makes it."""

    FUNCTION = 0  # at its first call; kept
    CHANGING_FUNCTION = 1  # at each call: what it captured can be changed by a call
    CLASS = 2  # at once, before arguments come that are of it; kept
    VALUE = 3  # the same


class Outcome(enum.IntEnum):
    """How an evaluation ended, and what its payload is."""

    VALUE = 0  # the pickled result
    RAISED = 1  # pickled (exception, formatted traceback)
    UNSENDABLE_ERROR = 2  # pickled (type name, text, formatted traceback)
    EXITED = 3  # the same three, of a SystemExit, KeyboardInterrupt, ...
    UNSENDABLE_VALUE = 4  # pickled text
    UNREADABLE = 5  # pickled text: function or arguments could not be unpickled
    SKIPPED = 6  # the seq under which it was retracted


class ProtocolError(Exception):
    """What arrived is no frame."""


def content(number: int, worker: WorkerNumber, data: memoryview) -> Iterator[tuple[Bytes, ...]]:
    """Yield the frames of a block's content, each in parts, so that nothing is copied."""
    for at in range(0, len(data), CONTENT_PIECE):
        piece = data[at : at + CONTENT_PIECE]
        yield HEADER.pack(BEGIN, NUMBER.size + len(piece), Kind.CONTENT, worker) + NUMBER.pack(number), piece, END


def frame(kind: int, worker: WorkerNumber = NO_WORKER, body: Bytes = b"") -> bytes:
    """Return a whole frame."""
    return b"".join((HEADER.pack(BEGIN, len(body), kind, worker), body, END))


def records_frame(kind: Kind, worker: WorkerNumber, parts: Sequence[Bytes]) -> list[Bytes]:
    """Return a frame of records as its parts, so that large ones need not be joined."""
    length = sum(map(len, parts))
    return [HEADER.pack(BEGIN, length, kind, worker), *parts, END]


def result_frame(
    task: TaskNumber, outcome: int, seconds: float, payload: bytes, worker: WorkerNumber = NO_WORKER
) -> bytes:
    """Return a whole frame with one result that has no buffers."""
    size = len(payload)
    head = RESULT_HEAD.pack(BEGIN, RESULT.size + size, Kind.RESULTS, worker, task, outcome, seconds, 0, size)
    return head + payload + END


Buffer = memoryview | int
"""A buffer, or the number of the block that it is in, or its place in a channel."""


class FileHere(NamedTuple):
    """What a worker is told of a file for which it has asked."""

    serial: int
    """The number of its request."""
    pid: int = 0
    """The process that holds the file; 0: its content is here, or there is none."""
    fd: int = -1
    error: int = 0
    """The number of an error, if there is no file."""
    digest: bytes = b""
    """SHA-256 of what is there, where it was computed while that came."""
    text: str = ""
    """Why there is no file; or from where it came at the first try, with wrong bytes."""
    content: Bytes = b""

    def framed(self, worker: WorkerNumber) -> bytes:
        """Return the frame for this worker."""
        text = self.text.encode(errors="replace")
        values = (self.serial, self.pid, self.fd, self.error, self.digest, len(text))
        return frame(Kind.FILE_HERE, worker, b"".join((FILE_HERE.pack(*values), text, self.content)))

    @classmethod
    def of(cls, body: memoryview) -> FileHere:
        """Read a body."""
        serial, pid, fd, error, digest, length = FILE_HERE.unpack_from(body)
        end = FILE_HERE.size + length
        text = bytes(body[FILE_HERE.size : end]).decode(errors="replace")
        return cls(serial, pid, fd, error, digest.rstrip(b"\0") and digest, text, body[end:])


def definition(number: int, shape: Shape, blocks: Sequence[int], data: bytes) -> bytes:
    """Return the body of DEFINE."""
    return b"".join((DEFINITION.pack(number, shape, len(blocks)), *map(NUMBER.pack, blocks), data))


def read_definition(body: Bytes) -> tuple[DefinitionNumber, Shape, list[int], memoryview]:
    """Return number, shape, blocks and pickle of a definition."""
    number, shape, count = DEFINITION.unpack_from(body)
    end = DEFINITION.size + count * NUMBER.size
    numbers = [each for (each,) in NUMBER.iter_unpack(memoryview(body)[DEFINITION.size : end])]
    return number, Shape(shape), numbers, memoryview(body)[end:]


def task_frame(worker: WorkerNumber, task: TaskNumber, function: DefinitionNumber, payload: bytes) -> bytes:
    """Return a whole frame with one task that has no buffers."""
    size = len(payload)
    return TASK_HEAD.pack(BEGIN, TASK.size + size, Kind.TASKS, worker, task, function, 0, size) + payload + END


def add_task(
    parts: list[Bytes], task: TaskNumber, function: DefinitionNumber, payload: bytes, buffers: Sequence[Buffer] = ()
) -> None:
    """Add a task's record to the parts of a frame."""
    if not buffers:
        parts += (TASK.pack(task, function, 0, len(payload)), payload)
        return
    content = _content(payload, buffers)
    parts += (TASK.pack(task, function, len(buffers), sum(map(len, content))), *content)


def batch(function: DefinitionNumber, first: TaskNumber, payloads: Sequence[bytes]) -> list[Bytes]:
    """Return the body of BATCH, in parts."""
    lengths = array("I", map(len, payloads))
    return [BATCH.pack(function, first, len(payloads)), lengths.tobytes(), *payloads]


def read_batch(body: memoryview) -> tuple[DefinitionNumber, TaskNumber, Sequence[int], memoryview]:
    """Return function, first task, lengths and payloads of a body of BATCH."""
    function, first, count = BATCH.unpack_from(body)
    start = BATCH.size + count * _LENGTH
    lengths = array("I")
    lengths.frombytes(body[BATCH.size : start])
    if len(lengths) != count or start + sum(lengths) != len(body):
        raise ProtocolError("a batch that is longer than its frame")
    return function, first, lengths, body[start:]


def answers(parts: Sequence[tuple[WorkerNumber, float, Bytes]]) -> list[Bytes]:
    """Return the body of ANSWERS: of each worker, how many seconds ago its last one ended, and its records."""
    head = b"".join(ANSWERED.pack(worker, len(records), age) for worker, age, records in parts)
    return [NUMBER.pack(len(parts)), head, *(records for _, _, records in parts)]


def parts_of_answers(body: Bytes) -> tuple[int, Iterator[tuple[WorkerNumber, int, float]]]:
    """Return where the records of a body of ANSWERS begin; and of each part worker, bytes of its records, and age."""
    (count,) = NUMBER.unpack_from(body)
    end = NUMBER.size + count * ANSWERED.size
    return end, ANSWERED.iter_unpack(body[NUMBER.size : end])


def result_record(
    task: TaskNumber,
    outcome: int,
    seconds: float,
    payload: bytes,
    buffers: Sequence[Buffer] = (),
    measured: bytes = b"",
) -> list[Bytes]:
    """Return a result's record, in parts. What was measured is as MEASURED packs it, and said in the outcome."""
    content = _content(payload, buffers)
    if measured:
        content.insert(0, measured)
    return [RESULT.pack(task, outcome, seconds, len(buffers), sum(map(len, content))), *content]


def _place(number: int) -> int:
    return number if number & IN_CHANNEL else number | IS_BLOCK


def _content(payload: bytes, buffers: Sequence[Buffer]) -> list[Bytes]:
    sizes = [_place(each) if isinstance(each, int) else len(each) for each in buffers]
    return [b"".join(map(SIZE.pack, sizes)), payload, *(each for each in buffers if not isinstance(each, int))]


def tasks(body: memoryview) -> Iterator[tuple[TaskNumber, DefinitionNumber, memoryview, list[Buffer]]]:
    """Yield (task, function, payload, buffers) of a body of tasks."""
    offset = 0
    size, unpack = len(body), TASK.unpack_from
    while offset < size:
        task, function, count, length = unpack(body, offset)
        start = offset + TASK.size
        offset = start + length
        payload, buffers = split(body[start:offset], count) if count else (body[start:offset], [])
        yield task, function, payload, buffers
    if offset > size:
        raise ProtocolError("a record that is longer than its frame")


def count_tasks(body: memoryview) -> int:
    """Return how many records there are in a body of tasks."""
    count, offset, size = 0, 0, len(body)
    while offset < size:
        count, offset = count + 1, offset + TASK.size + TASK.unpack_from(body, offset)[-1]
    return count


def results(
    body: memoryview, measured: dict[TaskNumber, Measured] | None = None
) -> list[tuple[TaskNumber, int, float, memoryview, Sequence[Buffer]]]:
    """Return (task, outcome, seconds, payload, buffers) of each record in a body of results.

    Args:
        measured: Gets what those have used that were measured.
    """
    found: list[tuple[TaskNumber, int, float, memoryview, Sequence[Buffer]]] = []
    offset, size, unpack = 0, len(body), RESULT.unpack_from
    while offset < size:
        task, outcome, seconds, count, length = unpack(body, offset)
        start = offset + RESULT.size
        offset = start + length
        if outcome >= IS_MEASURED:
            outcome -= IS_MEASURED
            if measured is not None:
                measured[task] = MEASURED.unpack_from(body, start)
            start += MEASURED.size
        content = body[start:offset]
        if count:
            found.append((task, outcome, seconds, *split(content, count)))
        else:
            found.append((task, outcome, seconds, content, ()))
    if offset > size:
        raise ProtocolError("a record that is longer than its frame")
    return found


def end_of_result(body: memoryview, offset: int) -> int:
    """Return where the record ends that begins at an offset of a body of results."""
    end: int = offset + RESULT.size + RESULT.unpack_from(body, offset)[-1]
    if end > len(body):
        raise ProtocolError("a record that is longer than its frame")
    return end


def task_of_result(body: memoryview, offset: int) -> tuple[TaskNumber, int]:
    """Return the task of that record, and its outcome."""
    task, outcome, *_ = RESULT.unpack_from(body, offset)
    return task, outcome


def split(content: memoryview, count: int) -> tuple[memoryview, list[Buffer]]:
    """Return the payload and the buffers of a record."""
    sizes = [SIZE.unpack_from(content, position * SIZE.size)[0] for position in range(count)]
    start = len(content)
    buffers: list[Buffer] = []
    for size in reversed(sizes):
        if size & IS_BLOCK:
            buffers.append(size ^ IS_BLOCK)
        elif size & IN_CHANNEL:
            buffers.append(size)
        else:
            buffers.append(content[start - size : start])
            start -= size
    buffers.reverse()
    return content[count * SIZE.size : start], buffers


class Reader:
    """Cuts a stream of bytes into frames.

    Bodies are views of a bytearray made for them, so that the receiver of an array can write to it.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = HEADER.size  # bytes to have before it is worth looking

    def feed(self, data: Bytes) -> list[tuple[int, WorkerNumber, memoryview]]:
        """Take bytes in, and return the frames that are complete: (kind, worker, body)."""
        if not self._buffer and len(data) > HEADER.size:  # what comes is mostly one frame
            begin, length, kind, worker = HEADER.unpack_from(data)
            end = HEADER.size + length
            if end + TAIL.size == len(data) and begin == BEGIN and kind in _KINDS and data[end:] == END:
                return [(kind, worker, memoryview(bytearray(data))[HEADER.size : end])]
        self._buffer += data
        if len(self._buffer) < self._needed:
            return []
        whole = memoryview(self._buffer)
        frames: list[tuple[int, WorkerNumber, memoryview]] = []
        offset, size = 0, len(whole)
        self._needed = head = HEADER.size
        header, tail = HEADER.unpack_from, TAIL.unpack_from  # bound once: thousands of frames may be in one read
        while size - offset >= head:
            begin, length, kind, worker = header(whole, offset)
            # Checked before the body is here: the body of a wrong header may never come.
            if begin != BEGIN or length > LARGEST_BODY or kind not in _KINDS:
                raise ProtocolError(f"bytes that are not hyperflow's: {bytes(whole[offset : offset + SHOWN])!r}")
            end = offset + head + length
            if end + 4 > size:
                self._needed = end + TAIL.size - offset
                break
            if tail(whole, end)[0] != END_NUMBER:
                raise ProtocolError(_foreign_within(whole[offset + head :], length))
            frames.append((kind, worker, whole[offset + head : end]))
            offset = end + 4
        self._buffer = bytearray(whole[offset:])  # a new one: the frames keep the old one
        return frames


def _foreign_within(data: memoryview, length: int) -> str:
    """Describe what is wrong in a frame of such a body, which does not end where it should."""
    texts = re.findall(rb"[\t\n\x20-\x7e]{4,}", data[: length + SHOWN])
    shown = max(texts, key=len, default=bytes(data[length : length + SHOWN]))[:SHOWN]
    return f"bytes that are not hyperflow's among {length} bytes that are; its longest text is {shown!r}"
