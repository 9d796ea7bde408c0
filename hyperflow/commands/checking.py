"""Whether all tasks of an array can begin: asked before anything is submitted, for all of them at once.

Guarantees: what is the same for many tasks is looked at once. What is wrong is told together: up to ten things, and how
many more. What a task makes that another one comes after need not be there yet.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping

from hyperflow.commands.reading import LONGEST, MOST_SHOWN
from hyperflow.commands.spec import ArraySpec
from hyperflow.commands.task_spec import TaskSpec
from hyperflow.commands.templates import JSON, meant
from hyperflow.errors import ConfigurationError
from hyperflow.saying import printable
from hyperflow.staging.file import is_url


def check(spec: ArraySpec, *, programs: bool = True) -> None:
    """Refuse an array of which something cannot run.

    Args:
        spec: The array.
        programs: Whether each program has to be here; else it may be on nodes only.

    Raises:
        ConfigurationError: With up to ten of what is wrong.
    """
    if spec.form is not None:
        _ = spec.form.templates
        _check_members(spec)
    wrong: list[str] = []
    count = 0
    for each in _Look(spec, programs).all():
        count += 1
        if len(wrong) < MOST_SHOWN:
            wrong.append(each)
    if wrong:
        more = [f"and {count - MOST_SHOWN:,} more"] if count > MOST_SHOWN else []
        raise ConfigurationError("\n  ".join([f"nothing has run: {wrong[0]}", *wrong[1:], *more]))


def _check_members(spec: ArraySpec) -> None:
    """Refuse a `{json.key}` that not all objects have, or that is no word."""
    assert spec.form is not None
    names = sorted(name.removeprefix(JSON) for name in spec.form.names() if name.startswith(JSON))
    if not names:
        return
    for number, text in enumerate(spec.values, 1):
        members = json.loads(text)
        for name in names:
            if name not in members:
                there = ", ".join(map(printable, members)) or "none"
                hint = meant(name, list(members))
                raise ConfigurationError(
                    f"object {number} has no {printable(name)!r}, as {{json.{printable(name)}}} needs it; "
                    f"it has {there}.{hint}"
                )
            if members[name] is None or isinstance(members[name], (list, dict)):
                kind = {"NoneType": "null", "list": "a list", "dict": "an object"}[type(members[name]).__name__]
                raise ConfigurationError(
                    f"object {number}: {printable(name)!r} is {kind}, which is no word; "
                    "a text, a number, true or false is"
                )


class _Look:
    """Looks at the tasks; what was seen is not looked at again."""

    def __init__(self, spec: ArraySpec, programs: bool) -> None:
        self._spec, self._programs = spec, programs
        self._seen = set[tuple[str, ...]]()
        self._made = set[str]()

    def all(self) -> Iterator[str]:
        form = self._spec.form
        if form is None:
            self._made = {
                os.path.normpath(os.path.join(each.cwd, name)) for each in self._spec.tasks() for name in each.outputs
            }
        alike = form is not None and form.plain("cwd", "stdin", "inputs", "outputs", "on_failure")
        alike = alike and form is not None and "{" not in form.env.get("PATH", "")
        # Lines were looked at when they were read, and what is typed has no NUL.
        if alike and form is not None and form.templates["command"][0].is_plain and self._spec.kind != "objects":
            yield from self._task(self._spec.task(1))
            return
        for task in self._spec.tasks():
            yield from self._task(task)

    def _task(self, task: TaskSpec) -> Iterator[str]:
        yield from _words(task)
        if any("\0" in path for path in (task.cwd, task.stdin, *task.inputs.values())):
            return
        if self._new("cwd", task.cwd) and not os.path.isdir(task.cwd):
            yield f"{task.title}: there is no directory {_path(task.cwd)} to start in"
            return
        path = task.env.get("PATH", os.environ.get("PATH", ""))
        if self._programs and self._new("program", task.command[0], task.cwd, path):
            yield from _program(task, path)
        if task.stdin and self._new("file", task.stdin):
            yield from self._file(task, "the input (stdin)", task.stdin)
        for each in task.inputs.values():
            if not is_url(each) and self._new("file", each):
                yield from self._file(task, "the input", each)
        for name in (*task.outputs, *task.on_failure):
            yield from _output(task, name)

    def _new(self, *what: str) -> bool:
        if what in self._seen:
            return False
        self._seen.add(what)
        return True

    def _file(self, task: TaskSpec, what: str, path: str) -> Iterator[str]:
        if os.path.normpath(path) in self._made:
            return
        if any(letter in path for letter in "*?[") and not os.path.lexists(path):
            hint = "a pattern is no file: name each one, or their directory"
            yield f"{task.title}: {what} {_path(path)} is not there; {hint}"
        elif not os.path.exists(path):
            yield f"{task.title}: {what} {_path(path)} is not there"
        elif os.path.isdir(path) and what != "the input":
            yield f"{task.title}: {what} {_path(path)} is a directory"
        elif not os.access(path, os.R_OK):
            yield f"{task.title}: {what} {_path(path)} may not be read"


def _words(task: TaskSpec) -> Iterator[str]:
    for at, word in enumerate(task.command):
        if "\0" in word:
            yield f"{task.title}: argument {at} has a NUL, which no argument can have"
        elif len(word) > LONGEST // 4 and len(word.encode(errors="surrogateescape")) > LONGEST:
            yield f"{task.title}: argument {at} is longer than {LONGEST:,} bytes, which no argument can be"
    if any("\0" in value for value in task.env.values()):
        yield f"{task.title}: a variable has a NUL, which none can have"
    if not task.command[0]:
        yield f"{task.title}: the name of the program is empty"
    named = {
        "directory": [task.cwd],
        "stdin": [task.stdin],
        "inputs": task.inputs.values(),
        "outputs": [*task.outputs, *task.on_failure],
    }
    yield from _paths(task, named)


def _paths(task: TaskSpec, named: Mapping[str, Iterable[str]]) -> Iterator[str]:
    for what, paths in named.items():
        for path in paths:
            found = [told for letter, told in (("\0", "NUL"), ("\n", "line break")) if letter in path]
            if found:
                yield f"{task.title}: {what}: {_path(path)} has a {found[0]}, which no name here may have"


def _program(task: TaskSpec, path: str) -> Iterator[str]:
    name = task.command[0]
    if not name or "\0" in name:
        return
    if "/" in name:
        if os.path.normpath(name) in task.inputs:
            return
        file = os.path.join(task.cwd, name)
        if os.path.isfile(file) and os.access(file, os.X_OK):
            return
        if not os.path.exists(file):
            why = "is not there"
        elif os.path.isdir(file):
            why = "is a directory"
        else:
            why = f"may not be executed; type: chmod +x {_path(file)}"
        yield f"{task.title}: the program {_path(file)} {why}{_ELSEWHERE}"
        return
    for directory in path.split(":"):
        file = os.path.join(task.cwd, directory, name)
        if os.path.isfile(file) and os.access(file, os.X_OK):
            return
    here = (
        f"; there is one in {_path(task.cwd)}: write ./{_path(name)}"
        if os.path.exists(os.path.join(task.cwd, name))
        else ""
    )
    yield f"{task.title}: there is no program {_path(name)} in PATH{here}{_ELSEWHERE if not here else ''}"


_ELSEWHERE = " (where it is on nodes only: --no-check)"


def _output(task: TaskSpec, name: str) -> Iterator[str]:
    plain = os.path.normpath(name)
    if not name or os.path.isabs(plain) or plain == ".." or plain.startswith("../") or plain == ".":
        yield f"{task.title}: the output {_path(name)} has to be below the task's directory; write a relative name"


def _path(path: str) -> str:
    return printable(path) if " " not in path and path else repr(path)
