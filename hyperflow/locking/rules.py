"""Locks: which request holds which, and which waits. Pure state: no I/O, no clock, no asyncio.

A key has *places*: one for a lock, n for a semaphore. A *request* wants a place of each of some keys, all or none. Once
it is *granted* it may take them, and when it *holds* them it has them, until it is released. (Between granted and held,
a Job takes the locks from the other Jobs of its program.) A request that is made within the scope of another one has
that one as its *parent*: the parent is released last.

Guarantees, which tests check over random histories:
- A key is held by as many requests at a time as it has places, and a request that waits holds nothing.
- First come, first served: a request is granted only if that leaves a place for each earlier one that waits for one of
  the same keys. Exception: a nested request may overtake an earlier request that waits, directly or not, for a lock
  held by the nested request's parents. In the order of arrival that would be a deadlock.
- A request that would wait for ever is refused, with who waits for whom. For a lock that is a cycle. Who waits for a
  semaphore gets on when any one of its holders releases, so there all holders have to wait for each other.
  Who gets on is found as for resources of which there are several: let all who can end do so, and see who is left.
- A semaphore has one number of places as long as anybody holds or wants it.
- When an owner ends, its requests end with it.

(Rejected: to exclude cycles by an order of keys. The program would have to keep it, across functions that know nothing
of each other.)
"""

from __future__ import annotations

import enum
import itertools
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

from hyperflow.errors import Deadlock
from hyperflow.locking import keys as names
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
        return ", ".join(map(names.shown, self.keys))


class Locks:
    """The locks of one Job."""

    def __init__(self) -> None:
        self.at_once = True
        """Whether a granted request holds its keys at once, because no other Job may have them."""
        self.requests: dict[LockRequestNumber, LockRequest] = {}
        """All that hold or wait, by number."""
        self._held: dict[str, dict[LockRequestNumber, LockRequest]] = {}
        self._granted: dict[str, dict[LockRequestNumber, LockRequest]] = {}
        self._wanted: dict[str, dict[LockRequestNumber, LockRequest]] = {}  # that wait for a key, by arrival
        self._within: dict[LockRequestNumber, LockRequest] = {}  # those that wait, and have parents
        self._owned: dict[Hashable, dict[LockRequestNumber, LockRequest]] = {}
        self._users: Counter[str] = Counter()  # requests for each key of a semaphore
        self._places: dict[str, int] = {}  # of each semaphore in use, by its name
        self._next = 1

    def request(
        self, keys: Collection[str], name: str, owner: Hashable, parent: LockRequestNumber | None = None
    ) -> LockRequest:
        """Want some keys. `settle` tells whether they are granted at once.

        Raises:
            Deadlock: It would wait for ever. Then it leaves nothing behind.
            ConfigurationError: A semaphore of this name is in use with another count. The same.
        """
        above = self.requests.get(parent) if parent is not None else None
        parents = (above, *above.parents) if above is not None else ()
        request = LockRequest(LockRequestNumber(self._next), tuple(sorted(set(keys))), name, owner, parents)
        names.check_counts(request.keys, self._places)
        if parents and (cycle := self._cycle(request)):
            raise Deadlock(f"{request.name} wants {request.shown}", cycle)
        self._next += 1
        self.requests[request.number] = request
        self._owned.setdefault(owner, {})[request.number] = request
        if parents:
            self._within[request.number] = request
        for key in request.keys:
            self._wanted.setdefault(key, {})[request.number] = request
            self._use(key, 1)
        return request

    def _use(self, key: str, change: int) -> None:
        name, places = names.split(key)
        if name == key:
            return
        self._users[key] += change
        if self._users[key]:
            self._places[name] = places
        else:
            del self._users[key], self._places[name]

    def settle(self, keys: Iterable[str]) -> list[LockRequest]:
        """Grant what these keys, just wanted or released, allow; return it. With `at_once`, it is held."""
        candidates = dict(self._within)
        for key in keys:
            if key in self._wanted:
                candidates.update(itertools.islice(self._wanted[key].items(), names.split(key)[1]))
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
            holders = self._held.setdefault(key, {})
            assert len(holders) < names.split(key)[1], key
            _remove(self._granted, key, number)
            holders[number] = request

    def release(self, number: LockRequestNumber) -> tuple[str, ...]:
        """Forget a request, whatever its stage; return its keys, which others may want."""
        request = self.requests.pop(number, None)
        if request is None:
            return ()
        self._within.pop(number, None)
        _remove(self._owned, request.owner, number)
        tables = {Stage.WAITING: self._wanted, Stage.GRANTED: self._granted, Stage.HELD: self._held}
        for key in request.keys:
            _remove(tables[request.stage], key, number)
            self._use(key, -1)
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
        passed: set[LockRequestNumber] | None = None  # whom it may overtake
        for key in request.keys:
            places = names.split(key)[1]
            ahead = len(self._held.get(key, ()))
            if ahead >= places:
                return False
            # Another request is taking the key from outside just now. The Job that has it may wait for our parents, so
            # only requests without parents wait for that; outside, one of the two gets it.
            if not request.parents:
                ahead += len(self._granted.get(key, ()))
            for number in self._wanted.get(key, {}):
                if ahead >= places or number == request.number:
                    break
                if passed is None:
                    passed = self._passed_by(request)
                ahead += number not in passed
            if ahead >= places:
                return False
        return True

    def _passed_by(self, request: LockRequest) -> set[LockRequestNumber]:
        """Return whom a request may overtake. Mostly nobody waits for its parents, and there is nothing to look for."""
        return self.stuck(request.parents, suspect=True) if self._is_awaited(request.parents) else set()

    def _is_awaited(self, parents: Collection[LockRequest]) -> bool:
        awaited = self._granted or any(key in self._wanted for one in parents for key in one.keys)
        return bool(parents and awaited)

    def stuck(self, others: Collection[LockRequest], suspect: bool = False) -> set[LockRequestNumber]:
        """Return the requests that have to wait, directly or not, until one of the others is released, and those.

        The rules do not know what a request waits for in other Jobs while it takes keys from them; with `suspect`,
        assume the worst.
        """
        found = self._behind(others, suspect)
        return found | self._left_waiting(found) if self._places else found

    def _behind(self, others: Collection[LockRequest], suspect: bool) -> set[LockRequestNumber]:
        """Return those of whom that can be said by going from one to the next; with locks alone, that is all."""
        found = {one.number for one in others}
        if suspect:
            found |= {number for granted in self._granted.values() for number in granted}
        before = 0
        while len(found) > before:
            before = len(found)
            found |= self._never_free(found, self._nested())
            self._queue_behind(found)
        return found

    def _left_waiting(self, bound: set[LockRequestNumber]) -> set[LockRequestNumber]:
        """Return who is left when all end that can, in the order of waiting, while the bound ones stay as they are."""
        nested = self._nested()
        passes = {one.number: self._behind(one.parents, True) for one in nested if self._is_awaited(one.parents)}
        within: dict[LockRequestNumber, list[LockRequestNumber]] = {}
        for one in nested:
            for parent in one.parents:
                within.setdefault(parent.number, []).append(one.number)
        left = set(self.requests)
        before = len(left) + 1
        while len(left) < before:
            before = len(left)
            for number in [*left]:
                holds = self.requests[number].stage is Stage.HELD
                if holds and number not in bound and left.isdisjoint(within.get(number, ())):
                    left.discard(number)
            held = {key: sum(number in left for number in holders) for key, holders in self._held.items()}
            queues: dict[str, list[LockRequestNumber]] = {}
            for number, one in self.requests.items():  # the oldest first
                if one.stage is Stage.HELD or number not in left:
                    continue
                if number not in bound and not self._is_behind(one, held, queues, passes.get(number, set())):
                    left.discard(number)
                elif one.stage is Stage.WAITING:
                    for key in one.keys:
                        queues.setdefault(key, []).append(number)
        return left

    def _is_behind(
        self,
        request: LockRequest,
        held: Mapping[str, int],
        queues: Mapping[str, Sequence[LockRequestNumber]],
        passed: Collection[LockRequestNumber],
    ) -> bool:
        """Whether some key has no place for a request, beside those that are held and those for who waits longer."""
        for key in request.keys:
            taken = held.get(key, 0)
            if request.stage is Stage.WAITING:
                taken += sum(number not in passed for number in queues.get(key, ()))
            if taken >= names.split(key)[1]:
                return True
        return False

    def _nested(self, new: LockRequest | None = None) -> list[LockRequest]:
        """Return the requests within others that do not hold their keys yet."""
        granted = {number: one for requests in self._granted.values() for number, one in requests.items()}
        nested = [*self._within.values(), *(one for one in granted.values() if one.parents)]
        return nested if new is None else [*nested, new]

    def _never_free(
        self, bound: Collection[LockRequestNumber], nested: Collection[LockRequest]
    ) -> set[LockRequestNumber]:
        """Return who is left when all holders end that can, and all within them who get what they wait for.

        Those that are bound do not end. The order of waiting does not count: a nested request passes those who wait
        for its parents.
        """
        waits: dict[LockRequestNumber, set[LockRequestNumber]] = {}  # within each holder, who is not free yet
        for one in nested:
            for parent in one.parents:
                waits.setdefault(parent.number, set()).add(one.number)
        left = {one.number for one in nested}
        free = {
            number
            for holders in self._held.values()
            for number in holders
            if number not in waits and number not in bound
        }
        grown = True
        while grown:
            going = [
                one
                for one in nested
                if one.number in left and one.number not in bound and self._blocked(one, free) is None
            ]
            grown = bool(going)
            for one in going:
                left.discard(one.number)
                for parent in one.parents:
                    waits[parent.number].discard(one.number)
                    if not waits[parent.number] and parent.number not in bound:
                        free.add(parent.number)
        held = {number for holders in self._held.values() for number in holders}
        return left | (held - free)

    def _blocked(self, request: LockRequest, free: Collection[LockRequestNumber]) -> str | None:
        """Return a key of which all places are with holders that are not free."""
        for key in request.keys:
            if sum(one not in free for one in self._held.get(key, ())) >= names.split(key)[1]:
                return key
        return None

    def _queue_behind(self, found: set[LockRequestNumber]) -> None:
        """Add those who wait for what the found ones hold, or stand behind them."""
        ahead: Counter[str] = Counter()
        for key, holders in self._held.items():
            ahead[key] = sum(number in found for number in holders)
        taking = {number: one for requests in self._granted.values() for number, one in requests.items()}
        for number, one in taking.items():  # outside, a request with parents may have got the key before it
            if any(ahead[key] >= names.split(key)[1] for key in one.keys):
                found.add(number)
        for number, one in taking.items():
            if number in found:
                ahead.update(one.keys)
        waiting = {number: one for requests in self._wanted.values() for number, one in requests.items()}
        for number, one in sorted(waiting.items()):
            if number in found or any(ahead[key] >= names.split(key)[1] for key in one.keys):
                found.add(number)
                ahead.update(one.keys)

    def _cycle(self, request: LockRequest) -> list[str]:
        """Return who would wait for whom for ever if this one waited, a line for each; nothing if it gets on."""
        nested = self._nested(request)
        stuck = self._never_free((), nested)
        if request.number not in stuck:
            return []
        free = self.requests.keys() - stuck
        lines: list[str] = []
        seen, todo = {request.number}, deque([request])
        while todo:
            key = self._blocked(todo.popleft(), free)
            for holder in self._held[key].values() if key is not None else ():
                if holder in request.parents:
                    lines.append(f"{holder.name} holds {names.shown(key or '')}")
                    continue
                waiting = next(one for one in nested if holder in one.parents and one.number in stuck)
                held = names.shown(key or "")
                lines.append(f"{holder.name} holds {held}, and {waiting.name}, within, waits for {waiting.shown}")
                if waiting.number not in seen:
                    seen.add(waiting.number)
                    todo.append(waiting)
        return list(dict.fromkeys(lines))


def _remove(table: dict[Any, dict[LockRequestNumber, LockRequest]], key: Hashable, number: LockRequestNumber) -> None:
    """Remove a request from a table of tables that are never empty."""
    requests = table[key]
    del requests[number]
    if not requests:
        del table[key]
