"""put: a large value that many calls need is sent to each node once, and compared never."""

from __future__ import annotations

import sys
from typing import TypeVar

from hyperflow.shipping import diagnose, pickler
from hyperflow.shipping.pickler import Beside
from hyperflow.shipping.stored import Stored, new_token
from hyperflow.wire.shared_memory import LARGE, Block

T = TypeVar("T")


def put(value: T) -> T:
    """Store a value, and return a handle that stands for it in calls. It is sent to each node once.

    Write `table = hf.put(table)`, and then `await hf.remote_eval(look_up, table, x)`, or let a function capture it. On
    the worker the function finds the value itself.

    Without `put`, an array is compared with what was sent at each call (5 ms for 100 MB), and other data is pickled
    at each call.

    Args:
        value: Anything that can be sent. It is copied now; later changes are not seen.

    Returns:
        The handle. Its type is declared as the value's, so that calls with it keep their types. Here in the job it is
        only a handle; `handle.value` makes a copy of the value. It needs no environment, and serves in several.

    All calls on a worker share the value, so no call may change it; its large arrays are read-only there. The memory
    is free again when the handle is deleted and no call that has it is under way.

    Raises:
        SerializationError: The value cannot be sent.

    Cost: one copy here, and one on each node that does not share this machine's memory. Each worker unpickles it once.
    """
    token, text = new_token(), type(value).__name__
    beside = Beside(smallest=LARGE)
    try:
        data = pickler.by_value((token, value), beside)
        blocks = _in_blocks(beside)
        if blocks is None:
            data, blocks = pickler.by_value((token, value), beside := Beside(smallest=sys.maxsize)), []
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise diagnose.explain(f"the {text} that was put", value, error) from error
    return Stored(token, data, blocks, beside.classes, text)  # type: ignore[return-value]  # see Returns


def _in_blocks(beside: Beside) -> list[Block] | None:
    """Copy the large buffers into blocks; None if there can be none."""
    blocks: list[Block] = []
    try:
        for buffer in beside.buffers:
            blocks.append(Block.of(buffer.raw()))  # noqa: PERF401 (what was made before an error has to be closed)
    except OSError:  # too many open files, no memory, no memfd here
        for block in blocks:
            block.close()
        return None
    return blocks
