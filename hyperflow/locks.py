"""Locks of a program: `with_lock`, `with_locks` and `Semaphore`.

A lock has a key. One scope at a time holds it: a flow, or a function on a worker, in any Job of the program. The lock
manager in a Job's head process (locking/manager.py) decides first, in the order of asking. Where a program has several
Jobs, the head process then acquires a lock file, against the other Jobs, in the order of their clocks
(master/lockfiles.py). No port is opened for this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Any, Self, cast

from hyperflow import environment, saying
from hyperflow.database import keys as canonical
from hyperflow.environment import Locks
from hyperflow.errors import ConfigurationError, MisuseError, NotInFlow
from hyperflow.locking.keys import check_counts, of_semaphore, split
from hyperflow.locking.manager import inside
from hyperflow.options import LONGEST_NAME
from hyperflow.worker import worker

MOST_PLACES = 10_000
"""Of a semaphore: between Jobs each place that is held is a file."""

inline_locks: ContextVar[Locks | None] = ContextVar("hyperflow_inline_locks", default=None)
"""Acquires locks for functions in the inline environment, which do not run on a worker."""


class WithLocks:
    """The scope that holds the locks; made by `with_lock` and `with_locks`."""

    def __init__(self, keys: Iterable[Any], call: str) -> None:
        keys = tuple(keys)
        if reason := next(filter(None, map(_unfit, keys)), ""):
            raise MisuseError(f"{call}: {reason}")
        self._keys = tuple(sorted({_encoded(key) for key in keys}))
        check_counts(self._keys, dict(split(key) for key in self._keys))
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
        if (guess := environment.peek_guess()) is not None:  # else who is wanted would wait for who is not
            await asyncio.shield(guess.until_wanted())
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

    @property
    def is_innermost(self) -> bool:
        """Whether this code runs in its scope, and in no other one within."""
        return self._held is not None and self._held[1] == inside.get()

    def __repr__(self) -> str:
        return f"hyperflow.{self._call}"


def _encoded(key: object) -> str:
    return key.key if isinstance(key, Semaphore) else canonical.encode(key, "locks")


def _unfit(key: object) -> str:
    """Say why a key cannot name a lock; "" if it can, or is no matter of texts."""
    if isinstance(key, str):
        return saying.unfit_name(key)
    if isinstance(key, (tuple, list)):
        return next(filter(None, map(_unfit, cast("tuple[object, ...]", key))), "")
    return ""


def _unfit_semaphore(name: object, n: object) -> str:
    """Say why there is no such semaphore; "" if there may be."""
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
        return f"a text of at most {LONGEST_NAME} characters is needed as its name"
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST_PLACES:
        return f"a whole number from 1 to {MOST_PLACES:,} is needed"
    return saying.unfit_name(name)


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
        keys: Name the locks; their order does not matter, and a key that comes twice counts once. A `Semaphore` among
            them is one place of it.

    Raises:
        MisuseError: `keys` is a text: its letters would be the keys.
    """
    if isinstance(keys, (str, bytes)):
        raise MisuseError(f"with_locks takes several keys; for one, write: with_lock({keys!r})")
    several = list(keys)
    return WithLocks(several, f"with_locks({several!r})")


class Semaphore:
    """A lock with `n` places: `async with Semaphore("licence", 4): ...`; at most n scopes in the program hold it.

    For flows, and for functions on workers; plain functions there write `with Semaphore("licence", 4): ...`. All that
    `with_lock` says holds for it: order, deadlocks, and when a place is free again. It is known by its name, so it may
    be made where it is used, or once for all, and held by several scopes at a time. `with_locks` takes it as a key.

    Args:
        name: A text. A lock of the same name is another thing.
        n: How many places it has; at least 1, and the same wherever the name is used.

    Raises:
        ConfigurationError: The name or the number makes no sense; on entering, while the same name is in use with
            another number. (Another Job of the program is noticed while it holds a place.)

    While an evaluation waits in it, its CPUs are idle. Where whole evaluations share licences, write
    `using(resources={"licence": 1})`: those wait in the scheduler.
    """

    def __init__(self, name: str, n: int) -> None:
        self._call: str = f"Semaphore({name!r:.200}, {n!r:.200})"
        if reason := _unfit_semaphore(name, n):
            raise ConfigurationError(f"{self._call}: {reason}")
        self._name: str = name
        self._n: int = n
        self.key: str = of_semaphore(canonical.encode(name, "locks"), n)
        self._scopes: list[WithLocks] = []

    async def __aenter__(self) -> Self:
        scope = WithLocks([self], self._call)
        await scope.__aenter__()
        self._scopes.append(scope)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __enter__(self) -> Self:
        scope = WithLocks([self], self._call)
        scope.__enter__()
        self._scopes.append(scope)
        return self

    def __exit__(self, *_: object) -> None:
        # The one that was entered here. Left in another context than entered, any will do: places are alike.
        scope = next((one for one in reversed(self._scopes) if one.is_innermost), self._scopes[-1])
        self._scopes.remove(scope)
        scope.__exit__()

    def __reduce__(self) -> tuple[type[Semaphore], tuple[str, int]]:
        return Semaphore, (self._name, self._n)

    def __repr__(self) -> str:
        return f"hyperflow.{self._call}"
