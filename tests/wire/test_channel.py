"""A ring gives back what was put into it, in any order of putting and letting go; nobody sees what has been let go."""

import random

import pytest

from hyperflow.wire import channel
from hyperflow.wire.channel import IN_CHANNEL, SMALLEST, TASKS_READ, Ring

LARGEST = 700


def ring(size: int = 1 << 16) -> tuple[Ring, Ring]:
    """Return both ends of a ring, of memory that is not shared with anybody."""
    memory, words = memoryview(bytearray(size)), memoryview(bytearray(64)).cast("Q")
    return Ring(memory, words, TASKS_READ), Ring(memory, words, TASKS_READ)


@pytest.mark.parametrize("seed", range(20))
def test_random_histories(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is what was written, until it is let go of; the ring never says no when it is empty."""
    monkeypatch.setattr(channel, "SMALLEST", 50)
    chance = random.Random(seed)
    writer, reader = ring(2048)
    under_way: list[tuple[int, bytes]] = []
    full = 0
    for _ in range(200):
        if under_way and chance.random() < 0.5:
            count = chance.randint(1, len(under_way))
            for place, data in under_way[:count]:
                assert reader.copy(place) == data
            reader.let_go(count)
            del under_way[:count]
        else:
            data = chance.randbytes(1) * chance.randint(50, LARGEST)
            place = writer.offer(memoryview(data))
            if isinstance(place, int):
                assert place & IN_CHANNEL
                under_way.append((place, data))
            else:
                assert under_way
                assert place == data
                full += 1
        for place, data in under_way:  # nothing is written over
            assert reader.copy(place) == data
    assert full


def test_whole_ring() -> None:
    """A buffer may fill it; the next one waits until it is let go of."""
    writer, reader = ring(1 << 14)
    data = memoryview(bytes(1 << 14))
    for _ in range(3):
        assert isinstance(writer.offer(data), int)
        assert writer.offer(data) is data
        reader.let_go(1)


def test_what_is_not_for_it() -> None:
    """Small buffers stay with their task, large ones become blocks."""
    writer, _ = ring()
    for size in (0, SMALLEST - 1, channel.LARGE):
        data = memoryview(bytes(size))
        assert writer.offer(data) is data


def test_copies_are_the_readers_own() -> None:
    """A copy can be written to, and stays when its place is used again."""
    writer, reader = ring(1 << 14)
    place = writer.offer(memoryview(b"a" * (1 << 14)))
    assert isinstance(place, int)
    mine = reader.copy(place)
    mine[0] = ord("x")
    assert bytes(reader.copy(place)[:2]) == b"aa"
    reader.let_go(1)
    writer.offer(memoryview(b"b" * (1 << 14)))
    assert bytes(mine[:2]) == b"xa"
