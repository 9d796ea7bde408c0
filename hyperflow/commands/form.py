"""How the tasks of a template are made: one text with placeholders for each thing that can differ."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

import attrs

from hyperflow.commands import task_spec
from hyperflow.commands.task_spec import TaskSpec
from hyperflow.commands.templates import Template


def _texts(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


@attrs.frozen(slots=False)
class Form:
    """The texts; `known` are the placeholders that there are. Paths are relative to `cwd`, and that is absolute."""

    command: tuple[str, ...] = attrs.field(converter=_texts)
    cwd: str
    known: tuple[str, ...] = attrs.field(converter=_texts)
    env: Mapping[str, str] = attrs.field(factory=dict)
    stdin: str = ""
    inputs: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    outputs: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    on_failure: tuple[str, ...] = attrs.field(default=(), converter=_texts)

    @cached_property
    def templates(self) -> dict[str, Any]:
        """All texts as templates, by field; raises ConfigurationError for a placeholder that there is not."""
        made: dict[str, Any] = {name: self._read(getattr(self, name)) for name in ("cwd", "stdin")}
        for name in ("command", "inputs", "outputs", "on_failure"):
            made[name] = tuple(map(self._read, getattr(self, name)))
        made["env"] = {name: self._read(value) for name, value in self.env.items()}
        return made

    def plain(self, *fields: str) -> bool:
        """Whether these fields are the same for all tasks."""
        return all(each.is_plain for field in fields for each in _each(self.templates[field]))

    def names(self) -> set[str]:
        """Return the placeholders that are used."""
        return {name for field in self.templates.values() for each in _each(field) for name in each.names}

    def task(self, number: int, words: Mapping[str, str]) -> TaskSpec:
        """Return the task of these words."""
        of = self.templates
        command = tuple([each.fill(words) for each in of["command"]])
        cwd = of["cwd"].fill(words)
        if not (of["env"] or self.stdin or self.inputs or self.outputs or self.on_failure):
            return TaskSpec(number, command, cwd=cwd)
        return TaskSpec(
            number,
            command,
            cwd=cwd,
            env={name: each.fill(words) for name, each in of["env"].items()},
            stdin=task_spec.absolute(of["stdin"].fill(words), cwd),
            inputs=task_spec.inputs_of([each.fill(words) for each in of["inputs"]], cwd),
            outputs=tuple([each.fill(words) for each in of["outputs"]]),
            on_failure=tuple([each.fill(words) for each in of["on_failure"]]),
        )

    def _read(self, text: str) -> Template:
        return Template.read(text, self.known)


def _each(field: Any) -> Collection[Template]:
    return (field,) if isinstance(field, Template) else field.values() if isinstance(field, dict) else field
