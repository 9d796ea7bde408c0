"""`hyperflow results`: which run and map are meant, and the forms of the answer."""

import asyncio
import csv
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow import flow as flows
from hyperflow.database import place
from hyperflow.flow import Job
from tests.cli.test_damage import hyperflow
from tests.database import damage
from tests.database.conftest import running
from tests.support import environment, run_script


@attrs.frozen
class Point:
    """A result."""

    x: float
    tags: list[str]


@hf.memoize("energy", version=2)
def energy(molecule: str, basis: str = "sto-3g") -> Job[Point]:
    """Give a result."""
    return flows.pure(Point(len(molecule) / 2, [basis]))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Make two runs; the second has results."""
    hf.ProgramInfo.new(tmp_path)
    program = hf.ProgramInfo.new(tmp_path)

    async def record() -> None:
        async with running(program):
            for molecule in ("H2", "H2O", "42"):
                await energy(molecule)
            await hf.KeyValMap("grid").insert(3, {"a": None})

    asyncio.run(record())
    return tmp_path


def rows(text: str) -> list[list[str]]:
    """Read comma-separated values."""
    return list(csv.reader(io.StringIO(text)))


def test_maps_and_entries(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word alone is a map unless it has the form of a run."""
    at = ("--base-dir", str(base))
    code, told = hyperflow(capsys, "results", *at)
    assert code == 0
    assert "molecule: str, basis: str" in told
    assert "grid" in told
    code, told = hyperflow(capsys, "results", "energy", *at)
    assert told.splitlines()[0].split() == ["molecule", "basis", "x", "tags"]
    assert len(told.splitlines()) == 4
    run = next(path.parent for path in base.glob("*/results.sqlite"))
    for which in (run.name, run.name[:8], str(run), str(run / "results.sqlite")):
        assert hyperflow(capsys, "results", which, "energy", *at)[1] == told


def test_forms(base: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """CSV, JSON and Parquet hold the same; what has no form of its own there is JSON."""
    at = ("--base-dir", str(base))
    assert rows(hyperflow(capsys, "results", "energy", "--csv", *at)[1]) == [
        ["molecule", "basis", "x", "tags"],
        ["H2", "sto-3g", "1.0", '["sto-3g"]'],
        ["H2O", "sto-3g", "1.5", '["sto-3g"]'],
        ["42", "sto-3g", "1.0", '["sto-3g"]'],
    ]
    told = json.loads(hyperflow(capsys, "results", "energy", "--json", *at)[1])
    assert (told["map"], told["version"], told["function"]) == ("energy", "2", f"{__name__}.energy")
    assert told["entries"][1] == {
        "key": {"molecule": "H2O", "basis": "sto-3g"},
        "value": {"x": 1.5, "tags": ["sto-3g"]},
    }
    told = json.loads(hyperflow(capsys, "results", "--json", *at)[1])
    assert [(one["name"], one["count"]) for one in told["maps"]] == [("energy", 3), ("grid", 1)]
    assert rows(hyperflow(capsys, "results", "--csv", *at)[1])[1][0] == "energy"
    target = tmp_path / "out.csv"
    assert hyperflow(capsys, "results", "grid", "--csv", "-o", str(target), *at) == (0, "")
    assert target.read_text() == "key,a\n3,\n"


@pytest.fixture(scope="module")
def polars() -> Any:
    """Import it, and let it start the threads and open the files that it keeps from its first use on."""
    module: Any = pytest.importorskip("polars", reason="--parquet needs polars or pyarrow")
    module.DataFrame({"a": [1]}).write_parquet(io.BytesIO())
    return module


def test_parquet(base: Path, polars: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file that pandas and polars read."""
    target = tmp_path / "out.parquet"
    code, _ = hyperflow(capsys, "results", "energy", "--parquet", "-o", str(target), "--base-dir", str(base))
    assert code == 0
    assert polars.read_parquet(target)["x"].to_list() == [1.0, 1.5, 1.0]


@pytest.mark.parametrize(
    ("conditions", "molecules"),
    [
        (["molecule=H2"], ["H2"]),
        (["molecule=42"], ["42"]),
        (["basis=sto-3g", "molecule=H2O"], ["H2O"]),
        (["basis=other"], []),
    ],
)
def test_where(base: Path, capsys: pytest.CaptureFixture[str], conditions: list[str], molecules: list[str]) -> None:
    """A text, or a value in JSON."""
    words = [word for condition in conditions for word in ("--where", condition)]
    told = rows(hyperflow(capsys, "results", "energy", "--csv", *words, "--base-dir", str(base))[1])
    assert [row[0] for row in told[1:]] == molecules


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["enrgy"], "no map 'enrgy'; did you mean 'energy'"),
        (["energy", "--where", "base=1"], "did you mean 'basis'"),
        (["energy", "--where", "basis"], "write NAME=VALUE"),
        (["energy", "--csv", "--json"], "choose one"),
        (["energy", "--version", "7"], "no version 7"),
        (["energy", "-o", "x"], "--output is for"),
        (["--parquet"], "name a map"),
        (["nowhere/results.sqlite", "energy"], "there is no results database"),
        (["99999999", "energy"], "is no run in"),
        (["energy", "--csv", "-o", "/dev/null/x"], "cannot write"),
    ],
)
def test_mistakes(base: Path, capsys: pytest.CaptureFixture[str], words: list[str], error: str) -> None:
    """Each says what is wrong."""
    code, told = hyperflow(capsys, "results", *words, "--base-dir", str(base))
    assert code == 1
    assert error in told


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made."""
    code, told = hyperflow(capsys, "results", "--base-dir", str(tmp_path / "none"))
    assert code == 1
    assert "there are no runs" in told
    assert not (tmp_path / "none").exists()


def test_a_class_of_a_script(tmp_path: Path) -> None:
    """What only the program knows is shown with the names of its fields, in another process."""
    source = (
        "import attrs, enum, hyperflow as hf\n"
        "class Phase(enum.Enum):\n    SOLID = 1\n"
        "@attrs.frozen\nclass Atom:\n    name: str\n"
        "@attrs.frozen\nclass Found:\n    total: float\n    phase: Phase\n"
        "@hf.memoize('energy')\n"
        "def energy(atom: Atom, at: float) -> hf.Job[Found]:\n"
        "    return hf.pure(Found(at * len(atom.name), Phase.SOLID))\n"
        "hf.run_job_local(hf.map_concurrently(lambda x: energy(Atom('He'), x), [1.0, 2.0]), cpus=1,\n"
        "                 program=hf.ProgramInfo.new('hyperflow-runs'))\n"
    )
    run_script(tmp_path, source)
    told = subprocess.run(
        [sys.executable, "-m", "hyperflow", "results", "energy", "--csv"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert rows(told.stdout) == [
        ["atom.name", "at", "total", "phase"],
        ["He", "1.0", "2.0", "Phase.SOLID"],
        ["He", "2.0", "4.0", "Phase.SOLID"],
    ]
    assert told.stderr == ""


def newer(path: Path) -> None:
    """Make a file one of a later version."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {place.LAYOUT_VERSION + 1}")


def foreign(path: Path) -> None:
    """Put a database of somebody else into its place."""
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.write_bytes(b""), "is empty, not a results database"),
        (lambda path: path.write_bytes(b"x" * 5000), "is not a results database, or its beginning is damaged"),
        (lambda path: damage.flip(path, 4096 + 3), "hyperflow repair"),
        (newer, "newer version of hyperflow"),
        (foreign, "not one of hyperflow's"),
    ],
    ids=["empty", "text", "damaged", "newer", "foreign"],
)
def test_files_that_are_none(
    base: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], error: str
) -> None:
    """One line says what is wrong, and the file stays as it is."""
    path = next(base.glob("*/results.sqlite"))
    spoil(path)
    before = path.read_bytes()
    code, told = hyperflow(capsys, "results", "energy", "--base-dir", str(base))
    assert code == 1
    assert error in told
    assert path.read_bytes() == before
