"""`hyperflow show --live`: what another terminal sees of a run."""

from collections.abc import Callable
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.cli.main import command_line
from hyperflow.progress import display
from hyperflow.progress.tally import Snapshot
from hyperflow.progress.view import View
from tests.support import start_script

SCRIPT = """
import asyncio, os, time
import hyperflow as hf

def waits(name):
    while not os.path.exists(name):
        time.sleep(0.01)

@hf.job
async def scan():
    one = hf.remote_eval(waits, "gate").using(name="scan 3").start()
    await asyncio.sleep(0)
    print("begun", flush=True)
    await one

hf.run_job_local(scan(), cpus=1, program=hf.ProgramInfo.new("hyperflow-runs"))
"""


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Type a command and return its exit code and all that it printed."""

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            command_line()(list(words))
        seen = capfd.readouterr()
        return int(str(ended.value.code)), seen.out + seen.err

    return run


@pytest.mark.process
def test_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Callable[..., tuple[int, str]]) -> None:
    """It shows what the head counts until the run ends, and then how it has ended; one that has ended, only that."""
    drawn: list[Snapshot] = []

    class Screen:
        def draw(self, view: View) -> None:
            drawn.append(view.stands)
            if view.stands.busy:
                (tmp_path / "gate").touch()

        def close(self, line: str) -> None:
            print(line)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hyperflow.cli.live.screen_here", Screen)
    with start_script(tmp_path, SCRIPT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        code, text = typed("show", "--live")
        process.wait()
    assert code == 0, text
    assert "; it has ended" in text
    assert ": finished after" in text
    assert [(group.name, group.submitted) for group in drawn[0].groups] == [("scan 3", 1)]
    assert (drawn[0].cpus, drawn[0].nodes) == (1, 1)
    code, text = typed("show", "--live")
    assert (code, "it has ended" in text, ": finished after" in text) == (0, False, True)


@pytest.mark.process
async def test_jobs_of_a_cluster_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside `main`, a Cluster computation shows how its jobs stand, and their evaluations by the job's function."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    for name in ("START", "PAUSE", "SHARE"):
        monkeypatch.setattr(display, name, 0.001)
    seen: list[View] = []
    left: list[str] = []

    class Screen:
        def draw(self, view: View) -> None:
            seen.append(view)

        def close(self, line: str) -> None:
            left.append(line)

    monkeypatch.setattr(display, "screen_here", Screen)

    @hf.job
    async def adds(x: int) -> int:
        return sum(await hf.concurrently(*[hf.remote_eval(abs, x)] * 3))

    async with hf.open_cluster(base_dir=tmp_path / "runs", local=True):
        found = await hf.map_concurrently(lambda x: hf.remote_eval_job(adds(x)), [1, 2])
    assert found == [3, 6]
    stands = seen[-1].stands
    assert stands.jobs == "2 done"
    assert [(group.name, group.done) for group in stands.groups] == [("adds", 6)]
    assert left[0].startswith("hyperflow: 6 done in ")
