"""Evaluations that fail, in every way there is: each has its own clear error, and everything else runs on."""

import asyncio
import importlib
import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import pytest

import hyperflow as hf
from hyperflow.shipping.importable import importable
from tests import functions as f
from tests.support import Gate, local, notes, wait_at


async def fails_alone(env: hf.JobEnv, flow: hf.Flow[Any], kind: type[BaseException], match: str | None = None) -> Any:
    """Await a flow that has to fail, amid others that have to succeed; return its error."""
    before = [hf.remote_eval(f.identity, n).start() for n in range(20)]
    failing = flow.start()
    after = [hf.remote_eval(f.identity, n).start() for n in range(20)]
    with pytest.raises(kind, match=match) as caught:
        await failing
    assert await asyncio.gather(*before, *after) == [*range(20), *range(20)]
    assert env.statistics().failed >= 1
    return caught.value


ODD: list[tuple[type[Exception], tuple[Any, ...], dict[str, Any]]] = [
    (f.Boom, ("text", 2), {}),
    (ValueError, (), {}),
    (FileNotFoundError, (2, "No such file", "name"), {}),
    (UnicodeDecodeError, ("utf-8", b"x", 0, 1, "why"), {}),
    (f.TwoArguments, (3, "there"), {}),
    (f.KeywordOnly, (), {"code": 7}),
    (ExceptionGroup, ("several", [ValueError(1), KeyError(2)]), {}),
    (f.BrokenStr, (1,), {}),
    (f.Frozen, ("cold",), {}),
    (TimeoutError, ("mine",), {}),
    (StopAsyncIteration, (1,), {}),
    (MemoryError, (), {}),
]


async def test_exceptions_come_as_themselves() -> None:
    """Type, arguments and attributes of the user's exception survive, however odd its class is."""
    async with local() as env:
        for kind, args, kwargs in ODD:
            expected = kind(*args, **kwargs)
            error = await fails_alone(env, hf.remote_eval(f.fail_with, kind, *args, **kwargs), kind)
            assert type(error) is kind
            assert repr(error.args) == repr(expected.args)
            assert getattr(error, "filename", None) == getattr(expected, "filename", None)
            mine = {name: value for name, value in vars(error).items() if name != "__notes__"}
            assert mine == vars(expected)


async def test_traceback_and_context() -> None:
    """An exception brings the remote traceback with its cause, and a line on evaluation, worker, node and log."""
    async with local() as env:
        error = await fails_alone(env, hf.remote_eval(f.fail_because), f.Boom, "the effect")
        info = await hf.remote_eval(hf.worker_info)
    text = notes(error)
    assert "in fail_because" in text
    assert "KeyError: 'the cause'" in text
    assert "direct cause" in text
    assert "worker.py" not in text
    assert re.search(rf"of fail_because\(\) on worker-[01]@{info.node}; log: {env.program.log_dir}", text)


async def test_local_exception_class() -> None:
    """An exception class that the worker made, inside the function, arrives under its name."""

    def work() -> None:
        class Mine(ValueError):
            pass

        raise Mine("made over there")

    async with local() as env:
        error = await fails_alone(env, hf.remote_eval(work), ValueError, "made over there")
    assert type(error).__name__ == "Mine"


@pytest.mark.parametrize("kind", [f.HoldsLock, f.OnlyOverThere])
async def test_exceptions_that_cannot_travel(kind: type[Exception]) -> None:
    """An exception that cannot be pickled, or made here, comes as RemoteError, in words."""
    argument: Any = os.getpid() if kind is f.OnlyOverThere else "words"
    async with local() as env:
        error = await fails_alone(env, hf.remote_eval(f.fail_with, kind, argument), hf.RemoteError, kind.__name__)
    assert error.type_name.endswith(kind.__name__)
    assert error.text == str(argument)
    assert "in fail_with" in error.traceback


@pytest.mark.parametrize("is_async", [False, True])
async def test_functions_that_end_themselves(is_async: bool) -> None:
    """sys.exit() and the like end neither worker nor program: EvaluationExited, from async functions too."""

    def raises(kind: type[BaseException]) -> None:
        raise kind("enough")

    async def raises_later(kind: type[BaseException]) -> None:
        await asyncio.sleep(0)
        raise kind("enough")

    async with local() as env:
        for kind in (SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit):
            flow = hf.remote_eval(raises_later if is_async else raises, kind)
            error = await fails_alone(env, flow, hf.EvaluationExited, "enough")
            assert error.type_name.endswith(kind.__name__)
        assert env.statistics().returned == 0


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("null", -signal.SIGSEGV),
        ("SIGSEGV", -signal.SIGSEGV),
        ("SIGABRT", -signal.SIGABRT),
        ("SIGKILL", -signal.SIGKILL),
        ("SIGTERM", -signal.SIGTERM),
    ],
)
async def test_death_of_a_worker(how: str, status: int) -> None:
    """A process that ends without an answer is WorkerDied: how, in which evaluation, where, last words."""
    async with local() as env:

        def dies() -> None:
            print("my last words")
            f.die(how)

        error = await fails_alone(env, hf.remote_eval(dies), hf.WorkerDied, "while it ran evaluation")
        node = (await hf.remote_eval(hf.worker_info)).node
    assert type(error) is hf.WorkerDied
    assert error.status == status
    assert error.node == node
    assert error.service_id in (f"worker-0@{node}", f"worker-1@{node}")
    assert "my last words" in error.log_tail
    assert "my last words" in str(error)
    assert "of dies()" in error.evaluation
    assert Path(error.log_file).parent == env.program.log_dir
    if status < 0:
        assert signal.Signals(-status).name in str(error)


@pytest.mark.parametrize("how", ["exit 0", "SIGKILL", "null"])
async def test_exact_blame(how: str) -> None:
    """With hundreds of evaluations queued at the workers, only those that crash fail; all others give results."""
    fatal = set(range(100, 2000, 300))

    def perhaps(n: int) -> int:
        if n in fatal:
            f.die(how)
        return n

    async with local() as env:
        await hf.map_concurrently(lambda n: hf.remote_eval(perhaps, -n), range(1, 200))  # known to be quick
        futures = [hf.remote_eval(perhaps, n).start() for n in range(2000)]
        got = await asyncio.gather(*futures, return_exceptions=True)
        stats = env.statistics()
    assert {n for n, g in enumerate(got) if isinstance(g, hf.WorkerDied)} == fatal
    assert [g for g in got if not isinstance(g, hf.WorkerDied)] == [n for n in range(2000) if n not in fatal]
    assert stats.failed == len(fatal)
    assert stats.returned > 0  # others were queued at the workers that died, or this test shows nothing


async def test_what_cannot_be_sent() -> None:
    """A lock, socket, file or generator is refused before anything runs, and the error names the variable."""
    with socket.socket() as a_socket, open(os.devnull) as a_file:
        a_lock = threading.Lock()
        generator = (n for n in range(3))
        cases: dict[str, tuple[Callable[[], Any], str]] = {
            "a_socket": (lambda: a_socket.send(b""), "a socket"),
            "a_file": (lambda: a_file.read(1), "an open file"),
            "a_lock": (lambda: a_lock.acquire(timeout=1), "a lock"),
            "generator": (lambda: next(generator), "a running generator"),
        }
        async with local() as env:
            for name, (fn, what) in cases.items():
                with pytest.raises(hf.SerializationError, match=f"'{name}' captured by.*{what}"):
                    await hf.remote_eval(fn)
                with pytest.raises(hf.SerializationError, match=what):
                    await hf.remote_eval(f.identity, {"deep": [fn.__closure__[0].cell_contents]})  # type: ignore[index]
            assert await hf.remote_eval(f.add, 1) == 1
            assert env.statistics().failed == 0  # nothing was started


async def test_arguments_that_do_not_travel() -> None:
    """An argument that raises when it is pickled or unpickled, or is too deep, is a SerializationError."""
    async with local() as env:
        for argument, text in [
            (f.BrokenReduce(), "does not want to travel"),
            (f.BrokenArrival(), "does not want to arrive"),
            (f.deep(100_000), "RecursionError"),
        ]:
            await fails_alone_or_refused(env, hf.remote_eval(f.identity, argument), text)


async def fails_alone_or_refused(env: hf.JobEnv, flow: hf.Flow[Any], match: str) -> None:
    """Await a flow that cannot be sent, or not be unpacked there."""
    beside = hf.remote_eval(f.identity, 1).start()
    with pytest.raises(hf.SerializationError, match=match):
        await flow
    assert await beside == 1
    assert await hf.remote_eval(f.identity, 2) == 2


DO_NOT_TRAVEL: list[tuple[Callable[[], Any], str]] = [
    (threading.Lock, "a lock"),
    (f.BrokenReduce, "does not want to travel"),
    (f.BrokenArrival, "does not want to arrive"),
    (lambda: f.deep(100_000), "RecursionError"),
    (lambda: (n for n in range(3)), "generator"),
    (lambda: open(os.devnull), "an open file"),
    (lambda: {"a": [1, threading.Lock()]}, r"\['a'\]\[1\]"),
]


async def test_results_that_do_not_travel() -> None:
    """A result that cannot be pickled, or not be unpickled, is a SerializationError; the worker goes on."""
    async with local(cpus=1) as env:
        pid = await hf.remote_eval(os.getpid)
        for make, text in DO_NOT_TRAVEL:
            await fails_alone(env, hf.remote_eval(make), hf.SerializationError, text)
            assert await hf.remote_eval(os.getpid) == pid


async def test_another_version_of_dill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an evaluation that needs dill fails, by name: for its function, an argument, or its result."""
    keys = {"a": 1}.keys()
    async with local() as env:
        assert list(await hf.remote_eval(f.identity, keys)) == ["a"]
        monkeypatch.setattr(dill, "__version__", "77.7")
        for flow, words in [
            (hf.remote_eval(lambda: keys), r"of <lambda>\(\): the function .*'dict_keys'.* dill is 77\.7 "),
            (hf.remote_eval(f.identity, keys), r"of identity\(.*\): an argument .*'dict_keys'.* dill is 77\.7 where"),
            (hf.remote_eval(f.keys_of, {"a": 1}), r"the result of .* of keys_of\(.*'dict_keys'.* and 77\.7 where"),
        ]:
            error = await fails_alone(env, flow, hf.SerializationError, words)
            assert "`pip install dill==" in str(error)


async def test_recursion_without_end() -> None:
    """RecursionError of the function arrives as itself."""
    async with local() as env:
        await fails_alone(env, hf.remote_eval(f.recurse), RecursionError)


async def test_module_missing_on_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module whose file is not there any more is named, with the places where the worker looks."""
    (tmp_path / "only_here.py").write_text("def work(): return 1")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("only_here")
    assert importable("only_here")
    (tmp_path / "only_here.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    async with local() as env:
        error = await fails_alone(env, hf.remote_eval(module.work), hf.SerializationError, "only_here")
    assert "looks for modules in" in str(error)


async def test_impossible_request() -> None:
    """More CPUs than there are is refused at once, while all CPUs are busy, and named."""
    async with local() as env:
        futures = [hf.remote_eval(f.spin, 0.2).start() for _ in range(2)]
        with pytest.raises(hf.ImpossibleRequest, match=r"cpus=3.*2 CPUs"):
            await hf.remote_eval(f.identity, 1).using(cpus=3)
        assert not any(future.done() for future in futures)
        assert len(futures) == env.statistics().waiting + env.statistics().running
        await asyncio.gather(*futures)


@pytest.mark.parametrize("cpus", [0, -1, True, "2", 1.5, None])
async def test_cpus_that_make_no_sense(cpus: Any, tmp_path: Path) -> None:
    """A number of CPUs that is none is refused when the flow is made, and when a run is opened."""
    with pytest.raises(hf.ConfigurationError, match=f"cpus={cpus!r}"):
        hf.remote_eval(f.identity, 1).using(cpus=cpus)
    if cpus is not None:
        with pytest.raises(hf.ConfigurationError, match=f"cpus={cpus!r}"):
            async with hf.open_local_job(cpus=cpus, program=hf.ProgramInfo.new(tmp_path)):
                pass


async def test_rubbish_on_inherited_descriptors() -> None:
    """A function that writes to descriptors it does not know harms nobody but itself."""
    async with local() as env:
        for rubbish in (b"x", b"x" * 5, bytes(13), bytes(300), b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096):
            await fails_alone(env, hf.remote_eval(f.write_rubbish, rubbish), hf.WorkerDied, "no answer was written")


async def test_closing_all_descriptors() -> None:
    """A function that closes descriptors it does not know harms nobody but itself."""
    async with local() as env:
        await fails_alone(env, hf.remote_eval(f.close_all_descriptors), hf.WorkerDied, "exited with code 70")


async def test_dead_while_idle(tmp_path: Path) -> None:
    """A worker that dies when it has nothing to do is replaced, and charged to nobody."""
    async with local(cpus=1) as env:
        for _ in range(5):
            pid = await hf.remote_eval(os.getpid)
            os.kill(pid, signal.SIGKILL)
            assert await hf.remote_eval(os.getpid) != pid
        assert env.statistics().failed == 0


async def test_all_workers_killed_again_and_again(tmp_path: Path) -> None:
    """Evaluations whose workers are killed from outside fail, each with WorkerDied, and never hang."""
    gate = Gate(tmp_path)
    async with local() as env:
        for round_ in range(3):
            futures = [hf.remote_eval(wait_at, gate.path).start() for _ in range(2)]
            await gate.wait_inside(2 * (round_ + 1))
            for mark in tmp_path.glob("gate.*"):
                pid = int(mark.suffix[1:])
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)
            got = await asyncio.gather(*futures, return_exceptions=True)
            assert [type(g) for g in got] == [hf.WorkerDied] * 2
        assert env.statistics().failed == 6


async def test_a_result_that_ends_whoever_reads_it() -> None:
    """A result whose unpickling raises SystemExit fails its own evaluation, and the head goes on."""
    async with local() as env:
        flow = hf.remote_eval(f.LeavesElsewhere, os.getpid())
        error = await fails_alone(env, flow, hf.SerializationError, r"result of evaluation .* SystemExit: no more")
        assert "LeavesElsewhere" in str(error)
