"""Objects that fail while the head reads or shows them cost one evaluation: no hang, and no node."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

import hyperflow as hf
from tests import functions as f
from tests import hostile
from tests.support import local, notes

RAISED = [how for how in hostile.STRIKES if how != "hang"]


async def one_bad_of_many(bad: hf.Job[Any]) -> Any:
    """Evaluate something bad amid others; return what became of it, when all the others have their results."""
    async with local() as env, asyncio.timeout(40):
        flows: list[hf.Job[Any]] = [hf.remote_eval(f.identity, n) for n in range(60)]
        futures = [flow.start() for flow in (*flows[:30], bad, *flows[30:])]
        got = await asyncio.gather(*futures, return_exceptions=True)
        result = got.pop(30)
        assert got == list(range(60))
        assert await hf.remote_eval(f.add, 1, 2) == 3
        stats = env.statistics()
        assert (stats.nodes, stats.nodes_lost, stats.running) == (1, 0, 0)
        return result


@pytest.mark.parametrize("how", RAISED)
@pytest.mark.parametrize("kind", [hostile.OnRead, hostile.OnReduce, hostile.OnDump])
async def test_results(kind: Callable[[str], Any], how: str) -> None:
    """A result that cannot be pickled or read is an error that says so."""
    got = await one_bad_of_many(hf.remote_eval(hostile.give, kind, how))
    assert type(got) is hf.SerializationError
    assert "evil" in str(got)


@pytest.mark.parametrize("how", RAISED)
@pytest.mark.parametrize(
    "kind", [hostile.OnStr, hostile.OnNote, hostile.OnErrorRead, hostile.OnErrorClass, hostile.Liar]
)
async def test_errors(kind: Callable[[str], Any], how: str) -> None:
    """An error that cannot be read, shown or noted arrives as itself or in words, with the evaluation."""
    got = await one_bad_of_many(hf.remote_eval(hostile.throw, kind, how))
    assert issubclass(type(got), Exception)
    if issubclass(type(got), hf.HyperflowError):
        assert "evaluation 31 of throw" in f"{got}" + notes(got)
    else:
        assert type(got) is kind
        if kind not in (hostile.OnNote, hostile.OnErrorClass):  # they keep no note
            assert "evaluation 31 of throw" in notes(got)


@pytest.mark.parametrize("how", RAISED)
@pytest.mark.parametrize("fn", [hostile.fail, f.killed_by_itself])
async def test_arguments_that_messages_show(fn: Callable[..., Any], how: str) -> None:
    """An argument that cannot be shown leaves the message without it."""
    got = await one_bad_of_many(hf.remote_eval(fn, hostile.OnRepr(how)))
    assert type(got) is (ValueError if fn is hostile.fail else hf.WorkerDied)


@pytest.mark.parametrize("how", ["ValueError", "Evil"])
async def test_functions_of_flows(how: str) -> None:
    """What a function of `map` or `then` raises is that flow's failure."""

    def bad(_: Any) -> Any:
        return hostile.strike(how)

    for flow in (hf.remote_eval(f.identity, 1).map(bad), hf.remote_eval(f.identity, 1).then(bad)):
        got = await one_bad_of_many(flow)
        assert type(got) is {"ValueError": ValueError, "Evil": hostile.Evil}[how]


class Meddler:
    """Cancels the future of its own evaluation while it is read."""

    future: "asyncio.Future[Any]"

    def __setstate__(self, _: Any) -> None:
        Meddler.future.cancel()

    def __getstate__(self) -> Any:
        return {"x": 1}


async def test_result_that_cancels_its_own_evaluation() -> None:
    """An evaluation that ends while its result is read is ended; nothing else is."""
    async with local(cpus=1) as env, asyncio.timeout(40):
        futures = [hf.remote_eval(f.identity, n).start() for n in range(10)]
        Meddler.future = hf.remote_eval(hostile.give, lambda _: Meddler(), "").start()
        futures += [hf.remote_eval(f.identity, n).start() for n in range(10, 20)]
        assert await asyncio.gather(*futures) == list(range(20))
        with pytest.raises(asyncio.CancelledError):
            await Meddler.future
        assert env.statistics().nodes_lost == 0


HANGS: dict[str, Callable[[], hf.Job[Any]]] = {
    "result": lambda: hf.remote_eval(hostile.give, hostile.OnRead, "hang"),
    "error": lambda: hf.remote_eval(hostile.throw, hostile.OnErrorRead, "hang"),
    "text": lambda: hf.remote_eval(hostile.throw, hostile.OnStr, "hang"),
    "argument": lambda: hf.remote_eval(hostile.fail, hostile.OnRepr("hang")),
    "map": lambda: hf.remote_eval(f.identity, 1).map(lambda _: hostile.strike("hang")),
    "then": lambda: hf.remote_eval(f.identity, 1).then(lambda _: hf.pure(hostile.strike("hang"))),
}


@pytest.mark.parametrize("where", HANGS)
async def test_what_hangs_is_told(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the event loop is stuck in an object's method, the log says in which; then the others go on."""
    monkeypatch.setattr("hyperflow.head.watchdog.STUCK", 0.3)
    monkeypatch.setenv("HYPERFLOW_HEARTBEAT", "0.1")
    with caplog.at_level(logging.WARNING, "hyperflow"):
        await one_bad_of_many(HANGS[where]())
    told = [record.getMessage() for record in caplog.records if "stuck" in record.getMessage()]
    assert told
    assert "hostile.py" in told[0]
    assert "in _hangs" in told[0]
    if where in ("result", "error"):
        assert "evaluation 31 of" in told[0]
