"""Views of a history: what charts show is right, and bounded, however much there is."""

import json
import math
import random

import pytest

from hyperflow.plots import Series
from hyperflow.viewing import views
from hyperflow.viewing.history import Failed, History, NodeEvent, Outcome, WorkerName
from hyperflow.viewing.views import MOST_CELLS, OTHERS, Table

T = 1_763_600_000.0


def history(*workers: str, names: tuple[str, ...] = ("scan", "fit"), cpus: int = 2) -> History:
    """Return a history with these workers, whose nodes have some CPUs each."""
    made = History(first=T, last=T)
    for name in names:
        made.group_of(name, name)
    made.workers += [WorkerName(None, name) for name in workers]
    made.nodes += [NodeEvent(T, None, node, "up", cpus, "") for node in sorted({it.node for it in made.workers})]
    return made


def ran(
    made: History,
    worker: int,
    start: float,
    end: float,
    outcome: Outcome = Outcome.DONE,
    *,
    group: int = 0,
    cpus: int = 1,
) -> None:
    """Add an evaluation; a time may be NaN."""
    columns = (made.task, made.group, made.cpus, made.worker, made.job, made.submitted, made.start, made.end)
    values = (len(made) + 1, group, cpus, worker, -1, T, T + start, T + end)
    for column, value in zip(columns, values, strict=True):
        column.append(value)  # type: ignore[arg-type]
    made.outcome.append(int(outcome))
    made.cpu.append(0.5)
    made.memory.append(1000)
    made.last = max([made.last, *(it for it in (T + start, T + end) if not math.isnan(it))])


def many(count: int, lanes: int, groups: int) -> History:
    """Return a history with so many evaluations, one after the other on each worker."""
    chance = random.Random(1)
    made = history(*(f"worker-{it}@node1" for it in range(lanes)), names=tuple(f"f{it}" for it in range(groups)))
    free = [0.0] * lanes
    for number in range(count):
        lane = number % lanes
        start = free[lane]
        free[lane] = start + chance.expovariate(10)
        ran(
            made, lane, start, free[lane], Outcome.FAILED if number % 1000 == 7 else Outcome.DONE, group=number % groups
        )
    return made


@pytest.mark.parametrize("state", ["lost", "left"])
def test_utilisation(state: str) -> None:
    """CPUs are busy where evaluations were, in shares of what was there; a node ends that has gone; marks tell why."""
    made = history("worker-0@node1", "worker-0@node2")
    ran(made, 0, 0, 10, cpus=2)
    ran(made, 1, 2.5, 5)
    ran(made, 1, math.nan, math.nan, Outcome.WAITING)
    made.nodes.append(NodeEvent(T + 5, None, "node2", state, 0, "it fell silent"))
    shown = views.utilisation(Table.of(made), bins=4)
    assert shown["bins"] == [1.25, 3.75, 6.25, 8.75]
    assert shown["busy"] == [2, 3, 2, 2]
    assert shown["there"] == [4, 4, 2, 2]
    assert [it["busy"] for it in shown["nodes"]] == [[1, 1, 1, 1], [0, 0.5, None, None]]
    assert [it["state"] for it in shown["nodes"]] == ["up", state]
    assert shown["marks"] == [{"t": 5, "node": "node2", "state": state, "cause": "it fell silent"}]
    zoomed = views.utilisation(Table.of(made), (2.5, 5), bins=1)
    assert (zoomed["busy"], zoomed["there"]) == ([3], [4])


def test_what_runs_goes_on_until_now() -> None:
    """An evaluation that runs is busy until the moment in which somebody looks."""
    made = history("worker-0@node1", cpus=1)
    ran(made, 0, 0, math.nan, Outcome.RUNNING)
    table = Table.of(made, now=T + 100)
    assert views.utilisation(table, bins=2)["busy"] == [1, 1]
    assert views.gantt(table)["seconds"] == [100]
    assert views.slowest(table)[0]["outcome"] == "running"


def test_few_evaluations_have_a_box_each() -> None:
    """Each box has its evaluation, with what became of it; lanes are in the order of people."""
    made = history("worker-10@node2", "worker-9@node2", "worker-0@node1")
    ran(made, 0, 0, 1)
    ran(made, 2, 1, 3, Outcome.FAILED, group=1)
    shown = views.gantt(Table.of(made))
    assert shown["exact"]
    assert shown["lanes"] == ["node1 0", "node2 9", "node2 10"]
    assert (shown["lane"], shown["task"], shown["failed"]) == ([2, 0], ["1", "2"], [0, 1])
    assert shown["groups"] == ["fit", "scan"]  # the longest first
    assert views.gantt(Table.of(made), node="node1")["lanes"] == ["node1 0"]
    assert views.gantt(Table.of(made), (2, 2.5))["task"] == ["2"]


def test_many_evaluations_are_binned() -> None:
    """No evaluation is lost in the bins, nor any second; a window of few of them has a box for each again."""
    made = many(20_000, lanes=8, groups=30)
    table = Table.of(made)
    shown = views.gantt(table)
    assert not shown["exact"]
    assert len(shown["lane"]) <= MOST_CELLS
    assert sum(shown["count"]) == 20_000
    assert sum(shown["failed"]) == 20
    filled = sum(took * busy for took, busy in zip(shown["seconds"], shown["busy"], strict=True))
    assert filled == pytest.approx(sum(made.end) - sum(made.start), rel=0.01)
    assert len(shown["groups"]) == views.MOST_GROUPS
    assert shown["groups"][-1] == OTHERS
    zoomed = views.gantt(table, (50, 51))
    assert zoomed["exact"]
    assert 0 < len(zoomed["task"]) < 200


def test_answers_are_bounded() -> None:
    """Hundreds of nodes and lanes, and thousands of names, make no larger answer than a browser takes."""
    made = history(*(f"worker-{it}@node{it}" for it in range(500)), names=tuple(f"f{it}" for it in range(2000)))
    for number in range(30_000):
        ran(made, number % 500, number // 500, number // 500 + 0.9, group=number % 2000)
    table = Table.of(made)
    sizes = {make.__name__: len(json.dumps(make(table))) for make in (views.utilisation, views.gantt, views.functions)}
    assert max(sizes.values()) < 400_000, sizes
    shown = views.gantt(table, first=490)
    assert (shown["first"], len(shown["lanes"]), shown["all_lanes"]) == (490, 10, 500)


@pytest.mark.parametrize("window", [None, (5.0, 5.0), (7.0, 2.0), (math.inf, 1.0), (-1e18, 1e18)])
def test_nothing_and_odd_windows(window: tuple[float, float] | None) -> None:
    """An empty history has empty views, and no window that somebody types breaks anything."""
    full = many(5000, 2, 2)
    for made in (History(), history(), full):
        json.dumps(views.gantt(Table.of(made), window, first=10**9), allow_nan=False)
        json.dumps(views.utilisation(Table.of(made)), allow_nan=False)
    assert views.functions(Table.of(History())) == []
    assert views.slowest(Table.of(History())) == []


def test_functions_slowest_and_failures() -> None:
    """Functions are told with counts and times, the longest first; failures with call, error and worker."""
    made = history("worker-0@node1")
    for number in range(20):
        ran(made, 0, number, number + 0.1)
    ran(made, 0, 20, 25, group=1, cpus=2)
    ran(made, 0, 25, 26, Outcome.FAILED)
    made.failures.append(Failed(T + 26, None, 22, 21, "scan(3)", "ValueError: no", retried=False))
    made.failed = 1
    for job in (1, 2):
        made.used[job, "scan"] = {"short": 0.5, "read": 10, "written": 20}
    made.used[1, "gone"] = {"short": 1.0, "read": 0, "written": 0}
    fit, scan = views.functions(Table.of(made))
    assert [scan[kind] for kind in ("cpu", "read", "written")] == [10.5 + 1.0, 20, 40]
    assert fit["read"] == 0
    assert (fit["name"], fit["held"], fit["cpus"]) == ("fit", 10, 2)
    assert (scan["done"], scan["failed"], scan["median"], scan["tail"]) == (20, 1, 0.1, 0.1)
    assert [it["evaluation"] for it in views.slowest(Table.of(made), 2)] == ["21", "22"]
    assert views.failures(made)["shown"][0] == {
        "evaluation": "22",
        "t": 26,
        "name": "scan",
        "call": "scan(3)",
        "error": "ValueError: no",
        "worker": "worker-0@node1",
        "retried": False,
    }
    (tried,) = views.tries(made, None, 22)
    assert (tried["outcome"], tried["error"], tried["worker"]) == ("failed", "ValueError: no", "worker-0@node1")


def test_drawings_are_thinned() -> None:
    """Of many points the extremes stay, in their order; gaps stay gaps."""
    series = Series("loss")
    for number in range(50_000):
        series.add({"t": T + number, "x": number, "y": 1e6 if number == 12_345 else number % 7})
    series.add({"t": T, "x": 50_000, "y": "gap"})
    shown = views.drawing(series)
    assert (shown["total"], shown["given"]) == (50_001, ["x", "y"])
    assert len(shown["x"]) <= views.MOST_POINTS
    assert shown["x"] == sorted(shown["x"])
    assert 1e6 in shown["y"]
    assert shown["y"][-1] is None
