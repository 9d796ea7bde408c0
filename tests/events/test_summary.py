"""What an event log tells of functions and failures."""

from typing import cast

from hyperflow.events.schema import Event
from hyperflow.events.summary import Summary, summarise


def told(*events: dict[str, object]) -> Summary:
    """Return the summary of such events."""
    return summarise(cast("Event", {"t": 1.0, **event}) for event in events)


def waiting(*tasks: int, function: str = "f") -> dict[str, object]:
    """Return the event of a submission."""
    return {"state": "waiting", "tasks": list(tasks), "function": function, "cpus": 2}


def test_how_evaluations_end() -> None:
    """Each counts once for its function, however often it was moved; times are of those with a result."""
    found = told(
        waiting(1, 2, 3, 4, 5),
        waiting(6, function="g"),
        {"state": "running", "tasks": [1, 2, 3, 4], "worker": "worker-0@north"},
        {"state": "waiting", "tasks": [4], "retracted": True},
        {"state": "measured", "of": 1, "cpu": 2.5, "memory": 1000},
        {"state": "done", "tasks": [1, 2], "seconds": [3.0, 1.0], "worker": "worker-0@north"},
        {"state": "waiting", "tasks": [3], "retry_after": "OSError: no", "call": "f(3)"},
        {"state": "running", "tasks": [3], "worker": "worker-0@south"},
        {"state": "failed", "tasks": [3], "error": "ValueError: no", "call": "f(3)"},
        {"state": "cancelled", "tasks": [5]},
        {"state": "running", "tasks": [4], "worker": "worker-0@south"},
    )
    f, g = found.functions["f"], found.functions["g"]
    assert (f.done, f.failed, f.retried, f.cancelled, f.running, f.waiting) == (2, 1, 1, 1, 1, 0)
    assert (g.done, g.waiting) == (0, 1)
    assert (f.quantile(0.5), f.quantile(0.0), f.quantile(1.0), f.total, f.cpus) == (3.0, 1.0, 3.0, 4.0, 2)
    assert (g.quantile(0.5), f.measured, f.cpu, f.memory) == (0.0, 1, 2.5, 1000)
    first, second = found.failures
    assert (first.error, first.worker, first.retried) == ("OSError: no", "worker-0@north", True)
    assert (second.error, second.worker, second.retried) == ("ValueError: no", "worker-0@south", False)
    assert (second.call, second.function, found.failed) == ("f(3)", "f", 2)


def test_copies_of_stragglers() -> None:
    """A copy is no evaluation of its own: the one that counts is counted."""
    found = told(
        waiting(1),
        {"state": "running", "tasks": [1], "worker": "w@n"},
        {"state": "copied", "tasks": [1], "copy": 2},
        {"state": "running", "tasks": [2], "worker": "w@m"},
        {"state": "done", "tasks": [2], "seconds": [1.0]},
        {"state": "superseded", "tasks": [1], "by": 2},
    )
    f = found.functions["f"]
    assert (f.done, f.cancelled, f.running, f.waiting) == (1, 0, 0, 0)


def test_the_last_start_counts() -> None:
    """Numbers of tasks begin anew with each start; what was not kept of a log is told."""
    found = told(
        {"state": "opened", "version": 1},
        waiting(1),
        {"state": "opened", "version": 1},
        waiting(1, function="g"),
        {"state": "left out", "bytes": 100},
        {"state": "done", "tasks": [7], "seconds": [1.0]},
    )
    assert list(found.functions) == ["g"]
    assert (found.functions["g"].waiting, found.left_out) == (1, 100)
