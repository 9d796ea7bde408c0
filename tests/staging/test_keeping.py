"""Files that stay on the node where they were made: who gets them from there, for how long, what their loss means."""

import asyncio
import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.head.link import Link
from hyperflow.staging import asking, keeping
from hyperflow.staging.cache import node_cache
from hyperflow.staging.shelf import Shelf
from hyperflow.wire import scratch
from tests.helpers import wait_until
from tests.staging.nodes import engine_of, file_digest, made, nodes

pytestmark = pytest.mark.process

SIZE = 6 << 20
NOWHERE = "made by make()"


class Kept:
    """Stands for a File at the head."""


def make(size: int) -> keeping.KeptAt:
    """Make a file, which stays here."""
    assert scratch.place is not None
    path = scratch.place / "made"
    digest = made(path, size)
    there = node_cache().put(path, digest)
    return keeping.keep(there, digest, size)


def get(digest: str, size: int) -> tuple[str, str, int]:
    """Get one from wherever it is; return its digest, our node and how many names it has."""
    assert scratch.place is not None
    path = asking.fetch(digest, size, NOWHERE, scratch.place / "files")
    found = file_digest(path), hf.worker_info().node, path.stat().st_nlink
    path.unlink()
    return found


def is_pinned(path: str) -> bool:
    """Whether the cache of this node may not remove it."""
    return Shelf(Path(path).parent, 0).is_pinned(Path(path).name)


@pytest.mark.parametrize("setting", ["auto", "off"])
@pytest.mark.parametrize("size", [100, SIZE])
async def test_others_get_it_from_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, size: int
) -> None:
    """Node to node; or through the head where nodes do not reach each other."""
    pulled: list[int] = []
    handed: list[int] = []
    hear = Link.data_received

    def hearing(self: Link, data: bytes) -> None:
        handed.append(len(data))
        hear(self, data)

    async with nodes(tmp_path, monkeypatch, 4, node_to_node=setting) as env:
        kept = await hf.remote_eval(make, size)
        file = Kept()
        keeping.follow(file, kept.digest)
        pull = engine_of(env).node_files.kept.pull

        async def pulling(*args: Any) -> bytes:
            data = await pull(*args)
            pulled.append(len(data))
            return data

        monkeypatch.setattr(engine_of(env).node_files.kept, "pull", pulling)
        monkeypatch.setattr(Link, "data_received", hearing)
        results = await hf.concurrently(*(hf.remote_eval(get, kept.digest, size) for _ in range(8)))
    assert {found for found, _, _ in results} == {kept.digest}
    assert {node for _, node, _ in results} > {kept.node}
    assert {names for *_, names in results} == {1}
    if setting == "auto":
        assert not pulled
        assert sum(handed) < 100_000
    else:
        assert sum(pulled) >= size


async def test_where_memory_is_shared(tmp_path: Path) -> None:
    """Others on this machine open what the launcher holds."""
    async with hf.open_local_job(cpus=2):
        kept = await hf.remote_eval(make, SIZE)
        results = await hf.concurrently(*(hf.remote_eval(get, kept.digest, SIZE) for _ in range(4)))
        assert {found for found, _, _ in results} == {kept.digest}
    del tmp_path


async def test_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last object at the head is gone, the node's cache may remove it; until then it may not."""
    async with nodes(tmp_path, monkeypatch, 1):
        kept = await hf.remote_eval(make, SIZE)
        one, two = Kept(), Kept()
        keeping.follow(one, kept.digest)
        keeping.follow(two, kept.digest)
        del one
        gc.collect()
        assert await hf.remote_eval(is_pinned, kept.path)
        del two
        gc.collect()
        await wait_until(lambda: not is_pinned(kept.path), 20, "the pin is gone")
        assert (await hf.remote_eval(get, kept.digest, SIZE))[0] == kept.digest  # as long as it is there
        os.unlink(kept.path)


@pytest.mark.parametrize("how", ["killed", "removed", "damaged"])
async def test_it_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Who needs it gets an error that names the file and the node, and says what to do."""
    async with nodes(tmp_path, monkeypatch, 2) as env:
        kept = await hf.remote_eval(make, SIZE)
        file = Kept()
        keeping.follow(file, kept.digest)
        if how == "killed":
            greeting = engine_of(env).fleet.links[kept.node].greeting
            assert greeting is not None
            os.kill(greeting.pid, signal.SIGKILL)
            await wait_until(lambda: kept.node not in engine_of(env).fleet.links, 20, "it is lost")
        elif how == "removed":
            os.unlink(kept.path)
        else:
            os.chmod(kept.path, 0o600)  # only root could do without
            os.truncate(kept.path, SIZE // 2)
        with pytest.raises(hf.FileLost) as caught:
            await hf.remote_eval(get, kept.digest, SIZE)
        assert caught.value.node == kept.node
        assert all(part in str(caught.value) for part in (NOWHERE, 'keep="home"'))


async def test_it_is_lost_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also who waits for it is told."""
    async with nodes(tmp_path, monkeypatch, 2, node_to_node="off") as env:
        kept = await hf.remote_eval(make, 200 << 20)
        file = Kept()
        keeping.follow(file, kept.digest)
        others = [hf.remote_eval(get, kept.digest, 200 << 20).start() for _ in range(2)]
        await wait_until(lambda: engine_of(env).node_files._pumps, 20, "it is on its way")
        greeting = engine_of(env).fleet.links[kept.node].greeting
        assert greeting is not None
        os.kill(greeting.pid, signal.SIGKILL)
        found = await asyncio.gather(*others, return_exceptions=True)
        lost = [one for one in found if isinstance(one, hf.FileLost)]
        assert lost
        # One may have run beside the file, and have read it before the node was lost.
        assert all(one[1] == kept.node for one in found if one not in lost)
