"""What is left of a failure: `Failed` in the place of a result, notes that name the call, short tracebacks."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow import failures
from hyperflow.testing import open_inline_job
from tests.support import local, script


class Boom(Exception):
    """What goes wrong in these tests."""


class Awkward(Exception):
    """Takes other arguments than it hands on."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def odd_fails(x: int) -> int:
    """Fail for odd numbers."""
    if x % 2:
        raise Boom(x)
    return x


@hf.job
async def odd_job_fails(x: int) -> int:
    """Fail for odd numbers, in the job."""
    await asyncio.sleep(0)
    return odd_fails(x)


def crashes_at_13(x: int) -> int:
    """End its process at one item."""
    if x == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


async def crashes_at_13_later(x: int) -> int:
    """The same as an async function."""
    await asyncio.sleep(0)
    return crashes_at_13(x)


def evaluated(x: int) -> hf.Job[int]:
    """Return the flow of a map."""
    return hf.remote_eval(odd_fails, x)


def shown(results: Any) -> list[Any]:
    """Return results with the Failed as tuples."""
    return [(one.index, one.call, repr(one.error)) if isinstance(one, hf.Failed) else one for one in results]


# ---- errors="return" -----------------------------------------------------------------------------------------------

FOUR = [0, (1, "odd_fails(1)", "Boom(1)"), 2, (3, "odd_fails(3)", "Boom(3)")]


async def test_the_rest_goes_on() -> None:
    """With errors="return", the failed places hold a Failed, in order; the others have their results."""
    async with open_inline_job(cpus=2):
        assert shown(await hf.map_concurrently(evaluated, range(4), errors="return")) == FOUR
        assert shown(await hf.map_concurrently(evaluated, range(4), limit=1, errors="return")) == FOUR
        assert shown(await hf.concurrently(*map(evaluated, range(4)), errors="return")) == FOUR
        assert isinstance(await hf.concurrently(evaluated(1), errors="return"), tuple)
        assert shown(await hf.remote_map(odd_fails, range(4), errors="return")) == FOUR
        assert shown(await hf.remote_map(odd_fails, range(4), chunk_size=3, errors="return")) == FOUR
        pairs = {x: result async for x, result in hf.as_completed(evaluated, range(4), errors="return")}
        assert shown([pairs[x] for x in range(4)]) == FOUR
        jobs = await hf.map_concurrently(odd_job_fails, range(4), errors="return")
        assert shown(jobs) == shown(await hf.concurrently(*map(odd_job_fails, range(4)), errors="return"))
        assert shown(jobs)[1] == (1, "odd_job_fails(1)", "Boom(1)")
        assert shown(await hf.concurrently(evaluated(1).using(retries=1).retry(1), errors="return"))[0] == (
            *(0, "odd_fails(1)", "Boom(1)"),
        )
        assert await hf.map_concurrently(evaluated, [], errors="return") == []
        assert await hf.concurrently(errors="return") == ()


async def test_without_a_failure_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The results are those of errors="raise"."""
    async with open_inline_job(cpus=2):
        assert await hf.map_concurrently(evaluated, range(0, 9, 2), errors="return") == [0, 2, 4, 6, 8]
        assert await hf.remote_map(odd_fails, range(0, 9, 2), errors="return") == [0, 2, 4, 6, 8]
    assert caplog.records == []


async def test_a_count_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Once for each call, with the first failure."""
    async with open_inline_job(cpus=2):
        await hf.map_concurrently(evaluated, range(10), errors="return")
        await hf.remote_map(odd_fails, range(10), errors="return")
        await hf.concurrently(*map(evaluated, range(10)), errors="return")
        assert len([pair async for pair in hf.as_completed(evaluated, range(10), errors="return")]) == 10
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4
    for record, name in zip(caplog.records, ["map_concurrently", "remote_map", "concurrently", "as_completed"]):  # noqa: B905
        assert f"{name}: 5 of 10 failed" in record.getMessage()
        assert "odd_fails(1): Boom: 1" in record.getMessage()


def hostile(x: int) -> None:
    """Fail with orders to the terminal."""
    raise Boom(f"{x}\x1b]0;owned\x07\n\x1b[2J")


async def test_a_count_orders_nothing_to_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    """What fails may have any name and text; it is told in one line."""
    hostile.__name__ = "hostile\x1b[2J"
    async with open_inline_job(cpus=1):
        await hf.remote_map(hostile, [3], errors="return")
    (record,) = caplog.records
    assert record.getMessage().endswith(r"the first: hostile\x1b[2J(3): Boom: 3\x1b]0;owned\x07 \x1b[2J")


def nothing(x: int) -> hf.Job[int]:
    """Return a flow or, for odd numbers, not even that."""
    if x % 2:
        raise Boom(x)
    return hf.pure(x)


async def test_what_cannot_even_start_is_returned_too() -> None:
    """A function that fails, an argument that cannot be sent, a request that is too large."""
    expected = [0, (1, "nothing(1)", "Boom(1)"), 2]

    def locked(x: int) -> hf.Job[Any]:
        return hf.remote_eval(odd_fails, threading.Lock() if x == 1 else x)  # type: ignore[arg-type]

    async with open_inline_job(cpus=2):
        assert shown(await hf.map_concurrently(nothing, range(3), errors="return")) == expected
        assert shown([one async for _, one in hf.as_completed(nothing, range(3), limit=1, errors="return")]) == expected
        for results in (
            await hf.map_concurrently(locked, [0, 1, 2], errors="return"),
            await hf.remote_map(odd_fails, [0, threading.Lock(), 2], chunk_size=3, errors="return"),  # type: ignore[list-item]
        ):
            assert [results[0], results[2]] == [0, 2]
            assert isinstance(results[1], hf.Failed)
            assert isinstance(results[1].error, hf.SerializationError)
        large = await hf.concurrently(hf.remote_eval(odd_fails, 1).using(cpus=9), hf.pure(2), errors="return")
        assert isinstance(large[0], hf.Failed)
        assert isinstance(large[0].error, hf.ImpossibleRequest)


ENDS: list[Callable[[Any], hf.Flow[Any]]] = [
    lambda flow: hf.map_concurrently(lambda _: flow, range(3), errors="return"),
    lambda flow: hf.concurrently(hf.pure(1), flow, errors="return"),
    lambda flow: hf.as_completed(lambda _: flow, range(3), errors="return").__anext__,  # type: ignore[arg-type,return-value]
]


@pytest.mark.parametrize("make", ENDS)
@pytest.mark.parametrize("error", [hf.AllocationEnding("the end", 1.0), hf.MisuseError("no"), asyncio.CancelledError()])
async def test_what_ends_all_is_raised_all_the_same(make: Any, error: BaseException) -> None:
    """The end of the allocation, a mistake in the program, a cancellation."""

    @hf.job
    async def ends() -> None:
        raise error

    async with open_inline_job():
        made = make(ends())
        with pytest.raises(type(error)):
            await (made() if callable(made) else made)


async def test_the_end_of_the_allocation_ends_remote_map() -> None:
    """Also where chunks are evaluated."""

    def ends(x: int) -> None:
        raise hf.AllocationEnding("the end", 1.0)

    async with open_inline_job():
        with pytest.raises(hf.AllocationEnding):
            await hf.remote_map(ends, range(1), errors="return")


async def test_cancelling_ends_a_map_that_returns_errors() -> None:
    """And nothing is left running."""

    async def for_ever(x: int) -> None:
        await asyncio.Event().wait()

    async with open_inline_job(cpus=2) as env:
        for flow in (
            hf.map_concurrently(lambda x: hf.remote_eval(for_ever, x), range(5), errors="return"),
            hf.remote_map(for_ever, range(5), chunk_size=2, errors="return"),
        ):
            future = flow.start()
            await asyncio.sleep(0.01)
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
            await asyncio.sleep(0)
        async with asyncio.timeout(40):
            while env.statistics().running + env.statistics().waiting:  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_a_wrong_option_says_what_was_meant() -> None:
    """`return_exceptions` of asyncio.gather, and a misspelt value."""
    calls: list[Callable[..., object]] = [
        lambda **options: hf.map_concurrently(evaluated, [1], **options),
        lambda **options: hf.concurrently(hf.pure(1), **options),
        lambda **options: hf.as_completed(evaluated, [1], **options),
        lambda **options: hf.remote_map(odd_fails, [1], **options),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"no argument 'return_exceptions': did you mean errors='return'\?"):
            call(return_exceptions=True)
        with pytest.raises(TypeError, match=r"did you mean errors='raise'\?"):
            call(return_exceptions=False)
        with pytest.raises(hf.ConfigurationError, match=r'\(errors=\'ignore\'\): "raise" or "return" is needed'):
            call(errors="ignore")
        with pytest.raises(TypeError, match="unexpected keyword argument 'limits'"):
            call(limits=3)


# ---- StopIteration -------------------------------------------------------------------------------------------------


def stops_at_2(x: int) -> Any:
    """Raise what ends loops."""
    return next(iter(())) if x == 2 else hf.pure(x)


async def test_stop_iteration_shortens_no_list() -> None:
    """StopIteration of the function is a RuntimeError that names the call, as in generators; in each combinator."""
    async with open_inline_job():
        with pytest.raises(RuntimeError, match=r"stops_at_2\(2\).*map_concurrently, raised StopIteration"):
            await hf.map_concurrently(stops_at_2, range(5))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await hf.map_concurrently(stops_at_2, range(5), limit=2)
        with pytest.raises(RuntimeError, match="StopIteration"):
            _ = [one async for one in hf.as_completed(stops_at_2, range(5))]
        for chunk_size in (1, 2, 5):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await hf.remote_map(lambda x: next(iter(())) if x == 2 else x, range(5), chunk_size)
        results = await hf.map_concurrently(stops_at_2, range(5), errors="return")
        assert shown(results)[2][:2] == (2, "stops_at_2(2)")
        assert [one for one in results if not isinstance(one, hf.Failed)] == [0, 1, 3, 4]
        with pytest.raises(RuntimeError, match="StopIteration"):
            await hf.pure(2).map(lambda x: next(iter(())))

        def xs() -> Iterator[int]:
            yield 1
            yield next(iter(()))

        with pytest.raises(RuntimeError, match="StopIteration"):
            await hf.map_concurrently(hf.pure, xs())
        with pytest.raises(RuntimeError, match="StopIteration"):
            await hf.remote_map(abs, xs())


# ---- Failed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [pickle, copy])
@pytest.mark.parametrize("error", [Boom(1), Awkward(1, 2), hf.WorkerDied("f(1)", "w", "n", 1), OSError(2, "no", "x")])
def test_failed_is_a_value(module: Any, error: Exception) -> None:
    """It cannot be changed, survives pickle and copy with all that the exception says, and shows itself."""
    error.__notes__ = ["a note"]
    failed = hf.Failed(3, "f(1)", error)
    back = pickle.loads(pickle.dumps(failed)) if module is pickle else copy.copy(failed)

    assert (back.index, back.call, type(back.error), str(back.error)) == (3, "f(1)", type(error), str(error))
    assert back.error.__notes__ == ["a note"]
    assert repr(failed) == f"Failed(index=3, call='f(1)', error={error!r})"[: len(repr(failed))]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        failed.index = 4  # type: ignore[misc]


async def test_failed_travels() -> None:
    """As an argument and as a result of an evaluation."""
    failed = hf.Failed(3, "f(1)", Awkward(1, 2))
    async with open_inline_job():
        assert shown([await hf.remote_eval(lambda one: one, failed)]) == shown([failed])


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: [1, x], lambda x: {"a": (x, 1)}, lambda x: [[{"a": [x]}]]], ids=range(4)
)
async def test_memoize_refuses_a_failed(wrap: Any) -> None:
    """A failure may succeed the next time: it is not recorded, however deep it is in the result."""

    @hf.memoize("refuses")
    @hf.job
    async def memoized() -> Any:
        return wrap((await hf.map_concurrently(evaluated, [1], errors="return"))[0])

    @hf.memoize("refuses_by_type")
    @hf.job
    async def annotated() -> list[int | hf.Failed]:
        return await hf.map_concurrently(evaluated, [1], errors="return")

    numbers = hf.KeyValMap("refuses_map")  # type: ignore[var-annotated]
    async with open_inline_job() as env:
        with pytest.raises(hf.SerializationError, match=r"Failed.*odd_fails\(1\).*a failure is not recorded"):
            await memoized()
        with pytest.raises(hf.SerializationError, match="a failure is not recorded"):
            await annotated()
        with pytest.raises(hf.SerializationError, match="a failure is not recorded"):
            await numbers.insert("key", wrap(hf.Failed(0, "f(1)", Boom())))
        assert await env.database.lookup_all("memoize:refuses:1") == []


# ---- which call ----------------------------------------------------------------------------------------------------


def notes(error: BaseException) -> str:
    """Return all notes of an error."""
    return "\n".join(getattr(error, "__notes__", []))


async def test_notes_name_the_call_of_a_flow() -> None:
    """Each combinator that a failure passes says which of its flows has failed, with short arguments."""
    long = "x" * 1000

    @hf.job
    async def fails(text: str, number: int = 0) -> None:
        raise Boom

    async with open_inline_job():
        for flow in (
            hf.map_concurrently(lambda text: fails(text, number=3), [long]),
            hf.concurrently(fails(long, number=3)),
            hf.race(fails(long, number=3)),
        ):
            with pytest.raises(Boom) as caught:
                await flow
            assert re.search(r"\(raised by fails\('x+\.\.\., number=3\), in \w+\)", notes(caught.value))
            assert len(notes(caught.value)) < 300


@attrs.frozen
class Huge:
    """Has a long repr, which may fail."""

    fails: bool = False

    def __repr__(self) -> str:
        if self.fails:
            raise SystemExit(3)
        return "long" * 100_000


@pytest.mark.process
async def test_an_evaluations_error_names_its_call(tmp_path: Path) -> None:
    """In its note, in TimeLimitExceeded, WorkerDied and in events.jsonl; bounded, whatever the arguments are."""

    def fails(*args: Any, **kwargs: Any) -> None:
        raise Boom(1)

    def sleeps(x: int) -> None:
        import time

        time.sleep(1000)

    many = {f"k{n}": n for n in range(100)}
    async with local(program=hf.ProgramInfo.new(tmp_path)) as env:
        with pytest.raises(Boom) as caught:
            await hf.remote_eval(fails, 1.5, Huge(), [1] * 10_000, Huge(fails=True), *range(50), **many)
        line = re.search(r"\(raised by evaluation \d+ of (fails\(1\.5, long.*\)) on worker", notes(caught.value))
        assert line is not None
        assert len(line[1]) < 500
        with pytest.raises(hf.TimeLimitExceeded, match=r"evaluation \d+ of sleeps\(7\) ran longer"):
            await hf.remote_eval(sleeps, 7).using(time_limit=0.1)
        with pytest.raises(hf.WorkerDied, match=r"while it ran evaluation \d+ of crashes_at_13\(13\)"):
            await hf.remote_eval(crashes_at_13, 13).using(retries=1)
        log = env.program.log_dir / "events.jsonl"
    events = [json.loads(text) for text in log.read_text().splitlines()]
    assert [event["call"] for event in events if event["state"] == "failed"] == [
        *(line[1], "sleeps(7)", "crashes_at_13(13)"),
    ]
    assert [event["call"] for event in events if "retry_after" in event] == ["crashes_at_13(13)"]


# ---- a crash in a chunk --------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("fn", [crashes_at_13, crashes_at_13_later])
@pytest.mark.parametrize("chunk_size", [1, 20, "auto"])
async def test_a_crash_costs_one_item(fn: Any, chunk_size: Any) -> None:
    """Not the chunk: the others are evaluated. Where errors are raised, the error names the right item."""
    async with local():
        results = await hf.remote_map(fn, range(60), chunk_size, errors="return")
        assert [n for n, result in enumerate(results) if result != n] == [13]
        failed = results[13]
        assert isinstance(failed, hf.Failed)
        assert (failed.index, failed.call) == (13, f"{fn.__name__}(13)")
        assert isinstance(failed.error, hf.WorkerDied)
        with pytest.raises(hf.WorkerDied, match=r"\(13\)") as caught:
            await hf.remote_map(fn, range(60), chunk_size)
        assert "for the item 13)" in notes(caught.value)


@pytest.mark.process
async def test_a_time_limit_costs_one_item(tmp_path: Path) -> None:
    """One item that hangs ends no others; nor does one that exits, or whose result cannot be sent or read."""

    class Exits:
        def __reduce__(self) -> Any:
            return sys.exit, (3,)

    def hangs(x: int) -> Any:
        import threading
        import time

        if x == 3:
            time.sleep(1000)
        if x == 5:
            sys.exit(1)
        return threading.Lock() if x == 7 else Exits() if x == 9 else x

    async with local():
        with hf.using(time_limit=1.0):
            results = await hf.remote_map(hangs, range(12), chunk_size=12, errors="return")
    kinds = {one.index: type(one.error) for one in results if isinstance(one, hf.Failed)}
    expected = {3: hf.TimeLimitExceeded, 5: hf.EvaluationExited, 7: hf.SerializationError, 9: hf.SerializationError}
    assert kinds == expected
    assert [one for one in results if not isinstance(one, hf.Failed)] == [0, 1, 2, 4, 6, 8, 10, 11]


# ---- hostile objects -----------------------------------------------------------------------------------------------


class ExitsHere:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class ExitsWhenSent:
    """Ends the process that pickles it."""

    def __reduce__(self) -> Any:
        raise SystemExit(3)


class CancelsWhenSent:
    """Raises what would cancel who pickles it."""

    def __reduce__(self) -> Any:
        raise asyncio.CancelledError


class Hostile(Exception):
    """Refuses everything."""

    def add_note(self, note: str, /) -> None:
        raise SystemExit(4)

    def __str__(self) -> str:
        raise SystemExit(5)


def gives(kind: type) -> Any:
    """Return one."""
    return kind()


def raises_hostile() -> None:
    """Raise one."""
    raise Hostile


@pytest.mark.process
async def test_what_exits_while_it_is_read_ends_its_own_await() -> None:
    """Arguments, captures, results and errors that raise SystemExit when they are pickled, read or shown."""
    captured = {"x": ExitsWhenSent()}
    flows: list[tuple[hf.Job[Any], type[Exception]]] = [
        (hf.remote_eval(gives, ExitsHere), hf.SerializationError),
        (hf.remote_eval(gives, ExitsWhenSent), hf.SerializationError),
        (hf.remote_eval(id, ExitsHere()), hf.SerializationError),
        (hf.remote_eval(id, [ExitsWhenSent()]), hf.SerializationError),
        (hf.remote_eval(id, {"a": CancelsWhenSent()}), hf.SerializationError),
        (hf.remote_eval(lambda: captured), hf.SerializationError),
        (hf.remote_eval(raises_hostile), Hostile),
    ]
    async with local() as env:
        beside = hf.remote_eval(gives, list).retry(1).start()
        for flow, kind in flows:
            with pytest.raises(kind):
                await flow
        assert await beside == []
        assert await hf.remote_eval(gives, list) == []
        assert env.statistics().nodes == 1
    async with open_inline_job():
        for flow, kind in flows:
            with pytest.raises(kind):
                await flow


# ---- what is lost --------------------------------------------------------------------------------------------------


async def test_clean_up_errors_of_losers_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """In a note to the error that is raised, or else in the log."""

    @hf.job
    async def loses(x: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Boom(f"clean-up {x}")

    @hf.job
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("first")

    @hf.job
    async def reads(*, early: bool) -> None:
        async for _ in hf.as_completed(lambda x: loses(x) if x else later_or(early), range(2)):
            break

    def later_or(early: bool) -> hf.Flow[Any]:
        return hf.pure(1) if early else fails()

    async with open_inline_job():
        for flow in (hf.race(loses(1), fails()), hf.concurrently(loses(1), fails()), reads(early=False)):
            with pytest.raises(KeyError) as caught:
                await flow
            assert "Boom: clean-up 1" in notes(caught.value)
        assert caplog.records == []
        assert await hf.race(loses(1), hf.pure(5), loses(2)) == 5
        assert "race: while flows were cancelled, 2 more failed: Boom: clean-up 1; Boom: clean-up 2" in caplog.text
        caplog.clear()
        future = hf.concurrently(loses(1), loses(2)).start()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert "concurrently: while flows were cancelled, 2 more failed: Boom: clean-up 1" in caplog.text


# ---- start, gather, TaskGroup --------------------------------------------------------------------------------------


async def test_start_returns_a_future() -> None:
    """It runs from then on; cancelling it cancels the run; each start is another run."""
    began: list[int] = []

    @hf.job
    async def runs(x: int) -> int:
        began.append(x)
        await asyncio.sleep(0)
        return x

    async with open_inline_job():
        flow = runs(1)
        first, second = flow.start(), flow.start()
        assert isinstance(first, asyncio.Future)
        await asyncio.sleep(0)
        assert began == [1, 1]
        assert await first == await second == 1
        done, _ = await asyncio.wait([runs(2).start(), hf.remote_eval(odd_fails, 4).start()])
        assert {future.result() for future in done} == {2, 4}


async def test_asyncio_takes_flows_where_it_can() -> None:
    """gather, wait_for, shield, ensure_future; elsewhere the error says what to write."""
    async with open_inline_job():
        flow = evaluated(4)
        assert await asyncio.gather(flow, evaluated(2), flow) == [4, 2, 4]
        assert await asyncio.wait_for(flow, 5) == 4  # noqa: TID251 (users call it)
        assert await asyncio.shield(flow) == 4
        assert await asyncio.ensure_future(flow) == 4
        words = r"a coroutine was expected, got .*odd_fails, 4\); write: .*odd_fails, 4\)\.start\(\)"
        with pytest.raises(TypeError, match=words):
            asyncio.create_task(flow)  # type: ignore[arg-type]  # noqa: RUF006
        with pytest.raises(ExceptionGroup) as group:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(flow)  # type: ignore[arg-type]
        assert re.search(words, str(group.value.exceptions[0]))
        with pytest.raises(AttributeError, match=r"no future before it is started; write: .*\.start\(\)"):
            await asyncio.wait([flow])  # type: ignore[type-var]
        with pytest.raises(AttributeError, match=r"write: .*\.start\(\)"):
            flow.result()  # type: ignore[attr-defined]


# ---- a flow that nobody awaits -------------------------------------------------------------------------------------


@hf.job
async def forgets() -> None:
    """Drop flows in several ways."""
    evaluated(1)
    kept = evaluated(2).map(abs).using(cpus=1)
    del kept
    stays = hf.pure(3)  # noqa: F841 (it dies with the function, when another one runs)
    odd_job_fails(4)


async def test_an_unawaited_flow_names_its_line() -> None:
    """The warning is about the line of the user's that made the flow, whatever runs when it dies."""
    source = Path(__file__).read_text().splitlines()
    async with open_inline_job():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await forgets()
    lines = {source[one.lineno - 1].split("#")[0].strip(): one for one in caught}
    assert all(one.filename == __file__ and one.category is hf.FlowNeverAwaited for one in caught)
    assert lines.keys() == {
        *("kept = evaluated(2).map(abs).using(cpus=1)", "stays = hf.pure(3)", "odd_job_fails(4)"),
        "return hf.remote_eval(odd_fails, x)",
    }
    assert f"made in forgets, {__file__}, line" in str(lines["odd_job_fails(4)"].message)


# ---- tracebacks ----------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio
import hyperflow as hf

def simulate(x):
    if x == 3:
        raise ValueError("negative mass")
    return x

async def slow(x):
    async with asyncio.timeout(0.01):
        await asyncio.sleep(50)

def deep(n):
    return deep(n - 1) if n else 1 / 0

@hf.job
async def inner(n):
    with hf.using(retries=1):
        return await hf.map_concurrently(lambda x: hf.remote_eval(simulate, x), range(n))

@hf.job
async def outer(n):
    return await hf.concurrently(inner(n).retry(1).using(cpus=1), hf.pure(1))

@hf.job
async def nested():
    return await outer(5)

@hf.job
async def slowly():
    return await hf.remote_map(slow, range(3))

@hf.job
async def timed():
    return await hf.remote_eval(slow, 1).timeout(0.001)

@hf.job
async def deeply():
    return await hf.remote_eval(deep, 50)

@hf.job
async def locked():
    import threading
    return await hf.remote_eval(simulate, threading.Lock())

print(hf.run_job_local({job}(), cpus=2))
"""


def failing_program(tmp_path: Path, job: str, **environment: str) -> str:
    """Run a program that fails, and return what it has said."""
    path = script(tmp_path, PROGRAM.replace("{job}", job))
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "TMPDIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


@pytest.mark.process
@pytest.mark.parametrize("job", ["nested", "slowly", "timed", "deeply", "locked"])
def test_a_traceback_is_short(tmp_path: Path, job: str) -> None:
    """At most ten frames, those of the user; nothing of asyncio or the engine is chained. HYPERFLOW_DEBUG=1 shows."""
    path = tmp_path / "script.py"
    said = failing_program(tmp_path, job)
    for part in said.split("remote Traceback"):
        frames = re.findall(r'^ +File "(.*)", line', part, re.MULTILINE)
        assert 0 < len(frames) <= 10, part
        others = [name for name in frames if not name.startswith(str(path))]
        assert len(others) <= 1, part  # that of run_job_local
    assert "During handling" not in said
    assert "direct cause" not in said
    assert "asyncio/" not in said
    if job == "nested":
        files = [re.sub(r".*, in ", "", line) for line in said.splitlines() if line.startswith(f'  File "{tmp_path}')]
        assert files == ["<module>", "nested", "outer", "inner", "simulate"]

    full = failing_program(tmp_path, job, HYPERFLOW_DEBUG="1")
    assert "asyncio/" in full or "uvloop/" in full
    assert "hyperflow/" in full


async def test_a_users_own_chain_stays() -> None:
    """Errors that the user raised from another one keep it; the frames in between are the user's own."""

    def parse(text: str) -> int:
        try:
            return int(text)
        except ValueError as error:
            raise Boom("no number") from error

    @hf.job
    async def parses() -> int:
        await asyncio.sleep(0)
        return parse("x")

    async with open_inline_job():
        with pytest.raises(Boom) as caught:
            await hf.map_concurrently(lambda _: parses(), [1])
        assert isinstance(caught.value.__cause__, ValueError)
        told = "".join(traceback.format_exception(caught.value))
        assert "direct cause" in told
        assert "in parses" in told


def test_many_frames_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last ones stay, and a note says so; a note of ours stands there once."""

    def deep(n: int) -> None:
        if n == 0:
            raise Boom
        deep(n - 1)

    def caught() -> Boom:
        try:
            deep(50)
        except Boom as error:
            return error
        raise AssertionError

    error = caught()
    failures.shorten(error)
    failures.shorten(error)
    assert len(traceback.extract_tb(error.__traceback__)) == 10
    assert traceback.extract_tb(error.__traceback__)[0].name == "caught"
    assert notes(error) == "(42 of 52 frames are left out of the traceback; HYPERFLOW_DEBUG=1 shows all)"
    monkeypatch.setenv("HYPERFLOW_DEBUG", "1")
    error = caught()
    failures.shorten(error)
    assert len(traceback.extract_tb(error.__traceback__)) == 52
