"""Files come to nodes that share neither memory nor directories with the head, over real launchers."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.head import file_sources, node_files
from hyperflow.head.broadcast import ROOTS
from hyperflow.head.file_sources import SMALL, Opened
from hyperflow.head.pump import PIECE
from hyperflow.staging import asking
from hyperflow.transports.process import WRITE_AHEAD, ProcessConnection
from hyperflow.wire import scratch
from tests.helpers import wait_until
from tests.staging.nodes import engine_of, file_digest, made, nodes

pytestmark = pytest.mark.process

MB = 1 << 20


def get(digest: str, size: int, source: str) -> tuple[str, int, str]:
    """Fetch a file; return its digest, names and our node."""
    assert scratch.place is not None
    path = asking.fetch(digest, size, source, scratch.place / "files")
    found = file_digest(path), path.stat().st_nlink, hf.worker_info().node
    path.unlink()
    return found


def sleep_then_get(digest: str, size: int, source: str, mark: str) -> None:
    """Say that we are there, and fetch."""
    Path(mark).touch()
    get(digest, size, source)


def launcher_files() -> list[str]:
    """Return what our launcher has open of files that come."""
    place = Path(f"/proc/{os.getppid()}/fd")
    found: list[str] = []
    for each in place.iterdir():
        with contextlib.suppress(OSError):
            found.append(str(each.readlink()))
    return [name for name in found if "scratch" in name and "deleted" in name]


def node() -> str:
    """Return where we are."""
    return hf.worker_info().node


def launcher() -> int:
    """Return our launcher's pid."""
    return os.getppid()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what the head writes to launchers; also what a stream held at most."""
    counted = [0, 0]
    write = ProcessConnection.write

    def counting(self: ProcessConnection, parts: Any) -> None:
        counted[0] += sum(map(len, parts))
        write(self, parts)
        counted[1] = max(counted[1], self._transport.get_write_buffer_size())

    monkeypatch.setattr(ProcessConnection, "write", counting)
    return counted


@pytest.mark.parametrize("size", [0, 1, SMALL, SMALL + 1, 3 * PIECE, 3 * PIECE + 1])
async def test_a_file_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Whatever its size; with one name, so that it belongs to who has asked."""
    digest = made(tmp_path / "source", size)
    async with nodes(tmp_path, monkeypatch, 1):
        assert await hf.remote_eval(get, digest, size, str(tmp_path / "source")) == (digest, 1, "n0")


async def test_where_memory_is_shared(tmp_path: Path) -> None:
    """The worker reads what the head has open, and has a copy: who writes to it does not write to the source."""
    source = tmp_path / "source"
    digest = made(source, 3 * MB)
    async with hf.open_local_job(cpus=1):
        assert await hf.remote_eval(get, digest, 3 * MB, str(source)) == (digest, 1, os.uname().nodename)
    assert source.stat().st_nlink == 1


async def test_many_nodes_get_it_from_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[int]
) -> None:
    """The head sends it to the first ones only; with node_to_node off, to each."""
    size, count = 4 * MB, 5
    digest = made(tmp_path / "source", size)
    for setting, copies in (("auto", ROOTS), ("off", count)):
        async with nodes(tmp_path, monkeypatch, count, node_to_node=setting):
            await hf.concurrently(*(hf.remote_eval(node) for _ in range(count)))
            sent[0] = 0
            flows = (hf.remote_eval(get, digest, size, str(tmp_path / "source")) for _ in range(count))
            results = await hf.concurrently(*flows)
        assert {found for found, _, _ in results} == {digest}
        assert {name for _, _, name in results} == {f"n{number}" for number in range(count)}
        assert copies * size <= sent[0] < (copies + 1) * size, setting


async def test_a_task_does_not_wait_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[int]
) -> None:
    """What is submitted while a large file goes to the same node is done before that is there; memory stays flat."""
    size = 200 * MB
    digest = made(tmp_path / "source", size)
    async with nodes(tmp_path, monkeypatch, 1, cpus=2):
        await hf.concurrently(*(hf.remote_eval(node) for _ in range(2)))
        sent[:] = [0, 0]
        large = hf.remote_eval(get, digest, size, str(tmp_path / "source")).start()
        await wait_until(lambda: sent[0] > 4 * PIECE, 20, "it is on its way")
        assert await hf.remote_eval(node) == "n0"
        assert sent[0] < size, "the task has waited for the whole file"
        assert (await large)[0] == digest
    assert sent[1] < WRITE_AHEAD + 2 * PIECE


async def refusal(digest: str, size: int, source: Path) -> str:
    """Return why there is no such file."""
    with pytest.raises(hf.HyperflowError) as caught:
        await hf.remote_eval(get, digest, size, str(source))
    return str(caught.value)


@pytest.mark.parametrize("size", [10, 3 * MB])
async def test_a_source_that_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """It is refused with both states: another size, another content, none, or something else in its place."""
    source = tmp_path / "source"
    digest = made(source, size)
    async with nodes(tmp_path, monkeypatch, 2):
        now = made(source, size)
        said = await refusal(digest, size, source)
        assert all(part in said for part in (digest, now, str(source), "on n"))
        made(source, size + 1)
        said = await refusal(digest, size, source)
        assert all(f"{number} bytes" in said for number in (size, size + 1))
        source.unlink()
        assert "No such file" in await refusal(digest, size, source)
        source.mkdir()
        assert "no file any more" in await refusal(digest, size, source)
        os.mkfifo(tmp_path / "pipe")
        assert "no file any more" in await refusal(digest, size, tmp_path / "pipe")


async def test_a_source_that_changes_while_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off, or written to: nobody gets what is half of one and half of the other."""
    source, size = tmp_path / "source", 8 * MB
    read = Opened.read

    async with nodes(tmp_path, monkeypatch, 1):
        for change, said in ((lambda: os.truncate(source, 5 * MB), "ends after"), (lambda: touch(source), "changed")):
            digest = made(source, size)

            async def reading(self: Opened, offset: int, count: int, change: Callable[[], None] = change) -> bytes:
                data = await read(self, offset, count)
                if offset == 4 * MB:
                    change()
                return data

            monkeypatch.setattr(Opened, "read", reading)
            assert said in await refusal(digest, size, source)


def touch(path: Path) -> None:
    """Write to a file, without a change of its size."""
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, (1, 1))


async def test_wrong_bytes_are_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head sends the file once more; if that is wrong, too, the error says from where each came."""
    source, size = tmp_path / "source", 3 * MB
    digest = made(source, size)
    read, wrong = Opened.read, [1]

    async def reading(self: Opened, offset: int, count: int) -> bytes:
        data = await read(self, offset, count)
        if offset == 0 and wrong[0] > 0:
            wrong[0] -= 1
            return bytes([data[0] ^ 1]) + data[1:]
        return data

    monkeypatch.setattr(Opened, "read", reading)
    async with nodes(tmp_path, monkeypatch, 1):
        assert (await hf.remote_eval(get, digest, size, str(source)))[0] == digest
    wrong[0] = 2
    async with nodes(tmp_path, monkeypatch, 1):
        said = await refusal(digest, size, source)
        assert "n0 with wrong bytes twice, from the head and from the head" in said


async def test_a_file_system_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds up who needs the file, for a while, and nobody else."""
    source = tmp_path / "source"
    digest = made(source, MB)
    hangs = threading.Event()
    monkeypatch.setattr(file_sources, "PATIENCE", 0.5)
    monkeypatch.setattr(file_sources, "_open", lambda *_: hangs.wait())
    async with nodes(tmp_path, monkeypatch, 2):
        waits = asyncio.ensure_future(refusal(digest, MB, source))
        await asyncio.sleep(0)
        assert await hf.remote_eval(node) in ("n0", "n1")
        assert "has not answered" in await waits
    hangs.set()


@pytest.mark.skipif(os.geteuid() != 0, reason="it mounts a small disk")
async def test_a_full_scratch_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the node and the directory, and says what to type; nothing of the file is left."""
    source = tmp_path / "source"
    digest = made(source, 8 * MB)
    before = f"mount -t tmpfs -o size=6m tmpfs {tmp_path}/scratch-$HYPERFLOW_TEST_NODE"
    for number in range(2):
        (tmp_path / f"scratch-{number}").mkdir()
    monkeypatch.setenv("HYPERFLOW_TEST_NODE", "0")
    async with nodes(tmp_path, monkeypatch, 1, before=before):
        with pytest.raises(hf.ScratchFull) as caught:
            await hf.remote_eval(get, digest, 8 * MB, str(source))
        assert all(part in str(caught.value) for part in ("n0", "HYPERFLOW_SCRATCH", str(tmp_path / "scratch-0")))
        small = made(source, 3 * MB)
        assert (await hf.remote_eval(get, small, 3 * MB, str(source)))[0] == small


async def test_a_worker_that_is_ended_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[int]
) -> None:
    """The head stops sending, and nothing of the file is left, neither here nor there."""
    source, size = tmp_path / "source", 300 * MB
    digest = made(source, size)
    async with nodes(tmp_path, monkeypatch, 1) as env:
        await hf.remote_eval(node)
        sent[0] = 0
        waits = hf.remote_eval(get, digest, size, str(source)).start()
        await wait_until(lambda: sent[0] > 2 * PIECE, 20, "it is on its way")
        waits.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waits
        assert await hf.remote_eval(launcher_files) == []
        assert sent[0] < size
        assert not any(file.in_use for file in engine_of(env).node_files._files.values())


async def test_a_node_of_the_tree_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[int]) -> None:
    """Those that were getting the file from it get it from another one."""
    source, size, count = tmp_path / "source", 40 * MB, 5
    digest = made(source, size)
    async with nodes(tmp_path, monkeypatch, count) as env:
        pids = await hf.concurrently(*(hf.remote_eval(launcher) for _ in range(count)))
        assert len(set(pids)) == count
        sent[0] = 0
        flows = [hf.remote_eval(get, digest, size, str(source)) for _ in range(count)]
        waits = hf.concurrently(*flows).start()
        await wait_until(lambda: sent[0] > 4 * PIECE, 20, "it is on its way")
        broadcast = engine_of(env).node_files._broadcast
        (spread,) = broadcast._spreads.values()
        await wait_until(lambda: spread.parents, 20, "a node gets it from another one")
        parent = next(iter(spread.parents.values()))
        os.kill(engine_of(env).fleet.links[parent].greeting.pid, signal.SIGKILL)  # type: ignore[union-attr]
        assert {found for found, _, _ in await waits} == {digest}
        assert env.statistics().nodes_lost == 1


async def test_many_files_leave_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is idle is bounded, in the head and in the launcher, and is forgotten after a while."""
    monkeypatch.setattr(node_files, "MOST_IDLE", 4)
    monkeypatch.setattr(node_files, "LINGER", 0.2)
    monkeypatch.setattr(node_files, "LOOK", 0.1)
    sources = [tmp_path / f"source-{number}" for number in range(60)]
    digests = [made(source, SMALL + 1 if number % 2 else 100) for number, source in enumerate(sources)]
    async with nodes(tmp_path, monkeypatch, 1) as env:
        await hf.remote_eval(node)
        before = len(os.listdir("/proc/self/fd"))
        for source, digest in zip(sources, digests, strict=True):
            await hf.remote_eval(get, digest, source.stat().st_size, str(source))
            assert len(os.listdir("/proc/self/fd")) <= before + 5
        assert len(await hf.remote_eval(launcher_files)) <= 5
        await wait_until(lambda: not engine_of(env).node_files._files, 20, "all is forgotten")
        assert len(os.listdir("/proc/self/fd")) <= before
        assert await hf.remote_eval(launcher_files) == []


async def test_more_at_a_time_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes later waits for one that was there before."""
    monkeypatch.setattr(node_files, "MOST_OPEN", 1)
    sources = [tmp_path / f"source-{number}" for number in range(6)]
    digests = [made(source, 2 * MB) for source in sources]
    async with nodes(tmp_path, monkeypatch, 3):
        flows = [hf.remote_eval(get, digest, 2 * MB, str(s)) for s, digest in zip(sources, digests, strict=True)]
        assert [found for found, _, _ in await hf.concurrently(*flows)] == digests


def get_in_thread(*args: Any) -> str:
    """Ask for a file in a thread; return what is said."""
    said: list[str] = []

    def ask() -> None:
        try:
            get(*args)
        except hf.MisuseError as error:
            said.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return said[0]


async def get_async(*args: Any) -> tuple[str, int, str]:
    """Ask in an async function, which blocks."""
    await asyncio.sleep(0)
    return get(*args)


async def test_who_may_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation itself, also an async one; no thread of it, and nobody at the head."""
    source = tmp_path / "source"
    digest = made(source, 2 * MB)
    async with nodes(tmp_path, monkeypatch, 1):
        assert (await hf.remote_eval(get_async, digest, 2 * MB, str(source)))[0] == digest
        assert "by the evaluation itself" in await hf.remote_eval(get_in_thread, digest, 2 * MB, str(source))
    with pytest.raises(hf.MisuseError, match="functions on workers"):
        asking.fetch(digest, 2 * MB, str(source), tmp_path / "x")
