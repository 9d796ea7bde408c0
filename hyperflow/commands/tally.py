"""How the tasks of an array stand: a byte for each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import attrs

from hyperflow.commands.reading import MOST_SHOWN
from hyperflow.commands.records import State, TaskRecord

_STATES: tuple[State, ...] = ("waiting", "done", "failed", "skipped", "cancelled")
_CODES = {state: code for code, state in enumerate(_STATES)}


@attrs.frozen
class Counts:
    """How many tasks are in which state.

    Args:
        waiting: Neither run nor given up, because only others were asked for.
        known: Of those that are done, how many were so before.
        failures: The numbers of the first ten that have failed.
    """

    done: int = 0
    failed: int = 0
    skipped: int = 0
    cancelled: int = 0
    waiting: int = 0
    known: int = 0
    failures: tuple[int, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        failures = tuple(sorted((*self.failures, *other.failures))[:MOST_SHOWN])
        names = [field.name for field in attrs.fields(Counts) if field.name != "failures"]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names}, failures=failures)

    @property
    def all_done(self) -> bool:
        """Whether nothing that was asked for is left, and nothing has failed."""
        return not (self.failed or self.skipped or self.cancelled)

    def in_words(self) -> str:
        """Return `990 done (12 of them before), 10 failed`."""
        before = f" ({self.known:,} of them before)" if self.known else ""
        words = [f"{self.done:,} done{before}"]
        others = (
            ("failed", self.failed),
            ("skipped", self.skipped),
            ("cancelled", self.cancelled),
            ("left", self.waiting),
        )
        return ", ".join([*words, *(f"{count:,} {word}" for word, count in others if count)])


class Tally:
    """The states of the tasks that one Job is to run.

    Args:
        numbers: These.
        known: What is recorded of them, by number and key.
        chosen: Those that were asked for; "failed" for those that are recorded as failed or skipped; None for all.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        known: Mapping[tuple[int, str], TaskRecord],
        chosen: Collection[int] | str | None = None,
    ) -> None:
        self.numbers = numbers
        self._known, self._chosen = known, chosen
        self._states = bytearray(numbers[-1] + 1 if numbers else 0)
        self._before = 0
        self._failures: list[int] = []

    def is_done(self, number: int, key: str) -> bool:
        """Whether a task is recorded as done; that is noted."""
        record = self._known.get((number, key))
        if record is None or record.state != "done":
            return False
        self._states[number] = _CODES["done"]
        self._before += 1
        return True

    def is_wanted(self, number: int, *keys: str) -> bool:
        """Whether a task that is not done was asked for; `keys` are those under which it may be recorded."""
        if self._chosen is None:
            return True
        if isinstance(self._chosen, str):
            found = [self._known.get((number, key)) for key in keys]
            return any(each is not None and each.state in ("failed", "skipped") for each in found)
        return number in self._chosen

    def ended(self, number: int, state: State) -> None:
        """A task has ended, and that is recorded."""
        self._states[number] = _CODES[state]
        if state == "failed" and len(self._failures) < MOST_SHOWN:
            self._failures.append(number)

    def left(self) -> Iterator[int]:
        """Give those that have not ended."""
        states = self._states
        return (number for number in self.numbers if not states[number])

    def counts(self) -> Counts:
        """Return how many there are of each kind."""
        states = self._states
        done, failed, skipped, cancelled = (states.count(code) for code in range(1, len(_STATES)))
        left = len(self.numbers) - done - failed - skipped - cancelled
        return Counts(done, failed, skipped, cancelled, left, self._before, tuple(sorted(self._failures)))
