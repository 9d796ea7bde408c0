"""The node's scratch is empty after the run, whatever died."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.wire import removal, scratch, survivors
from tests.helpers import block_until
from tests.leaks import processes
from tests.support import environment, local, run_script, start_script

RUN = """
import hyperflow as hf, os, subprocess, sys
file = hf.File("input")
def work(_):
    with hf.scratch() as d:
        (d / "a/b").mkdir(parents=True)
        (d / "a/b/c").write_text(open(file).read())
        (d / "a").chmod(0)
        os.mkdir("in." + str(os.getpid()))
        subprocess.run(["sleep", "1000"] if "wait" in sys.argv else ["true"])
@hf.job
async def main():
    await hf.remote_map(work, range(2), chunk_size=1)
if __name__ == "__main__":
    hf.run_job_local(main(), cpus=2, program=hf.ProgramInfo.new("runs"))
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a scratch disk, which all programs of the test use."""
    (tmp_path / "input").write_text("content")
    (tmp_path / "node").mkdir()
    monkeypatch.setenv("HYPERFLOW_SCRATCH", str(tmp_path / "node"))
    return tmp_path / "node"


def descendants(of: int) -> dict[str, list[int]]:
    """Return the processes of a run by what they are."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            pid = int(path.name)
            parents[pid] = int((path / "stat").read_bytes().rpartition(b")")[2].split()[1])
            commands[pid] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    below = {of}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    (keeper,) = [pid for pid in below if parents[pid] == of]
    (launcher,) = [pid for pid in below if parents[pid] == keeper]
    workers = [pid for pid in below if parents[pid] == launcher]
    watchers = {pid: command.split()[-1] for pid, command in commands.items() if "cleans up after" in command}
    job = os.environ.get(survivors.JOB, "")
    watcher = [pid for pid, name in watchers.items() if workers[0] in survivors.left(name, job)]
    assert len(watcher) == 1
    return {"head": [of], "keeper": [keeper], "launcher": [launcher], "workers": workers, "watcher": watcher,
            "rest": sorted(below - {of, keeper, launcher, *workers})}  # fmt: skip


def kill(pids: Sequence[int]) -> None:
    """Kill processes at once: none of them can do anything about it."""
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)


def is_empty(node: Path) -> bool:
    """Whether nothing is left."""
    return not os.listdir(node)


def left(node: Path) -> list[str]:
    """Return all that is left."""
    return [str(path.relative_to(node)) for path in node.rglob("*")]


def test_normal_end(tmp_path: Path, node: Path) -> None:
    """A run that ends in order leaves nothing, its directories without rights included."""
    run_script(tmp_path, RUN)
    assert is_empty(node)


DEATHS = {
    "a worker": ["workers"],
    "the launcher": ["launcher"],
    "the keeper": ["keeper"],
    "launcher and keeper": ["launcher", "keeper"],
    "the head": ["head"],
    "all but the watcher": ["head", "launcher", "keeper", "workers", "rest"],
    "all": ["head", "launcher", "keeper", "workers", "rest", "watcher"],
}


@pytest.mark.parametrize("dead", DEATHS)
def test_deaths(tmp_path: Path, node: Path, dead: str) -> None:
    """Whoever is killed, somebody else removes what is there; if nobody is left, the next run does, or gc."""
    before = processes()
    with start_script(tmp_path, RUN, ["wait"]) as process:
        block_until(lambda: len(list(tmp_path.glob("in.*"))) == 2, 30, "both work")
        assert len(list(node.glob("*/*/worker-*/scratch-*"))) == 2
        assert len([path for path in node.glob("*/*/files/*") if len(path.name) == 64]) == 1
        found = descendants(process.pid)
        if dead == "a worker":
            (one, *_) = node.glob("*/*/worker-*/scratch-*")
            pid = int(one.name.split("-")[1])
            kill([pid])
            block_until(lambda: not one.exists(), 10, "its directory has gone")
            process.send_signal(signal.SIGTERM)
        else:
            kill([pid for kind in DEATHS[dead] for pid in found[kind]])
        process.communicate(timeout=30)
    if dead == "all":
        assert not is_empty(node)
        run_script(tmp_path, RUN)
    block_until(lambda: is_empty(node), 15, "nothing is left", state=lambda: left(node))
    block_until(lambda: processes().keys() <= before.keys(), 15, "no process is left")


def test_gc(tmp_path: Path, node: Path) -> None:
    """What was left by all being killed at once is what gc shows and removes; what lives stays."""

    def gc(*arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "hyperflow", "gc", "--base-dir", str(tmp_path / "runs"), "--json", *arguments]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, timeout=50)
        told: dict[str, object] = json.loads(done.stdout)
        return told

    with start_script(tmp_path, RUN, ["wait"]) as process:
        block_until(lambda: len(list(tmp_path.glob("in.*"))) == 2, 30, "both work")
        assert "scratch" not in str(gc("--delete")["found"])
        found = descendants(process.pid)
        kill([pid for kind in DEATHS["all"] for pid in found[kind]])
        process.communicate(timeout=30)
    block_until(lambda: str(gc()["found"]).count("'scratch'") == 1, 15, "it is found")
    assert not is_empty(node)
    gc("--delete")
    assert is_empty(node)


def test_one_that_lives_is_spared(tmp_path: Path, node: Path) -> None:
    """A run that begins beside another one removes nothing of it."""
    with start_script(tmp_path, RUN, ["wait"]) as process:
        block_until(lambda: len(list(tmp_path.glob("in.*"))) == 2, 30, "both work")
        there = left(node)
        run_script(tmp_path, RUN)
        assert left(node) == there
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    block_until(lambda: is_empty(node), 10, "nothing is left", state=lambda: left(node))


def fill(count: int) -> str:
    """On a worker: leave many files, and end the process."""
    with hf.scratch() as directory:
        for number in range(count):
            (directory / f"{number % 100}").mkdir(exist_ok=True)
            (directory / f"{number % 100}" / f"{number}").touch()
        os._exit(1)


async def test_a_large_tree_holds_nobody_up(node: Path) -> None:
    """While a large tree is removed, the launcher starts the next worker, which answers."""
    async with local(1):
        with pytest.raises(hf.WorkerDied):
            await hf.remote_eval(fill, 20_000)
        assert await hf.remote_eval(len, "abc") == 3
        start = time.monotonic()
        while list(node.glob("*/*/trash/*")):
            assert await hf.remote_eval(len, "abc") == 3
            assert time.monotonic() < start + 30
    assert is_empty(node)


def deep(top: Path) -> None:
    """Make directories deeper than a path may be long."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("a" * 100, dir_fd=here)
        below = os.open("a" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def strange(top: Path) -> None:
    """Make what is no directory."""
    top.symlink_to("/etc")


def many(top: Path) -> None:
    """Make a directory with many in it, whose names look like ours."""
    for number in range(500):
        (top / f".gone-{os.getpid()}-{number}/x").mkdir(parents=True)


@pytest.mark.parametrize("make", [deep, strange, many])
def test_removing(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Trees of any depth go, and no link is followed."""
    make(tmp_path / "top")
    removal.remove(tmp_path / "top")
    assert not os.path.lexists(tmp_path / "top")
    assert Path("/etc/passwd").exists()


def test_stale_ones(tmp_path: Path) -> None:
    """Only a directory of this host is stale, and only if nobody has its lock and it is not being made."""
    base = tmp_path / f"hyperflow-{os.geteuid()}"
    made, lock = scratch.make_apart(str(tmp_path))
    (base / ".new-0").mkdir()
    other = base / "of-another-host"
    other.mkdir()
    (other / scratch.ALIVE).write_text("elsewhere")
    assert list(scratch.stale_in(base)) == []
    os.utime(base / ".new-0", (1, 1))
    os.close(lock)
    assert list(scratch.stale_in(base)) == [base / ".new-0", made]
    scratch.remove_whole(made)
    assert not made.exists()
    assert base.exists()


def test_which_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$TMPDIR as the launcher has found it, unless it means nothing on this node; what is set comes before."""
    monkeypatch.setattr(scratch, "_own_tmpdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "/of/the/head")
    monkeypatch.setenv("HERE", str(tmp_path / "set"))
    (tmp_path / "set").mkdir()
    assert scratch._base("") == tmp_path
    assert scratch._base("$HERE") == tmp_path / "set"
    monkeypatch.setattr(scratch, "_own_tmpdir", "/of/the/head")
    assert scratch._base("") == Path("/tmp")
    with pytest.raises(OSError, match="absolute"):
        scratch._base("$UNKNOWN")
