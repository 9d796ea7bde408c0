"""Flows side by side: results in order, one failure for all, nothing left running."""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperflow import concurrent
from hyperflow._job import job
from hyperflow.concurrent import as_completed, concurrently, map_concurrently, race, replicate_concurrently
from hyperflow.environment import current
from hyperflow.errors import ConfigurationError, ImpossibleRequest, MisuseError
from hyperflow.flow import Flow, ask, pure
from hyperflow.remote import remote_eval
from hyperflow.testing import open_inline_job
from tests.test_flow import Boom, Boom2, double, run


class Stage:
    """Jobs that wait for their cue, and note what becomes of them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.cues: dict[str, asyncio.Event] = {}
        self.running = 0
        self.most = 0

    @job
    async def waits(self, name: str, raises: Exception | None = None, clean_up: Exception | None = None) -> str:
        """Wait for the cue; note the end, and a clean-up that itself takes a while."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.cues.setdefault(name, asyncio.Event()).wait()
            self.events.append(f"{name} ended")
        except asyncio.CancelledError:
            for _ in range(3):
                await asyncio.sleep(0)
            self.events.append(f"{name} cleaned up")
            if clean_up:
                raise clean_up from None
            raise
        finally:
            self.running -= 1
        if raises:
            raise raises
        return name

    def cue(self, *names: str) -> None:
        """Let them end."""
        for name in names:
            self.cues.setdefault(name, asyncio.Event()).set()

    async def on(self, count: int) -> None:
        """Wait until so many run."""
        async with asyncio.timeout(40):
            while self.running != count:  # noqa: ASYNC110 (a turn each for those that are to run)
                await asyncio.sleep(0)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Give a stage; at the end nobody may be left on it."""
    made = Stage()
    yield made
    assert made.running == 0


async def awaited(flow: Flow[Any]) -> Any:
    """Make a coroutine of a flow."""
    return await flow


# ---- results -------------------------------------------------------------------------------------------------------


async def test_results_are_in_order(stage: Stage) -> None:
    """Whatever ends first."""
    async with open_inline_job():
        task = asyncio.create_task(awaited(concurrently(stage.waits("a"), stage.waits("b"), pure(3))))
        await stage.on(2)
        stage.cue("b")
        await stage.on(1)
        stage.cue("a")

        assert await task == ("a", "b", 3)
        assert stage.events == ["b ended", "a ended"]
        assert await concurrently() == ()
        assert await map_concurrently(pure, "abc") == ["a", "b", "c"]
        assert await map_concurrently(pure, []) == []


async def test_everything_can_be_awaited_again() -> None:
    """Combined flows are flows."""
    counter = itertools.count()

    @job
    async def tick() -> int:
        return next(counter)

    async with open_inline_job(cpus=2):
        three = replicate_concurrently(3, tick())
        assert [await three, await three] == [[0, 1, 2], [3, 4, 5]]
        pair = concurrently(tick(), remote_eval(double, 4)).map(sum)
        assert [await pair, await pair] == [14, 15]


async def test_many_evaluations_make_few_tasks() -> None:
    """A remote evaluation among others costs a future of the evaluator's, and no task of ours."""
    async with open_inline_job(cpus=3) as env:
        task = asyncio.create_task(awaited(map_concurrently(lambda n: remote_eval(double, n), range(500))))
        await asyncio.sleep(0)

        assert len(asyncio.all_tasks()) == 500 + 2  # the evaluator's own, this test and the one above
        assert await task == [2 * n for n in range(500)]
        assert env.statistics().done == 500


async def test_the_environment_reaches_each_one() -> None:
    """`using` around a combinator holds for all in it, and inside it for one of them."""
    async with open_inline_job(cpus=4):
        cpus = ask().map(lambda env: env.options.cpus)
        assert await concurrently(cpus, cpus.using(cpus=3), cpus).using(cpus=2) == (2, 3, 2)
        assert await map_concurrently(lambda n: cpus.using(cpus=n), [1, 2, 3]) == [1, 2, 3]
        with pytest.raises(ImpossibleRequest):
            await map_concurrently(lambda n: remote_eval(double, n).using(cpus=n), [1, 4, 5])


# ---- the applicative laws ------------------------------------------------------------------------------------------


def apply(fn: Flow[Callable[[Any], Any]], x: Flow[Any]) -> Flow[Any]:
    """Apply what one flow gives to what the other gives: `<*>`."""
    return concurrently(fn, x).map(lambda pair: pair[0](pair[1]))


@job
async def later(x: Any) -> Any:
    """Give x after a turn of the event loop."""
    await asyncio.sleep(0)
    return x


@job
async def failing() -> Any:
    """Raise."""
    raise Boom("first")


def flows_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Flow[Any]]:
    """Flows that give one of these values, at once, later or from a worker."""
    return values.flatmap(
        lambda x: st.sampled_from([pure(x), later(x), later(x).then(later), later(x).map(lambda y: y)])
    )


functions = st.integers(-5, 5).map(lambda n: lambda x: (n, x))
flows = flows_of(st.integers()) | st.builds(failing)


def outcome(flow: Flow[Any]) -> Any:
    """Return what a flow gives or raises."""
    try:
        return run(flow)
    except Boom as error:
        return repr(error)


@given(flows)
def test_identity(v: Flow[Any]) -> None:
    """Applying the identity changes nothing."""
    assert outcome(apply(pure(lambda x: x), v)) == outcome(v)


@given(functions, st.integers())
def test_homomorphism(f: Any, x: int) -> None:
    """Pure ones give what the plain call gives."""
    assert outcome(apply(pure(f), pure(x))) == outcome(pure(f(x)))


@given(flows_of(functions) | st.builds(failing), st.integers())
def test_interchange(u: Flow[Any], y: int) -> None:
    """It does not matter which side is pure."""
    assert outcome(apply(u, pure(y))) == outcome(apply(pure(lambda f: f(y)), u))


@given(flows_of(functions) | st.builds(failing), flows_of(functions) | st.builds(failing), flows)
def test_composition(u: Flow[Any], v: Flow[Any], w: Flow[Any]) -> None:
    """Nor how they are nested."""

    def compose(f: Any) -> Any:
        return lambda g: lambda x: f(g(x))

    assert outcome(apply(apply(apply(pure(compose), u), v), w)) == outcome(apply(u, apply(v, w)))


@given(flows, flows)
def test_side_by_side_gives_what_one_after_the_other_gives(a: Flow[Any], b: Flow[Any]) -> None:
    """The applicative is the monad's, as far as results go."""
    assert outcome(concurrently(a, b)) == outcome(a.then(lambda x: b.map(lambda y: (x, y))))


# ---- failures ------------------------------------------------------------------------------------------------------

COMBINED: list[Callable[[list[Flow[Any]]], Flow[Any]]] = [
    lambda flows: concurrently(*flows),
    lambda flows: map_concurrently(lambda flow: flow, flows),
    lambda flows: map_concurrently(lambda flow: flow, flows, limit=len(flows)),
]


@pytest.mark.parametrize("combine", COMBINED)
async def test_the_first_of_two_failures_is_raised_itself(stage: Stage, combine: Any) -> None:
    """In the same moment: not a group, not the second; the others were cancelled and had cleaned up before."""
    first, second = Boom("first"), Boom2("second")
    flows = [stage.waits("x"), stage.waits("b", second), stage.waits("y"), stage.waits("a", first)]
    async with open_inline_job():
        task = asyncio.create_task(awaited(combine(flows)))
        await stage.on(4)
        stage.cue("a")
        stage.cue("b")

        with pytest.raises(Boom) as caught:
            await task

    assert caught.value is first
    assert stage.events[:2] == ["a ended", "b ended"]
    assert sorted(stage.events[2:]) == ["x cleaned up", "y cleaned up"]
    of_call, of_others = caught.value.__notes__
    assert re.fullmatch(r"\(raised by waits\(.*'a', Boom\('first'\)\), in (map_)?concurrently\)", of_call)
    assert of_others == "(of the flows beside it, 1 more failed: Boom2: second; the first failure is raised)"


async def test_a_failing_clean_up_does_not_hide_the_first_failure(stage: Stage) -> None:
    """What a cancelled one raises in its clean-up is noted, not raised."""
    async with open_inline_job():
        stage.cue("a")
        with pytest.raises(Boom) as caught:
            await concurrently(stage.waits("x", clean_up=Boom2("no")), stage.waits("a", Boom()), stage.waits("y"))

    assert "1 more failed: Boom2: no" in caught.value.__notes__[1]


async def test_a_failure_alone_is_noted_with_its_call() -> None:
    """And is the very object that was raised."""
    error = Boom("alone")

    @job
    async def raises() -> None:
        raise error

    async with open_inline_job():
        with pytest.raises(Boom) as caught:
            await concurrently(raises(), later(1))
    assert caught.value is error
    assert error.__notes__ == ["(raised by raises(), in concurrently)"]


async def test_a_failing_function_cancels_what_was_started(stage: Stage) -> None:
    """The function that makes the flows may fail too, or give something that is no flow."""

    def make(name: str) -> Flow[str]:
        return stage.waits(name) if name == "x" else {"boom": pure}[name](name)

    async with open_inline_job():
        with pytest.raises(KeyError, match="bad"):
            await map_concurrently(make, ["x", "bad"])
        with pytest.raises(MisuseError, match="its function <lambda> returned 'z', which is none"):
            await map_concurrently(lambda name: "z" if name == "z" else make(name), ["x", "z"])  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("combine", [*COMBINED, lambda flows: race(*flows)])
async def test_cancelling_the_whole_cancels_all_and_waits(stage: Stage, combine: Any) -> None:
    """Also when it is cancelled once more during that."""
    async with open_inline_job():
        task = asyncio.create_task(awaited(combine([stage.waits("x"), stage.waits("y")])))
        await stage.on(2)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert sorted(stage.events) == ["x cleaned up", "y cleaned up"]


async def test_one_that_cancels_itself_ends_all(stage: Stage) -> None:
    """A CancelledError out of one flow is its failure, and does not leave the others waiting."""

    @job
    async def gives_up() -> None:
        raise asyncio.CancelledError

    async with open_inline_job():
        with pytest.raises(asyncio.CancelledError):
            await concurrently(stage.waits("x"), gives_up())
    assert stage.events == ["x cleaned up"]


# ---- limit ---------------------------------------------------------------------------------------------------------


async def test_limit_bounds_what_runs_and_what_is_taken(stage: Stage) -> None:
    """No more than `limit` run at a time, and xs are taken when there is room."""
    taken: list[str] = []

    def names() -> Iterator[str]:
        for number in range(6):
            taken.append(str(number))
            yield str(number)

    async with open_inline_job():
        task = asyncio.create_task(awaited(map_concurrently(stage.waits, names(), limit=2)))
        await stage.on(2)
        assert taken == ["0", "1"]
        stage.cue("1")
        async with asyncio.timeout(40):
            while "2" not in stage.cues:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert taken == ["0", "1", "2"]
        stage.cue("0", "2", "3", "4", "5")

        assert await task == ["0", "1", "2", "3", "4", "5"]
    assert stage.most == 2


async def test_after_a_failure_nothing_more_is_taken(stage: Stage) -> None:
    """A lazy xs is left where it was."""
    names = iter(["a", "b", "c", "d"])
    async with open_inline_job():
        stage.cue("a")
        with pytest.raises(Boom):
            await map_concurrently(lambda n: stage.waits(n, Boom() if n == "a" else None), names, limit=2)
    assert len(list(names)) >= 1


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_one_is_refused(limit: int) -> None:
    """It would wait for ever; the message says what is possible."""
    with pytest.raises(ConfigurationError, match=rf"limit={limit}: a whole number of at least 1 is needed, or None"):
        map_concurrently(pure, [], limit=limit)
    with pytest.raises(ConfigurationError, match=f"limit={limit}"):
        await anext(as_completed(pure, [1], limit=limit))  # type: ignore[type-var]


# ---- race ----------------------------------------------------------------------------------------------------------


async def test_race_gives_the_first_and_cancels_the_others(stage: Stage) -> None:
    """A result or an error; the others have cleaned up before."""
    async with open_inline_job():
        stage.cue("b")
        assert await race(stage.waits("a"), stage.waits("b"), stage.waits("c")) == "b"
        assert sorted(stage.events) == ["a cleaned up", "b ended", "c cleaned up"]
        stage.events.clear()

        with pytest.raises(Boom):
            await race(stage.waits("a"), stage.waits("b", Boom()))
        assert stage.events == ["b ended", "a cleaned up"]


async def test_race_takes_the_first_in_time(stage: Stage) -> None:
    """Of two that end in one turn, the one that ended first."""
    async with open_inline_job():
        task = asyncio.create_task(awaited(race(stage.waits("a"), stage.waits("b"))))
        await stage.on(2)
        stage.cue("b")
        stage.cue("a")

        assert await task == "b"


def test_race_of_nobody_is_refused() -> None:
    """It could never end."""
    with pytest.raises(ConfigurationError, match=r"race\(\) of no flows"):
        race()


# ---- as_completed --------------------------------------------------------------------------------------------------


async def test_as_completed_gives_what_ends_first(stage: Stage) -> None:
    """Each result comes with its x."""
    async with open_inline_job():
        pairs = as_completed(stage.waits, ["a", "b", "c"])
        seen: list[Any] = []
        for name in ("c", "a", "b"):
            stage.cue(name)
            seen.append(await anext(pairs))  # type: ignore[type-var]

        assert seen == [("c", "c"), ("a", "a"), ("b", "b")]
        assert [pair async for pair in pairs] == []


async def test_as_completed_takes_endless_iterables_lazily() -> None:
    """Not more than `limit` (1000 without one) are taken beyond what was given out; breaking off is fine."""
    taken = itertools.count()

    async def first(count: int, limit: int | None) -> int:
        seen = 0
        async for x, result in as_completed(later, taken, limit=limit):
            assert x == result
            seen += 1
            if seen == count:
                break
        return next(taken)

    async with open_inline_job():
        assert await first(50, 3) <= 50 + 3
        assert await first(1, None) <= 53 + 1 + concurrent.IN_FLIGHT


async def test_leaving_as_completed_early_cancels_the_rest(stage: Stage) -> None:
    """When the iterator is closed, which `break` does once nobody holds it."""
    async with open_inline_job():
        stage.cue("a")
        pairs = as_completed(stage.waits, ["a", "b", "c"])
        async for _ in pairs:
            break
        await pairs.aclose()  # type: ignore[attr-defined]

        assert sorted(stage.events) == ["a ended", "b cleaned up", "c cleaned up"]


async def test_as_completed_raises_the_first_failure_after_cancelling(stage: Stage) -> None:
    """One is raised, the others have cleaned up before."""
    async with open_inline_job():
        errors = {"a": Boom("a"), "b": Boom2("b")}
        pairs = as_completed(lambda name: stage.waits(name, errors.get(name)), ["x", "a", "b"])
        going = asyncio.ensure_future(anext(pairs))  # type: ignore[type-var]
        await stage.on(3)
        stage.cue("a", "b")
        with pytest.raises(Boom):
            await going

        assert stage.events == ["a ended", "b ended", "x cleaned up"]


async def _all(fn: Callable[[int], Flow[Any]]) -> None:
    async for _ in as_completed(fn, range(3)):
        pass


@pytest.mark.parametrize("combine", [*COMBINED, lambda flows: race(*flows), lambda flows: job(_all)(flows.__getitem__)])
def test_all_failures_count_as_seen(combine: Any) -> None:
    """Those that are not raised are no concern of the event loop's, which would log them."""
    lost: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
        async with open_inline_job():
            with pytest.raises(Boom):
                await combine([failing(), failing(), failing()])

    asyncio.run(main())
    gc.collect()

    assert lost == []


async def test_cancelling_the_reader_of_as_completed_cancels_all(stage: Stage) -> None:
    """Nothing is left running."""

    async def read() -> None:
        async for _ in as_completed(stage.waits, ["a", "b"]):
            pass

    async with open_inline_job():
        task = asyncio.create_task(read())
        await stage.on(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(stage.events) == ["a cleaned up", "b cleaned up"]


async def test_each_flow_sees_the_environment_of_its_start() -> None:
    """Also inside an async generator, whose context is the reader's."""

    @job
    async def cpus(_: int) -> int:
        return current().options.cpus

    async with open_inline_job(cpus=3):
        assert [r async for _, r in as_completed(lambda n: cpus(n).using(cpus=n), [1, 2, 3])] == [1, 2, 3]
