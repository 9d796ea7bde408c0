"""Post-mortem copies, as the head knows them: of which evaluations, on which nodes, and who waits for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.wire import frames, messages
from hyperflow.wire.messages import Inspect, Inspected
from hyperflow.wire.numbers import TaskNumber

PATIENCE = 90.0
"""Seconds for an answer; the copy gives up after 60."""


class PostMortems:
    """Those of all nodes. `write` sends frames to a node."""

    def __init__(self, write: Callable[[str, Sequence[frames.Bytes]], None]) -> None:
        self._write = write
        self._at: dict[TaskNumber, str] = {}
        self._waiting: dict[int, tuple[TaskNumber, asyncio.Future[str]]] = {}
        self._serial = 0

    def __contains__(self, task: object) -> bool:
        return task in self._at

    def note(self, body: memoryview, node: str) -> None:
        """A node has one, or has it no more."""
        number, pid = frames.KEPT.unpack(body)
        task = TaskNumber(number)
        if pid:
            self._at[task] = node
        elif self._at.pop(task, None) is not None:
            self._refuse(lambda one: one == task)

    def lost(self, node: str) -> None:
        """A node has gone, and with it its copies."""
        for task in [task for task, where in self._at.items() if where == node]:
            del self._at[task]
        self._refuse(lambda one: one not in self._at)

    def answered(self, body: memoryview) -> None:
        """An answer has come."""
        said = messages.read(Inspected, body)
        _, waiting = self._waiting.get(said.serial, (0, None))
        if waiting is not None and not waiting.done():
            waiting.set_result(said.text)

    async def ask(self, number: int, line: str) -> str:
        """Have a line carried out, and return what it prints.

        Raises:
            ConfigurationError: There is no such copy, or not any more.
            HyperflowError: It does not answer.
        """
        task = TaskNumber(number)
        if task not in self._at:
            raise _no_copy(number)
        self._serial = serial = self._serial + 1
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[serial] = task, waiting
        question = messages.framed(Inspect(task, serial, line))
        self._write(self._at[task], [question])
        try:
            async with asyncio.timeout(PATIENCE):
                return str(await waiting)
        except TimeoutError:
            raise HyperflowError(f"the copy of evaluation {number} has not answered within {PATIENCE:g} s") from None
        finally:
            del self._waiting[serial]

    def _refuse(self, which: Callable[[TaskNumber], bool]) -> None:
        for task, waiting in self._waiting.values():
            if which(task) and not waiting.done():
                waiting.set_exception(_no_copy(task))


def _no_copy(task: int) -> ConfigurationError:
    return ConfigurationError(
        f"there is no copy of evaluation {task}: it did not run with using(post_mortem=True), has not failed by an "
        "exception, 4 others of its node had failed before, or nobody has asked the copy for an hour"
    )
