"""Memo: recorded before it is seen, computed once, never mixed up."""

import asyncio
import inspect
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest

import hyperflow as hf
from hyperflow import environment
from hyperflow import flow as flows
from hyperflow.concurrent import concurrently, map_concurrently, race
from hyperflow.database import KeyValMap, memoize
from hyperflow.environment import Environment
from hyperflow.errors import ConfigurationError, DatabaseError, MisuseError, NotInFlow, SerializationError
from hyperflow.flow import Flow, Job, Native
from hyperflow.options import Options
from hyperflow.program import ProgramInfo
from hyperflow.shipping import pickler
from hyperflow.testing.inline import MemoryDatabase
from tests.database.conftest import NoEvaluator, running

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]


@attrs.frozen
class Spectrum:
    """A result with a type."""

    levels: list[float]
    label: str = ""


class Gate:
    """A computation that a test can hold, let go, and look at."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended: list[str] = []
        self.open = asyncio.Event()
        self.reached = asyncio.Event()

    def flow(self, result: T) -> Job[T]:
        """Return a flow that waits for the gate."""
        return Job(Native("gate", self._pass, (result,)))

    async def _pass(self, result: Any) -> Any:
        self.runs += 1
        self.reached.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        if isinstance(result, Exception):
            raise result
        return result


async def turns(count: int = 20) -> None:
    """Let everything that is ready run; the database's thread is not asked by this."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_result_is_computed_once(program: ProgramInfo) -> None:
    """Not again in this program, nor in a later one; the types come back."""
    ran: list[int] = []

    @memoize("spectrum", version=1)
    def spectrum(n: int) -> Job[Spectrum]:
        ran.append(n)
        return flows.pure(Spectrum([n / 2], "x"))

    for _ in range(2):
        async with running(program):
            assert await spectrum(1) == Spectrum([0.5], "x")
            assert await map_concurrently(spectrum, [1, 2, 1]) == [Spectrum([n / 2], "x") for n in (1, 2, 1)]
    assert sorted(ran) == [1, 2]


async def test_arguments_are_bound(program: ProgramInfo) -> None:
    """Positions, names and defaults give one call; so do 1 and 1.0 for a float."""
    ran: list[Any] = []

    @memoize("f")
    def f(x: float, y: int = 2, *rest: float, flag: bool = False, **more: float) -> Job[str]:
        ran.append((x, y, rest, flag, more))
        return flows.pure(repr((x, y, rest, flag, more)))

    async with running(program):
        first = await f(1)
        for same in (f(1.0), f(x=1), f(1, 2), f(1, y=2), f(y=2, x=1.0), f(1, 2, flag=False)):
            assert await same == first
        assert len(ran) == 1
        for other in (f(2), f(1, 3), f(1, 2, 3), f(1, flag=True), f(1, z=3)):
            assert await other != first
        assert len(ran) == 6
        await f(1, 2, 3.0)
        await f(1, z=3.0)
        assert len(ran) == 6


async def test_the_order_of_parameters_is_no_part_of_the_key(program: ProgramInfo) -> None:
    """Moving a parameter forgets nothing."""

    @memoize("f")
    def one(x: int, y: int) -> Job[str]:
        return flows.pure("one")

    @memoize("f")
    def other(y: int, x: int) -> Job[str]:
        return flows.pure("other")

    async with running(program):
        assert await one(1, 2) == "one"
        with pytest.warns(hf.FunctionChanged):
            assert await other(2, 1) == "one"
        assert await other(1, 2) == "other"


async def test_name_and_version_are_part_of_the_key(program: ProgramInfo) -> None:
    """A new version forgets, the old one is still there; the text of the function is no part."""

    def made(name: str, version: int | str, result: int) -> Job[int]:
        @memoize(name, version=version)
        def f(x: int) -> Job[int]:
            return flows.pure(result)

        return f(0)

    async with running(program):
        assert await made("a", 1, 10) == 10
        assert await made("a", 2, 20) == 20
        assert await made("b", 1, 30) == 30
        with pytest.warns(hf.FunctionChanged):
            assert await made("a", 1, 40) == 10
        assert await made("a", "beta", 50) == 50


async def test_async_functions_under_job(program: ProgramInfo) -> None:
    """`@memoize` above `@job`: the annotation is the plain result."""
    from hyperflow._job import job

    @memoize("f")
    @job
    async def f(n: int) -> tuple[int, Spectrum]:
        return n, Spectrum([1.0])

    async with running(program):
        assert await f(1) == (1, Spectrum([1.0]))
        assert await f(1) == (1, Spectrum([1.0]))


async def test_methods(program: ProgramInfo) -> None:
    """The object is an argument like others."""

    @attrs.frozen
    class Model:
        size: int

        @memoize("energy")
        def energy(self, x: int) -> Job[int]:
            return flows.pure(self.size * x)

    async with running(program) as store:
        assert await Model(2).energy(3) == 6
        assert await Model(3).energy(3) == 9
        assert len(await store.lookup_all("memoize:energy:1")) == 2


async def test_results_can_be_looked_at(program: ProgramInfo) -> None:
    """They are in a map of the memo's name, by the arguments' names."""

    @memoize("half", version=3)
    def half(x: int) -> Job[float]:
        return flows.pure(x / 2)

    async with running(program):
        await half(3)
        assert await KeyValMap("memoize:half:3").lookup_all() == [({"x": 3}, 1.5)]


async def test_recorded_before_it_is_seen(program: ProgramInfo) -> None:
    """When the caller goes on, the result is in the database."""

    @memoize("f")
    def f(x: int) -> Job[int]:
        return flows.pure(x)

    async with running(program) as store:
        await f(1)
        assert await store.lookup("memoize:f:1", '{"x":1}') == "1"


async def test_nothing_is_seen_that_was_not_recorded(program: ProgramInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing disk is a failing call, and the next call tries again."""

    @memoize("f")
    def f(x: int) -> Job[int]:
        return flows.pure(x)

    async with running(program) as store:
        with monkeypatch.context() as patch:

            def full(*_: object) -> None:
                raise DatabaseError("the disk is full")

            patch.setattr(store, "record", full)
            with pytest.raises(DatabaseError, match="full"):
                await f(1)
        assert await f(1) == 1


async def test_first_and_later_callers_get_the_same(program: ProgramInfo) -> None:
    """A value of its own for each, as it was recorded: a tuple stays one, an int where a float is annotated is one."""

    @memoize("plain")
    def plain(x):  # type: ignore[no-untyped-def]
        return flows.pure((x, [1]))

    @memoize("typed")
    def typed(x: int) -> Job[float]:
        return flows.pure(x)

    async with running(program):
        one, two = await concurrently(plain(1), plain(1))
        assert one == two == (1, [1]) == await plain(1)
        one[1].append(2)
        assert two == (1, [1]) == await plain(1)
        assert [type(await typed(1)) for _ in range(2)] == [float, float]


async def test_identical_calls_in_flight_run_once(program: ProgramInfo) -> None:
    """All get the result of the one."""
    gate = Gate()

    @memoize("f")
    def f(x: int) -> Job[int]:
        return gate.flow(x)

    async with running(program):
        calls = [f(1).start() for _ in range(5)]
        await gate.reached.wait()
        late = f(1).start()
        gate.open.set()
        assert await asyncio.gather(*calls, late) == [1] * 6
    assert gate.runs == 1


async def test_a_failure_reaches_all_and_is_not_recorded(program: ProgramInfo) -> None:
    """The user's own exception, to each; the next call runs again."""
    gate = Gate()
    results: list[Any] = [KeyError("boom"), 5]

    @memoize("f")
    def f(x: int) -> Job[int]:
        return gate.flow(results.pop(0))

    async with running(program):
        calls = [f(1).start() for _ in range(3)]
        await gate.reached.wait()
        gate.open.set()
        for call in calls:
            with pytest.raises(KeyError, match="boom"):
                await call
        assert await f(1) == 5
    assert gate.runs == 2


@pytest.mark.parametrize("which", [0, 1])
async def test_one_caller_is_cancelled(program: ProgramInfo, which: int) -> None:
    """First or not, it leaves at once; the computation goes on for the other."""
    gate = Gate()

    @memoize("f")
    def f(x: int) -> Job[int]:
        return gate.flow(x)

    async with running(program):
        calls = [f(1).start() for _ in range(2)]
        await gate.reached.wait()
        await turns()
        calls[which].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[which]
        assert not gate.ended
        gate.open.set()
        assert await calls[1 - which] == 1
    assert gate.runs == 1


async def test_all_callers_are_cancelled(program: ProgramInfo) -> None:
    """Then the computation is, and the last caller waits for its end; the next call runs anew."""
    gate = Gate()

    @memoize("f")
    def f(x: int) -> Job[int]:
        return gate.flow(x)

    async with running(program):
        calls = [f(1).start() for _ in range(3)]
        await gate.reached.wait()
        await turns()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        assert gate.ended == ["cancelled"]
        gate.open.set()
        assert await f(1) == 1
    assert gate.runs == 2


async def test_a_call_during_the_clean_up(program: ProgramInfo) -> None:
    """It waits until the cancelled computation has ended: two never overlap."""
    going, most = 0, 0
    cleaning, clean = asyncio.Event(), asyncio.Event()
    reached = asyncio.Event()

    async def slow() -> int:
        nonlocal going, most
        going += 1
        most = max(most, going)
        try:
            if not cleaning.is_set():
                reached.set()
                await asyncio.Event().wait()
        finally:
            if not cleaning.is_set():
                cleaning.set()
                await clean.wait()
            going -= 1
        return 7

    @memoize("f")
    def f(x: int) -> Job[int]:
        return Job(Native("slow", slow))

    async with running(program):
        first = f(1).start()
        await reached.wait()
        await turns()
        first.cancel()
        await cleaning.wait()
        first.cancel()  # once more: it waits all the same
        second = f(1).start()
        await turns()
        assert not first.done()
        assert not second.done()
        clean.set()
        assert await second == 7
        assert first.cancelled()
    assert most == 1


async def test_the_first_callers_environment(program: ProgramInfo) -> None:
    """The computation sees the options that were in force for the call."""
    seen: list[int] = []

    async def look() -> int:
        seen.append(environment.current().options.cpus)
        return 1

    @memoize("f")
    def f(x: int) -> Job[int]:
        return Job(Native("look", look))

    async with running(program):
        await f(1).using(cpus=3)
        with environment.using(cpus=4):
            await f(2)
    assert seen == [3, 4]


async def test_two_databases_do_not_share_flights(program: ProgramInfo, tmp_path: Path) -> None:
    """What is in flight for one program is nothing to another in the same process."""
    gate = Gate()

    @memoize("f")
    def f(x: int) -> Job[int]:
        return gate.flow(x)

    async with running(program):
        one = f(1).start()
        await gate.reached.wait()
        async with running(ProgramInfo.new(tmp_path / "other")):
            two = f(1).start()
            gate.open.set()
            assert await asyncio.gather(one, two) == [1, 1]
    assert gate.runs == 2


async def test_waiting_for_oneself(program: ProgramInfo) -> None:
    """A call that needs its own result, directly or in a circle, fails instead of waiting for ever."""

    @memoize("f")
    def f(x: int) -> Job[int]:
        return f(x).map(lambda n: n + 1)

    @memoize("ping")
    def ping(x: int) -> Flow[int]:
        return flows.pure(None).then(lambda _: pong(x))

    @memoize("pong")
    def pong(x: int) -> Flow[int]:
        return flows.pure(None).then(lambda _: ping(x))

    async with running(program):
        async with asyncio.timeout(40):
            with pytest.raises(MisuseError, match=r"f\(1\) waits for its own result"):
                await f(1)
            with pytest.raises(MisuseError, match="waits for its own result"):
                await ping(1)
            results = [ping(2).start(), pong(2).start()]
            await asyncio.wait(results)
            assert all(isinstance(result.exception(), MisuseError) for result in results)


async def test_recursion_is_fine(program: ProgramInfo) -> None:
    """A call may need others of the same function, each of them once."""
    ran: list[int] = []

    @memoize("fib")
    def fib(n: int) -> Flow[int]:
        ran.append(n)
        return flows.pure(n) if n < 2 else concurrently(fib(n - 1), fib(n - 2)).map(sum)

    async with running(program):
        assert await fib(20) == 6765
    assert sorted(ran) == list(range(21))


async def test_a_race_that_is_lost(program: ProgramInfo) -> None:
    """The loser's computation is cancelled with it."""
    gate = Gate()

    @memoize("f")
    def f(x: int) -> Job[int]:
        return gate.flow(x)

    async def when_reached() -> int:
        await gate.reached.wait()
        return 0

    async with running(program):
        assert await race(f(1), Job(Native("when_reached", when_reached))) == 0
    assert gate.ended == ["cancelled"]


async def test_a_wrong_call(program: ProgramInfo) -> None:
    """It fails where it is written, as it would without memoize."""

    @memoize("f")
    def f(x: int) -> Job[int]:
        return flows.pure(x)

    with pytest.raises(TypeError, match="missing a required argument"):
        f()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="too many"):
        f(1, 2)  # type: ignore[call-arg]


async def test_arguments_that_cannot_be_keys(program: ProgramInfo) -> None:
    """The error names function, parameter and type, and shows the recipe; nothing has run."""
    ran: list[object] = []

    @memoize("f")
    def f(x: int, model: object) -> Job[int]:
        ran.append(model)
        return flows.pure(x)

    async with running(program):
        with pytest.raises(SerializationError, match=r"argument model of .*f: a Gate .*register\(Gate, encode="):
            await f(1, Gate())
    assert not ran


async def test_results_that_cannot_be_recorded(program: ProgramInfo) -> None:
    """By the annotation before anything runs, else when the value is there; the error names the function."""
    ran: list[str] = []

    @memoize("annotated")
    def annotated(x: int) -> Job[Gate]:
        ran.append("annotated")
        return flows.pure(Gate())

    @memoize("wrong")
    def wrong(x: int) -> Job[int]:
        return flows.pure(2.5)  # type: ignore[arg-type]

    @memoize("plain")
    def plain(x):  # type: ignore[no-untyped-def]
        return flows.pure(Spectrum([]))

    async with running(program) as store:
        with pytest.raises(SerializationError, match=r"annotated cannot be recorded.*register\(Gate"):
            await annotated(1)
        with pytest.raises(SerializationError, match=r"result of wrong\(1\) .* 2\.5 is a float where .* int"):
            await wrong(1)
        with pytest.raises(SerializationError, match=r"plain\(1\).*Job\[Spectrum\]"):
            await plain(1)
        assert await store.lookup_all("memoize:wrong:1") == []
    assert not ran


@attrs.define
class Picky:
    """A class that can hold what it does not take when it is made."""

    n: int

    def __attrs_post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("negative")


async def test_what_cannot_be_made_again_is_not_recorded(program: ProgramInfo) -> None:
    """Else every later call would fail on it."""
    negative = Picky(1)
    negative.n = -1

    @memoize("f")
    def f(x: int) -> Job[Picky]:
        return flows.pure(negative)

    async with running(program) as store:
        with pytest.raises(SerializationError, match="negative"):
            await f(1)
        with pytest.raises(SerializationError, match="negative"):
            await KeyValMap("m", value=Picky).insert("k", negative)
        assert await store.lookup_all("memoize:f:1") == await store.lookup_all("m") == []


async def test_a_recorded_result_of_another_type(program: ProgramInfo) -> None:
    """A type that has changed under the same version is an error that says so, never a wrong value."""

    def made(result: Any) -> Callable[[int], Job[Any]]:
        @memoize("f")
        def f(x: int) -> Any:
            return flows.pure(1)

        inspect.unwrap(f).__annotations__["return"] = Job[result]
        return memoize("f")(inspect.unwrap(f))

    async with running(program):
        assert await made(int)(1) == 1
        with pytest.raises(DatabaseError, match="higher version"):
            await made(str)(1)


def test_what_can_be_decorated() -> None:
    """The errors show what to write instead."""
    with pytest.raises(MisuseError, match=r"@hyperflow\.job"):

        @memoize("f")  # type: ignore[arg-type]
        async def asynchronous(x: int) -> int:
            return x

    with pytest.raises(MisuseError, match="generator"):

        @memoize("f")  # type: ignore[arg-type]
        def generator(x: int) -> Generator[int]:  # type: ignore[type-arg]
            yield x

    with pytest.raises(MisuseError, match="generator"):

        @memoize("f")  # type: ignore[arg-type]
        async def async_generator(x: int) -> AsyncIterator[int]:
            yield x

    with pytest.raises(MisuseError, match=r"returns? float.*Job\[float\]"):

        @memoize("f")  # type: ignore[arg-type]
        def plain(x: int) -> float:
            return x / 2

    with pytest.raises(MisuseError, match=r"@hyperflow\.memoize\('name', version=1\)"):

        @memoize  # type: ignore[arg-type]
        def bare(x: int) -> Job[int]:
            return flows.pure(x)

    with pytest.raises(MisuseError):
        memoize("")
    with pytest.raises(MisuseError):
        memoize("f")(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="version"):
        memoize("f", version=1.5)  # type: ignore[arg-type]


async def test_functions_that_return_no_flow(program: ProgramInfo) -> None:
    """Without an annotation that shows only when they run."""

    @memoize("f")
    def f(x):  # type: ignore[no-untyped-def]
        return x

    @memoize("g")
    def g(x):  # type: ignore[no-untyped-def]
        return asyncio.sleep(0)

    async with running(program):
        with pytest.raises(MisuseError, match="return a flow"):
            await f(1)
        with pytest.raises(MisuseError, match="return a flow"):
            await g(1)


@memoize("at the top")
def at_the_top(x: int) -> "Job[Later]":
    """Return what is defined below."""
    return flows.pure(Later(x))


@attrs.frozen
class Later:
    """A class that is not there when the function above is decorated."""

    x: int


async def test_annotations_that_are_resolved_later(program: ProgramInfo) -> None:
    """At the first call the class is there."""
    async with running(program):
        assert await at_the_top(1) == Later(1)
        assert await at_the_top(1) == Later(1)


async def test_annotations_that_cannot_be_resolved(program: ProgramInfo) -> None:
    """The error shows the annotation."""

    @memoize("f")
    def f(x: int) -> "Job[Nowhere]":  # type: ignore[name-defined]  # noqa: F821
        return flows.pure(x)

    async with running(program):
        with pytest.raises(MisuseError, match="Nowhere"):
            await f(1)


async def test_flows_pickle(program: ProgramInfo) -> None:
    """A call is a flow like others: by the name of its function, with its arguments."""
    async with running(program):
        call = pickle.loads(pickle.dumps(at_the_top(5)))
        assert repr(call) == "<Job at_the_top(5)>"
        assert await call == Later(5)
        await at_the_top(6)


async def test_memoized_functions_travel_in_closures(program: ProgramInfo) -> None:
    """Also one without a name elsewhere, and one that calls itself: by value, as remote_eval ships functions."""

    @memoize("count")
    def count(n: int) -> Flow[Spectrum]:
        return flows.pure(Spectrum([n])) if n == 0 else count(n - 1)

    (again,) = pickle.loads(pickler.by_value([lambda: (count, at_the_top)]))
    count_again, top_again = again()

    assert top_again is at_the_top
    async with running(program):
        assert await count_again(2) == Spectrum([0])


async def test_outside_of_a_flow() -> None:
    """The error says what to do."""
    with pytest.raises(NotInFlow, match="run_job_local"):
        await at_the_top(1)


def test_it_looks_like_the_function() -> None:
    """Name, text and parameters are the function's."""
    assert at_the_top.__name__ == "at_the_top"
    assert at_the_top.__doc__ == "Return what is defined below."
    assert list(inspect.signature(at_the_top).parameters) == ["x"]


async def test_other_databases(program: ProgramInfo) -> None:
    """Anything with the protocol's functions will do as a database."""

    with environment.entered(Environment(Options(), NoEvaluator(), MemoryDatabase(), program)):
        assert await at_the_top(1) == Later(1)
        assert await at_the_top(1) == Later(1)


async def test_awaited_results_survive_a_kill(program: ProgramInfo) -> None:
    """What a killed program has awaited is not computed again by the next one."""
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom hyperflow import flow\n"
        "from hyperflow.program import ProgramInfo\nfrom tests.database.conftest import running\n"
        "from hyperflow.database import memoize\n"
        "@memoize('f')\ndef f(x: int) -> flow.Job[int]:\n"
        "    open(sys.argv[2], 'a').write('x')\n    return flow.pure(x)\n"
        "async def main():\n    async with running(ProgramInfo.new(sys.argv[2] + '-dir', database=sys.argv[1])):\n"
        "        print(await f(1), flush=True)\n        if len(sys.argv) == 3: await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    ran = program.data_dir / "ran"
    command = [sys.executable, "-c", code, str(program.database), str(ran)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"1\n"
        os.kill(first.pid, signal.SIGKILL)
    second = subprocess.run([*command, "end"], cwd=ROOT, check=True, capture_output=True, text=True)

    assert second.stdout == "1\n"
    assert ran.read_text() == "x"
