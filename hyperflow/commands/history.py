"""How the tasks of an array stand, for who looks from outside: while it runs, and afterwards.

Guarantees: of each task the newest record counts, wherever it is; what runs is believed only while the run does. What
is in memory is some bytes for each task, and one record at a time: a million tasks can be shown as they are read.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, get_args

from hyperflow.commands import under_way
from hyperflow.commands.keys import key_of
from hyperflow.commands.records import TASKS, State, TaskRecord, number_of, state_in, task_key
from hyperflow.commands.sources import Source, scan
from hyperflow.commands.spec import PLACE, ArraySpec
from hyperflow.commands.under_way import Running

STATES: tuple[State, ...] = get_args(State)

_WAITING, _RUNNING = STATES.index("waiting"), STATES.index("running")


class Stands(NamedTuple):
    """How a task stands. Of one that runs again, the record is that of the time before."""

    number: int
    state: State
    record: TaskRecord | None
    running: Running | None


def spec_of(home: Path) -> ArraySpec | None:
    """Return what the array in a run's directory consists of; None if that is no array.

    Raises:
        ConfigurationError: It cannot be read.
    """
    return ArraySpec.read(home / PLACE) if (home / PLACE).is_dir() else None


def running_in(home: Path) -> dict[int, Running]:
    """Return the tasks that run, as their jobs have told last; also those of jobs that were killed."""
    found: dict[int, Running] = {}
    with suppress(OSError):
        for file in (home / "log" / under_way.NAME, *sorted(home.glob(f"jobs/*/log.*/{under_way.NAME}"))):
            found |= under_way.read(file)
    return found


Belongs = Callable[[int, str], bool]
"""Whether a record, by the number in it and its key, is one of this array."""


def own_records(home: Path, spec: ArraySpec) -> Belongs | None:
    """Return what tells the records of an array from those of another one; None where there are no others.

    There are where it began with an earlier database, or shares one. Of a task that reads files, any record of its
    number counts: what they were when it was recorded is not known.
    """
    if not (home / "array" / "database").exists():
        return None

    def belongs(number: int, key: str) -> bool:
        task = spec.task(number)
        return bool(task.stdin or task.inputs) or key == task_key(number, key_of(task.command, task.cwd, task.env))

    return belongs


class History:
    """How each of `count` tasks stands.

    Args:
        sources: What is recorded.
        count: How many there are.
        running: Those that are believed to run.
        belongs: Which records are theirs; None for all.
        only: The numbers of those that are asked for; None for all. The others may stand as if they waited.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        count: int,
        running: Mapping[int, Running],
        belongs: Belongs | None = None,
        only: Collection[int] | None = None,
    ) -> None:
        self._sources, self._belongs, self._only = sources, belongs, only
        self._running = {number: one for number, one in running.items() if 0 < number <= count}
        self._states = bytearray(count + 1)
        self._times = array("d", bytes(8 * (count + 1)))
        self._places = array("q", bytes(8 * (count + 1)))
        """By number, which entry of which source has the newest record."""
        for at, source in enumerate(sources):
            self._look(at, source)
        for number, one in list(self._running.items()):
            if (record := self.record(number)) is not None and record.token == one.token:
                del self._running[number]  # it has ended since
            else:
                self._states[number] = _RUNNING

    def _look(self, at: int, source: Source) -> None:
        for entry in scan(source, TASKS, self._only):
            number = number_of(entry.key)
            if not 0 < number < len(self._states) or entry.time < self._times[number]:
                continue
            if self._belongs is not None and not self._belongs(number, entry.key):
                continue
            text = entry.text if entry.text is not None else source.text(TASKS, entry.number)
            if text is not None:
                self._times[number] = entry.time
                self._places[number] = entry.number * len(self._sources) + at
                self._states[number] = STATES.index(state_in(text))

    def __len__(self) -> int:
        return len(self._states) - 1

    def counts(self) -> dict[State, int]:
        """Return how many tasks there are in each state."""
        counted = Counter(self._states)
        counted[_WAITING] -= 1  # there is no task 0
        return {state: counted[at] for at, state in enumerate(STATES)}

    def numbers(self, state: State | None = None) -> Iterator[int]:
        """Yield the numbers of the tasks in a state, or of all."""
        wanted = None if state is None else STATES.index(state)
        return (each for each in range(1, len(self._states)) if wanted is None or self._states[each] == wanted)

    def state(self, number: int) -> State:
        """Return how a task stands."""
        return STATES[self._states[number]]

    def stands(self, number: int) -> Stands:
        """Return all that is known about a task."""
        return Stands(number, self.state(number), self.record(number), self._running.get(number))

    def record(self, number: int) -> TaskRecord | None:
        """Return the newest record of a task; None if there is none, or it is damaged."""
        if not (place := self._places[number]):
            return None
        entry, at = divmod(place, len(self._sources))
        text = self._sources[at].text(TASKS, entry)
        return None if text is None else TaskRecord.of(text)


class Followed:
    """How one task stands, looked at again and again: each time, only what has come since is read."""

    def __init__(self, number: int, belongs: Belongs | None = None) -> None:
        self.number, self._belongs = number, belongs
        self._seen: dict[str, int] = {}
        self._newest: tuple[float, TaskRecord | None] = (0.0, None)

    def look(self, sources: Sequence[Source], running: Running | None) -> Stands:
        """Return how it stands now; `running` if it is believed to run."""
        for source in sources:
            for entry in source.scan_of(TASKS, self.number, self._seen.get(source.name, 0)):
                self._seen[source.name] = entry.number
                if self._belongs is not None and not self._belongs(self.number, entry.key):
                    continue
                if entry.time >= self._newest[0]:
                    text = entry.text if entry.text is not None else source.text(TASKS, entry.number)
                    if text is not None:
                        self._newest = entry.time, TaskRecord.of(text)
        record = self._newest[1]
        if running is not None:
            return Stands(self.number, "running", record, running)
        return Stands(self.number, "waiting" if record is None else record.state, record, None)
