"""Single flight: a computation that several callers wait for runs once.

Guarantees:
- Calls for one key that overlap are one computation; its result, or its failure, reaches all who wait.
- A cancelled caller leaves, and does not disturb the others. When the last one leaves, the computation is cancelled,
  and that caller waits until it has ended: nothing keeps running.
- A caller that comes while a computation is being cancelled waits for its end and starts a new one: two never overlap.
- A computation that would wait for itself, directly or through others, fails at once instead of waiting forever.

The computation is a task of its own, in the environment of the first caller, because any caller may leave.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from hyperflow.aio import settled
from hyperflow.errors import MisuseError
from hyperflow.saying import in_words

logger = logging.getLogger("hyperflow")


@attrs.define(eq=False)
class _Flight:
    name: Callable[[], str]
    task: asyncio.Task[Any]
    waiting: int = 0
    cancelling: bool = False
    waits_for: list[_Flight] = attrs.field(factory=list)

    def reaches(self, other: _Flight) -> bool:
        """Tell whether this one is the other, or waits for it, maybe through more of them."""
        seen: list[_Flight] = [self]
        for one in seen:
            seen.extend(next_one for next_one in one.waits_for if next_one not in seen)
        return other in seen


_pending: WeakKeyDictionary[Any, dict[Hashable, _Flight]] = WeakKeyDictionary()
_inside: ContextVar[_Flight | None] = ContextVar("hyperflow_flight", default=None)


async def once(
    owner: object, key: Hashable, name: Callable[[], str], compute: Callable[[], Coroutine[Any, Any, Any]]
) -> Any:
    """Return the result of `compute`, which runs once for all who ask for this key of this owner while it does.

    It looks first whether an earlier one has recorded the result, which may have happened after the caller looked.
    """
    flights = _pending.setdefault(owner, {})
    while (flight := flights.get(key)) is not None and flight.cancelling:
        await asyncio.wait([flight.task])

    async def fly() -> Any:
        _inside.set(flights[key])
        try:
            return await compute()
        finally:
            del flights[key]
            _inside.set(None)  # this task's context would know the flight, and the flight the task

    if flight is None:
        flight = flights[key] = _Flight(name, asyncio.get_running_loop().create_task(fly()))
    task = flight.task
    inside = _inside.get()
    if inside is not None:
        if flight.reaches(inside):
            raise MisuseError(f"{flight.name()} waits for its own result, so it would never end")
        inside.waits_for.append(flight)
    flight.waiting += 1
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if flight.waiting == 1 and not task.done():
            flight.cancelling = True
            task.cancel()
            with suppress(asyncio.CancelledError):  # cancelled once more: the computation has still ended
                await settled(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.warning("%s failed while it was cancelled: %s", flight.name(), in_words(error))
                del error
        raise
    finally:
        flight.waiting -= 1
        if inside is not None:
            inside.waits_for.remove(flight)
        del task, flight, inside, fly  # an error that passes here would be known by its own traceback
