"""A ring gives back what was put into it, in any order of putting and letting go; nobody sees what has been let go."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from hyperflow.config import Settings
from hyperflow.head.channels import WORTH, Channels
from hyperflow.head.link import Link
from hyperflow.transports.process import Local
from hyperflow.wire import channel, frames
from hyperflow.wire.channel import IN_CHANNEL, SIZE, SMALLEST, TASKS_READ, Channel, Ring
from hyperflow.wire.numbers import WorkerNumber

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


def test_a_lost_node_keeps_no_descriptor(tmp_path: Path) -> None:
    """Whether or not its workers have mapped their channels; results that have come by one can still be taken."""
    written: list[Any] = []
    link = Link(Local("n"), Settings(), tmp_path, lambda *_: None, lambda *_: None)
    channels = link.channels = Channels(written.extend)
    data, before = memoryview(b"x" * SMALLEST), set(os.listdir("/proc/self/fd"))
    for number in (1, 2):
        for _ in range(WORTH):
            channels.filled(WorkerNumber(number), [data])
    assert len(written) == 2
    mapped = Channel.at(*frames.CHANNEL.unpack_from(written[0], frames.HEADER.size))
    place = mapped.results.offer(data)
    assert isinstance(place, int)

    link.give_up("lost")
    assert set(os.listdir("/proc/self/fd")) <= before
    assert channels.taken(WorkerNumber(1), [place]) == [data]
    for _ in range(WORTH):
        channels.filled(WorkerNumber(3), [data])
    assert len(written) == 2


def test_a_file_in_its_place_is_not_written_to(tmp_path: Path) -> None:
    """A descriptor that the head has closed may be one of the user's files by now."""
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    before = set(os.listdir("/proc/self/fd"))
    with path.open("r+b") as file, pytest.raises(OSError, match="has gone"):
        Channel.at(os.getpid(), file.fileno())
    assert path.read_bytes() == bytes(SIZE)
    assert set(os.listdir("/proc/self/fd")) <= before
