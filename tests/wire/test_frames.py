"""Frames and records: what goes in comes out, however the stream is cut; nonsense is refused."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperflow.wire import frames
from hyperflow.wire.frames import Kind, Outcome, ProtocolError, Reader, Shape
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber, WorkerNumber

numbers = st.integers(0, 2**64 - 1)
payloads = st.binary(max_size=200)
buffers = st.lists(st.binary(max_size=300), max_size=4)
many_frames = st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), payloads), max_size=8)


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut a stream at these places."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(many_frames, st.lists(st.integers(0, 10_000), max_size=40))
def test_frames_come_out_however_the_stream_is_cut(sent: list[tuple[Kind, int, bytes]], places: list[int]) -> None:
    """Every frame once, whole, in order, and as soon as its last byte is there."""
    reader = Reader()
    stream = b"".join(frames.frame(*one) for one in sent)
    ends = [
        sum(frames.HEADER.size + len(body) + frames.TAIL.size for _, _, body in sent[: n + 1]) for n in range(len(sent))
    ]
    received: list[tuple[int, int, bytes]] = []
    fed = 0
    for piece in cut(stream, places):
        received += [(kind, worker, bytes(body)) for kind, worker, body in reader.feed(piece)]
        fed += len(piece)
        assert len(received) == sum(end <= fed for end in ends)

    assert received == sent


@given(many_frames)
def test_bytes_one_by_one(sent: list[tuple[Kind, int, bytes]]) -> None:
    """The finest cut."""
    reader = Reader()
    stream = b"".join(frames.frame(*one) for one in sent)
    received = [frame for n in range(len(stream)) for frame in reader.feed(stream[n : n + 1])]

    assert [(kind, worker, bytes(body)) for kind, worker, body in received] == sent


@given(st.lists(st.tuples(numbers, st.integers(0, 2**32 - 1), payloads, buffers), max_size=6))
def test_tasks_round_trip(sent: list[tuple[int, int, bytes, list[bytes]]]) -> None:
    """Many in one frame, with and without large buffers, empty ones too."""
    parts: list[frames.Bytes] = []
    for task, function, payload, beside in sent:
        frames.add_task(parts, task, function, payload, [memoryview(b) for b in beside])
    ((kind, worker, body),) = Reader().feed(b"".join(frames.records_frame(Kind.TASKS, 7, parts)))

    assert (kind, worker) == (Kind.TASKS, 7)
    assert [(t, f, bytes(p), [bytes(b) for b in bs]) for t, f, p, bs in frames.tasks(body)] == sent


@given(
    st.lists(st.tuples(numbers, st.sampled_from(Outcome), st.floats(0, 1e6, width=32), payloads, buffers), max_size=6)
)
def test_results_round_trip(sent: list[tuple[int, Outcome, float, bytes, list[bytes]]]) -> None:
    """The same the other way."""
    parts: list[frames.Bytes] = []
    for task, outcome, seconds, payload, beside in sent:
        parts += frames.result_record(task, outcome, seconds, payload, [memoryview(b) for b in beside])
    ((_, _, body),) = Reader().feed(b"".join(frames.records_frame(Kind.RESULTS, 0, parts)))

    assert [(t, o, s, bytes(p), [bytes(b) for b in bs]) for t, o, s, p, bs in frames.results(body)] == sent


@given(st.lists(st.tuples(st.floats(0, 1e6, width=32), numbers, st.booleans(), buffers), max_size=6))
def test_what_was_measured_travels_with_its_result(used: list[tuple[float, int, bool, list[bytes]]]) -> None:
    """Only where it was measured; the answer is what it would be without."""
    parts: list[frames.Bytes] = []
    for task, (cpu, memory, measured, beside) in enumerate(used):
        flag, before = (frames.IS_MEASURED, frames.MEASURED.pack(cpu, memory, 5, task)) if measured else (0, b"")
        views = [memoryview(b) for b in beside]
        parts += frames.result_record(task, Outcome.RAISED | flag, 1.0, b"payload", views, before)
    found: dict[TaskNumber, frames.Measured] = {}
    body = memoryview(b"".join(parts))
    read = [(t, o, bytes(p), [bytes(b) for b in bs]) for t, o, _, p, bs in frames.results(body, found)]

    assert read == [(task, Outcome.RAISED, b"payload", beside) for task, (*_, beside) in enumerate(used)]
    assert found == {task: (cpu, memory, 5, task) for task, (cpu, memory, measured, _) in enumerate(used) if measured}
    assert len(frames.results(body)) == len(used)


@given(numbers, st.sampled_from(Outcome), st.floats(0, 1e6, width=32), payloads)
def test_one_result_is_packed_at_once(task: int, outcome: Outcome, seconds: float, payload: bytes) -> None:
    """The short cut for a single result gives the same bytes."""
    whole = b"".join(frames.records_frame(Kind.RESULTS, 0, frames.result_record(task, outcome, seconds, payload)))

    assert frames.result_frame(task, outcome, seconds, payload) == whole


def test_a_block_is_named_and_not_sent() -> None:
    """Of a buffer that is in a block of shared memory, only the number travels."""
    parts: list[frames.Bytes] = []
    frames.add_task(parts, 1, 2, b"call", [memoryview(b"one"), 77, memoryview(b"three")])
    ((_, _, body),) = Reader().feed(b"".join(frames.records_frame(Kind.TASKS, 7, parts)))
    ((_, _, payload, beside),) = frames.tasks(body)

    assert bytes(payload) == b"call"
    assert [each if isinstance(each, int) else bytes(each) for each in beside] == [b"one", 77, b"three"]


def test_arrays_travel_beside_their_pickle_and_can_be_written_to() -> None:
    """Neither side copies them, and whoever gets one owns it."""
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(10_000.0)
    beside: list[memoryview] = []
    payload = pickle.dumps(array, 5, buffer_callback=lambda b: beside.append(b.raw()))
    assert len(payload) < 1000
    record = frames.result_record(1, Outcome.VALUE, 0.0, payload, beside)
    assert record[-1] is beside[0]
    ((_, _, body),) = Reader().feed(b"".join(frames.records_frame(Kind.RESULTS, 0, record)))
    ((_, _, _, received, views),) = frames.results(body)

    copy = pickle.loads(received, buffers=views)
    assert numpy.shares_memory(copy, numpy.frombuffer(body, dtype="u1"))
    copy += 1
    assert copy[-1] == 10_000


@pytest.mark.parametrize(
    "header",
    [
        frames.HEADER.pack(frames.BEGIN, frames.LARGEST_BODY + 1, Kind.TASKS, 0),
        frames.HEADER.pack(frames.BEGIN, 2**64 - 1, Kind.RESULTS, 1),
        frames.HEADER.pack(frames.BEGIN, 10, 0, 1),
        frames.HEADER.pack(frames.BEGIN, 10, 200, 1),
        frames.HEADER.pack(frames.END_NUMBER, 10, Kind.TASKS, 1),
        b"Welcome to cluster.example.org!\n",
        b"bash: python3: command not found\n",
        b"\0" * 40,
    ],
)
def test_nonsense_is_refused_at_once(header: bytes) -> None:
    """A banner that a login shell prints, or a length beyond sense: said, not waited for."""
    good = frames.frame(Kind.READY)
    reader = Reader()
    assert len(reader.feed(good)) == 1

    with pytest.raises(ProtocolError, match="not hyperflow's") as caught:
        reader.feed(header)
    assert repr(header) in str(caught.value)


foreign = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.text(min_size=1, max_size=30).map(str.encode),
    st.sampled_from([b"\n", b"[1]+  Done     sleep 1\n", frames.HELLO, frames.frame(Kind.ALIVE)[:-1], frames.END]),
)


def read_on(stream: bytes) -> tuple[list[tuple[int, int, bytes]], str]:
    """Read a stream bit by bit, and ten signs of life after it; return the frames that came, and the error."""
    reader, received = Reader(), list[tuple[int, int, bytes]]()
    data = stream + 10 * frames.frame(Kind.ALIVE)
    try:
        for at in range(0, len(data), 7):
            received += [(kind, worker, bytes(body)) for kind, worker, body in reader.feed(data[at : at + 7])]
    except ProtocolError as error:
        return received, str(error)
    return received, ""


@given(many_frames, foreign, st.integers(0, 10_000))
def test_foreign_bytes_in_a_stream_are_noticed(sent: list[tuple[Kind, int, bytes]], other: bytes, place: int) -> None:
    """Wherever others write into a stream: no frame that is not ours, or not whole, is handed on; it is told."""
    stream = b"".join(frames.frame(*one) for one in sent)
    at = place % (len(stream) + 1)
    received, error = read_on(stream[:at] + other + stream[at:])
    assert received == sent[: len(received)]
    assert "not hyperflow's" in error


@given(many_frames.filter(bool), st.integers(0, 10_000), st.integers(1, 12))
def test_bytes_taken_out_of_a_stream_are_noticed(sent: list[tuple[Kind, int, bytes]], place: int, count: int) -> None:
    """Nor is one from which others have read some bytes."""
    stream = b"".join(frames.frame(*one) for one in sent)
    at = place % len(stream)
    starts = accumulate((len(frames.frame(*one)) for one in sent), initial=0)
    # What is left of a length may be a larger one: then what comes is taken for a body, and the node is silent.
    is_length_hit = any(at < start + 12 and at + count > start + 4 for start in starts)
    received, error = read_on(stream[:at] + stream[at + count :])
    assert received == sent[: len(received)]
    assert is_length_hit or "not hyperflow's" in error


def test_text_in_the_middle_of_a_frame_is_shown() -> None:
    """What was written into a body is found in it."""
    whole = frames.frame(Kind.RESULTS, 1, bytes(range(128, 256)) * 50)
    _, error = read_on(whole[:3000] + b"Welcome to cluster.example.org!\n" + whole[3000:])
    assert "Welcome to cluster.example.org!" in error


@pytest.mark.parametrize("read", [frames.tasks, frames.results])
def test_a_record_that_is_longer_than_its_frame_is_refused(read: Any) -> None:
    """So that nobody takes half of a pickle for a whole one."""
    task: list[frames.Bytes] = []
    frames.add_task(task, 1, 2, b"x" * 50)
    record = {
        frames.tasks: task,
        frames.results: frames.result_record(1, Outcome.VALUE, 0, b"x" * 50),
    }
    body = b"".join(record[read])
    assert len(list(read(memoryview(body)))) == 1

    for short in (body[:-1], body[:10]):
        with pytest.raises((ProtocolError, struct.error)):
            list(read(memoryview(short)))


def test_a_frame_in_many_pieces_costs_what_its_length_costs() -> None:
    """The reader does not look at what it has before it has enough."""
    reader = Reader()
    body = bytes(1 << 20)
    stream = memoryview(frames.frame(Kind.TASKS, 1, body))
    looks = 0
    for start in range(0, len(stream), 1000):
        before = reader._buffer
        received = reader.feed(stream[start : start + 1000])
        looks += reader._buffer is not before

    assert len(received) == 1
    assert looks == 2  # at the header, and at the end


@given(st.integers(0, 2**32 - 1), st.sampled_from(Shape), st.lists(st.integers(0, 2**32 - 1), max_size=5), payloads)
def test_a_definition_comes_out_as_it_went_in(number: int, shape: Shape, blocks: list[int], data: bytes) -> None:
    """Its number, its shape, the blocks that it needs, and its pickle."""
    assert frames.read_definition(frames.definition(number, shape, blocks, data)) == (number, shape, blocks, data)


def test_a_record_longer_than_its_frame() -> None:
    """Where a result says that it is longer than what came, that is told."""
    body = memoryview(frames.RESULT.pack(1, 0, 0.0, 0, 5) + b"four")
    with pytest.raises(frames.ProtocolError, match="longer than its frame"):
        frames.end_of_result(body, 0)


@given(st.lists(payloads, min_size=1, max_size=20), st.integers(1, 2**40))
def test_batches_round_trip(sent: list[bytes], first: int) -> None:
    """Number, function and each payload; a batch is refused that is shorter or longer than its frame."""
    body = b"".join(frames.batch(DefinitionNumber(7), TaskNumber(first), sent))
    function, number, lengths, content = frames.read_batch(memoryview(body))
    ends = list(accumulate(lengths, initial=0))
    assert (function, number) == (7, first)
    assert [bytes(content[begin:end]) for begin, end in pairwise(ends)] == sent

    for wrong in (body + b"?", body[:-1]):
        with pytest.raises((ProtocolError, ValueError)):
            frames.read_batch(memoryview(wrong))


@given(st.lists(st.tuples(st.integers(1, 2**31), st.floats(0, 100, width=32), payloads), max_size=20))
def test_answers_round_trip(sent: list[tuple[int, float, bytes]]) -> None:
    """Of each worker its records, and how long ago the last one ended."""
    body = b"".join(frames.answers(sent))  # type: ignore[arg-type]
    at, parts = frames.parts_of_answers(body)
    found: list[tuple[int, float, bytes]] = []
    for worker, size, age in parts:
        found.append((worker, age, body[at : at + size]))
        at += size
    assert found == sent
    assert at == len(body)


@given(st.lists(payloads, max_size=20))
def test_tasks_are_counted(sent: list[bytes]) -> None:
    """As many as there are records."""
    records: list[frames.Bytes] = []
    for number, payload in enumerate(sent):
        frames.add_task(records, TaskNumber(number), DefinitionNumber(1), payload)
    assert frames.count_tasks(memoryview(b"".join(records))) == len(sent)


def test_the_records_of_a_body() -> None:
    """Where each ends, and what it is the answer to."""
    first = frames.result_record(TaskNumber(5), Outcome.VALUE, 0.5, b"one")
    body = memoryview(b"".join((*first, *frames.result_record(TaskNumber(6), Outcome.RAISED, 0.5, b"other"))))
    second = frames.end_of_result(body, 0)
    assert [frames.task_of_result(body, at) for at in (0, second)] == [(5, Outcome.VALUE), (6, Outcome.RAISED)]
    assert frames.end_of_result(body, second) == len(body)


@given(st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32).filter(any), st.text(), payloads)
def test_where_a_file_is(serial: int, digest: bytes, text: str, content: bytes) -> None:
    """What a worker is told of a file is what was said; a text that is no UTF-8 does not matter."""
    said = frames.FileHere(serial, 17, 3, 28, digest, text, content)
    ((kind, worker, body),) = Reader().feed(said.framed(WorkerNumber(5)))
    shown = text.encode(errors="replace").decode()
    assert (kind, worker) == (Kind.FILE_HERE, 5)
    assert frames.FileHere.of(body) == said._replace(text=shown)
