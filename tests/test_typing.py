"""
Users' type checkers see what we mean: mypy and pyright over `tests/typing/api.py`, which is never run.

Each line of that file with a `reveal_type()` or a mistake says in a comment what a checker has to answer:

    reveal_type(x)  # revealed: list[int]
    reveal_type(y)  # revealed by mypy: Any; by pyright: Unknown
    f("one")  # error: "int"

Types are compared without the modules they come from. An error's text must contain what the comment says, in both
checkers (nothing after the colon: any error will do). Every other error is a failure.
"""

import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.imports import TOP

API = Path(__file__).parent / "typing" / "api.py"


@dataclass
class Answers:
    """What is said about each line, by the comments or by a checker."""

    revealed: dict[int, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


def expected(path: Path, checker: str) -> Answers:
    """Read the comments, for one of the checkers."""
    answers = Answers()
    with tokenize.open(path) as file:
        comments = [t for t in tokenize.generate_tokens(file.readline) if t.type == tokenize.COMMENT]
    for token in comments:
        line = token.start[0]
        if match := re.match(r"# revealed: (.+)", token.string):
            answers.revealed[line] = match[1]
        elif match := re.match(r"# revealed by mypy: (?P<mypy>.+); by pyright: (?P<pyright>.+)", token.string):
            answers.revealed[line] = match[checker]
        elif match := re.match(r"# error:(.*)", token.string):
            answers.errors[line] = match[1].strip()
        elif re.match(r"# *(revealed|error)\b", token.string):
            raise ValueError(f"{path}:{line}: not understood: {token.string}")
    return answers


def mypy(path: Path) -> Answers:
    """Ask mypy."""
    answers = Answers()
    output = _run("mypy", "--no-pretty", "--hide-error-context", "--no-error-summary", str(path))
    for line in output.splitlines():
        match = re.match(r"(?P<file>.+?):(?P<line>\d+): (?P<kind>\w+): (?P<text>.*)", line)
        if match is None:
            raise AssertionError(f"mypy says: {output}")
        if (TOP / match["file"]).samefile(path):
            if type_ := re.match(r'Revealed type is "(.+)"$', match["text"]):
                answers.revealed[int(match["line"])] = type_[1]
            elif match["kind"] == "error":
                _add(answers.errors, int(match["line"]), match["text"])
    return answers


def pyright(path: Path) -> Answers:
    """Ask pyright (basedpyright, which does the same in the mode that pyproject.toml sets)."""
    answers = Answers()
    output = _run("basedpyright", "--outputjson", "--pythonpath", sys.executable, str(path))
    for entry in json.loads(output)["generalDiagnostics"]:
        line = entry["range"]["start"]["line"] + 1
        if type_ := re.match(r'Type of ".*" is "(.+)"$', entry["message"], re.DOTALL):
            answers.revealed[line] = type_[1]
        elif entry["severity"] == "error":
            _add(answers.errors, line, entry["message"])
    return answers


def _run(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=TOP, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise AssertionError(f"{module} failed: {done.stdout}{done.stderr}")
    return done.stdout


def _add(errors: dict[int, str], line: int, text: str) -> None:
    errors[line] = f"{errors[line]}\n{text}" if line in errors else text


def normal(type_: str) -> str:
    """Bring the checkers' ways of writing one type together."""
    rules = [
        (r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", ""),  # builtins.int, int
        (r"\bdef (?=\()", ""),  # def (x: int) -> int, (x: int) -> int
        (r"(Literal\[[^]]*\])\?", r"\1"),  # Literal[1]?, Literal[1]
        (r"\b([A-Za-z_]\w*)(?:`-?\d+|@\w+)", r"\1"),  # T`-1, T@function
        (r" =(?: [^,)]+)?(?=[,)])", " = ..."),  # (x: int =), (x: int = 3)
        (r"\s+", " "),
    ]
    for pattern, replacement in rules:
        type_ = re.sub(pattern, replacement, type_.strip())
    return type_


def differences(wanted: Answers, given: Answers) -> Iterable[str]:
    """Yield one line for each answer that is not the one wanted."""
    for line in sorted({*wanted.revealed, *given.revealed, *wanted.errors, *given.errors}):
        want, give = wanted.revealed.get(line, "nothing"), given.revealed.get(line, "nothing")
        if normal(want) != normal(give):
            yield f"line {line}: revealed {normal(give)}, wanted {normal(want)}"
        if line in wanted.errors and line not in given.errors:
            yield f"line {line}: no error, wanted one"
        elif line in given.errors and wanted.errors.get(line, "\0") not in given.errors[line]:
            yield f"line {line}: error {given.errors[line]!r}, wanted {wanted.errors.get(line, 'none')!r}"


@pytest.mark.process
@pytest.mark.timeout(300)  # a checker's first run, with nothing cached, on a slow machine
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_public_types(checker: Callable[[Path], Answers]) -> None:
    """Both checkers reveal the types and report the mistakes that the comments announce, and nothing else."""
    found = list(differences(expected(API, checker.__name__), checker(API)))

    assert not found, "\n".join(found)


def test_differences_are_noticed(tmp_path: Path) -> None:
    """A wrong type, a missing answer, a missing, another and an unexpected error are each one complaint."""
    sample = tmp_path / "sample.py"
    sample.write_text(
        "reveal_type(a)  # revealed: list[int]\n"
        "reveal_type(b)  # revealed by mypy: Any; by pyright: int\n"
        "f('one')  # error: int\n"
        "g('one')  # error:\n"
        "h('one')\n"
    )
    right = Answers({1: "builtins.list[builtins.int]", 2: "Any"}, {3: 'expected "int"', 4: "bad"})
    assert not list(differences(expected(sample, "mypy"), right))

    wrong = Answers({1: "builtins.list[builtins.str]"}, {3: "bad", 5: "bad"})

    assert [text.partition(":")[0] for text in differences(expected(sample, "mypy"), wrong)] == [
        "line 1", "line 2", "line 3", "line 4", "line 5"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mypy_says", "pyright_says"),
    [
        ("builtins.int | None", "int | None"),
        ("def (x: builtins.int, y: builtins.str =) -> a.b.Flow[T`-1]", "(x: int, y: str = 'a') -> Flow[T@f]"),
        ("Literal[1]?", "Literal[1]"),
        ("def () -> typing.Coroutine[Any, Any, builtins.int]", "() -> Coroutine[Any, Any, int]"),
    ],
)
def test_normal_form(mypy_says: str, pyright_says: str) -> None:
    """One type has one form, whoever wrote it."""
    assert normal(mypy_says) == normal(pyright_says)
