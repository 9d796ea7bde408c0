"""Checkpoint directories as such: which one an evaluation gets.

A call in a memoized computation is known by that computation's key, its function's name, its arguments and what the
function captured; so a later run finds it. (Rejected: its place in the order of evaluations, which varies as soon as
flows run side by side. It would find what another call has left.) The number tells equal calls apart.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import shutil
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

from hyperflow import private
from hyperflow.database import keys, workdir
from hyperflow.database.ownership import Owner, Ownership
from hyperflow.database.values import codec_for
from hyperflow.errors import ConfigurationError, DatabaseError, HyperflowError, SerializationError
from hyperflow.files import read_text
from hyperflow.head.streams import CalledWith
from hyperflow.program import ProgramInfo
from hyperflow.shipping import captures, pickler
from hyperflow.shipping.packer import take_apart

logger = logging.getLogger("hyperflow")

MAP = workdir.CHECKPOINTS


def as_value(path: Path) -> str:
    """Return what is recorded of a directory."""
    return codec_for(str).encode(str(path))


class Directories:
    """The checkpoint directories of one run."""

    def __init__(self, program: ProgramInfo) -> None:
        self.given: dict[int, Path] = {}
        """By the evaluation's number."""
        self._place = program.data_dir / workdir.CHECKPOINT_DIRS
        self._run = os.urandom(4).hex()  # a program may go on in its directory, with the same numbers
        self._job = os.environ.get("SLURM_JOB_ID", "")
        self._owner = f"{program.program_id}, Slurm job {self._job}" if self._job else program.program_id
        self._owned: dict[Path, Ownership] = {}
        self._texts: dict[int, str] = {}  # under which those of memoized computations are recorded
        self._passing: set[int] = set()  # those that go when the run ends, at the latest

    def text(self, number: int, key: tuple[str, str], call: CalledWith) -> str:
        """Return under what the directory is recorded of a call that is part of a memoized one."""
        about, taken = in_short(call), set(self._texts.values())
        texts = (keys.encode((*key, about, which), MAP) for which in itertools.count())
        self._texts[number] = text = next(text for text in texts if text not in taken)
        return text

    def take(self, number: int, text: str = "", recorded: str | None = None) -> tuple[Path, bool]:
        """Give an evaluation a directory: the recorded one if it can be; return whether it is to be recorded."""
        old = None if recorded is None else self._usable(Path(codec_for(str).decode(recorded)))
        new = None if old is not None or not text else self._usable(self._made(workdir.dir_name(text)))
        self.given[number] = path = old or new or self._made(f"{self._run}-{number}")
        return path, new is not None

    def copy(self, number: int) -> None:
        """This one is the copy of a straggler: what it leaves is nobody's."""
        self._passing.add(number)

    def ended(self, number: int) -> Path | None:
        """An evaluation has ended; return its directory."""
        self._texts.pop(number, None)
        self._passing.discard(number)
        return self.given.pop(number, None)

    def remove(self, path: Path) -> None:
        """Remove a directory that nobody needs any more."""
        with suppress(OSError):
            shutil.rmtree(path)
        if (owned := self._owned.pop(path, None)) is not None:
            owned.release()

    def close(self) -> None:
        """Let other runs have what is left."""
        for number in self._passing & self.given.keys():
            self.remove(self.given[number])
        for owned in self._owned.values():
            owned.release()
        with suppress(OSError):
            self._place.rmdir()  # if there is nothing in it

    def _made(self, name: str) -> Path:
        path = self._place / name
        workdir.make(path)
        return path

    def _usable(self, path: Path) -> Path | None:
        """Return a directory if it is there and ours alone."""
        try:
            private.Held.open(path).close()
        except ConfigurationError:  # it was removed, mostly
            return None
        if path in self._owned:
            return path
        try:
            self._owned[path] = self._acquired(path)
        except HyperflowError as error:
            logger.warning("an evaluation begins with an empty checkpoint directory: %s", error)
            return None
        return path

    def _acquired(self, path: Path) -> Ownership:
        try:
            return Ownership.acquire(path, self._owner)
        except DatabaseError:
            lock = path.with_name(f"{path.name}.lock")
            owner = Owner.from_text(read_text(lock))
            # Slurm starts a job again only when it has ended, maybe on another node.
            if not self._job or owner is None or owner.program != self._owner or owner.pid == os.getpid():
                raise
            lock.unlink(missing_ok=True)
            return Ownership.acquire(path, self._owner)


def in_short(call: CalledWith) -> str:
    """Return what tells a call from others: the function's name, what it captured, and the arguments."""
    fn, args, kwargs = take_apart(*call)
    captured: list[Any] = [getattr(fn, "__defaults__", None), getattr(fn, "__kwdefaults__", None)]
    captured += [captures.contents(cell) for cell in getattr(fn, "__closure__", None) or ()]
    name = str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)
    if isinstance(fn, types.FunctionType) and "<" in name:  # many have this name
        captured.append(fn.__code__.co_code)
    content = [args, dict(kwargs), captured]
    try:
        text = keys.encode(content, MAP)
    except SerializationError:  # this may differ from run to run: then the later one does not find it
        text = pickler.by_value(content).hex()
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{getattr(fn, '__module__', '')}.{name}-{digest}"
