"""Nesting: flows that await flows, as deep as they like.

An awaited coroutine runs on the stack of the one that awaits it, and Python ends a stack after a thousand frames. So
where the stack has become deep, an awaited flow gets a task, which begins a new one.

What the user sees is the same: the flow has the context variables of its caller, who gets what it has set; cancelling
the caller cancels it; its error is raised where it is awaited, with a traceback of bounded length.

The stack is looked at once in some awaits of a task only: to go through its frames at each would make deep flows slow,
and a coroutine of our own around each flow, to count them, all flows.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

from hyperflow import failures

DEEP = 200
"""Frames from which on a flow gets a stack of its own."""

LOOK_EVERY = 32
"""Awaits of one task between two looks; the user's own coroutines may be between them."""

MANY_TASKS = 1000
"""Tasks that are counted before those that have ended are forgotten."""

_awaits: dict[int, int] = {}
"""How many flows a task has awaited since its stack was looked at, by its id. An id that another one had does no harm:
its stack is looked at a little sooner."""

_forget_at = MANY_TASKS

_frame = sys._getframe  # pyright: ignore[reportPrivateUsage] (nothing else tells)


def is_deep() -> bool:
    """Whether the flow that is to be awaited now should have a stack of its own."""
    task = asyncio.current_task()
    count = _awaits.get(id(task), 0) + 1
    if count < LOOK_EVERY:
        _awaits[id(task)] = count
        if count == 1 and len(_awaits) > _forget_at:
            _forget()
        return False
    _awaits[id(task)] = 0
    frame: types.FrameType | None = _frame(1)
    for _ in range(DEEP):
        if frame is None:
            return False
        frame = frame.f_back
    return task is not None


def _forget() -> None:
    """Forget the tasks that have ended."""
    global _forget_at  # noqa: PLW0603 (twice what is alive, so that this costs little)
    for gone in _awaits.keys() - set(map(id, asyncio.all_tasks())):
        del _awaits[gone]
    _forget_at = 2 * len(_awaits) + MANY_TASKS


async def on_new_stack(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine in a task of its own, as if it were awaited here."""
    context = copy_context()
    raised: list[BaseException] = []
    try:
        result = await asyncio.get_running_loop().create_task(_caught(make, raised), context=context)
    except asyncio.CancelledError as cancelled:
        failures.shorten(cancelled)
        raise
    finally:
        _take_over(context)
    if not raised:
        return result
    raise raised.pop()  # so that this frame, which the error will know, does not know it


async def _caught(make: Callable[[], Coroutine[Any, Any, Any]], raised: list[BaseException]) -> Any:
    """Return the result, or note the error: SystemExit, too, is for who awaits the flow, and not for the loop."""
    try:
        return await make()
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 (see above)
        failures.shorten(error)
        raised.append(error)
        return None


def _take_over(context: Context) -> None:
    """Set the context variables that are set there."""
    here = copy_context()
    for variable, value in context.items():
        if variable not in here or here[variable] is not value:
            variable.set(value)
