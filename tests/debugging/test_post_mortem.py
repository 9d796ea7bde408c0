"""Copies of processes that have failed: what is seen there, how many there are, and that nothing of them is left."""

import asyncio
import os
import selectors
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.cli import post_mortem as in_cli
from hyperflow.cli.main import command_line
from hyperflow.cli.records import Run
from hyperflow.control.client import HeadElsewhere
from hyperflow.errors import ConfigurationError
from hyperflow.head import post_mortems as in_head
from hyperflow.launcher import post_mortems as in_launcher
from hyperflow.launcher.post_mortems import PostMortems
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import Inspect, Inspected
from hyperflow.wire.numbers import TaskNumber, WorkerNumber
from hyperflow.worker import post_mortem
from tests.helpers import alive, wait_until
from tests.support import local, notes

ESCAPE = "\x1b]0;owned\x07"

WHO = ("pid", "ppid")

Ask = Callable[..., Awaitable[str]]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Type `hyperflow debug --attach`, and return what it prints."""

    def typed(words: tuple[str, ...]) -> str:
        with pytest.raises(SystemExit):
            command_line()(["debug", *words, "--attach"])
        said = capfd.readouterr()
        return said.out + said.err

    async def run(home: Path, task: int, *lines: str) -> str:
        commands = [word for line in lines for word in ("--command", line)]
        return await asyncio.to_thread(typed, (str(home), str(task), *commands))

    return run


def fails(divisor: int, path: str) -> float:
    """Fail in a frame with variables, with a file open."""
    with open(path, "w") as file:
        secret = {"answer": 42, "hostile": ESCAPE}
        return len(secret) / divisor + file.fileno()


def process() -> int:
    """Return where this runs."""
    return os.getpid()


async def left(env: hf.JobEnv, path: Path) -> str:
    """Have an evaluation fail and leave a copy; return the notes of its error."""
    with pytest.raises(ZeroDivisionError) as failed:
        await hf.remote_eval(fails, 0, str(path)).using(post_mortem=True)
    return notes(failed.value)


async def test_it_can_be_looked_at(ask: Ask, tmp_path: Path) -> None:
    """Variables, frames and the process are there; the worker goes on and may end; nothing is left after the run."""
    async with local(cpus=1) as env:
        home = env.program.log_dir.parent
        worker = await hf.remote_eval(process)
        assert "hyperflow debug [RUN] 2 --attach" in await left(env, tmp_path / "file")
        assert await hf.remote_eval(process) == worker
        said = await ask(home, 2, "", "p secret", "p file.closed", "up", "down", "c", "p [][0]")
        assert "ZeroDivisionError: division by zero" in said
        assert "-> return len(secret) / divisor + file.fileno()" in said
        assert "'answer': 42" in said
        assert "\x1b" not in said
        assert "does not go on" in said
        assert "IndexError" in said
        own = "__import__('os')"
        said = await ask(home, 2, f"p {own}.getpid(), {own}.getsid(0), len({own}.listdir('/proc/self/fd'))")
        copy, session, descriptors = map(int, said.strip(" ()\n").split(","))
        assert copy == session != worker
        assert descriptors == 5  # the three, its socket, and the directory itself
        os.kill(worker, signal.SIGKILL)
        assert await hf.remote_eval(process) != worker
        assert "42" in await ask(home, 2, "p secret['answer']")
        assert "no copy of evaluation 3" in await ask(home, 3, "p 1")
        await asyncio.to_thread(os.kill, copy, signal.SIGKILL)
        await wait_until(lambda: not alive(copy), 10, "it has gone")
        with pytest.raises(ConfigurationError, match="no copy"):
            await env.evaluator.inspect(2, "p 1")  # type: ignore[attr-defined]
        task = 2 + await _until_another(env, tmp_path)
        said = await ask(home, task, f"p {own}.getpid()")
        assert alive(int(said))
    assert not alive(int(said))


async def _until_another(env: hf.JobEnv, path: Path) -> int:
    """Leave another copy; return how many evaluations there were since the first."""
    text = await left(env, path / "again")
    return int(text.partition("[RUN] ")[2].split()[0]) - 2


async def test_it_ends_with_its_launcher(ask: Ask, tmp_path: Path) -> None:
    """Also where that is killed."""
    with pytest.raises(hf.NodeLost):
        async with local(cpus=1, program=hf.ProgramInfo.new(tmp_path)) as env:
            await left(env, tmp_path / "file")
            said = await ask(env.program.log_dir.parent, 1, *(f"p __import__('os').get{which}()" for which in WHO))
            copy, launcher = map(int, said.split())
            os.kill(launcher, signal.SIGKILL)
            await wait_until(lambda: not alive(copy), 10, "it has gone")
            await hf.remote_eval(process)


def test_how_many_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones are kept, each until nobody has asked it for long; what is no answer ends one."""
    sent: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        kept = PostMortems(selector, sent.append)
        ends: list[socket.socket] = []
        for task in range(in_launcher.MOST + 1):
            ours, theirs = socket.socketpair()
            ends.append(ours)
            kept.keep(WorkerNumber(1), memoryview(frames.KEPT.pack(task, 2**31 - 1 - task)), theirs.detach())
        assert not kept.has_room
        assert len(sent) == len(kept.pids) == in_launcher.MOST
        assert ends[-1].recv(1) == b""
        monkeypatch.setattr(in_launcher.child, "signal_group", lambda *_: None)
        kept.ask(Inspect(TaskNumber(0), 7, "p x"))
        ((_, _, body),) = frames.Reader().feed(ends[0].recv(1000))
        assert messages.read(Inspect, body) == (0, 7, "p x")
        moment = kept.moment
        assert moment is not None
        kept.end_old(moment)
        assert kept.has_room
        ends[0].sendall(messages.framed(Inspected(TaskNumber(0), 7, "1")))
        ends[2].sendall(b"no frame at all " * 10)
        for key, _ in selector.select(0):
            key.data()
        gone = frames.Reader().feed(b"".join(sent[in_launcher.MOST :]))
        assert [(kind, bytes(body)) for kind, _, body in gone if kind == Kind.KEPT] == [
            (Kind.KEPT, frames.KEPT.pack(task, 0)) for task in (1, 2)
        ]
        assert [kind for kind, _, _ in gone].count(Kind.INSPECTED) == 1
        kept.ask(Inspect(TaskNumber(99), 8, ""))
        assert sent[-1] == frames.frame(Kind.KEPT, body=frames.KEPT.pack(99, 0))
        kept.close()
        for one in ends:
            one.close()


async def test_who_waits_is_told() -> None:
    """When a copy goes, or its node."""
    written: list[str] = []
    known = in_head.PostMortems(lambda node, _: written.append(node))
    for task in (1, 2):
        known.note(memoryview(frames.KEPT.pack(task, 5)), "node")
    asking = [asyncio.create_task(known.ask(task, "p x")) for task in (1, 2)]
    await asyncio.sleep(0)
    assert written == ["node", "node"]
    known.note(memoryview(frames.KEPT.pack(1, 0)), "")
    with pytest.raises(ConfigurationError, match="no copy of evaluation 1"):
        await asking[0]
    assert not asking[1].done()
    known.lost("node")
    with pytest.raises(ConfigurationError, match="no copy of evaluation 2"):
        await asking[1]


def test_from_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line travels as a command of its own."""
    (tmp_path / "run" / "log").mkdir(parents=True)
    (tmp_path / "run" / "log" / "events.jsonl").touch()
    run = Run("run", tmp_path / "run", None)

    def elsewhere(_: Path) -> None:
        raise HeadElsewhere("north", 5)

    def carried(host: str, words: list[str], *_: object) -> str:
        return f"{host} {' '.join(words)}\n"

    monkeypatch.setattr(in_cli, "head", elsewhere)
    monkeypatch.setattr(in_cli.elsewhere, "carry_out", carried)
    assert in_cli.attach(run, (None, 7), ("p x", "up")) == 0
    base = f"north debug {run.home} 7 --attach --command="
    assert capsys.readouterr().out == f"{base}p x\n{base}up\n"
    with pytest.raises(ConfigurationError, match="has no job 3"):
        in_cli.attach(run, (3, 7), ("p x",))


def test_a_line_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended; so is none of what raises what it likes."""
    monkeypatch.setattr(post_mortem, "LINE_SECONDS", 0.02)
    before = signal.getsignal(signal.SIGALRM)
    try:
        fails(0, os.devnull)
    except ZeroDivisionError as error:
        prompt = post_mortem.Prompt(error.__traceback__, error)
    try:
        assert "ended after 0.02 s" in prompt.answer("while True: pass")
        monkeypatch.setattr(post_mortem, "LINE_SECONDS", 60.0)
        assert "SystemExit" in prompt.answer("raise SystemExit")
        assert "not go on" in prompt.answer("continue")
        assert prompt.answer("p sys.version") == f"{sys.version!r}\n"
        assert len(prompt.answer("p 'x' * 10**6")) < 2 * post_mortem.LONGEST_ANSWER
    finally:
        signal.signal(signal.SIGALRM, before)
