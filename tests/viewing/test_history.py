"""The history of a run in columns, as event logs tell."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from hyperflow.errors import HyperflowError
from hyperflow.events import segments
from hyperflow.events.packed import pack
from hyperflow.events.reader import Follower
from hyperflow.events.schema import Event
from hyperflow.viewing.history import History, LogPass, Outcome, history


def of(*events: Mapping[str, object]) -> History:
    """Return the history of such events, one second each."""
    return history([(None, [cast("Event", {"t": float(t), **event}) for t, event in enumerate(events)])])


def waiting(*tasks: int, **more: object) -> dict[str, object]:
    """Return the event of a submission."""
    return {"state": "waiting", "tasks": list(tasks), "function": "f", "cpus": 2, **more}


def running(*tasks: int, worker: str = "worker-0@north") -> dict[str, object]:
    """Return the event of tasks that are sent."""
    return {"state": "running", "tasks": list(tasks), "worker": worker}


def done(*tasks: int, seconds: float = 0.25, worker: str = "worker-0@north", **more: object) -> dict[str, object]:
    """Return the event of results."""
    return {"state": "done", "tasks": list(tasks), "worker": worker, "seconds": [seconds] * len(tasks), **more}


def rows(found: History) -> list[tuple[int, str, int, float, float, float]]:
    """Return task, outcome, worker, submitted, start and end of each row."""
    columns = (found.task, found.outcome, found.worker, found.submitted, found.start, found.end)
    return [(task, Outcome(outcome).name, *rest) for task, outcome, *rest in zip(*columns, strict=True)]


def test_what_is_told_together_has_run_one_after_the_other() -> None:
    """Answers that come in one line end one after the other; a name stands for the function."""
    found = of(
        waiting(1, 2, name="scan"), running(1, 2), {"state": "measured", "of": 2, "cpu": 0.5, "memory": 7}, done(1, 2)
    )

    assert rows(found) == [(1, "DONE", 0, 0.0, 2.5, 2.75), (2, "DONE", 0, 0.0, 2.75, 3.0)]
    assert (found.groups[0].name, found.groups[0].function, list(found.cpus)) == ("scan", "f", [2, 2])
    assert (found.cpu[1], list(found.memory)) == (0.5, [0, 7])
    assert (found.workers[0].node, found.first, found.last) == ("north", 0.0, 3.0)


NAN = pytest.approx(math.nan, nan_ok=True)


def test_a_try_is_a_row() -> None:
    """What is tried again, and what comes back from a worker that ran it, has another row; what only waited has not."""
    again: dict[str, object] = {"state": "waiting", "tasks": [1], "retry_after": "OSError: no", "call": "f(1)"}
    lost: list[dict[str, object]] = [
        {"state": "waiting", "tasks": [task], "returned_by": "worker-0@north"} for task in (1, 2)
    ]
    gone: dict[str, object] = {"state": "cancelled", "tasks": [3]}
    copied: dict[str, object] = {"state": "copied", "tasks": [2], "copy": 4}
    found = of(waiting(1, 2, 3), running(1, 2), again, running(1), *lost, gone, copied, running(2, 4))

    assert rows(found) == [
        (1, "RETRIED", 0, 0.0, 1.0, 2.0),
        (2, "RETURNED", 0, 0.0, 2.0, 5.0),
        (3, "CANCELLED", -1, 0.0, NAN, 6.0),
        (1, "WAITING", -1, 2.0, NAN, NAN),
        (2, "RUNNING", 0, 5.0, 8.0, NAN),
        (4, "WAITING", 0, 7.0, 8.0, NAN),  # at the worker, behind the other one
    ]
    (failure,) = found.failures
    assert (failure.task, failure.row, failure.error, failure.retried) == (1, 0, "OSError: no", True)


def test_the_queue_of_a_node() -> None:
    """There tasks wait at the node, at no worker; who had each, and until when, is told at the end."""
    up: dict[str, object] = {"state": "up", "node": "north", "cpus": 5}
    queued: dict[str, object] = {"state": "queued", "tasks": [1, 2, 3, 4, 5, 6, 7], "node": "north"}
    back: dict[str, object] = {"state": "waiting", "tasks": [4], "retracted": True}
    first = done(1, 2, worker="worker-1@north", age=0.5)
    found = of(up, waiting(1, 2, 3, 4, 5, 6, 7), queued, first, back, {"state": "cancelled", "tasks": [5]})

    assert [(it.name, it.node, it.is_queue) for it in found.workers] == [
        ("@north", "north", True),
        ("worker-1@north", "north", False),
    ]
    assert rows(found) == [
        (1, "DONE", 1, 1.0, 2.0, 2.25),
        (2, "DONE", 1, 1.0, 2.25, 2.5),
        (3, "RUNNING", 0, 1.0, 2.0, NAN),  # as the next one does: each needs two of the five CPUs
        (4, "WAITING", -1, 1.0, NAN, NAN),
        (5, "CANCELLED", 0, 1.0, NAN, 5.0),
        (6, "RUNNING", 0, 1.0, 2.0, NAN),
        (7, "WAITING", 0, 1.0, 2.0, NAN),
    ]


def test_out_of_the_queue_of_a_node() -> None:
    """What fails there has been at a worker since some moment before that was told."""
    queued: dict[str, object] = {"state": "queued", "tasks": [1, 2], "node": "north"}
    began: dict[str, object] = {"state": "running", "tasks": [1], "worker": "worker-1@north", "age": 0.5}
    failed: dict[str, object] = {"state": "failed", "tasks": [1], "error": "OSError: no", "call": "f(1)"}
    found = of(waiting(1, 2), queued, began, failed)

    assert rows(found) == [(1, "FAILED", 1, 0.0, 1.5, 3.0), (2, "WAITING", 0, 0.0, 1.0, NAN)]


def test_the_last_start_counts() -> None:
    """What another start of the same run had done is of the past; jobs are side by side."""
    opened: dict[str, object] = {"state": "opened"}
    events = [
        opened,
        waiting(1, 2),
        running(1),
        opened,
        waiting(1),
        running(1, worker="worker-0@south"),
        done(1, worker="worker-0@south"),
    ]
    log = [cast("Event", {"t": float(t), **event}) for t, event in enumerate(events)]
    found = history([(1, log), (2, log)])

    assert list(found.task) == [1, 1]
    assert list(found.job) == [1, 2]
    assert [(one.job, one.name) for one in found.workers] == [(1, "worker-0@south"), (2, "worker-0@south")]
    assert list(found.worker) == [0, 1]
    assert (found.first, found.last) == (3.0, 6.0)


def test_packed_or_not(tmp_path: Path) -> None:
    """A packed segment makes the same history as its lines, and a history goes on with a log that grows."""
    again: dict[str, object] = {"state": "waiting", "tasks": [1], "retry_after": "OSError: no", "call": "f(1)"}
    opened: dict[str, object] = {"state": "opened"}
    measured: dict[str, object] = {"state": "measured", "of": 1, "cpu": 0.5, "memory": 7}
    up: dict[str, object] = {"state": "up", "node": "north", "cpus": [0, 1]}
    unknown: dict[str, object] = {"state": "nothing that is known"}
    used: dict[str, object] = {"state": "used", "functions": {"n": {"short": 0.5, "read": 1, "written": 2}}}
    events = [opened, waiting(1, 2, 3, name="n"), running(1, 2), measured, again, done(2), running(3, 1), opened, up]
    events += [used, waiting(4), waiting(5, 6), running(4, 5, 6), done(4), done(5, 6), waiting(7), running(7)]
    events += [{"state": "closed"}, unknown]
    lines = [json.dumps({"t": t + 0.5, **event}) + "\n" for t, event in enumerate(events)]
    lines = [re.sub(r'"t": ([\d.]+)', r'"t": \g<1>00000', line).replace("[0.25", "[0.250000") for line in lines]
    plain = history([(None, [json.loads(line) for line in lines])])
    log = tmp_path / segments.NAME
    log.write_bytes(segments.first_line(2))
    segments.packed(log, 1).write_bytes(pack(lines[:-4]))
    found = History()
    one, follower = LogPass(found), Follower(log)
    one.read(follower)
    one.finish()
    assert len(found) == 3
    with log.open("a") as file:
        file.writelines(lines[-4:])
    one.read(follower)
    one.finish()
    for ours, theirs in zip(found.columns(), plain.columns(), strict=True):
        assert list(ours) == pytest.approx(list(theirs), nan_ok=True)
    assert (found.workers, found.groups, found.nodes) == (plain.workers, plain.groups, plain.nodes)
    assert found.used == plain.used != {}


@pytest.mark.parametrize(
    "event",
    [
        *({"state": "done", "tasks": [1], "worker": "w"}, {"state": "running", "tasks": 5, "worker": "w"}),
        *({"t": "now", "state": "waiting", "tasks": [3], "function": "f", "cpus": 1}, {"state": ["x"]}, {"t": 3.0}),
        *(waiting(7, cpus=1 << 40), {"state": "up", "node": "n", "cpus": None, "t": None}),
        {"state": "dropped", "counts": [5]},
    ],
)
def test_lines_that_make_no_sense(event: dict[str, object]) -> None:
    """They are told; what was read before stays, in columns of one length."""
    found = History()
    one = LogPass(found)
    with pytest.raises(HyperflowError, match="has a line that makes no sense"):
        one.add([cast("Event", {"t": 1.0, **each}) for each in (waiting(1), running(1), event)])
    one.finish()
    assert {len(column) for column in found.columns()} == {1}
