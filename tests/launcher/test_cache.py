"""The cache of a node: blocks that come from the head or from another node, and what waits for them."""

import hashlib
import selectors
from collections.abc import Iterator

import pytest

from hyperflow.launcher.cache import NodeCache
from hyperflow.launcher.node_files import NodeFiles
from hyperflow.launcher.peers import Peers
from hyperflow.wire import frames
from hyperflow.wire.messages import Fetch
from hyperflow.wire.numbers import NO_WORKER, DefinitionNumber, WorkerNumber

DATA = bytes(1000)
SEVEN = DefinitionNumber(7)
NUMBER = memoryview(frames.NUMBER.pack(SEVEN))
ORDER = Fetch(SEVEN, len(DATA), hashlib.sha256(DATA).hexdigest(), (), 0)


@pytest.fixture
def cache() -> Iterator[NodeCache]:
    """Give a test a cache whose node fetches nothing by itself."""
    with selectors.DefaultSelector() as selector:
        peers = Peers(selector, lambda name, cause: None, lambda moment: None)
        made = NodeCache(peers, NodeFiles(peers, lambda data: None, lambda worker, data: None))
        yield made
        made.proof.close()
        made.close()


def content(data: bytes) -> memoryview:
    """Return the body of a piece of a block."""
    return memoryview(frames.NUMBER.pack(SEVEN) + data)


def test_a_block_that_the_head_sends_after_all(cache: NodeCache) -> None:
    """What waits for a block from another node goes on when the head has sent all of it, from its beginning."""
    cache.expect(ORDER)
    assert cache.awaits(NUMBER)
    assert cache.fill(content(b"some")) is None

    cache.keep_block(memoryview(frames.BLOCK.pack(SEVEN, len(DATA), 0, -1)))
    assert cache.fill(content(DATA[:600])) is None
    assert cache.fill(content(DATA[600:])) == SEVEN
    cache.has_come(SEVEN)

    assert not cache.awaits(NUMBER)
    ((_, _, body),) = frames.Reader().feed(b"".join(cache.given(WorkerNumber(1), NUMBER)))
    assert frames.BLOCK.unpack(body)[1] == len(DATA)


def test_a_block_that_the_head_sends_at_once(cache: NodeCache) -> None:
    """Nothing waits for it: it is in the stream before what needs it. An order to fetch it later changes nothing."""
    cache.keep_block(memoryview(frames.BLOCK.pack(SEVEN, len(DATA), 0, -1)))
    assert not cache.awaits(NUMBER)
    assert cache.fill(content(DATA)) is None
    cache.expect(ORDER)
    assert not cache.awaits(NUMBER)


def test_a_block_that_is_forgotten(cache: NodeCache) -> None:
    """Nothing of it is left."""
    cache.expect(ORDER)
    cache.forget(NUMBER)
    cache.has_come(SEVEN)
    assert not cache.awaits(NUMBER)
    assert list(cache.given(NO_WORKER, NUMBER)) == []
