"""The run of an array, as commands look at it: which one is meant, which tasks, and whether it goes on."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import attrs

from hyperflow.cli import fate, records
from hyperflow.cli.records import Run
from hyperflow.commands import history
from hyperflow.commands.history import History
from hyperflow.commands.sources import Source
from hyperflow.commands.spec import ArraySpec
from hyperflow.errors import ConfigurationError
from hyperflow.records.record import State

_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_RUN = re.compile(r"\d{8}-\d{0,6}")
"""What may be ranges of numbers, and is the beginning of a run's id."""

FAILED = "failed"


@attrs.define(eq=False)
class ArrayRun:
    """The run of an array. `run` is looked at again by `goes_on`."""

    run: Run
    spec: ArraySpec
    _asked: float = attrs.field(factory=time.monotonic)

    @classmethod
    def find(cls, which: str | None, base_dir: Path) -> ArrayRun:
        """Return the run that is meant; raises ConfigurationError if there is none, or it is no array."""
        run = records.find(which, base_dir)
        spec = history.spec_of(run.home)
        if spec is None:
            raise ConfigurationError(
                f"{run.name} has no tasks: it is no run of `hyperflow array`; "
                f"`hyperflow show {run.name}` tells what it did"
            )
        return cls(run, spec)

    def goes_on(self) -> bool:
        """Whether it runs, as far as is known here; others are asked now and then, if nothing is heard of it."""
        ask = time.monotonic() - self._asked > fate.ASKING_OTHERS
        self.run = again(self.run, ask=ask)
        if ask:
            self._asked = time.monotonic()
        return self.run.state(time.time()) in (State.RUNNING, State.SILENT)

    @property
    def shares_database(self) -> bool:
        """Whether its database has what other arrays have recorded, too."""
        return history.own_records(self.run.home, self.spec) is not None

    def history(self, sources: Sequence[Source], *, goes_on: bool, only: Collection[int] | None = None) -> History:
        """Return how its tasks stand, or these of them."""
        running = history.running_in(self.run.home) if goes_on else {}
        return History(sources, self.spec.count, running, history.own_records(self.run.home, self.spec), only)

    def chosen(self, words: str) -> list[int]:
        """Return the numbers that `3,17-20` means; raises ConfigurationError for one that there is not."""
        found: dict[int, None] = {}
        for part in words.split(","):
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            if not numbers or numbers[0] < 1 or numbers[-1] > self.spec.count:
                raise ConfigurationError(f"{part}: tasks of {self.run.name} have the numbers 1 to {self.spec.count}")
            found |= dict.fromkeys(numbers)
        return sorted(found)


def again(run: Run, *, ask: bool = False) -> Run:
    """Return a run as it stands now; raises ConfigurationError if it was removed."""
    found = records.find(str(run.home) if run.home.is_dir() else run.name, run.home.parent)
    return fate.asked_for(found, time.time()) if ask else found


def split(command: str, words: tuple[str, ...]) -> tuple[str | None, str]:
    """Return the run and the tasks that are named, "" for none: numbers are tasks, anything else is a run.

    Raises:
        ConfigurationError: They are more, or neither.
    """
    rest = list(words)
    which = rest.pop(0) if rest and (len(rest) > 1 or not is_tasks(rest[0])) else None
    tasks = rest.pop(0) if rest else ""
    if rest or (tasks and tasks != FAILED and not _RANGES.fullmatch(tasks)):
        raise ConfigurationError(
            f"{command} {' '.join(words)}: type hyperflow {command} [RUN] [TASKS], where TASKS are numbers "
            "(17, or 3,17-20) or failed"
        )
    return which, tasks


def is_tasks(word: str) -> bool:
    """Whether a word names tasks; what a run's id may begin with does not."""
    return word == FAILED or (_RANGES.fullmatch(word) is not None and not _RUN.fullmatch(word))
