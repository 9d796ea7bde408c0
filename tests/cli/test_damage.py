"""`hyperflow check` and `hyperflow repair`: what they say of whole and of damaged runs, and what they leave."""

import asyncio
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.checked_files import write_checked
from hyperflow.cli.main import command_line
from hyperflow.database.store import open_database
from tests.database import damage


@pytest.fixture
def run(tmp_path: Path) -> hf.ProgramInfo:
    """Make a run with a database, and one of a job."""
    program = hf.ProgramInfo.new(tmp_path)
    (program.log_dir / "events.jsonl").touch()
    job = program.log_dir.parent / "jobs" / "1"
    job.mkdir(parents=True, mode=0o700)

    async def fill(path: Path) -> None:
        async with open_database(path, "p") as store:
            await asyncio.gather(*(store.insert("m", str(n), f"[{n}]") for n in range(100)))

    for path in (program.database, job / "results.1.0.sqlite"):
        assert isinstance(path, Path)
        asyncio.run(fill(path))
    return program


def hyperflow(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the command here; return its exit code and what it printed."""
    with pytest.raises(SystemExit) as ended:
        command_line()(list(words))
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out + told.err


def test_check_and_repair(run: hf.ProgramInfo, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Damage of any database of a run is told, with what to type; that repairs it, and keeps the old file."""
    home, base = run.log_dir.parent, ("--base-dir", str(tmp_path))
    write_checked(home / "jobs" / "1" / "call", "call", b"payload", identity="x")
    code, told = hyperflow(capsys, "check", *base)
    assert told.count("100 entries, all whole") == 2
    assert "job.json" in told  # the one of this job is missing
    assert code == 1

    for number, path in enumerate((home / "results.sqlite", home / "jobs" / "1" / "results.1.0.sqlite")):
        before = path.read_bytes()
        damage.flip(path, 4096 + 3)
        code, told = hyperflow(capsys, "check", str(path))
        assert (code, "damaged:" in told, f"hyperflow repair {path}" in told) == (1, True, True)
        code, told = hyperflow(capsys, "repair", *([run.program_id, *base] if number else [str(path)]))
        assert code == 0
        assert f"{path}: 100 entries, 0 could not be saved" in told
        kept = path.with_name(path.name + ".damaged-1")
        assert str(kept) in told
        assert sum(one != other for one, other in zip(kept.read_bytes(), before, strict=True)) == 1
        code, told = hyperflow(capsys, "check", str(path), "--json")
        assert (code, json.loads(told)["ok"]) == (0, True)

    assert "nothing" in hyperflow(capsys, "repair", *base)[1]


def test_a_damaged_result_of_a_job(run: hf.ProgramInfo, capsys: pytest.CaptureFixture[str]) -> None:
    """Files with a checksum are checked, too."""
    call = run.log_dir.parent / "jobs" / "1" / "call"
    write_checked(call, "call", b"payload", identity="x")
    damage.flip(call, call.stat().st_size - 2)
    code, told = hyperflow(capsys, "check", str(run.log_dir.parent))
    assert code == 1
    assert f"{call}" in told


def test_another_place(run: hf.ProgramInfo, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With --output, the old file keeps its name; a run has several databases, so one has to be named."""
    code, told = hyperflow(capsys, "repair", str(run.log_dir.parent), "-o", str(tmp_path / "new"))
    assert (code, "name its file" in told) == (1, True)
    assert hyperflow(capsys, "repair", str(run.database), "-o", str(tmp_path / "new"))[0] == 0
    assert hyperflow(capsys, "check", str(tmp_path / "new"))[0] == 0
    assert hyperflow(capsys, "check", str(tmp_path / "nowhere"))[0] == 1


@pytest.mark.parametrize("kind", ["a program", "text", "zeros", "another program's database"])
def test_what_is_no_database_is_left_alone(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that was named by mistake is not replaced by an empty database."""
    path = tmp_path / "important"
    if kind == "another program's database":
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(
                "CREATE TABLE places (id INTEGER PRIMARY KEY, url); INSERT INTO places VALUES (1, 2)"
            )
    else:
        contents = {
            "a program": Path(sys.executable).read_bytes()[:50_000],
            "text": b"precious\n",
            "zeros": bytes(8192),
        }
        path.write_bytes(contents[kind])
    path.chmod(0o750)
    before = path.read_bytes(), path.stat()
    for words in (["repair", str(path)], ["repair", str(path), "-o", str(tmp_path / "new")], ["check", str(path)]):
        code, told = hyperflow(capsys, *words)
        assert code == 1
        assert str(path) in told
    assert (path.read_bytes(), path.stat().st_ino, path.stat().st_mode) == (
        before[0],
        before[1].st_ino,
        before[1].st_mode,
    )
    assert [each.name for each in tmp_path.iterdir()] == ["important"]
