"""What a chunk of remote_map computes at its second try, and how its failures are told."""

import asyncio
import os
import pickle
import signal
import threading
import traceback
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.chunks import Chunk, evaluate_part
from hyperflow.master import calls
from hyperflow.shipping.packer import Kept, Packer
from hyperflow.testing import open_inline_job
from tests.support import local, notes


class Setting:
    """A class of a test, whose attribute changes."""

    value = 0


@pytest.mark.process
@pytest.mark.parametrize("count", [4, 300])
async def test_a_second_try_computes_with_what_was_submitted(count: int) -> None:
    """Neither items nor captures nor classes count as they are when a chunk is evaluated again."""
    captured, items = [0], [[i] for i in range(count)]

    def fn(x: list[int]) -> tuple[int, int, int]:
        if x[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return x[0], captured[0], Setting.value

    async with local():
        future = hf.remote_map(fn, items, count, errors="return").start()
        await asyncio.sleep(0)
        captured[0] = Setting.value = 1
        items[0][0] = 77
        try:
            results = await future
        finally:
            Setting.value = 0
    failed = results.pop(2)
    assert isinstance(failed, hf.Failed)
    assert isinstance(failed.error, hf.WorkerDied)
    assert failed.call == "fn([2])"
    assert results == [(i, 0, 0) for i in range(count) if i != 2]


def test_a_kept_call_is_read_with_its_numbers() -> None:
    """The spliced pickle is one, also with frames and buffers; what is kept is let go in the end."""
    packer = Packer(most_blocks=0)
    items = [bytearray(b"a" * 100_000), "x" * 70_000, 3]
    packed = packer.pack(Chunk(abs, False, (1,), 0), (items,), {})  # type: ignore[arg-type]
    sent: list[Any] = []
    kept = Kept(packer, packed, lambda *args: sent.append(args[-1]))
    kept.submit(evaluate_part, (1, 3), (abs, (1,), {}), None, ())
    content = pickle.loads(sent[0].payload, buffers=sent[0].buffers)
    assert content[0][0][1] == items
    assert content[1:] == (1, 3)
    assert packed.function.users == 1
    kept.drop()
    assert packed.function.users == 0


def cancels(x: int) -> int:
    """End itself as asyncio ends tasks."""
    if x == 2:
        raise asyncio.CancelledError
    return x


def unsendable(x: int) -> Any:
    """Return a lock for one item."""
    return threading.Lock() if x == 2 else x


def stops(x: int) -> Any:
    """Raise what no future can carry."""
    if x == 2:
        raise StopIteration
    return x


def ends(x: int) -> Any:
    """Raise a relative of it."""

    class Ends(StopIteration):
        pass

    raise Ends


KINDS: list[Any] = [
    (cancels, hf.EvaluationExited),
    (unsendable, hf.SerializationError),
    (stops, RuntimeError),
]


@pytest.mark.process
@pytest.mark.parametrize("inline", [False, True])
async def test_errors_of_a_chunk_name_the_users_call(inline: bool) -> None:
    """Never a function of ours; whatever the size of the chunk, and in this process as on a worker."""
    async with open_inline_job() if inline else local():
        for fn, kind in KINDS:
            for chunk_size in (1, 4):
                with pytest.raises(kind) as caught:
                    await hf.remote_map(fn, range(4), chunk_size)
                told = f"{caught.value} {notes(caught.value)}"
                assert f"{fn.__name__}(2)" in told
                assert "for the item 2)" in told
                assert not any(name in told for name in ("apply_to_all", "Chunk", "evaluate_part"))
                results = await hf.remote_map(fn, range(4), chunk_size, errors="return")
                failed = results.pop(2)
                assert isinstance(failed, hf.Failed)
                assert isinstance(failed.error, kind)
                assert results == [0, 1, 3]


@pytest.mark.process
@pytest.mark.parametrize("inline", [False, True])
async def test_stop_iteration_is_a_runtime_error_everywhere(inline: bool) -> None:
    """One evaluation tells it as a map does."""
    async with open_inline_job() if inline else local():
        for fn in (stops, ends):
            with pytest.raises(RuntimeError, match=rf"^{fn.__name__}\(2\) raised StopIteration"):
                await hf.remote_eval(fn, 2)


def boom(x: int) -> int:
    """Fail."""
    raise ValueError(x)


@hf.job
async def nested(n: int) -> Any:
    """Fail so many maps below."""
    return await (hf.map_concurrently(nested, [n - 1]) if n else hf.remote_eval(boom, 1))


async def test_a_caught_failure_is_short() -> None:
    """However deep the maps are: at most ten frames, a right count of the others, and few notes."""
    async with open_inline_job():
        for depth in (3, 8, 20):
            with pytest.raises(ValueError, match="1") as caught:
                await nested(depth)
            frames = list(traceback.extract_tb(caught.value.__traceback__))
            assert len(frames) <= 10
            said = notes(caught.value)
            assert f"nested({depth - 1})" in said
            assert "boom(1)" in said
            assert len(caught.value.__notes__) <= 9
            if depth == 20:
                left = next(note for note in caught.value.__notes__ if "frames are left out" in note)
                count, _, of = left[1:].split()[:3]
                of_users = [one for one in frames if "/hyperflow/" not in one.filename.replace("/tests/", "")]
                assert int(of) - int(count) <= len(of_users) <= int(of) - int(count) + 3


async def test_a_failed_nested_map_names_its_call() -> None:
    """The call that made it, as no function of the user's is called where it fails."""
    each: Any = lambda k: hf.map_concurrently(lambda y: hf.remote_eval(boom, y), [k])  # noqa: E731
    async with open_inline_job():
        (failed,) = await hf.map_concurrently(each, [1], errors="return")
        assert failed.call == "<lambda>(1)"
        (failed,) = await hf.map_concurrently(nested, [0], errors="return")
        assert failed.call == "nested(0)"
        found = [r async for _, r in hf.as_completed(each, [5], errors="return")]
        assert [one.call for one in found] == ["<lambda>(5)"]


@pytest.mark.process
async def test_asyncio_says_start_however_it_is_asked() -> None:
    """Also where asyncio has no frame of Python; and another thread's event loop does not wait for ever."""
    async with local():
        loop: Any = asyncio.get_running_loop()
        flow: Any = hf.remote_eval(abs, -1)
        with pytest.raises(TypeError, match=r"\.start\(\)"):
            loop.create_task(flow)  # noqa: RUF006 (it makes none)
        with pytest.raises(TypeError, match=r"\.start\(\)"):
            asyncio.Task(flow)
        assert repr(flow) == "<Job hyperflow.remote_eval(abs, -1)>"

        def elsewhere() -> Any:
            other = asyncio.new_event_loop()
            try:
                return other.run_until_complete(hf.remote_eval(abs, -1))
            finally:
                other.close()

        async with asyncio.timeout(40):
            with pytest.raises(hf.NotInFlow, match="another thread"):
                await asyncio.to_thread(elsewhere)


def test_a_jobs_error_is_read_once() -> None:
    """The remote traceback that the error of a job has as a note is not told again in the job's own."""
    try:
        boom(1)
    except ValueError as error:
        error.add_note("remote Traceback of the evaluation")
        back = calls.unpack_error(calls.pack_error(error, "raised by job 1"))
    assert "\n".join(back.__notes__).count("remote Traceback of the evaluation") == 1
    assert "in boom" in back.__notes__[1]
    assert back.__notes__[-1] == "(raised by job 1)"
