"""Locks: which request holds which, and which waits. Pure state: no I/O, no clock, no asyncio.

A *request* wants some keys, all or none. Once it is *granted* it may take them, and when it *holds* them it has them
alone, until it is released. (Between granted and held, a Job takes the locks from the other Jobs of its program.) A
request that is made within the scope of another one has that one as its *parent*: the parent is released last.

Guarantees, which tests check over random histories:
- A key is held by one request at a time, and a request that waits holds nothing.
- First come, first served: a request is granted before any later one that wants one of the same keys. Exception:
  a nested request may overtake an earlier request that waits, directly or not, for a lock held by the nested request's
  parents. In the order of arrival that would be a deadlock.
- A request that would close a cycle of waiting is refused, with the cycle. Without cycles some request always gets on.
- When an owner ends, its requests end with it.

(Rejected: to exclude cycles by an order of keys. The program would have to keep it, across functions that know nothing
of each other.)
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Any

from hyperflow.errors import Deadlock
from hyperflow.wire.numbers import LockRequestNumber


class Stage(enum.Enum):
    """How far a request is."""

    WAITING = 1
    GRANTED = 2
    HELD = 3


class LockRequest:
    """An owner wants some keys."""

    __slots__ = ("keys", "name", "number", "owner", "parents", "stage")

    def __init__(
        self,
        number: LockRequestNumber,  # grows with each request
        keys: tuple[str, ...],
        name: str,  # who it is, for errors
        owner: Hashable,  # what it ends with
        parents: tuple[LockRequest, ...],  # the requests in whose scope it was made, the nearest first
    ) -> None:
        self.number = number
        self.keys = keys
        self.name = name
        self.owner = owner
        self.parents = parents
        self.stage = Stage.WAITING

    @property
    def shown(self) -> str:
        """The keys, for people."""
        return ", ".join(self.keys)


class Locks:
    """The locks of one Job."""

    def __init__(self) -> None:
        self.at_once = True
        """Whether a granted request holds its keys at once, because no other Job may have them."""
        self.requests: dict[LockRequestNumber, LockRequest] = {}
        """All that hold or wait, by number."""
        self._held: dict[str, LockRequest] = {}
        self._granted: dict[str, dict[LockRequestNumber, LockRequest]] = {}
        self._wanted: dict[str, dict[LockRequestNumber, LockRequest]] = {}  # that wait for a key, by arrival
        self._within: dict[LockRequestNumber, LockRequest] = {}  # those that wait, and have parents
        self._owned: dict[Hashable, dict[LockRequestNumber, LockRequest]] = {}
        self._next = 1

    def request(
        self, keys: Collection[str], name: str, owner: Hashable, parent: LockRequestNumber | None = None
    ) -> LockRequest:
        """Want some keys. `settle` tells whether they are granted at once.

        Raises:
            Deadlock: It would close a cycle of waiting. Then it leaves nothing behind.
        """
        above = self.requests.get(parent) if parent is not None else None
        parents = (above, *above.parents) if above is not None else ()
        request = LockRequest(LockRequestNumber(self._next), tuple(sorted(set(keys))), name, owner, parents)
        if parents and (cycle := self._cycle(request)):
            raise Deadlock(f"{request.name} wants {request.shown}", cycle)
        self._next += 1
        self.requests[request.number] = request
        self._owned.setdefault(owner, {})[request.number] = request
        if parents:
            self._within[request.number] = request
        for key in request.keys:
            self._wanted.setdefault(key, {})[request.number] = request
        return request

    def settle(self, keys: Iterable[str]) -> list[LockRequest]:
        """Grant what these keys, just wanted or released, allow; return it. With `at_once`, it is held."""
        candidates = dict(self._within)
        for key in keys:
            if key in self._wanted:
                number, first = next(iter(self._wanted[key].items()))
                candidates[number] = first
        found: list[LockRequest] = []
        for _, request in sorted(candidates.items()):
            if self._may_go(request):
                self._go(request)
                if self.at_once:
                    self.hold(request.number)
                found.append(request)
        return found

    def hold(self, number: LockRequestNumber) -> None:
        """A request that was granted has taken its keys."""
        request = self.requests[number]
        assert request.stage is Stage.GRANTED, request
        request.stage = Stage.HELD
        for key in request.keys:
            assert key not in self._held, key
            _remove(self._granted, key, number)
            self._held[key] = request

    def release(self, number: LockRequestNumber) -> tuple[str, ...]:
        """Forget a request, whatever its stage; return its keys, which others may want."""
        request = self.requests.pop(number, None)
        if request is None:
            return ()
        self._within.pop(number, None)
        _remove(self._owned, request.owner, number)
        for key in request.keys:
            if request.stage is Stage.HELD:
                del self._held[key]
            else:
                _remove(self._wanted if request.stage is Stage.WAITING else self._granted, key, number)
        return request.keys

    def owned(self, owner: Hashable) -> list[LockRequest]:
        """Return the requests of an owner."""
        return list(self._owned.get(owner, {}).values())

    def _go(self, request: LockRequest) -> None:
        request.stage = Stage.GRANTED
        self._within.pop(request.number, None)
        for key in request.keys:
            _remove(self._wanted, key, request.number)
            self._granted.setdefault(key, {})[request.number] = request

    def _may_go(self, request: LockRequest) -> bool:
        for key in request.keys:
            if key in self._held:
                return False
            # Another request is taking the key from outside just now. The Job that has it may wait for our parents, so
            # only requests without parents wait for that; outside, one of the two gets it.
            if key in self._granted and not request.parents:
                return False
            for number, other in self._wanted.get(key, {}).items():
                if number == request.number:
                    break
                if not request.parents or not self.depends(other, request.parents, suspect=True):
                    return False
        return True

    def depends(self, request: LockRequest, others: Collection[LockRequest], suspect: bool = False) -> bool:
        """Tell whether a request has to wait, directly or not, for one of the others to be released.

        The rules do not know what a request waits for in other Jobs while it takes keys from them; with `suspect`,
        assume the worst.
        """
        seen: set[LockRequestNumber] = set()
        todo = [request]
        while todo:
            one = todo.pop()
            if one in others or (suspect and one.stage is Stage.GRANTED):
                return True
            if one.number in seen:
                continue
            seen.add(one.number)
            if one.stage is Stage.HELD:
                todo += self._waiting_within(one)
            elif one.stage is Stage.GRANTED:  # outside, a request with parents may have got the key before it
                todo += [self._held[key] for key in one.keys if key in self._held]
            else:
                for key in one.keys:
                    if key in self._held:
                        todo.append(self._held[key])
                    todo += self._granted.get(key, {}).values()
                    todo += [other for number, other in self._wanted.get(key, {}).items() if number < one.number]
        return False

    def _waiting_within(self, request: LockRequest) -> Iterator[LockRequest]:
        granted = {number: one for requests in self._granted.values() for number, one in requests.items()}
        for one in (*self._within.values(), *granted.values()):
            if request in one.parents:
                yield one

    def _cycle(self, request: LockRequest) -> list[str]:
        """Return who would wait for whom in a cycle if this one waited, a line for each; nothing if there is none."""
        return self._way_back(request, request, set()) or []

    def _way_back(self, one: LockRequest, to: LockRequest, seen: set[LockRequestNumber]) -> list[str] | None:
        """Follow from one request who waits for whom, until that leads back."""
        if one.number in seen:
            return None
        seen.add(one.number)
        for key in one.keys:
            holder = self._held.get(key)
            if holder is None:
                continue
            if holder in to.parents:
                return [f"{holder.name} holds {key}"]
            for waiting in self._waiting_within(holder):
                if (rest := self._way_back(waiting, to, seen)) is not None:
                    return [
                        f"{holder.name} holds {key}, and {waiting.name}, within, waits for {waiting.shown}",
                        *rest,
                    ]
        return None


def _remove(table: dict[Any, dict[LockRequestNumber, LockRequest]], key: Hashable, number: LockRequestNumber) -> None:
    """Remove a request from a table of tables that are never empty."""
    requests = table[key]
    del requests[number]
    if not requests:
        del table[key]
