"""Each run says of itself who ran what, where, and how it ended; `hyperflow runs` and `show` tell it."""

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from rich.console import Console

import hyperflow as hf
from hyperflow.cli import elsewhere, records, runs, show
from hyperflow.cli.main import command_line
from hyperflow.errors import ConfigurationError
from hyperflow.program import ProgramInfo
from hyperflow.records import index, record, recording
from hyperflow.records.record import Figures, Record, State
from tests.helpers import wait_until
from tests.support import local, run_script, start_script

TyPed = Callable[..., tuple[int, str]]

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TyPed:
    """Type a command beside `hyperflow-runs` and return its exit code and all that it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            command_line()(list(words))
        seen = capfd.readouterr()
        return int(str(ended.value.code)), seen.out + seen.err

    return run


def shown(typed: TyPed, *words: str) -> dict[str, Any]:
    """Return what `hyperflow show --json` says."""
    code, text = typed("show", *words, "--json")
    assert code == 0, text
    told: dict[str, Any] = json.loads(text)
    return told


def listed(typed: TyPed) -> list[dict[str, Any]]:
    """Return what `hyperflow runs --json` says."""
    code, text = typed("runs", "--json")
    assert code == 0, text
    found: list[dict[str, Any]] = json.loads(text)["runs"]
    return found


def half(x: float) -> float:
    """Return a half."""
    return x / 2


def fails(x: int) -> int:
    """Fail."""
    raise ValueError(f"no {x}{ESCAPE}")


def test_a_run_that_was_given_no_place(typed: TyPed) -> None:
    """It is listed while it runs and afterwards, with result and figures, although its directory is gone."""

    @hf.job
    async def plain() -> list[float]:
        return await hf.remote_map(half, [2.0, 4.0])

    assert hf.run_job_local(plain(), cpus=1) == [1.0, 2.0]
    (run,) = listed(typed)
    assert (run["state"], run["result"], run["kind"], run["error"]) == ("finished", "[1.0, 2.0]", "job", "")
    assert run["figures"]["held"] > 0
    assert run["figures"]["cpus"] == 1
    assert run["versions"]["python"] == sys.version.split()[0]
    assert not Path(run["run"]).exists()
    code, text = typed("runs")
    assert (code, run["program"] in text, "finished" in text) == (0, True, True)
    code, text = typed("show", "--functions")
    assert (code, "which has gone" in text, "result      [1.0, 2.0]" in text) == (0, True, True), text
    assert "half" in text


async def test_a_run_that_is_at_work(typed: TyPed, tmp_path: Path) -> None:
    """It is running, also seen from its files; its evaluations are counted while they wait."""
    async with local(cpus=1, program=ProgramInfo.new(tmp_path / "hyperflow-runs")) as env:
        assert await hf.remote_eval(half, 4.0) == 2.0
        await wait_until(lambda: "1 done" in typed("show")[1], 20, "a line of the event log")
        told = shown(typed)
        assert (told["state"], told["program"], told["pid"]) == ("running", env.program.program_id, os.getpid())
        assert (told["functions"][0]["function"], told["functions"][0]["done"]) == ("half", 1)
    assert shown(typed)["state"] == "finished"


async def test_how_runs_end(typed: TyPed, tmp_path: Path) -> None:
    """A failure is told with its error and call, in one printable line; a cancelled run is no failed one."""
    base = tmp_path / "hyperflow-runs"
    with pytest.raises(ValueError, match="no 3"):
        async with local(cpus=1, program=ProgramInfo.new(base)):
            await hf.remote_eval(fails, 3)
    told = shown(typed)
    assert (told["state"], told["failures"][0]["call"]) == ("failed", "fails(3)")
    assert told["error"] == f"ValueError: no 3{ESCAPE}"
    code, text = typed("show")
    assert (code, "\x1b" in text, "\x07" in text) == (0, False, False)
    assert "fails(3): ValueError: no 3\\x1b]0;owned\\x07\\x1b[2J on worker-" in text

    with pytest.raises(asyncio.CancelledError):
        async with local(cpus=1, program=ProgramInfo.new(base)):
            raise asyncio.CancelledError
    assert sorted(run["state"] for run in listed(typed)) == ["cancelled", "failed"]
    with pytest.raises(hf.AllocationEnding):
        async with local(cpus=1, program=ProgramInfo.new(base)):
            raise hf.AllocationEnding("a test", 1.0)
    assert "allocation ended" in {run["state"] for run in listed(typed)}
    with pytest.raises(ConfigurationError):
        async with local(cpus=1, program=ProgramInfo.new(base), preload=["no_such_module"]):
            pass
    (error,) = [run["error"] for run in listed(typed) if "no_such_module" in run["error"]]
    assert error.startswith("ConfigurationError: preload on ")


KILLED = """
import hyperflow as hf, time
async def main():
    async with hf.open_local_job(cpus=1):
        print("up", flush=True)
        await hf.remote_eval(time.sleep, 1000)
import asyncio
asyncio.run(main())
"""


def test_a_killed_run(typed: TyPed, tmp_path: Path) -> None:
    """Of a run whose head was killed it is said at once; its logs are where they were."""
    with start_script(tmp_path, KILLED) as head:
        assert head.stdout is not None
        assert head.stdout.readline() == "up\n"
        assert [run["state"] for run in listed(typed)] == ["running"]
        head.kill()
        head.wait()
    (run,) = listed(typed)
    assert (run["state"], run["pid"]) == ("killed", None)
    code, text = typed("show")
    assert (code, "its process" in text, "ended without a word" in text) == (0, True, True)
    assert typed("runs")[1].splitlines()[1].split()[1] == "killed"
    shutil.rmtree(run["run"])


def test_a_directory_that_vanishes(typed: TyPed, tmp_path: Path) -> None:
    """A run whose directory is removed while it runs, with results in it, has failed; that and why is still known."""
    script = KILLED.replace("await hf.remote_eval(time.sleep, 1000)", "input()")
    script = script.replace(
        '        print("up"', '        await hf.KeyValMap[int, int]("m").insert(1, 1)\n        print("up"'
    )
    with start_script(tmp_path, script) as head:
        assert head.stdout is not None
        assert head.stdout.readline() == "up\n"
        shutil.rmtree(listed(typed)[0]["run"])
        assert shown(typed)["state"] == "running"
        head.communicate("\n", timeout=30)
    told = shown(typed)
    assert (told["state"], "results.sqlite was removed" in told["error"]) == ("failed", True)
    code, text = typed("show")
    assert (code, "has gone" in text) == (0, True)
    assert typed("logs")[0] == 0


def of_elsewhere(program: ProgramInfo, **changes: Any) -> Record:
    """Return a record as another machine has written it."""
    made = Record.of_this_process(program, "job")
    elsewhere = attrs.evolve(made.owner, host="node7", machine="another")
    return made._replace(owner=elsewhere, **changes)


def test_a_run_on_another_machine(typed: TyPed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its record is fresh it runs; later nobody here can know, if no way leads there, and that is said."""

    def no_way(*_: object) -> str:
        raise elsewhere.NoWay("no way leads there")

    monkeypatch.setattr(elsewhere, "look", no_way)
    program = ProgramInfo.new(tmp_path / "hyperflow-runs")
    path, now = program.log_dir / record.NAME, time.time()
    record.write(path, of_elsewhere(program))
    assert shown(typed)["state"] == "running"
    record.write(path, of_elsewhere(program, alive=now - 1000, began=now - 2000))
    assert (shown(typed)["state"], shown(typed)["host"]) == ("silent", "node7")
    assert "silent for 16 min, after 16 min: it runs on node7, or has been killed there" in typed("show")[1]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 99}', "\x00\x01", '{"format": 1, "owner": 3}', "[" * 100_000],
    ids=["empty", "cut", "list", "null", "newer", "bytes", "owner", "deep"],
)
def test_records_that_make_no_sense(typed: TyPed, tmp_path: Path, text: str) -> None:
    """A record that is damaged, foreign or newer hides neither its run nor others."""
    base = tmp_path / "hyperflow-runs"
    for _ in range(2):
        program = ProgramInfo.new(base)
        (program.log_dir / "events.jsonl").write_text("")
        record.write(program.log_dir / record.NAME, Record.of_this_process(program, "job"))
    (program.log_dir / record.NAME).write_text(text)
    assert sorted(run["state"] for run in listed(typed)) == ["running", "unknown"]
    code, said = typed("show", program.program_id)
    assert (code, "no record that this version can read" in said) == (0, True)


@pytest.mark.parametrize("member", sorted(Record._fields))
@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [[1]], 1e400], ids=repr)
def test_a_member_that_makes_no_sense(tmp_path: Path, member: str, value: object) -> None:
    """Whatever stands in a record: it is read as a record that can be shown, or not at all."""
    program = ProgramInfo.new(tmp_path)
    path = program.log_dir / record.NAME
    made = Record.of_this_process(program, "job")
    path.write_text(json.dumps({**made.to_json(), member: value}))
    found = records.find(program.program_id, tmp_path) if record.read(path) is not None else None
    if found is not None:
        assert found.state(time.time()) in State
        assert json.dumps(show.described(found, time.time()))
        assert show._facts(found, State.RUNNING, show.Summary(), [])  # pyright: ignore[reportPrivateUsage]


STARTED = '{"t": 1, "state": "waiting", "tasks": [1], "function": "f", "cpus": 1}'


@pytest.mark.parametrize(
    "line",
    [
        "garbage \\x1b[2J",
        '{"t": "x", "state": "done", "tasks": [1], "seconds": [1]}',
        '{"t": 1, "state": "done", "tasks": [1], "seconds": ["x"]}',
        '{"t": 1, "state": "done", "tasks": 3, "seconds": {}}',
        '{"t": 1, "state": "waiting", "tasks": [2], "function": [1], "cpus": "x"}',
        '{"t": 1, "state": "measured", "of": 1, "cpu": "x", "memory": "y"}',
        '{"t": 1, "state": "failed", "tasks": [1], "error": [], "call": 3}',
        '{"t": 1, "state": "failed", "tasks": [1], "error": {"a": 1}, "call": 3}',
        '{"t": 1, "state": ["up"], "node": {"a": 1}}',
        '{"t": 1, "state": "up", "node": 7, "cpus": "x"}',
        '{"t": 1, "state": "opened", "version": 99}',
        '{"t": 1, "state": "copied", "tasks": [], "copy": "x"}',
        '{"t": 1, "state": "left out", "bytes": "x"}',
    ],
)
def test_event_logs_that_make_no_sense(typed: TyPed, tmp_path: Path, line: str) -> None:
    """A garbled, foreign or newer event log costs what it would tell, and orders nothing."""
    program = ProgramInfo.new(tmp_path / "hyperflow-runs")
    record.write(program.log_dir / record.NAME, Record.of_this_process(program, "job"))
    (program.log_dir / "events.jsonl").write_text(f"{STARTED}\n{line.encode().decode('unicode_escape')}\n{STARTED}\n")
    for words in (["show", "--functions"], ["show", "--json"], ["logs", "--failed"], ["logs"]):
        code, text = typed(*words)
        assert (code, "\x1b" in text) == (0, False), text


async def test_orders_to_a_run_that_was_given_no_place(typed: TyPed, tmp_path: Path) -> None:
    """Its head has a control socket, too: a node is put aside by the run's id."""
    async with local(cpus=1) as env:
        (name,) = [node["node"] for node in env.evaluator.nodes()]  # type: ignore[attr-defined]
        words = (sys.executable, "-m", "hyperflow", "node", "drain", str(name), "--run", env.program.program_id)
        process = await asyncio.create_subprocess_exec(*words, cwd=tmp_path)
        assert await process.wait() == 0
        assert env.statistics().nodes_aside == 1


def test_many_runs(typed: TyPed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand runs no more are read than are shown."""
    base = tmp_path / "hyperflow-runs"
    program = ProgramInfo.new(base)
    made = Record.of_this_process(program, "job")
    for number in range(10_000):
        name = f"20200101-000000-{number:06}"
        (base / name / "log").mkdir(parents=True)
        if number > 9_900:
            record.write(base / name / "log" / record.NAME, made._replace(run=name))
    record.write(program.log_dir / record.NAME, made)
    read: list[object] = []
    original = record.read
    monkeypatch.setattr(record, "read", lambda place: read.append(place) or original(place))
    code, text = typed("runs")
    assert (code, len(text.splitlines())) == (0, show.SHOWN_RUNS + 2)
    assert "9951 earlier ones" in text
    assert len(read) <= 2 * show.SHOWN_RUNS
    read.clear()
    assert typed("show")[0] == 0
    assert len(read) <= 3


def test_which_run(tmp_path: Path) -> None:
    """The newest of both places, an id, the beginning of one, a directory; the index knows runs of no base."""
    base = tmp_path / "hyperflow-runs"
    program = ProgramInfo.new(base)
    made = Record.of_this_process(program, "job")
    record.write(program.log_dir / record.NAME, made)
    with pytest.raises(ConfigurationError, match="no run in"):
        records.find("2099", base)
    record.write(index.enter("20990101-000000-x"), made._replace(run="20990101-000000-x", home="/nowhere"))
    record.write(index.enter("20990101-000000-y"), made._replace(run="20990101-000000-y", home="/nowhere"))
    assert records.find(None, base).name == "20990101-000000-y"
    assert records.find(program.program_id, base).home == records.find(str(base / program.program_id), Path("/")).home
    assert records.find("20990101-000000-x", base).home == Path("/nowhere")
    with pytest.raises(ConfigurationError, match="2 runs begin with '2099'"):
        records.find("2099", base)


def test_a_run_that_was_resumed(typed: TyPed, tmp_path: Path) -> None:
    """It says since when its time counts, and its command as it was typed at first."""
    program = ProgramInfo.new(tmp_path / "hyperflow-runs")
    made = Record.of_this_process(program, "job")
    words, now = (f"{made.directory}/scan.py", "3"), made.began
    ended = made._replace(argv=words, created=now - 100, began=now - 5, ended=now, outcome=State.FINISHED)
    record.write(program.log_dir / record.NAME, ended)
    text = typed("show")[1]
    assert "finished after 5 s (since it was resumed)\n  command     scan.py 3\n" in text


def test_runs_of_one_second(tmp_path: Path) -> None:
    """Ids sort by when a run began, within a second too, wherever it was put."""
    base = tmp_path / "hyperflow-runs"
    for _ in range(20):
        kept, lost = ProgramInfo.new(base), ProgramInfo.temporary_one()
        lost.remove()
        record.write(kept.log_dir / record.NAME, Record.of_this_process(kept, "job"))
        assert records.find(None, base).name == kept.program_id
        record.write(index.enter(lost.program_id), Record.of_this_process(lost, "job"))
        assert records.find(None, base).name == lost.program_id


@pytest.mark.parametrize("width", [60, 100, 150])
def test_a_long_command(width: int) -> None:
    """In the table of runs a command line is cut before anything else is."""
    rows = {"run": ["20260101-000000-aaa"], "state": ["finished"], "took": ["3 min 12 s"], "program": ["word " * 60]}
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(show.runs_table(rows, width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].startswith("20260101-000000-aaa  finished  3 min 12 s  word word")


def test_runs_of_others(typed: TyPed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared base directory, what another user puts beside our runs is not the newest run, and blocks nothing."""
    base = tmp_path / "hyperflow-runs"
    theirs = base / "20990101-000000-evil"
    (theirs / "log").mkdir(parents=True)
    os.mkfifo(theirs / "log" / "events.jsonl")
    os.mkfifo(theirs / "log" / "worker-vm-0.log")
    program = ProgramInfo.new(base)
    record.write(program.log_dir / record.NAME, Record.of_this_process(program, "job"))
    stat, us = Path.stat, os.geteuid()
    monkeypatch.setattr(runs, "is_ours", lambda home: home != theirs and stat(home).st_uid == us)
    assert [run["program"] for run in listed(typed)] == [program.program_id]
    assert shown(typed)["program"] == program.program_id
    assert typed("logs", str(theirs))[0] == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    assert typed("runs")[0] == 1
    assert "there are no runs in" in typed("show")[1]


def test_the_index_is_bounded(tmp_path: Path) -> None:
    """Logs are kept of the last runs only, and of a long event log its two ends."""
    events = tmp_path / "log" / "events.jsonl"
    events.parent.mkdir()
    (events.parent / "worker-node-0.log").write_text("x" * 100 + "\n" + "y" * 20_000 + "\n" + "the end\n")
    (events.parent / "worker-node-1.log").write_text("y" * 20_000 + "\n")
    events.write_text('{"t": 1, "state": "up", "node": "x"}\n' * 100_000)
    made = Record.of_this_process(ProgramInfo.new(tmp_path), "job")._replace(home="/nowhere")
    for number in range(index.MOST_LOGS + 5):
        run = f"20200101-{number:06}"
        record.write(index.enter(run), made._replace(run=run))
        index.keep(run, events.parent)
    assert len(index.names()) == index.MOST_LOGS
    kept = index.logs(index.names()[-1])
    assert sum(path.stat().st_size for path in kept.iterdir()) <= index.HEAD + index.TAIL + 2 * index.LOG_TAIL + 200
    assert (kept / "worker-node-0.log").read_text() == "the end\n"
    assert (kept / "worker-node-1.log").read_text() == "y" * (index.LOG_TAIL - 1) + "\n"
    found = show.summarise(show.reader.read(kept / "events.jsonl"))
    assert found.left_out == events.stat().st_size - (kept / "events.jsonl").stat().st_size + len(
        next(line for line in (kept / "events.jsonl").read_text().splitlines(True) if "left out" in line)
    )


def test_where_nothing_can_be_written(typed: TyPed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on without an index, and without a record."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert hf.run_job_local(hf.pure(3), cpus=1) == 3

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write_text", full)
    program = ProgramInfo.new(tmp_path / "hyperflow-runs")
    assert hf.run_job_local(hf.pure(3), cpus=1, program=program) == 3
    assert typed("runs")[0] == 0


def test_a_full_disk(typed: TyPed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that cannot be written anew is written over; a run that has ended is not taken for a killed one."""
    program = ProgramInfo.new(tmp_path / "hyperflow-runs")
    path = program.log_dir / record.NAME
    made = Record.of_this_process(program, "job")
    record.write(path, made._replace(error="a long one" * 10))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.files, "write_whole", full)
    record.write(path, made._replace(outcome="finished", figures=Figures(done=7)))
    assert shown(typed)["state"] == "finished"
    assert shown(typed)["error"] == ""
    (program.log_dir / "events.jsonl").write_text(STARTED + "\n")
    assert "it has 0 of the 7 evaluations" in typed("show")[1]
    with pytest.raises(OSError, match="No space left"):
        record.write(path, made._replace(error="x" * 100_000))
    assert shown(typed)["state"] == "finished"
    with pytest.raises(OSError, match="No space left"):
        record.write(path.with_name("none"), made)


async def test_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is written again and again while the run goes on, with what it has done so far."""
    monkeypatch.setattr(recording, "HEARTBEAT", 0.01)
    async with local(cpus=1, program=ProgramInfo.new(tmp_path)) as env:
        path = env.program.log_dir / record.NAME
        await hf.remote_eval(half, 1.0)
        found = await wait_until(
            lambda: said if (said := record.read(path)) is not None and said.figures.done else None, 20, "a heartbeat"
        )
        assert found is not None
        assert found.alive > found.began
        assert (found.outcome, found.owner.pid, found.figures.cpus) == ("", os.getpid(), 1)


async def test_cluster_programs(typed: TyPed, tmp_path: Path) -> None:
    """A Cluster program has a record, too; the CPU hours of its jobs are its own."""

    @hf.job
    async def two() -> float:
        return await hf.remote_eval(half, 4.0)

    async with hf.open_cluster(base_dir=tmp_path / "hyperflow-runs", local=True):
        assert await hf.remote_eval_job(two()) == 2.0
    (run,) = listed(typed)
    assert (run["kind"], run["state"], run["jobs"], run["local"]) == ("cluster", "finished", "1 done", True)
    assert run["figures"]["held"] > 0
    assert run["figures"]["done"] == 1
    told = shown(typed)
    assert [(one["function"], one["done"]) for one in told["functions"]] == [("half", 1)]


SCRIPT = """
import sys, hyperflow as hf
if __name__ == "__main__":
    print(hf.run_job_local(hf.pure(1), cpus=1))
"""


def test_the_command_line(typed: TyPed, tmp_path: Path) -> None:
    """What was typed is shown; a hostile word in it orders nothing."""
    assert run_script(tmp_path, SCRIPT, "a b", ESCAPE) == "1\n"
    (run,) = listed(typed)
    assert run["command"][1:] == ["a b", ESCAPE]
    code, text = typed("runs")
    assert (code, "\x1b" in text, "'a b'" in text) == (0, False, True)
    assert "\x1b" not in typed("show")[1]


def test_interrupted(typed: TyPed, tmp_path: Path) -> None:
    """Ctrl-C cancels a run."""
    source = KILLED.replace("import asyncio\nasyncio.run(main())", "import asyncio\nasyncio.run(main())\n")
    with start_script(tmp_path, source) as head:
        assert head.stdout is not None
        assert head.stdout.readline() == "up\n"
        head.send_signal(signal.SIGINT)
        head.communicate(timeout=30)
    (run,) = listed(typed)
    assert run["state"] == "cancelled"
    shutil.rmtree(run["run"])


def test_a_recycled_process_number(tmp_path: Path) -> None:
    """A process that has the number of a killed head is not taken for it."""
    made = Record.of_this_process(ProgramInfo.new(tmp_path), "job")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        killed = made._replace(owner=attrs.evolve(made.owner, pid=other.pid, started="1"))
        assert killed.state(time.time()) is State.KILLED
        other.communicate(b"\n")
    assert made.state(time.time()) is State.RUNNING
