"""Pieces at the head that no stream takes: posts are handed out, and nothing else is as much as unpickled."""

from typing import Any

from hyperflow.head.pieces import PieceTable
from hyperflow.pieces import Post
from hyperflow.wire import frames
from hyperflow.wire.frames import Outcome
from hyperflow.wire.numbers import TaskNumber
from hyperflow.worker.outcomes import dumps_result


class Unpickled:
    """Says that it was unpickled."""

    seen = 0

    def __setstate__(self, state: object) -> None:
        Unpickled.seen += 1


class Told:
    """Stands for fleet and worker."""

    def __init__(self) -> None:
        self.node = "n0"
        self.number = 1
        self.links = {"n0": self}
        self.frames: list[Any] = []

    def write(self, node: str, parts: Any) -> None:
        """Note what goes to a worker."""
        self.frames.append((node, parts))


def test_what_no_stream_takes() -> None:
    """A stream has ended, and the next piece of it was on its way: it is dropped. A post goes to its receiver."""
    told, heard = Told(), list[Any]()
    table = PieceTable(told, {})  # type: ignore[arg-type]
    table.receivers["news"] = heard.append

    for value in (7, Unpickled(), Post("news", 3, "hello"), Post("others", 4, "hello")):
        if isinstance(value, Unpickled):
            value.__dict__["x"] = 1
        parts = frames.result_record(TaskNumber(5), Outcome.VALUE, 0.0, dumps_result(value, []))
        table.on_piece(told, memoryview(b"".join(parts)))  # type: ignore[arg-type]

    assert heard == ["hello"]
    assert Unpickled.seen == 0
    assert len(told.frames) == 2
