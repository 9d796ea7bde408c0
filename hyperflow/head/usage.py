"""What evaluations have used, in sums for each function: CPU time of short ones, bytes read and written.

What was measured of one evaluation comes with its answer. Short ones are not measured: their workers tell now and then
how much CPU time those of each function have had together. Every few seconds the event log gets the sums.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from hyperflow.events.writer import EventLog
from hyperflow.progress.tally import Tally
from hyperflow.shipping.definitions import Definition
from hyperflow.wire import messages
from hyperflow.wire.frames import ProtocolError
from hyperflow.wire.messages import Used
from hyperflow.wire.numbers import DefinitionNumber

PAUSE = 10.0
"""Seconds between lines of sums."""


class Usage:
    """The sums of a head, which the tally keeps.

    Args:
        definitions: Those that are in use.
    """

    def __init__(self, tally: Tally, events: EventLog, definitions: Mapping[DefinitionNumber, Definition]) -> None:
        self._tally = tally
        self._events = events
        self._definitions = definitions
        self._told: dict[str, tuple[float, int, int]] = {}
        self._next = time.monotonic() + PAUSE

    def on_used(self, body: memoryview) -> None:
        """A worker tells what short evaluations have used; raises ProtocolError for nonsense."""
        try:
            for number, name, function, cpu in messages.read(Used, body).sums:
                definition = self._definitions.get(number)
                group = name or (definition.name if definition is not None else function)
                if group in self._tally.of:  # else it was joined with others
                    self._tally.of[group].usage.short += float(cpu)
        except (TypeError, ValueError) as error:
            raise ProtocolError(str(error)) from None

    def write(self, last: bool = False) -> None:
        """Write the sums that have changed, unless that was done a short while ago."""
        now = time.monotonic()
        if now < self._next and not last:
            return
        self._next = now + PAUSE
        changed: dict[str, dict[str, float]] = {}
        for name, counts in self._tally.of.items():
            it = counts.usage
            sums = it.short, it.read, it.written
            if sums != self._told.get(name, (0.0, 0, 0)):
                self._told[name] = sums
                changed[name] = {"short": round(it.short, 3), "read": it.read, "written": it.written}
        if changed:
            self._events.note("used", functions=changed)
