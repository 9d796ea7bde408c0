"""Each mistake that is easily made gets an error that shows the corrected call."""

# Every use of a flow is written out, as a user writes it.
# ruff: noqa: PLW0108

from __future__ import annotations

import asyncio
import functools
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperflow._cluster import ClusterEnv
from hyperflow._job import JobEnv, job, run_job_local
from hyperflow.command import run_command
from hyperflow.concurrent import as_completed, concurrently, map_concurrently, race, replicate_concurrently
from hyperflow.database.memo import memoize
from hyperflow.environment import using
from hyperflow.errors import ConfigurationError, FlowNeverAwaited, MisuseError, NotInFlow
from hyperflow.flow import Flow, Job, ask, pure
from hyperflow.program import ProgramInfo
from hyperflow.remote import remote_eval, remote_map
from hyperflow.testing import open_inline_job
from tests.support import local


@job
async def measure(x: int, unit: str = "m") -> int:
    """Be a job."""
    return x


async def plain_coroutine(x: int) -> int:
    """Be no job."""
    return x


def double(x: int) -> int:
    """Be an ordinary function."""
    return 2 * x


@memoize("halved")
def halved(x: int) -> Job[float]:
    """Be a memoized function."""
    return pure(x / 2)


def uses(x: int) -> int:
    """Be a function on a worker that wants other options."""
    with using(cpus=1):
        return x


async def asks_for_more(x: int) -> int:
    """Be a function on a worker that wants evaluations of its own."""
    return await remote_eval(double, x)


# ---- where nothing runs it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flow",
    [measure(3), pure(3), ask(), remote_eval(double, 3), concurrently(pure(1)), pure(1).using(cpus=2).retry(2)],
    ids=repr,
)
async def test_awaiting_outside_a_run(flow: Flow[Any]) -> None:
    """The error names the flow and what to call instead: in a script, in async code, in a notebook."""
    with pytest.raises(NotInFlow) as caught:
        await flow

    for words in (
        repr(flow),
        "run_job_local(my_job())",
        "async with hyperflow.open_local_job() as env",
        "env = await hyperflow.start_local()",
    ):
        assert words in str(caught.value)
    with pytest.raises(NotInFlow):
        flow.start()


async def test_an_evaluation_that_wants_evaluations() -> None:
    """On a worker, and inline, the error says: make it a job."""
    for open_job in (open_inline_job, local):
        async with open_job(cpus=1):
            for fn in (asks_for_more, uses):
                with pytest.raises(NotInFlow, match=r"put @hyperflow\.job above its `async def`"):
                    await remote_eval(fn, 1)


def leaves_the_await_out(x: int) -> object:
    """Be a function on a worker that returns a flow."""
    return remote_eval(double, x)


USES_ON_A_WORKER: list[Callable[[int], Any]] = [
    leaves_the_await_out,
    lambda x: [remote_eval(double, x)],
    lambda x: {"a": (measure(x),)},
    lambda x: remote_eval(double, x) + 1,  # type: ignore[operator]
    lambda x: "a" if remote_eval(double, x) else "b",
    lambda x: remote_eval(double, x).real,  # type: ignore[attr-defined]
]


async def test_a_function_on_a_worker_that_makes_flows() -> None:
    """Whatever it does with them, the error says: make it a job; nothing says `(await ...)`, which a def cannot."""
    for open_job in (open_inline_job, local):
        async with open_job(cpus=1):
            for fn in USES_ON_A_WORKER:
                with pytest.raises((MisuseError, AttributeError), match="a worker starts no evaluations") as caught:
                    await remote_eval(fn, 3)
                assert "put @hyperflow.job above its `async def`" in str(caught.value)
                assert "(await " not in str(caught.value)
            with pytest.raises(MisuseError, match="a worker starts no evaluations"):
                await remote_map(leaves_the_await_out, [1])
            flow = await pure(measure(3))  # here it may be kept, and awaited later
            assert await flow == 3


async def test_the_kind_of_an_environment() -> None:
    """`ask(kind)` gives it, or says that it is another one."""
    async with open_inline_job() as env:
        assert (await ask(JobEnv)).program is env.program
        with pytest.raises(MisuseError, match=r"ask\(ClusterEnv\): the environment here is a JobEnv"):
            await ask(ClusterEnv)


def test_commands_belong_on_workers() -> None:
    """In a job, or anywhere else, the error shows the call, and no name that the user did not write."""
    with pytest.raises(
        MisuseError, match=r"write: await hyperflow\.remote_eval\(hyperflow\.run_command, \['ls'\]\)"
    ) as it:
        asyncio.run(run_command(["ls"]))
    assert "worker_info" not in str(it.value)


@pytest.mark.parametrize("n", [-1, 1.5, True, "two"])
def test_how_often_to_replicate(n: Any) -> None:
    """A number below 0 is no number of runs; 0 is."""
    with pytest.raises(ConfigurationError, match="a whole number of at least 0 is needed"):
        replicate_concurrently(n, pure(1))


def test_using_outside_a_run() -> None:
    """The same for the block form of `using`."""
    with pytest.raises(NotInFlow, match=r"using\(\.\.\.\) was awaited where nothing runs it"), using(cpus=2):
        pass


async def test_blocking_in_a_running_loop() -> None:
    """`run_job_local` would block the loop: the error shows the async form of the same call."""
    with pytest.raises(
        MisuseError, match=r"async with hyperflow\.open_local_job\(\) as env: result = await measure\(3, unit='cm'\)"
    ):
        run_job_local(measure(3, unit="cm"))


# ---- a forgotten await ---------------------------------------------------------------------------------------------


async def test_a_flow_that_is_made_and_dropped() -> None:
    """Inside a run that is a warning with the corrected line; one that somebody took over is not."""

    def drop() -> None:
        measure(1)
        gc.collect()

    async with open_inline_job():
        with pytest.warns(
            FlowNeverAwaited, match=r"<Job measure\(1\)> was made but never awaited; write: await measure"
        ):
            drop()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await concurrently(measure(1), measure(2).retry(1))
            await map_concurrently(measure, [1, 2])
            await race(measure(1), measure(2).timeout(3))
            await replicate_concurrently(2, measure(1))
            await measure(1).then(measure)
            refusals: list[dict[str, Any]] = [{"cpu": 2}, {"sbatch": "nodes=2"}]
            for refused in refusals:  # one error is enough
                with pytest.raises(ConfigurationError):
                    measure(1).using(**refused)
            with pytest.raises(ConfigurationError):
                measure(1).retry(-1)
            with pytest.raises(MisuseError, match=r"write: concurrently\(\*flows\)"):
                await concurrently([measure(1), measure(2)])  # type: ignore[call-overload]
            gc.collect()
    drop()  # outside of a run, flows are made to be run later


USES: list[Callable[[Any], object]] = [
    lambda flow: flow + 1,
    lambda flow: 1 + flow,
    lambda flow: flow * 2,
    lambda flow: 2 / flow,
    lambda flow: -flow,
    lambda flow: flow**2,
    lambda flow: flow < 3,
    lambda flow: flow >= 3,
    lambda flow: "yes" if flow else "no",
    lambda flow: not flow,
    lambda flow: list(flow),
    lambda flow: len(flow),
    lambda flow: flow[0],
    lambda flow: 3 in flow,
    lambda flow: float(flow),
    lambda flow: int(flow),
    lambda flow: range(flow),
    lambda flow: sum([flow]),
]


@pytest.mark.parametrize("use", USES)
def test_a_flow_used_as_its_result(use: Callable[[Any], object]) -> None:
    """Arithmetic, comparing, truth, iterating, indexing, converting: write (await ...)."""
    with pytest.raises(
        MisuseError, match=r"<Job measure\(3\)> is a flow, not its result; write: \(await measure\(3\)\)"
    ):
        use(measure(3))


def test_an_attribute_of_the_result() -> None:
    """The error shows where the await belongs; what pickle and copy ask for is answered plainly."""
    with pytest.raises(AttributeError, match=r"write: \(await measure\(3\)\)\.mean"):
        measure(3).mean  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(measure(3), "__array__")


def test_a_job_that_returns_a_flow() -> None:
    """`return await`: the message shows it."""

    @job
    async def forgetful() -> Any:
        return measure(3)

    with pytest.raises(MisuseError, match=r"<Job forgetful\(\)> returned the flow .*: return await measure\(3\)"):
        run_job_local(forgetful(), cpus=1)


# ---- a coroutine, a flow, a function in each other's place ---------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: remote_eval(c), r"write remote_eval\(plain_coroutine, \.\.\.\)"),
        (lambda c: remote_map(c, [1]), r"write remote_map\(plain_coroutine, \.\.\.\)"),
        (lambda c: map_concurrently(c, [1]), r"write map_concurrently\(plain_coroutine, \.\.\.\)"),
        (lambda c: pure(1).map(c), r"write map\(plain_coroutine, \.\.\.\)"),
        (lambda c: pure(1).then(c), r"write then\(plain_coroutine, \.\.\.\)"),
        (lambda c: concurrently(pure(1), c), r"put @hyperflow\.job above `async def plain_coroutine`"),
        (lambda c: race(c), "put @hyperflow.job above"),
        (lambda c: replicate_concurrently(2, c), "put @hyperflow.job above"),
        (lambda c: run_job_local(c), "put @hyperflow.job above"),
        (lambda c: job(c), r"@job takes the function, not the coroutine plain_coroutine\(\.\.\.\)"),
    ],
)
def test_a_coroutine_where_something_else_belongs(call: Callable[[Any], object], words: str) -> None:
    """It is closed, so that Python does not warn as well, and the corrected call is shown."""
    coroutine = plain_coroutine(1)
    with pytest.raises(MisuseError, match=words):
        call(coroutine)
    assert coroutine.cr_frame is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: concurrently(measure), r"call it, as in concurrently\(measure\(\.\.\.\)\)"),  # type: ignore[call-overload]
        (lambda: race(3), r"race takes a flow, not 3; a plain value becomes one with hyperflow\.pure\(\.\.\.\)"),  # type: ignore[arg-type]
        (lambda: concurrently([pure(1)]), r"write: concurrently\(\*flows\)"),  # type: ignore[call-overload]
        (lambda: race(pure(n) for n in range(2)), r"write: race\(\*flows\)"),  # type: ignore[call-overload]
        (lambda: run_job_local(measure), r"call it, as in run_job_local\(measure\(\.\.\.\)\)"),  # type: ignore[arg-type]
        (lambda: remote_eval(measure(1)), r"remote_eval takes a function, not the flow <Job measure\(1\)>"),  # type: ignore[call-overload]
        (lambda: pure(1).map(3), "map takes a function, not 3"),  # type: ignore[arg-type]
        (
            lambda: remote_eval(double(1)),
            r"function and arguments apart: remote_eval\(f, \.\.\.\) in place of remote_eval\(f\(",
        ),  # type: ignore[call-overload]
        (lambda: remote_map(double(1), [1]), r"function and arguments apart: remote_map\(f, \.\.\.\)"),  # type: ignore[call-overload]
        (lambda: remote_eval(measure, 1), r"measure is one that makes flows.* write: await measure\(\.\.\.\)"),
        (lambda: remote_eval(functools.partial(measure, 1)), r"write: await measure\(\.\.\.\)"),
        (lambda: remote_eval(halved, 1), r"write: await halved\(\.\.\.\)"),
        (lambda: remote_map(measure, [1]), r"write: await hyperflow\.map_concurrently\(measure, \.\.\.\)"),
        (lambda: race(double), r"write: race\(hyperflow\.remote_eval\(double, \.\.\.\)\)"),  # type: ignore[call-overload]
        (lambda: replicate_concurrently(2, double), r"hyperflow\.remote_eval\(double, \.\.\.\)"),  # type: ignore[arg-type]
    ],
)
def test_functions_flows_and_values_in_each_others_place(call: Callable[[], object], words: str) -> None:
    """The error says what was given and what belongs there."""
    with pytest.raises(MisuseError, match=words):
        call()


async def test_functions_that_should_make_flows() -> None:
    """`then`, `map_concurrently` and `as_completed` say so when they get a value."""
    async with open_inline_job():
        with pytest.raises(
            MisuseError, match=r"returned 2; for a plain value use map\(fn\), or return hyperflow\.pure"
        ):
            await pure(1).then(double)  # type: ignore[arg-type]
        with pytest.raises(MisuseError, match="its function double returned 2, which is none") as caught:
            await map_concurrently(double, [1])  # type: ignore[arg-type]
        assert "hyperflow.remote_map(double, ...), or map_concurrently(lambda x: hyperflow.remote_eval" in str(
            caught.value
        )
        assert "pure" not in str(caught.value)
        with pytest.raises(MisuseError, match=r"as_completed\(lambda x: hyperflow\.remote_eval\(double, x\), \.\.\.\)"):
            await anext(as_completed(double, [1]))  # type: ignore[arg-type,type-var]
        with pytest.raises(MisuseError, match=r"put @hyperflow\.job above `async def plain_coroutine`"):
            await anext(as_completed(plain_coroutine, [1]))  # type: ignore[arg-type,type-var]


# ---- @job ----------------------------------------------------------------------------------------------------------


def generates() -> Iterator[int]:
    """Yield."""
    yield 1


async def generates_later() -> AsyncIterator[int]:
    """Yield later."""
    yield 1


class Measurement:
    """No function at all."""


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (generates, r"generates is a generator \(it contains `yield`\).* collect the values in a list"),
        (generates_later, "generates_later is a generator"),
        (Measurement, r"not the class Measurement; put it above `async def`"),
        (double, r"double is an ordinary function; write: async def double\(\.\.\.\)"),
        (len, "len is an ordinary function"),
    ],
)
def test_job_takes_async_functions_only(fn: Any, words: str) -> None:
    """The error says what it was given, and what to write."""
    with pytest.raises(MisuseError, match=words):
        job(fn)


def test_wrong_arguments_are_noticed_when_the_job_runs() -> None:
    """And are Python's own TypeError."""

    async def main() -> None:
        async with open_inline_job():
            await measure("one", "two", "three")  # type: ignore[call-arg,arg-type]

    with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments"):
        asyncio.run(main())


@pytest.mark.parametrize("chunk_size", [0, -1, 1.5, True, "large"])
def test_chunk_size_is_a_number_or_auto(chunk_size: Any) -> None:
    """The error shows both."""
    with pytest.raises(ConfigurationError, match='a whole number of at least 1 is needed, or "auto"'):
        remote_map(double, [1], chunk_size=chunk_size)


@pytest.mark.parametrize("cpus", [0, -1, 1.5, True, "two"])
def test_cpus_of_a_run_is_a_positive_number(cpus: Any, tmp_path: Path) -> None:
    """The error names the option and its value."""
    with pytest.raises(ConfigurationError, match=r"cpus=.*: a whole number of at least 1 is needed"):
        run_job_local(pure(1), cpus=cpus, program=ProgramInfo.new(tmp_path))
