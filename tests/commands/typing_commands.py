"""The installed command, as a user types it in a directory of the test's own."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hyperflow.commands.starts import Start

HYPERFLOW = str(Path(sys.executable).with_name("hyperflow"))

SHOW = [
    sys.executable,
    "-S",
    "-c",
    "import os, sys; os.write(1, repr([os.fsencode(w) for w in sys.argv[1:]]).encode() + b'\\n')",
]
"""A command that prints its arguments, byte for byte."""


class Typed(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


def type_in(place: Path, *words: str, text: str | bytes | None = None, **more: Any) -> Typed:
    """Type a command and wait for it."""
    data = text.encode() if isinstance(text, str) else text
    how: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    done = subprocess.run(
        [HYPERFLOW, *words], cwd=place, capture_output=True, timeout=55, check=False, env={**os.environ, **more}, **how
    )
    return Typed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


@contextmanager
def typing(place: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Have a command running, in a session of its own."""
    with subprocess.Popen([HYPERFLOW, *words], cwd=place, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def run_of(place: Path) -> Path:
    """Return the directory of the newest run."""
    return max((place / "hyperflow-runs").iterdir())


def start_of(home: Path) -> Start:
    """Return its newest start."""
    start = Start.read(home / "array")
    assert start is not None
    return start


def numbers(file: Path) -> Sequence[int]:
    """Return the numbers that tasks have added to a file, sorted."""
    return sorted(map(int, file.read_text().split()))
