"""What an array consists of: its tasks, and how they are run. Plain data, which the run's directory keeps.

    RUN/array/spec.json      all but the values
    RUN/array/values         the lines, or the objects, one in each line; the numbers as they were typed; the tasks

Guarantees: what is read back makes the same tasks, by their numbers, however often the array goes on and whatever
became of the files that it was made of. A million tasks of a template are a million lines, and no objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs

from hyperflow import files
from hyperflow.commands.form import Form
from hyperflow.commands.reading import Numbers, words_of
from hyperflow.commands.task_spec import TaskSpec
from hyperflow.errors import ConfigurationError

FORMAT = 1

PLACE = "array"
"""The directory of an array in that of its run."""

Kind: TypeAlias = Literal["lines", "numbers", "objects", "tasks"]
Place: TypeAlias = Literal["local", "allocation", "slurm", "pool", "elastic"]


@attrs.frozen
class Way:
    """Where it runs, and what is asked of Slurm there.

    Args:
        place: "allocation": all of the one that the command is typed in; "slurm": jobs of its own.
        jobs: How many Slurm jobs share the tasks.
        pool: The name of a pool that runs.
        allocations: How many an elastic pool may have.
        sbatch: What to ask of Slurm for each job or allocation, as fields of SbatchOptions.
        on_error: What to do about a Slurm job that fails, as `--on-error` has it.
        progress: Whether to show how it goes.
    """

    place: Place = "local"
    jobs: int = 1
    pool: str = ""
    allocations: int = 0
    sbatch: Mapping[str, Any] = attrs.field(factory=dict)
    on_error: str = "retry:3"
    progress: bool = True


@attrs.frozen(slots=False)
class ArraySpec:
    """All tasks of an array, and how they are run.

    Args:
        kind: What the values are.
        values: What each task is made of: a line, a number, an object as JSON; or the tasks.
        form: How a task is made of its value; None where the values are tasks.
        options: Fields of `hf.using` for all tasks; those of a task come first.
        max_failed: After so many failures the rest is cancelled; None for no limit.
        way: Where it runs.
        directory: Where it was typed.
        words: What was typed there.
    """

    kind: Kind
    values: Sequence[Any]
    form: Form | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)
    max_failed: int | None = None
    way: Way = attrs.field(factory=Way)
    directory: str = ""
    words: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many tasks there are."""
        return len(self.values)

    def task(self, number: int) -> TaskSpec:
        """Return a task; raises IndexError if there is none of this number."""
        if not 1 <= number <= len(self.values):
            raise IndexError(f"there is no task {number}: they are numbered from 1 to {len(self.values)}")
        value = self.values[number - 1]
        return value if self.form is None else self.form.task(number, self._words(number, value))

    def tasks(self, numbers: Sequence[int] | None = None) -> Iterator[TaskSpec]:
        """Give these tasks, or all, one after the other; 4 µs each."""
        for number in range(1, self.count + 1) if numbers is None else numbers:
            yield self.task(number)

    @cached_property
    def after(self) -> dict[int, tuple[int, ...]]:
        """What comes after what; nothing of a template does."""
        return {} if self.form is not None else {each.number: each.after for each in self.values if each.after}

    def _words(self, number: int, value: str) -> Mapping[str, str]:
        if self.kind == "lines":
            return {"line": value, "n": str(number)}
        if self.kind == "numbers":
            return {"n": value}
        return {"n": str(number), **{f"json.{name}": word for name, word in words_of(value).items()}}

    # ---- on the disk --------------------------------------------------------------------------------------------

    def write(self, directory: Path) -> None:
        """Write it into a directory, which is made, or nothing of it; raises OSError."""
        directory.mkdir(mode=0o700, exist_ok=True)
        files.write_whole(directory / "values", self._values_as_text().encode())
        said = {
            "format": FORMAT,
            "kind": self.kind,
            "count": self.count,
            "form": None if self.form is None else attrs.asdict(self.form),
            "options": dict(self.options),
            "max_failed": self.max_failed,
            "way": attrs.asdict(self.way),
            "directory": self.directory,
            "words": self.words,
        }
        files.write_whole(directory / "spec.json", json.dumps(said, indent=1).encode() + b"\n")

    @classmethod
    def read(cls, directory: Path) -> ArraySpec:
        """Read what `write` has written; raises ConfigurationError."""
        try:
            said = json.loads((directory / "spec.json").read_bytes())
            text = (directory / "values").read_bytes().decode()
            if said["format"] != FORMAT:
                raise ConfigurationError(f"{directory}: this array is of a newer version of hyperflow")
            spec = cls(
                said["kind"],
                _values(said["kind"], text),
                None if said["form"] is None else Form(**said["form"]),
                said["options"],
                said["max_failed"],
                Way(**said["way"]),
                said["directory"],
                tuple(said["words"]),
            )
            if spec.count != said["count"]:
                raise ValueError(f"{spec.count} values in place of {said['count']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{directory} cannot be read: {error}") from None
        return spec

    def _values_as_text(self) -> str:
        if self.kind == "numbers":
            assert isinstance(self.values, Numbers)
            return self.values.text
        if self.kind == "tasks":
            return "\n".join(json.dumps(attrs.asdict(each)) for each in self.values)
        return "\n".join(self.values)


def _values(kind: Kind, text: str) -> Sequence[Any]:
    if kind == "numbers":
        return Numbers(text)
    lines = text.split("\n")
    return [_task(json.loads(line)) for line in lines] if kind == "tasks" else lines


def _task(said: dict[str, Any]) -> TaskSpec:
    said |= {name: tuple(said[name]) for name in ("command", "after", "outputs", "on_failure")}
    return TaskSpec(**said)
