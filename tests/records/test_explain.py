"""`hyperflow explain`: how an evaluation stands, and if it waits, for what; why a result was computed."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.cli.main import command_line
from tests.helpers import wait_until
from tests.support import Gate, local, wait_at

ESCAPE = "\x1b]0;owned\x07\x1b[2J"

TyPed = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TyPed:
    """Type `hyperflow explain`, and return its exit code and all that it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            command_line()(["explain", *words])
        said = capfd.readouterr()
        return int(str(ended.value.code)), said.out + said.err

    return run


def fails() -> None:
    """Fail."""
    raise ValueError(f"no {ESCAPE}")


async def test_of_a_run_that_goes_on(typed: TyPed, tmp_path: Path) -> None:
    """What waits is told for how many CPUs, behind what, and what is in its way on the node."""
    gate = Gate(tmp_path)
    async with local(cpus=2) as env:
        home = str(env.program.log_dir.parent)
        first = hf.remote_eval(wait_at, gate.path).start()
        await gate.wait_inside()
        wide = [hf.remote_eval(abs, number).using(cpus=2).start() for number in (-1, -2)]
        await wait_until(lambda: "waits" in typed(home, "3")[1], 10, "its submission is in the log")
        code, said = typed(home, "3")
        assert code == 0
        assert "evaluation 3 of abs waits for 2 CPUs" in said
        assert "1 that wait longer come before it: 2 of abs (2 CPUs)" in said
        assert "1 of 2 CPUs are free; it would fit after 1 of wait_at (1 CPU)" in said
        assert "evaluation 1 of wait_at has been with worker-0@" in typed(home, "1")[1]
        with (env.program.log_dir / "events.jsonl").open("a") as log:  # as if they were in a team's queue
            log.write('{"t": 1.0, "state": "waiting", "tasks": [8, 9], "function": "abs", "cpus": 1}\n')
            node = typed(home, "1")[1].partition("worker-0@")[2].split()[0]
            log.write(json.dumps({"t": 1.0, "state": "queued", "tasks": [8, 9], "node": node}) + "\n")
        assert "is among the first there: it runs, or is about to" in typed(home, "8")[1]
        assert "its workers are busy with what came before: 1 of wait_at (1 CPU), 8 of abs" in typed(home, "9")[1]
        gate.open()
        assert await asyncio.gather(first, *wide) == [gate.path, 1, 2]
        with pytest.raises(ValueError, match="no"):
            await hf.remote_eval(fails)
        await wait_until(lambda: "failed" in typed(home, "4")[1], 10, "its failure is in the log")
        code, said = typed(home, "4")
        assert "evaluation 4 of fails() has failed on worker-" in said
        assert "hyperflow debug" in said
        assert "\x1b" not in said
        assert "evaluation 2 of abs is done: it took" in typed(home, "2")[1]
        assert typed(home, "99")[0] == 1
    assert typed(home)[0] == 1


def test_of_a_log_by_itself(typed: TyPed, tmp_path: Path) -> None:
    """Hostile names order nothing; of a run that has ended, nothing waits."""
    log = tmp_path / "run" / "log"
    log.mkdir(parents=True)
    lines = [
        {"t": 1, "state": "opened", "version": 1},
        {"t": 2, "state": "waiting", "tasks": [1], "function": ESCAPE, "cpus": 1},
    ]
    (log / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said = typed("run", "1")
    assert code == 0
    assert "was waiting when the run ended" in said
    assert said.replace("\n", "").isprintable()
    (log / "events.jsonl").write_text('{"t": 1, "state": "waiting", "tasks": 5}\n')
    code, said = typed("run", "1")
    assert code == 1
    assert "makes no sense" in said


def times(x: int, y: str) -> int:
    """Work a little."""
    return x * len(y)


@hf.memoize("explained part", version=1)
def explained_part(x: int, y: str) -> hf.Job[int]:
    """Work on a worker."""
    return hf.remote_eval(times, x, y)


@hf.memoize("explained", version=1)
@hf.job
async def explained_whole(x: int, y: str) -> int:
    """Rest on another result."""
    return await explained_part(x, y) + 1


async def test_of_a_result(typed: TyPed, tmp_path: Path) -> None:
    """What was nearest, in what it differs, where and how long it was computed, and on what it rests."""
    program = hf.ProgramInfo.new(tmp_path / "hyperflow-runs")
    async with hf.open_local_job(cpus=2, program=program):
        assert await explained_whole(2, "one") == 7
        assert await explained_whole(2, f"two {ESCAPE}") > 7
    code, said = typed("explained(2, one)")
    assert code == 0
    assert "explained(x=2, y='one') = 7" in said
    assert f"by run {program.program_id}" in said
    assert "nothing of explained was recorded before" in said
    assert "explained part(x=2, y='one'): " in said
    assert "1 evaluation (1) of " in said
    assert "CPU seconds on " in said
    assert "all in all: 2 results of 1 run" in said
    code, said = typed(program.program_id, "explained")
    assert code == 0
    assert "y: one there, two " in said
    assert "1 more results fit" in said
    assert "\x1b" not in said
    code, said = typed("explained(3, y=one)")
    assert code == 0
    assert "is not recorded in" in said
    assert "x is not 3 there" in said
    for words, why in [
        (("explained2",), "did you mean"),
        (("explained(z=1)",), "has no argument 'z'"),
        (("explained(1, 2, 3)",), "has 2 arguments"),
        (("explained(1",), "its ) is missing"),
        (("explained(1,", "2)", "3)"), "into quotes"),
    ]:
        code, said = typed(*words)
        assert code == 1
        assert why in said
