"""Origins: how a recorded value came about, what is nearest to it, and what stands behind it."""

import importlib.util
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

import hyperflow as hf
from hyperflow import environment
from hyperflow import flow as flows
from hyperflow.concurrent import map_concurrently
from hyperflow.database import explained
from hyperflow.database.entries import NO_METADATA, FromCode, metadata_with, text_of, with_origin
from hyperflow.database.nearest import differing_from, gap, nearest
from hyperflow.database.origins import MOST_PARENTS, Making, Origin, Parent, key_digest
from hyperflow.database.reading import Mark
from hyperflow.flow import Job
from hyperflow.program import ProgramInfo
from tests.database import legacy
from tests.database.conftest import running

LEVELS = hf.KeyValMap("levels", key=str, value=int)


@hf.memoize("origin of a part", version=1)
def part(x: int) -> Job[int]:
    """Give a result without an engine."""
    return flows.pure(x * x)


@hf.memoize("origin of a whole", version=1)
@hf.job
async def whole(n: int) -> int:
    """Read recorded values, side by side and one after the other."""
    if making := environment.peek_making():  # no assert: pytest would change the code
        making.evaluated(7, "node-a", 4, 0.5)
        making.evaluated(3, "node-b", 2, 0.25)
    return sum(await map_concurrently(part, range(n))) + (await LEVELS.lookup("top") or 0)


async def test_what_is_recorded(program: ProgramInfo) -> None:
    """Evaluations, nodes, the values that were read by this computation and not by those within it; not of hits."""
    async with running(program):
        await LEVELS.insert("top", 1)
        await part(1)
        assert await whole(3) == 6
        assert await whole(3) == 6
    db = hf.open_results(program.database)
    origin = db.map(whole).origin(3)
    assert origin is not None
    assert origin.program == program.program_id
    assert (origin.evaluations, origin.numbers, origin.cpu_seconds) == (2, (3, 7), 2.5)
    assert set(origin.nodes) == {"node-a", "node-b"}
    parts = [Parent(part.__memo__.map_name, key_digest(f'{{"x":{x}}}')) for x in range(3)]  # type: ignore[attr-defined]
    assert set(origin.parents) == {*parts, Parent("levels", key_digest('"top"'))}
    assert "async def whole" in origin.texts["whole"]
    first, *others = [mark.origin for mark in db.map(part).reader.marks(db.map(part).map_name)]
    assert first.seconds is not None
    assert not first.parents
    assert "def part" in first.texts["part"]
    assert not any(one.texts for one in others)
    assert db.map(part).origin(99) is None
    inserted = db.map(LEVELS).origin("top")
    assert inserted is not None
    assert inserted.seconds is None
    root = explained.behind(db.map(whole), explained.fitting(db.map(whole), {})[0])
    assert sorted(one.key for one in root.parents) == ['"top"', '{"x":0}', '{"x":1}', '{"x":2}']
    assert len(explained.all_of(root)) == 5


def test_its_size_is_bounded() -> None:
    """What is beyond the bound is counted."""
    making = Making()
    for number in range(MOST_PARENTS + 50):
        making.read("map", str(number))
        making.evaluated(number, f"node-{number}", 1, 1.0)
    making.read("map", "0")
    origin = Origin.of("program", 1.0, with_origin(metadata_with(code="c"), making.text()))
    assert len(origin.parents) == MOST_PARENTS
    assert origin.more == {"map": 50}
    assert origin.evaluations == MOST_PARENTS + 50
    assert len(origin.nodes) == 20


def test_hostile_names_stay_json() -> None:
    """Whatever maps and nodes are called."""
    making = Making()
    making.read('a"map\\\n\ud800', "key")
    making.evaluated(1, 'node", "x', 1, 1e-9)
    metadata = with_origin(metadata_with(code="c", function="f"), making.text({"f": 'def f(): "\n'}))
    assert json.loads(metadata)["origin"]["texts"] == {"f": 'def f(): "\n'}
    assert Origin.of("p", 0.0, metadata).parents[0].map_name == 'a"map\\\n\ud800'
    text = text_of("1", 2, metadata)
    assert isinstance(text, FromCode)
    assert text.code == "c"


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "[]",
        '{"origin": 3}',
        '{"origin": {"seconds": "x"}}',
        '{"code": "c", "origin": {"parents": [[]], "seconds": 1}}',
        '{"origin": {"seconds": 1, "evaluations": [Infinity, 1, 1]}}',
        '{"code": 5, "origin": {"seconds": 1, "evaluations": [1]}}',
    ],
)
def test_what_is_no_origin(metadata: str) -> None:
    """It says nothing; and never an error."""
    assert Origin.of("p", 0.0, metadata).seconds is None


def test_the_nearest_one() -> None:
    """The fewest arguments, then the closest number, an earlier run, the newest."""

    def mark(number: int, key: dict[str, object], program: str = "now") -> Mark:
        return Mark(number, json.dumps(key), program, 0.0, NO_METADATA)

    differing = differing_from({"x": 1.0, "basis": "a"}, json.loads)

    def found(*marks: Mark) -> tuple[int, tuple[str, ...]]:
        near = nearest("map", marks, differing, "now")
        assert near is not None
        return near.mark.number, near.names

    assert nearest("map", (), differing) is None
    assert found(mark(1, {"x": 2.0, "basis": "b"}), mark(2, {"x": 9.0, "basis": "a"})) == (2, ("x",))
    assert found(mark(1, {"x": 1.1, "basis": "a"}), mark(2, {"x": 1.5, "basis": "a"})) == (1, ("x",))
    assert found(mark(1, {"x": 1, "basis": "a"}), mark(2, {"x": 1.01, "basis": "a"})) == (1, ("x",))
    assert found(mark(1, {"x": 1.0, "basis": "b"}, "then"), mark(2, {"x": 1.0, "basis": "c"})) == (1, ("basis",))
    assert found(mark(1, {"x": 1.0, "basis": "b"}), mark(2, {"x": 1.0, "basis": "c"})) == (2, ("basis",))
    assert found(mark(1, {"x": 1.0, "basis": "a", "y": 1})) == (1, ("y",))
    assert found(mark(1, {"x": True, "basis": "a"})) == (1, ("x",))
    assert gap(0, 0.0) == 0.0


def imported(path: Path, text: str) -> ModuleType:
    """Import a module of the user's anew."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("of_origins", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["of_origins"] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = """
import hyperflow as hf
from hyperflow import flow

SCALE = {scale}

def helper(x):
    return x {operator} 1

@hf.memoize("of a script", version={version}, on_change="recompute")
def of_script(x: int) -> hf.Job[int]:
    return flow.pure(helper(x) * SCALE)
"""


async def test_what_has_changed(program: ProgramInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of the function that differs, values, and the version; a source that has changed since says nothing."""
    monkeypatch.setitem(sys.modules, "of_origins", sys)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "of_origins.py"
    async with running(program):
        for number, (scale, operator, version) in enumerate([(1, "+", 1), (3, "-", 1), (3, "-", 2)]):
            module = imported(path, "\n" * number + SCRIPT.format(scale=scale, operator=operator, version=version))
            await module.of_script(4)
        module = imported(path, SCRIPT.format(scale=7, operator="-", version=1))
        path.write_text(SCRIPT.format(scale=8, operator="*", version=1).replace("helper", "other"))
        await module.of_script(4)
    db = hf.open_results(program.database)
    first, second, third = db.map("of a script", version=1).reader.marks("memoize:of a script:1")
    found = db.map("of a script", version=1)
    near = explained.nearest_to(found, second)
    assert near is not None
    assert near.mark.number == first.number
    assert not near.names
    changes = explained.changes(found, first.origin, second.origin)
    assert changes is not None
    told = {change.name: (change.before, change.now) for change in changes}
    assert told == {
        "helper": ("def helper(x):\n    return x + 1\n", "def helper(x):\n    return x - 1\n"),
        "SCALE": ("1", "3"),
    }
    assert "helper" not in third.origin.texts
    assert third.origin.texts["SCALE"] == "7"
    newest = db.map("of a script", version=2)
    near = explained.nearest_to(newest, explained.fitting(newest, {})[0])
    assert near is not None
    assert near.map_name == "memoize:of a script:1"
    assert not near.names


async def test_a_damaged_origin(program: ProgramInfo) -> None:
    """It counts as absent, with a warning, as the value beside it does: one checksum covers both."""
    async with running(program):
        await part(1)
        await part(2)
    with closing(sqlite3.connect(program.database)) as connection:
        query = "UPDATE entries SET metadata = replace(metadata, 'seconds', 'secondz') WHERE id = 1"
        connection.execute(query)
        connection.commit()
    found = hf.open_results(program.database).map(part)
    with pytest.warns(hf.database.DamagedEntry):
        assert [mark.number for mark in found.reader.marks(found.map_name)] == [2]


def test_an_old_file(tmp_path: Path) -> None:
    """Entries of version 1 have no origin, and are listed."""
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(Path(legacy.__file__).with_suffix(".sql").read_text())
    db = hf.open_results(path)
    marks = [mark for one in db.maps() for mark in db.map(one.map_name).reader.marks(one.map_name)]
    assert len(marks) >= sum(one.count for one in db.maps()) > 0
    assert all(mark.origin.seconds is None and mark.origin.program for mark in marks)
