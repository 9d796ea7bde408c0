"""What killed heads leave beside the destinations of outputs."""

import json
import os
from pathlib import Path

import attrs
import pytest

from hyperflow.database.ownership import Owner
from hyperflow.program import ProgramInfo
from hyperflow.staging import leftovers
from hyperflow.staging.parts import marker_name

RUN = "20260131-120000-abcdef"
MARKER = marker_name("out.txt", f"{RUN}-0123456789")
PART = f"{MARKER}.0123456789ab"


def owned(path: Path, **changes: object) -> None:
    """Make a marker whose owner is this process, or another one."""
    owner = attrs.evolve(Owner.this_process(RUN), **changes)
    path.write_text(json.dumps(attrs.asdict(owner)))


@pytest.mark.parametrize(
    ("changes", "removed"),
    [({}, False), ({"started": "1"}, True), ({"boot_id": "before"}, True), ({"host": "elsewhere", "pid": 1}, False)],
)
def test_only_what_nobody_has(tmp_path: Path, changes: dict[str, object], removed: bool) -> None:
    """Parts of a process that has gone are removed; not those of one that lives, or may live elsewhere."""
    owned(tmp_path / MARKER, **changes)
    (tmp_path / PART).write_text("half")
    (tmp_path / "out.txt").write_text("old")
    assert sorted(leftovers.sweep(str(tmp_path))) == ([MARKER, PART] if removed else [])
    assert sorted(os.listdir(tmp_path)) == (["out.txt"] if removed else [MARKER, PART, "out.txt"])


def test_a_marker_that_was_never_written(tmp_path: Path) -> None:
    """A marker that says nothing is removed when it is old; a young one may be about to be written."""
    (tmp_path / MARKER).touch()
    assert leftovers.sweep(str(tmp_path)) == []
    os.utime(tmp_path / MARKER, (1e9, 1e9))
    assert leftovers.sweep(str(tmp_path)) == [MARKER]


def test_parts_without_a_marker(tmp_path: Path) -> None:
    """A part without its marker is nobody's; what only looks a bit like one stays."""
    (tmp_path / PART).mkdir()
    (tmp_path / PART / "file").write_text("")
    others = [".out.txt.part", f"out.{RUN}-0123456789.part", f"{PART}.txt", ".x.20260131-120000-.part", "a.part"]
    for name in others:
        (tmp_path / name).write_text("")
    assert leftovers.sweep(str(tmp_path)) == [PART]
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_a_directory_that_was_moved_aside(tmp_path: Path) -> None:
    """What a kill has left aside comes back, if nothing has taken its place."""
    aside = marker_name("results", f"{RUN}-0123456789") + ".0123456789ab.old"
    (tmp_path / aside).mkdir()
    leftovers.sweep(str(tmp_path))
    assert os.listdir(tmp_path) == ["results"]
    (tmp_path / aside).mkdir()
    leftovers.sweep(str(tmp_path))
    assert os.listdir(tmp_path) == ["results"]


def test_where_outputs_came_is_noted(tmp_path: Path) -> None:
    """A run's directory says where its outputs came."""
    program = ProgramInfo.new(tmp_path / "runs")
    (tmp_path / "b c").mkdir()
    for directory in (tmp_path / "b c", tmp_path, tmp_path):
        leftovers.visit(str(directory), program)
    assert leftovers.noted(program.log_dir.parent) == sorted([str(tmp_path), str(tmp_path / "b c")])
    assert leftovers.noted(tmp_path / "nothing") == []
