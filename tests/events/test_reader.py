"""The event log's reader: what was written comes back; what cannot be read is refused with words."""

import json
import os
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.events import reader, schema
from hyperflow.events.writer import EventLog
from hyperflow.wire.numbers import TaskNumber


def a_log(path: Path) -> EventLog:
    """Write one line of each kind about tasks."""
    log = EventLog(path)
    one, two = TaskNumber(1), TaskNumber(2)
    log.submitted('a "name"', 2, [one, two])
    log.running([one, two], "worker-0@north")
    log.retracted([two])
    log.returned(two, "worker-0@north")
    log.retried(two, "f(2)", ValueError('"'))
    log.done([one, two], [0.000001, 2.5], "worker-0@north")
    log.failed(one, "f(1)", KeyError("x"))
    log.cancelled(one)
    log.withheld(one, 15.0)
    return log


def test_all_that_was_written(tmp_path: Path) -> None:
    """Each event comes back, with members that the schema knows, from the version to the end."""
    path = tmp_path / "events.jsonl"
    a_log(path).close()
    found = list(reader.read(path))

    assert [event["state"] for event in found] == [
        *("opened", "waiting", "running", "waiting", "waiting", "waiting", "done", "failed", "cancelled"),
        *("withheld", "closed"),
    ]
    assert found[0]["version"] == schema.VERSION
    assert {member for event in found for member in event} <= schema.Event.__annotations__.keys()
    assert found[1]["function"] == 'a "name"'
    assert (found[4]["returned_by"], found[5]["retry_after"]) == ("worker-0@north", 'ValueError: "')
    assert (found[5]["call"], found[7]["call"]) == ("f(2)", "f(1)")
    done = [event for event in reader.each_task(found) if event["state"] == "done"]
    assert [(event["task"], event["seconds"]) for event in done] == [(1, 0.000001), (2, 2.5)]


def test_a_log_that_is_cut(tmp_path: Path) -> None:
    """A log is read up to a line that is cut, wherever a kill cut it; what a later run appends is read, too."""
    path = tmp_path / "events.jsonl"
    a_log(path).close()
    whole, lines = path.read_bytes(), path.read_bytes().splitlines(keepends=True)
    start = len(whole) - len(lines[-1]) - len(lines[-2])
    for size in range(start, len(whole)):
        os.truncate(path, size)
        complete = whole[: size + 1].count(b"\n") if whole[size : size + 1] == b"\n" else whole[:size].count(b"\n")
        assert len(list(reader.read(path))) == complete
        path.write_bytes(whole)
    os.truncate(path, len(whole) - 5)
    EventLog(path).close()

    assert [event["state"] for event in reader.read(path)][-3:] == ["withheld", "opened", "closed"]


def test_a_log_that_cannot_be_read(tmp_path: Path) -> None:
    """A newer version, damage in the middle and a file that is not there are errors that name the file."""
    path = tmp_path / "events.jsonl"
    with pytest.raises(hf.HyperflowError, match=r"events.jsonl cannot be read"):
        list(reader.read(path))
    path.write_text(json.dumps({"t": 1.0, "state": "opened", "version": schema.VERSION + 1}) + "\n")
    with pytest.raises(hf.HyperflowError, match=f"is of version {schema.VERSION + 1}, .* use a newer one"):
        list(reader.read(path))
    path.write_text('{"state": "up"}\n{"sta\n{"state": "lost"}\n')
    with pytest.raises(hf.HyperflowError, match="damaged in line 2"):
        list(reader.read(path))


def test_a_log_from_before_versions(tmp_path: Path) -> None:
    """A log without a version is read."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"t": 1.0, "state": "waiting", "tasks": [1], "returned by": "north"}\n')

    assert [event["tasks"] for event in reader.read(path)] == [[1]]
