"""Locks of a program: `with_lock` and `with_locks`.

A lock has a key. One scope at a time holds it: a flow, or a function on a worker, in any Job of the program. The lock
manager in a Job's head process (locking/manager.py) decides first, in the order of asking. Where a program has several
Jobs, the head process then acquires a lock file, against the other Jobs, in the order of their clocks
(master/lockfiles.py). No port is opened for this.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Any, Self, cast

from hyperflow import environment, saying
from hyperflow.database import keys as canonical
from hyperflow.environment import Locks
from hyperflow.errors import MisuseError, NotInFlow
from hyperflow.locking.manager import inside
from hyperflow.worker import worker

inline_locks: ContextVar[Locks | None] = ContextVar("hyperflow_inline_locks", default=None)
"""Acquires locks for functions in the inline environment, which do not run on a worker."""


class WithLocks:
    """The scope that holds the locks; made by `with_lock` and `with_locks`."""

    def __init__(self, keys: Iterable[Any], call: str) -> None:
        keys = tuple(keys)
        if reason := next(filter(None, map(_unfit, keys)), ""):
            raise MisuseError(f"{call}: {reason}")
        self._keys = tuple(sorted({canonical.encode(key, "locks") for key in keys}))
        self._call = call
        self._held: tuple[Locks, int, Token[int | None]] | None = None

    def _locks(self) -> Locks:
        if self._held is not None:
            raise MisuseError(f"this {self._call} is in use; each scope needs one of its own")
        env = environment.peek() or environment.started()
        found = env.evaluator.locks if env is not None else worker.lock_client() or inline_locks.get()
        if found is None:
            raise NotInFlow(
                f"{self._call} belongs in a flow, or in a function that runs on a worker: "
                "hyperflow.run_job_local(my_job()), await hyperflow.remote_eval(my_function)"
            )
        return found

    def _enter(self, locks: Locks, number: int) -> Self:
        self._held = locks, number, inside.set(number)
        return self

    async def __aenter__(self) -> Self:
        locks = self._locks()
        return self._enter(locks, await locks.take(self._keys))

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __enter__(self) -> Self:
        locks = self._locks()
        return self._enter(locks, locks.take_blocking(self._keys))

    def __exit__(self, *_: object) -> None:
        assert self._held is not None, self._call
        locks, number, token = self._held
        self._held = None
        with suppress(ValueError):  # left in another context than entered, such as another cell of a notebook
            inside.reset(token)
        locks.release(number)

    def __repr__(self) -> str:
        return f"hyperflow.{self._call}"


def _unfit(key: object) -> str:
    """Say why a key cannot name a lock; "" if it can, or is no matter of texts."""
    if isinstance(key, str):
        return saying.unfit_name(key)
    if isinstance(key, (tuple, list)):
        return next(filter(None, map(_unfit, cast("tuple[object, ...]", key))), "")
    return ""


def with_lock(key: Any) -> WithLocks:
    """Hold a lock for a scope: `async with with_lock("table"): ...`; only one holder in the program at a time.

    For flows, and for functions on workers; plain functions there write `with with_lock(...)`. First come, first
    served. An evaluation that waits for a lock keeps its CPUs, and its `time_limit` goes on. What starts in the scope
    of a lock counts as awaited there: a task started there that wants the same lock is refused.

    Args:
        key: Names the lock; any value that can be a key of a KeyValMap.

    Raises:
        Deadlock: On entering, in the scope of another lock: acquiring it would deadlock.
        SerializationError: The value cannot be a key.
        NotInFlow: On entering, where neither a flow nor an evaluation runs.
        MisuseError: The key has a line break, a control character or a backslash; on entering, with a plain `with` in
            a flow.

    Cancelling the wait leaves nothing behind. The lock is released at the end of the scope, and when the flow, the
    evaluation, its worker or its node ends. On a lost node processes may still be at work: then it is released when
    they must have ended, as for `using(exclusive=True)`.
    """
    return WithLocks([key], f"with_lock({key!r})")


def with_locks(keys: Iterable[Any]) -> WithLocks:
    """Hold several locks for a scope, all or none. It waits until all of them are free, then takes all.

    So scopes that acquire all they need by one `with_locks` cannot deadlock. Otherwise like with_lock.

    Args:
        keys: Name the locks; their order does not matter, and a key that comes twice counts once.

    Raises:
        MisuseError: `keys` is a text: its letters would be the keys.
    """
    if isinstance(keys, (str, bytes)):
        raise MisuseError(f"with_locks takes several keys; for one, write: with_lock({keys!r})")
    several = list(keys)
    return WithLocks(several, f"with_locks({several!r})")
