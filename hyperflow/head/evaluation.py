"""One evaluation in the head: its future, and the errors that it may end with."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

from hyperflow.environment import Options
from hyperflow.errors import EvaluationExited, RemoteError, SerializationError
from hyperflow.scheduling.state import Task
from hyperflow.shipping import exceptions
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


def read_failure(name: str, outcome: int, payload: memoryview) -> tuple[Exception, str]:
    """Return the error that a worker told of an evaluation, and the remote traceback if there is one."""
    content = pickle.loads(payload)
    if outcome == Outcome.RAISED:
        data, words = content
        return exceptions.loads(data, words), words[-1]
    if outcome == Outcome.UNSENDABLE_ERROR:
        return RemoteError(*content), content[-1]
    if outcome == Outcome.EXITED:
        return EvaluationExited(*content), content[-1]
    return SerializationError(f"{name}: {content}"), ""
