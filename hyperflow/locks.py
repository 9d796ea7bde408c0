"""Locks of a program: `with_lock` and `with_locks`.

A lock has a key, and is held by one scope at a time: in flows, in functions on workers, in all Jobs of the program.
Several are taken all or none.

Guarantees:
- Who holds one and ends, however that happens, holds it no more.
- First come, first served, within a Job; between Jobs as far as their clocks agree.
- What would wait for ever is refused with `Deadlock`, which names all who wait for each other.

Where the head process of a Job has agreed, a Job that is not the only one of its program takes the lock from the others
by a file (master/lockfiles.py). Nothing listens anywhere for this.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self

from hyperflow import environment
from hyperflow.database import keys as canonical
from hyperflow.environment import LockDesk
from hyperflow.errors import MisuseError, NotInFlow
from hyperflow.locking.manager import inside
from hyperflow.worker import worker

stand_in: ContextVar[LockDesk | None] = ContextVar("hyperflow_lock_desk", default=None)
"""What takes locks for functions in the inline environment, which are on no worker."""


class WithLocks:
    """The scope in which locks are held; made by `with_lock` and `with_locks`."""

    def __init__(self, keys: Iterable[Any], call: str) -> None:
        self._keys = tuple(sorted({canonical.encode(key, "locks") for key in keys}))
        self._call = call
        self._held: tuple[LockDesk, int, Token[int | None]] | None = None

    def _desk(self) -> LockDesk:
        if self._held is not None:
            raise MisuseError(f"this {self._call} is in use; each scope needs one of its own")
        env = environment.peek()
        found = env.evaluator.locks if env is not None else worker.lock_client() or stand_in.get()
        if found is None:
            raise NotInFlow(
                f"{self._call} belongs in a flow, or in a function that runs on a worker: "
                "hyperflow.run_job_local(my_job()), await hyperflow.remote_eval(my_function)"
            )
        return found

    def _enter(self, desk: LockDesk, number: int) -> Self:
        self._held = desk, number, inside.set(number)
        return self

    def _leave(self) -> None:
        assert self._held is not None, self._call
        desk, number, token = self._held
        self._held = None
        with suppress(ValueError):  # left in another context than entered, such as another cell of a notebook
            inside.reset(token)
        desk.release(number)

    async def __aenter__(self) -> Self:
        desk = self._desk()
        return self._enter(desk, await desk.take(self._keys))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def __enter__(self) -> Self:
        desk = self._desk()
        return self._enter(desk, desk.take_blocking(self._keys))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def __repr__(self) -> str:
        return f"hyperflow.{self._call}"


def with_lock(key: Any) -> WithLocks:
    """Hold a lock for a scope: `async with with_lock("table"): ...`; nobody else in the program holds it meanwhile.

    In flows, and in functions that run on workers; plain functions there write `with with_lock(...)`. An evaluation
    that waits for a lock keeps its CPUs, and its `time_limit` goes on. What is started in the scope of a lock counts as
    awaited there: a task of it that wants the same lock is refused.

    Args:
        key: Names the lock; any value that can be a key of a KeyValMap.

    Raises:
        Deadlock: On entering, in the scope of another lock: it would be waited for for ever.
        SerializationError: The key cannot be one.
        NotInFlow: On entering, where there is neither flow nor worker.
        MisuseError: On entering with a plain `with` in a flow.

    Cancelling while it is waited for leaves nothing behind. It is released at the end of the scope, and when the flow,
    the evaluation, its worker or its node is no more. Where a node is lost, what ran there may still be at work: then
    it is released when that must have ended, as for `using(exclusive=True)`.
    """
    return WithLocks([key], f"with_lock({key!r})")


def with_locks(keys: Iterable[Any]) -> WithLocks:
    """Hold several locks for a scope, all or none: while one of them cannot be had, none is taken.

    So those that take all they need by one `with_locks` never wait for each other in a cycle. Otherwise as with_lock.

    Args:
        keys: Names the locks; the order does not matter, and one that comes twice counts once.

    Raises:
        MisuseError: `keys` is a text: its letters would be the keys.
    """
    if isinstance(keys, (str, bytes)):
        raise MisuseError(f"with_locks takes several keys; for one, write: with_lock({keys!r})")
    several = list(keys)
    return WithLocks(several, f"with_locks({several!r})")
