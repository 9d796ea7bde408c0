"""Orders: what a worker gets before a task, in which order, and again when classes have changed."""

from pathlib import Path
from typing import Any

import pytest

from hyperflow.events.writer import EventLog
from hyperflow.head.broadcast import Broadcast
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.log_places import LogPlaces
from hyperflow.head.orders import Known, Orders
from hyperflow.options import Options
from hyperflow.scheduling.state import Send, Task, Worker
from hyperflow.shipping.packer import Packer
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind
from hyperflow.wire.numbers import TaskNumber, WorkerNumber


class Node:
    """Takes what is written to a node."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, parts: list[frames.Bytes]) -> None:
        """Take frames."""
        for part in parts:
            self.data += part

    def read(self) -> list[tuple[str, list[int]]]:
        """Return what has come: kinds of frames with the numbers of definitions or tasks."""
        received = frames.Reader().feed(bytes(self.data))
        self.data.clear()
        return [(Kind(kind).name, self._numbers(kind, body)) for kind, _, body in received]

    def _numbers(self, kind: int, body: memoryview) -> list[int]:
        if kind == Kind.TASKS:
            return [task for task, *_ in frames.tasks(body)]
        return [frames.NUMBER.unpack_from(body)[0]]


class Setting:
    """Belongs to the script; its attribute changes."""

    value = 0


def look() -> int:
    """Refer to the class."""
    return Setting.value


async def test_a_class_goes_again_before_a_task_of_another_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where both are in one order, and when a task of the earlier epoch comes back to the worker later."""
    for thing in (Setting, look):
        monkeypatch.setattr(thing, "__module__", "__main__")
    node, packer, evaluations = Node(), Packer(), dict[TaskNumber, Evaluation]()
    links: Any = {"here": node}
    log = EventLog(tmp_path / "events.jsonl")
    orders = Orders(links, Broadcast(links, enabled=False), packer, evaluations, log, LogPlaces(tmp_path))
    worker = Worker(WorkerNumber(1), "here", 0, (0,), False)
    orders.at_workers[worker.number] = Known(0)

    def task(number: int) -> Task:
        packed = packer.pack(look, (), {})
        made = Task(TaskNumber(number), packed.function.number, 1)
        evaluations[made.number] = Evaluation(made, packed, Options(), lambda _: None)
        packer.hold(packed)
        return made

    first, same = task(1), task(2)
    monkeypatch.setattr(Setting, "value", 1)
    changed = task(3)
    orders.write([Send(worker, [first, same, changed])])
    (old_class,) = (need.number for need in evaluations[first.number].packed.function.needs)
    (new_class,) = (need.number for need in evaluations[changed.number].packed.function.needs)
    assert old_class != new_class
    assert node.read() == [
        ("DEFINE", [old_class]), ("GIVE", [old_class]), ("DEFINE", [first.function]), ("GIVE", [first.function]),
        ("TASKS", [1, 2]),
        ("DEFINE", [new_class]), ("GIVE", [new_class]), ("DEFINE", [changed.function]), ("GIVE", [changed.function]),
        ("TASKS", [3]),
    ]  # fmt: skip
    orders.write([Send(worker, [same, changed])])
    assert node.read() == [
        ("GIVE", [old_class]), ("GIVE", [first.function]), ("TASKS", [2]),
        ("GIVE", [new_class]), ("GIVE", [changed.function]), ("TASKS", [3]),
    ]  # fmt: skip
    orders.write([Send(worker, [changed])])
    assert node.read() == [("TASKS", [3])]
    log.close()
