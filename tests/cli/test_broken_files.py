"""Commands that look at a run of which a file is broken: an answer or an error of ours, never a traceback."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow import checked_files
from hyperflow.cli import runs, show
from hyperflow.cli.main import command_line
from hyperflow.master.lifecycle import Attempt, Cause, Epoch, Kind, Record, State
from hyperflow.master.rundir import RunDirectory

GARBAGE = {
    "no UTF-8": b"\xff\xfe\x80\n\xff",
    "empty": b"",
    "cut": b'{"a": ',
    "deep": b"[" * 200_000,
    "deep, whole": b"[" * 200_000 + b"]" * 200_000,
    "another type": b"[1, 2]",
    "null": b"null",
    "members missing": b"{}",
    "NaN": b'{"a": NaN, "time": NaN, "number": NaN, "state": NaN}',
    "a surrogate": rb'{"program_id": "\ud800", "argv": ["\ud800"], "name": "\ud800"}',
    "zeros": bytes(1000),
}

COMMANDS = (
    *(("list",), ("list", "--json"), ("why", "1"), ("why", "1", "--json"), ("runs",), ("runs", "--json")),
    *(("nodes",), ("nodes", "--json"), ("var", "list"), ("var", "get", "RUN", "x"), ("retry", "1"), ("cancel", "1")),
    *(("node", "drain", "n1"), ("give-up", "1")),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a run with one job that is held, and one of each file that commands read."""
    run = RunDirectory.open(hf.ProgramInfo.new(tmp_path / "hyperflow-runs"), False)
    cause = Cause(Kind.CRASH, "it fell over", "FAILED")
    record = Record(1, "f(1)#1", "f(1)", {}, State.HELD, (Attempt(1, "token", 7),), cause)
    directory = run.add(record, b"call")
    directory.write_result(Epoch(1), 7, "value", b"payload")
    directory.put_claim(1, {"batch_id": 7, "restarts": 0})
    start = {"attempt": 1, "restarts": 0, "batch_id": 7, "time": 1.0}
    for name in ("status.json", "slurm.out", "error.1.0.txt", "scope.json"):
        checked_files.write_file(directory.path / name, str(start).replace("'", '"').encode())
    (directory.path / "log.1.0").mkdir()
    (directory.path / "log.1.0" / "events.jsonl").write_text('{"state": "opened", "version": 1}\n')
    (directory.path / "log.1.0" / "worker.log").write_text("said\n")
    (run.home / "vars").mkdir(mode=0o700)
    (run.home / "vars" / "x.json").write_text("1\n")
    for control in (run.home / "control", directory.path / "control"):
        control.mkdir(mode=0o700)
        address = {"host": socket.gethostname(), "pid": 2**22 + 1, "path": "/nowhere"}
        checked_files.write_file(control / "master.json", json.dumps(address).encode())
    run.close()
    checked_files.write_file(run.home / "master.lock", b"{}")
    return run.home


def test_all_files_are_tried(home: Path) -> None:
    """Commands read no other files of such a run."""
    assert sorted(files_of(home)) == sorted(map(str, NAMES))


def files_of(home: Path) -> list[str]:
    """Return the files below a directory."""
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


NAMES = (
    *("program.json", "master.lock", "control/master.json", "vars/x.json"),
    *(
        f"jobs/1/{name}"
        for name in (
            *("call", "job.json", "result.1.0", "claim.1", "status.json", "slurm.out", "error.1.0.txt", "scope.json"),
            *("control/master.json", "log.1.0/events.jsonl", "log.1.0/worker.log"),
        )
    ),
)


@pytest.mark.parametrize("name", NAMES)
def test_no_tracebacks(home: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is in a file, each command ends with an exit code of its own."""
    path = home / name
    for number, (what, data) in enumerate(GARBAGE.items(), NAMES.index(name)):
        path.write_bytes(data)
        path.chmod(0o600)
        for words in COMMANDS[number % 2 :: 2]:  # the others have this garbage in the next file, and the next one here
            typed = [home.name if word == "RUN" else word for word in words]
            with pytest.raises(SystemExit) as ended:
                command_line()([*typed, "--base-dir", str(home.parent)])
            assert ended.value.code in (0, 1, 3), (what, words)
    capfd.readouterr()


def test_runs_reads_what_it_shows(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With many runs, `hyperflow runs` shows the newest ones, and opens no file of the others; neither does `list`."""
    for number in range(300):
        shutil.copytree(home, tmp_path / "many" / f"20200101-000000-{number:06d}", symlinks=True)
    for path in (tmp_path / "many").glob("*"):
        path.chmod(0o700)
    seen: list[str] = []
    read, listed = checked_files.read_private, os.listdir

    def count_read(path: checked_files.Place) -> bytes:
        seen.append(str(path))
        return read(path)

    def count_list(path: Any = ".") -> list[str]:
        seen.append(str(path))
        return listed(path)

    monkeypatch.setattr(checked_files, "read_private", count_read)
    monkeypatch.setattr(os, "listdir", count_list)
    for words, most in ((("runs",), 10 * show.SHOWN_RUNS), (("list",), 40)):
        seen.clear()
        with pytest.raises(SystemExit):
            command_line()([*words, "--base-dir", str(tmp_path / "many")])
        assert 0 < len(seen) <= most
        assert not any("-000010" in each for each in seen)
    assert len(runs.newest_runs(tmp_path / "many", None)[0]) == 300
    assert "and 250 earlier ones: hyperflow runs --all" in capfd.readouterr().out


NameUser = Callable[[str], object]


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\x1bb", "a\rb", "\x00", "a\u2028b"])
@pytest.mark.parametrize(
    "use",
    [
        hf.KeyValMap,
        hf.memoize,
        hf.with_lock,
        lambda name: hf.with_locks([("a", name)]),
        lambda name: hf.ProgramInfo.new(f"/tmp/{name}"),
        hf.ExtVar,
        lambda name: hf.SbatchOptions(partition=name) if "\\" not in name else hf.KeyValMap(name),
        lambda name: hf.memoize("f", version=name),
    ],
)
def test_names_of_one_line(use: NameUser, name: str) -> None:
    """A name with a line break, a control character or a backslash is refused at once."""
    with pytest.raises(hf.HyperflowError):
        use(name)


def test_run_that_others_can_write_to(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What others can write to is neither shown nor started, and the error says why; other runs are listed."""
    home.chmod(0o770)
    try:
        for words, code in ((("list",), 1), (("resume",), 1), (("why", "1"), 1), (("runs",), 0)):
            with pytest.raises(SystemExit) as ended:
                command_line()([*words, "--base-dir", str(home.parent)])
            seen = capfd.readouterr()
            assert ended.value.code == code
            assert ("cannot be trusted" if words == ("runs",) else "can be written by others") in seen.out + seen.err
    finally:
        home.chmod(0o700)


ODD_WORDS = (
    *(
        "\t",
        "a\tb",
        "a\nb",
        "a\\b",
        "\x1b[31mred",
        "n" * 300,
        "n" * 5000,
        "-x",
        "--",
        "\udcff\udcfe",
        "",
        "..",
        "../..",
    ),
    *("é" * 200, "NaN", "%s{0}", "1e400", "9" * 24, "-1", "٣"),
)


@pytest.mark.parametrize("word", ODD_WORDS, ids=range(len(ODD_WORDS)))
def test_odd_words(home: Path, word: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is typed as a run, a job, a name, a value or a place, the answer is one of ours, and nothing is made."""
    empty = home.parent / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    before = files_of(home)
    commands = [
        [*command.split(), word] for command in ("list", "nodes", "check", "repair", "var list", "var get", "why")
    ]
    commands += [[*command.split(), word] for command in ("retry", "cancel", "give-up", "node drain", "node resume")]
    commands += [[*command.split(), "--run", word] for command in ("list", "why 1", "cancel 1", "var get x")]
    commands += [["resume", "--run", word]] if word else []  # it would start the newest
    commands += [["var", "set", word, "1"], ["var", "set", home.name, "x", word], ["repair", str(home), "-o", word]]
    commands += [["retry", "1", option, word] for option in ("--time", "--mem", "--partition", "--nodes")]
    bases = [[], *[[command, "--base-dir", word] for command in ("runs", "list", "check")]]
    for words in [*commands, *bases[1:]]:
        own_base = [] if "--base-dir" in words else ["--base-dir", str(home.parent)]
        with pytest.raises(SystemExit) as ended:
            command_line()([*words, *own_base])
        assert ended.value.code in (0, 1, 2, 3), words
        assert "Traceback" not in capfd.readouterr().err
    assert set(files_of(home)) <= {*before, f"vars/{word}.json", "jobs/1/script.sh"}
    assert not list(empty.iterdir())
