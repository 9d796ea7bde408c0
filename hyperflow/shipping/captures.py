"""What a function captured: the globals it refers to, what its cells hold, the submodules it reaches."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Iterator
from typing import Any


def found_by_name(thing: Any, module_name: str | None, qualname: str) -> bool:
    """Whether another process can import thing."""
    if not module_name or module_name in ("__main__", "__mp_main__") or "<locals>" in qualname:
        return False
    found: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is thing


def contents(cell: types.CellType, empty: object = None) -> Any:
    """Return what is in a cell, or `empty`."""
    try:
        return cell.cell_contents
    except ValueError:  # a name that has not been bound yet
        return empty


_GLOBAL_OPS = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL")


@functools.lru_cache(maxsize=10_000)
def _global_names(code: types.CodeType) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the globals that code and the code inside it refer to, and all names that may be attributes."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in _GLOBAL_OPS}
    attributes = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner, inner_attributes = _global_names(constant)
            names.update(inner)
            attributes |= inner_attributes
    return tuple(sorted(names)), frozenset(attributes)


def referenced_globals(fn: types.FunctionType, missing: object = None) -> dict[str, Any]:
    """Return the globals that fn refers to, by name; those that are not there only if `missing` stands for them."""
    names, _ = _global_names(fn.__code__)
    if missing is not None:
        return {name: fn.__globals__.get(name, missing) for name in names}
    return {name: fn.__globals__[name] for name in names if name in fn.__globals__}


def submodules(fn: types.FunctionType, values: Iterator[Any]) -> list[str]:
    """Return submodules that fn reaches through a package: `xml.etree.ElementTree` where the global is `xml`."""
    _, attributes = _global_names(fn.__code__)
    found: list[str] = []
    for value in values:
        if isinstance(value, types.ModuleType) and hasattr(value, "__path__"):
            prefix = value.__name__ + "."
            found += [
                name
                for name in list(sys.modules)
                if name.startswith(prefix) and attributes.issuperset(name[len(prefix) :].split("."))
            ]
    return sorted(found)
