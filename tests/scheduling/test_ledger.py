"""The account of CPUs: each id is given out once, and nothing is lost or invented."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hyperflow.scheduling.ledger import Ledger


class Accounts(RuleBasedStateMachine):
    """A pool beside the plainest account of it: the set of ids that were given out, for each node."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Ledger()
        self.ids: dict[str, set[int]] = {}
        self.given: dict[str, set[int]] = {}
        self.aside: set[str] = set()
        self.names = 0

    def free(self, name: str) -> set[int]:
        return self.ids[name] - self.given[name]

    @rule(ids=st.sets(st.integers(0, 100), min_size=1, max_size=6))
    def add(self, ids: set[int]) -> None:
        self.names += 1
        name = f"n{self.names}"
        self.ids[name], self.given[name] = ids, set()
        self.pool.add(name, ids)

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.ids)))
        given = self.given.pop(name)
        del self.ids[name]
        self.aside.discard(name)
        self.pool.remove(name)
        self.pool.give_back(name, given)  # what its workers held is forgotten

    @precondition(lambda self: self.ids)
    @rule(cpus=st.integers(1, 6), data=st.data())
    def take(self, cpus: int, data: st.DataObject) -> None:
        without = data.draw(st.sets(st.sampled_from(sorted(self.ids)), max_size=2))
        name = self.pool.roomiest(cpus, without)
        frees = [len(self.free(other)) for other in self.ids.keys() - self.aside - without]
        assert (name is not None) == (max(frees, default=0) >= cpus)
        if name is not None:
            assert len(self.free(name)) == max(frees)
            ids = self.pool.choose(name, cpus)
            assert list(ids) == sorted(self.free(name))[:cpus]
            assert self.pool.are_free(name, ids)
            self.pool.take(name, ids)
            self.given[name].update(ids)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), back=st.booleans())
    def put_aside(self, data: st.DataObject, back: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.ids)))
        if back:
            self.pool.take_back(name)
            self.aside.discard(name)
        else:
            self.pool.put_aside(name)
            self.aside.add(name)

    @precondition(lambda self: any(self.given.values()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, given in self.given.items() if given)))
        ids = data.draw(st.sets(st.sampled_from(sorted(self.given[name])), min_size=1))
        self.pool.give_back(name, ids)
        self.given[name] -= ids

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def mistakes_are_refused(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.ids)))
        with pytest.raises(ValueError, match="is in the ledger already"):
            self.pool.add(name, [1])
        with pytest.raises(ValueError, match="were not given out"):
            self.pool.give_back(name, [200])
        if self.free(name):
            with pytest.raises(ValueError, match="were not given out"):
                self.pool.give_back(name, [min(self.free(name))])
        if self.given[name]:
            with pytest.raises(ValueError, match="are not free"):
                self.pool.take(name, [min(self.given[name])])

    @invariant()
    def accounts_agree(self) -> None:
        assert {name: node.free for name, node in self.pool.nodes.items()} == {n: self.free(n) for n in self.ids}
        in_use = self.ids.keys() - self.aside
        assert self.pool.total == sum(len(self.ids[name]) for name in in_use)
        assert self.pool.free == sum(len(self.free(name)) for name in in_use)
        assert set(self.pool.in_use(2)) == {name for name in in_use if len(self.ids[name]) >= 2}
        assert self.pool.largest == max(map(len, self.ids.values()), default=0)

    @invariant()
    def the_most_promising_is_large_enough(self) -> None:
        for cpus in range(1, 8):
            without = {"n1"}
            large = {n: len(self.free(n)) for n in self.ids.keys() - self.aside - without if len(self.ids[n]) >= cpus}
            name = self.pool.most_promising(cpus, without)
            assert (name is None) == (not large)
            if name is not None:
                assert large[name] == max(large.values())


TestAccounts = Accounts.TestCase


def test_neighbours_are_given_out_together() -> None:
    """The lowest free ids go first, in order, whatever was given out before."""
    pool = Ledger()
    pool.add("a", [7, 4, 5, 6])
    pool.take("a", [5])

    assert pool.choose("a", 2) == (4, 6)


def test_what_may_come_is_not_impossible() -> None:
    """A node that is expected counts as the largest until it is there, or does not come."""
    pool = Ledger()
    pool.add("a", [1, 2])
    pool.expect("b", 8)
    pool.expect("c", 6)
    assert pool.largest == 8
    pool.expect_no_more("b")
    assert pool.largest == 6
    pool.add("c", [1, 2, 3])
    assert pool.largest == 3
    pool.expect_no_more("d")
    assert pool.largest == 3
