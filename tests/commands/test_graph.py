"""The order of tasks: random graphs."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from hyperflow.commands import graph
from hyperflow.commands.graph import Graph

edges = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=30)


def lines(pairs: list[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    """Return what comes after what."""
    after: dict[int, tuple[int, ...]] = {}
    for number, before in pairs:
        after[number] = (*after.get(number, ()), before)
    return after


def forward(pairs: list[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    """Return a graph without a circle: what comes before has the smaller number."""
    return lines([(max(pair), min(pair)) for pair in pairs if pair[0] != pair[1]])


def all_before(number: int, after: Mapping[int, tuple[int, ...]]) -> set[int]:
    """Return all that a task comes after, at any distance."""
    found, pending = set[int](), [number]
    while pending:
        new = [each for each in after.get(pending.pop(), ()) if each not in found]
        found.update(new)
        pending += new
    return found


@given(edges)
def test_circles(pairs: list[tuple[int, int]]) -> None:
    """A circle is told if there is one, and it is real."""
    after = lines(pairs)
    found = graph.circle(after)
    if any(number in all_before(number, after) for number in after):
        assert found
        for number, before in zip(found, [*found[1:], found[0]], strict=True):
            assert before in after[number]
        assert len(set(found)) == len(found)
    else:
        assert not found


@given(edges)
def test_no_circle(pairs: list[tuple[int, int]]) -> None:
    """Without a circle none is found."""
    assert graph.circle(forward(pairs)) == []


@given(edges, st.sets(st.integers(1, 12)), st.randoms())
def test_order(pairs: list[tuple[int, int]], failing: set[int], choice: object) -> None:
    """Each task begins when all before it are done; what comes after a failure is skipped, once; nothing is left."""
    after = forward(pairs)
    tested = Graph(after)
    pending = [number for number in range(1, 13) if tested.is_free(number)]
    done, skipped = set[int](), set[int]()
    failed = set[int]()
    while pending:
        number = pending.pop(choice.randrange(len(pending)))  # type: ignore[attr-defined]
        assert set(after.get(number, ())) <= done
        assert number not in done | failed | skipped
        if number in failing:
            failed.add(number)
            for each, before in tested.failed(number):
                assert before in after[each]
                assert before in failed | skipped
                assert each not in done | failed | skipped
                skipped.add(each)
        else:
            done.add(number)
            pending += tested.done(number)
    assert done | failed | skipped == set(range(1, 13))
    for number in skipped:
        assert all_before(number, after) & failed
    for number in done:
        assert not all_before(number, after) & failed


@given(edges, st.integers(1, 5))
def test_parts(pairs: list[tuple[int, int]], shares: int) -> None:
    """Parts and shares have each task once, and nothing waits for another part."""
    after = forward(pairs)
    for found in (graph.parts(12, after), graph.shared(graph.parts(12, after), shares)):
        assert sorted(number for part in found for number in part) == list(range(1, 13))
        for part in found:
            assert all(set(after.get(number, ())) <= set(part) for number in part)


def test_long_chain() -> None:
    """A chain of a hundred thousand needs no deep stack."""
    after = {number: (number - 1,) for number in range(2, 100_001)}
    assert graph.circle(after) == []
    assert len(graph.parts(100_000, after)) == 1
    assert len(list(Graph(after).failed(1))) == 99_999
    assert len(graph.circle({**after, 1: (100_000,)})) == 100_000
