"""Which nodes are put aside, by pure rules: failures that others did not have, and never the last node of a size."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hyperflow.scheduling.ledger import Ledger
from hyperflow.scheduling.trust import ACCUSATIONS, BY_HAND, Trust


def trust(*sizes: int) -> Trust:
    """Return the account of nodes a, b, c... of so many CPUs."""
    pool = Ledger()
    for name, size in zip("abcdef", sizes, strict=False):
        pool.add(name, range(size))
    return Trust(pool)


def test_a_node_that_others_do_better_than() -> None:
    """One accusation is chance, two are not."""
    it = trust(1, 1)
    assert it.recovered("b", {"a"}) == []
    assert it.recovered("b", {"a"}) == ["a"]
    assert it.aside == {"a": "2 evaluations failed there and then succeeded on other nodes"}
    assert it.recovered("b", {"a"}) == []


def test_what_succeeds_there_counts_for_it() -> None:
    """A function that fails now and then accuses nodes on which more succeeds: they stay."""
    it = trust(1, 1)
    it.succeeded("a", 100)  # before it was accused, nobody counts
    for _ in range(20):
        assert it.recovered("b", {"a"}) == []
        it.succeeded("a", 2)


def test_success_where_it_failed_before() -> None:
    """An evaluation that succeeds on the node on which it had failed accuses none."""
    it = trust(1, 1)
    for _ in range(5):
        assert it.recovered("a", {"a"}) == []
    assert not it.accused


def test_the_last_of_its_size_stays() -> None:
    """A larger node is not put aside for a smaller one's sake; a smaller one for a larger one's is."""
    it = trust(4, 1)
    for _ in range(5):
        assert it.recovered("b", {"a"}) == []
    it = trust(1, 4)
    it.recovered("b", {"a"})
    assert it.recovered("b", {"a"}) == ["a"]


def test_needed_again() -> None:
    """When the others are lost or drained, what was put aside by these rules comes back; what a person did stays."""
    it = trust(2, 2, 2)
    for _ in range(ACCUSATIONS):
        it.recovered("c", {"a"})
    assert it.drain("b") == []
    it._pool.remove("c")
    assert it.lost("c") == ["a"]
    assert it.aside == {"b": BY_HAND}
    assert it.drain("a") == []
    it.resumed("a")
    assert it.aside == {"b": BY_HAND}


class Histories(RuleBasedStateMachine):
    """Nodes come and go, and evaluations fail and succeed on them."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Ledger()
        self.trust = Trust(self.pool)
        self.names = 0

    @rule(cpus=st.integers(1, 4))
    def add(self, cpus: int) -> None:
        self.names += 1
        self.pool.add(f"n{self.names}", range(cpus))

    @precondition(lambda self: self.pool.nodes)
    @rule(data=st.data())
    def happens(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.pool.nodes)))
        match data.draw(st.sampled_from(["recovered", "recovered", "succeeded", "lost", "drained", "resumed"])):
            case "recovered":
                gone = self.trust.recovered(node, data.draw(st.sets(st.sampled_from([*self.pool.nodes, "gone"]))))
                assert node not in gone
            case "succeeded":
                self.trust.succeeded(node, 2)
            case "lost":
                self.pool.remove(node)
                self.trust.lost(node)
            case "drained":
                self.trust.drain(node)
            case _:
                self.trust.resumed(node)

    @invariant()
    def no_node_is_missed(self) -> None:
        assert self.trust.aside.keys() | self.trust.accused.keys() <= self.pool.nodes.keys()
        in_use = [len(node.ids) for name, node in self.pool.nodes.items() if name not in self.trust.aside]
        for name, why in self.trust.aside.items():
            assert why == BY_HAND or len(self.pool.nodes[name].ids) <= max(in_use, default=0)


TestHistories = Histories.TestCase
