"""The house keeps its rules: who imports whom, and what the package says about itself."""

import ast
import importlib
import inspect
from pathlib import Path
from types import FunctionType

import pytest

import hyperflow
from tests import imports


def test_import_rules_hold() -> None:
    """Every module has a docstring and imports only what it may (see `tests/imports.py`)."""
    table = (imports.TOP / "docs" / "design.md").read_text(encoding="utf-8")
    complaints = list(imports.check(imports.read(imports.TOP / "hyperflow"), imports.house(table)))

    assert not complaints, "\n".join(complaints)


TABLE = """
## The house

| `_job.py` | | all below but `launcher/` |
| `launcher/` | | `wire/` |
| `scheduling/` | | `errors.py` |
| `database/`, `shipping/` | | `errors.py` |
| `wire/` | | |
| `errors.py` | | |

## What comes next
"""

HOUSE = {
    "__init__": "from hyperflow._job import Job as Job",
    "_job": "from hyperflow.scheduling.ledger import Pool",
    "scheduling/__init__": "",
    "scheduling/ledger": "from hyperflow.errors import E",
    "launcher/__init__": "",
    "launcher/launcher": "import os\nfrom hyperflow.wire.frames import w",
    "wire/__init__": "",
    "wire/frames": "import struct\ndef f():\n    import dill",
    "wire/other": "",
    "shipping/__init__": "",
    "shipping/pickler": "from hyperflow.errors import E",
    "database/__init__": "from hyperflow.errors import E",
    "errors": "",
}


def _complaints(top: Path) -> str:
    allowed = imports.house(TABLE)
    return "\n".join(imports.check(imports.read(top / "hyperflow"), allowed))


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("errors", "from hyperflow._job import Job", "errors must not know _job"),
        ("errors", "from ._job import Job", "errors must not know _job"),
        ("errors", "def f():\n    import hyperflow._job", "errors must not know _job"),
        ("errors", "from hyperflow import Job", "name the module that defines it"),
        ("errors", "from hyperflow import _job", "errors must not know _job"),
        ("errors", "from hyperflow.testing import fake", "only tests use this room"),
        ("errors", "import hyperflow.nowhere", "there is no such module"),
        ("_job", "from hyperflow.launcher.launcher import main", "_job must not know launcher"),
        ("launcher/child", "from hyperflow.errors import E", "launcher must not know errors"),
        ("scheduling/ledger", "from hyperflow.database import KeyValMap", "scheduling must not know database"),
        ("database/sqlite", "from hyperflow.scheduling.ledger import Pool", "database must not know scheduling"),
        ("scheduling/ledger", "from time import monotonic", "no clock"),
        ("scheduling/ledger", "import os.path", "does no I/O"),
        ("wire/frames", "import attrs", "wire.frames imports attrs: the launcher"),
        ("wire/frames", "from . import other", "wire.other imports attrs: the launcher"),
        ("attic", "import hyperflow.errors", "the room 'attic' has no row"),
        (
            "wire/frames",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hyperflow.wire.more import N",
            "import cycle: ",
        ),
    ],
)
def test_import_rules_can_break(tmp_path: Path, module: str, source: str, complaint: str) -> None:
    """A house that keeps the rules gives no complaint; each break gives one."""
    house = {**HOUSE, "testing/__init__": "from hyperflow._job import Job"}
    _build(tmp_path, house)
    assert not _complaints(tmp_path)

    _build(
        tmp_path,
        {**house, "wire/other": "import attrs", "wire/more": "from hyperflow.wire.frames import F", module: source},
    )

    assert complaint in _complaints(tmp_path)


def test_the_table_of_rooms_names_only_what_stands_below() -> None:
    """A row that allows an import upwards is refused, so the table cannot contradict its own order."""
    with pytest.raises(ValueError, match="wire"):
        imports.house("\n## The house\n\n| `wire/` | | `_job.py` |\n")
    assert imports.house(TABLE)["_job"] >= {"database", "wire"}


def test_docstrings_are_missed(tmp_path: Path) -> None:
    """A module without a docstring is a complaint."""
    (tmp_path / "hyperflow").mkdir()
    (tmp_path / "hyperflow" / "errors.py").write_text("x = 1\n")

    assert "no docstring" in _complaints(tmp_path)


def _build(top: Path, house: dict[str, str]) -> None:
    for name, source in house.items():
        path = top / "hyperflow" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""Say what it is."""\n{source}\n')


def test_public_names() -> None:
    """`dir` shows the public names and nothing else; each is what type checkers are told that it is."""
    stub = ast.parse(Path(hyperflow.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    told = {
        alias.asname: str(node.module)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }

    assert dir(hyperflow) == list(hyperflow.__all__) == sorted(told)
    for name, module in told.items():
        assert getattr(hyperflow, name) is getattr(importlib.import_module(module), name)
        assert f"hyperflow.{name}" != module, "the module of that name would hide it"


def test_public_names_are_documented() -> None:
    """Each public function and class says itself what it is for; an inherited docstring does not count."""
    silent: list[str] = []
    for name in hyperflow.__all__:
        value = getattr(hyperflow, name)
        if isinstance(value, type | FunctionType) or inspect.isbuiltin(value):
            docstring = (vars(value).get("__doc__") if isinstance(value, type) else value.__doc__) or ""
            # dataclasses make one up from the signature
            if not docstring.strip() or docstring.startswith(f"{name}("):
                silent.append(name)

    assert not silent
