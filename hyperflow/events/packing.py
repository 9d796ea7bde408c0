"""Packs the full segments of an event log while the run goes on: a thread, which waits for a process that packs.

Guarantees: nothing of it runs after `close`. Whatever is in the way (no room, no memory for a process) leaves a segment
as it was, and readers read it all the same.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path

from hyperflow.events import packed


class Packing:
    """Packs one segment after the other."""

    def __init__(self) -> None:
        self.saved = 0
        """Bytes that the disk has been spared."""
        self._wanted: deque[tuple[Path, Path]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    def add(self, source: Path, target: Path) -> None:
        """Pack a segment, after those that wait."""
        with self._lock:
            self._wanted.append((source.absolute(), target.absolute()))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hyperflow-events", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._closed or not self._wanted:
                    self._thread = None
                    return
                source, target = self._wanted.popleft()
                half = Path(f"{target}.new")
            with suppress(OSError):
                before = source.stat().st_size
                half.unlink(missing_ok=True)
                self._run(source, target)
                half.unlink(missing_ok=True)
                if not source.exists():
                    self.saved += before - target.stat().st_size

    def _run(self, source: Path, target: Path) -> None:
        with self._lock:
            if self._closed:
                return
            command = [sys.executable, "-I", "-S", packed.__file__, str(source), str(target)]
            nothing = subprocess.DEVNULL
            self._child = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
        self._child.wait()

    def close(self) -> None:
        """Leave it; what has not been packed stays as it is."""
        with self._lock:
            self._closed = True
            thread, child = self._thread, self._child
            if child is not None and child.returncode is None:
                child.kill()
        if thread is not None:
            thread.join()
