"""Files of tasks, in TOML: a `[[task]]` for each, which may come after others.

    [[task]]
    name = "align"
    command = ["./align", "genome.fa", "--out", "a.bam"]
    after = ["fetch"]                      # names, or numbers of tasks
    cpus = 4

Guarantees: a key that there is not, a value of the wrong kind and a circle are refused, with the task's name and what
was meant. Braces mean nothing here: everything is filled in already.
"""

from __future__ import annotations

import os.path
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import attrs

from hyperflow.commands import graph
from hyperflow.commands.reading import read_bytes, shown
from hyperflow.commands.task_spec import TaskSpec, absolute, inputs_of
from hyperflow.commands.templates import meant
from hyperflow.environment import changed
from hyperflow.errors import ConfigurationError
from hyperflow.options import JobOptions, OptionChanges, Options
from hyperflow.saying import printable, short_repr, unfit_name
from hyperflow.staging.file import is_url

OPTIONS = (
    "cpus",
    "gpus",
    "memory",
    "time_limit",
    "retries",
    "priority",
    "resources",
    "min_time",
    "crash_limit",
    "exclusive",
)
"""What `hf.using` takes, and a task may say for itself."""

KEYS = ("name", "command", "after", "env", "cwd", "stdin", "inputs", "outputs", "on_failure", *OPTIONS)

Table: TypeAlias = Mapping[str, Any]


def read_tasks(file: str, directory: str) -> list[TaskSpec]:
    """Return the tasks of a file; relative paths start in `directory`.

    Raises:
        ConfigurationError: It cannot be read, or not all of it can be run.
    """
    where = shown(file)
    try:
        said = tomllib.loads(read_bytes(file).decode())
    except UnicodeDecodeError:
        raise ConfigurationError(f"{where} is not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{where} is no TOML: {error}") from None
    if unknown := sorted(said.keys() - {"task"}):
        raise ConfigurationError(
            f"{where} has the key {printable(unknown[0])!r}; there are tables [[task]] only."
            f"{meant(unknown[0], ['task'])}"
        )
    tables: list[Any] | Any = said.get("task", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in _any(tables)):
        raise ConfigurationError(f"{where}: write [[task]], with two brackets, before each task")
    if not tables:
        raise ConfigurationError(f"{where} has no [[task]]: there is nothing to run")
    return _Reader(where, directory, _any(tables)).tasks()


def _any(value: list[Any]) -> list[Any]:
    """Return a list of which nothing is known; both type checkers take that."""
    return value


class _Reader:
    """Makes tasks of tables."""

    def __init__(self, where: str, directory: str, tables: Sequence[Table]) -> None:
        self._where, self._directory, self._tables = where, directory, tables
        self._numbers: dict[str, int] = {}

    def tasks(self) -> list[TaskSpec]:
        for number, table in enumerate(self._tables, 1):
            self._known(number, table)
        tasks = [self._task(number, table) for number, table in enumerate(self._tables, 1)]
        after = {each.number: each.after for each in tasks if each.after}
        if found := graph.circle(after):
            raise ConfigurationError(self._circle([tasks[number - 1] for number in found]))
        return tasks

    def _known(self, number: int, table: Table) -> None:
        """Check the keys and the name."""
        for key in table:
            if key not in KEYS:
                raise self._wrong(
                    number, f"the key {printable(key)!r} means nothing.{meant(key, KEYS)} There are {', '.join(KEYS)}"
                )
        if (name := table.get("name")) is None:
            return
        if not isinstance(name, str) or not name or unfit_name(name):
            raise self._wrong(
                number, f"name = {short_repr(name, 60)}: a text is needed, without line breaks and backslashes"
            )
        if name in self._numbers:
            raise self._wrong(number, f"task {self._numbers[name]} has the name {name!r}, too")
        self._numbers[name] = number

    def _task(self, number: int, table: Table) -> TaskSpec:
        if "command" not in table:
            raise self._wrong(number, 'there is no command; write command = ["./program", "argument"]')
        cwd = absolute(self._text(number, table, "cwd"), self._directory) or self._directory
        task = TaskSpec(
            number,
            self._command(number, table["command"]),
            table.get("name", ""),
            self._after(number, table.get("after", [])),
            cwd,
            self._env(number, table.get("env", {})),
            absolute(self._text(number, table, "stdin"), cwd),
            self._inputs(number, table.get("inputs", []), cwd),
            tuple(self._list(number, table, "outputs")),
            tuple(self._list(number, table, "on_failure")),
            {key: table[key] for key in OPTIONS if key in table},
        )
        try:
            changed(Options(), JobOptions(), cast("OptionChanges", task.options))
        except ConfigurationError as error:
            raise self._wrong(number, str(error)) from None
        return _with_program(task) if task.is_staged else task

    def _command(self, number: int, said: Any) -> tuple[str, ...]:
        if isinstance(said, str):
            words = shlex.split(said) if said.count('"') % 2 == 0 == said.count("'") % 2 else said.split()
            raise self._wrong(number, f"the command is a list of words, no shell: command = {_toml(words)}")
        words = self._list(number, {"command": said}, "command")
        if not words:
            raise self._wrong(number, "the command is empty")
        return tuple(words)

    def _after(self, number: int, said: Any) -> tuple[int, ...]:
        if not isinstance(said, list):
            raise self._wrong(
                number, f"after = {short_repr(said, 60)}: a list is needed, such as after = [{_toml_word(said)}]"
            )
        return tuple(self._one_before(number, each) for each in _any(said))

    def _one_before(self, number: int, each: Any) -> int:
        if isinstance(each, str) and each in self._numbers:
            return self._numbers[each]
        if type(each) is int and 1 <= each <= len(self._tables):
            return each
        there = (
            f"a task {each}; they are numbered from 1 to {len(self._tables)}"
            if type(each) is int
            else f"a task {short_repr(each, 60)}."
        )
        raise self._wrong(number, f"it comes after what is not there: {there}{meant(str(each), list(self._numbers))}")

    def _env(self, number: int, said: Any) -> dict[str, str]:
        if not isinstance(said, dict):
            raise self._wrong(
                number, f'env = {short_repr(said, 60)}: a table is needed, such as env = {{ OMP_NUM_THREADS = "4" }}'
            )
        table = cast("dict[str, Any]", said)
        for name, value in table.items():
            if not isinstance(value, str):
                raise self._wrong(
                    number, f"env: {name} = {short_repr(value, 60)}: a text is needed; write {_toml_word(value)}"
                )
            if not name or "=" in name or "\0" in name:
                raise self._wrong(number, f"env: {name!r} cannot be the name of a variable")
        return table

    def _inputs(self, number: int, said: Any, cwd: str) -> dict[str, str]:
        if isinstance(said, dict):
            named = cast("dict[str, Any]", said)
            paths = self._list(number, {"inputs": list(named.values())}, "inputs")
            return {name: absolute(path, cwd) for name, path in zip(named, paths, strict=True)}
        try:
            return inputs_of(self._list(number, {"inputs": said}, "inputs"), cwd)
        except ConfigurationError as error:
            raise self._wrong(number, str(error)) from None

    def _text(self, number: int, table: Table, key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            raise self._wrong(number, f"{key} = {short_repr(value, 60)}: a text is needed")
        return value

    def _list(self, number: int, table: Table, key: str) -> list[str]:
        value: Any = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in _any(value)):
            words = _any(value) if isinstance(value, list) else [value]
            raise self._wrong(number, f"{key} is a list of texts; write {key} = {_toml(words)}")
        return _any(value)

    def _circle(self, tasks: Sequence[TaskSpec]) -> str:
        titles = [each.title for each in tasks]
        if len(titles) == 1:
            return f"{self._where}: {titles[0]} comes after itself"
        round_ = ", which comes after ".join([*titles[:10], *(["..."] if len(titles) > 10 else []), titles[0]])
        return f"{self._where}: a circle, in which no task can begin: {round_}"

    def _wrong(self, number: int, what: str) -> ConfigurationError:
        name = self._tables[number - 1].get("name")
        title = f"task {number} ({printable(name)})" if isinstance(name, str) and name else f"task {number}"
        return ConfigurationError(f"{self._where}: {title}: {what}")


def _with_program(task: TaskSpec) -> TaskSpec:
    """A task in a directory of its own finds its program all the same."""
    program = task.command[0]
    if "/" not in program or os.path.isabs(program) or is_url(program) or os.path.normpath(program) in task.inputs:
        return task
    return attrs.evolve(task, command=(os.path.join(task.cwd, program), *task.command[1:]))


def _toml(words: Sequence[Any]) -> str:
    return f"[{', '.join(map(_toml_word, words))}]"


def _toml_word(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'
