"""One evaluation in the head: its future, and the errors that it may end with."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

from hyperflow.environment import Options
from hyperflow.errors import EvaluationExited, RemoteError, SerializationError
from hyperflow.scheduling.state import Task
from hyperflow.shipping.packer import PackedCall
from hyperflow.wire.frames import Outcome


class Evaluation(asyncio.Future[Any]):
    """The future of one evaluation; cancelling it ends the evaluation.

    A subclass, and not a callback on a plain future: asyncio cancels a future by this method at once, while its
    callbacks would run a turn later, and cost something each time.
    """

    __slots__ = ("on_cancel", "options", "packed", "retries", "task")  # else each would have a dictionary as well

    task: Task
    packed: PackedCall
    options: Options
    retries: int
    on_cancel: Callable[[Evaluation], None]

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel, as any future; the engine kills what runs."""
        if not super().cancel(msg):
            return False
        self.on_cancel(self)
        return True

    @property
    def name(self) -> str:
        """What logs and errors call it."""
        return f"evaluation {self.task.number} of {self.packed.function.name}"


def read_failure(outcome: int, payload: memoryview) -> tuple[Exception, str]:
    """Return the error that a worker told of, and the remote traceback if there is one."""
    content = pickle.loads(payload)
    if outcome == Outcome.RAISED:
        return _unpickled(*content), content[-1]
    if outcome == Outcome.UNSENDABLE_ERROR:
        return RemoteError(*content), content[-1]
    if outcome == Outcome.EXITED:
        return EvaluationExited(*content), content[-1]
    return SerializationError(content), ""


def in_words(error: Exception) -> str:
    """Return an error for the event log; a user's `__str__` may raise, or write a book."""
    try:
        return f"{type(error).__name__}: {error}"[:1000]
    except Exception:  # noqa: BLE001 (see above)
        return type(error).__name__


def _unpickled(data: bytes, type_name: str, text: str, trace: str) -> Exception:
    """Return the exception that a worker sent, in words if it cannot be made here although it could over there."""
    try:
        error = pickle.loads(data)
    except Exception:  # noqa: BLE001 (whatever a user's __reduce__ or __init__ raises)
        return RemoteError(type_name, text, trace)
    if not isinstance(error, Exception) or isinstance(error, StopIteration):  # no future can carry a StopIteration
        return RemoteError(type_name, text, trace)
    return error
