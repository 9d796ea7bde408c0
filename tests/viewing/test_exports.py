"""The history of a run as a table and as a trace."""

import csv
import io
import json
from itertools import pairwise
from typing import Any, cast

from hyperflow.events.schema import Event
from hyperflow.viewing import exports
from hyperflow.viewing.history import History, history
from tests.viewing.made import ESCAPE, log_of


def a_history() -> History:
    """Return that of two jobs, with hostile names."""
    logs = [log_of(1, 2, 3, function=ESCAPE), log_of(1, 2, function="=cmd|' /C calc'!A0")]
    return history((number, cast("list[Event]", log)) for number, log in enumerate(logs, 1))


def test_a_table() -> None:
    """Each try is a row; nothing in it is a formula for a spreadsheet."""
    file = io.StringIO()
    exports.write_csv(a_history(), file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))

    assert [row["evaluation"] for row in rows] == ["1.1", "1.2", "1.3", "2.1", "2.2"]
    assert [row["outcome"] for row in rows] == ["done", "done", "failed", "done", "failed"]
    assert rows[0]["name"] == rows[0]["function"] == ESCAPE
    assert rows[3]["name"].startswith("'=cmd")
    assert (rows[0]["start"], rows[0]["seconds"], rows[0]["node"]) == ("1.300000", "0.100000", "node1")
    assert rows[0]["cpu_seconds"] == ""


def test_a_trace() -> None:
    """Nodes are processes, workers threads; what is on a thread does not overlap; errors stand at what has failed."""
    found = a_history()
    found.end[0] += 0.05  # its answer came late
    file = io.StringIO()
    exports.write_trace(found, file)
    events: list[dict[str, Any]] = json.loads(file.getvalue())["traceEvents"]

    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"node1", "1: worker-0@node1", "2: worker-0@node1"}
    ran = [event for event in events if event["ph"] == "X"]
    assert [event["name"] for event in ran] == [ESCAPE] * 3 + ["=cmd|' /C calc'!A0"] * 2
    for before, after in pairwise(ran):
        assert before["tid"] != after["tid"] or before["ts"] + before["dur"] <= after["ts"] + 1e-3
    assert ESCAPE in ran[2]["args"]["error"]
    assert ran[2]["cat"] == "failed"
    assert all(event["ts"] >= 0 for event in events if "ts" in event)
