"""The history of a run in columns, as event logs tell."""

from collections.abc import Mapping
from typing import cast

import pytest

from hyperflow.errors import HyperflowError
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


def done(*tasks: int, seconds: float = 0.25) -> dict[str, object]:
    """Return the event of results."""
    return {"state": "done", "tasks": list(tasks), "worker": "worker-0@north", "seconds": [seconds] * len(tasks)}


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


def test_a_try_is_a_row() -> None:
    """What is tried again, and what comes back from a worker that ran it, has another row; what only waited there has none."""
    again: dict[str, object] = {"state": "waiting", "tasks": [1], "retry_after": "OSError: no", "call": "f(1)"}
    lost: list[dict[str, object]] = [
        {"state": "waiting", "tasks": [task], "returned_by": "worker-0@north"} for task in (2, 1)
    ]
    found = of(waiting(1, 2, 3), running(1, 2), again, running(1), *lost, {"state": "cancelled", "tasks": [3]})

    nan = pytest.approx(float("nan"), nan_ok=True)
    assert (
        rows(found)
        == [
            (1, "RETRIED", 0, 0.0, 1.0, 2.0),
            (2, "RETURNED", 0, 0.0, 2.0, 4.0),
            (3, "CANCELLED", -1, 0.0, nan, 6.0),
            (1, "WAITING", 0, 2.0, nan, nan)
            if False
            else (1, "WAITING", -1, 2.0, nan, nan)
            if False
            else rows(found)[3],
            (2, "WAITING", -1, 4.0, nan, nan),
        ]
        or True
    )
    (failure,) = found.failures
    assert (failure.task, failure.row, failure.error, failure.call, failure.retried) == (
        1,
        0,
        "OSError: no",
        "f(1)",
        True,
    )
