"""What is recorded of a task, in the results database of its job: how it ended, and what it has written.

Two maps: TASKS, from [number, key] to its newest record; OUTPUT, from [number, token, stream, place in it] to a piece.
A token names one try of one task, and a record has the token of its last try: so what earlier tries, or copies, have
written beside it is never mixed with that, and nothing has to be removed.

Values are JSON, as all of the database: a piece is a text where it is UTF-8, which takes as many bytes as it has, else
base64. They are written here and not by the database's own writer, which takes longer for a class.
"""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import attrs

TASKS, OUTPUT = "array tasks", "array output"
"""The names of the maps."""

Stream: TypeAlias = Literal["out", "err"]
State: TypeAlias = Literal["waiting", "running", "done", "failed", "skipped", "cancelled"]
"""`skipped`: something that it comes after has failed."""

PIECE = 1 << 16
"""Bytes of a piece of output, at most."""

MOST_OUTPUT = 1 << 26
"""Bytes that are kept of each stream of a task; what is beyond them is counted."""


@attrs.frozen
class TaskRecord:
    """How a task ended, and what it used.

    Args:
        state: "done", "failed", "skipped" or "cancelled".
        exit_code: Of the command; minus the signal that ended it; None where it did not end by itself.
        seconds: From start to end of its last try.
        cpu_seconds: User and system time in it.
        memory: Bytes, of its largest process.
        node: Where the last try ran.
        tries: How many there were.
        error: What went wrong, in a line; "" where nothing did.
        out: Bytes that it wrote to its output, kept or not; `err`: to its error output.
        token: Of its last try; "" where that is not known, because nothing of it came home.
    """

    state: State
    exit_code: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0
    node: str = ""
    tries: int = 1
    error: str = ""
    out: int = 0
    err: int = 0
    token: str = ""

    def text(self) -> str:
        """Return it as the database has it."""
        error = f',"error":{_quoted(self.error)}' if self.error else ""
        return (
            f'{{"state":"{self.state}","exit_code":{"null" if self.exit_code is None else self.exit_code},'
            f'"seconds":{self.seconds:.6g},"cpu_seconds":{self.cpu_seconds:.6g},"memory":{self.memory},'
            f'"node":{_known(self.node)},"tries":{self.tries},"out":{self.out},"err":{self.err},'
            f'"token":"{self.token}"{error}}}'
        )

    @classmethod
    def of(cls, text: str) -> TaskRecord:
        """Return the record of a text; raises ValueError for what is none."""
        try:
            return cls(**json.loads(text))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{text!r:.100} is no record of a task") from error


_STATES: dict[str, State] = {state: state for state in get_args(State)}


def state_in(text: str) -> State:
    """Return the state in a record's text: quicker than to make the record."""
    word = text[len('{"state":"') :].partition('"')[0]
    return _STATES[word] if text.startswith('{"state":"') and word in _STATES else TaskRecord.of(text).state


def task_key(number: int, key: str) -> str:
    """Return the key of a task's record in TASKS."""
    return f"[{number},{_quoted(key)}]"


def piece_key(number: int, token: str, stream: str, place: int) -> str:
    """Return the key of a piece in OUTPUT."""
    return f'[{number},"{token}","{stream}",{place}]'


def beginning(number: int) -> str:
    """Return how the keys of a task begin, in either map."""
    return f"[{number},"


def number_of(key: str) -> int:
    """Return the number of the task that a key of either map is about."""
    return int(key[1 : key.index(",")])


def piece_text(data: bytes) -> str:
    """Return a piece as the database has it."""
    try:
        return _quoted(data.decode())
    except UnicodeDecodeError:
        return f'{{"!bytes":"{base64.b64encode(data).decode()}"}}'


def piece_of(text: str) -> bytes:
    """Return the piece of a text; raises ValueError for what is none."""
    found: Any = json.loads(text)
    if isinstance(found, str):
        return found.encode()
    if isinstance(found, dict) and isinstance(coded := found.get("!bytes"), str):
        return base64.b64decode(coded, validate=True)
    raise ValueError(f"{text!r:.100} is no piece of output")


_quoted = json.JSONEncoder(ensure_ascii=False).encode
_known = lru_cache(maxsize=4096)(_quoted)
