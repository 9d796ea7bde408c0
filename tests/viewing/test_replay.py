"""A replay foretells what the scheduler would do, in the time of the evaluations."""

import json
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from hyperflow.cli.main import command_line
from hyperflow.viewing.flows import Course, Delays, Part, Recorded
from hyperflow.viewing.replay import longest_chain, replay, smallest

NONE = Delays(first=0.0, fork=0.0, send=0.0, queued=0.0, head=0.0)


def known(*flows: list[Part], seconds: float = 1.0, cpus: int = 1) -> Course:
    """Return what a run would have left whose flows did this; the first one is the job, and starts the others."""
    evaluations = {
        part.number: Recorded("f", cpus, flow, part.of_map, seconds)
        for flow, parts in enumerate(flows)
        for part in parts
        if part.number > 0
    }
    parents = dict.fromkeys(range(1, len(flows)), 0)
    return Course(evaluations, dict(enumerate(flows)), parents, [1], 0.0, 0.0, NONE, [])


def map_of(count: int, limit: int, of_map: bool = False) -> list[Part]:
    """Return a flow that evaluates so many, at most `limit` at a time."""
    return [Part(number + 1, min(number, limit - 1), 0.0, of_map) for number in range(count)]


CHAINS = known(
    [Part(-1, 0, 0.0, False), Part(-2, 1, 0.0, False), Part(9, 0, 0.5, False)],
    [Part(1, 0, 0.0, False), Part(2, 0, 0.0, False), Part(3, 0, 0.0, False)],
    [Part(4, 0, 0.0, False), Part(5, 0, 0.25, False)],
)
"""Two chains, of 3 and 2 evaluations, and one evaluation after both."""


@pytest.mark.parametrize(
    ("run", "nodes", "expected"),
    [
        (known(map_of(12, 12)), [1], 12.0),
        (known(map_of(12, 12)), [4], 3.0),
        (known(map_of(12, 12)), [1, 3], 3.0),
        (known(map_of(12, 12)), [1] * 100, 1.0),
        (known(map_of(12, 3)), [100], 4.0),  # more than three are never under way
        (known(map_of(12, 3, of_map=True)), [6], 2.0),  # as many as there are CPUs for, three times
        (known(map_of(12, 12), cpus=2), [4], 6.0),
        (known(map_of(12, 12), cpus=2), [3], 12.0),  # the third CPU is of no use
        (known(map_of(12, 12), cpus=3), [3, 4, 2], 6.0),
        (CHAINS, [1], 6.5),
        (CHAINS, [2], 4.5),
        (CHAINS, [64], 4.5),
    ],
)
def test_how_long_it_takes(run: Course, nodes: list[int], expected: float) -> None:
    """Evaluations wait for CPUs and for what they waited for then; nothing else takes time."""
    assert replay(run, nodes).seconds == pytest.approx(expected, abs=0.01)


def test_a_factor_and_the_shortest() -> None:
    """Evaluations become slower, pauses do not; the longest chain is a bound for all sizes."""
    assert replay(CHAINS, [2], factor=2.0).seconds == pytest.approx(8.5, abs=0.01)
    assert longest_chain(CHAINS) == 4.5
    assert longest_chain(CHAINS, 2.0) == 8.5
    outcome = replay(CHAINS, [2, 2])
    assert outcome.utilisation == pytest.approx(6.0 / (4 * 4.5), abs=0.001)


def test_delays() -> None:
    """Workers have to be forked, one after the other on each node; the head handles one answer at a time."""
    run = known(map_of(40, 40))
    forked = attrs.evolve(run, delays=attrs.evolve(NONE, first=5.0, fork=0.5))
    assert replay(forked, [40]).seconds == pytest.approx(5.0 + 39 * 0.5 + 1.0, abs=6.0)
    assert replay(forked, [1] * 40).seconds == pytest.approx(6.0, abs=0.01)
    slow_head = attrs.evolve(known(map_of(40, 4)), delays=attrs.evolve(NONE, head=1.0))
    assert replay(slow_head, [4]).seconds > 35.0
    assert replay(known(map_of(40, 4)), [4]).seconds == pytest.approx(10.0, abs=0.01)


def test_processes_of_their_own() -> None:
    """Each evaluation has its worker forked."""
    run = attrs.evolve(known(map_of(10, 10)), delays=attrs.evolve(NONE, fork=0.5))
    for one in run.evaluations.values():
        one.fresh = True
    assert replay(run, [1]).seconds == pytest.approx(14.5, abs=0.1)


def test_short_evaluations_are_prefetched_and_retracted() -> None:
    """What is queued behind a long one does not wait for it while a CPU is free."""
    run = known(map_of(400, 400), seconds=0.0005)
    run.evaluations[350].seconds = 3.0
    assert replay(run, [2]).seconds < 3.3


def test_the_smallest_size() -> None:
    """The fewest nodes are found; if no number is enough, that is told."""
    run = known(map_of(64, 64))
    found = smallest(run, 100, 2, 1.0, 4.01)
    assert found is not None
    assert (len(found.nodes), found.nodes[0]) == (8, 2)
    assert smallest(run, 7, 2, 1.0, 4.01) is None
    assert smallest(run, 4096, 2, 1.0, 0.5) is None


Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Type `hyperflow whatif`, and return its exit code and all that it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            command_line()(["whatif", *words])
        said = capfd.readouterr()
        return int(str(ended.value.code)), said.out + said.err

    return run


def left(tmp_path: Path, *lines: str) -> None:
    """Leave an event log."""
    (tmp_path / "run" / "log").mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / "log" / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))


def a_log(count: int, cpus: int = 1) -> list[str]:
    """Return the lines of a run of one second per evaluation on one node with two CPUs."""
    tasks = list(range(1, count + 1))
    lines: list[dict[str, object]] = [
        {"t": 100, "state": "opened", "version": 1, "flows": True},
        {"t": 100, "state": "up", "node": "north", "cpus": [0, 1]},
        {"t": 100, "state": "waiting", "tasks": tasks, "function": "f", "cpus": cpus},
        {"t": 100, "state": "started", "worker": "worker-0@north"},
    ]
    for task in tasks:
        lines.append({"t": 99 + task, "state": "running", "tasks": [task], "worker": "worker-0@north"})
        lines.append({"t": 100 + task, "state": "done", "tasks": [task], "worker": "worker-0@north", "seconds": [1.0]})
    return [json.dumps(line) for line in (*lines, {"t": 100 + count, "state": "closed"})]


def test_what_is_printed(typed: Typed, tmp_path: Path) -> None:
    """Sizes with time and use, the size to ask for, or what is in the way of an answer."""
    left(tmp_path, *a_log(64))
    code, said = typed("run")
    assert code == 0
    assert "as it was" in said
    assert "No size makes it shorter than 1 s" in said
    assert len(said.splitlines()) > 6
    code, said = typed("run", "--nodes", "2", "--cpus", "16", "--json")
    answer = json.loads(said)
    assert (code, answer["evaluations"], answer["shortest"]) == (0, 64, 1.0)
    assert (answer["sizes"][0]["nodes"], answer["sizes"][0]["cpus"]) == (2, 16)
    assert answer["sizes"][0]["seconds"] == pytest.approx(2.1, abs=0.2)
    assert "ask for 4 nodes with 2 CPUs each" in typed("run", "--finish-in", "9")[1]
    code, said = typed("run", "--finish-in", "1.5m", "--time-factor", "100", "--nodes", "1")
    assert (code, "It does not end in 1:30 min on 1 node with 2 CPUs." in said) == (0, True)
    for wrong in (["--finish-in", "soon"], ["--finish-in", "0"], ["--job", "3"], ["--nodes", "0"]):
        assert typed("run", *wrong)[0] != 0
    left(tmp_path, *a_log(2, cpus=8))
    code, said = typed("run")
    assert code == 1
    assert "write --cpus 8" in said
    assert typed("run", "--cpus", "8")[0] == 0


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "nothing was evaluated"),
        (['{"t": 1, "state": "opened", "version": 99}'], "use a newer one"),
        ([*a_log(3)[:4], "garbage", *a_log(3)[4:]], "damaged"),
        ([*a_log(3)[:4], '{"t": [], "state": "done"}'], "makes no sense"),
    ],
)
def test_logs_that_cannot_be_replayed(typed: Typed, tmp_path: Path, lines: list[str], words: str) -> None:
    """They are refused with the reason."""
    left(tmp_path, *lines)
    code, said = typed("run")
    assert code == 1
    assert words in said
    assert "Traceback" not in said


def test_a_cut_log(typed: Typed, tmp_path: Path) -> None:
    """What a killed run has left is replayed; what cannot be known is said."""
    left(tmp_path, *a_log(9)[:-5])
    path = tmp_path / "run" / "log" / "events.jsonl"
    path.write_text(path.read_text()[:-20])
    code, said = typed("run")
    assert code == 0
    assert "Note: the run has not ended, or was killed" in said
    assert "had not ended" in said
