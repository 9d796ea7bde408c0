"""What the prose says of hyperflow, held against hyperflow: names, arguments, commands, variables, files, links.

`python -m tests.prose` prints what is wrong. Checked are the pages of docs/, README.md, CONTRIBUTING.md, CHANGELOG.md,
and the docstrings of hyperflow. Links from page to page are Sphinx's part (`make docs`), code and output those of
`tests/guides.py`.
"""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache, reduce
from pathlib import Path

import attrs
from cyclopts import App

import hyperflow as hf
from hyperflow.cli.main import command_line
from hyperflow.config import FIELDS, PREFIX
from tests.imports import TOP

_NAME = re.compile(r"(?<![\w./-])(hf|hyperflow)((?:\.[A-Za-z_]\w*)+)(?![\w/-])")
_VARIABLE = re.compile(rf"\b{PREFIX}[A-Z][A-Z_]*[A-Z]\b")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_BLOCK = re.compile(r"^```+\{?([\w-]*)[^\n]*\n(.*?)^```+$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE = re.compile(r"(?:docs|programs|tests|hyperflow|notebooks|benchmarks|scripts)/[\w./*{},-]*")
_COMMAND = re.compile(r"(?:^|[\s(])(?:python -m )?hyperflow ([a-z][a-z-]*)\b(.*)", re.DOTALL)
_MESSAGE = re.compile(r"(?<![\w.])hyperflow [a-z]+(?: [\w/.]+)*(?: --[a-z-]+)+")

FILES = ("html", "log", "md", "sqlite", "toml", "txt", "py", "pyi", "js")
"""What follows a dot in the name of a file."""

MADE = ("docs/_build", "docs/gallery", "docs/reference/")
"""Directories with files that are not in git."""

KEPT = {
    "hyperflow.learned": "a map in the database, which has a dot in its name",
    "hyperflow.database.merge.take_over": "the changelog says what ingest() was called",
}
"""Names that are said although they are not there, each with its reason."""


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """Return the text with spaces in place of what matches, so that all the rest stays where it is."""
    return pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


@attrs.frozen
class Text:
    """A text with the place it stands at."""

    place: str
    text: str
    is_page: bool = True

    def at(self, start: int) -> str:
        """Return the place of this position."""
        return f"{self.place}:{self.text.count(chr(10), 0, start) + 1}" if self.is_page else self.place

    def snippets(self) -> Iterator[tuple[str, str]]:
        """Yield what stands between backticks, with its place; fenced blocks are not it."""
        for found in _CODE.finditer(_blank(_BLOCK, self.text)):
            yield self.at(found.start()), " ".join(found[2].split())

    def blocks(self, *languages: str) -> Iterator[tuple[str, str]]:
        """Yield the fenced blocks in these languages, with their places."""
        for found in _BLOCK.finditer(self.text):
            if found[1] in languages:
                yield self.at(found.start()), found[2]


def pages(top: Path = TOP) -> Iterator[Text]:
    """Yield all pages."""
    files = [top / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    files += [path for path in sorted((top / "docs").rglob("*.md")) if not str(path.relative_to(top)).startswith(MADE)]
    for path in files:
        yield Text(str(path.relative_to(top)), path.read_text(encoding="utf-8"))


def docstrings(top: Path = TOP) -> Iterator[Text]:
    """Yield all docstrings of hyperflow, those of attributes too, and the texts of its messages that name an option."""
    for path in sorted((top / "hyperflow").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            place = f"{path.relative_to(top)}:{node.lineno}"
            if node in said:
                yield Text(place, inspect.cleandoc(node.value), is_page=False)
            else:
                yield from (Text(place, f"`{one}`", is_page=False) for one in _MESSAGE.findall(node.value))


# --------------------------------------------------------------------------------------------------- names


def _member(owner: object, name: str) -> object:
    """Return an attribute; what only instances have counts as well."""
    if hasattr(owner, name):
        return getattr(owner, name)
    if isinstance(owner, type):
        for one in owner.__mro__:
            if name in getattr(one, "__annotations__", {}):
                return None
            if one.__module__.startswith("hyperflow") and f"self.{name}" in inspect.getsource(one):
                return None
    raise AttributeError(name)


@cache
def exists(name: str) -> bool:
    """Tell whether `hf.a.b`, `hyperflow.a.b` is there: a public name, or a module with what is in it."""
    parts = name.split(".")[1:]
    try:
        reduce(_member, parts, hf)
    except AttributeError:
        pass
    else:
        return True
    if name.startswith("hf."):
        return False
    for count in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(["hyperflow", *parts[:count]]))
            reduce(_member, parts[count:], module)
        except (ImportError, AttributeError):
            continue
        return True
    return False


def wrong_names(text: Text) -> Iterator[str]:
    """Yield the names that are not there."""
    for found in _NAME.finditer(text.text):
        name = found[1] + found[2]
        if found[1] == "hyperflow" and name.rpartition(".")[2] in FILES:
            continue
        if name not in KEPT and not exists(name):
            yield f"{text.at(found.start())}: there is no {name}"


# ----------------------------------------------------------------------------------------------- arguments


def _accepted(function: object) -> set[str] | None:
    """Return the keyword arguments that a function takes; None if it takes any."""
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        annotated = getattr(hf.OptionChanges, "__annotations__", {})
        return set(annotated) if function is hf.using else None
    return {one.name for one in parameters if one.kind is not one.POSITIONAL_ONLY}


def _calls(code: str) -> Iterator[tuple[str, ast.Call]]:
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def wrong_arguments(text: Text) -> Iterator[str]:
    """Yield the keyword arguments that a public function does not take."""
    for place, code in (*text.snippets(), *text.blocks("python")):
        for name, call in _calls(inspect.cleandoc(code)):
            bare = name.removeprefix("hf.").removeprefix("hyperflow.")
            known = getattr(hf, bare, None) if bare in hf.__all__ else None
            if name.endswith(".using"):
                bare, known = "using", hf.using
            accepted = None if known is None else _accepted(known)
            given = {keyword.arg for keyword in call.keywords if keyword.arg}
            if accepted is not None and given - accepted:
                yield f"{place}: {bare}() has no argument {', '.join(sorted(given - accepted))}"


# ------------------------------------------------------------------------------------------------ commands


@cache
def _app() -> App:
    return command_line()


@cache
def _options(path: tuple[str, ...]) -> frozenset[str]:
    app = reduce(lambda app, name: app[name], path, _app())
    found = {"--help", "-h", "--version"}
    if app.default_command is not None:
        for argument in app.assemble_argument_collection(parse_docstring=False):
            found |= {*argument.names, *argument.negatives}
    return frozenset(found)


def _commands(app: App) -> set[str]:
    return {name for name in app if not name.startswith("-")}


def _objections(name: str, rest: str) -> Iterator[str]:
    """Say what is wrong with `hyperflow NAME REST`."""
    if name not in _commands(_app()):
        yield f"there is no command hyperflow {name}"
        return
    path = (name,)
    rest = re.split(r" -- | #|&&|;|`|\s\|\s(?![^\[]*\])|[<>]", rest)[0]
    words = [word for word in re.split(r"[\s\[\]|,()]+", rest) if word]
    app = _app()[name]
    while words and (below := _commands(app)):
        if words[0] in below:
            path, app = (*path, words[0]), app[words.pop(0)]
        elif re.fullmatch(r"[a-z][a-z-]+", words[0]) and app.default_command is None:
            yield f"there is no command hyperflow {' '.join(path)} {words[0]}"
            return
        else:
            break
    for word in words:
        option = re.match(r"--[a-z][a-z-]*", word)
        if option and option[0] not in _options(path):
            yield f"hyperflow {' '.join(path)} has no option {option[0]}"


def _lines(text: Text) -> Iterator[tuple[str, str]]:
    """Yield what is typed: lines of the console, of scripts, and what stands between backticks."""
    for place, block in text.blocks("console", "sh", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            yield place, line.removeprefix("$ ") if line.startswith("$ ") else line if "$ " not in block else ""
    yield from text.snippets()


def wrong_commands(text: Text) -> Iterator[str]:
    """Yield the commands and options that are not there."""
    for place, line in _lines(text):
        if (found := _COMMAND.match(line)) is not None:
            yield from (f"{place}: {one}" for one in _objections(found[1], found[2]))


# ----------------------------------------------------------------------------------------- configuration


@cache
def variables() -> frozenset[str]:
    """Return the variables that are settings, or that the code names."""
    named = {name for path in (TOP / "hyperflow").rglob("*.py") for name in _VARIABLE.findall(path.read_text())}
    return frozenset(named | {PREFIX + name.upper() for name in FIELDS})


def wrong_variables(text: Text) -> Iterator[str]:
    """Yield the variables that nothing reads."""
    for found in _VARIABLE.finditer(text.text):
        if found[0] not in variables():
            yield f"{text.at(found.start())}: nothing reads the variable {found[0]}"


def wrong_keys(text: Text) -> Iterator[str]:
    """Yield the keys of a block with the configuration, which says so in its first line, that are no settings."""
    for place, block in text.blocks("toml"):
        if re.match(r"#.*\bconfig\.toml", block):
            for key in re.findall(r"^#? ?(\w+) = ", block, re.MULTILINE):
                if key not in FIELDS:
                    yield f"{place}: there is no setting {key}"


# -------------------------------------------------------------------------------------------------- files


def _exists(name: str) -> bool:
    names = [name]
    if found := re.search(r"\{([\w.,]+)\}", name):
        names = [name.replace(found[0], one) for one in found[1].split(",")]
    return all(any(TOP.glob(one.rstrip("/"))) for one in names)


def wrong_files(text: Text) -> Iterator[str]:
    """Yield the files of the checkout that are not there; the changelog may tell of those that have gone."""
    if text.place == "CHANGELOG.md":
        return
    for place, code in text.snippets():
        if _FILE.fullmatch(code) and not code.startswith(MADE) and not _exists(code):
            yield f"{place}: there is no file {code}"


def anchors(markdown: str) -> set[str]:
    """Return the anchors of the headings of a page, as code hosts make them."""
    bare = _BLOCK.sub("", markdown)
    found = set[str](re.findall(r'<a id="([\w-]+)">', bare))
    for heading in re.findall(r"^#+ +(.+?)\s*$", bare, re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


def wrong_links(text: Text) -> Iterator[str]:
    """Yield the links, from a page that is no part of the site, to files and headings that are not there."""
    for found in _LINK.finditer(_blank(_CODE, _blank(_BLOCK, text.text))):
        path, _, anchor = found[1].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (TOP / text.place).parent / path if path else TOP / text.place
        if path.startswith(MADE):
            continue
        if not target.exists():
            yield f"{text.at(found.start())}: the link {found[1]} leads nowhere"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield f"{text.at(found.start())}: {path or text.place} has no heading {anchor}"


# ---------------------------------------------------------------------------------------------------- all

OF_ALL = (wrong_names, wrong_arguments, wrong_commands, wrong_variables)
OF_PAGES = (*OF_ALL, wrong_keys, wrong_files)


def complaints(texts: Iterable[Text]) -> Iterator[str]:
    """Yield all that is wrong in these texts."""
    for text in texts:
        for check in OF_PAGES if text.is_page else OF_ALL:
            yield from check(text)
        if text.is_page and not text.place.startswith("docs/"):
            yield from wrong_links(text)


def main() -> int:
    """Print what is wrong; return the exit status."""
    found = list(complaints([*pages(), *docstrings()]))
    print(*found, sep="\n", end="\n" if found else "")
    print(f"prose: {len(found)} complaints")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
