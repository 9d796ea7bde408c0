"""Which modules other processes can import: what is in those travels by name, all else by value.

Not importable elsewhere are the script (`__main__`), what the user has registered (`register_pickle_by_value`), and
modules in `sys.modules` that no finder finds, or of which the finders find another one: pytest's importlib mode,
`importlib.util.spec_from_file_location` and `types.ModuleType` make such. Nor is what is below a package that is not
importable. Where in doubt (modules that an importable package makes, finders of other packages), a module counts as
importable.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any

from hyperflow.errors import MisuseError

SCRIPT = ("__main__", "__mp_main__")
"""The names of the script: as it was started, and in a process that multiprocessing has spawned."""

registered: dict[str, types.ModuleType] = {}
"""What the user has registered, by name."""

version = 0
"""How many times that has changed."""

_verdicts: dict[str, bool] = {}
_names: list[bytes] = []
"""The names that are known of modules that cannot be imported elsewhere, without the script's."""


def register_pickle_by_value(module: types.ModuleType) -> None:
    """Send what a module defines by value from now on, as if it stood in the script.

    For a module that workers cannot import, or that you edit while the program runs: its functions and classes, and
    those of its submodules, are sent as they are here. What they refer to in other modules still goes by name.

    Args:
        module: A module or package that is imported; not its name.

    Raises:
        MisuseError: It is no module, or none that is imported.

    It takes effect at once, also for functions that were evaluated before. To cancel it: `unregister_pickle_by_value`.
    It costs nothing by itself; a function that goes by value is pickled again when what it refers to has changed.
    """
    name = _name_of(module, "register_pickle_by_value")
    if sys.modules.get(name) is not module:
        raise MisuseError(
            f"register_pickle_by_value({name}): sys.modules has another module, or none, under this name; functions "
            "and classes find their module there, so import it first"
        )
    registered[name] = module
    note(name)
    _changed()


def unregister_pickle_by_value(module: types.ModuleType) -> None:
    """Send what a module defines by name again.

    Args:
        module: What was given to `register_pickle_by_value`.

    Raises:
        MisuseError: It is not registered.

    It takes effect at once. Workers that have parts of it by value keep those until they end.
    """
    name = _name_of(module, "unregister_pickle_by_value")
    if registered.pop(name, None) is None:
        raise MisuseError(f"unregister_pickle_by_value({name}): it is not registered")
    _names.remove(name.encode())
    _changed()


def _changed() -> None:
    global version  # noqa: PLW0603 (there is one registry in a process)
    version += 1
    _verdicts.clear()


def _name_of(module: Any, function: str) -> str:
    if not isinstance(module, types.ModuleType):
        raise MisuseError(f"{function}({module!r}): give the module itself, as in `import lib; hf.{function}(lib)`")
    return module.__name__


def importable(name: str) -> bool:
    """Whether another process can import the module that is imported here under this name."""
    verdict = _verdicts.get(name)
    if verdict is None:
        verdict = _look(name)
        if name in sys.modules:
            _verdicts[name] = verdict
            if not verdict and name not in SCRIPT:
                note(name)
    return verdict


def note(name: str) -> None:
    """Note that other processes cannot import the module of this name."""
    if (word := name.encode()) not in _names:
        _names.append(word)


def arrived(name: str) -> None:
    """Note that a module has come from another process: there it is known, elsewhere it is not."""
    note(name)
    parent = name.rpartition(".")[0]
    _verdicts[name] = not parent or parent in sys.modules  # pickle imports that first


def plain_is_enough(data: bytes) -> bool:
    """Whether a pickle that plain pickle has made means the same elsewhere.

    Not so if it names something of the script or of a module that only this process has, or says "getattr", as for a
    bound method: private and decorated ones are not found that way. (If only a text in it reads so, nothing is lost.)
    """
    if b"__main__" in data or b"getattr" in data:
        return False
    return not _names or not any(name in data for name in _names)


_PYTHONS_OWN = ("built-in", "frozen")


def _look(name: str) -> bool:
    module = sys.modules.get(name)
    if module is None or name in SCRIPT or name in registered:
        return False
    spec: ModuleSpec | None = getattr(module, "__spec__", None)
    if getattr(spec, "origin", None) in _PYTHONS_OWN:
        return True
    parent = name.rpartition(".")[0]
    path = None
    if parent:
        if not _may_be_there(parent):
            return False
        path = getattr(sys.modules.get(parent), "__path__", None)
        if path is None or getattr(spec, "name", name) != name:
            return True  # no finder finds it under this name: what is above makes it
    try:
        found = _find(name, path)
    except Exception:
        return True
    ours = _places(spec) or _file(module)
    if found is None:
        return bool(parent) and not ours  # a package may make modules, a program does so, too
    theirs = _places(found)
    if not ours and theirs:
        return type(module) is not types.ModuleType  # one that has put an object in its own place, or a stand-in
    return not theirs or ours <= theirs


def _may_be_there(package: str) -> bool:
    """Whether another process can import a package, or the one above it that makes it."""
    if package in sys.modules:
        return importable(package)
    if above := package.rpartition(".")[0]:
        return _may_be_there(above)
    try:
        return _find(package, None) is not None
    except Exception:
        return True


def _find(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Ask the finders of this process, as far as other processes have them: what `sys.path` has first, counts."""
    for finder in sys.meta_path:
        kind = finder if isinstance(finder, type) else type(finder)
        if kind.__module__ not in SCRIPT and (found := finder.find_spec(name, path)) is not None:
            return found
    return None


def _places(spec: ModuleSpec | None) -> frozenset[str]:
    """Return the file of a module, or the directories of a package without a file."""
    if spec is None:
        return frozenset()
    places = (spec.submodule_search_locations or ()) if spec.origin is None else (spec.origin,)
    return frozenset(map(os.path.realpath, places))


def _file(module: types.ModuleType) -> frozenset[str]:
    file = getattr(module, "__file__", None)
    return frozenset({os.path.realpath(file)}) if isinstance(file, str) else frozenset()
