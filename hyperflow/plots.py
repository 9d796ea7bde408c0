"""plot: points and pictures that a program draws while it runs, for its page and its report.

    <log directory>/plots.jsonl              what the job or the Cluster computation itself has drawn
    <log directory>/plots-SERVICE.jsonl      what evaluations on that worker have drawn
    <log directory>/plots/DIGEST.png         the newest picture of a name; the digest is the name's

A line is `{"t": 1763600000.1, "name": "loss", "x": 3, "y": 0.5, "value": 2.5}`, or has `picture`, a digest. Each writer
has a file of its own, because appending is whole only on one machine. Bounded: BYTES of lines for each writer, MOST
pictures of LARGEST bytes. What is beyond that, or meets a full disk, is left out with one warning; the run goes on.

Cost: 15 µs for a point. On a shared file system it is a write to the server.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, cast

import attrs

from hyperflow import environment, files
from hyperflow.errors import HyperflowError, MisuseError, NotInFlow
from hyperflow.saying import short_repr, unfit_name
from hyperflow.worker import worker

BYTES = 16_000_000
"""Bytes of points of one writer."""

LARGEST = 4_000_000
"""Bytes of a picture."""

MOST = 100
"""Names that are shown of a run, and pictures that it may have."""

LONGEST_NAME = 200

PNG = b"\x89PNG\r\n\x1a\n"

DIRECTORY = "plots"


class Figure(Protocol):
    """A figure, as matplotlib has it."""

    def savefig(self, fname: Any, *, format: str) -> None:  # noqa: A002 (as matplotlib calls it)
        """Write it to a file."""
        ...


inline_place: ContextVar[Path | None] = ContextVar("hyperflow_inline_place", default=None)
"""Where an evaluation draws that runs in this process (`open_inline_job`)."""

_ended: set[str] = set()
"""The files for which no more is written; each was told once."""


def plot(
    name: str,
    *,
    x: SupportsFloat | None = None,
    y: SupportsFloat | None = None,
    value: SupportsFloat | Figure | bytes | None = None,
) -> None:
    """Add a point to a picture of this run, which `hyperflow dashboard` shows while it grows, and the report later.

    Args:
        name: Which picture; points of one name come into one.
        x: With `y` the place of the point; without `y` the place of `value`.
        y: Without `x`, it is drawn over time, as `value` is without `x` and `y`.
        value: With `x` and `y`, the point's colour. Or a whole picture, in place of the last one of that name: a
            figure of matplotlib, or the bytes of a PNG file.

    Example: `hf.plot("loss", x=step, y=loss)`, `hf.plot("scan", x=mass, y=width, value=chi2)`, `hf.plot("fit",
    value=figure)`

    It may be called in a flow and in an evaluation on a worker. NaN and infinities are gaps. A point takes some 15 µs,
    or a write to the server on a shared file system. A run keeps 16 MB of points from each process, and 100 pictures
    of 4 MB; beyond that a warning says once that no more is drawn.

    Raises:
        MisuseError: The arguments are of other types, or say nothing.
        NotInFlow: Neither a flow nor an evaluation runs here.
    """
    place = _place(name)
    if x is None and y is None and value is not None and (data := _picture(value)) is not None:
        _keep(place, name, data)
        return
    numbers = {"x": _number("x", x), "y": _number("y", y), "value": _number("value", value)}
    if y is None and value is None:
        raise MisuseError(f"plot({name!r}): say what is to be drawn: plot({name!r}, x=1, y=2), or value=...")
    shown = {key: number for key, number in numbers.items() if number is not None}
    _append(place, {"t": round(time.time(), 3), "name": name, **shown})


def _number(argument: str, value: object) -> float | str | None:
    """Return a number as JSON has it: one that is not finite as "gap"."""
    if value is None:
        return None
    if isinstance(value, (str, bytes, bytearray, bool)) or not hasattr(value, "__float__"):
        advice = "; a picture is value=... alone, a figure of matplotlib or the bytes of a PNG file"
        raise MisuseError(f"plot: {argument}={short_repr(value, 100)} is no number{advice * (argument == 'value')}")
    try:
        number = float(cast("SupportsFloat", value))
    except Exception as error:
        raise MisuseError(f"plot: {argument}={short_repr(value, 100)} is no number: {error}") from error
    return number if math.isfinite(number) else "gap"


def _picture(value: object) -> bytes | None:
    """Return the bytes of a picture; None if it is none."""
    if isinstance(value, bytes):
        data = value
    elif callable(getattr(value, "savefig", None)):
        buffer = io.BytesIO()
        cast("Figure", value).savefig(buffer, format="png")
        data = buffer.getvalue()
    else:
        return None
    if not data.startswith(PNG):
        raise MisuseError(f"plot: value={short_repr(data, 40)}: these are not the bytes of a PNG file")
    if len(data) > LARGEST:
        raise MisuseError(f"plot: the picture has {len(data):,} bytes, and one may have {LARGEST:,}: lower its dpi")
    return data


def _place(name: object) -> Path:
    """Return the file that this process writes to."""
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or unfit_name(name):
        raise MisuseError(
            f"plot({name!r:.200}, ...): a name of at most {LONGEST_NAME} characters in one line is needed"
        )
    if (env := environment.peek()) is not None:
        return env.program.log_dir / f"{DIRECTORY}.jsonl"
    if (inline := inline_place.get()) is not None:
        return inline / f"{DIRECTORY}.jsonl"
    try:
        here = worker.worker_info()
    except MisuseError:
        raise NotInFlow(f"plot({name!r})") from None
    return Path(here.log_file).parent / f"{DIRECTORY}-{here.service_id}.jsonl"


def _append(place: Path, line: dict[str, object]) -> None:
    if str(place) in _ended:
        return
    data = json.dumps(line).encode() + b"\n"
    try:
        number = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            full = os.fstat(number).st_size + len(data) > BYTES
            if not full:
                os.write(number, data)
        finally:
            os.close(number)
    except OSError as error:
        _end(place, str(error))
    else:
        if full:
            _end(place, f"it has {BYTES:,} bytes of points")


def _keep(place: Path, name: str, data: bytes) -> None:
    if str(place) in _ended:
        return
    room, digest = place.parent / DIRECTORY, digest_of(name)
    try:
        room.mkdir(mode=0o700, exist_ok=True)
        path = room / f"{digest}.png"
        if not path.exists() and len(os.listdir(room)) >= MOST:
            _end(place, f"the run has {MOST} pictures")
            return
        files.write_whole(path, data, durable=False)
    except OSError as error:
        _end(place, str(error))
    else:
        _append(place, {"t": round(time.time(), 3), "name": name, "picture": digest})


def _end(place: Path, why: str) -> None:
    _ended.add(str(place))
    warnings.warn(f"plot: no more is drawn in {place}: {why}; the run goes on", RuntimeWarning, stacklevel=4)


def digest_of(name: str) -> str:
    """Return what stands for a name in a file's name."""
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()[:20]


# ---- reading ---------------------------------------------------------------------------------------------------------


@attrs.define
class Series:
    """What was drawn under one name: points, in the order in which they came; or a picture.

    Args:
        kind: "points", or "picture".
        t: When each point came, in seconds since 1970; `x`, `y` and `value` likewise, None for a gap.
        given: Which of x, y and value were given.
        picture: Where the newest picture is.
    """

    name: str
    t: list[float] = attrs.field(factory=list[float])
    x: list[float | None] = attrs.field(factory=list["float | None"])
    y: list[float | None] = attrs.field(factory=list["float | None"])
    value: list[float | None] = attrs.field(factory=list["float | None"])
    given: set[str] = attrs.field(factory=set[str])
    picture: Path | None = None

    @property
    def kind(self) -> str:
        """Say what it is."""
        return "points" if self.picture is None else "picture"

    def add(self, line: dict[str, Any]) -> None:
        """Add a point."""
        self.t.append(float(line["t"]))
        for axis in ("x", "y", "value"):
            number: Any = line.get(axis)
            known = isinstance(number, (int, float)) and not isinstance(number, bool)
            getattr(self, axis).append(float(number) if known else None)
            if number is not None:
                self.given.add(axis)


@attrs.define
class Drawings:
    """What a run has drawn, read piece by piece: a look reads what has come since the last one."""

    series: dict[str, Series] = attrs.field(factory=dict[str, Series])
    left_out: int = 0
    """Names beyond MOST."""
    _offsets: dict[Path, int] = attrs.field(factory=dict[Path, int])

    def look(self, log_dir: Path) -> bool:
        """Read what has come in a log directory; return whether anything has. Lines that make no sense are skipped."""
        came = False
        for path in _files(log_dir):
            for line in self._new(path):
                came = True
                with suppress(ValueError, KeyError, TypeError, OverflowError):
                    self._add(log_dir, files.from_json(line))
        return came

    def _new(self, path: Path) -> Iterator[bytes]:
        start = self._offsets.get(path, 0)
        try:
            if path.lstat().st_size <= start or path.is_symlink():
                return
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(BYTES)
        except OSError:
            return
        whole = data.rfind(b"\n") + 1
        self._offsets[path] = start + whole
        yield from data[:whole].splitlines()

    def _add(self, log_dir: Path, line: dict[str, Any]) -> None:
        name = str(line["name"])[:LONGEST_NAME]
        series = self.series.get(name)
        if series is None:
            if len(self.series) >= MOST:
                self.left_out += 1
                return
            series = self.series[name] = Series(name)
        if "picture" in line:
            series.t.append(float(line["t"]))
            series.picture = log_dir / DIRECTORY / f"{digest_of(name)}.png"
        else:
            series.add(line)


def read_picture(path: Path) -> bytes:
    """Return a picture's bytes; raises HyperflowError if it has gone, or is none."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise HyperflowError(f"the picture {path} cannot be read: {error}") from error
    if not data.startswith(PNG) or len(data) > LARGEST:
        raise HyperflowError(f"{path} is no picture")
    return data


def _files(log_dir: Path) -> list[Path]:
    try:
        return sorted(log_dir.glob(f"{DIRECTORY}*.jsonl"))
    except OSError:
        return []
