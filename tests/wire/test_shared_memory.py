"""Large arrays: they cross by one copy, are sent to a node once, and nobody sees another's changes."""

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hyperflow as hf
from hyperflow.config import Settings
from hyperflow.head import link
from hyperflow.shipping import arrays
from hyperflow.transports.process import Local
from hyperflow.wire import shared_memory
from hyperflow.wire.shared_memory import Block
from tests.helpers import wait_until
from tests.support import local

ITEMS = 200_000
"""Of eight bytes: several times what makes a buffer a block."""


def total(a: Any) -> float:
    """Add up."""
    return float(a.sum())


def doubled(a: Any) -> Any:
    """Return a new array."""
    return 2 * a


def spoiled(a: Any) -> float:
    """Change the argument."""
    a += 1
    return float(a[0])


_remembered: list[tuple[int, Any]] = []


def remembered(a: Any, n: int) -> Any:
    """Change the argument, keep every second one, look at those that were kept; return one more."""
    result = a + 1
    a[::1000] = -1
    if n % 2:
        _remembered.append((n, a))
    for number, one in _remembered:
        assert (one[::1000] == -1).all()
        assert (one[1::1000] == number).all()
    return result


def memfds(pid: int) -> int:
    """Count the descriptors of blocks that a process has."""
    found = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += "/memfd:" in os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def held_here() -> int:
    """On a worker: count the blocks that it has inherited or opened."""
    return memfds(os.getpid())


def launcher(env: hf.JobEnv) -> int:
    """Return the launcher's process."""
    (only,) = env.evaluator.fleet.links.values()  # type: ignore[attr-defined]
    return int(only.greeting.pid)


@pytest.fixture(params=["shared", "streamed"])
async def env(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[hf.JobEnv]:
    """Yield an environment whose launcher shares our memory, and one whose launcher might be on another node."""
    if request.param == "streamed":
        monkeypatch.setattr(link, "is_shared", lambda offer: False)
    async with local(cpus=2) as env:
        await hf.remote_eval(abs, -1)  # its launcher is up
        yield env


async def test_there_and_back(env: hf.JobEnv) -> None:
    """Values are right, and what comes back can be written to."""
    a = np.arange(ITEMS, dtype=float)
    b = await hf.remote_eval(doubled, a)
    assert (b == 2 * a).all()
    b[0] = 5
    fortran, odd = np.asfortranarray(a.reshape(400, -1)), a[::2]
    assert (await hf.remote_eval(doubled, fortran) == 2 * fortran).all()
    assert (await hf.remote_eval(doubled, odd) == 2 * odd).all()


async def test_sent_once(env: hf.JobEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same array in many evaluations is copied once, in one turn of the loop or in several."""
    made: list[int] = []
    plain = Block.of

    def counted(data: memoryview) -> Block:
        made.append(data.nbytes)
        return plain(data)

    monkeypatch.setattr(Block, "of", counted)
    a = np.ones(ITEMS)
    assert await hf.map_concurrently(lambda _: hf.remote_eval(total, a), range(50)) == [ITEMS] * 50
    for _ in range(5):
        assert await hf.remote_eval(total, a) == ITEMS
    assert made == [a.nbytes]


async def test_changes_are_seen(env: hf.JobEnv) -> None:
    """An array that is changed in place between two calls is sent as it was at each."""
    a = np.zeros(ITEMS)

    def with_one_more(n: int) -> hf.Job[float]:
        a[n * 1000] = 1
        return hf.remote_eval(total, a)

    assert await hf.map_concurrently(with_one_more, range(20)) == list(range(1, 21))


async def test_an_evaluation_has_its_own(env: hf.JobEnv) -> None:
    """What one does to its argument, neither the others nor the caller sees."""
    a = np.zeros(ITEMS)
    assert await hf.map_concurrently(lambda _: hf.remote_eval(spoiled, a), range(20)) == [1.0] * 20
    assert not a.any()


async def test_read_only_is_taken_at_its_word() -> None:
    """Such an array is not compared; a read-only view of one that can be written to is."""
    a = np.zeros(ITEMS)
    view = a[:]
    view.flags.writeable = False
    assert not arrays.is_constant(a)
    assert not arrays.is_constant(view)
    a.flags.writeable = False
    assert arrays.is_constant(a)
    assert arrays.is_constant(a[:])
    assert arrays.is_constant(np.frombuffer(b"12345678"))
    assert not arrays.is_constant(np.frombuffer(bytearray(8)))


async def test_nothing_is_left(env: hf.JobEnv) -> None:
    """When an array is no more, neither head nor launcher nor workers hold its block; nor that of a result."""
    before = memfds(os.getpid()), memfds(launcher(env))
    a = np.ones(ITEMS)
    b = await hf.remote_eval(doubled, a)
    held = (before[0] + 1, before[1] + 1)  # once the launcher has heard that we have the result
    await wait_until(lambda: (memfds(os.getpid()), memfds(launcher(env))) == held, 10, "one block is held")
    del a
    assert await hf.remote_eval(held_here) == 0 or await hf.remote_eval(held_here) == 0  # once it has heard
    await wait_until(lambda: (memfds(os.getpid()), memfds(launcher(env))) == before, 10, "the blocks are let go")
    assert b[0] == 2


async def test_blocks_that_are_filled_again(env: hf.JobEnv) -> None:
    """What a worker, or the head, still looks at stays as it was; what was written to a block nobody else sees."""
    kept: list[Any] = []
    for n in range(12):
        a = np.full(ITEMS, float(n))
        b = await hf.remote_eval(remembered, a, n)
        assert (b == n + 1).all()
        b += 100
        if n % 3 == 0:
            kept.append((n, b))
    assert all((b == n + 101).all() for n, b in kept)


async def test_results_hold_no_descriptors(env: hf.JobEnv) -> None:
    """Nor do arguments on the worker: who collects thousands of arrays does not run out of them."""
    before = memfds(os.getpid()), len(os.listdir("/proc/self/fd"))
    kept = [await hf.remote_eval(np.ones, ITEMS) for _ in range(20)]
    await wait_until(lambda: memfds(launcher(env)) == 0, 10, "the launcher has let go")
    assert (memfds(os.getpid()), len(os.listdir("/proc/self/fd"))) == before
    assert sum(a[-1] for a in kept) == 20


async def test_a_new_worker_inherits_nothing(env: hf.JobEnv) -> None:
    """Else its copy of a descriptor would keep the memory of what everybody else has let go of."""
    a = np.ones(ITEMS)
    assert await hf.remote_eval(total, a) == ITEMS
    assert memfds(launcher(env)) == 1
    assert await hf.remote_eval(held_here).using(fresh_process=True) == 0


async def test_unused_blocks_are_bounded(env: hf.JobEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many arrays that live on, the oldest blocks go; a call with one of them works as before."""
    monkeypatch.setattr(arrays, "KEPT_BYTES", 3 * 8 * ITEMS)
    many = [np.full(ITEMS, n) for n in range(8)]
    for a in many:
        await hf.remote_eval(total, a)
    await hf.remote_eval(total, 0 * many[0])
    await wait_until(lambda: memfds(os.getpid()) <= 5, 10, "what could be filled again is closed")
    assert await hf.map_concurrently(lambda a: hf.remote_eval(total, a), many) == [n * ITEMS for n in range(8)]


async def test_too_many_at_a_time(env: hf.JobEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of blocks, and without descriptors, buffers travel with their calls."""
    monkeypatch.setattr(env.evaluator._packer.buffers, "_most_blocks", 3)  # type: ignore[attr-defined]
    many = [np.full(ITEMS, n) for n in range(10)]
    assert await hf.map_concurrently(lambda a: hf.remote_eval(total, a), many) == [n * ITEMS for n in range(10)]

    def no_more(data: memoryview) -> Block:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Block, "of", no_more)
    b = await hf.remote_eval(doubled, np.ones(ITEMS))
    assert b.sum() == 2 * ITEMS


async def test_cancelled(env: hf.JobEnv) -> None:
    """Cancelling evaluations in any state leaves no block of an argument or a result behind."""
    before = memfds(os.getpid()), memfds(launcher(env))
    for n in range(20):
        futures = [hf.remote_eval(doubled, np.ones(ITEMS)).start() for _ in range(4)]
        await asyncio.wait(futures, timeout=0.002 * n)
        for future in futures:
            future.cancel()
        del futures
    assert await hf.remote_eval(total, 1 * np.ones(3)) == 3
    await wait_until(lambda: (memfds(os.getpid()), memfds(launcher(env))) == before, 10, "the blocks are let go")


async def test_refused_calls_hold_nothing(env: hf.JobEnv) -> None:
    """A request that is impossible does not keep the block of its argument."""
    before = memfds(os.getpid())
    with pytest.raises(hf.ImpossibleRequest):
        await hf.remote_eval(total, np.ones(ITEMS)).using(cpus=1000)
    gc.collect()  # the error's traceback refers to the array
    await hf.remote_eval(total, np.ones(3))
    await wait_until(lambda: memfds(os.getpid()) == before, 10, "the block is let go")


async def test_the_launcher_holds_no_copy(env: hf.JobEnv) -> None:
    """Its resident memory does not grow by what passes through it."""

    def resident() -> int:
        with open(f"/proc/{launcher(env)}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    await hf.remote_eval(doubled, np.ones(ITEMS))
    before = resident()
    for _ in range(3):
        await hf.remote_eval(doubled, np.ones(4_000_000))
    # Of 192,000,000 that went through. It lets go of the last one just after we have it.
    await wait_until(lambda: resident() - before < 8_000_000, 10, "it holds little", state=resident)


@pytest.fixture
def block() -> Iterator[Block]:
    """Yield a block of a hundred thousand bytes."""
    block = Block.of(memoryview(bytes(range(250)) * 400))
    yield block
    block.close()


def test_equals(block: Block) -> None:
    """Any byte counts."""
    data = bytearray(bytes(range(250)) * 400)
    assert block.equals(memoryview(data))
    for at in (0, 65_535, 65_536, 99_999):
        data[at] ^= 1
        assert not block.equals(memoryview(data)), at
        data[at] ^= 1
    assert not block.equals(memoryview(data)[:-1])


def test_an_offer_of_something_else() -> None:
    """A process elsewhere that names a descriptor of ours does not make us believe that we share memory."""
    proof = shared_memory.Proof()
    offer = proof.offer()
    assert offer is not None
    pid, fd, secret = offer
    assert shared_memory.is_shared(offer)
    assert not shared_memory.is_shared((pid, fd, "00" * 16))
    reading, writing = os.pipe()
    assert not shared_memory.is_shared((pid, reading, secret))
    assert not shared_memory.is_shared((pid, 10_000, secret))
    assert not shared_memory.is_shared(None)
    os.close(reading)
    os.close(writing)
    proof.close()
    assert not shared_memory.is_shared(offer)


async def test_a_full_stream_is_waited_for(tmp_path: Path) -> None:
    """While the stream holds enough, a link keeps what is to be written, in order, and copies nothing of a block."""
    written: list[bytes] = []

    class Stream:
        """Asks for a pause after every third write."""

        def write(self, parts: Any) -> None:
            written.append(b"".join(parts))
            if len(written) % 3 == 0:
                one.pause_writing()

    one: Any = link.Link(Local(), Settings(), tmp_path, lambda *_: None, lambda *_: None)
    one._connection = Stream()
    with contextlib.closing(Block.of(memoryview(bytes(2_000_000)))) as block:
        one.write_block(7, block)
    one.write([b"behind"])
    assert len(written) == 3
    while one._full:
        one.resume_writing()
    assert written[-1] == b"behind"
    assert sum(map(len, written)) > 2_000_000
