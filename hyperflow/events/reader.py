"""The event log's reader: the events of a run, also of one that is at work, dead or old.

Guarantees: if the last line is incomplete, after a kill or during a write, the reader stops before it. A log of a newer
version, or a damaged one, is refused with the reason; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from hyperflow.errors import HyperflowError
from hyperflow.events.schema import VERSION, Event


def read(path: Path) -> Iterator[Event]:
    """Yield the events of a log, in the order in which they were written.

    Raises:
        HyperflowError: The log cannot be read, is damaged, or was written by a newer hyperflow.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise HyperflowError(f"the event log {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        event = _parsed(line)
        if event is not None:
            if event.get("state") == "opened" and event.get("version", 0) > VERSION:
                found = event.get("version")
                raise HyperflowError(
                    f"the event log {path} is of version {found}, and this hyperflow reads {VERSION}: use a newer one"
                )
            yield event
        elif line and number < len(lines) and not _opens(lines[number]):
            raise HyperflowError(f"the event log {path} is damaged in line {number}")


def _parsed(line: bytes) -> Event | None:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("Event", found) if type(found) is dict else None


def _opens(line: bytes) -> bool:
    """Whether another run went on with the log here: then the line before may be cut."""
    event = _parsed(line)
    return event is not None and event.get("state") == "opened"


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
