"""Keeps the record of a run while it runs: written when it begins, now and then, and when it has ended.

Guarantees: a run never fails because its record cannot be written. That is logged once; the run goes on without.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperflow import saying
from hyperflow.errors import AllocationEnding
from hyperflow.program import ProgramInfo
from hyperflow.records import index, record
from hyperflow.records.record import Figures, Record, State

logger = logging.getLogger("hyperflow")

HEARTBEAT = 20.0
"""Seconds between two writes of the record of a run."""

LONGEST_RESULT = 200
"""Characters that are shown of a result."""


class Recording:
    """The record of a run that is under way."""

    def __init__(self, program: ProgramInfo, kind: str, listed: bool) -> None:
        self.figures: Callable[[], Figures] = Figures
        """Tells how the run stands."""
        self._begin = functools.partial(Record.of_this_process, program, kind)
        self._program = program
        self._listed = listed
        self._record: Record | None = None
        self._result = ""
        self._places: list[Path] = []
        self._told = set[Path]()
        """Those that could not be written, and of which that was said."""
        self._left = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Write that the run begins. Before this, nothing is written: another process may have the run."""
        self._record = self._begin()
        self._places = [self._program.log_dir / record.NAME]
        if self._listed:
            try:
                self._places.append(index.enter(self._program.program_id))
            except OSError as error:
                logger.info("`hyperflow runs` will not list this run: %s: %s", index.directory(), error.strerror)
        self._write(self._record)
        self._timer = self._loop.call_later(HEARTBEAT, self._beat)

    def result(self, value: object) -> None:
        """Note the run's result, which comes before its end."""
        if value is not None:
            self._result = " ".join(saying.short_repr(value, LONGEST_RESULT).split())

    def leave(self) -> None:
        """Note that the run is left before its work is done; then an end without an error is no success."""
        self._left = True

    def _beat(self) -> None:
        """Write how the run stands."""
        if self._record is not None:
            self._write(self._record._replace(alive=time.time(), figures=self.figures()))
            self._timer = self._loop.call_later(HEARTBEAT, self._beat)

    def end(self, error: BaseException | None) -> None:
        """Write how the run has ended, if it has begun."""
        if self._timer is not None:
            self._timer.cancel()
        if self._record is None:
            return
        now, outcome = time.time(), _outcome(error)
        if outcome is State.FINISHED and self._left:
            outcome = State.CANCELLED
        told = saying.in_words(error, record.LONGEST) if error is not None and outcome is State.FAILED else ""
        if self._record.temporary and len(self._places) > 1:
            index.keep(self._record.run, self._program.log_dir)
            if outcome is State.FINISHED:
                del self._places[0]  # it is removed in a moment
        ended = self._record._replace(ended=now, alive=now, outcome=str(outcome), error=told, result=self._result)
        self._write(ended._replace(figures=self.figures()))

    def _write(self, said: Record) -> None:
        text = record.to_text(said)
        for path in self._places:
            try:
                record.write_text(path, text)
            except OSError as error:  # the next one may get through
                if path in self._told:
                    continue
                self._told.add(path)
                logger.warning("`hyperflow runs` will not tell how this run goes: %s: %s", path, error.strerror)


def _outcome(error: BaseException | None) -> State:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return State.FINISHED
    if isinstance(error, AllocationEnding):
        return State.ALLOCATION_ENDED
    if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)):
        return State.CANCELLED
    return State.FAILED


@contextmanager
def recorded(program: ProgramInfo, kind: str, *, listed: bool) -> Iterator[Recording]:
    """Keep a record of the run that goes on within the scope, from `begin` on.

    `kind` is "job" or "cluster"; `listed`, whether it stands in the index, too.
    """
    recording = Recording(program, kind, listed)
    ended: BaseException | None = None
    try:
        yield recording
    except BaseException as error:
        ended = error
        raise
    finally:
        with suppress(Exception):  # what the run is about counts more
            recording.end(ended)
        del ended  # it knows this frame by its traceback
