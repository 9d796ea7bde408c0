"""The rules of locks, without processes: one holder at a time, all or none, in order, no circle that waits for ever."""

import contextlib
import random

import pytest

from hyperflow.locking.rules import Ask, Circle, Locks, Stage


class Table:
    """Locks, with what a history needs to know of them."""

    def __init__(self, at_once: bool = True) -> None:
        self.locks = Locks()
        self.locks.at_once = at_once

    def ask(self, keys: str, parent: Ask | None = None, owner: object = None) -> Ask:
        """Want some keys, one for each letter."""
        ask = self.locks.ask(list(keys), keys, owner, parent.number if parent else None)
        self.settle(ask.keys)
        return ask

    def release(self, ask: Ask) -> None:
        """Let go."""
        self.settle(self.locks.release(ask.number))

    def settle(self, keys: tuple[str, ...]) -> None:
        """Let those whose turn it is take what they want."""
        expected = Stage.HELD if self.locks.at_once else Stage.TURN
        assert all(ask.stage is expected for ask in self.locks.settle(keys))


def held(*asks: Ask) -> list[bool]:
    """Tell which of them hold what they want."""
    return [ask.stage is Stage.HELD for ask in asks]


def test_one_at_a_time_in_order() -> None:
    """A key has one holder; those who wait get it in the order in which they came."""
    table = Table()
    first, second, third = (table.ask("a") for _ in range(3))

    assert held(first, second, third) == [True, False, False]
    table.release(first)
    assert held(second, third) == [True, False]
    table.release(second)
    assert held(third) == [True]


def test_all_or_none() -> None:
    """Who wants two keys takes none while one is held, and those who come later do not pass."""
    table = Table()
    a, ab, b = table.ask("a"), table.ask("ab"), table.ask("b")
    other = table.ask("c")

    assert held(a, ab, b, other) == [True, False, False, True]
    table.release(a)
    assert held(ab, b) == [True, False]
    table.release(ab)
    assert held(b) == [True]


def test_who_gives_up_lets_others_on() -> None:
    """One that waits and leaves no longer keeps those behind it."""
    table = Table()
    table.ask("a")
    ab, b = table.ask("ab"), table.ask("b")
    table.release(ab)

    assert held(b) == [True]


def test_owner_goes() -> None:
    """All asks of an owner are known, held or not."""
    table = Table()
    mine = [table.ask("a", owner=1), table.ask("b", owner=1)]
    table.ask("c", owner=2)
    mine.append(table.ask("c", owner=1))

    assert table.locks.owned(1) == mine
    for ask in mine:
        table.release(ask)
    assert table.locks.owned(1) == []
    assert len(table.locks.asks) == 1


def test_within_passes_who_waits_for_it() -> None:
    """An ask within another one passes an earlier one that waits for that one: in order, both would wait for ever."""
    table = Table()
    a = table.ask("a")
    ab = table.ask("ab")
    behind = table.ask("b")
    within = table.ask("b", parent=a)

    assert held(ab, behind, within) == [False, False, True]


def test_within_waits_for_who_does_not_wait_for_it() -> None:
    """Otherwise an ask within another one stands in the queue as all."""
    table = Table()
    a, b = table.ask("a"), table.ask("b")
    bc = table.ask("bc")
    within = table.ask("c", parent=a)

    assert held(bc, within) == [False, False]
    table.release(b)
    assert held(bc, within) == [True, False]
    table.release(bc)
    assert held(within) == [True]


def test_within_passes_who_comes_to_wait_for_it() -> None:
    """The same if that one comes to wait for it only later, and through others."""
    table = Table()
    a, z = table.ask("a"), table.ask("z")
    bz = table.ask("bz")
    within = table.ask("b", parent=a)
    assert held(bz, within) == [False, False]
    child = table.ask("a", parent=z)

    assert held(child, within) == [False, True]


def test_circle_is_refused_and_told() -> None:
    """The ask that would close a circle is refused, with all in it; the others go on as if it had not been."""
    table = Table()
    a, b, c = table.ask("a"), table.ask("b"), table.ask("c")
    table.ask("b", parent=a)
    waiting = table.ask("c", parent=b)
    with pytest.raises(Circle) as caught:
        table.ask("a", parent=c)

    assert caught.value.wanted == "a wants a"
    assert caught.value.circle == [
        "a holds a, and b, within, waits for b",
        "b holds b, and c, within, waits for c",
        "c holds c",
    ]
    table.release(c)
    assert held(waiting) == [True]


def test_own_lock_once_more() -> None:
    """Who wants what its own scope holds is refused, however far out that is."""
    table = Table()
    inner = table.ask("c", parent=table.ask("b", parent=table.ask("a")))
    with pytest.raises(Circle, match="wants a"):
        table.ask("a", parent=inner)


def test_turn_is_not_yet_hold() -> None:
    """While one is taking its keys from outside, others wait; but not those within another one."""
    table = Table(at_once=False)
    a = table.ask("a")
    table.locks.hold(a.number)
    taking = table.ask("b")
    waiting, within = table.ask("b"), table.ask("b", parent=a)

    assert [ask.stage for ask in (taking, waiting, within)] == [Stage.TURN, Stage.WAITING, Stage.TURN]
    table.locks.hold(within.number)
    table.release(within)
    table.locks.hold(taking.number)
    assert held(taking) == [True]


class Activity:
    """Somebody who takes locks within locks, and lets them go in reverse order."""

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.stack: list[Ask] = []
        self.left = 4

    @property
    def waits(self) -> bool:
        """Whether the innermost ask waits."""
        return bool(self.stack) and self.stack[-1].stage is not Stage.HELD


def live(seed: int) -> None:
    """Go through a random history, and check it."""
    chance = random.Random(seed)
    table = Table(at_once=chance.random() < 0.5)
    letters = "abcdefg"[: chance.randint(2, 7)]
    activities = [Activity(number) for number in range(chance.randint(2, 9))]
    while any(one.stack or one.left for one in activities):
        asks = list(table.locks.asks.values())
        holders = [key for ask in asks if ask.stage is Stage.HELD for key in ask.keys]
        assert len(holders) == len(set(holders))
        turns = [ask for ask in asks if ask.stage is Stage.TURN and set(ask.keys).isdisjoint(holders)]
        if turns and chance.random() < 0.3:
            table.locks.hold(chance.choice(turns).number)
            continue
        waiting = [one for one in activities if one.waits]
        able = [one for one in activities if not one.waits and (one.stack or one.left)]
        assert able or turns, f"seed {seed}: all wait for each other"
        if not able:
            continue
        one = chance.choice(able)
        if waiting and chance.random() < 0.05:  # somebody dies
            one = chance.choice(waiting)
            for ask in reversed(table.locks.owned(one.owner)):
                table.release(ask)
            one.stack, one.left = [], 0
        elif one.left and (not one.stack or chance.random() < 0.5):
            one.left -= 1
            keys = "".join(chance.sample(letters, chance.randint(1, min(3, len(letters)))))
            with contextlib.suppress(Circle):
                one.stack.append(table.ask(keys, one.stack[-1] if one.stack else None, one.owner))
        else:
            table.release(one.stack.pop())
    left = {name: value for name, value in vars(table.locks).items() if isinstance(value, dict) and value}
    assert not left, f"seed {seed}"


def test_random_histories() -> None:
    """Whatever is asked, nested, released and abandoned: one holder for each key, and all come to their end."""
    for seed in range(1500):
        live(seed)
