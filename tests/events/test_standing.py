"""How one evaluation stands, as an event log tells."""

from collections.abc import Mapping
from typing import cast

import pytest

from hyperflow.errors import HyperflowError
from hyperflow.events.schema import Event
from hyperflow.events.standing import Picture, Standing, picture


def seen(number: int, *events: Mapping[str, object]) -> Picture:
    """Return how evaluation `number` stands after such events, one second each."""
    return picture((cast("Event", {"t": float(t), **event}) for t, event in enumerate(events)), number)


def wanted(number: int, *events: Mapping[str, object]) -> Standing:
    """Return that evaluation."""
    found = seen(number, *events).wanted
    assert found is not None
    return found


def waiting(*tasks: int, cpus: int = 1) -> dict[str, object]:
    """Return the event of a submission."""
    return {"state": "waiting", "tasks": list(tasks), "function": f"f{cpus}", "cpus": cpus}


def running(*tasks: int, worker: str = "worker-0@north") -> dict[str, object]:
    """Return the event of tasks that are sent."""
    return {"state": "running", "tasks": list(tasks), "worker": worker}


UP: dict[str, object] = {"state": "up", "node": "north", "cpus": [0, 1]}


def test_from_state_to_state() -> None:
    """It has the state, time and cause of its last change."""
    story = [waiting(1, 2), running(1, 2)]
    one = wanted(2, *story)
    assert (one.state, one.since, one.worker, one.node) == ("running", 1.0, "worker-0@north", "north")
    one = wanted(2, *story, {"state": "waiting", "tasks": [2], "retry_after": "OSError: no", "call": "f(2)"})
    assert (one.state, one.since, one.cause, one.call) == (
        "waiting",
        2.0,
        "it is tried again after OSError: no",
        "f(2)",
    )
    one = wanted(2, *story, {"state": "waiting", "tasks": [2], "returned_by": "worker-0@north"})
    assert one.cause == "worker-0@north, which had it, has ended"
    one = wanted(2, *story, {"state": "waiting", "tasks": [2], "retracted": True})
    assert (one.state, one.cause) == ("waiting", "")
    one = wanted(2, *story, {"state": "withheld", "tasks": [2], "seconds": 45.0})
    assert (one.state, one.since) == ("waiting", 1.0)
    assert "45 s" in one.cause
    one = wanted(2, *story, {"state": "done", "tasks": [1, 2], "seconds": [3.0, 4.0], "worker": "worker-0@north"})
    assert (one.state, one.seconds) == ("done", 4.0)
    one = wanted(2, *story, {"state": "failed", "tasks": [2], "error": "ValueError: no", "call": "f(2)"})
    assert (one.state, one.cause, one.worker) == ("failed", "ValueError: no", "worker-0@north")
    assert wanted(2, *story, {"state": "cancelled", "tasks": [2]}).state == "cancelled"


def test_copies() -> None:
    """An evaluation and its copy name each other; the copy is one that can be asked about."""
    story = [waiting(1), running(1), {"state": "copied", "tasks": [1], "copy": 2}, running(2, worker="worker-0@south")]
    assert wanted(1, *story).other == 2
    assert wanted(2, *story).worker == "worker-0@south"
    done: list[dict[str, object]] = [
        {"state": "done", "tasks": [2], "seconds": [1.0]},
        {"state": "superseded", "tasks": [1], "by": 2},
    ]
    one = wanted(1, *story, *done)
    assert (one.state, one.other) == ("superseded", 2)


def test_what_is_around_it() -> None:
    """The nodes, what runs on each, and what waits longer; a task that came back waits behind the others."""
    told = seen(
        4,
        UP,
        {"state": "up", "node": "south", "cpus": 8},
        {"state": "up", "node": "west", "cpus": 8},
        waiting(1, 2, 3),
        waiting(4, cpus=2),
        running(1, 2),
        running(3, worker="worker-1@north"),
        {"state": "waiting", "tasks": [2], "retracted": True},
        {"state": "aside", "node": "south", "cause": "a person said so"},
        {"state": "lost", "node": "west", "cause": "gone"},
    )
    assert told.wanted is not None
    assert [one.task for one in told.at("north")] == [1, 3]
    assert told.before(told.wanted) == []
    assert {name: (node.cpus, node.idle) for name, node in told.nodes.items()} == {
        "north": (2, ""),
        "south": (8, "a person said so"),
    }
    (first,) = told.before(told.alive[2])
    assert first.task == 4


def test_ends() -> None:
    """The end of the allocation and of the run are known; numbers begin anew with each start; none is none."""
    assert seen(1, waiting(1), {"state": "ending", "cause": "the time is up"}).ending == "the time is up"
    assert seen(1, waiting(1), {"state": "closed"}).closed
    assert seen(1, waiting(1), {"state": "opened"}).wanted is None
    assert seen(9, waiting(1)).wanted is None


def test_memory_follows_what_is_alive() -> None:
    """What has ended is let go of."""
    numbers = list(range(1000))
    told = seen(7, waiting(*numbers), running(*numbers), {"state": "done", "tasks": numbers, "seconds": 1.0})
    assert not told.alive
    assert told.wanted is not None


@pytest.mark.parametrize(
    "line", [{"state": "waiting", "tasks": 3}, {"state": "up", "node": "n", "cpus": None, "t": "x"}]
)
def test_a_line_without_sense(line: dict[str, object]) -> None:
    """It is named."""
    with pytest.raises(HyperflowError, match="a line that makes no sense"):
        seen(1, waiting(1), line)


def test_the_queue_of_a_node() -> None:
    """What is in it waits there; the oldest run, as many as the node has room for."""
    up = {"state": "up", "node": "north", "cpus": 2}
    queued = {"state": "queued", "tasks": [1, 2, 3], "node": "north"}
    done = {"state": "done", "tasks": [1], "worker": "worker-1@north", "seconds": [0.5]}
    seen_ = seen(3, up, waiting(1, 2, 3, 4), queued)
    one = seen_.wanted
    assert one is not None
    assert (one.state, one.queue, one.worker) == ("waiting", "north", "")
    assert [other.task for other in seen_.at("north")] == [1, 2]
    later = seen(1, up, waiting(1, 2, 3), queued, done)
    assert later.wanted is not None
    assert (later.wanted.state, later.wanted.worker, later.wanted.seconds) == ("done", "worker-1@north", 0.5)
    assert [other.task for other in later.at("north")] == [2, 3]
    back = wanted(3, up, waiting(1, 2, 3), queued, {"state": "waiting", "tasks": [3], "retracted": True})
    assert (back.state, back.queue) == ("waiting", "")
