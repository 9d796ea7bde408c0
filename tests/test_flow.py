"""Flow: what it is made of, how it runs, and that it obeys the monad laws."""

from __future__ import annotations

import asyncio
import functools
import operator
import pickle
import re
from collections.abc import Callable
from inspect import get_annotations
from typing import Any

import attrs
import dill
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperflow._job import JobEnv, job
from hyperflow.environment import Environment, current, using
from hyperflow.errors import ConfigurationError
from hyperflow.flow import Flow, Job, ask, pure
from hyperflow.options import JobOptions, OptionChanges, Options, Resubmit
from hyperflow.remote import remote_eval, remote_map
from hyperflow.slurm.script import SbatchOptions
from hyperflow.testing import open_inline_job


class Boom(Exception):
    """What goes wrong in these tests."""


class Boom2(Exception):
    """Something else that goes wrong."""


trace: list[object] = []


@pytest.fixture(autouse=True)
def empty_trace() -> None:
    """Begin every test with nothing noted."""
    trace.clear()


@job
async def noted(x: int) -> int:
    """Note x and give it."""
    trace.append(x)
    await asyncio.sleep(0)
    return x


@job
async def failing(x: int) -> int:
    """Note -x and raise."""
    trace.append(-x)
    raise Boom(x)


@attrs.frozen
class Base:
    """Has a job for a method."""

    value: int

    @job
    async def plus(self, x: int, *, times: int = 1) -> int:
        """Add x some times."""
        return self.value + times * x


def double(x: int) -> int:
    """Double."""
    return 2 * x


async def double_later(x: int) -> int:
    """Double after a turn of the event loop."""
    await asyncio.sleep(0)
    return 2 * x


def run(flow: Flow[Any]) -> Any:
    """Run a flow in an environment of its own."""

    async def main() -> Any:
        async with open_inline_job(cpus=2):
            return await flow

    return asyncio.run(main())


# ---- the laws ------------------------------------------------------------------------------------------------------


def outcome(flow: Flow[Any]) -> tuple[Any, ...]:
    """Return what a flow gives or raises, and all that it did."""
    trace.clear()
    try:
        return run(flow), None, tuple(trace)
    except (Boom, MemoryError) as error:
        return None, (type(error), error.args), tuple(trace)


@attrs.frozen
class Arrow:
    """A function from a number to a flow, which says what it is when a law is broken."""

    kind: str
    n: int

    def __call__(self, x: int) -> Flow[int]:
        match self.kind:
            case "pure":
                return pure(x + self.n)
            case "noted":
                return noted(x * self.n)
            case "remote":
                return remote_eval(operator.add, x, self.n)
            case "nested":
                return noted(self.n).then(lambda y: pure(x - y)).map(double)
            case _:
                return failing(x + self.n)


arrows = st.builds(Arrow, st.sampled_from(["pure", "noted", "remote", "nested", "failing"]), st.integers(-3, 3))
flows = st.builds(lambda arrow, x: arrow(x), arrows, st.integers(-9, 9))


@given(arrows, st.integers())
def test_left_identity(f: Arrow, x: int) -> None:
    """`pure(x).then(f)` is `f(x)`."""
    assert outcome(pure(x).then(f)) == outcome(f(x))


@given(flows)
def test_right_identity(flow: Flow[int]) -> None:
    """`flow.then(pure)` is `flow`."""
    assert outcome(flow.then(pure)) == outcome(flow)


@given(flows, arrows, arrows)
def test_associativity(flow: Flow[int], f: Arrow, g: Arrow) -> None:
    """It does not matter how a chain is bracketed."""
    assert outcome(flow.then(f).then(g)) == outcome(flow.then(lambda x: f(x).then(g)))


@given(flows, st.integers())
def test_map_is_then_pure(flow: Flow[int], n: int) -> None:
    """`map(f)` is `then` with a function that wraps its result; two maps are one."""

    def f(x: int) -> int:
        return x * n

    assert outcome(flow.map(f)) == outcome(flow.then(lambda x: pure(f(x))))
    assert outcome(flow.map(f).map(double)) == outcome(flow.map(lambda x: double(f(x))))


# ---- immutable, awaited often, pickled -----------------------------------------------------------------------------


async def test_a_flow_runs_anew_at_each_await() -> None:
    """Nothing happens when it is made, and everything at each await."""
    async with open_inline_job():
        flow = noted(3)
        assert trace == []

        assert [await flow, await flow, await flow.map(double)] == [3, 3, 6]
        assert trace == [3, 3, 3]


async def test_combining_changes_no_flow() -> None:
    """Every combinator makes a new flow and leaves the old one as it was."""
    async with open_inline_job(cpus=4) as env:
        flow = ask().map(lambda env: env.options)
        others = [flow.using(cpus=4), flow.map(repr), flow.then(pure), flow.retry(2), flow.timeout(5)]

        assert await flow == Options()
        assert [await other for other in others[1:]] == [repr(Options()), *[Options()] * 3]
        assert (await others[0]).cpus == 4
        assert await flow == env.options
        with pytest.raises(AttributeError):
            flow.step.value = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", [pickle, dill])
@pytest.mark.parametrize(
    ("flow", "result"),
    [
        (noted(4), 4),
        (Base(40).plus(1, times=2), 42),
        (remote_eval(double, 21), 42),
        (remote_map(double, [1, 2]), [2, 4]),
        (pure([1]).map(len), 1),
        (noted(1).then(noted).retry(2, on=Boom).timeout(9).using(cpus=2), 1),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_flows_are_pickled_with_their_arguments(module: Any, flow: Flow[Any], result: Any) -> None:
    """A copy from a pickle gives the same result, and is of the same class."""
    copy = module.loads(module.dumps(flow))

    assert type(copy) is Job
    async with open_inline_job(cpus=2):
        assert await copy == result


async def test_dill_pickles_flows_of_local_functions() -> None:
    """A job function without a name in a module travels by value."""
    n = 20

    @job
    async def local(x: int) -> int:
        return x + n

    copy = dill.loads(dill.dumps(local(1).map(lambda x: 2 * x)))

    async with open_inline_job():
        assert await copy == 42


def test_a_job_function_looks_like_its_function() -> None:
    """Name and docstring are kept; it pickles by name; a method is found on the class, too."""
    assert (Base.plus.__name__, Base.plus.__doc__) == ("plus", "Add x some times.")  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(noted)) is noted
    assert run(Base.plus(Base(1), 2)) == 3


# ---- map, then, using, ask, retry, timeout -------------------------------------------------------------------------


async def test_remote_functions_may_be_plain_or_async() -> None:
    """Both are called on the worker and give their result."""
    async with open_inline_job():
        assert await remote_eval(double, 4) == 8
        assert await remote_eval(double_later, x=4) == 8
        assert await remote_eval(functools.partial(double, 5)) == 10


async def test_using_holds_for_its_scope() -> None:
    """Options change for the flow or the block, nested ones add up, and nothing remains."""

    @job
    async def options() -> Options:
        return current().options

    async with open_inline_job(cpus=4) as env:
        with using(cpus=2, retries=1) as changed:
            assert await options() == Options(cpus=2, retries=1) == changed.options
            assert await options().using(retries=3) == Options(cpus=2, retries=3)
            assert await options().using(cpus=3).using(retries=0) == Options(cpus=3, retries=0)
            task = asyncio.create_task(_awaited(options()))
        assert await options() == Options()
        assert await task == Options(cpus=2, retries=1)  # what was in force where the task was made
        assert current() is env


async def _awaited(flow: Flow[Any]) -> Any:
    return await flow


async def test_ask_gives_the_environment() -> None:
    """It is the one that `open_...` gave, changed by `using`."""
    async with open_inline_job(cpus=2) as env:
        asked: Environment = await ask()
        assert asked is env
        assert isinstance(asked, JobEnv)
        assert (await ask().using(cpus=2)).options.cpus == 2


@pytest.mark.parametrize(("failures", "times", "wins"), [(0, 0, True), (2, 2, True), (3, 2, False), (1, 0, False)])
async def test_retry(failures: int, times: int, wins: bool) -> None:
    """It runs again so many times at most; the last error is raised as itself."""

    @job
    async def fails_at_first() -> str:
        trace.append(1)
        if len(trace) <= failures:
            raise Boom(len(trace))
        return "done"

    async with open_inline_job():
        if wins:
            assert await fails_at_first().retry(times) == "done"
        else:
            with pytest.raises(Boom) as caught:
                await fails_at_first().retry(times)
            assert caught.value.args == (times + 1,)
    assert len(trace) == min(failures, times) + 1


async def test_retry_looks_at_the_kind_of_error() -> None:
    """Only errors of `on` are tried again, and cancelling never is."""

    @job
    async def interrupted() -> None:
        trace.append("again")
        raise asyncio.CancelledError

    async with open_inline_job():
        with pytest.raises(Boom):
            await failing(1).retry(5, on=(Boom2, OSError))
        assert trace == [-1]
        with pytest.raises(asyncio.CancelledError):
            await interrupted().retry(5, on=BaseException)
        assert trace == [-1, "again"]


async def test_timeout_cancels_and_names_the_flow() -> None:
    """The flow is cancelled and awaited, and the error says which it was; one of the flow's own passes as it is."""

    @job
    async def endless(x: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            trace.append("cleaned up")

    @job
    async def own() -> None:
        raise TimeoutError("its own")

    async with open_inline_job():
        with pytest.raises(TimeoutError, match=r"endless\(7\).*longer than 0\.01 s"):
            await endless(7).timeout(0.01)
        assert trace == ["cleaned up"]
        with pytest.raises(TimeoutError, match=r"^its own$"):
            await own().timeout(5)
        assert await pure(1).timeout(5) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda flow: flow.retry(-1),
        lambda flow: flow.timeout(-1),
        lambda flow: flow.timeout(float("nan")),
        lambda flow: flow.using(cpus=0),
        lambda flow: flow.using(cpus=True),
        lambda flow: flow.using(cpus=1.5),
        lambda flow: flow.using(retries=-1),
        lambda flow: flow.using(time_limit=0),
        lambda flow: flow.using(fresh_process="yes"),
        lambda flow: flow.using(sbatch="nodes=2"),
        lambda flow: flow.using(on_error="ignore"),
        lambda flow: flow.using(on_error={"JobFailed": "raise"}),
    ],
)
def test_nonsense_is_refused_when_the_flow_is_made(make: Callable[[Flow[int]], object]) -> None:
    """The error names the option and its value."""
    with pytest.raises(
        (ConfigurationError, TypeError),
        match=r"retry|timeout|cpus=|retries=|time_limit=|fresh_process|sbatch=|on_error=",
    ):
        make(pure(1))


async def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    """The error names the one that was probably meant, and all there are: for the flow, the block, the environment."""
    words = r"using\(cpu=\.\.\.\): no such option; did you mean cpus\? There are cpus, fresh_process, .*, on_error\n"
    with pytest.raises(ConfigurationError, match=words):
        pure(1).using(cpu=4)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"using\(zzz=\.\.\.\): no such option; there are cpus, "):
        pure(1).using(zzz=4)  # type: ignore[call-arg]
    async with open_inline_job() as env:
        with pytest.raises(ConfigurationError, match=words), using(cpu=4):  # type: ignore[call-arg]
            pass
        with pytest.raises(ConfigurationError, match=words):
            env.using(cpu=4)  # type: ignore[call-arg]


def test_the_options_are_written_alike_in_all_three_places() -> None:
    """What `using` takes is, with the same types, what the two records have; its docstring explains each."""
    taken = {name: hint.__forward_arg__ for name, hint in get_annotations(OptionChanges).items()}
    fields = [field for record in (Options, JobOptions) for field in attrs.fields(record) if field.init]

    assert taken.keys() == {field.name for field in fields}
    assert {
        name: hint for name, hint in taken.items() if name not in ("memory", "resources", "min_time", "time_limit")
    } == {
        field.name: field.type for field in fields if field.converter is None or field.name == "gpus"
    }  # the others are written as texts, too, or as a dictionary
    for name in taken:
        assert re.search(rf"\n +{name}: ", using.__doc__ or "")  # Python 3.13 takes the indentation out


@pytest.mark.parametrize("value", [0, 0.9, -3.0, float("nan"), float("inf"), True, "3"])
def test_straggler_factors_that_make_no_sense(value: Any) -> None:
    """A number of at least 1 is needed."""
    with pytest.raises(ConfigurationError, match=r"straggler_factor=.*: a number of at least 1 is needed"):
        pure(1).using(straggler_factor=value)


async def test_an_exclusive_evaluation_gets_no_copy() -> None:
    """What must not run twice gets no copies; to ask for both is an error, also in scopes within one another."""
    words = r"using\(exclusive=True, straggler_factor=3\): an exclusive evaluation must not run twice at a time"
    with pytest.raises(ConfigurationError, match=words):
        pure(1).using(exclusive=True, straggler_factor=3.0)
    async with open_inline_job():
        with using(straggler_factor=3.0), pytest.raises(ConfigurationError, match=words), using(exclusive=True):
            pass
        with using(straggler_factor=3.0), using(exclusive=True, straggler_factor=None) as env:
            assert env.options == Options(exclusive=True)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_crash_limits_that_make_no_sense(value: Any) -> None:
    """A whole number of at least 1 is needed."""
    with pytest.raises(ConfigurationError, match=r"crash_limit=.*: a whole number of at least 1 is needed"):
        pure(1).using(crash_limit=value)


async def test_options_of_jobs_are_kept_apart_from_those_of_evaluations() -> None:
    """`using` sorts its arguments into the two records; what is not mentioned stays."""
    sbatch = SbatchOptions(nodes=2)
    async with open_inline_job(cpus=4):
        with using(cpus=2, sbatch=sbatch), using(on_error=Resubmit(2)) as env:
            assert env.options == Options(cpus=2)
            assert env.job_options == JobOptions(sbatch, Resubmit(2))
            assert current() is env


# ---- long chains ---------------------------------------------------------------------------------------------------

LONG = 10_000


async def test_long_chains_to_the_left() -> None:
    """Ten thousand `map` and `then` behind one another use no stack."""
    flow: Flow[int] = pure(0)
    for _ in range(LONG):
        flow = flow.map(lambda x: x + 1).then(lambda x: pure(x + 1))

    async with open_inline_job():
        assert await flow == 2 * LONG


async def test_long_chains_to_the_right() -> None:
    """Ten thousand `then` inside one another use no stack either."""

    def down(n: int) -> Flow[str]:
        return pure(n - 1).then(down) if n else pure("landed")

    async with open_inline_job():
        assert await down(LONG) == "landed"


async def test_a_long_chain_has_a_short_name() -> None:
    """What errors call it is how it was written, and cut in a long chain."""
    flow: Flow[int] = noted(1)
    for _ in range(LONG):
        flow = flow.map(double)

    assert repr(flow) == "<Job ....map(double).map(double).map(double)>"
    assert repr(noted(1).then(noted).map(double)) == "<Job noted(1).then(noted).map(double)>"
    assert repr(pure("x").using(cpus=2).retry(3).timeout(60)) == "<Job pure('x').using(cpus=2).retry(3).timeout(60)>"


async def test_an_endless_chain_can_be_cancelled() -> None:
    """Recursion through `then` gives the event loop its turns, even if nothing in it waits."""

    def on(n: int) -> Flow[int]:
        return pure(n + 1).then(on)

    async with open_inline_job():
        task = asyncio.create_task(_awaited(on(0)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
