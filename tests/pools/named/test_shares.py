"""Fair shares of CPUs."""

import pytest

from hyperflow.pools.named.shares import Claim, fair


@pytest.mark.parametrize(
    ("claims", "cpus", "shares"),
    [
        ({1: [(1, 100)], 2: [(1, 100)]}, 8, {1: 4, 2: 4}),
        ({1: [(1, 2)], 2: [(1, 100)]}, 8, {1: 2, 2: 6}),  # what one does not want goes to the others
        ({1: [(1, 100)], 2: [(4, 1)], 3: [(1, 100)]}, 8, {1: 2, 2: 4, 3: 2}),  # one evaluation at least
        ({1: [(4, 9)], 2: [(4, 9)]}, 10, {1: 4, 2: 4}),  # what is left is too little for either
        ({1: [(16, 1), (1, 9)], 2: [(1, 9)]}, 8, {1: 0, 2: 8}),  # smaller ones do not overtake in their program
        ({1: [(1, 9)], 2: [(1, 9)], 3: [(1, 9)]}, 2, {1: 1, 2: 1, 3: 0}),
        ({1: []}, 8, {1: 0}),
    ],
)
def test_shares(claims: dict[int, list[tuple[int, int]]], cpus: int, shares: dict[int, int]) -> None:
    """Nobody gets less than an equal share unless it wants less, and one evaluation is never cut."""
    assert fair({number: Claim(units) for number, units in claims.items()}, cpus) == shares


def test_what_is_settled_stays() -> None:
    """Of an odd number of CPUs, the one too many stays with who holds it."""
    for holder in (1, 2):
        claims = {each: Claim([(1, 9)], 3 if each == holder else 2) for each in (1, 2)}
        assert fair(claims, 5)[holder] == 3
