"""What a generator on a worker yields, on its way to the head: a PIECE for each value, while few are unread.

The head says (MORE) up to where its program has read. WINDOW pieces may be unread, and MOST_UNREAD bytes, or one piece;
then the generator waits. It goes on when there is room again: a plain one blocks its process, an async one its task.

Guarantees: pieces come in order, before the evaluation's answer. A large array in one takes the ways that results take.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, Protocol

from hyperflow.errors import MisuseError, SerializationError
from hyperflow.pieces import Post, Receiver
from hyperflow.saying import kind_name
from hyperflow.shipping import diagnose
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind
from hyperflow.wire.numbers import NO_WORKER, TaskNumber
from hyperflow.worker.lock_client import LockClient
from hyperflow.worker.outcomes import dumps_result

WINDOW = 16
"""Pieces that may be unread."""

MOST_UNREAD = 1 << 26
"""Bytes of pieces that may be unread; one that is larger goes alone."""


class Outlet(Protocol):
    """Where pieces go."""

    @property
    def blocks(self) -> bool:
        """Whether a plain generator may block this thread until there is room."""
        ...

    def begin(self) -> None:
        """An evaluation begins to produce."""
        ...

    def put(self, value: Any) -> None:
        """Send a piece; there is room."""
        ...

    def wait(self) -> None:
        """Block until there is room."""
        ...

    async def until_room(self) -> None:
        """Wait until there is room."""
        ...


inline_outlet: ContextVar[Outlet | None] = ContextVar("hyperflow_inline_outlet", default=None)
"""Where the pieces of a function in the inline environment go."""

inline_receivers: ContextVar[dict[str, Receiver] | None] = ContextVar("hyperflow_inline_receivers", default=None)
"""Who takes what such a function posts."""


def pickled(value: Any, buffers: list[memoryview]) -> bytes:
    """Pickle a piece; raises SerializationError, which says what in it cannot be sent."""
    try:
        return dumps_result(value, buffers)
    except MisuseError:  # a flow
        raise
    except BaseException as error:  # whatever a user's __reduce__ raises
        raise SerializationError(str(diagnose.explain("a piece", value, error))) from None


class Producer:
    """Sends the pieces of the evaluation that runs."""

    blocks = True

    def __init__(self, send: Callable[[list[frames.Bytes]], None], place: Any, client: LockClient) -> None:
        self._send = send
        self._place = place  # puts a buffer where the head finds it
        self._client = client
        self._task = TaskNumber(0)
        self._unread: deque[int] = deque()  # how large they are
        self._read = 0
        client.at_once[int(Kind.MORE)] = self._on_more

    def begin(self) -> None:
        self._client.check("pieces are sent", "yield them there")
        self._task, self._read = self._client.task, 0
        self._unread.clear()

    @property
    def _has_room(self) -> bool:
        return not self._unread or (len(self._unread) < WINDOW and sum(self._unread) < MOST_UNREAD)

    def put(self, value: Any) -> None:
        self._client.check("pieces are sent", "yield them there")
        buffers: list[memoryview] = []
        data = pickled(value, buffers)
        size = len(data) + sum(each.nbytes for each in buffers)
        found = [self._place(each) for each in buffers]
        record = frames.result_record(self._task, frames.Outcome.VALUE, 0.0, data, found)
        self._send(frames.records_frame(Kind.PIECE, NO_WORKER, record))
        self._unread.append(size)
        if 2 * len(self._unread) >= WINDOW:
            self._client.poll()

    def post(self, to: str, content: Any) -> None:
        """Send something to a receiver of the head's; block until it may be followed by more."""
        if self._client.task != self._task:
            self.begin()
        self.put(Post(to, self._read + len(self._unread) + 1, content))
        self.wait()

    def wait(self) -> None:
        while not self._has_room:
            self._client.listen()

    async def until_room(self) -> None:
        while not self._has_room:
            await self._client.hear()

    def _on_more(self, body: memoryview) -> None:
        task, read = frames.SEQS.unpack(body)
        while task == self._task and self._read < read and self._unread:
            self._read += 1
            self._unread.popleft()


class _Nowhere:
    """Takes what is produced again at home, where a failure is looked at."""

    blocks = True

    def begin(self) -> None: ...
    def put(self, value: Any) -> None: ...
    def wait(self) -> None: ...
    async def until_room(self) -> None: ...


def produce(made: Any, call: str, outlet: Outlet | None) -> int | Coroutine[Any, Any, int]:
    """Send what a generator yields, and return how many pieces that were; for an async one, a coroutine of that."""
    if not isinstance(made, (Iterator, AsyncIterator)):
        if asyncio.iscoroutine(made):
            made.close()
        raise MisuseError(
            f"{call} returned {kind_name(made)}, and remote_stream takes a generator function: one with `yield`; "
            f"for one result write: await hyperflow.remote_eval({call.partition('(')[0]}, ...)"
        )
    outlet = outlet or _Nowhere()
    outlet.begin()
    if isinstance(made, AsyncIterator):
        return _produce_later(made, outlet)
    return _produce(made, outlet) if outlet.blocks else _produce_in_turns(made, outlet)


def _produce(made: Iterator[Any], outlet: Outlet) -> int:
    count = 0
    for value in made:
        outlet.put(value)
        del value
        count += 1
        outlet.wait()
    return count


async def _produce_in_turns(made: Iterator[Any], outlet: Outlet) -> int:
    count = 0
    for value in made:
        outlet.put(value)
        del value
        count += 1
        await outlet.until_room()
    return count


async def _produce_later(made: AsyncIterator[Any], outlet: Outlet) -> int:
    count = 0
    async for value in made:
        outlet.put(value)
        del value
        count += 1
        await outlet.until_room()
    return count
