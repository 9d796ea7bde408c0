"""Whoever is killed while outputs come home: the destination is the old or the new one, and nothing is left."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.staging import delivery, landing
from hyperflow.wire import scratch
from tests.helpers import alive, block_until, wait_until
from tests.support import local, start_script

SCRIPT = """
import sys
import hyperflow as hf
from tests.staging import test_landing

@hf.job
async def main():
    if sys.argv[1] == "landing":
        test_landing.stop_at_home()
    else:
        await hf.remote_eval(test_landing.stop_on_worker, sys.argv[1] == "unseen", "begun")
    await hf.remote_command(["sh", "-c", "head -c 3000000 /dev/zero > out; mkdir tree; echo new > tree/x"],
                            outputs=["out", "tree/"], check=True)

if __name__ == "__main__":
    hf.run_job_local(main(), cpus=1, program=hf.ProgramInfo.new("runs"))
"""


@pytest.fixture(autouse=True)
def _in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    Path("tree").mkdir()
    Path("tree/x").write_text("old")
    Path("out").write_text("old")


def stop_on_worker(blind: bool, mark: str) -> None:
    """On a worker: stop for good in the midst of the next file that is brought home."""
    pieces = delivery.pieces_of

    def slowly(source: str) -> Any:
        for piece in pieces(source):
            yield piece
            scratched = scratch.place
            Path(f"{mark}.new").write_text(f"{os.getpid()} {os.getppid()} {scratched}")
            Path(f"{mark}.new").rename(mark)
            time.sleep(3600)

    delivery.pieces_of = slowly
    if blind:
        delivery.is_there = lambda *_: False


def stop_at_home() -> None:
    """In the head: stop for good between the first output that got its name and the second."""
    place = landing.give_name

    def slowly(*args: Any) -> Any:
        landed = place(*args)
        Path("begun").write_text(f"{os.getpid()} {os.getpid()} ")
        time.sleep(3600)
        return landed

    landing.give_name = slowly


def begun(path: Path = Path("begun")) -> tuple[int, int, str]:
    """Return the pids of worker and launcher, and where its scratch is, once it has stopped."""
    block_until(path.exists, 30, "outputs come")
    worker, launcher, place = path.read_text().split(" ", 2)
    path.unlink()
    return int(worker), int(launcher), place


def hidden() -> list[str]:
    """Return what is beside the destinations."""
    return [name for name in os.listdir() if name.startswith(".")]


@pytest.mark.parametrize("sight", ["seen", "unseen"])
@pytest.mark.parametrize("victim", ["worker", "launcher"])
async def test_kill_on_the_node(sight: str, victim: str) -> None:
    """A killed worker or launcher leaves the old files, and nothing beside them or in scratch."""
    async with local(cpus=1):
        await hf.remote_eval(stop_on_worker, sight == "unseen", os.path.abspath("begun"))
        future = hf.remote_command(["sh", "-c", "echo new > out; echo new > x"], outputs=["out", "x"]).start()
        worker, launcher, place = await asyncio.to_thread(begun)
        await wait_until(hidden, 10, "parts are there")
        os.kill({"worker": worker, "launcher": launcher}[victim], signal.SIGKILL)
        with pytest.raises((hf.WorkerDied, hf.NodeLost)):
            await future
        assert sorted(os.listdir()) == ["out", "tree"]
        assert Path("out").read_text() == "old"
        if victim == "worker":
            await hf.remote_command(["sh", "-c", "echo new > out"], outputs=["out"], check=True)
            assert Path("out").read_text() == "new\n"
    await wait_until(lambda: not os.path.exists(place), 10, "nothing is left in scratch")


@pytest.mark.parametrize("moment", ["seen", "unseen", "landing"])
async def test_kill_the_head(moment: str) -> None:
    """After a SIGKILL of the head each output is the old or the new one; the next run removes what is left beside."""
    process = start_script(Path.cwd(), SCRIPT, [moment])
    _, _, place = await asyncio.to_thread(begun)
    await wait_until(hidden, 10, "parts are there")
    process.kill()
    process.communicate()
    found = Path("out").read_bytes(), Path("tree/x").read_text()
    assert found == ((bytes(3000000), "old") if moment == "landing" else (b"old", "old"))
    assert os.listdir("tree") == ["x"]
    assert hidden()
    if place:
        await wait_until(lambda: not os.path.exists(place), 10, "nothing is left in scratch")
    async with local(cpus=1):
        text = "echo newer > out; mkdir tree; echo newer > tree/x"
        await hf.remote_command(["sh", "-c", text], outputs=["out", "tree/"], check=True)
    assert (Path("out").read_text(), Path("tree/x").read_text()) == ("newer\n", "newer\n")
    assert not hidden()


async def test_parts_of_a_live_run_stay() -> None:
    """Another run that makes something beside does not touch what is on its way."""
    process = start_script(Path.cwd(), SCRIPT, ["seen"])
    try:
        worker, _, _ = await asyncio.to_thread(begun)
        before = sorted(hidden())
        async with local(cpus=1):
            await hf.remote_command(["sh", "-c", "echo other > other"], outputs=["other"], check=True)
        assert sorted(hidden()) == before
        assert before
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert not alive(worker)
    assert not hidden()
    assert Path("out").read_text() == "old"


def test_what_stops_is_there() -> None:
    """What these tests replace has the names that they take."""
    assert callable(delivery.pieces_of)
    assert callable(landing.give_name)
    assert sys.modules[__name__].begun
