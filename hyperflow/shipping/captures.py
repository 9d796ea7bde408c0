"""What a function captured: the globals it refers to, what its cells hold, the submodules it reaches."""

from __future__ import annotations

import dis
import enum
import functools
import sys
import types
from collections.abc import Iterator
from typing import Any, TypeAlias

from hyperflow.shipping.importable import importable

Captured: TypeAlias = tuple[Any, str | None, Any]
"""Where a captured name is (a cell, whose name is None, or globals), the name, and its value."""

_IMMUTABLE = (int, float, complex, str, bytes, bool, type(None), type, types.ModuleType, types.BuiltinFunctionType,
              enum.Enum)  # fmt: skip


def found_by_name(thing: Any, module_name: str | None, qualname: str) -> bool:
    """Whether another process can import thing."""
    if not module_name or "<locals>" in qualname or not importable(module_name):
        return False
    return attribute(sys.modules.get(module_name), qualname) is thing


def attribute(found: Any, path: str) -> Any:
    """Return what is found along a path of attributes, None if there is nothing."""
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def contents(cell: types.CellType) -> Any:
    """Return what is in a cell, None if it is empty."""
    try:
        return cell.cell_contents
    except ValueError:  # empty: a name that has not been bound yet
        return None


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


def referenced_globals(fn: types.FunctionType) -> dict[str, Any]:
    """Return the globals that fn refers to, by name."""
    names, _ = _global_names(fn.__code__)
    return {name: fn.__globals__[name] for name in names if name in fn.__globals__}


def submodules(fn: types.FunctionType, values: Iterator[Any]) -> list[str]:
    """Return submodules that fn reaches through a package: `xml.etree.ElementTree` where the global is `xml`."""
    _, attributes = _global_names(fn.__code__)
    packages = [value.__name__ for value in values if isinstance(value, types.ModuleType) and hasattr(value, "__path__")]
    return sorted(found for package in packages for found in _below(package, attributes))


def _below(package: str, attributes: frozenset[str]) -> Iterator[str]:
    """Yield the imported modules below a package whose names are among the attributes."""
    for attribute in attributes:  # not all of sys.modules: a program may have thousands
        name = f"{package}.{attribute}"
        if name in sys.modules:
            yield name
            yield from _below(name, attributes)


def names_reached(fn: types.FunctionType, module: types.ModuleType) -> dict[str, Any]:
    """Return what fn may reach in a module through its attributes, by name."""
    _, attributes = _global_names(fn.__code__)
    space = vars(module)
    return {name: space[name] for name in sorted(attributes) if name in space}


def imported_inside(fn: types.FunctionType) -> frozenset[str]:
    """Return the absolute names of modules that code in fn imports."""
    return _imported(fn.__code__)


@functools.lru_cache(maxsize=10_000)
def _imported(code: types.CodeType) -> frozenset[str]:
    inner = [_imported(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    own = {i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"}
    return frozenset(own).union(*inner)


def snapshot(fn: Any) -> tuple[list[Captured], bool]:
    """Return all that fn captured, through other functions too, and whether some of it is mutable."""
    captured: list[Captured] = []
    return captured, not _add(fn, captured, set())


def _add(fn: Any, captured: list[Captured], seen: set[int]) -> bool:
    """Add what fn captured; return whether all of it is immutable."""
    if id(fn) in seen or type(fn) is not types.FunctionType:
        return True
    seen.add(id(fn))
    if found_by_name(fn, fn.__module__, fn.__qualname__):
        return True
    values: list[Any] = list(fn.__defaults__ or ()) + list((fn.__kwdefaults__ or {}).values())
    for name, value in referenced_globals(fn).items():
        captured.append((fn.__globals__, name, value))
        values.append(value)
    for cell in fn.__closure__ or ():
        value = contents(cell)
        captured.append((cell, None, value))
        values.append(value)
    return all(_is_immutable(value, captured, seen) for value in values)


def _is_immutable(value: Any, captured: list[Captured], seen: set[int]) -> bool:
    if type(value) is types.FunctionType:
        return _add(value, captured, seen)
    if isinstance(value, (tuple, frozenset)):
        return all(_is_immutable(part, captured, seen) for part in value)
    return isinstance(value, _IMMUTABLE)
