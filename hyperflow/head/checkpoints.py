"""Checkpoint directories: where evaluations keep what their next try finds. `checkpoint_dir` says what is promised.

Guarantees:
- No two evaluations have one directory at a time: neither of this run, nor of another one that may still be at work.
- One in which an evaluation has succeeded goes; if that is part of a memoized computation, when its result is recorded.
- A recorded directory that is not there any more, or that others could write to, is replaced by a new one.

Which directory it is, says checkpoint_directories.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hyperflow.environment import Making
from hyperflow.errors import HyperflowError
from hyperflow.head.evaluation import Evaluation
from hyperflow.program import ProgramInfo
from hyperflow.scheduling.state import Worker
from hyperflow.wire import frames, messages
from hyperflow.wire.messages import SlotReply
from hyperflow.wire.numbers import TaskNumber

if TYPE_CHECKING:
    from pathlib import Path

    from hyperflow.head.checkpoint_directories import Directories


class Checkpoints:
    """What workers want to know of checkpoint directories, and what the head replies."""

    def __init__(self, program: ProgramInfo, write: Callable[[str, list[frames.Bytes]], None]) -> None:
        self._directories: Directories | None = None
        self._program = program
        self._write = write
        self._at_work: set[asyncio.Future[Any]] = set()

    @property
    def given(self) -> bool:
        """Whether any evaluation has one."""
        return self._directories is not None and bool(self._directories.given)

    def wanted(self, worker: Worker, task: TaskNumber, evaluation: Evaluation | None, making: Making | None) -> None:
        """An evaluation asks for its directory."""
        self._follow(asyncio.get_running_loop().create_task(self._answer(worker, task, evaluation, making)))

    async def _answer(
        self, worker: Worker, task: TaskNumber, evaluation: Evaluation | None, making: Making | None
    ) -> None:
        reply = SlotReply(task, "", "the evaluation has ended for the head, and gets no checkpoint directory any more")
        try:
            if evaluation is not None and not evaluation.done():
                reply = SlotReply(task, str(await self._of(task, evaluation, making)))
        except (HyperflowError, OSError) as error:
            reply = SlotReply(task, "", f"there is no checkpoint directory for it: {error}")
        self._write(worker.node, [messages.framed(reply, worker.number)])

    async def _of(self, task: TaskNumber, evaluation: Evaluation, making: Making | None) -> Path:
        from hyperflow.head import checkpoint_directories  # noqa: PLC0415 (most programs ask for none)

        if self._directories is None:
            self._directories = checkpoint_directories.Directories(self._program)
        directories, is_copy = self._directories, evaluation.task.number != task
        if (found := directories.given.get(task)) is not None:
            return found
        if is_copy:
            directories.copy(task)
        if is_copy or making is None or making.of is None or evaluation.call is None:
            return directories.take(task)[0]
        database, *key = making.of
        text = directories.text(task, (key[0], key[1]), evaluation.call)
        path, is_new = directories.take(task, text, await database.lookup(checkpoint_directories.MAP, text))
        if is_new:
            await database.insert(checkpoint_directories.MAP, text, checkpoint_directories.as_value(path))
        return path

    def ended(self, task: TaskNumber, well: bool, making: Making | None = None) -> None:
        """An evaluation has ended; if well, its directory goes as soon as its result is safe."""
        path = None if self._directories is None else self._directories.ended(task)
        if path is None or not well:
            return
        if making is None:
            self._remove(path)
        else:
            making.on_recorded(lambda: self._remove(path))

    def _remove(self, path: Path) -> None:
        assert self._directories is not None
        self._follow(asyncio.get_running_loop().run_in_executor(None, self._directories.remove, path))

    def _follow(self, future: asyncio.Future[Any]) -> None:
        self._at_work.add(future)
        future.add_done_callback(self._at_work.discard)

    async def close(self) -> None:
        """Wait until all is removed that is to go."""
        while self._at_work:
            await asyncio.wait(self._at_work)
        if self._directories is not None:
            self._directories.close()
