"""Sources: what a function reaches through an import inside its body, read from the files of the user's modules.

The modules are not imported for that: the program may import them on workers only, and importing one runs its code.
Nor is a module that happens to be imported already looked at in another way: a fingerprint must not depend on that. So
what counts is the code of the statements that make the names which are used, also through other statements and modules,
and not the values that they give. A module without a source file, which somebody made, counts by its values.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hyperflow.database import instructions
from hyperflow.database.instructions import Import

_OURS = (str(Path(__file__).parents[1]) + os.sep,)


@functools.cache
def _installed() -> tuple[str, ...]:
    import sysconfig  # noqa: PLC0415 (it takes longer than all others here)

    return tuple({os.path.join(path, "") for path in sysconfig.get_paths().values() if path}) + _OURS


@functools.lru_cache(maxsize=4096)
def is_of_user(filename: str) -> bool:
    """Whether a source file is the user's: not of the standard library, an installed package or hyperflow."""
    if filename.startswith("<"):
        return not filename.startswith(("<frozen", "<attrs", "<__array"))
    path = os.path.abspath(filename)
    parts = path.split(os.sep)
    return not path.startswith(_installed()) and "site-packages" not in parts and "dist-packages" not in parts


class Use(NamedTuple):
    """A name of a module, and the code that uses it."""

    module: str
    name: str
    by: types.CodeType


def reached(code: types.CodeType, package: str) -> Iterator[types.CodeType | Use]:
    """Yield the statements of the user's modules that imports in code lead to, and uses of modules without a file.

    Args:
        code: A function's, with the code inside it.
        package: Where the function's module stands, for relative imports.
    """
    pending = [use for one in instructions.imports_in(code) for use in _uses(one, package, code)]
    seen: set[tuple[str, str, int]] = set()
    given: dict[int, types.CodeType] = {}
    for use in pending:  # it grows meanwhile
        if (key := (use.module, use.name, id(use.by))) in seen:
            continue
        seen.add(key)
        source = _source(use.module)
        if source is None:
            if _is_handmade(use.module):
                yield use
            else:  # a directory of the user's without `__init__.py`, or nothing of the user's
                pending += _uses_of_module(f"{use.module}.{use.name}", use.by)
            continue
        found = source.statements.get(use.name, ())
        for statement in found:
            if id(statement) not in given:
                given[id(statement)] = statement
                yield statement
                pending += [Use(use.module, name, statement) for name in instructions.globals_in(statement)]
                pending += _all_uses(instructions.imports_in(statement), source.package, statement)
            pending += _all_uses(instructions.own_imports(statement), source.package, use.by)
        if not found:
            stars = [one for star in source.statements.get("*", ()) for one in instructions.own_imports(star)]
            pending += [Use(module_of(one, source.package), use.name, use.by) for one in stars]
            pending += _uses_of_module(f"{use.module}.{use.name}", use.by)


def _all_uses(imports: Sequence[Import], package: str, code: types.CodeType) -> list[Use]:
    return [use for one in imports for use in _uses(one, package, code)]


def _uses(one: Import, package: str, code: types.CodeType) -> list[Use]:
    """Return what code may use of what it imports."""
    module = module_of(one, package)
    if one.names:
        return [Use(module, name, code) for name in one.names]
    parts = module.split(".")  # `import a.b` gives `a`, too
    return [use for n in range(len(parts)) for use in _uses_of_module(".".join(parts[: n + 1]), code)]


def _uses_of_module(module: str, code: types.CodeType) -> list[Use]:
    if _source(module) is None and not _is_handmade(module):
        return []
    return [Use(module, name, code) for name in instructions.attributes_in(code)]


def module_of(one: Import, package: str) -> str:
    """Return the full name of the module that is imported."""
    with suppress(ImportError):
        return importlib.util.resolve_name("." * one.level + one.module, package)
    return one.module


def _is_handmade(module: str) -> bool:
    loaded = sys.modules.get(module)
    return isinstance(loaded, types.ModuleType) and (loaded.__spec__ or getattr(loaded, "__file__", None)) is None


class Source(NamedTuple):
    """The source of a user's module: which top-level statements make a name, or change what it stands for."""

    package: str
    statements: dict[str, list[types.CodeType]]


def _source(module: str) -> Source | None:
    """Read a module's file; None if it is not the user's, or there is no Python in it."""
    place = _place(module)
    if place is None or not place[0].endswith(".py") or not is_of_user(place[0]):
        return None
    file, is_package = place
    try:
        stat = os.stat(file)
        statements = _read(file, stat.st_mtime_ns, stat.st_size)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    return Source(module if is_package else module.rpartition(".")[0], statements)


@functools.lru_cache(maxsize=64)
def _read(file: str, *_when: int) -> dict[str, list[types.CodeType]]:
    """Return the statements of a file by the names that they touch; the other arguments tell when to read again."""
    with open(file, "rb") as source:
        statements = [each for statement in ast.parse(source.read()).body for each in _single(statement)]
    imported = {name for each in statements if isinstance(each, ast.Import | ast.ImportFrom) for name in _touched(each)}
    found: dict[str, list[types.CodeType]] = {}
    for statement in statements:
        names = dict.fromkeys(_touched(statement))
        code = _compiled(statement)
        for name in names:
            if name not in imported or not isinstance(statement, ast.Expr):  # `logging.basicConfig()` is no part of it
                found.setdefault(name, []).append(code)
    return found


def _single(statement: ast.stmt) -> list[ast.stmt]:
    """Return an import of several names as several imports."""
    match statement:
        case ast.Import():
            return [ast.Import([alias]) for alias in statement.names]
        case ast.ImportFrom():
            return [ast.ImportFrom(statement.module, [alias], statement.level) for alias in statement.names]
        case _:
            return [statement]


def _touched(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement binds, and those whose objects it changes: `T["a"] = 1`, `@f.register`."""
    match node:
        case ast.Import() | ast.ImportFrom():
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
            yield from filter(None, map(_registry, node.decorator_list))
        case ast.Lambda() | ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            pass
        case ast.Name(ctx=ast.Store()):
            yield node.id
        case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
            yield from _root(node)
        case ast.Expr(value=ast.Call(func=ast.Attribute() as called)):
            yield from _root(called)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _touched(child)


def _registry(decorator: ast.expr) -> str | None:
    """Return the function for which a decorator registers another one."""
    match decorator:
        case ast.Attribute(value=ast.Name(id=name), attr="register"):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="register")):
            return name
        case _:
            return None


def _root(node: ast.expr) -> Iterator[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def _compiled(statement: ast.stmt) -> types.CodeType:
    """Compile a statement without what is no change: where it stands, docstrings, annotations of plain functions."""
    for node in ast.walk(statement):
        if isinstance(node, ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
            node.returns = None
            for each in ast.walk(node.args):
                if isinstance(each, ast.arg):
                    each.annotation = None
    for node in ast.walk(statement):
        if isinstance(node, ast.stmt | ast.expr | ast.arg | ast.keyword | ast.alias | ast.excepthandler | ast.pattern):
            node.lineno = node.end_lineno = 1
            node.col_offset = node.end_col_offset = 0
    return compile(ast.Module([statement], []), "<statement>", "exec", dont_inherit=True)


def _place(module: str) -> tuple[str, bool] | None:
    """Return the file of a module, and whether it is a package's, without importing anything; None if there is none."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return (file, hasattr(loaded, "__path__")) if isinstance(file, str) else None
    spec = _spec(module)
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return spec.origin, spec.submodule_search_locations is not None


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    parent, _, _ = module.rpartition(".")
    path: Sequence[str] | None = None
    if parent:
        loaded = sys.modules.get(parent)
        above = _spec(parent) if loaded is None else None
        path = getattr(loaded, "__path__", None) if above is None else above.submodule_search_locations
        if path is None:
            return None
    path = getattr(path, "_path", path)  # else a namespace package looks for its parent among what is imported
    for finder in sys.meta_path:
        with suppress(Exception):
            found = finder.find_spec(module, path)
            if found is not None:
                return found
    return _namespace(module, path or ())


def _namespace(module: str, path: Sequence[str]) -> importlib.machinery.ModuleSpec | None:
    """Return the spec of a directory without `__init__.py` within another one; no finder gives it before the parent."""
    places = [place for each in path if os.path.isdir(place := os.path.join(each, module.rpartition(".")[2]))]
    if not places:
        return None
    spec = importlib.machinery.ModuleSpec(module, None, is_package=True)
    spec.submodule_search_locations = places
    return spec
