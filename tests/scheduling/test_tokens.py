"""Tokens: what is given out comes back, and no more."""

import pytest

from hyperflow.request import Request
from hyperflow.scheduling.tokens import Purse

TWO = Request(resources=(("licence", 2),))


def test_no_more_are_given_out_than_there_are() -> None:
    """The scheduler asks first; a mistake of its own is noticed."""
    purse = Purse()
    purse.fill({"licence": 3})
    purse.take(TWO)
    assert purse["licence"].free == 1
    with pytest.raises(ValueError, match="2 of 'licence' are not free"):
        purse.take(TWO)
    purse.give_back(TWO)
    with pytest.raises(ValueError, match="more of 'licence' come back than there are"):
        purse.give_back(TWO)


def test_tokens_are_declared_once() -> None:
    """A second number for a name would take back what was promised."""
    purse = Purse()
    purse.fill({"licence": 3})
    with pytest.raises(ValueError, match="'licence' are declared already"):
        purse.fill({"licence": 2})


def test_what_is_kept_or_lent_is_not_free() -> None:
    """Who is older keeps some; speculative tasks have what they may lose."""
    purse = Purse()
    purse.fill({"licence": 3})
    assert purse.has(TWO, {})
    assert not purse.has(TWO, {"licence": 2})
    purse.lend(TWO, 1)
    assert purse.has(TWO, {}), "they give way"
    assert not purse.has(TWO, {}, lent=True), "another speculative task does not get them"
