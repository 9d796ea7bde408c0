"""The rules of locks, one by one: one holder at a time, all or none, in order, no cycle that waits for ever.

(`tests/model/locks.py` plays random histories.)
"""

import pickle

import pytest

from hyperflow.errors import Deadlock
from hyperflow.locking.rules import LockRequest, Locks, Stage


class Table:
    """Locks, with what a history needs to know of them."""

    def __init__(self, at_once: bool = True) -> None:
        self.locks = Locks()
        self.locks.at_once = at_once

    def request(self, keys: str, parent: LockRequest | None = None, owner: object = None) -> LockRequest:
        """Want some keys, one for each letter."""
        request = self.locks.request(list(keys), keys, owner, parent.number if parent else None)
        self.settle(request.keys)
        return request

    def release(self, request: LockRequest) -> None:
        """Let go."""
        self.settle(self.locks.release(request.number))

    def settle(self, keys: tuple[str, ...]) -> None:
        """Let those whose turn it is take what they want."""
        expected = Stage.HELD if self.locks.at_once else Stage.GRANTED
        assert all(request.stage is expected for request in self.locks.settle(keys))


def held(*requests: LockRequest) -> list[bool]:
    """Tell which of them hold what they want."""
    return [request.stage is Stage.HELD for request in requests]


def test_one_at_a_time_in_order() -> None:
    """A key has one holder; those who wait get it in the order in which they came."""
    table = Table()
    first, second, third = (table.request("a") for _ in range(3))

    assert held(first, second, third) == [True, False, False]
    table.release(first)
    assert held(second, third) == [True, False]
    table.release(second)
    assert held(third) == [True]


def test_all_or_none() -> None:
    """Who wants two keys takes none while one is held, and those who come later do not pass."""
    table = Table()
    a, ab, b = table.request("a"), table.request("ab"), table.request("b")
    other = table.request("c")

    assert held(a, ab, b, other) == [True, False, False, True]
    table.release(a)
    assert held(ab, b) == [True, False]
    table.release(ab)
    assert held(b) == [True]


def test_who_gives_up_lets_others_on() -> None:
    """One that waits and leaves no longer keeps those behind it."""
    table = Table()
    table.request("a")
    ab, b = table.request("ab"), table.request("b")
    table.release(ab)

    assert held(b) == [True]


def test_owner_goes() -> None:
    """All requests of an owner are known, held or not."""
    table = Table()
    mine = [table.request("a", owner=1), table.request("b", owner=1)]
    table.request("c", owner=2)
    mine.append(table.request("c", owner=1))

    assert table.locks.owned(1) == mine
    for request in mine:
        table.release(request)
    assert table.locks.owned(1) == []
    assert len(table.locks.requests) == 1


def test_within_passes_who_waits_for_it() -> None:
    """A request within another one passes an earlier one that waits for it: in order, both would deadlock."""
    table = Table()
    a = table.request("a")
    ab = table.request("ab")
    behind = table.request("b")
    within = table.request("b", parent=a)

    assert held(ab, behind, within) == [False, False, True]


def test_within_waits_for_who_does_not_wait_for_it() -> None:
    """Otherwise a request within another one stands in the queue as all."""
    table = Table()
    a, b = table.request("a"), table.request("b")
    bc = table.request("bc")
    within = table.request("c", parent=a)

    assert held(bc, within) == [False, False]
    table.release(b)
    assert held(bc, within) == [True, False]
    table.release(bc)
    assert held(within) == [True]


def test_within_passes_who_comes_to_wait_for_it() -> None:
    """The same if that one comes to wait for it only later, and through others."""
    table = Table()
    a, z = table.request("a"), table.request("z")
    bz = table.request("bz")
    within = table.request("b", parent=a)
    assert held(bz, within) == [False, False]
    child = table.request("a", parent=z)

    assert held(child, within) == [False, True]


def test_circle_is_refused_and_told() -> None:
    """The request that would close a cycle is refused, with all in it; the others go on as if it had not been."""
    table = Table()
    a, b, c = table.request("a"), table.request("b"), table.request("c")
    table.request("b", parent=a)
    waiting = table.request("c", parent=b)
    with pytest.raises(Deadlock) as caught:
        table.request("a", parent=c)

    assert caught.value.wanted == "a wants a"
    assert caught.value.circle == [
        "a holds a, and b, within, waits for b",
        "b holds b, and c, within, waits for c",
        "c holds c",
    ]
    table.release(c)
    assert held(waiting) == [True]


def test_two_ways_to_one_are_no_circle() -> None:
    """Who waits for two that both wait for a third one closes no cycle."""
    table = Table()
    a, c, z = table.request("a"), table.request("c"), table.request("z")
    b = table.request("b", parent=a)
    waiting = table.request("c", parent=b)
    both = table.request("ab", parent=z)

    assert held(waiting, both) == [False, False]
    for request in (c, waiting, b, a):
        table.release(request)
    assert held(both) == [True]


def test_own_lock_once_more() -> None:
    """Who wants what its own scope holds is refused, however far out that is."""
    table = Table()
    inner = table.request("c", parent=table.request("b", parent=table.request("a")))
    with pytest.raises(Deadlock, match="wants a"):
        table.request("a", parent=inner)


def test_turn_is_not_yet_hold() -> None:
    """While one is taking its keys from outside, others wait; but not those within another one."""
    table = Table(at_once=False)
    a = table.request("a")
    table.locks.hold(a.number)
    taking = table.request("b")
    waiting, within = table.request("b"), table.request("b", parent=a)

    assert [request.stage for request in (taking, waiting, within)] == [Stage.GRANTED, Stage.WAITING, Stage.GRANTED]
    table.locks.hold(within.number)
    table.release(within)
    table.locks.hold(taking.number)
    assert held(taking) == [True]


def test_alone_there_is_nobody_to_ask() -> None:
    """Locks that are shared with nobody are held when their turn comes; what nobody asked for is released in vain."""
    locks = Locks()
    request = locks.request(["a"], "one", 1)

    assert locks.settle(["a"]) == [request]
    assert request.stage is Stage.HELD
    assert locks.release(99) == ()
    assert locks.release(request.number) == ("a",)


def test_what_is_just_taken_may_depend_on_anybody() -> None:
    """Nobody knows what one waits for that is just taking its keys: it counts as dependent for those who suspect it."""
    table = Table(at_once=False)
    turn, behind, other = table.request("a"), table.request("a"), table.request("b")

    assert turn.stage is Stage.GRANTED
    assert table.locks.depends(behind, [turn])
    assert not table.locks.depends(behind, [other])
    assert table.locks.depends(behind, [other], suspect=True)


def test_released_at_any_stage() -> None:
    """One whose turn has come leaves as well as one that holds or waits, and the next one's turn comes."""
    table = Table(at_once=False)
    turn, behind = table.request("ab"), table.request("b")
    table.release(turn)

    assert behind.stage is Stage.GRANTED
    table.locks.hold(behind.number)
    table.release(behind)
    assert not table.locks.requests


def test_cycle_survives_pickle() -> None:
    """It comes from the head's process to a worker's."""
    again = pickle.loads(pickle.dumps(Deadlock("a wants b", ["b holds c"])))

    assert (again.wanted, again.circle) == ("a wants b", ["b holds c"])
