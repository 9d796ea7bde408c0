"""The rules of locks, one by one: one holder at a time, all or none, in order, no cycle that waits for ever.

(`tests/model/locks.py` plays random histories.)
"""

import pickle

import pytest

from hyperflow.errors import ConfigurationError, Deadlock
from hyperflow.locking.keys import of_semaphore
from hyperflow.locking.rules import LockRequest, Locks, Stage


class Table:
    """Locks, with what a history needs to know of them."""

    def __init__(self, at_once: bool = True) -> None:
        self.locks = Locks()
        self.locks.at_once = at_once

    def request(
        self, keys: str | list[str], parent: LockRequest | None = None, owner: object = None, name: str = ""
    ) -> LockRequest:
        """Want some keys, one for each letter."""
        request = self.locks.request(list(keys), name or str(keys), owner, parent.number if parent else None)
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
    assert behind.number in table.locks.stuck([turn])
    assert behind.number not in table.locks.stuck([other])
    assert behind.number in table.locks.stuck([other], suspect=True)


def test_released_at_any_stage() -> None:
    """One whose turn has come leaves as well as one that holds or waits, and the next one's turn comes."""
    table = Table(at_once=False)
    turn, behind = table.request("ab"), table.request("b")
    table.release(turn)

    assert behind.stage is Stage.GRANTED
    table.locks.hold(behind.number)
    table.release(behind)
    assert not table.locks.requests


TWO = [of_semaphore('"s"', 2)]


def test_semaphore_has_places() -> None:
    """As many hold it as it has places, the next ones wait in order, and each that leaves lets one on."""
    table = Table()
    one, two, three, four = (table.request(TWO) for _ in range(4))

    assert held(one, two, three, four) == [True, True, False, False]
    table.release(two)
    assert held(three, four) == [True, False]
    table.release(one)
    table.release(three)
    table.release(four)
    assert not any(vars(table.locks)[name] for name in ("requests", "_held", "_wanted", "_users", "_places"))


def test_a_place_is_left_for_who_came_before() -> None:
    """One that waits for a lock, too, has its place kept; what is free beside that is given to later ones."""
    table = Table()
    lock, both = table.request("a"), table.request(["a", *TWO])
    second, third = table.request(TWO), table.request(TWO)

    assert held(both, second, third) == [False, True, False]
    table.release(lock)
    assert held(both, third) == [True, False]
    table.release(second)
    assert held(third) == [True]


def test_two_counts_for_one_semaphore() -> None:
    """They are refused while one of them is in use, with both; afterwards the count may be another one."""
    table = Table()
    one, two = table.request(TWO), table.request(TWO)
    three = [of_semaphore('"s"', 3)]

    with pytest.raises(ConfigurationError, match=r'Semaphore\("s", 3\): Semaphore\("s", 2\) is in use'):
        table.request(three)
    table.release(one)
    with pytest.raises(ConfigurationError, match="one count"):
        table.request(three)
    table.release(two)
    assert held(*(table.request(three) for _ in range(4))) == [True, True, True, False]


def test_a_semaphore_is_deadlocked_if_all_its_holders_are() -> None:
    """One holder that wants a place more may wait for the other one; when that wants one, too, nobody gets on."""
    table = Table()
    one, two = table.request(TWO, name="one"), table.request(TWO, name="two")
    within = table.request(TWO, one, name="more of one")

    assert held(within) == [False]
    with pytest.raises(Deadlock) as refused:
        table.request(TWO, two, name="more of two")
    assert refused.value.circle == [
        'one holds Semaphore("s", 2), and more of one, within, waits for Semaphore("s", 2)',
        'two holds Semaphore("s", 2)',
    ]
    table.release(two)
    assert held(within) == [True]


def test_a_free_holder_is_enough() -> None:
    """Two wait for each other by a lock and a semaphore; a third who holds a place lets them on."""
    table = Table()
    one, lock, free = table.request(TWO), table.request("a"), table.request(TWO)
    wants_lock = table.request("a", one)
    wants_place = table.request(TWO, lock)

    assert held(wants_lock, wants_place) == [False, False]
    table.release(free)
    assert held(wants_place) == [True]


def test_within_passes_who_waits_for_all_holders() -> None:
    """One waits for two who need each other's end; what the first of them wants within, it gets before that one."""
    table = Table()
    one, two = table.request(TWO), table.request(TWO)
    more_of_two = table.request(TWO, two)
    behind = table.request(["x", *TWO])
    within_one = table.request("x", one)

    assert held(more_of_two, behind, within_one) == [False, False, True]
    table.release(within_one)
    table.release(one)
    assert held(more_of_two, behind) == [True, False]


def test_places_that_are_kept_count_with_those_that_are_held() -> None:
    """One place is with a holder who wants another one, one is kept for who waits for us: one of us passes that one."""
    table = Table()
    lock = table.request("d")
    table.request(["d", *TWO])
    holder = table.request(TWO)
    more = table.request(TWO, holder)
    ours = table.request(TWO, lock)

    first, other = (more, ours) if held(more) == [True] else (ours, more)
    assert held(holder, first, other) == [True, True, False]
    table.release(first)
    assert held(other) == [True]


def test_who_waits_in_two_queues_for_each_other() -> None:
    """Two hold a place, and want what is kept for one who waits for a place: neither would end if it did not pass."""
    table = Table()
    one, two = table.request(TWO), table.request(TWO)
    behind = table.request(["c", *TWO])
    of_one, of_two = table.request("c", one), table.request("c", two)

    assert held(behind, of_one, of_two) == [False, True, False]
    table.release(of_one)
    table.release(one)
    assert held(behind, of_two) == [True, False]
    table.release(behind)
    assert held(of_two) == [True]


def test_cycle_survives_pickle() -> None:
    """It comes from the head's process to a worker's."""
    again = pickle.loads(pickle.dumps(Deadlock("a wants b", ["b holds c"])))

    assert (again.wanted, again.circle) == ("a wants b", ["b holds c"])
