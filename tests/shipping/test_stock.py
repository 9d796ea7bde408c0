"""A block is filled again when all who were told of it have let go of it, and closed when that takes long."""

import time
from collections.abc import Iterator

import pytest

from hyperflow.shipping import stock
from hyperflow.shipping.stock import MOST, Stock
from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber
from hyperflow.wire.shared_memory import Block
from hyperflow.wire.views import KEPT_SECONDS

ONE, TWO = WorkerNumber(1), WorkerNumber(2)
NUMBER = DefinitionNumber(7)


@pytest.fixture
def store() -> Iterator[Stock]:
    """Yield an empty one."""
    store = Stock()
    yield store
    store.close()


def block(size: int = 1000) -> Block:
    """Return a new block."""
    return Block.of(memoryview(bytes(size)))


def test_when_all_have_let_go(store: Stock) -> None:
    """Not before; by its number, once."""
    made = block()
    store.put(NUMBER, made, {ONE, TWO})
    store.returned(TWO, NUMBER, kept=True)
    store.returned(TWO, NUMBER, kept=True)
    store.returned(ONE, DefinitionNumber(8), kept=True)
    assert store.take(1000) is None
    store.returned(ONE, NUMBER, kept=True)
    assert store.take(1000) is made
    assert store.take(1000) is None
    made.close()


def test_one_that_fits(store: Stock) -> None:
    """Large enough, and not much too large."""
    made = block()
    store.put(NUMBER, made, set())
    assert store.take(1001) is None
    assert store.take(499) is None
    assert store.take(500) is made
    made.close()


def test_never_again(store: Stock) -> None:
    """A forked process may look at it; its worker has ended; nobody knows who has it."""
    for case in range(3):
        made = block()
        store.put(NUMBER, made, {ONE} if case < 2 else None)
        if case == 0:
            store.returned(ONE, NUMBER, kept=False)
        else:
            store.worker_gone(ONE)
        assert made.fd < 0
        assert not store


def test_bounds(store: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    """In number, in bytes, in time."""
    made = [block() for _ in range(MOST + 1)]
    for number, one in enumerate(made):
        store.put(DefinitionNumber(number), one, {ONE} if number % 2 else set())
    assert [one.fd < 0 for one in made] == [False] * MOST + [True]
    now = time.monotonic()
    assert not store.drop_old(now)
    assert store.drop_old(now + 2 * KEPT_SECONDS)
    assert all(one.fd < 0 for one in made)
    monkeypatch.setattr(stock, "KEPT_BYTES", 1500)
    made = [block(), block()]
    for one in made:
        store.put(NUMBER, one, set())
    assert [one.fd < 0 for one in made] == [False, True]
