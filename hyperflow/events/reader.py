"""The event log's reader: the events of a run, also of one that is at work, dead or old.

Guarantees: if the last line is incomplete, after a kill or during a write, the reader stops before it. A log of a newer
version, or a damaged one, is refused with the reason; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from hyperflow.errors import HyperflowError
from hyperflow.events.schema import VERSION, Event

BATCH = 500
"""Lines that are parsed at once: one by one would take twice as long."""


def read(path: Path) -> Iterator[Event]:
    """Yield the events of a log, in the order in which they were written.

    Raises:
        HyperflowError: The log cannot be read, is damaged, or was written by a newer hyperflow.
    """
    try:
        with path.open("rb") as file:
            for event in _events(file, path):
                if "version" in event and event.get("state") == "opened" and event["version"] > VERSION:
                    found = event["version"]
                    raise HyperflowError(
                        f"the event log {path} is of version {found}, and this hyperflow reads {VERSION}: "
                        "use a newer one"
                    )
                yield event
    except OSError as error:
        raise HyperflowError(f"the event log {path} cannot be read: {error}") from error


def _events(file: BinaryIO, path: Path) -> Iterator[Event]:
    number = 0
    doubtful = 0  # a line that is no event: right if a start begins after it, or nothing follows
    while lines := list(islice(file, BATCH)):
        found = _all_parsed(lines) if not doubtful else None
        if found is not None:
            yield from found
            number += len(lines)
            continue
        for line in lines:
            number += 1
            event = _parsed(line)
            if doubtful and (event is None or event.get("state") != "opened"):
                raise HyperflowError(f"the event log {path} is damaged in line {doubtful}")
            doubtful = 0
            if event is not None:
                yield event
            elif line != b"\n":
                doubtful = number


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
