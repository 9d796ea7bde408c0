"""Answers in the ring: none is lost, changed or seen too late, in whatever order its ends see each other's writes."""

import mmap
import random
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hyperflow.wire import answer_ring, frames
from hyperflow.wire.answer_ring import PAGES, AnswerRing
from hyperflow.wire.frames import SEVERAL, Kind, Outcome
from hyperflow.wire.numbers import TaskNumber
from hyperflow.worker import stream
from hyperflow.worker.stream import Stream
from tests.stepping import Log, Party, Words, explore

WAKE, LOOK = 1, 2
"""In ticks of the clock of the histories below."""

RECORD = frames.RESULT.size + 1
"""Bytes of an answer of one byte."""

Answer = Callable[[Stream, int, int], None]


def numbers(records: bytes | memoryview) -> list[int]:
    """Return the tasks of these answers; each payload has to be its task's."""
    found = list(frames.results(memoryview(records)))
    assert all(bytes(payload) == bytes([task]) for task, _, _, payload, _ in found), found
    return [task for task, *_ in found]


class _Page:
    """The shared memory as words: one for each position and answer."""

    def __init__(self, words: Words) -> None:
        self.words = words

    def __setitem__(self, where: slice, data: bytes) -> None:
        assert len(data) in (0, RECORD), "these rings have room for whole answers"
        if not data:
            return
        self.words["answer", where.start] = frames.RESULT.unpack_from(data)[0]

    def __getitem__(self, where: slice) -> bytes:
        tasks = [self.words["answer", at] for at in range(where.start, where.stop, RECORD)]
        return b"".join(frames.RESULT.pack(task, 0, 0.0, 0, 1) + bytes([task]) for task in tasks)


class _Named:
    """The words of the ring, under names of their own."""

    def __init__(self, words: Words) -> None:
        self.words = words

    def __getitem__(self, index: int) -> int:
        return self.words["word", index]

    def __setitem__(self, index: int, value: int) -> None:
        self.words["word", index] = value


def ring(words: Words, room: int) -> AnswerRing:
    """Return one end of a ring with room for so many answers of one byte."""
    made = object.__new__(AnswerRing)
    made.page, made.words = _Page(words), _Named(words)  # type: ignore[assignment]
    made.size, made.written, made.taken = room * RECORD, 0, 0
    return made


def answer(to: Stream, task: int, left: int) -> None:
    """Answer as a worker does."""
    to.answer(TaskNumber(task), Outcome.VALUE, 0.0, bytes([task]), left)


MESSAGES: list[bytes] = [b"", b""]
"""What was sent through the socket: a word holds its number here, or 1 for the end."""


def worker(answering: Answer, count: int, room: int) -> Party:
    """A worker that answers so many tasks, and then is in the next one for ever; another one is behind that."""

    def party(words: Words, log: Log) -> None:
        sent = 0

        def send(data: bytes) -> None:
            nonlocal sent
            if data not in MESSAGES:
                MESSAGES.append(data)
            words["message", sent] = MESSAGES.index(data)
            words["arrived", sent] = 1
            sent += 1

        time = SimpleNamespace(perf_counter=lambda: words["now",])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream, "time", time)
            patch.setattr(stream, "WAKE", WAKE)
            ours = Stream(SimpleNamespace(fileno=None, recv=None, sendall=send), ring(words, room))  # type: ignore[arg-type]
            for task in range(1, count + 1):
                answering(ours, task, count - task + 2)
        words["message", sent] = words["arrived", sent] = 1
        words["stuck",] = 1

    return party


def clock(ticks: int) -> Party:
    """Time: each tick is long enough for all writes to be seen. When the worker is stuck, LOOK more go by."""

    def party(words: Words, log: Log) -> None:
        for now in range(1, ticks + LOOK + 3):
            if now == ticks + 1:
                assert words["stuck",]
            words.settle()
            words["now",] = now
            words["tick", now] = 1

    return party


def launcher(room: int, last: int, looks: bool = True) -> Party:
    """A launcher that reads each message when it comes, and looks by itself LOOK after it."""

    def party(words: Words, log: Log) -> None:
        ours, reader, read = ring(words, room), frames.Reader(), 0

        def take(number: int) -> bool:
            nonlocal read
            read += 1
            promised = False
            for kind, in_hand, body in reader.feed(MESSAGES[number]):
                if kind == Kind.RESULTS:
                    log.extend(numbers(body))
                else:
                    assert kind == Kind.WRITTEN
                    log.extend(numbers(ours.take(*frames.SIZE.unpack(body))))
                    promised = in_hand == SEVERAL
            return promised

        while words["arrived", read] and (number := words["message", read]) != 1:
            promised = take(number) and looks
            while promised:
                assert words["tick", min(words["now",] + LOOK, last)]
                promised = False
                end = ours.look()
                while (number := words["message", read]) > 1:
                    promised |= take(number)
                log.extend(numbers(ours.take(max(end, ours.taken))))
        log.append("stuck")

    return party


def histories(
    count: int, room: int, ticks: int, answering: Answer = answer, looks: bool = True
) -> set[tuple[Any, ...]]:
    """Return what the launcher has got, in all histories."""
    last = ticks + LOOK + 2
    parties = [worker(answering, count, room), clock(ticks), launcher(room, last, looks)]
    waits = ("arrived", "tick", "stuck")
    found = explore(parties, blocked=lambda word, value: value == 0 and word[0] in waits)
    return {tuple(logs[2]) for logs in found}


@pytest.mark.parametrize(("count", "room", "ticks"), [(1, 1, 1), (2, 1, 1), (3, 2, 1)])
def test_every_answer_comes_once_and_in_order(count: int, room: int, ticks: int) -> None:
    """Whatever sees what when: of a worker that is stuck in a task, all answers before it come, and none twice."""
    expected = tuple(range(1, count + 1))

    got = histories(count, room, ticks)

    assert {(*expected, "stuck")} == got


def looks_at_the_clock_first(to: Any, task: int, left: int) -> None:
    """A worker that asks whether it is time for a message before the answer is there."""
    now = stream.time.perf_counter()
    assert to.ring.put(task, Outcome.VALUE, 0.0, bytes([task]))
    if now - to.woken >= WAKE:
        to._send(b"", SEVERAL)


def test_bugs_are_found() -> None:
    """The same histories find a worker that reads the clock too early, and a launcher that does not look by itself."""
    whole = (1, 2, "stuck")

    assert {whole} != histories(2, 2, 2, looks_at_the_clock_first)
    assert {whole} != histories(2, 2, 1, looks=False)


def test_answers_of_all_sizes_go_round() -> None:
    """Whatever reaches over the end of the memory arrives whole; what has no room is refused, and goes on elsewhere."""
    page = mmap.mmap(-1, PAGES)
    writing, reading = AnswerRing(page), AnswerRing(page)
    draws = random.Random(1)
    waiting: list[tuple[int, bytes]] = []
    refused = 0
    for task in range(3000):
        payload = draws.randbytes(draws.choice([0, 1, 30, 700]))
        if writing.put(TaskNumber(task), Outcome.VALUE, 0.5, payload):
            waiting.append((task, payload))
        else:
            refused += 1
        if draws.random() < (0.001 if task % 1000 < 500 else 0.1):
            got = [
                (number, bytes(data))
                for number, _, _, data, _ in frames.results(memoryview(reading.take(reading.look())))
            ]
            assert got == waiting
            waiting.clear()

    assert writing.written > 5 * answer_ring.SIZE
    assert refused > 0


def test_a_position_that_cannot_be_is_refused() -> None:
    """A function that writes to the socket cannot make the launcher read what is not there."""
    reading = AnswerRing(mmap.mmap(-1, PAGES))

    with pytest.raises(frames.ProtocolError, match="bytes of answers"):
        reading.take(answer_ring.SIZE + 1)
    assert reading.take(0) == b""


class _Socket:
    """Keeps what is sent."""

    def __init__(self, takes: bool = True) -> None:
        self.frames: list[tuple[int, int, bytes]] = []
        self.takes = takes
        self._reader = frames.Reader()

    def sendall(self, data: bytes) -> None:
        self.frames += [(kind, worker, bytes(body)) for kind, worker, body in self._reader.feed(data)]

    def send(self, data: bytes, _: int) -> int:
        if not self.takes:
            raise BlockingIOError
        self.sendall(data)
        return len(data)

    def fileno(self) -> int:
        return -1

    def recv(self, _: int) -> bytes:
        return b""


def opened(sock: _Socket, patch: pytest.MonkeyPatch, now: list[float]) -> tuple[Stream, AnswerRing]:
    """Return a worker's stream, and the launcher's end of its ring."""
    page = mmap.mmap(-1, PAGES)
    patch.setattr(stream, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return Stream(sock, AnswerRing(page)), AnswerRing(page)  # type: ignore[arg-type]


def test_what_goes_through_the_socket_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long answer, and what an evaluation says, come behind the answers before and before those after."""
    sock, now = _Socket(), [100.0]
    ours, theirs = opened(sock, monkeypatch, now)

    for task in (1, 2, 3):
        answer(ours, task, 9)
    ours.answer(TaskNumber(4), Outcome.VALUE, 0.0, bytes(answer_ring.LONGEST), 9)
    answer(ours, 5, 9)
    ours.sendall(frames.frame(Kind.LOCK_WANTED))
    answer(ours, 6, 9)
    got: list[object] = []
    for kind, _, body in sock.frames:
        if kind == Kind.WRITTEN:
            got += numbers(theirs.take(*frames.SIZE.unpack(body)))
        else:
            got.append(frames.RESULT.unpack_from(body)[0] if kind == Kind.RESULTS else kind)

    assert got == [1, 2, 3, 4, 5, Kind.LOCK_WANTED]
    assert numbers(theirs.take(theirs.look())) == [6], "killed now, it has answered this one, too"


def test_when_the_launcher_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first answer, then after WAKE; when the last task in hand starts; when there is none."""
    sock, now = _Socket(), [100.0]
    ours, _ = opened(sock, monkeypatch, now)

    def messages_of(left: int) -> list[tuple[int, int]]:
        sock.frames.clear()
        answer(ours, 1, left)
        return [(kind, in_hand) for kind, in_hand, _ in sock.frames]

    assert messages_of(left=5) == [(Kind.WRITTEN, SEVERAL)]
    assert messages_of(left=5) == []
    now[0] += 2 * answer_ring.WAKE
    assert messages_of(left=5) == [(Kind.WRITTEN, SEVERAL)]
    assert messages_of(left=2) == []
    assert messages_of(left=1) == [(Kind.WRITTEN, 1)]
    assert messages_of(left=0) == [(Kind.RESULTS, 0)]
    sock.frames.clear()
    ours.rest()
    assert not sock.frames, "it knows that nothing is in hand"
    messages_of(left=5)
    ours.rest()
    assert [in_hand for _, in_hand, _ in sock.frames] == [0], "what was believed to be in hand was no task"


def test_a_message_that_cannot_be_sent_at_once_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would have said of the ring is said by the next one."""
    sock, now = _Socket(takes=False), [100.0]
    ours, theirs = opened(sock, monkeypatch, now)
    answer(ours, 1, 9)
    answer(ours, 2, 9)
    sock.frames.clear()

    assert not ours.send_at_once(frames.frame(Kind.PRINTED))
    assert not sock.frames
    sock.takes = True
    assert ours.send_at_once(frames.frame(Kind.PRINTED))
    assert [kind for kind, *_ in sock.frames] == [Kind.WRITTEN, Kind.PRINTED]
    assert numbers(theirs.take(struct.unpack("<Q", sock.frames[0][2])[0])) == [1, 2]
