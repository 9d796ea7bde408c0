"""What flows did, as event logs tell."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

import hyperflow as hf
from hyperflow.environment import LONGEST_UNTOLD, Activity
from hyperflow.errors import HyperflowError
from hyperflow.events import reader
from hyperflow.events.schema import Event
from hyperflow.viewing.flows import Course, Part, course
from hyperflow.viewing.replay import longest_chain, replay
from tests.support import local

Line = dict[str, Any]

OPENED: Line = {"t": 10.0, "state": "opened", "version": 1, "flows": True}
UP: Line = {"t": 10.5, "state": "up", "node": "north", "cpus": [0, 1]}
CLOSED: Line = {"t": 30.0, "state": "closed", "cpu": 0.5}


def submitted(t: float, *tasks: int, **more: Any) -> Line:
    """Return the line of a submission."""
    return {"t": t, "state": "waiting", "tasks": list(tasks), "function": "f", "cpus": 1, **more}


def sent(t: float, *tasks: int, worker: int = 0) -> Line:
    """Return the line of what was sent to a worker."""
    return {"t": t, "state": "running", "tasks": list(tasks), "worker": f"worker-{worker}@north"}


def done(t: float, seconds: float, *tasks: int, worker: int = 0) -> Line:
    """Return the line of an answer."""
    took = [seconds] * len(tasks)
    return {"t": t, "state": "done", "tasks": list(tasks), "worker": f"worker-{worker}@north", "seconds": took}


def told(*lines: Line) -> Course:
    """Return what such a log tells."""
    return course(cast("Iterable[Event]", lines))


def waits(known: Course, flow: int) -> list[tuple[int, int]]:
    """Return the parts of a flow, each with how many others may be under way."""
    return [(part.number, part.under_way) for part in known.flows[flow]]


def test_what_waits_for_what() -> None:
    """A flow goes on after its own evaluations and the flows that it has started; what others do does not count."""
    known = told(
        OPENED,
        UP,
        submitted(11.0, 1, 2, flow=[1, 2], begun=[[1, 2, 0]]),
        sent(11.0, 1),
        sent(11.0, 2, worker=1),
        done(12.0, 1.0, 1),
        submitted(12.25, 3, flow=1),
        done(13.0, 2.0, 2, worker=1),
        sent(13.0, 3),
        submitted(13.0, 4, flow=3, begun=[[3, 1, 2]]),
        sent(13.0, 4, worker=1),
        done(14.0, 1.0, 3),
        done(16.0, 3.0, 4, worker=1),
        submitted(16.5, 5),
        sent(16.5, 5),
        done(17.0, 0.5, 5),
        CLOSED,
    )
    assert waits(known, 0) == [(-1, 0), (-2, 1), (5, 0)]
    assert known.flows[1] == [Part(1, 0, 0.0, False), Part(3, 0, 0.25, False)]
    assert waits(known, 2) == [(2, 0), (-3, 0)]
    assert waits(known, 3) == [(4, 0)]
    assert known.flows[0][0].pause == 1.0
    assert known.flows[0][2].pause == 0.5
    assert (known.seconds, known.tail, known.nodes, known.used) == (20.0, 13.0, [2], 7.5)
    assert known.delays.head == 0.1
    assert known.unknown == []
    assert replay(known, [2]).seconds == pytest.approx(20.0, abs=0.01)
    assert longest_chain(known) == pytest.approx(20.0, abs=0.01)


def test_a_limit_and_a_map() -> None:
    """So many stay under way as were, except in a remote_map."""
    lines = [OPENED, UP, submitted(11.0, 1, 2)]
    for task in range(1, 5):
        lines += [sent(10.0 + task, task), done(11.0 + task, 1.0, task)]
        if task < 4:
            lines.append(submitted(11.0 + task, task + 2, map=task == 2))
    known = told(*lines, sent(15.0, 5), done(16.0, 1.0, 5), CLOSED)
    assert waits(known, 0) == [(1, 0), (2, 1), (3, 1), (4, 1), (5, 1)]
    assert [part.of_map for part in known.flows[0]] == [False, False, False, True, False]


def test_what_did_not_end_well() -> None:
    """Tries that failed take their time once more; what a lost worker had, and a cancel before the start, do not."""
    known = told(
        OPENED,
        UP,
        submitted(11.0, 1, 2, 3, 4),
        sent(11.0, 1, 2),
        {"t": 12.0, "state": "waiting", "tasks": [1], "retry_after": "OSError: no", "call": "f(1)"},
        {"t": 13.0, "state": "cancelled", "tasks": [2]},
        {"t": 13.0, "state": "cancelled", "tasks": [3]},
        sent(13.0, 1, 4),
        {"t": 14.0, "state": "waiting", "tasks": [4], "returned_by": "north"},
        {"t": 16.0, "state": "failed", "tasks": [1], "error": "OSError: no", "call": "f(1)"},
        sent(16.0, 4),
        {"t": 16.0, "state": "copied", "tasks": [4], "copy": 5},
        sent(16.0, 5, worker=1),
        done(17.0, 1.0, 5, worker=1),
        {"t": 17.0, "state": "superseded", "tasks": [4], "by": 5},
        CLOSED,
    )
    assert {number: one.seconds for number, one in known.evaluations.items()} == {1: 4.0, 2: 1.0, 4: 1.0}
    assert [sentence.partition(":")[0] for sentence in known.unknown] == [
        "1 evaluation were cancelled",
        "1 times an evaluation failed and was tried again",
    ]


def test_processes_of_their_own() -> None:
    """Where each evaluation was the first of its worker, each had a process of its own."""
    lines = [OPENED, UP, submitted(11.0, *range(1, 7))]
    for task in range(1, 7):
        started = {"t": 11.0, "state": "started", "worker": "worker-0@north", "number": task, "cpus": [0]}
        lines += [started, sent(11.0, task), done(12.0, 0.75, task)]
    assert {one.fresh for one in told(*lines, CLOSED).evaluations.values()} == {True}
    assert {one.fresh for one in told(*lines[:-3], *lines[-2:], CLOSED).evaluations.values()} == {False}


def test_the_queue_of_a_node() -> None:
    """What passes there before a worker has its first one is its start; between two, what each costs beside."""
    known = told(
        OPENED,
        UP,
        {"t": 11.0, "state": "started", "worker": "worker-0@n", "cpus": [0], "number": 1},
        submitted(11.0, 1, 2, 3),
        {"t": 11.0, "state": "queued", "tasks": [1, 2, 3], "node": "n"},
        done(12.0, 0.5, 1) | {"worker": "worker-0@n", "age": 0.25},
        done(13.0, 0.5, 2) | {"worker": "worker-0@n"},
        done(14.0, 0.75, 3) | {"worker": "worker-0@n"},
        CLOSED,
    )
    assert [one.seconds for one in known.evaluations.values()] == [0.5, 0.5, 0.75]
    assert (known.delays.first, known.delays.send) == (0.25, 0.0)
    assert known.delays.queued == pytest.approx((0.75 + 0.25) / 2)


def test_what_a_log_cannot_tell_is_said() -> None:
    """A log of an earlier version, of a run that was killed, or with a gap is replayed as far as it goes."""
    old = {"t": 10.0, "state": "opened", "version": 1}
    known = told(
        old,
        UP,
        submitted(11.0, 1, 2, 3),
        {"t": 11.0, "state": "left out", "bytes": 1000},
        sent(11.0, 1, 2),
        done(12.0, 1.0, 1),
        done(12.0, 1.0, 77, worker=1),
    )
    said = " ".join(known.unknown)
    for words in ("earlier version", "gap", "1 evaluation ended whose beginning", "killed", "2 evaluations had not"):
        assert words in said
    assert known.used == 3.0
    assert replay(known, [1]).seconds > 3.0
    untimed = told(OPENED, submitted(11.0, 1))
    assert "1 of them 0 s" in untimed.unknown[-1]


@pytest.mark.parametrize(
    "line",
    [
        submitted(11.0, 1, begun=[[1]]),
        submitted(11.0, 1, begun=[[1, 10**12, 0]]),
        submitted(11.0, 1, flow=[1, 2]),
        {"t": 11.0, "state": "up", "node": "north", "cpus": 10**12},
        {"t": 11.0, "state": "done", "tasks": [], "seconds": []},
        {"t": "then", "state": "waiting", "tasks": [1]},
    ],
)
def test_garbled_lines(line: Line) -> None:
    """A line that makes no sense is an error that shows it, and no traceback."""
    with pytest.raises(HyperflowError, match="makes no sense"):
        told(OPENED, line)


def test_flows_that_start_each_other() -> None:
    """Parents that make a circle, and a flow that nobody has begun, are taken as the job's."""
    circle = told(OPENED, UP, submitted(11.0, 1, flow=1, begun=[[1, 1, 2], [2, 1, 1]]), CLOSED)
    assert sum(map(len, circle.flows.values())) >= 1
    stranger = told(OPENED, UP, submitted(11.0, 1, flow=7), sent(11.0, 1), done(12.0, 1.0, 1), CLOSED)
    assert waits(stranger, 0) == [(-7, 0)]


def test_numbers_of_activities() -> None:
    """An activity is told once, after its parents; a chain of those that evaluate nothing is not kept for ever."""
    first = Activity(None)
    second = Activity(Activity(first))
    told_once = second.tell()
    assert [parent for _, parent in told_once] == [0, first.number, told_once[1][0]]
    assert told_once[2][0] == second.number
    assert second.tell() == []
    assert second.parent is None
    assert Activity(second).tell()[0][1] == second.number
    last = None
    for _ in range(10 * LONGEST_UNTOLD):
        last = Activity(last)
    assert last is not None
    assert 0 < len(last.tell()) <= LONGEST_UNTOLD + 1


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@hf.job
async def chain(length: int) -> int:
    """Evaluate one after the other."""
    total = 0
    for number in range(length):
        total = await hf.remote_eval(add, total, number)
    return total


@hf.job
async def nested() -> int:
    """Start flows that start flows, and evaluate after them."""
    sums = await hf.map_concurrently(chain, [3, 3])
    return await hf.remote_eval(add, *sums)


async def test_a_run_says_what_its_flows_did(tmp_path: Path) -> None:
    """Nested flows, a map with a limit, and chunks stand in the log as they were run."""
    async with local(cpus=2, program=hf.ProgramInfo.new(tmp_path)) as env:
        assert await hf.map_concurrently(lambda _: nested(), range(2)) == [6, 6]
        await hf.map_concurrently(lambda x: hf.remote_eval(abs, x), range(6), limit=2)
        assert await hf.remote_map(abs, range(20), chunk_size=5) == list(range(20))
        first = chain(1).start()
        assert (await chain(2), await first) == (1, 0)
        path = env.program.log_dir / "events.jsonl"
    known = course(reader.read(path))
    assert known.unknown == []
    assert len(known.evaluations) == 2 * 7 + 6 + 4 + 3
    outer = [-part.number for part in known.flows[0] if part.number < 0]
    assert len(outer) == 3  # the two that are nested, and the one that was started
    for flow in outer[:2]:
        one, other, last = known.flows[flow]
        assert max(one.number, other.number) < 0 < last.number
        assert (one.under_way, other.under_way, last.under_way) == (0, 1, 0)
        for inner in (-one.number, -other.number):
            assert [part.under_way for part in known.flows[inner]] == [0, 0, 0]
    own = known.flows[0][2:-3]
    assert [part.under_way <= 1 for part in own[:6]] == [True] * 6
    assert [part.of_map for part in own] == [False] * 6 + [True] * 4
    outcome = replay(known, [2])
    assert longest_chain(known) <= outcome.seconds < float("inf")


def test_nodes_that_came_and_went_are_told() -> None:
    """Who asks what a run would take on other nodes is told that its own were not there all the time."""
    left = {"t": 12.5, "state": "left", "node": "north", "cause": "idle timeout"}
    known = told(OPENED, UP, submitted(11.0, 1), sent(11.0, 1), done(12.0, 1.0, 1), left, CLOSED)
    assert known.unknown == ["nodes came and went: here each of them is there from the beginning to the end"]
