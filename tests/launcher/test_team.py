"""The policy of a team, without processes: who gets how much of the queue, and what becomes of it."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from hyperflow.launcher.stretches import Queue, Range, Stretch
from hyperflow.launcher.team import HAND_BYTES, HAND_SECONDS, HAND_TASKS, SILENCE, Member, Team
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind, Outcome
from hyperflow.wire.numbers import DefinitionNumber, Seq, TaskNumber, WorkerNumber

FUNCTION = DefinitionNumber(7)


def stretch(first: int, payloads: Sequence[bytes]) -> Stretch:
    """Return tasks as they come in a frame."""
    return Stretch.read(memoryview(b"".join(frames.batch(FUNCTION, TaskNumber(first), payloads))))


def several(first: int, count: int) -> Stretch:
    """Return tasks of one byte each."""
    return stretch(first, [b"x"] * count)


def numbers(ranges: Iterable[Range]) -> list[int]:
    """Return the tasks in ranges."""
    return [number for first, count in ranges for number in range(first, first + count)]


class Claims:
    """A claim page of a worker that does what the test says."""

    def __init__(self) -> None:
        self.started = Seq(0)

    def retract(self, below: Seq) -> Seq:
        """Forbid all that was not started."""
        assert self.started < below
        return Seq(self.started + 1)


def member(team: Team, number: int) -> tuple[Member, Any]:
    """Let a worker join."""
    claims: Any = Claims()
    made = team.members[WorkerNumber(number)] = Member(WorkerNumber(number), claims, 0)
    return made, claims


def hand(team: Team, to: Member, now: float = 0.0) -> int:
    """Give a member what it is to have; return how many tasks that is."""
    count = team.ration(to)
    if count <= 0 or not team.queue.count:
        return 0
    taken = team.queue.take(count, HAND_BYTES)
    to.give(taken, now)
    return taken.count


def answer(*tasks: int) -> bytes:
    """Return records of answers."""
    return b"".join(b"".join(frames.result_record(TaskNumber(each), Outcome.VALUE, 0.0, b"answer")) for each in tasks)


def skipped(task: int, seq: int) -> bytes:
    """Return the record of one that was taken back."""
    return b"".join(frames.result_record(TaskNumber(task), Outcome.SKIPPED, 0.0, frames.SIZE.pack(seq)))


def test_a_stretch_is_cut_as_it_came() -> None:
    """A piece has its own payloads and numbers, as a frame for a worker says them."""
    whole = stretch(10, [b"a", b"bb", b"", b"dddd"])
    before, rest = whole.cut(1)
    middle, after = rest.cut(2)
    assert [each.range for each in (before, middle, after)] == [(10, 1), (11, 2), (13, 1)]
    ((kind, worker, body),) = frames.Reader().feed(middle.frame(5))
    assert (kind, worker) == (Kind.BATCH, 5)
    function, first, lengths, payloads = frames.read_batch(body)
    assert (function, first, list(lengths), bytes(payloads)) == (FUNCTION, 11, [2, 0], b"bb")


def test_the_queue_keeps_its_order() -> None:
    """What was put back comes first, in its order; no piece is of two stretches."""
    queue = Queue()
    queue.add(several(10, 5))
    queue.add(several(30, 2))
    first = queue.take(3, HAND_BYTES)
    queue.put_back([first.cut(1)[1]])
    assert [queue.take(10, HAND_BYTES).range for _ in range(3)] == [(11, 2), (13, 2), (30, 2)]
    assert queue.count == 0


def test_large_payloads_are_handed_out_one_by_one() -> None:
    """The bytes of a piece are bounded, but one task is always taken."""
    queue = Queue()
    queue.add(stretch(1, [bytes(1000)] * 4))
    assert queue.take(4, 2000).count == 2
    assert queue.take(4, 10).count == 1


def test_recalled_are_the_newest() -> None:
    """They are taken from the end, and the rest stays."""
    queue = Queue()
    queue.add(several(10, 5))
    queue.add(several(30, 2))
    assert queue.recall(4) == [(30, 2), (13, 2)]
    assert queue.count == 3
    assert queue.recall(9) == [(10, 3)]
    assert queue.recall(9) == []


@pytest.mark.parametrize(("first", "count"), [(0, 5), (8, 4), (12, 2), (14, 20), (10, 5), (31, 1), (0, 99)])
def test_dropped(first: int, count: int) -> None:
    """Those of a range that wait go, and no others."""
    queue = Queue()
    queue.add(several(10, 5))
    queue.add(several(30, 2))
    there = [*range(10, 15), 30, 31]
    gone = numbers(queue.drop(first, count))
    assert gone == [number for number in there if first <= number < first + count]
    left: list[int] = []
    while queue.count:
        left += numbers([queue.take(99, HAND_BYTES).range])
    assert left == [number for number in there if number not in gone]


def test_of_an_unknown_function_one_at_a_time() -> None:
    """How long it takes shows with the first answer; then more are handed out, but not all at once."""
    team = Team(WorkerNumber(90))
    one, _ = member(team, 1)
    team.queue.add(several(1, 1000))
    assert hand(team, one) == 1
    assert hand(team, one) == 0
    team.learn(1, 1e-5)
    one.answered(answer(1), 0)
    assert one.is_idle
    assert hand(team, one) == 4


def test_shares_are_fair() -> None:
    """A member gets half of its share of what is left at most, and of what takes no time a certain number."""
    team = Team(WorkerNumber(90))
    one, _ = member(team, 1)
    member(team, 2)
    team.learn(1000, 1.0)
    team.queue.add(several(1, 80))
    assert team.ration(one) == 20
    team.queue.add(several(100, 1_000_000))
    assert team.ration(one) == round(HAND_SECONDS / 0.001)
    team.learn(100_000, 0.1)
    assert team.ration(one) == HAND_TASKS


@pytest.mark.parametrize(("seconds", "count"), [(0.03, 2), (0.2, 1)])
def test_long_tasks(seconds: float, count: int) -> None:
    """One more than the one that runs is handed out only if it does not take long, and others have some, too."""
    team = Team(WorkerNumber(90))
    one, claims = member(team, 1)
    team.learn(10, 10 * seconds)
    team.queue.add(several(1, 10))
    assert hand(team, one) == count
    claims.started = 1
    team.queue.recall(9)
    team.queue.add(several(50, 1))
    assert hand(team, one) == 0


def test_more_comes_before_the_last_has_ended() -> None:
    """A worker gets more when half of what it had is left, not for each answer."""
    team = Team(WorkerNumber(90))
    one, claims = member(team, 1)
    team.learn(1000, 1.0)
    team.queue.add(several(1, 1000))
    had = hand(team, one)
    claims.started = had // 2
    assert hand(team, one) == 0
    claims.started = had // 2 + 2
    assert hand(team, one) == pytest.approx(had // 2, abs=2)


def test_taken_back_and_run_after_all() -> None:
    """What was not started comes back once; a worker that skips the one it was just looking at has not run it."""
    team = Team(WorkerNumber(90))
    one, claims = member(team, 1)
    one.give(several(10, 6), 0.0)
    claims.started = 3  # it looks at this one just now
    assert [each.range for each in one.take_back()] == [(13, 3)]
    assert one.unstarted == 0
    assert one.take_back() == []
    one.answered(answer(10, 11), 1)
    said = answer(10, 11) + skipped(12, 3) + skipped(13, 4) + skipped(14, 5)
    records, again = one.sifted(said)
    assert records == answer(10, 11)
    assert [each.range for each in again] == [(12, 1)]
    assert one.is_odd
    claims.started = 6
    one.answered(skipped(15, 6), 0)
    assert one.is_idle
    assert one.sifted(skipped(15, 6)) == (b"", [])
    assert not one.is_odd


def test_who_is_to_blame() -> None:
    """The task that was started and not answered; what was not started is given back in its order."""
    team = Team(WorkerNumber(90))
    one, claims = member(team, 1)
    one.give(several(10, 3), 0.0)
    one.give(several(20, 3), 0.0)
    assert one.running() == 0
    claims.started = 4
    one.answered(answer(10, 11), 1)
    assert one.running() == 20
    assert [each.range for each in one.rest()] == [(21, 2)]
    one.answered(answer(12, 20), 1)
    assert one.running() == 0
    assert one.has(22, 1)
    assert not one.has(23, 5)


def test_an_old_answer_does_not_make_it_idle() -> None:
    """What says that nothing is in hand may have been said before more came."""
    team = Team(WorkerNumber(90))
    one, _ = member(team, 1)
    one.give(several(10, 2), 0.0)
    one.give(several(20, 1), 0.0)
    one.answered(answer(10, 11), 0)
    assert not one.is_idle
    one.answered(answer(20), 0)
    assert one.is_idle


def test_a_worker_that_lost_all_is_idle_when_it_says_so() -> None:
    """It may have been slow to start, and all that it had has gone to others."""
    team = Team(WorkerNumber(90))
    one, claims = member(team, 1)
    one.give(several(10, 1), 0.0)
    assert [each.range for each in one.take_back()] == [(10, 1)]
    claims.started = 1
    assert not one.is_idle
    one.answered(skipped(10, 1), 0)
    assert one.is_idle
    assert one.sifted(skipped(10, 1)) == (b"", [])


def test_silent_workers() -> None:
    """Who starts nothing for a while, and has more in hand, is silent, where there is another one."""
    team = Team(WorkerNumber(90))
    one, claims = member(team, 1)
    team.learn(1000, 0.001)
    one.give(several(1, 100), 0.0)
    claims.started = 50
    assert not team.is_silent(one, SILENCE)
    assert not team.is_silent(one, 2 * SILENCE), "it is the only one"
    member(team, 2)
    assert not team.is_silent(one, 3 * SILENCE), "it has started others since"
    assert team.is_silent(one, 4.5 * SILENCE)
    claims.started = 60
    assert not team.is_silent(one, 5 * SILENCE)
    claims.started = 100
    assert not team.is_silent(one, 9.0), "it has nothing that others could run"


def test_lengths_are_unsigned_numbers_of_32_bits() -> None:
    """A piece's frame copies them as they are."""
    assert array("I").itemsize == 4
