"""The index: records of the runs that were given no place, in the user's state directory.

    $XDG_STATE_HOME/hyperflow/runs/      for the user alone; by default under ~/.local/state
      <run>.json                         the run's record, a copy of its log/run.json
      <run>.log/                         the ends of its logs, when its temporary directory has gone

It is bounded: logs are kept of the last 20 runs, at most 1 MB of events, 16 kB of each of 16 other logs, 10 capsules of
failed evaluations and 10 pictures that have 1 MB or less, 256 kB of each of 16 files of points that it drew; records of
the last 1000. Where there is no such directory, runs go on without.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from hyperflow import files, private
from hyperflow.errors import HyperflowError
from hyperflow.events import segments
from hyperflow.records import record

MOST_LOGS = 20
"""So many runs whose directory has gone keep the ends of their logs."""

MOST_RECORDS = 1000

CAPSULES = "capsules"
PLOTS = "plots"

HEAD, TAIL = 1 << 18, 3 << 18
"""Bytes that are kept of the beginning and the end of an event log."""

LOG_TAIL = 1 << 14
"""Bytes that are kept of the end of another log."""

MOST_FILES = 16
"""Other logs that are kept of a run."""

MOST_CAPSULES = 10
LARGEST_CAPSULE = 1 << 20
"""Bytes: so many capsules are kept of a run, the first ones, that have no more."""

MOST_POINTS = 1 << 18
"""Bytes that are kept of the end of each file of points that a run has drawn."""

MOST_PICTURES = 10
LARGEST_PICTURE = 1 << 20
"""Bytes: so many pictures are kept of a run that have no more."""


def directory() -> Path:
    """Return where the index is, whether it is there or not."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # as the standard has it: a relative one is ignored
        state = os.path.join(os.environ.get("HOME") or os.devnull, ".local", "state")  # without a home, there is none
    return Path(state) / "hyperflow" / "runs"


def names() -> list[str]:
    """Return the ids of the runs in the index, the oldest first: ids begin with the time."""
    with suppress(OSError):
        return sorted(name.removesuffix(".json") for name in os.listdir(directory()) if _is_record(name))
    return []


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def place(run: str) -> Path:
    """Return where a run's record is."""
    return directory() / f"{run}.json"


def logs(run: str) -> Path:
    """Return where the ends of a run's logs are, once its directory has gone."""
    return directory() / f"{run}.log"


def enter(run: str) -> Path:
    """Return where the record of a run that begins is to be written; raises OSError where there can be no index."""
    private.make_all(directory())
    return place(run)


def keep(run: str, log_dir: Path) -> None:
    """Keep the ends of a run's logs, whose directory is about to go, and let go of those of older runs."""
    with suppress(OSError):  # a disk that is full, a directory that has gone
        _copy(log_dir, logs(run))
    tidy()


def _copy(log_dir: Path, target: Path) -> None:
    private.make_all(target)
    others = [path for path in log_dir.glob("*.log") if path.stat().st_size]
    newest = sorted(others, key=lambda path: path.stat().st_mtime)[-MOST_FILES:]
    for path in newest:
        _write(target / path.name, _end(path, LOG_TAIL))
    if (events := log_dir / segments.NAME).exists():
        _write(target / segments.NAME, _ends(events))
    _copy_plots(log_dir, target)
    capsules = [path for path in (log_dir / CAPSULES).glob("[0-9]*") if path.stat().st_size <= LARGEST_CAPSULE]
    if capsules:
        private.make_all(target / CAPSULES)
    for path in sorted(capsules, key=lambda path: path.stat().st_mtime)[:MOST_CAPSULES]:
        _write(target / CAPSULES / path.name, path.read_bytes())


def _copy_plots(log_dir: Path, target: Path) -> None:
    for path in sorted(log_dir.glob(f"{PLOTS}*.jsonl"))[:MOST_FILES]:
        _write(target / path.name, _end(path, MOST_POINTS))
    pictures = [path for path in sorted((log_dir / PLOTS).glob("*.png")) if path.stat().st_size <= LARGEST_PICTURE]
    if pictures:
        private.make_all(target / PLOTS)
    for path in pictures[:MOST_PICTURES]:
        _write(target / PLOTS / path.name, path.read_bytes())


def _write(path: Path, data: bytes) -> None:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as file:
        file.write(data)


def _end(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        start = max(file.seek(0, os.SEEK_END) - size, 0)
        file.seek(start)
        data = file.read(size)
    line = data.find(b"\n") + 1
    return data[line:] if start and line < len(data) else data  # of a line that is longer, its end


def _ends(events: Path) -> bytes:
    """Return an event log, without its middle where it is long; a line says what is missing."""
    earlier = sum(segments.plain_size(events, number) for number in segments.numbers(events))
    size = events.stat().st_size
    if size <= HEAD + TAIL and not earlier:
        return events.read_bytes()
    head, tail = _head(events) if earlier else _beginning(events, HEAD), _end(events, TAIL)
    missing = max(earlier + size - len(head) - len(tail), 1)
    return head + f'{{"t": 0, "state": "left out", "bytes": {missing}}}\n'.encode() + tail


def _head(events: Path) -> bytes:
    """Return the first lines of a log whose first segments may be packed."""
    head = bytearray()
    with suppress(HyperflowError):
        from hyperflow.events import reader  # noqa: PLC0415 (for logs of many segments)

        for event in reader.read(events):
            head += json.dumps(event).encode() + b"\n"
            if len(head) > HEAD:
                break
    return bytes(head)


def _beginning(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(size)
    return data[: data.rfind(b"\n") + 1]


def tidy() -> None:
    """Remove what is beyond the bounds."""
    home = directory()
    with suppress(OSError):
        there = sorted(os.listdir(home))
        for name in [name for name in there if name.endswith(".log")][:-MOST_LOGS]:
            files.remove_tree(home / name)
            _forget_if_gone(name.removesuffix(".log"))
        for name in [name for name in there if _is_record(name)][:-MOST_RECORDS]:
            (home / name).unlink(missing_ok=True)


def _forget_if_gone(run: str) -> None:
    """Remove a run's record if nothing else is left of it."""
    found = record.read(place(run))
    if found is None or not Path(found.home).exists():
        with suppress(OSError):
            place(run).unlink(missing_ok=True)
