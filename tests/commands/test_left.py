"""Nothing is left in the node's scratch, nor beside an output's place, whatever died in whatever it was doing."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import alive, block_until
from tests.leaks import processes
from tests.staging.test_deaths import DEATHS, descendants, is_empty, kill, left
from tests.support import run_script, start_script

SIZE = 160 << 20
"""Bytes of files that are on their way for long enough to be met there."""

RUN = f"""
import hyperflow as hf, sys
COMMANDS = {{
    "copy": "sleep 100",
    "command": "echo > begun; sleep 100",
    "collect": "echo > begun; sleep 1; truncate -s {SIZE} result",
}}
@hf.job
async def main():
    if "plain" in sys.argv:
        await hf.remote_command(["cat", hf.File("little")], check=True)
    else:
        source = hf.File("little" if "command" in sys.argv else "large")
        command = COMMANDS[sys.argv[1]].replace("> begun", "> " + sys.argv[2])
        await hf.remote_command(["sh", "-c", command, "-", source, hf.Output("result")])
hf.run_job_local(main(), cpus=1, program=hf.ProgramInfo.new("runs"), progress=False)
"""

MOMENTS: dict[str, Callable[[Path, Path], object]] = {
    "copy": lambda place, disk: [one for one in disk.glob("*/*/files/*") if len(one.name) != 64 and _size(one)],
    "command": lambda place, disk: (place / "begun").exists(),
    "collect": lambda place, disk: [one for one in place.glob(".result*") if _size(one)],
}
"""Whether it is doing that: copying an input, running, or copying an output."""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _meet(moment: Callable[[Path, Path], object], place: Path, disk: Path, run: subprocess.Popen[str]) -> None:
    """Wait for a moment, with few pauses: it does not last."""
    until = time.monotonic() + 30
    while not moment(place, disk):
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < until, left(disk)
        os.sched_yield()


CASES = [
    *(("command", dead) for dead in DEATHS),
    *((moment, dead) for moment in ("copy", "collect") for dead in ("a worker", "launcher and keeper")),
    ("collect", "all"),
]
"""Each death while a command runs; while files are on their way, one of each kind of who cleans up. (Not all of them
while an input is copied: the command may begin after we have looked who is there, and then nobody would end it.)"""


@pytest.mark.process
@pytest.mark.parametrize(("moment", "dead"), CASES)
def test_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, dead: str) -> None:
    """Somebody who lives cleans up; when all are dead, the next run on that node does."""
    before, disk = processes(), tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("HYPERFLOW_SCRATCH", str(disk))
    (tmp_path / "little").write_text("content")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(SIZE)
    with start_script(tmp_path, RUN, [moment, str(tmp_path / "begun")]) as run:
        if moment == "collect":  # for too short a time to look for anybody
            _meet(MOMENTS["command"], tmp_path, disk, run)
            found = descendants(run.pid)
            _meet(MOMENTS[moment], tmp_path, disk, run)
        else:
            _meet(MOMENTS[moment], tmp_path, disk, run)
            found = descendants(run.pid)
        kill([pid for kind in DEATHS[dead] or ["workers"] for pid in found[kind]])
        if dead == "a worker":
            block_until(lambda: not any(map(alive, found["workers"])), 10, "it has ended")
            run.send_signal(signal.SIGTERM)
        run.communicate(timeout=40)
    if dead == "all":
        assert not is_empty(disk)
        run_script(tmp_path, RUN, "plain")
    block_until(lambda: is_empty(disk), 15, "nothing is left", state=lambda: left(disk))
    block_until(lambda: processes().keys() <= before.keys(), 15, "no process is left")
    assert _size(tmp_path / "result") in (0, SIZE)
