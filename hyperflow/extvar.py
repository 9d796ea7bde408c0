"""Variables of a running program that people may read and set from outside, to steer it while it runs.

    tolerance = hf.ExtVar("tolerance", 1e-3)         at the top of a script
    await tolerance.get()                            in a flow of it, in any Job of the program
    hyperflow var set tolerance 1e-6                 in a shell, while it runs

A variable is a file of the run directory, `vars/<name>.json`, which holds its value and nothing else. When the program
first asks for it, the file is written with the default, so that `hyperflow var list` shows what can be set.

Guarantees: a reader gets a whole value, as it was set; the last write wins. Only the user can read or write the
file; no symbolic link is followed in the place of it or of its directory. Not promised: that a change is seen at once.
On a file system that several machines share it may take seconds.

Rejected: a message to the master. It may be down, or on another host, and every Job would have to ask it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from hyperflow import environment, files, private
from hyperflow.database import untagged
from hyperflow.database.values import Codec, codec_for
from hyperflow.errors import ConfigurationError, MisuseError, SerializationError

T = TypeVar("T")

PERIOD = 0.5
"""`changes` looks at the file this often, in seconds."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")

MISSING: Any = ...


class ExtVar(Generic[T]):
    """A variable of a running program that can be read and set from outside.

    Args:
        name: Letters, digits, `_`, `-` and `.`; the first one is not `-` or `.`.
        default: Its value until you set it.
        type: The type of its values, as in an annotation: `float`, `list[int]`, an attrs class. Another value that was
            set from outside is then an error; an int counts as a float. Without a type, values are plain data.

    Raises:
        MisuseError: The name has other characters.
        SerializationError: The default is not of the type, or the type cannot be stored.

    Example: `async for tolerance in ExtVar("tolerance", 1e-3, type=float).changes(): ...`
    """

    def __init__(self, name: str, default: T = MISSING, *, type: Any = Any) -> None:  # noqa: A002 (what it is)
        self.name: str = checked_name(name)
        self._codec = codec_for(type)
        self._default = None if default is MISSING else self._codec.encode(default, for_people=True)

    async def get(self) -> T:
        """Return the value, in a flow of the program; the first time, this writes the file with the default.

        Raises:
            NotInFlow: No flow runs here.
            ConfigurationError: The file is cut, not JSON or of another type; the message says what to type.
        """
        return await asyncio.to_thread(self._here().get)

    async def set(self, value: T) -> None:
        """Set the value, in a flow of the program, as `RunVar.set` does; it is on the disk when this returns."""
        await asyncio.to_thread(self._here().set, value)

    async def changes(self) -> AsyncIterator[T]:
        """Yield the value, and each new value after it; it never ends by itself.

        It looks twice a second and may skip values in between, but never the last one. A file that cannot be read is
        read once more before it is an error: an editor may be writing it.
        """
        here = self._here()
        await asyncio.to_thread(here.get)  # it is there from now on
        seen = await asyncio.to_thread(here.version)  # before the value is read, which may be a newer one then
        value = await asyncio.to_thread(here.get)
        yield value
        failed = None
        while True:
            await asyncio.sleep(PERIOD)
            version = await asyncio.to_thread(here.version)
            if version == seen and failed is None:
                continue
            try:
                newer = await asyncio.to_thread(here.get)
            except ConfigurationError:
                if failed == version:
                    raise
                failed = version
            else:
                seen, failed = version, None
                if newer != value:
                    value = newer
                    yield value

    def of(self, run: str | os.PathLike[str]) -> RunVar[T]:
        """Return the variable of a run, given its directory, to read and set it from outside; blocking.

        Example: `hf.ExtVar("tolerance", type=float).of("hyperflow-runs/20261120-101500-3f2a1b").set(1e-6)`
        """
        home = Path(run).absolute()
        if not home.is_dir():
            raise ConfigurationError(f"{home}: there is no such run directory")
        return RunVar(self.name, home, self._codec, self._default)

    def _here(self) -> RunVar[T]:
        home = environment.current(repr(self)).program.data_dir.parent  # which all Jobs of a program share
        return RunVar(self.name, home, self._codec, self._default, first=True)

    def __repr__(self) -> str:
        return f"hyperflow.ExtVar({self.name!r})"


class RunVar(Generic[T]):
    """A variable of one run; blocking. Made by `ExtVar.of`."""

    def __init__(self, name: str, home: Path, codec: Codec, default: str | None, first: bool = False) -> None:
        self.name: str = name
        self.path: Path = home / "vars" / f"{name}.json"
        self._home = home
        self._codec = codec
        self._default = default
        self._first = first

    def get(self) -> T:
        """Return the value, or the default if there is none yet; raises ConfigurationError as `ExtVar.get` does."""
        try:
            text = read(self.path)
        except FileNotFoundError:
            text = self._of_default()
        except (OSError, UnicodeDecodeError, ConfigurationError) as error:
            raise self._unreadable(str(error)) from error
        try:
            files.from_json(text)
            value: T = self._codec.decode(untagged.Text(text.strip()))
        except ValueError as error:
            raise self._unreadable(f"it is no JSON, or cut: {error}") from error
        except SerializationError as error:
            raise self._unreadable(str(error)) from error
        return value

    def set(self, value: T) -> None:
        """Set the value.

        Raises:
            SerializationError: It is not of the type.
            ConfigurationError: The file cannot be written.
        """
        write(self.path, self._codec.encode(value, for_people=True), over=True)

    def version(self) -> tuple[int, int, int] | None:
        """Return what is another after each change."""
        try:
            with _opened(self.path) as number:  # and not just asked for: NFS looks at the server then
                found = os.fstat(number)
        except (OSError, ConfigurationError):
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _of_default(self) -> str:
        if self._default is None:
            there = ", ".join(names(self._home)) or "none yet"
            raise ConfigurationError(f"the run {self._home} has no variable {self.name!r}; it has {there}")
        if self._first:
            write(self.path, self._default, over=False)
        return self._default

    def _unreadable(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"the variable {self.name!r} cannot be read from {self.path}: {why}; "
            f"to set it, type: hyperflow var set {self._home} {self.name} VALUE"
        )


def checked_name(name: str) -> str:
    """Return the name; raises MisuseError if a variable cannot have it."""
    if not NAME.fullmatch(name):
        raise MisuseError(
            f"{name!r} cannot be the name of a variable: it is a file's name, of at most 100 letters, digits, and "
            "'_', '-', '.', and does not begin with the last two"
        )
    return name


def names(home: Path) -> list[str]:
    """Return the names of a run's variables."""
    with contextlib.suppress(OSError):
        found = (entry.removesuffix(".json") for entry in os.listdir(home / "vars") if entry.endswith(".json"))
        return sorted(name for name in found if NAME.fullmatch(name))
    return []


def read(path: Path) -> str:
    """Return what a variable's file says; raises OSError, UnicodeDecodeError, ConfigurationError if it is unsafe."""
    with _opened(path) as number, open(number, encoding="utf-8", closefd=False) as file:
        return file.read()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a variable's file within a scope, in a directory that only the user can write to."""
    if not os.path.lexists(path.parent):
        raise FileNotFoundError(path)
    with private.Held.open(path.parent) as room:
        number = (room / path.name).open(os.O_RDONLY | os.O_NONBLOCK)  # somebody may have put a pipe there
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise ConfigurationError(f"{path} is no ordinary file")
        yield number
    finally:
        os.close(number)


def write(path: Path, text: str, over: bool) -> None:
    """Write a variable's file, whole or not at all; an existing one stays, except with `over`."""
    put = files.write_whole if over else files.put_new
    try:
        private.make_all(path.parent)
        with private.Held.open(path.parent) as room, contextlib.suppress(FileExistsError):
            put((room / path.name).through, f"{text}\n".encode())
    except OSError as error:
        raise ConfigurationError(f"cannot write the variable {path}: {error.strerror or error}") from error
