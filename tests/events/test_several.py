"""Changes of single evaluations are one line for many: readers see what a line for each would say."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperflow.errors import HyperflowError
from hyperflow.events import packing, reader, segments, several, writer
from hyperflow.events.packed import Segment, pack
from hyperflow.events.reader import Follower, Part
from hyperflow.events.writer import EventLog
from hyperflow.viewing.history import History, LogPass
from hyperflow.wire.numbers import TaskNumber
from tests.events.test_segments import NoPacking


def history(log: EventLog, seed: int, clock: Callable[[], int]) -> None:
    """Submit, send and answer at random, one by one and several together, with other lines and flushes between."""
    chance = random.Random(seed)
    waiting: list[int] = []
    at: dict[int, str] = {}
    number = 0
    for _ in range(300):
        clock()
        what = chance.random()
        if what < 0.2:
            count = chance.choice((1, 1, 2, 9))
            numbers = list(range(number, number + count))
            flows = [chance.choice((0, 0, 5))] if chance.random() < 0.9 else [chance.randrange(3) for _ in numbers]
            begun = [(7, 0)] if chance.random() < 0.1 else []
            log.submitted(chance.choice("fg"), chance.choice((1, 2)), numbers, None, flows, what < 0.02, begun)
            waiting += numbers
            number += count
        elif what < 0.6 and waiting:
            some = [TaskNumber(waiting.pop(0)) for _ in range(min(len(waiting), chance.choice((1, 1, 1, 3))))]
            worker = f"worker-{chance.randrange(5)}@node{chance.randrange(3)}"
            log.running(some, worker, chance.choice((None, None, 0.5)))
            at |= dict.fromkeys(some, worker)
        elif what < 0.7 and waiting:  # as a node's launcher serves them
            some = sorted(waiting.pop() for _ in range(min(len(waiting), chance.choice((1, 5)))))
            log.queued(f"node{chance.randrange(3)}", some)
            chance.shuffle(some)
            names = [f"worker-{chance.randrange(5)}@node0" for _ in some]
            used = {one: (0.5, 1 << 20) for one in some if chance.random() < 0.5}
            log.done(some, [chance.random() for _ in some], names, [chance.random() / 9 for _ in some], used)
        elif what < 0.9 and at:
            task = chance.choice(list(at))
            worker = at.pop(task)
            more = [one for one, where in at.items() if where == worker and chance.random() < 0.1]
            tasks = sorted((task, *more))
            seconds = [chance.randrange(10**7) / 1e6 for _ in tasks]
            used = {
                one: (chance.randrange(10**7) / 1e6, chance.randrange(10**9)) for one in tasks if chance.random() < 0.3
            }
            log.done(tasks, seconds, worker, chance.choice((0.0, 0.25)), used)
            for one in more:
                del at[one]
        elif what < 0.92 and at:
            log.cancelled(TaskNumber(at.popitem()[0]))
        elif what < 0.93:
            log.started(f"worker-{chance.randrange(9)}@node0", range(chance.randrange(9)), chance.randrange(99))
        elif what > 0.95:
            log.flush()


def written(path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Write a log at random, and return its events."""
    now = iter(range(1_763_600_000_000_000, 1_763_700_000_000_000, 777))
    moment = [0]

    def clock() -> int:
        moment[0] = next(now)
        return moment[0]

    times = SimpleNamespace(
        time_ns=lambda: moment[0] * 1000, time=lambda: moment[0] / 1e6, process_time=float, monotonic=float
    )
    monkeypatch.setattr(writer, "time", times)
    for _ in range(2):  # a second start goes on with the log
        log = EventLog(path)
        history(log, seed, clock)
        log.close()
    return list(reader.read(path))


def rows(parts: Iterator[Any]) -> History:
    """Return what a history makes of parts of a log."""
    found = LogPass(History(), None)
    for part in parts:
        if isinstance(part, Part):
            found._take_entries(part)
        else:
            found.add(part)
    return found.history


def test_it_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a line for each change; also packed, in whole or from any line on, and in segments."""
    for seed in range(8):
        monkeypatch.setattr(several, "FEWEST", 10**9)
        long = written(tmp_path / f"long{seed}", seed, monkeypatch)
        monkeypatch.setattr(several, "FEWEST", 2)
        path = tmp_path / f"short{seed}"
        assert written(path, seed, monkeypatch) == long
        assert path.stat().st_size < (tmp_path / f"long{seed}").stat().st_size * 0.8

        lines = path.read_text().splitlines(keepends=True)
        data = pack(lines)
        assert list(Segment(data).events()) == list(map(json.loads, lines))
        assert list(Part(Segment(data), 0).events()) == long
        apart = several.Reading()
        before = sum(len(list(apart.events(json.loads(line)))) for line in lines[:5])
        assert list(Part(Segment(data), 5).events()) == long[before:]
        assert rows(iter([Part(Segment(data), 0)])).outcome == rows(iter([long])).outcome
        with monkeypatch.context() as patch:
            patch.setattr(writer, "SEGMENT", 3000)
            patch.setattr(packing, "Packing", NoPacking)
            cut = tmp_path / f"{seed}" / segments.NAME
            cut.parent.mkdir()
            assert [event for event in written(cut, seed, monkeypatch) if event["state"] != "segment"] == long
            assert len(segments.numbers(cut)) > 1


def test_single_evaluations_take_little_room(tmp_path: Path) -> None:
    """A quarter of what a line for each change takes: 30 bytes and not 220, with many workers."""
    path = tmp_path / segments.NAME
    log = EventLog(path)
    log.submitted("f", 1, list(range(2000)))
    chance = random.Random(1)
    names = [f"worker-{n}@node0001" for n in range(64)]
    for task in range(2000):
        name = chance.choice(names)
        log.running([TaskNumber(task)], name)
        if task >= 64:
            log.done([task - 64], [chance.random() / 10], name)
        if task % 500 == 0:
            log.flush()
    log.close()
    assert path.stat().st_size < 2000 * 55


def test_a_line_that_names_a_worker_is_missing(tmp_path: Path) -> None:
    """As in a shortened copy: its number stands for it."""
    path = tmp_path / segments.NAME
    columns = several.Columns()
    change = several.RUNNING, 1_763_600_000_000_000, "worker-0@north"
    columns.line([*change, 1, 1, None])
    path.write_text(columns.line([*change, 2, 1, None]))
    assert [(event.get("tasks"), event.get("worker")) for event in Follower(path).new()] == [
        ([2], "worker 0"),
    ]


VERSION_2 = (
    r'{"t": 1763600000.000000, "state": "several", "of": "wrrdr", "after":[0,7,1,82,5],"worker":[0,1,0,0],'
    r'"sent":[1,1,1],"done":[2],"seconds":[250000],"waiting":[1],"count":[3],"flow":[5],'
    r'"new":["worker-0@north","worker-1@north"],"forms":["\"function\": \"f\", \"cpus\": 1"]}'
)


def test_lines_of_version_2(tmp_path: Path) -> None:
    """Their columns are lists."""
    path = tmp_path / segments.NAME
    path.write_text(f"{VERSION_2}\n")
    found = list(Follower(path).new())
    assert [(event["state"], event["tasks"], event.get("worker")) for event in found] == [
        ("waiting", [1, 2, 3], None),
        ("running", [1], "worker-0@north"),
        ("running", [2], "worker-1@north"),
        ("done", [2], "worker-1@north"),
        ("running", [3], "worker-1@north"),
    ]
    assert (found[0]["function"], found[0]["flow"], found[3]["seconds"]) == ("f", 5, [0.25])


@pytest.mark.parametrize("what", ["data", "columns"])
def test_a_damaged_line(tmp_path: Path, what: str) -> None:
    """It is an error that is told, whatever is missing."""
    line = several.Columns().line([several.RUNNING, 1_763_600_000_000_000, "worker-0@north", 1, 3, None] * 3)
    event = json.loads(line)
    event[what] = event[what][: len(event[what]) // 2]
    path = tmp_path / segments.NAME
    path.write_text(json.dumps(event) + "\n")
    with pytest.raises(HyperflowError, match="damaged"):
        list(Follower(path).new())
    with pytest.raises(HyperflowError, match="makes no sense"):
        LogPass(History(), None).read(Follower(path))
