"""Which modules other processes can import: what is in those travels by name, all else by value.

Not importable elsewhere are the script (`__main__`), what the user has registered (`register_pickle_by_value`), and
modules in `sys.modules` that no finder finds: pytest's importlib mode and `importlib.util.spec_from_file_location` make
such. Where in doubt (modules without a file, or which their package makes), a module counts as importable.
"""

from __future__ import annotations

import os
import sys
import types
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


def plain_is_enough(data: bytes) -> bool:
    """Whether a pickle that plain pickle has made means the same elsewhere.

    Not so if it names something of the script or of a module that only this process has, or says "getattr", as for a
    bound method: private and decorated ones are not found that way. (If only a text in it reads so, nothing is lost.)
    """
    if b"__main__" in data or b"getattr" in data:
        return False
    return not _names or not any(name in data for name in _names)


def _look(name: str) -> bool:
    if name in SCRIPT or name in registered:
        return False
    parent = name.rpartition(".")[0]
    if parent and not importable(parent):
        return parent not in sys.modules and parent not in registered  # a package may make modules without parents
    spec = getattr(sys.modules.get(name), "__spec__", None)
    origin = getattr(spec, "origin", None)
    if not getattr(spec, "has_location", False) or not isinstance(origin, str):
        return name in sys.modules
    return _root(origin, name) in sys.path or _found(name, parent, origin)


def _root(origin: str, name: str) -> str:
    """Return the directory that has to be in `sys.path` for a module in this file."""
    steps = name.count(".") + 1 + (os.path.basename(origin).partition(".")[0] == "__init__")
    for _ in range(steps):
        origin = os.path.dirname(origin)
    return origin


def _found(name: str, parent: str, origin: str) -> bool:
    """Whether the finders of this process find this very file."""
    path = getattr(sys.modules[parent], "__path__", None) if parent in sys.modules else None
    for finder in sys.meta_path:
        try:
            found = finder.find_spec(name, path)
        except Exception:
            return True
        if found is not None:
            return found.origin is None or os.path.realpath(found.origin) == os.path.realpath(origin)
    return False
