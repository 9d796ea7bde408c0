"""One evaluation in the head: its future, and the errors that it may end with."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

from hyperflow.errors import (
    EvaluationExited,
    MemoryLimitExceeded,
    OutOfMemory,
    RemoteError,
    SerializationError,
    TimeLimitExceeded,
    WorkerDied,
)
from hyperflow.flow import show_call
from hyperflow.head.streams import CalledWith, Words
from hyperflow.options import Options
from hyperflow.scheduling.state import Task, Worker
from hyperflow.shipping import exceptions
from hyperflow.shipping.packer import PackedCall
from hyperflow.wire.frames import Outcome
from hyperflow.wire.messages import CANCELLED, MEMORY_LIMIT, TIME_LIMIT, WorkerEnded

STOP_ITERATION = "builtins.StopIteration"
"""What a worker sends as the name of the class in this case; no future can carry it, nor a subclass."""


class Evaluation(asyncio.Future[Any]):
    """The future of one evaluation; cancelling it ends the evaluation.

    A subclass, and not a callback on a plain future: asyncio cancels a future by this method at once, while its
    callbacks would run a turn later, and cost something each time.
    """

    # else each would have a dictionary as well
    __slots__ = ("began", "call", "on_cancel", "options", "packed", "retries", "stream", "task")

    began: float  # when it was sent to a worker, on the clock of `time.monotonic`; of one with limits only
    stream: Words  # see `streams`; not there before the evaluation was counted

    def __init__(
        self,
        task: Task,
        packed: PackedCall,
        options: Options,
        on_cancel: Callable[[Evaluation], None],
        call: CalledWith | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.packed = packed
        self.call = call
        self.options = options
        self.retries = options.retries  # that are left
        self.on_cancel = on_cancel

    @property
    def memory_limit(self) -> int | None:
        """How many bytes it may have; it is killed when it has more."""
        asks = self.task.asks  # of "auto", what is asked for just now
        return None if asks is None or self.options.memory is None else asks.memory

    @property
    def seed(self) -> int:
        """The program's seed."""
        return self.options.seed

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel, as any future; the engine then kills what runs."""
        if not super().cancel(msg):
            return False
        self.on_cancel(self)
        return True

    @property
    def group(self) -> str:
        """What it is counted under: the name that it was given, or that of its function."""
        return self.options.name or self.packed.function.name

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"evaluation {self.task.number} of {self.group}"

    @property
    def shown_call(self) -> str:
        """The call with its arguments, as text. It is made only when something has failed."""
        return self.packed.function.name if self.call is None else show_call(*self.call)

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"evaluation {self.task.number} of {self.shown_call}"


def read_failure(evaluation: Evaluation, outcome: int, payload: memoryview) -> tuple[Exception, str]:
    """Return the error that a worker sent as an evaluation's outcome, and the remote traceback if there is one."""
    content = pickle.loads(payload)
    if outcome == Outcome.RAISED:
        data, words = content
        error = exceptions.loads(data, words)
        return error, exceptions.with_lines(exceptions.without_notes(words[-1], error))
    if outcome == Outcome.UNSENDABLE_ERROR:
        if content[0] == STOP_ITERATION:
            return exceptions.stopped(evaluation.shown_call), content[-1]
        return RemoteError(*content), content[-1]
    if outcome == Outcome.EXITED:
        return EvaluationExited(*content), content[-1]
    return SerializationError(f"{evaluation.title}: {content}"), ""


def death(evaluation: Evaluation, worker: Worker, ended: WorkerEnded, log_file: str) -> Exception | None:
    """Return the error for the evaluation that a worker was in when it ended.

    None if it is not to blame: the worker was killed because another evaluation was cancelled.
    """
    limit = evaluation.options.time_limit
    if ended.reason == CANCELLED:
        return None
    if ended.reason == TIME_LIMIT and limit is not None:
        return TimeLimitExceeded(evaluation.title, worker.name, worker.node, limit, log_file, ended.tail)
    where = evaluation.title, worker.name, worker.node, ended.status, log_file, ended.tail
    memory = evaluation.memory_limit
    if memory is not None and (ended.reason == MEMORY_LIMIT or ended.out_of_memory):
        return MemoryLimitExceeded(*where, ended.peak_memory, memory, ended.memory_before)
    kind = OutOfMemory if ended.out_of_memory else WorkerDied
    return kind(*where[:-1], ended.tail or ended.reason)
