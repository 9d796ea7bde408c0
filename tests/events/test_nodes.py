"""The nodes of a run as its event log tells: states, causes, what runs there; nodes that come, go and come again."""

from typing import Any

from hyperflow.events.nodes import NodeState, node_states

UP = {"t": 1.0, "state": "up", "node": "a", "cpus": [0, 1], "pinned": True}


def states(*events: dict[str, Any]) -> dict[str, NodeState]:
    """Return the nodes by name."""
    return {node.node: node for node in node_states(events)}  # type: ignore[arg-type]


def test_states_from_events() -> None:
    """What the log tells of nodes: failures count where they happened, a second run begins anew."""
    assert states(UP, {"t": 1.0, "state": "closed"})["a"].state == "ended"
    events: list[dict[str, Any]] = [
        {"t": 0.0, "state": "opened", "version": 1},
        UP,
        {"t": 0.0, "state": "not started", "node": "b", "cause": "no ssh"},
        {"t": 0.0, "state": "running", "tasks": [1, 2, 3], "worker": "worker-0@a"},
        {"t": 0.0, "state": "done", "tasks": [1], "worker": "worker-0@a", "seconds": [0.1]},
        {"t": 0.0, "state": "waiting", "tasks": [2], "retry_after": "OSError"},
        {"t": 0.0, "state": "failed", "tasks": [3], "error": "OSError"},
        {"t": 0.0, "state": "waiting", "tasks": [4], "retracted": True},
        {"t": 5.0, "state": "aside", "node": "a", "cause": "by hand"},
    ]
    a, b = states(*events).values()
    assert (a.state, a.cpus, a.done, a.failed, a.cause, a.since) == ("drained", 2, 1, 2, "by hand", 5.0)
    assert (b.state, b.cause, b.has_left) == ("not started", "no ssh", False)
    assert not states(*events, events[0])


def test_what_runs_on_a_node() -> None:
    """CPUs count as busy of what workers are in, not of what waits behind it; a node drains until nothing is left."""
    events = [
        UP | {"cpus": list(range(8))},
        {"t": 1.0, "state": "waiting", "tasks": [1, 2], "function": "f", "cpus": 3},
        {"t": 1.0, "state": "waiting", "tasks": [3, 4], "function": "g", "cpus": 1},
        {"t": 2.0, "state": "running", "tasks": [1, 2], "worker": "worker-0@a"},
        {"t": 2.0, "state": "queued", "tasks": [3, 4], "node": "a"},
        {"t": 3.0, "state": "draining", "node": "a", "cause": "time limit"},
    ]
    a = states(*events)["a"]
    assert (a.busy, a.state) == (5, "draining")
    left = {"t": 4.0, "state": "done", "tasks": [1, 2, 3, 4], "worker": "worker-0@a", "seconds": [1.0] * 4}
    a = states(*events, left)["a"]
    assert (a.busy, a.state, a.done) == (0, "drained", 4)


def test_nodes_that_come_and_go() -> None:
    """A node that left is one row with all that it did, and says why; when it comes again, it runs."""
    done = {"t": 2.0, "state": "done", "tasks": [1], "worker": "worker-0@a", "seconds": [0.1]}
    events = [
        UP | {"ends": 100.0},
        {"t": 1.5, "state": "running", "tasks": [1], "worker": "worker-0@a"},
        done,
        {"t": 3.0, "state": "left", "node": "a", "cause": "idle timeout"},
    ]
    a = states(*events[:1])["a"]
    assert (a.ends, a.came) == (100.0, 1)
    a = states(*events)["a"]
    assert (a.state, a.is_up, a.has_left, a.done, a.ends, a.since) == ("idle timeout", False, True, 1, None, 3.0)
    a = states(*events, UP | {"t": 9.0})["a"]
    assert (a.state, a.cause, a.came, a.done, a.since) == ("running", "", 2, 1, 9.0)
    a = states(*events, {"t": 9.0, "state": "left", "node": "a", "cause": "given back by hand"})["a"]
    assert (a.state, a.cause) == ("released", "given back by hand")
    assert states(*events, {"t": 9.0, "state": "closed"})["a"].state == "idle timeout"
