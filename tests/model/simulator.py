"""The simulator: a seed becomes a history, a model lives through it, and one that breaks a promise is made small.

An event is a list: a word, and three numbers. `Model.do` calls the method `on_<word>` with them. What a number means is
up to the method; mostly it chooses among what is possible just now (`pick`). An event for which nothing is possible
does nothing. So each list of events is a history, and to take one out leaves a history.

Time is virtual: it is a number of the model, and passes only where an event or the end of all other work lets it.
"""

from __future__ import annotations

import json
import random
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs

T = TypeVar("T")

Event = list[Any]
"""A word and its numbers, as in JSON."""

KEPT = Path(__file__).parent / "kept"
"""Histories that once broke a promise: one file for each."""

NO_ERROR = "nothing ends with an unexpected error"
"""The promise that any exception of the code under test breaks."""

LARGEST = 1 << 16
CHECKED_NOW_AND_THEN = 4
"""Of so many events, one is followed by a look at what always holds; when a history is replayed, each one is."""


class Broken(Exception):
    """A promise does not hold."""

    def __init__(self, promise: str, detail: object) -> None:
        super().__init__(promise, detail)
        self.promise = promise
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}"


def promise(name: str, holds: object, *details: object) -> None:
    """Raise Broken if a promise does not hold."""
    if not holds:
        raise Broken(name, " ".join(map(str, details)))


def pick(items: Collection[T], number: int) -> T | None:
    """Choose by a number; None where there is nothing to choose from."""
    if not items:
        return None
    found = items if isinstance(items, Sequence) else list(items)
    return found[number % len(found)]


class Model:
    """A part of the program, and the world around it.

    `happenings` are the words of its events, and how often each one is wanted; `always`, those without which nothing
    happens; `steps`, how many events a history has.
    """

    name: ClassVar[str]
    happenings: ClassVar[Mapping[str, int]]
    always: ClassVar[frozenset[str]]
    opening: ClassVar[Sequence[str]] = ()
    """Words with which each history begins."""
    steps: ClassVar[tuple[int, int]] = (10, 50)

    def do(self, event: Event) -> None:
        """Let an event happen, if it is possible just now."""
        getattr(self, f"on_{event[0]}")(*event[1:])

    def check(self) -> None:
        """Look at all that always holds."""

    def finish(self) -> None:
        """Let everything come to its end, and look at what has to be so then."""

    def close(self) -> None:
        """Let go of what the model has opened."""

    @classmethod
    def surroundings(cls) -> AbstractContextManager[object]:
        """Return what holds while histories of this model are played."""
        return nullcontext()


def history(model: type[Model], seed: int) -> list[Event]:
    """Return the events that follow from a seed."""
    chance = random.Random(f"{model.name} {seed}")
    # Each history leaves some words out. One in which nothing is ever cancelled goes where others never come.
    words = [word for word in model.happenings if word in model.always or chance.random() < 0.75]
    weights = list(accumulate(model.happenings[word] for word in words))
    chosen = chance.choices(words, cum_weights=weights, k=chance.randint(*model.steps))
    bits = chance.getrandbits
    return [[word, bits(16), bits(16), bits(16)] for word in (*model.opening, *chosen)]


def play(model: type[Model], events: Sequence[Event], every: int = 1) -> Broken | None:
    """Live through a history; return the promise that it breaks, if it does."""
    world = model()
    try:
        for count, event in enumerate(events):
            world.do(event)
            if count % every == 0:
                world.check()
        world.finish()
    except Broken as broken:
        return broken
    except Exception as error:  # noqa: BLE001 (whatever the code under test raises)
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Broken(NO_ERROR, f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})")
    finally:
        world.close()
    return None


@attrs.frozen
class Found:
    """A history that breaks a promise."""

    model: str
    seed: int
    promise: str
    detail: str
    events: list[Event]
    was: str = ""
    """What it was, once somebody knows."""

    def keep(self, directory: Path = KEPT) -> Path:
        """Write it to a file, which `test_kept` replays."""
        directory.mkdir(exist_ok=True)
        path = directory / f"{self.model}-{self.seed}.json"
        lines = ",\n  ".join(json.dumps(event) for event in self.events)
        about = json.dumps({name: value for name, value in attrs.asdict(self).items() if name != "events"}, indent=1)
        path.write_text(f'{about[:-2]},\n "events": [\n  {lines}\n ]\n}}\n', encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Found:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def search(model: type[Model], seeds: Iterable[int], small: bool = True) -> Found | None:
    """Play the histories of these seeds; return the first one that breaks a promise, made small."""
    with model.surroundings():
        for seed in seeds:
            events = history(model, seed)
            broken = play(model, events, CHECKED_NOW_AND_THEN)
            if broken is not None:
                return _small(model, seed, events) if small else _found(model, seed, broken, events)
    return None


def _small(model: type[Model], seed: int, events: list[Event]) -> Found:
    """Make a failing history small: as few events as possible, with numbers as small as possible."""
    # Looked at after each event, it may break another promise, earlier: the cause rather than what follows from it.
    broken = play(model, events) or play(model, events, CHECKED_NOW_AND_THEN)
    assert broken is not None, f"seed {seed} of {model.name} does not do the same again"

    def fails(fewer: list[Event]) -> bool:
        found = play(model, fewer)
        return found is not None and found.promise == broken.promise

    if fails(events):
        events = with_smaller_numbers(without_needless(events, fails), fails)
        broken = play(model, events) or broken
    return _found(model, seed, broken, events)


def _found(model: type[Model], seed: int, broken: Broken, events: list[Event]) -> Found:
    return Found(model.name, seed, broken.promise, str(broken.detail), events)


def without_needless(events: list[Event], fails: Callable[[list[Event]], bool]) -> list[Event]:
    """Take events out, many at a time and then each one, as long as it still fails."""
    size = len(events)
    while size:
        before, at = len(events), 0
        while at < len(events):
            fewer = events[:at] + events[at + size :]
            if fails(fewer):
                events = fewer
            else:
                at += size
        if size > 1 or len(events) == before:  # what was needed by one that has gone is not needed any more
            size //= 2
    return events


def with_smaller_numbers(events: list[Event], fails: Callable[[list[Event]], bool]) -> list[Event]:
    """Replace numbers by small ones, as long as it still fails."""
    for at, event in enumerate(events):
        for member in range(1, len(event)):
            for smaller in (0, 1, 2, 3, 5, 8, 13):
                if smaller >= events[at][member]:
                    break
                changed = [*events[at][:member], smaller, *events[at][member + 1 :]]
                fewer = [*events[:at], changed, *events[at + 1 :]]
                if fails(fewer):
                    events = fewer
                    break
    return events
