"""Nodes that join by themselves: real ssh on both sides, real launchers."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import pytest

import hyperflow as hf
from hyperflow.errors import ConfigurationError, LauncherError, WorkerDied
from hyperflow.pools.joining import access as access_file
from hyperflow.pools.joining import joining as joining_module
from hyperflow.pools.joining.joining import Joining
from tests.helpers import alive, wait_until
from tests.pools.joining.joins import copied, joining, opened

pytestmark = pytest.mark.process


def where() -> tuple[str, str, int]:
    """Say on which node, in which log, and below which launcher."""
    info = hf.worker_info()
    return info.node, info.log_file, os.getppid()


def big(size: int) -> bytes:
    """Return so many bytes."""
    return b"x" * size


def dies() -> None:
    """Print something, and end the worker."""
    print("last words", flush=True)
    os._exit(3)


def naps(started: str, seconds: float) -> bool:
    """Run until the node is ending, or so long; say whether it was told."""
    Path(started).touch()
    until = time.monotonic() + seconds
    while time.monotonic() < until and not hf.ending():
        time.sleep(0.02)
    return hf.ending()


def variables(*names: str) -> list[str | None]:
    """Return the values of variables."""
    return [os.environ.get(name) for name in names]


async def test_a_node_joins_works_and_is_released(tmp_path: Path) -> None:
    """A program without a node waits; a node that joins evaluates, takes and gives large data, and ends with code 0."""
    program = hf.ProgramInfo.new(tmp_path)
    home = program.log_dir.parent

    @hf.job
    async def job() -> tuple[str, str, int]:
        found = await hf.remote_eval(where)
        assert len(await hf.remote_eval(big, 30_000_000)) == 30_000_000
        assert await hf.remote_eval(len, bytes(30_000_000)) == 30_000_000
        return found

    async with AsyncExitStack() as stack:
        async with hf.open_pool_job(hf.NodePool(listen="127.0.0.1:0"), program=program) as env:
            node = await stack.enter_async_context(joining(None, str(home), "--name", "pod", "--cpus", "2"))
            name, log_file, _ = await job()
            assert (name, Path(log_file).parent, env.statistics().cpus) == ("pod", home / "log", 2)
        ended = await node.ended()
        assert (ended.code, "the pool has ended" in ended.said) == (0, True), ended.said
    assert not (home / "pool/access").exists()
    assert "pod" in (home / "log/events.jsonl").read_text()


async def test_nodes_of_one_name_and_their_ends(tmp_path: Path) -> None:
    """Pods of one name are two nodes. A killed one is lost with its launcher; one that gets SIGTERM is drained."""
    async with opened(tmp_path) as pool:
        access, started = pool.listening.access_file, tmp_path / "started"
        async with joining(access, "--name", "main", "--cpus", "1") as first:
            name, _, launcher = await pool.evaluate(where)  # type: ignore[misc]
            running = asyncio.ensure_future(pool.evaluate(naps, str(started), 60.0))
            await wait_until(started.exists, 20, "the evaluation runs")
            async with joining(access, "--name", "main", "--cpus", "1") as second:
                await wait_until(lambda: len(pool.nodes) == 2, 30, "both are there")
                assert (name, pool.nodes) == ("main", ["main", "main-2"])
                started.unlink()
                first.signal(signal.SIGKILL)
                await wait_until(lambda: not alive(launcher), 10, "its launcher has gone")
                await wait_until(started.exists, 20, "the evaluation runs on the other node")
                second.signal(signal.SIGTERM)
                assert await running is True, "it was not told that its node is ending"
                ended = await second.ended()
                assert (ended.code, "its user wants it back" in ended.said) == (0, True), ended.said
            await wait_until(lambda: pool.nodes == [], 10, "both have gone")


async def test_a_node_whose_head_is_cut_off(tmp_path: Path) -> None:
    """When the connection breaks, the launcher ends with all that it has started, and the node says so, with code 1."""
    async with opened(tmp_path) as pool, joining(pool.listening.access_file, "--cpus", "1") as node:
        name, _, launcher = await pool.evaluate(where)  # type: ignore[misc]
        node.signal(signal.SIGSTOP)
        pool.engine.fleet.links[name].abort()
        node.signal(signal.SIGCONT)
        ended = await node.ended()
        assert (ended.code, "its stream ended" in ended.said) == (1, True), ended.said
        await wait_until(lambda: not alive(launcher), 10, "its launcher has gone")


async def test_a_machine_without_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a namespace without the run's directory a node works; errors say on which node the log is, and its tail."""
    runs, logs, copy = tmp_path / "runs", tmp_path / "node", tmp_path / "access"
    runs.mkdir()
    logs.mkdir()
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(runs)]
    if shutil.which("unshare") is None or subprocess.run([*hide, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may make no mount namespace")
    async with opened(runs) as pool:
        copied(pool.listening.access_file, copy)
        own = {"TMPDIR": str(logs), "HOME": str(logs), "OF_BOTH": "node"}
        monkeypatch.setenv("OF_BOTH", "head")
        monkeypatch.setenv("OF_THE_HEAD", "head")
        before = ["env", "-u", "OF_THE_HEAD", *hide]
        async with joining(copy, "--name", "far", "--cpus", "1", before=before, environment=own) as node:
            name, log_file, _ = await pool.evaluate(where)  # type: ignore[misc]
            assert name == "far"
            assert Path(log_file).parent.parent == logs
            assert await pool.evaluate(variables, "HOME", "OF_BOTH", "OF_THE_HEAD") == [str(logs), "node", "head"]
            with pytest.raises(WorkerDied, match="last words") as raised:
                await pool.evaluate(dies)
            assert raised.value.log_file == f"far:{log_file}"
            assert "last words" in Path(log_file).read_text()
            assert os.stat(Path(log_file).parent).st_mode & 0o777 == 0o700
            await pool.listening.close()
            assert (await node.ended()).code == 0


async def test_who_cannot_join_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another pool, of one that has ended, or another version: exit code 1, and a text that says which."""
    async with opened(tmp_path) as pool, opened(tmp_path) as other:
        access = pool.listening.access
        for changes, text in (
            ({"host_key": other.listening.access.host_key}, "has another key"),
            ({"client_key": other.listening.access.client_key}, "does not take its key"),
        ):
            path = copied(pool.listening.access_file, tmp_path / "access", **changes)
            with pytest.raises(ConfigurationError, match=text):
                await joining_module.join(access_file.read(path), Joining())
        with monkeypatch.context() as patch:
            patch.setattr(
                joining_module, "JoinRequest", lambda *args: joining_module.join_request.JoinRequest(*args, protocol=1)
            )
            ended = await joining_module.join(access, Joining())
            assert (ended.in_order, "use one and the same Python environment" in ended.why) == (False, True), ended.why
        path = copied(pool.listening.access_file, tmp_path / "access")
    async with joining(path) as node:
        ended = await node.ended()
        assert (ended.code, "The pool may have ended" in ended.said) == (1, True), ended.said
    for one in (access, attrs.evolve(access, hosts=("a..b",))):
        with pytest.raises(LauncherError, match="cannot be reached"):
            await joining_module.join(one, Joining())
