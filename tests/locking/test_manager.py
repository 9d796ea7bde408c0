"""the lock manager between flows and the other Jobs of a program: whatever happens on the way, nothing is left held."""

import asyncio
import contextlib
import random

import pytest

from hyperflow.errors import Deadlock, HyperflowError
from hyperflow.locking.manager import LockManager
from hyperflow.locking.rules import LockRequest


class Others:
    """The other Jobs of a program, as far as they matter: they have some keys, and give them back when told to."""

    def __init__(self) -> None:
        self.theirs: set[str] = set()
        self.ours: set[str] = set()
        self.error: Exception | None = None

    async def take(self, request: LockRequest) -> None:
        """Wait for keys."""
        while self.theirs & set(request.keys):  # noqa: ASYNC110 (a turn each)
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        assert not self.ours & set(request.keys)
        self.ours |= set(request.keys)

    async def give_back(self, request: LockRequest) -> None:
        """Take them back, after a while."""
        await asyncio.sleep(0)
        self.ours -= set(request.keys)


def shared() -> tuple[LockManager, Others]:
    """Return a lock manager that has to ask others."""
    locks, others = LockManager(), Others()
    locks.share(others)
    return locks, others


async def test_waits_for_the_others_and_gives_back() -> None:
    """A lock is held when the others have agreed, and theirs again before the next one here gets it."""
    locks, others = shared()
    others.theirs = {"a"}
    first = asyncio.create_task(locks.take(["a"]))
    second = asyncio.create_task(locks.take(["a"]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not first.done()
    others.theirs = set()
    locks.release(await first)
    number = await second
    assert others.ours == {"a"}
    locks.release(number)
    await locks.close()
    assert (others.ours, locks.requests) == (set(), {})


@pytest.mark.parametrize("turns", range(6))
async def test_cancelled_at_any_moment(turns: int) -> None:
    """Who is cancelled on the way, or just at its end, holds nothing, here and there, and others get on."""
    for released in (True, False):
        locks, others = shared()
        others.theirs = set() if released else {"a"}
        waiting = asyncio.create_task(locks.take(["a"]))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            locks.release(await waiting)
        others.theirs = set()
        locks.release(await locks.take(["a"]))
        await locks.close()
        assert (others.ours, locks.requests, locks._leaving) == (set(), {}, set())


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError(28, "No space left"), HyperflowError), (Deadlock("x", []), Deadlock)]
)
async def test_errors_outside(error: Exception, kind: type[Exception]) -> None:
    """What goes wrong with the others is told to who asked; the next one may do better."""
    locks, others = shared()
    others.error = error
    with pytest.raises(kind):
        await locks.take(["a"])
    others.error = None
    locks.release(await locks.take(["a"]))
    await locks.close()
    assert not locks.requests


async def test_gone_owners() -> None:
    """Owners that go at any time leave nothing behind; random histories of many."""
    chance = random.Random(3)
    locks, others = shared()

    async def live(owner: int) -> None:
        task = asyncio.create_task(locks.take_for(chance.sample("abcd", 2), owner, f"owner {owner}"))
        for _ in range(chance.randint(0, 12)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            task.cancel()
        locks.gone(owner)
        await asyncio.sleep(0)
        task.cancel()  # nobody answers one that has gone
        await asyncio.gather(task, return_exceptions=True)

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        for owner in range(300):
            group.create_task(live(owner))
    await locks.close()
    assert (others.ours, locks.requests, locks._leaving) == (set(), {}, set())
    with pytest.raises(HyperflowError, match="closed"):
        await locks.take(["a"])
