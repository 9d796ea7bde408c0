"""Shows what evaluations print, on standard error, where the program asks for it (`echo=True`).

Guarantees: at most so many lines a second, each with time, call and worker, in printable characters. What is
left out is counted, and told with where it is. A standard error that does not take any more ends the echo, not the run.
"""

from __future__ import annotations

import asyncio
import sys
import time

from hyperflow import saying
from hyperflow.head.evaluation import Evaluation
from hyperflow.program import ProgramInfo
from hyperflow.wire.messages import Printed
from hyperflow.wire.rate import Rate

OFTEN, AT_FIRST = 200, 400
"""Lines that are shown in a second, and that may come at once."""

PAUSE = 1.0
"""Seconds between two reports of what was left out."""

LONGEST_CALL = 60


class Echo:
    """Writes lines to standard error."""

    def __init__(self, program: ProgramInfo) -> None:
        self._run = program.program_id
        self._log_dir = program.log_dir
        self._rate = Rate(OFTEN, AT_FIRST)
        self._left_out = 0
        self._reporting: asyncio.TimerHandle | None = None
        self._closed = False
        self._last = 0, ""  # the task that printed last, and its title

    def printed(self, evaluation: Evaluation | None, worker: str, said: Printed) -> None:
        """Show lines that an evaluation has printed; None for one that has ended meanwhile."""
        self._left_out += said.left_out
        now = time.strftime("%H:%M:%S")
        for line in said.lines:
            if self._rate.allows():
                self._write(saying.printable(f"{now} [{self._title(evaluation, said)} {worker}] {line}"))
            else:
                self._left_out += 1
        if self._left_out and self._reporting is None and not self._closed:
            self._reporting = asyncio.get_running_loop().call_later(PAUSE, self._report)

    def _title(self, evaluation: Evaluation | None, said: Printed) -> str:
        if evaluation is None:
            return f"#{said.task}"
        if self._last[0] != said.task:  # the text of a call takes a while
            call = evaluation.shown_call
            call = call if len(call) <= LONGEST_CALL else call[: LONGEST_CALL - 3] + "..."
            name = evaluation.options.name
            name = "" if name is None or call.startswith(f"{name}(") else f"{name}: "
            self._last = said.task, f"#{said.task} {name}{call}"
        return self._last[1]

    def _report(self) -> None:
        self._reporting = None
        if self._left_out:
            words = "1 line was" if self._left_out == 1 else f"{self._left_out} lines were"
            where = saying.printable(str(self._log_dir))
            self._write(f"hyperflow: {words} left out here: hyperflow logs {self._run} (in {where})")
            self._left_out = 0

    def _write(self, text: str) -> None:
        if self._closed:
            return
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # a closed pipe, a closed stream, none
            self._closed = True

    def close(self) -> None:
        """Tell what was left out last."""
        if self._reporting is not None:
            self._reporting.cancel()
        self._report()
