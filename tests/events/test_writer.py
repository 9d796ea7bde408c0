"""The event log and the statistics: what they say is what happened."""

import asyncio
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.events import reader, schema
from hyperflow.events.nodes import node_states
from hyperflow.events.writer import EventLog
from tests import functions as f
from tests.support import Gate, local, wait_at


def events(program: hf.ProgramInfo) -> list[dict[str, Any]]:
    """Read the event log, with a line of its own for each task."""
    path = program.log_dir / "events.jsonl"
    assert json.loads(path.read_text().partition("\n")[0])["version"] == schema.VERSION
    return [{"task": None, **event} for event in reader.each_task(reader.read(path))]


async def test_a_small_run(tmp_path: Path) -> None:
    """Each change of state of each task, worker and node is one line, in order, with times that do not go back."""
    program = hf.ProgramInfo.new(tmp_path)

    def name_with_quotes(x: int) -> int:
        return x

    name_with_quotes.__qualname__ = 'a "name"\n\\'
    async with local(program=program):
        await hf.map_concurrently(lambda n: hf.remote_eval(f.add, n), range(10))
        await hf.remote_eval(name_with_quotes, 1)
        with pytest.raises(f.Boom):
            await hf.remote_eval(f.fail, 'text with "quotes"\n')
        with pytest.raises(hf.WorkerDied):
            await hf.remote_eval(f.die, "exit 3")
        await hf.remote_eval(f.attempts, str(tmp_path / "a"), 1, "raise").using(retries=1)
        await hf.remote_eval(f.identity, 1).using(fresh_process=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await hf.remote_eval(f.spin, 1000)
    lines = events(program)
    tasks: dict[int, list[dict[str, Any]]] = defaultdict(list)
    workers: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if line["task"] is not None:
            tasks[line["task"]].append(line)
        elif "worker" in line:
            workers[line["number"]].append(line)
    assert all(before["state"] != line["state"] for of_one in tasks.values() for before, line in pairwise(of_one))
    for of_one in tasks.values():  # one that was queued behind another may have been retracted: running, waiting
        for at in [n for n, line in enumerate(of_one) if "retracted" in line][::-1]:
            del of_one[at - 1 : at + 1]
    # Those of a map may go to the queue of their node; who has had them is told at their end.
    states = [[line["state"].replace("queued", "running") for line in tasks[n]] for n in sorted(tasks)]
    assert sorted(tasks) == list(range(1, 17))
    assert states[:11] == [["waiting", "running", "done"]] * 11
    assert states[11:13] == [["waiting", "running", "failed"]] * 2
    assert states[13:] == [
        ["waiting", "running", "waiting", "running", "done"],
        ["waiting", "running", "done"],
        ["waiting", "running", "cancelled"],
    ]
    for of_one in (*tasks.values(), *workers.values(), lines):
        times = [line["t"] for line in of_one]
        assert times == sorted(times)
    assert tasks[1][0]["function"] == "add"
    assert tasks[1][0]["cpus"] == 1
    assert all(tasks[n][2]["worker"].startswith("worker-") for n in range(1, 12))
    assert tasks[1][2]["seconds"] >= 0
    assert tasks[11][0]["function"] == 'a "name"\n\\'
    assert "Boom" in tasks[12][2]["error"]
    assert "code 3" in tasks[13][2]["error"]
    assert "attempt 1" in tasks[14][2]["retry_after"]
    assert workers
    assert all([line["state"] for line in of_one] == ["started", "ended"] for of_one in workers.values()), workers
    assert [line["status"] for of_one in workers.values() for line in of_one[1:]].count(3) == 1
    assert [line["state"] for line in lines if "node" in line and line["task"] is None] == ["up"]
    assert lines[-1]["state"] == "closed"


async def test_statistics(tmp_path: Path) -> None:
    """Statistics follow evaluations from waiting to done, and workers from busy to idle."""
    gate = Gate(tmp_path)
    async with local() as env:
        start = env.statistics()
        assert (start.nodes, start.cpus, start.cpus_free, start.workers) == (1, 2, 2, {})
        futures = [hf.remote_eval(wait_at, gate.path).start() for _ in range(5)]
        assert env.statistics().waiting == 5
        await gate.wait_inside(2)
        during = env.statistics()
        assert (during.waiting, during.running, during.cpus_free) == (3, 2, 0)
        assert during.workers == {"busy": 2}
        for future in futures[2:]:
            future.cancel()
        gate.open()
        await asyncio.gather(*futures[:2])
        end = env.statistics()
        assert (end.waiting, end.running, end.done, end.cancelled, end.failed) == (0, 0, 2, 3, 0)
        assert end.workers == {"idle": 2}
        assert end.cpus_free == 2
        with pytest.raises(AttributeError):
            end.done = 5  # type: ignore[misc]


async def test_event_log_of_odd_errors(tmp_path: Path) -> None:
    """Errors without a text, or with one of megabytes, leave an event log that can be read."""
    program = hf.ProgramInfo.new(tmp_path)
    async with local(program=program):
        with pytest.raises(f.BrokenStr):
            await hf.remote_eval(f.fail_with, f.BrokenStr)
        with pytest.raises(f.Boom) as caught:
            await hf.remote_eval(f.fail, "\udc80" + "x" * 3_000_000)
    assert len(str(caught.value)) == 3_000_001
    assert [line["state"] for line in events(program) if line["task"]] == ["waiting", "running", "failed"] * 2
    assert (program.log_dir / "events.jsonl").stat().st_size < 100_000


def test_workers_with_gpus(tmp_path: Path) -> None:
    """They have a line of their own, between those of others, and the log tells how many GPUs a node has."""
    log = EventLog(tmp_path / "events.jsonl")
    log.note("up", node="node1", cpus=[0, 1], pinned=True, memory=8, gpus=["0", "1"], gpus_from="Slurm")
    for number in range(4):
        log.started(f"worker-{number}@node1", [number], number, ["1"] if number == 2 else [])
    log.close()

    events = list(reader.read(tmp_path / "events.jsonl"))
    started = [event for event in events if event.get("state") == "started"]

    assert [event.get("worker") for event in started] == [f"worker-{number}@node1" for number in range(4)]
    assert [event.get("gpus") for event in started] == [None, None, ["1"], None]
    assert [(state.node, state.cpus, state.gpus) for state in node_states(events)] == [("node1", 2, 2)]
