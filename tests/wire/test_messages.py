"""Messages: what goes in comes out; what is not exactly a message is refused by name."""

from __future__ import annotations

import json

import pytest

from hyperflow.wire import messages
from hyperflow.wire.frames import Kind, ProtocolError, Reader
from hyperflow.wire.messages import (
    Facts,
    Fetch,
    Fetched,
    FileHeld,
    FileHold,
    FileOrder,
    FileReleased,
    FileWanted,
    ForkOrder,
    Greeting,
    Guest,
    Inspect,
    Inspected,
    Listen,
    Listening,
    LockReleased,
    LockReply,
    LockWanted,
    Message,
    Printed,
    RanksEnded,
    RanksWanted,
    Ready,
    Setup,
    SlotReply,
    SlotWanted,
    StreamReply,
    StreamWanted,
    SysPath,
    Used,
    WorkerEnded,
)
from hyperflow.wire.numbers import LockSerial, Seq, TaskNumber, WorkerNumber

EXAMPLES: list[Message] = [
    Greeting(4, "3.11.2", "0.1.0", "0.4.1", "north", 17, (0, 1), 1.5, (17, 5, "abcd")),
    Setup("north", "run", "/home", ("/a", "/b"), ("x.py",), {"HOME": "/home"}, (), 1.0, 600.0, None, echo=True),
    Ready(shares_memory=True),
    WorkerEnded(-9, Seq(3), "", True, "last words", 1 << 40),
    SysPath(
        ("/one", "/two"),
    ),
    LockWanted(TaskNumber(7), LockSerial(1), ('"a"', '"b"'), None),
    LockReleased(TaskNumber(7), LockSerial(1)),
    StreamWanted(TaskNumber(7)),
    StreamReply(TaskNumber(7), (0, 1 << 127, 1)),
    Facts(TaskNumber(7), 2, 1 << 40, ("north", "south")),
    SlotWanted(TaskNumber(7)),
    SlotReply(TaskNumber(7), "/tmp/\u00e9", ""),
    Printed(TaskNumber(7), ("one line",), left_out=2),
    Used(([3, "scan 3", "f", 0.25],)),
    Listen("00ff", open=True),
    Listening(("10.0.0.1", "fd00::1"), 40000),
    Fetch(7, 1 << 40, "abcd", ("10.0.0.1",), 40000),
    Fetched(7, "nobody answers"),
    FileWanted(TaskNumber(7), 1, "abcd", 1 << 40, "/tmp/\u00e9", ""),
    FileOrder(7, 1 << 40, 1, known=True, before="node2"),
    FileHold(7, "/tmp/files/abcd", 1 << 40),
    FileHeld(7, 17, 5, ""),
    FileReleased("/tmp/files/abcd"),
    Inspect(TaskNumber(7), 1, "p x"),
    Inspected(TaskNumber(7), 1, "5"),
    RanksWanted(TaskNumber(7), 1, "n2", ("orted", "-x"), "/home", {"A": "1"}),
    RanksEnded(1, 127, "cannot start orted"),
    Guest("worker-0@n1/n2", "ranks.log", (4, 5), True, ("0",), ("orted",), "/home", {"A": "1"}),
    LockReply(LockSerial(1), "no", ("a waits for b", "b waits for a")),
]


def test_messages_are_json() -> None:
    """Nothing in them is ever unpickled."""
    order = ForkOrder("ä", "worker.log", (1, 2), pinned=True, fresh=False)
    ((kind, worker, body),) = Reader().feed(messages.framed(order, WorkerNumber(3)))

    assert (kind, worker, json.loads(bytes(body))["cpus"]) == (Kind.FORK, 3, [1, 2])
    assert messages.read(ForkOrder, body) == order


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_messages_come_out_as_they_went_in(message: Message) -> None:
    """Each kind of message has a frame of its own kind, and is the same record afterwards."""
    ((kind, _, body),) = Reader().feed(messages.framed(message))

    assert kind == messages.KINDS[type(message)]
    assert messages.read(type(message), body) == message


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", r"without \['remark', 'shares_memory'\]"),
        (b'{"shares_memory": true, "remark": "", "since": 1}', r"unknown \['since'\]"),
    ],
)
def test_other_members_are_refused(said: bytes, complaint: str) -> None:
    """A message that misses a member, or has another one, is refused with its name."""
    with pytest.raises(ProtocolError, match=complaint):
        messages.read(Ready, memoryview(said))


def test_no_kind_of_frame_is_two_messages() -> None:
    """A kind says which message it is, and every message has one."""
    assert len(set(messages.KINDS.values())) == len(messages.KINDS) == len(EXAMPLES) + 1


def test_fork_orders_are_the_messages_that_they_stand_for() -> None:
    """The short way to make one gives the same, whatever is in the names."""
    for order in (
        ForkOrder('worker-1@a"\\\n\u00e9', "/tmp/\U0001f600/log", (0, 17), True, False),
        ForkOrder("", "", (), False, True),
    ):
        assert messages.fork(order, WorkerNumber(7)) == messages.framed(order, WorkerNumber(7))
