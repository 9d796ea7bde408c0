"""The house keeps its rules: who imports whom, and what the package says about itself."""

import ast
import inspect
import sys
from pathlib import Path
from types import FunctionType

import pytest

import hyperflow
from tests import imports


def test_import_rules_hold() -> None:
    """Every module has a docstring and imports only what it may (see `tests/imports.py`)."""
    complaints = list(imports.check(imports.read(imports.TOP / "hyperflow")))

    assert not complaints, "\n".join(complaints)


HOUSE = {
    "__init__": "from hyperflow.job import Job as Job",
    "job": "from hyperflow.remote import r",
    "remote": "from hyperflow.engine.pool import Pool",
    "engine/__init__": "",
    "engine/pool": "from hyperflow.errors import E",
    "engine/node": "import os\nfrom hyperflow.engine.wire import w",
    "engine/wire": "import struct\nfrom hyperflow.engine.closure import c\ndef f():\n    import dill",
    "engine/closure": "from hyperflow.errors import E",
    "database/__init__": "from hyperflow.errors import E",
    "errors": "",
}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("errors", "from hyperflow.job import Job", "errors must not know job"),
        ("errors", "from .job import Job", "errors must not know job"),
        ("errors", "def f():\n    import hyperflow.job", "errors must not know job"),
        ("errors", "from hyperflow import Job", "name the module that defines it"),
        ("errors", "from hyperflow import job", "errors must not know job"),
        ("errors", "from hyperflow.testing import fake", "only tests use this room"),
        ("errors", "import hyperflow.nowhere", "there is no such module"),
        ("engine/pool", "from hyperflow.database import KeyValMap", "engine must not know database"),
        ("database/sqlite", "from hyperflow.engine.pool import Pool", "database must not know engine"),
        ("engine/pool", "from time import monotonic", "no clock"),
        ("engine/pool", "import os.path", "does no I/O"),
        ("engine/wire", "import attrs", "engine.wire imports attrs: the launcher"),
        ("engine/wire", "from . import frames", "engine.frames imports attrs: the launcher"),
        ("attic", "import hyperflow.errors", "has no place in tests/imports.py"),
        (
            "engine/wire",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hyperflow.engine.node import N",
            "import cycle: ",
        ),
    ],
)
def test_import_rules_can_break(tmp_path: Path, module: str, source: str, complaint: str) -> None:
    """A house that keeps the rules gives no complaint; each break gives one."""
    house = {**HOUSE, "testing/__init__": "from hyperflow.job import Job"}
    _build(tmp_path, house)
    assert not list(imports.check(imports.read(tmp_path / "hyperflow")))

    _build(tmp_path, {**house, "engine/frames": "import attrs", module: source})

    assert complaint in "\n".join(imports.check(imports.read(tmp_path / "hyperflow")))


def test_docstrings_are_missed(tmp_path: Path) -> None:
    """A module without a docstring is a complaint."""
    (tmp_path / "hyperflow").mkdir()
    (tmp_path / "hyperflow" / "errors.py").write_text("x = 1\n")

    assert "no docstring" in "\n".join(imports.check(imports.read(tmp_path / "hyperflow")))


def _build(top: Path, house: dict[str, str]) -> None:
    for name, source in house.items():
        path = top / "hyperflow" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""Say what it is."""\n{source}\n')


def test_public_names() -> None:
    """`__all__` is sorted, and is what type checkers are told; each name comes from the module that they are told."""
    tree = ast.parse(Path(hyperflow.__file__).read_text(encoding="utf-8"))
    for_checkers = next(node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.asname or alias.name: node.module
        for node in for_checkers.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert list(hyperflow.__all__) == sorted(hyperflow.__all__)
    assert set(hyperflow.__all__) == told.keys()
    assert told == {name: f"hyperflow.{module}" for name, module in hyperflow._MODULE_OF.items()}
    for name, module in told.items():
        assert getattr(hyperflow, name) is getattr(sys.modules[str(module)], name)


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
