"""What a function reaches through its modules, and which of them another process can import."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
import xml
import xml.etree.ElementTree
from collections.abc import Iterator
from typing import Any

import pytest

from hyperflow.errors import MisuseError
from hyperflow.shipping import captures, importable


class Modules(dict[str, types.ModuleType]):
    """Counts how often somebody looks at it."""

    looks = 0
    scans = 0

    def __contains__(self, name: object) -> bool:
        self.looks += 1
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self.scans += 1
        return super().__iter__()

    def keys(self) -> Any:
        """Count as iterating does."""
        self.scans += 1
        return super().keys()

    items = values = keys


def reaches_tree(text: str) -> Any:
    """Reach a submodule, and name other things that are none."""
    return xml.etree.ElementTree.fromstring(text).tag.strip().lower()


@pytest.mark.parametrize("more", [0, 5000])
def test_submodules_cost(monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    """What it takes to find submodules depends on the function, not on how many modules are imported."""
    modules = Modules(sys.modules)
    modules.update({f"xml.part{number}": xml for number in range(more)})
    monkeypatch.setattr(captures, "sys", types.SimpleNamespace(modules=modules))

    assert captures.submodules(reaches_tree, iter([xml])) == ["xml.etree", "xml.etree.ElementTree"]
    assert captures.submodules(reaches_tree, iter([json.dumps, 5, types])) == []  # no packages
    assert modules.scans == 0
    assert 0 < modules.looks <= 3 * len(reaches_tree.__code__.co_names)


def test_importable() -> None:
    """Modules of the library, of tests beside them, of packages; not the script, and not what nobody finds."""
    for name in ("json", "json.decoder", "sys", "os.path", __name__, "numpy", "tests.shipping"):
        importlib.import_module(name)
        assert importable.importable(name), name
    assert not importable.importable("__main__")
    assert not importable.importable("a_module_that_nobody_has")


def test_a_module_that_was_loaded_by_its_path(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not importable unless its directory is in `sys.path`; another file of that name does not count."""
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "by_path_only.py").write_text("x = 1")
    spec = importlib.util.spec_from_file_location("by_path_only", tmp_path / "a" / "by_path_only.py")
    assert spec is not None
    monkeypatch.setitem(sys.modules, "by_path_only", importlib.util.module_from_spec(spec))
    monkeypatch.setattr(importable, "_names", [])

    monkeypatch.setattr(importable, "_verdicts", {})
    assert not importable.importable("by_path_only")
    monkeypatch.setattr(importable, "_verdicts", {})
    monkeypatch.syspath_prepend(str(tmp_path / "b"))
    assert not importable.importable("by_path_only")
    monkeypatch.setattr(importable, "_verdicts", {})
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    assert importable.importable("by_path_only")


def test_registering() -> None:
    """It holds for submodules, too, until it is cancelled; what is no imported module is refused."""
    assert importable.importable("xml.etree.ElementTree")
    importable.register_pickle_by_value(xml)
    try:
        assert not importable.importable("xml.etree.ElementTree")
        assert not importable.plain_is_enough(b"... xml.etree ...")
        assert not captures.found_by_name(xml.etree.ElementTree.Element.__class__, "xml.etree.ElementTree", "Element")
    finally:
        importable.unregister_pickle_by_value(xml)
    assert importable.importable("xml.etree.ElementTree")
    with pytest.raises(MisuseError, match="it is not registered"):
        importable.unregister_pickle_by_value(xml)
    with pytest.raises(MisuseError, match="give the module itself"):
        importable.register_pickle_by_value("xml")  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="import it first"):
        importable.register_pickle_by_value(types.ModuleType("xml"))
