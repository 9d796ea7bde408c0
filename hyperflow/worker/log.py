"""A worker's log file: what Python prints is marked with time and evaluation, line by line.

It is a file, and not a pipe through the launcher, so that children of an evaluation write to it directly. Nobody has to
read while they run, and nothing of it can reach the stream to the head. But their lines have no marks; a line after
them says whose they are.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from typing import Any

from hyperflow.saying import in_one_line, short_str
from hyperflow.shipping import rebuild
from hyperflow.wire.numbers import TaskNumber
from hyperflow.worker.echo import Echo

OF_OTHERS = "wrote the unmarked lines above"
"""What a line says after lines that other processes have written."""


LONGEST_NAME = 100
"""Characters of a function's name in the mark of a line."""


class Log:
    """The worker's log file, which is its stdout and stderr; `echo` gets what evaluations print, too."""

    def __init__(self, echo: Echo | None = None) -> None:
        self.last = TaskNumber(0)
        """The evaluation that runs, or ran last."""
        self.function: object = ""
        """The name of its function."""
        self.name = ""
        """What the program calls it; "" for nothing."""
        self.task = TaskNumber(0)
        """The evaluation that runs; 0 when it has ended."""
        self.echo = echo
        self.expected = os.fstat(1).st_size
        """Bytes of the file; what follows, another process has written."""
        self._others = False
        self._new_lock()
        os.register_at_fork(after_in_child=self._new_lock)

    def _new_lock(self) -> None:
        """Make the lock for threads that print side by side: else one takes the other's line for another process's."""
        self._lock = threading.RLock()  # a signal's handler may print, too

    def write_line(self, line: str) -> None:
        """Write a line with the time and the mark of the evaluation."""
        with self._lock, contextlib.suppress(OSError):  # a full disk must not fail an evaluation that merely prints
            self._look()
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            os.write(1, f"{now} [{self._label()}] {line}\n".encode(errors="replace"))
            self.expected = os.fstat(1).st_size

    def _label(self) -> str:
        """Return the mark of the evaluation that runs, or ran last; who reads the log can find its end."""
        if not self.last:
            return "worker"
        function = short_str(self.function, LONGEST_NAME)
        if not self.name:
            text = function
        elif function in (self.name, "__call__"):  # a function that stands under its own name; a chunk of a map
            text = self.name
        else:
            text = f"{self.name}: {function}"
        return f"#{self.last} {in_one_line(text).replace(']', ')')}"

    def print_line(self, line: str) -> None:
        """Write a line that a function has printed."""
        self.write_line(line)
        if self.echo is not None:
            self.echo.line(self.task, line)

    def end_evaluation(self) -> None:
        """Log which evaluation wrote the unmarked lines."""
        with contextlib.suppress(OSError):
            self._look()
            if self._others:
                self.write_line(OF_OTHERS)
                self._others = False

    def _look(self) -> None:
        size = os.fstat(1).st_size
        if size > self.expected:
            self._others = True
            if self.echo is not None:
                self.echo.lines_of_others(self.task, self.expected, size)
                self.expected = size


class MarkedOutput(io.TextIOBase):
    """sys.stdout and sys.stderr of a worker: writes whole lines, each with the mark of its evaluation."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, log: Log, fd: int) -> None:
        self._log = log
        self._fd = fd
        self.partial: list[str] = []  # of a line; a list, because some print a thousand dots

    def __reduce__(self) -> Any:
        """Go home as the stream of the same name there."""
        return rebuild.fetch, ("sys", "stdout" if self._fd == 1 else "stderr")

    @property
    def buffer(self) -> io.FileIO:
        """Bytes written here go to the log unmarked."""
        return io.FileIO(self._fd, "wb", closefd=False)

    def write(self, text: str) -> int:
        first, end, rest = text.partition("\n")
        self.partial.append(first)
        if end:
            line = self._taken()
            self._log.print_line(line)
            *lines, last = rest.split("\n")
            for line in lines:
                self._log.print_line(line)
            if last:
                self.partial.append(last)
        return len(text)

    def flush(self) -> None:
        if text := self._taken():
            self._log.print_line(text)

    def _taken(self) -> str:
        """Return what there is of a line, and begin a new one."""
        text = "".join(self.partial)
        self.partial.clear()  # the same list: the quick loop looks at it
        return text

    def close(self) -> None:
        """Stay open: the next evaluation prints, too."""
        self.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd
