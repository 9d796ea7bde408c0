"""What a function captured: the globals it refers to, what its cells hold, the submodules it reaches."""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from hyperflow.once import once_for_code as once_for_code  # noqa: PLC0414 (watch.py has it from here)
from hyperflow.shipping.importable import importable


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


def contents(cell: types.CellType, empty: object = None) -> Any:
    """Return what is in a cell, or `empty`."""
    try:
        return cell.cell_contents
    except ValueError:  # a name that has not been bound yet
        return empty


_GLOBAL_OPS = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL")


@once_for_code
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


@once_for_code
def rebinds_cells(code: types.CodeType) -> bool:
    """Whether code binds a captured variable anew (`nonlocal`), so that a call changes what the next one finds."""
    return not set(code.co_freevars).isdisjoint(_stored_in_cells(code))


def _stored_in_cells(code: types.CodeType) -> set[str]:
    inner = (_stored_in_cells(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_DEREF", "DELETE_DEREF")}
    return own.union(*inner)


def referenced_globals(fn: types.FunctionType, missing: object = None) -> dict[str, Any]:
    """Return the globals that fn refers to, by name; those that are not there only if `missing` stands for them."""
    names, _ = _global_names(fn.__code__)
    if missing is not None:
        return {name: fn.__globals__.get(name, missing) for name in names}
    return {name: fn.__globals__[name] for name in names if name in fn.__globals__}


def submodules(fn: types.FunctionType, values: Iterator[Any]) -> list[str]:
    """Return submodules that fn reaches through a package: `xml.etree.ElementTree` where the global is `xml`."""
    _, attributes = _global_names(fn.__code__)
    modules = (value for value in values if isinstance(value, types.ModuleType))
    packages = (module.__name__ for module in modules if hasattr(module, "__path__"))
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


def local_modules(fn: types.FunctionType, values: Iterable[Any]) -> list[types.ModuleType]:
    """Return the modules among the captured values, and those that fn imports, that other processes cannot import."""
    found = [value for value in values if isinstance(value, types.ModuleType) and not by_name(value)]
    inside = [sys.modules.get(name) for name in _imported(fn.__code__) if not importable(name)]
    return [*found, *(module for module in inside if module is not None)]


def by_name(module: types.ModuleType) -> bool:
    """Whether another process can import this very module."""
    return sys.modules.get(module.__name__) is module and importable(module.__name__)


@once_for_code
def _imported(code: types.CodeType) -> frozenset[str]:
    inner = [_imported(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    own = {i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"}
    return frozenset(own).union(*inner)
