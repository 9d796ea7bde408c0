"""The import rules: which module of hyperflow may know which. `python -m tests.imports` checks them.

Every import counts, also those in functions and under TYPE_CHECKING: what a file needs to be understood is what
it imports, whenever it does. A room is a module or a package directly inside hyperflow; each one may use the rooms
below it (`LEVELS`), so the files can be read from the bottom up. When a new room is needed, give it its place here.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "hyperflow"
TOP = Path(__file__).resolve().parent.parent

# Highest first. Rooms of one level may use each other, as long as there is no cycle.
LEVELS = (
    {"__main__"},
    {"cli"},
    {"main"},
    {"console"},
    {"cluster"},
    {"control"},
    {"master"},
    {"job"},
    {"remote", "concurrent", "command", "locks", "extvar"},
    {"engine"},
    {"flow", "environment", "program", "config", "errors", "_version"},
)
# Rooms beside the chain: what they may use, and from where they may be used.
ASIDE = {
    "database": {"flow", "environment", "program", "errors"},
    "slurm": {"errors"},
}
USES_ASIDE = {"cli", "console", "cluster", "control", "master", "job", "locks", "extvar"}

# State machines: events in, effects out. The clock and the outside world come to them as arguments.
PURE = {"hyperflow.engine.locks", "hyperflow.engine.pool", "hyperflow.engine.scheduler", "hyperflow.engine.state"}
IMPURE = {"asyncio", "datetime", "os", "select", "selectors", "signal", "socket", "subprocess", "threading", "time"}

# What starts on every node before anything else. All that it imports while it starts, directly or not, is standard
# library: it starts fast, and works wherever Python does. (A worker may import more later, inside a function.)
LIGHT = {"hyperflow", "hyperflow.engine.node", "hyperflow.engine.wire"}


@dataclass(frozen=True)
class Import:
    """One imported module and the line that imports it."""

    module: str
    line: int
    at_start: bool
    """Whether it happens when the importing module is imported: not in a function, not for type checkers only."""


@dataclass(frozen=True)
class Module:
    """One source file, as far as the rules look at it."""

    path: Path
    has_docstring: bool
    imports: tuple[Import, ...]


def read(package: Path) -> dict[str, Module]:
    """Read all modules of the package in this directory, keyed by dotted name."""
    paths = {_name(package, path): path for path in sorted(package.rglob("*.py"))}
    return {name: _read(name, path, paths.keys()) for name, path in paths.items()}


def _name(package: Path, path: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(name: str, path: Path, known: Iterable[str]) -> Module:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imports = tuple(_imports(tree, package, frozenset(known)))
    return Module(path, bool((ast.get_docstring(tree) or "").strip()), imports)


def _imports(tree: ast.AST, package: str, known: frozenset[str], at_start: bool = True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(alias.name, node.lineno, at_start)
            case ast.ImportFrom():
                source = node.module or ""
                if node.level:  # from . import x
                    above = package.split(".")[: len(package.split(".")) - node.level + 1]
                    source = ".".join([*above, source] if source else above)
                for alias in node.names:
                    # `from package import name` may mean a submodule or something that the package's __init__ holds
                    submodule = f"{source}.{alias.name}"
                    yield Import(submodule if submodule in known else source, node.lineno, at_start)
            case _:
                later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
                    isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                )
                yield from _imports(node, package, known, at_start and not later)


def check(modules: Mapping[str, Module]) -> Iterator[str]:
    """Yield one line for each break of a rule."""
    for name, module in modules.items():
        if not module.has_docstring:
            yield f"{module.path}:1: {name} has no docstring"
        for imported in module.imports:
            for reason in _objections(name, imported.module, modules):
                yield f"{module.path}:{imported.line}: {name} imports {imported.module}: {reason}"
    for module, line, reason in _heavy(modules):
        yield f"{module.path}:{line}: {reason}"
    yield from _cycles(modules)


def room(name: str) -> str:
    """Return the room of a module; the package's own `__init__` is the room ""."""
    return name.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


def _objections(name: str, imported: str, modules: Mapping[str, Module]) -> Iterator[str]:
    if name in PURE and imported.partition(".")[0] in IMPURE:
        yield "this module does no I/O and has no clock"
    if imported.partition(".")[0] != PACKAGE or room(name) in {"", "testing"}:
        return
    if imported not in modules:
        yield "there is no such module"
    user, used = room(name), room(imported)
    if user != used and (reason := _forbidden(user, used)):
        yield reason


def _forbidden(user: str, used: str) -> str | None:
    level = {room: height for height, rooms in enumerate(reversed(LEVELS)) for room in rooms}
    if used == "":
        return "name the module that defines it"
    if used == "testing":
        return "only tests use this room"
    for each in (user, used):
        if each not in level and each not in ASIDE:
            return f"the room {each!r} has no place in tests/imports.py yet"
    if user in ASIDE:
        allowed = used in ASIDE[user]
    elif used in ASIDE:
        allowed = user in USES_ASIDE
    else:
        allowed = level[used] <= level[user]
    return None if allowed else f"{user} must not know {used}"


def _heavy(modules: Mapping[str, Module]) -> Iterator[tuple[Module, int, str]]:
    """Follow what the LIGHT modules import while they start, to everything that is not standard library."""
    waiting = sorted(LIGHT & modules.keys())
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        for imported in modules[name].imports:
            if not imported.at_start or imported.module.partition(".")[0] in sys.stdlib_module_names:
                continue
            if imported.module in modules:
                if imported.module not in seen:
                    seen.add(imported.module)
                    waiting.append(imported.module)
            else:
                reason = "the launcher needs it to start, and starts with the standard library only"
                yield modules[name], imported.line, f"{name} imports {imported.module}: {reason}"


def _cycles(modules: Mapping[str, Module]) -> Iterator[str]:
    # That importing a.b runs a/__init__ first is not an edge: the file need not be read to understand a.b.
    graph = {name: {i.module for i in module.imports} & modules.keys() for name, module in modules.items()}
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle = error.args[1]
            yield "import cycle: " + " <- ".join(cycle)
            graph[cycle[1]] = graph[cycle[1]] - {cycle[0]}  # take it apart, to find the next one
        else:
            return


def main() -> int:
    """Print what breaks the rules; return the exit status."""
    modules = read(TOP / PACKAGE)
    complaints = list(check(modules))
    print(*complaints, sep="\n", end="\n" if complaints else "")
    print(f"import rules: {len(modules)} modules, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
