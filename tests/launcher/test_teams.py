"""Teams: a real launcher that keeps a queue for its workers, driven over its pipe."""

import os
import pickle
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hyperflow.launcher.teams import MOST_UNHEARD
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind, Outcome
from hyperflow.wire.messages import Fetch
from hyperflow.wire.numbers import NO_WORKER, DefinitionNumber, WorkerNumber
from tests.launcher.orders import Head, launcher

pytestmark = pytest.mark.process


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """Start a launcher, and end it as a head does."""
    with launcher() as sock:
        here = Head(sock, tmp_path)
        yield here
        here.order(frames.frame(Kind.CLOSE))
        while sock.recv(1 << 16):
            pass


def until(path: str) -> None:
    """Wait until a file is there."""
    while not os.path.exists(path):
        time.sleep(0.001)


def values(head: Head, first: int, count: int) -> list[Any]:
    """Return what tasks have returned."""
    found = [head.results[number][1] for number in range(first, first + count)]
    assert all(outcome == Outcome.VALUE for outcome, _, _ in found)
    return [pickle.loads(payload, buffers=buffers) for _, payload, buffers in found]


def test_answers_come_joined_and_all(head: Head) -> None:
    """Each task is answered once, by either worker; each leaves when there is nothing more, behind its answers."""

    def double(x: int) -> int:
        return 2 * x

    function = head.define(double)
    head.fork(function, 1, 2)
    head.batch(double, function, 100, range(3000))
    head.batch(double, function, 9000, range(5))
    head.join(1, 2)
    head.wait(lambda: sorted(head.left) == [1, 2])
    assert values(head, 100, 3000) == [2 * x for x in range(3000)]
    assert values(head, 9000, 5) == [0, 2, 4, 6, 8]
    assert {worker for worker, _ in head.results.values()} == {1, 2}
    assert head.said.count("ANSWERS") < 300, "many answers are in one frame"
    assert head.said[-1] == "LEFT"


def test_one_worker_keeps_the_order(head: Head) -> None:
    """Tasks are run in the order of the queue, also those of two functions, one of which changes its own data."""
    seen: list[int] = []

    def notes(x: int) -> list[int]:
        seen.append(x)
        return seen[:]

    def plain(x: int) -> int:
        return x

    changing, function = head.define(notes), head.define(plain)
    head.fork(changing, 1)
    head.order(frames.frame(Kind.GIVE, WorkerNumber(1), frames.NUMBER.pack(function)))
    head.batch(plain, function, 10, range(50))
    head.batch(notes, changing, 70, range(5))
    head.batch(plain, function, 80, range(50))
    head.join(1)
    head.wait(lambda: head.left == [1])
    assert head.order_of == [*range(10, 60), *range(70, 75), *range(80, 130)]
    assert values(head, 70, 5) == [[0], [1], [2], [3], [4]], "a call does not see what another one has changed"


def test_a_death_is_charged_to_the_task_that_ran(head: Head) -> None:
    """The others that the worker had in hand run elsewhere, and nobody hears of it."""

    def dies(x: int) -> int:
        if x == 357:
            os.kill(os.getpid(), 9)
        return x

    function = head.define(dies)
    head.fork(function, 1, 2)
    head.batch(dies, function, 1000, range(600))
    head.join(1, 2)
    head.wait(lambda: len(head.left) == 1 and len(head.ended) == 1)
    (worker, ended), *_ = head.ended.items()
    assert (ended.task, ended.status, ended.reason) == (1357, -9, "")
    assert head.left == [3 - worker]
    assert sorted(head.results) == [n for n in range(1000, 1600) if n != 1357]


def test_a_worker_that_leaves_is_charged_with_nothing(head: Head) -> None:
    """What makes a worker unfit for other tasks has been answered; the rest runs elsewhere."""

    def leaves(x: int) -> int:
        if x == 40:
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # another mode
        return x

    function = head.define(leaves)
    head.fork(function, 1, 2)
    head.batch(leaves, function, 1000, range(400))
    head.join(1, 2)
    head.wait(lambda: len(head.results) == 400 and len(head.ended) + len(head.left) >= 1)
    assert all(ended.task == 0 for ended in head.ended.values())


def test_a_stream_that_is_closed(head: Head) -> None:
    """A quick task that closes the stream has answered, and no other one is charged."""

    def closes(x: int) -> int:
        if x == 100:
            os.closerange(3, 100)
        return x

    function = head.define(closes)
    head.fork(function, 1, 2)
    head.batch(closes, function, 1000, range(400))
    head.join(1, 2)
    head.wait(lambda: len(head.ended) == 1 and len(head.left) == 1)
    (ended,) = head.ended.values()
    assert ended.task in (0, 1100)
    assert sorted({*head.results, 1100}) == list(range(1000, 1400))


def test_tasks_behind_a_slow_one_run_elsewhere(head: Head, tmp_path: Path) -> None:
    """A task that is slower than all before does not hold up what its worker has in hand."""
    go = str(tmp_path / "go")

    def waits(x: int) -> int:
        if x == 400:
            until(go)
        return x

    function = head.define(waits)
    head.fork(function, 1, 2)
    head.batch(waits, function, 1000, range(600))
    head.join(1, 2)
    head.wait(lambda: len(head.results) == 599)
    assert 1400 not in head.results
    Path(go).touch()
    head.wait(lambda: len(head.left) == 2)
    assert values(head, 1000, 600) == list(range(600))


def test_recalled_are_the_newest(head: Head, tmp_path: Path) -> None:
    """What nobody has comes back, newest first; the answer comes also where there is nothing."""
    go = str(tmp_path / "go")

    def waits(x: int) -> int:
        Path(go + "ne").touch()
        until(go)
        return x

    function = head.define(waits)
    head.fork(function, 1)
    head.batch(waits, function, 10, range(10))
    head.batch(waits, function, 50, range(3))
    head.join(1)
    head.recall(5)
    head.wait(lambda: head.recalls == 1)
    assert head.recalled == [(50, 3), (18, 2)]
    until(go + "ne")
    head.recall(1000)
    head.wait(lambda: head.recalls == 2)
    assert head.recalled[2:] == [(11, 7)]
    head.recall(1000)
    head.wait(lambda: head.recalls == 3)
    assert len(head.recalled) == 3
    Path(go).touch()
    head.wait(lambda: head.left == [1])
    assert values(head, 10, 1) == [0]


def test_more_for_a_team_that_a_recall_has_ended(head: Head, tmp_path: Path) -> None:
    """A recall makes a team tell its last answers and end; what comes with the recall is for a new one, and is told."""

    def touches(x: int) -> int:
        Path(f"{tmp_path}/{x}").touch()
        return x

    function = head.define(touches)
    head.fork(function, 1, 2)
    head.hears = False
    for number in range(MOST_UNHEARD):
        head.batch(touches, function, 10 + number, [number])
        head.join(1)
        head.wait(lambda number=number: len(head.left) > number)
    head.batch(touches, function, 20, [MOST_UNHEARD])
    head.join(1)
    until(f"{tmp_path}/{MOST_UNHEARD}")
    single: list[frames.Bytes] = []  # its way to the other worker and back takes longer than that answer's
    frames.add_task(single, 5, function, head.packer.pack(touches, (5,), {}).payload)  # type: ignore[arg-type]
    head.order(b"".join(frames.records_frame(Kind.TASKS, WorkerNumber(2), single)))
    head.wait(lambda: 5 in head.results)
    assert 20 not in head.results, "its answer waits for a head that has not read the others"
    with head.at_once():
        head.recall(1)
        head.batch(touches, function, 30, range(30, 34))
        head.join(1, 2)
    head.hears = True
    head.hear(MOST_UNHEARD)
    head.wait(lambda: len(head.results) == MOST_UNHEARD + 6 and len(head.left) == MOST_UNHEARD + 3)
    assert values(head, 30, 4) == [30, 31, 32, 33]


def test_what_is_in_hand_is_recalled_where_all_is(head: Head, tmp_path: Path) -> None:
    """A task that was handed out and not started is given back, too, if all is asked for."""
    go = str(tmp_path / "go")

    def waits(x: int) -> int:
        if x == 200:
            Path(go + "ne").touch()
            until(go)
        return x

    function = head.define(waits)
    head.fork(function, 1)
    head.batch(waits, function, 1000, range(400))
    head.join(1)
    head.wait(lambda: len(head.results) == 200)
    until(go + "ne")
    head.recall(1000)
    head.wait(lambda: head.recalls == 1)
    assert sorted(n for first, count in head.recalled for n in range(first, first + count)) == list(range(1201, 1400))
    Path(go).touch()
    head.wait(lambda: head.left == [1])
    assert values(head, 1000, 201) == list(range(201))


def test_cancelled(head: Head, tmp_path: Path) -> None:
    """Of a range, those that wait or are in hand do not run; the worker that is in one is ended, and says so."""
    go = str(tmp_path / "go")

    def waits(x: int) -> int:
        if x == 200:
            Path(go + "ne").touch()
            until(go + "never")
        return x

    function = head.define(waits)
    head.fork(function, 1)
    head.batch(waits, function, 1000, range(400))
    head.join(1)
    head.wait(lambda: len(head.results) == 200)
    until(go + "ne")
    head.cancel(1210, 20)
    head.wait(lambda: head.recalls == 1)
    dropped = sorted(n for first, count in head.recalled for n in range(first, first + count))
    assert dropped == list(range(1210, 1230))
    assert not head.ended
    head.cancel(1100, 101)
    head.wait(lambda: 1 in head.ended)
    assert (head.ended[1].task, head.ended[1].reason) == (1200, "cancelled")
    assert dropped == sorted(n for first, count in head.recalled for n in range(first, first + count))
    head.fork(function, 2)
    head.join(2)
    head.wait(lambda: head.left == [2])
    assert sorted(head.results) == [n for n in range(1000, 1400) if n != 1200 and not 1210 <= n < 1230]


def test_single_tasks_after_a_team(head: Head) -> None:
    """A worker that has left its team runs tasks by themselves, whose seqs are counted without those of the team."""

    def plain(x: int) -> int:
        return x

    function = head.define(plain)
    head.fork(function, 1)
    number, records = WorkerNumber(1), list[frames.Bytes]()
    frames.add_task(records, 5, function, head.packer.pack(plain, (5,), {}).payload)  # type: ignore[arg-type]
    head.order(b"".join(frames.records_frame(Kind.TASKS, number, records)))
    head.batch(plain, function, 10, range(20))
    head.wait(lambda: 5 in head.results)
    head.join(1)
    head.wait(lambda: head.left == [1])
    head.order(frames.frame(Kind.RETRACT, number, frames.SIZE.pack(4)))
    head.wait(lambda: "RETRACTED" in head.said)
    assert head.retracted == [(2, 4)]
    records.clear()
    for task in (6, 7, 8):
        frames.add_task(records, task, function, head.packer.pack(plain, (task,), {}).payload)  # type: ignore[arg-type]
    head.order(b"".join(frames.records_frame(Kind.TASKS, number, records)))
    head.wait(lambda: 8 in head.results)
    assert head.skipped == [(6, 2), (7, 3)]
    head.order(frames.frame(Kind.KILL, number))
    head.wait(lambda: 1 in head.ended)
    assert (head.ended[1].started, head.ended[1].task) == (4, 0)


def test_a_worker_that_waits_for_a_block_gets_nothing(head: Head) -> None:
    """Until that has come; meanwhile the others run what there is."""

    def plain(x: int) -> int:
        return x

    function = head.define(plain)
    head.fork(function, 1, 2)
    block = DefinitionNumber(77)
    head.order(messages.framed(Fetch(block, 4, sha256(b"1234").hexdigest(), (), 0)))
    head.order(frames.frame(Kind.GIVE, WorkerNumber(1), frames.NUMBER.pack(block)))
    head.batch(plain, function, 100, range(300))
    head.join(1, 2)
    head.wait(lambda: sorted(head.left) == [1, 2])
    assert {worker for worker, _ in head.results.values()} == {2}
    head.batch(plain, function, 500, range(5))
    head.left.clear()
    head.join(1)
    head.recall(0)
    head.wait(lambda: head.recalls == 1)
    assert not head.left
    head.order(*(b"".join(parts) for parts in frames.content(block, NO_WORKER, memoryview(b"1234"))))
    head.wait(lambda: head.left == [1])
    assert {head.results[n][0] for n in range(500, 505)} == {1}


def test_large_results(head: Head) -> None:
    """Results with buffers, large ones and small ones, come each with the right task."""

    def large(x: int) -> Any:
        return bytes(200_000) if x % 3 == 0 else pickle.PickleBuffer(b"%d" % x * 100) if x % 3 == 1 else x

    function = head.define(large)
    head.fork(function, 1, 2)
    head.batch(large, function, 100, range(60))
    head.join(1, 2)
    head.wait(lambda: len(head.left) == 2)
    for x, value in enumerate(values(head, 100, 60)):
        assert bytes(value) == (bytes(200_000) if x % 3 == 0 else b"%d" % x * 100) if x % 3 < 2 else value == x


def test_failures(head: Head) -> None:
    """Exceptions and arguments that cannot be read are answers, and those behind them run."""

    def fails(x: int) -> int:
        if x % 7 == 3:
            raise ValueError(x)
        if x % 7 == 5:
            raise SystemExit(x)
        return x

    function = head.define(fails)
    head.fork(function, 1)
    head.batch(fails, function, 100, range(70))
    head.join(1)
    head.wait(lambda: head.left == [1])
    found = [head.results[100 + x][1][0] for x in range(70)]
    kinds = {3: Outcome.RAISED, 5: Outcome.EXITED}
    assert found == [kinds.get(x % 7, Outcome.VALUE) for x in range(70)]
