"""Locks: who holds which, and who waits. Pure state: no I/O, no clock, no asyncio.

An *ask* wants some keys, all or none. When its *turn* has come it may take them, and once it `holds` them it has them
alone, until it is released. (Between turn and hold, a Job takes the locks from the other Jobs of its program.) An ask
made in the scope of another one has that one as its *parent*: that one will not be released before this one is.

Guarantees, which tests check over random histories:
- A key is held by one ask at a time, and an ask that waits holds nothing.
- First come, first served: an ask gets its turn before any later one that wants one of the same keys. The exception is
  an ask within another one, which may pass an earlier one that waits, directly or not, for what its own parents hold:
  in the order of arrival both would wait for ever.
- An ask that would close a circle of waiting is refused, with the circle. Without circles somebody always gets on.
- When an owner goes, all that it held and asked for goes with it.

Why circles are looked for, and not excluded by an order of keys: the order would be the program's to keep, across
functions that know nothing of each other.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Any


class Stage(enum.Enum):
    """How far an ask is."""

    WAITING = 1
    TURN = 2
    HELD = 3


@dataclasses.dataclass(eq=False, slots=True)
class Ask:
    """Somebody wants some keys.

    Attributes:
        number: Grows with each ask.
        keys: What is wanted.
        name: Who it is, for errors.
        owner: What it ends with.
        parents: The asks in whose scope it was made, the nearest first.
        stage: How far it is.
    """

    number: int
    keys: tuple[str, ...]
    name: str
    owner: Hashable
    parents: tuple[Ask, ...]
    stage: Stage = Stage.WAITING

    @property
    def shown(self) -> str:
        """The keys, for people."""
        return ", ".join(self.keys)


class Circle(Exception):
    """An ask that would wait for ever. Its text is for `errors.Deadlock`."""

    def __init__(self, wanted: str, circle: list[str]) -> None:
        super().__init__(wanted, circle)
        self.wanted = wanted
        self.circle = circle


class Locks:
    """The locks of one Job."""

    def __init__(self) -> None:
        self.at_once = True
        """Whether nobody else has a say, and whose turn it is holds."""
        self.asks: dict[int, Ask] = {}
        """All that hold or wait, by number."""
        self._held: dict[str, Ask] = {}
        self._turns: dict[str, dict[int, Ask]] = {}
        self._wanted: dict[str, dict[int, Ask]] = {}  # those that wait for a key, in the order of arrival
        self._within: dict[int, Ask] = {}  # those that wait, and have parents
        self._owned: dict[Hashable, dict[int, Ask]] = {}
        self._next = 1

    def ask(self, keys: Collection[str], name: str, owner: Hashable, parent: int | None = None) -> Ask:
        """Want some keys. Whether its turn has come already, `settle` says.

        Raises:
            Circle: It would wait for ever; then it is as if nobody had asked.
        """
        above = self.asks.get(parent) if parent is not None else None
        parents = (above, *above.parents) if above is not None else ()
        ask = Ask(self._next, tuple(sorted(set(keys))), name, owner, parents)
        if parents and (circle := self._circle(ask)):
            raise Circle(f"{ask.name} wants {ask.shown}", circle)
        self._next += 1
        self.asks[ask.number] = ask
        self._owned.setdefault(owner, {})[ask.number] = ask
        if parents:
            self._within[ask.number] = ask
        for key in ask.keys:
            self._wanted.setdefault(key, {})[ask.number] = ask
        return ask

    def settle(self, keys: Iterable[str]) -> list[Ask]:
        """Return those whose turn has come since these keys were asked for or released; with `at_once`, they hold."""
        candidates = dict(self._within)
        for key in keys:
            if key in self._wanted:
                number, first = next(iter(self._wanted[key].items()))
                candidates[number] = first
        found: list[Ask] = []
        for _, ask in sorted(candidates.items()):
            if self._may_go(ask):
                self._go(ask)
                if self.at_once:
                    self.hold(ask.number)
                found.append(ask)
        return found

    def hold(self, number: int) -> None:
        """An ask whose turn it is has taken its keys."""
        ask = self.asks[number]
        assert ask.stage is Stage.TURN, ask
        ask.stage = Stage.HELD
        for key in ask.keys:
            assert key not in self._held, key
            _remove(self._turns, key, number)
            self._held[key] = ask

    def release(self, number: int) -> tuple[str, ...]:
        """Forget an ask, whatever its stage; return its keys, which others may want."""
        ask = self.asks.pop(number, None)
        if ask is None:
            return ()
        self._within.pop(number, None)
        _remove(self._owned, ask.owner, number)
        for key in ask.keys:
            if ask.stage is Stage.HELD:
                del self._held[key]
            else:
                _remove(self._wanted if ask.stage is Stage.WAITING else self._turns, key, number)
        return ask.keys

    def owned(self, owner: Hashable) -> list[Ask]:
        """Return the asks of an owner."""
        return list(self._owned.get(owner, {}).values())

    def _go(self, ask: Ask) -> None:
        ask.stage = Stage.TURN
        self._within.pop(ask.number, None)
        for key in ask.keys:
            _remove(self._wanted, key, ask.number)
            self._turns.setdefault(key, {})[ask.number] = ask

    def _may_go(self, ask: Ask) -> bool:
        for key in ask.keys:
            if key in self._held:
                return False
            # What is just being taken may turn out to be taken from outside, by one that waits for our parents; so only
            # those without parents stand back for that. Outside, one of the two gets it.
            if key in self._turns and not ask.parents:
                return False
            for number, other in self._wanted.get(key, {}).items():
                if number == ask.number:
                    break
                if not ask.parents or not self.depends(other, ask.parents, suspect=True):
                    return False
        return True

    def depends(self, ask: Ask, others: Collection[Ask], suspect: bool = False) -> bool:
        """Tell whether an ask has to wait, directly or not, for one of the others to be released.

        Nobody here knows for what those wait that are just taking their keys; `suspect` assumes that it is for that.
        """
        seen: set[int] = set()
        todo = [ask]
        while todo:
            one = todo.pop()
            if one in others or (suspect and one.stage is Stage.TURN):
                return True
            if one.number in seen:
                continue
            seen.add(one.number)
            if one.stage is Stage.HELD:
                todo += self._waiting_within(one)
            elif one.stage is Stage.WAITING:
                for key in one.keys:
                    if key in self._held:
                        todo.append(self._held[key])
                    todo += self._turns.get(key, {}).values()
                    todo += [other for number, other in self._wanted.get(key, {}).items() if number < one.number]
        return False

    def _waiting_within(self, ask: Ask) -> Iterator[Ask]:
        turns = {number: one for asks in self._turns.values() for number, one in asks.items()}
        for one in (*self._within.values(), *turns.values()):
            if ask in one.parents:
                yield one

    def _circle(self, ask: Ask) -> list[str]:
        """Return, a line for each, who would wait for whom in a circle if this one waited; or nothing."""
        seen: set[int] = set()

        def follow(one: Ask) -> list[str] | None:
            if one.number in seen:
                return None
            seen.add(one.number)
            for key in one.keys:
                holder = self._held.get(key)
                if holder is None:
                    continue
                if holder in ask.parents:
                    return [f"{holder.name} holds {key}"]
                for waiting in self._waiting_within(holder):
                    if (rest := follow(waiting)) is not None:
                        return [
                            f"{holder.name} holds {key}, and {waiting.name}, within, waits for {waiting.shown}",
                            *rest,
                        ]
            return None

        return follow(ask) or []


def _remove(table: dict[Any, dict[int, Ask]], key: Hashable, number: int) -> None:
    """Remove an ask from a table of tables that are never empty."""
    asks = table[key]
    del asks[number]
    if not asks:
        del table[key]
