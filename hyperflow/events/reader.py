"""The event log's reader: the events of a run, also of one that is at work, dead or old, from all files of its log.

Guarantees: if the last line is incomplete, after a kill or during a write, the reader stops before it. A log of a newer
version, or a damaged one, is refused with the reason; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, cast

from hyperflow import files
from hyperflow.errors import HyperflowError
from hyperflow.events import packed, segments, several
from hyperflow.events.packed import Segment
from hyperflow.events.schema import VERSION, Event

BATCH = 500
"""Lines that are parsed at once: one by one would take longer."""


def read(path: Path) -> Iterator[Event]:
    """Yield the events of a log, of which `path` is the tail, in the order in which they were written.

    Raises:
        HyperflowError: The log cannot be read, is damaged, or was written by a newer hyperflow.
    """
    return Follower(path).new()


class Part:
    """A packed segment, or what has not been read of it."""

    def __init__(self, segment: Segment, read: int) -> None:
        self.segment = segment
        self.workers = segment.workers
        """Their names; more may come as entries are read."""
        self._read = read
        self._several = any(f'"{several.STATE}"' in line for line in segment.others)

    def entries(self) -> Iterator[packed.Entry]:
        """Yield what its lines say; raises all sorts of errors where that makes no sense."""
        entries = self.segment.entries()
        if self._several:
            return self._apart(entries)
        return islice(entries, self._read, None) if self._read else entries

    def _apart(self, entries: Iterable[packed.Entry]) -> Iterator[packed.Entry]:
        """Yield the entries of lines of several, too."""
        lines, places = several.Reading(), _Places(self.workers)
        for read, entry in enumerate(entries):
            if entry[0] != packed.OTHER or entry[2].get("state") not in (several.STATE, "opened"):
                if read >= self._read:
                    yield entry
                continue
            for one in _entries(lines, entry[2], places):
                if read >= self._read:
                    yield one

    def events(self) -> Iterator[Event]:
        """Yield its events; raises HyperflowError where one makes no sense."""
        try:
            lines = several.Reading()
            for read, event in enumerate(self.segment.events()):
                for one in lines.events(event):
                    if read >= self._read:
                        yield one
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
            raise HyperflowError(f"a segment of the event log is damaged: {error}") from error


class Lines:
    """Lines of a file that is not packed, some of them of several; to be read before the next ones."""

    def __init__(self, events: list[Event], reading: several.Reading) -> None:
        self.workers: list[str] = []
        """Their names; more come as entries are read."""
        self._events = events
        self._reading = reading

    def entries(self) -> Iterator[packed.Entry]:
        """Yield what they say; raises all sorts of errors where that makes no sense."""
        places = _Places(self.workers)
        for event in self._events:
            if event.get("state") in (several.STATE, "opened"):
                yield from _entries(self._reading, event, places)
            else:
                yield packed.OTHER, 0.0, event, None, None

    def events(self) -> Iterator[Event]:
        """Yield their events; raises HyperflowError where one makes no sense."""
        try:
            for event in self._events:
                yield from self._reading.events(event)
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
            raise HyperflowError(f"a line of the event log is damaged: {error!r}") from error


class _Places(dict[str, int]):
    """Places of names in a list, which gets those that are new."""

    def __init__(self, names: list[str]) -> None:
        super().__init__((name, place) for place, name in enumerate(names))
        self._names = names

    def __missing__(self, name: str) -> int:
        place = self[name] = len(self._names)
        self._names.append(name)
        return place


def _entries(lines: several.Reading, event: Any, places: _Places) -> Iterator[packed.Entry]:
    """Yield the entries of a line of several, or of one after which all is new."""
    if event["state"] == "opened":
        for one in lines.events(event):
            yield packed.OTHER, 0.0, one, None, None
        return
    for kind, microseconds, what, first, more, last in lines.changes(event):
        t = microseconds / 1e6
        if kind == several.DONE:
            age, used = last or (0.0, None)
            if used is not None:
                for task, one in enumerate(used, first):
                    if one is not None:
                        yield packed.MEASURED, t, task, *one
            if len(more) == 1:
                yield packed.DONE, t - age, first, places[what], more[0]
            else:
                yield packed.DONE, t - age, range(first, first + len(more)), places[what], more
        elif kind == several.RUNNING:
            yield packed.RUNNING, t - last, first if more == 1 else range(first, first + more), places[what], None
        elif kind == several.WAITING:
            yield packed.FORM, t, range(first, first + more), what, several.flow_members(last)
        elif kind == several.STARTED:
            started = {"t": t, "state": "started", "worker": what, "cpus": more, "number": first}
            yield packed.OTHER, 0.0, started, None, None
        else:
            yield packed.QUEUED, t, range(first, first + more), places[what], None


class Follower:
    """Reads a log that grows: each time what has come since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 1  # of the file that is being read
        self._offset = 0  # bytes of it that were read, if it is plain
        self._events = 0  # lines of it that are events and were read
        self._several = several.Reading()
        self._lines = 0
        self._doubtful = 0  # a line that is no event: right if a start begins after it, or nothing follows

    def new(self) -> Iterator[Event]:
        """Yield the events that have come; raises HyperflowError as `read` does."""
        return chain.from_iterable(part if isinstance(part, list) else part.events() for part in self.parts())

    def parts(self) -> Iterator[list[Event] | Part | Lines]:
        """Yield them in batches, or as parts with entries, for whom each event by itself would take too long."""
        try:
            with files.opened(self.path) as tail:
                yield from self._segments_before(segments.number_of(tail.readline()))
                tail.seek(self._offset)
                yield from self._plain(tail)
        except FileNotFoundError as error:  # it is being moved, or somebody has taken it away
            there = segments.numbers(self.path)
            if not there:
                raise self._unreadable(error) from error
            yield from self._segments_before(there[-1] + 1)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> HyperflowError:
        return HyperflowError(f"the event log {self.path} cannot be read: {error}")

    def _segments_before(self, tail: int) -> Iterator[list[Event] | Part | Lines]:
        while self._number < tail:
            yield from self._full(self._number)
            self._number, self._offset, self._events, self._lines = self._number + 1, 0, 0, 0
            self._several = several.Reading()

    def _full(self, number: int) -> Iterator[list[Event] | Part | Lines]:
        """Yield the events of a segment, packed or not: it may be packed in this moment."""
        for path in (segments.packed, segments.full, segments.packed):
            place = path(self.path, number)
            try:
                file = files.opened(place)
            except FileNotFoundError:
                continue
            with file:
                if path is segments.packed:
                    yield from self._unpacked(file, place)
                else:
                    file.seek(self._offset)
                    yield from self._plain(file)
            return
        raise HyperflowError(
            f"segment {number} of the event log {self.path} is missing: {segments.packed(self.path, number)}"
        )

    def _unpacked(self, file: IO[bytes], place: Path) -> Iterator[list[Event] | Part | Lines]:
        try:
            segment = Segment(file.read())
            self._check([json.loads(line) for line in segment.others if '"opened"' in line])
        except (ValueError, TypeError) as error:
            raise HyperflowError(f"the segment {place} of the event log is damaged: {error}") from error
        yield Part(segment, self._events)

    def _check(self, events: list[Event]) -> None:
        for event in events:
            if "version" in event and event.get("state") == "opened" and event["version"] > VERSION:
                raise HyperflowError(
                    f"the event log {self.path} is of version {event['version']}, and this hyperflow reads {VERSION}: "
                    "use a newer one"
                )

    def _plain(self, file: IO[bytes]) -> Iterator[list[Event] | Part | Lines]:
        while lines := list(islice(file, BATCH)):
            found = _all_parsed(lines) if not self._doubtful else None
            if found is None:
                for event in self._one_by_one(lines):
                    self._check([event])
                    yield self._apart([event])
            else:
                self._passed(lines)
                self._events += len(found)
                self._check(found)
                yield self._apart(found)

    def _apart(self, events: list[Event]) -> list[Event] | Lines:
        """Return the events, or what takes those apart of which a line stands for several."""
        if any(event.get("state") in (several.STATE, "opened") for event in events):
            return Lines(events, self._several)
        return events

    def _one_by_one(self, lines: list[bytes]) -> Iterator[Event]:
        for line in lines:
            event = self._event_of(line) if line.endswith(b"\n") else _parsed(line)
            if event is None and not line.endswith(b"\n"):
                return  # it is being written, or was cut
            self._passed([line])
            if event is not None:
                self._events += 1
                yield event

    def _passed(self, lines: list[bytes]) -> None:
        self._lines += len(lines)
        self._offset += sum(map(len, lines))

    def _event_of(self, line: bytes) -> Event | None:
        event = _parsed(line)
        if self._doubtful and (event is None or event.get("state") != "opened"):
            raise HyperflowError(f"the event log {self.path} is damaged in line {self._doubtful}")
        self._doubtful = self._lines + 1 if event is None and line != b"\n" else 0
        return event


def _all_parsed(lines: list[bytes]) -> list[Event] | None:
    try:
        found: Any = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        return None
    whole = len(found) == len(lines) and lines[-1].endswith(b"\n") and all(type(event) is dict for event in found)
    return cast("list[Event]", found) if whole else None


def _parsed(line: bytes) -> Event | None:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("Event", found) if type(found) is dict else None


def each_task(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events with one for each task, which has its number as `task` and its own `seconds`."""
    for event in events:
        if "tasks" not in event:
            yield event
            continue
        seconds = event.get("seconds")
        for place, task in enumerate(event["tasks"]):
            one: Event = {**event, "task": task}
            if isinstance(seconds, list):
                one["seconds"] = seconds[place]
            yield one
