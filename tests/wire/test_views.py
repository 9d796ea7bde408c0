"""A view shows what was in the block when it came; a block whose view has ended can be filled again."""

import builtins
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hyperflow.wire import views
from hyperflow.wire.shared_memory import Block
from hyperflow.wire.views import KEPT_SECONDS, Ended, Views

SIZE = 5 * 4096 + 100


def filled(byte: bytes) -> memoryview:
    """Return what to fill a block with."""
    return memoryview(byte * SIZE)


@pytest.fixture
def block() -> Iterator[Block]:
    """Yield a block."""
    block = Block.of(filled(b"a"))
    yield block
    block.close()


@pytest.fixture
def mine() -> Views[str]:
    """Return what keeps at most two blocks mapped."""
    return Views[str](2)


@pytest.fixture(params=["told", "untold"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel tell which pages were written to, or not."""
    if request.param == "untold":
        plain: Callable[..., Any] = open

        def refused(path: Any, *rest: Any, **others: Any) -> Any:
            if path == "/proc/self/pagemap":
                raise OSError(13, "Permission denied")
            return plain(path, *rest, **others)

        monkeypatch.setattr(builtins, "open", refused)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("written", [[], [0], [4096, SIZE - 1]])
def test_filled_again(block: Block, mine: Views[str], written: list[int]) -> None:
    """The next view is of the same mapping, and has nothing of what was written to the one before."""
    for byte in b"bcd":
        view = mine.of(block, "it")
        assert not mine.collect()
        for at in written:
            view[at] = 0
        del view
        assert mine.collect() == [Ended("it", True)]
        block.fill(filled(bytes([byte])))
        again = mine.of(block, "it")
        assert bytes(again) == bytes([byte]) * SIZE
        del again
        mine.collect()


def test_a_smaller_content(block: Block, mine: Views[str]) -> None:
    """A view is as large as what the block holds now."""
    mine.of(block, "it")
    assert mine.collect()
    block.fill(memoryview(b"xyz"))
    view = mine.of(block, "it")
    assert bytes(view) == b"xyz"
    assert block.equals(memoryview(b"xyz"))
    assert not block.equals(memoryview(b"xyzz"))


def test_parts_of_a_view_count(block: Block, mine: Views[str]) -> None:
    """It has ended when nothing of it is left."""
    part = mine.of(block, "it")[5:7]
    assert not mine.collect()
    del part
    assert mine.collect()


def test_forked(block: Block, mine: Views[str]) -> None:
    """A process that was forked meanwhile may look at it for ever."""
    view = mine.of(block, "it")
    views.note_fork()
    del view
    assert mine.collect() == [Ended("it", False)]
    view = mine.of(block, "it")
    del view
    assert mine.collect() == [Ended("it", True)]


def mappings() -> int:
    """Count what is mapped of blocks."""
    with open("/proc/self/maps") as maps:
        return sum("memfd:hyperflow" in line for line in maps)


def test_what_is_kept_is_bounded(mine: Views[str]) -> None:
    """In number and in time; a key tells whose it was."""
    before = mappings()
    blocks = [Block.of(filled(b"a")) for _ in range(4)]
    for number, one in enumerate(blocks):
        mine.of(one, str(number))
    assert len(mine.collect()) == 4
    assert mappings() == before + 2
    mine.drop_of(lambda key: key == "2")
    now = time.monotonic()
    assert mine.drop_old(now) == []
    assert mine.drop_old(now + 2 * KEPT_SECONDS) == ["3"]
    assert mappings() == before
    view = mine.of(blocks[0], "0")
    mine.close()
    assert bytes(view[:1]) == b"a"
    del view
    assert mappings() == before
    for one in blocks:
        one.close()
