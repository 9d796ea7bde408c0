"""per_worker: what a worker has made once, it keeps."""

import asyncio
import os
import pickle
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperflow as hf
from hyperflow.shipping import pickler
from hyperflow.shipping.watch import Watch
from hyperflow.testing import open_inline_job
from hyperflow.worker.per_worker import Keeping, PerWorker
from tests.support import Gate, local, wait_at


class Thing:
    """Something that is kept."""

    def __init__(self, name: Any) -> None:
        self.name = name
        self.open = True


def things(closed: list[object], most: int = 8) -> PerWorker[[object], Thing]:
    """Return what makes things, and notes which it has closed."""

    @hf.per_worker(most=most)
    def thing(name: object) -> Iterator[Thing]:
        made = Thing(name)
        yield made
        made.open = False
        closed.append(name)

    return thing


class Evaluations:
    """A worker's evaluations, without a worker."""

    def __init__(self) -> None:
        self.number = 0
        self.log: list[str] = []
        self.keeping = Keeping(lambda: self.number, self.log.append)

    def __call__(self, of: PerWorker[..., Any], *args: Any) -> Any:
        """Ask in the evaluation that runs."""
        return self.keeping.get(of, args, {})

    def next(self) -> None:
        """One has ended, and the next one begins."""
        self.keeping.trim()
        self.number += 1


def test_it_is_made_once() -> None:
    """For equal arguments, however they are written; types count."""
    made = things([])
    try:
        assert made("a") is made(name="a")
        assert made([1, {"b": 2}]) is made([1, {"b": 2}])
        assert len({id(made(each)) for each in ("a", b"a", 1, 1.0, True, None, Path("a"), (1,), [1])}) == 9
    finally:
        made.close()


def test_the_one_used_longest_ago_goes() -> None:
    """When one more comes than are kept; not what the evaluation itself has asked for."""
    closed: list[object] = []
    made, ask = things(closed, most=2), Evaluations()
    for name in ("a", "b", "a"):
        ask(made, name)
        ask.next()
    ask(made, "c")
    assert closed == ["b"]
    ask(made, "d")
    held = ask(made, "e")
    assert closed == ["b", "a"]  # c, d and e are in use
    assert held.open
    ask.next()
    assert closed == ["b", "a", "c"]
    ask.keeping.close()
    assert closed == ["b", "a", "c", "e", "d"]


def test_what_another_one_needs_stays() -> None:
    """It is closed after that."""
    closed: list[object] = []
    inner = things(closed, most=1)

    @hf.per_worker
    def outer() -> Iterator[Thing]:
        made = ask(inner, "inner")
        yield made
        closed.append(("outer", made.open))

    ask = Evaluations()
    ask(outer)
    ask.next()
    ask(inner, "other")
    ask.next()
    assert closed == ["other"]
    ask.keeping.close()
    assert closed.index(("outer", True)) < closed.index("inner")


def test_a_changed_definition() -> None:
    """It makes a new one, and the old one is closed before."""
    closed: list[object] = []
    old, ask = things(closed), Evaluations()
    ask(old, "a")
    ask.next()
    new = things(closed)
    assert ask(new, "a").open
    assert closed == ["a"]
    ask.keeping.close()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.booleans(), st.booleans()), max_size=30))
def test_random_histories(history: list[tuple[int, int, bool, bool]]) -> None:
    """What is in use is open, each is closed once and after those that need it, and evaluations leave no surplus."""
    ask = Evaluations()
    made = dict[tuple[int, object], list[Thing]]()
    needed = list[tuple[Thing, Thing]]()

    def definition(which: int) -> PerWorker[[object], Thing]:
        @hf.per_worker(most=2)
        def thing(name: object) -> Iterator[Thing]:
            mine = Thing((which, name))
            if isinstance(name, str):
                needed.append((mine, ask(simple, int(name))))
            made.setdefault((which, name), []).append(mine)
            yield mine
            assert mine.open
            assert all(other.open for user, other in needed if user is mine)
            mine.open = False

        thing.place = __name__, "simple" if which == 2 else "of two definitions"
        return thing

    simple, functions = definition(2), [definition(0), definition(1)]
    in_use = list[Thing]()
    for which, number, needs_another, is_last in history:
        if needs_another:
            in_use.append(ask(functions[which], str(number)))
        else:
            in_use.append(ask(simple, number))
        assert all(thing.open for thing in in_use)
        if is_last:
            in_use.clear()
            ask.next()
            kept = [thing for things in made.values() for thing in things if thing.open]
            assert sum(thing.name[0] != 2 for thing in kept) <= 2
            held = {id(other) for user, other in needed if user.open}
            assert sum(thing.name[0] == 2 and id(thing) not in held for thing in kept) <= 2
    ask.keeping.close()
    assert not [thing for things in made.values() for thing in things if thing.open]
    assert not ask.log


def test_mistakes() -> None:
    """Each says what to write instead."""

    def plain(path: str) -> str:
        return path

    async def stream(path: str) -> Any:
        yield path

    for wrong in (plain, stream, Thing):
        with pytest.raises(hf.MisuseError, match=r"@per_worker: .*(generator|async)"):
            hf.per_worker(wrong)  # type: ignore[call-overload]
    with pytest.raises(hf.ConfigurationError, match="most=0"):
        hf.per_worker(most=0)
    ask = Evaluations()

    @hf.per_worker
    def returns() -> Iterator[int]:
        if ask.number:
            yield 1

    @hf.per_worker
    def raises() -> Iterator[int]:
        yield int("x")

    @hf.per_worker
    def itself() -> Iterator[int]:
        yield ask(itself)

    with pytest.raises(hf.MisuseError, match="yielded nothing"):
        ask(returns)
    with pytest.raises(ValueError, match="invalid literal") as failed:
        ask(raises)
    assert "hyperflow.per_worker made" in failed.value.__notes__[0]
    with pytest.raises(hf.MisuseError, match="asks for itself"):
        ask(itself)
    with pytest.raises(hf.MisuseError, match="cannot be pickled"):
        ask(things([]), threading.Lock())


def test_errors_while_closing_are_logged() -> None:
    """Nobody else gets them, and the others are closed."""
    closed: list[object] = []
    made, ask = things(closed), Evaluations()

    @hf.per_worker
    def twice() -> Iterator[int]:
        yield 1
        yield 2

    @hf.per_worker
    def fails() -> Iterator[int]:
        yield 1
        raise SystemExit("no")

    for each in (twice, fails):
        ask(each)
    ask(made, "a")
    ask.keeping.close()
    assert closed == ["a"]
    assert "no" in ask.log[0]
    assert "yielded twice" in ask.log[1]


def test_how_it_travels() -> None:
    """By value, it carries what tells its definitions apart; what sends it notices a change, and nothing else."""
    number = 1

    @hf.per_worker
    def counted() -> Iterator[int]:
        yield number

    def use() -> int:
        return counted()

    watch = Watch(use)
    assert not watch.mutable
    first = pickle.loads(pickler.by_value(counted)).identity
    assert first
    assert pickle.loads(pickler.by_value(use)).__closure__[0].cell_contents.identity == first
    assert pickle.loads(pickler.by_value(pickle.loads(pickler.by_value(counted)))).identity == first
    assert watch.unchanged()
    number = 2
    assert not watch.unchanged()
    assert pickle.loads(pickler.by_value(counted)).identity != first
    assert pickle.loads(pickler.by_value(by_name)) is by_name


@hf.per_worker
def by_name() -> Iterator[int]:
    """Make something in a module that workers import."""
    yield os.getpid()


async def test_inline() -> None:
    """It is kept as long as the environment is open."""
    async with open_inline_job():
        first = await hf.remote_eval(kept_in, "a")
        assert await hf.remote_eval(kept_in, "a") == first
    async with open_inline_job():
        assert await hf.remote_eval(kept_in, "a") != first


def kept_in(name: str) -> int:
    """Return which one it is."""
    return numbered(name)


_count = iter(range(1000))


@hf.per_worker
def numbered(name: str) -> Iterator[int]:
    """Make one with a number of its own."""
    yield next(_count)


def with_threads(tmp: str) -> Any:
    """Return a function that uses what starts threads, sets things in its process, and closes them."""

    @hf.per_worker
    def pool(size: int) -> Iterator[ThreadPoolExecutor]:
        random.seed(1)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        os.environ["OF_THE_POOL"] = "set"
        with ThreadPoolExecutor(size) as made:
            yield made
        Path(tmp).write_text("closed")

    def use(x: int) -> tuple[int, int, bool, str | None, float]:
        threads = len({each.get_ident() for each in pool(3).map(lambda _: threading, range(x))})
        ignored = signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        return os.getpid(), threads, ignored, os.environ.get("OF_THE_POOL"), random.random()

    return use


@pytest.mark.process
async def test_a_worker_stays_with_it(tmp_path: Path) -> None:
    """Threads that it starts, at once or later, and what it sets; it is closed when the run ends."""
    use = with_threads(str(tmp_path / "closed"))
    async with local(cpus=1):
        found = [await hf.remote_eval(use, 4) for _ in range(3)]
        assert len({(pid, ignored, variable) for pid, _, ignored, variable, _ in found}) == 1
        assert found[0][2:4] == (True, "set")
        assert len({drawn for *_, drawn in found}) == 3
        other = await hf.remote_eval(use, 4).using(fresh_process=True)
        assert other[0] != found[0][0]
        drawn = await hf.remote_eval(lambda: (os.getpid(), random.random()))
        assert drawn[0] == found[0][0]
        random.seed(1)
        assert drawn[1] not in [random.random() for _ in range(10)]
    assert (tmp_path / "closed").read_text() == "closed"


async def ask_async() -> int:
    """Ask in an async function, and in its threads."""
    first, second = await asyncio.gather(*[asyncio.to_thread(by_name) for _ in range(2)])
    assert first == second == by_name()
    return first


@pytest.mark.process
async def test_threads_of_an_async_function() -> None:
    """They get the same, and the worker stays."""
    async with local(cpus=1):
        assert len({await hf.remote_eval(ask_async) for _ in range(3)}) == 1


async def order_of_use(tmp_path: Path, names: str, last: int) -> set[int]:
    """Have two workers busy at the same time; the one with this process ends last. Return both processes."""
    gates = [Gate(tmp_path, f"{names}-{each}") for each in "ab"]
    running = [hf.remote_eval(wait_at, gate.path).start() for gate in gates]
    for gate in gates:
        await gate.wait_inside()
    pids = [int(next(tmp_path.glob(f"{Path(gate.path).name}.*")).suffix[1:]) for gate in gates]
    for which in sorted(range(2), key=lambda which: pids[which] == last):
        gates[which].open()
        await running[which]
    return set(pids)


@pytest.mark.process
async def test_idle_workers_that_have_it_come_first(tmp_path: Path) -> None:
    """Also when another one was used last, which would be taken otherwise."""
    async with local(cpus=2):
        both = await order_of_use(tmp_path, "first", 0)
        mine = await hf.remote_eval(ask_async)
        (other,) = both - {mine}
        assert await order_of_use(tmp_path, "second", other) == both
        assert await hf.remote_eval(ask_async) == mine
        assert await order_of_use(tmp_path, "third", other) == both
        assert await hf.remote_eval(os.getpid) == other
