"""The import rules: which module of hyperflow may know which. `python -m tests.imports` checks them.

The rules stand in the table of `docs/design.md`, "The house", and nowhere else: this reads them there. A room is a
module or a package directly inside hyperflow, or a file inside such a package that has a row of its own. It may import
rooms that stand below it in the table, and of these only what the table's last column says. Who may import a package
may import all files in it, and rooms of one row may use each other. So the files can be read from the bottom up. A new
room needs a row.

Every import counts, also those in functions and under TYPE_CHECKING: what a file needs to be understood is what
it imports, whenever it does.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "hyperflow"
TOP = Path(__file__).resolve().parent.parent

# State machines: events in, effects out. The clock and the outside world come to them as arguments.
PURE = {
    "hyperflow.commands.graph",
    "hyperflow.commands.shares",
    "hyperflow.commands.templates",
    "hyperflow.scheduling.ahead",
    "hyperflow.scheduling.choice",
    "hyperflow.scheduling.crew",
    "hyperflow.scheduling.ledger",
    "hyperflow.scheduling.order",
    "hyperflow.scheduling.placement",
    "hyperflow.scheduling.refusals",
    "hyperflow.scheduling.reservations",
    "hyperflow.scheduling.scheduler",
    "hyperflow.scheduling.speculation",
    "hyperflow.scheduling.state",
    "hyperflow.scheduling.stragglers",
    "hyperflow.scheduling.tokens",
    "hyperflow.scheduling.trust",
    "hyperflow.viewing.flows",
    "hyperflow.viewing.replay",
    "hyperflow.locking.rules",
}
IMPURE = {"asyncio", "datetime", "os", "select", "selectors", "signal", "socket", "subprocess", "threading", "time"}

# What starts on every node before anything else. All that it imports while it starts, directly or not, is standard
# library: it starts fast, and works wherever Python does. (A forked child imports more later, inside a function.)
LIGHT = {"hyperflow", "hyperflow.launcher.launcher", "hyperflow.wire.frames"}


def house(text: str) -> dict[str, set[str]]:
    """Read the table of rooms in docs/design.md; return what each room may import."""
    table = text.partition("\n## The house\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| `")
    ]
    rooms = [set(_names(row[0])) for row in rows]
    allowed: dict[str, set[str]] = {}
    for height, row in enumerate(rows):
        below = set[str]().union(*rooms[height + 1 :])
        named = set(_names(row[2]))
        if row[2].startswith("all below"):
            may = below - named
        elif named <= below:
            may = named
        else:
            raise ValueError(f"docs/design.md: {row[0]} may import {named - below}, which is not below it")
        allowed |= dict.fromkeys(rooms[height], may | rooms[height])
    return allowed


def _names(cell: str) -> list[str]:
    return [name.removesuffix("/").removesuffix(".py") for name in re.findall("`([^`]+)`", cell)]


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


def check(modules: Mapping[str, Module], allowed: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield one line for each break of a rule."""
    missing = {room(name, allowed) for name in modules} - allowed.keys() - {"", "testing"}
    yield from (f'the room {one!r} has no row in the table of docs/design.md, "The house"' for one in sorted(missing))
    for name, module in modules.items():
        if not module.has_docstring:
            yield f"{module.path}:1: {name} has no docstring"
        for imported in module.imports:
            for reason in _objections(name, imported.module, modules, allowed):
                yield f"{module.path}:{imported.line}: {name} imports {imported.module}: {reason}"
    for module, line, reason in _heavy(modules):
        yield f"{module.path}:{line}: {reason}"
    yield from _cycles(modules)


def room(name: str, allowed: Iterable[str] = ()) -> str:
    """Return the room of a module; the package's own `__init__` is the room ""."""
    path = name.removeprefix(PACKAGE).removeprefix(".").replace(".", "/")
    return path if path in allowed else path.partition("/")[0]


def _objections(
    name: str, imported: str, modules: Mapping[str, Module], allowed: Mapping[str, set[str]]
) -> Iterator[str]:
    if name in PURE and imported.partition(".")[0] in IMPURE:
        yield "this module does no I/O and has no clock"
    if imported.partition(".")[0] != PACKAGE or room(name) in {"", "testing"}:
        return
    if imported not in modules:
        yield "there is no such module"
    user, used = room(name, allowed), room(imported, allowed)
    if user != used and (reason := _forbidden(user, used, allowed)):
        yield reason


def _forbidden(user: str, used: str, allowed: Mapping[str, set[str]]) -> str | None:
    if used == "":
        return "name the module that defines it"
    if used == "testing":
        return "only tests use this room"
    may = allowed.get(user, {used})
    return f"{user} must not know {used}" if used not in may and used.partition("/")[0] not in may else None


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
    complaints = list(check(modules, house((TOP / "docs" / "design.md").read_text(encoding="utf-8"))))
    print(*complaints, sep="\n", end="\n" if complaints else "")
    print(f"import rules: {len(modules)} modules, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
