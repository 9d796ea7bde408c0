"""Capsules: failed evaluations on the disk, each with all that is needed to run it again.

    <log directory>/capsules/7.hfc      evaluation 7: a checked file; its header is for people, its payload is the call
    f.hfc                               the same, saved: a program, which `python f.hfc` runs

Guarantees:
- What another user could have written, what was cut, altered or comes from another version is told, before a byte of
  its payload is unpickled.
- A run leaves at most MOST of them and TOTAL bytes; a few more where several workers fail in the same moment.
- Variables of the environment are not in it: they hold secrets.

A saved capsule is a text: who opens it in an editor, or gets it by mail, reads in its first lines that it is a program.
(Rejected: a zip file with a `__main__.py`. Nobody sees what it is, and Python runs one that was cut as if it were a
script, and says that it has null bytes.)
"""

from __future__ import annotations

import base64
import binascii
import os
import pickle
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from hyperflow import checked_files, files
from hyperflow._version import __version__
from hyperflow.checked_files import Damaged
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.private import Held

FORMAT = 1
"""Goes up with incompatible changes only."""

DIRECTORY = "capsules"

MOST = 100
"""So many failed evaluations of a run leave a capsule."""

LARGEST = 64_000_000
"""Bytes of one."""

TOTAL = 256_000_000
"""Bytes of all of a run."""

LONGEST = 50_000
"""Characters of a text in the header that are kept."""


class Full(HyperflowError):
    """No capsule is left, because there are enough, or because it would be too large."""


class About(NamedTuple):
    """What a person may want to know of a failed evaluation.

    Args:
        task: Its number.
        error: What it raised, in a line; `trace`: its traceback.
        program: The id of its run.
        service_id: The name of its worker.
        directory: Where it ran.
        made: When it failed, in seconds since 1970.
        versions: Of the packages that it had imported.
        arguments_as_left: Whether arrays among its arguments are as the function left them, and not as it got them.
    """

    task: int
    function: str
    error: str
    trace: str
    program: str
    service_id: str
    node: str
    cpus: tuple[int, ...]
    log_file: str
    directory: str
    sys_path: tuple[str, ...]
    made: float
    hyperflow: str
    python: str
    versions: dict[str, str]
    arguments_as_left: bool


Bytes: TypeAlias = bytes | memoryview


class Pickle(NamedTuple):
    """A pickle, and the contents of arrays that go beside it."""

    data: Bytes
    buffers: Sequence[Bytes]

    def copy(self) -> tuple[bytes, list[bytes]]:
        """Return it as it is written."""
        return bytes(self.data), [bytes(each) for each in self.buffers]


class Source(NamedTuple):
    """A file of the user's that the worker had imported, or the script's."""

    module: str
    file: str
    is_package: bool
    text: str


class Call(NamedTuple):
    """The call itself.

    Args:
        needs: What has to be there before the function: classes of the script, and values of `hyperflow.put`; each with
            its shape.
        random: The states of the global generators when it began, pickled; b"" if they were not noted.
        stream: What its `seed_sequence()` is made of; empty if it had not asked.
    """

    needs: list[tuple[int, Pickle]]
    function: Pickle
    arguments: Pickle
    random: bytes
    stream: tuple[int, ...]
    sources: list[Source]

    @property
    def size(self) -> int:
        """Bytes, without sources."""
        pickles = [*(pickle for _, pickle in self.needs), self.function, self.arguments]
        return sum(len(each.data) + sum(map(len, each.buffers)) for each in pickles)


class Capsule(NamedTuple):
    """A failed evaluation; `payload` is its pickled Call, which is read when it is to run."""

    about: About
    payload: bytes

    def call(self) -> Call:
        """Read what was called; raises Damaged."""
        try:
            needs, function, arguments, states, stream, sources = pickle.loads(self.payload)
            return Call(
                [(int(shape), Pickle(*each)) for shape, each in needs],
                Pickle(*function),
                Pickle(*arguments),
                states,
                tuple(stream),
                [Source(*each) for each in sources],
            )
        except Exception as error:
            raise Damaged(f"the capsule of evaluation {self.about.task} makes no sense: {error!r}") from error

    def contents(self) -> bytes:
        """Return what its file holds."""
        told = {"format": FORMAT, **self.about._asdict()}
        return checked_files.with_checksum("capsule", self.payload, told)


def of(about: About, call: Call) -> Capsule:
    """Make a capsule; raises Full if it is too large."""
    if call.size > LARGEST:
        raise Full(f"what was called has {call.size:,} bytes, and a capsule at most {LARGEST:,}")
    plain = (
        [(shape, each.copy()) for shape, each in call.needs],
        call.function.copy(),
        call.arguments.copy(),
        call.random,
        call.stream,
        [tuple(each) for each in call.sources],
    )
    about = about._replace(function=about.function[:LONGEST], error=about.error[:LONGEST], trace=about.trace[-LONGEST:])
    return Capsule(about, pickle.dumps(plain, pickle.HIGHEST_PROTOCOL))


def in_a_line(kind: str, text: str) -> str:
    """Return what an error says, in a line."""
    return " ".join(f"{kind.removeprefix('builtins.')}: {text}".split())


# ---- in a run's directory --------------------------------------------------------------------------------------------


def room_in(log_dir: Path) -> int:
    """Return how many bytes the next capsule may have; raises Full."""
    sizes: list[int] = []
    with suppress(FileNotFoundError), os.scandir(log_dir / DIRECTORY) as found:
        sizes = [entry.stat(follow_symlinks=False).st_size for entry in found]
    if len(sizes) >= MOST:
        raise Full(f"{MOST} failed evaluations of this run have left theirs")
    if sum(sizes) >= TOTAL:
        raise Full(f"those of this run have {TOTAL:,} bytes already")
    return TOTAL - sum(sizes)


def clear(log_dir: Path) -> None:
    """Remove those of an earlier start of a run: the numbers of evaluations begin anew."""
    files.remove_tree(log_dir / DIRECTORY)


def leave(log_dir: Path, capsule: Capsule) -> None:
    """Write a capsule into a run's log directory, in the place of one of an earlier try.

    Raises Full, ConfigurationError if the directory is not private, or OSError.
    """
    data = capsule.contents()
    if len(data) > room_in(log_dir):
        raise Full(f"those of this run would have more than {TOTAL:,} bytes")
    with Held.open(log_dir) as above, above.make(DIRECTORY) as directory:
        # Not durable: what a crash of the machine loses of it, nothing depends on.
        files.write_whole((directory / f"{capsule.about.task}.hfc").through, data, durable=False)


def find(log_dir: Path, task: int) -> Capsule | None:
    """Return the capsule that an evaluation has left; None if there is none.

    Raises:
        Damaged: It is not as it was written, of another version, or another user could have written it.
        ConfigurationError: The directory is not private.
    """
    try:
        with Held.open(log_dir) as above, above.enter(DIRECTORY) as directory:
            place = directory / f"{task}.hfc"
            header, payload = checked_files.read_checked(place, "capsule", {"task": task})
            return Capsule(_about(header, str(place)), payload)
    except FileNotFoundError:
        return None
    except ConfigurationError:
        if not log_dir.is_dir():
            return None
        raise
    except OSError as error:
        raise Damaged(f"the capsule of evaluation {task} cannot be read: {error}") from error


_TEXTS = ("function", "error", "trace", "program", "service_id", "node", "log_file", "directory", "hyperflow", "python")
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,100}")


def _about(header: dict[str, Any], name: str) -> About:
    """Return what a header tells; raises Damaged if it makes no sense, or this version cannot know what it means."""
    try:
        if header["format"] > FORMAT:
            raise ValueError(f"it was written by hyperflow {_version(header['hyperflow'])}, and this is {__version__}")
        told = {field: header[field] for field in About._fields}
        if not all(type(told[field]) is str for field in _TEXTS):
            raise TypeError("what should be texts are none")
        for field in ("hyperflow", "python"):
            _version(told[field])
        versions = {str(package): str(version) for package, version in told["versions"].items()}
        made: dict[str, Any] = {
            "task": int(told["task"]),
            "cpus": tuple(map(int, told["cpus"])),
            "sys_path": tuple(map(str, told["sys_path"])),
            "made": float(told["made"]),
            "versions": versions,
            "arguments_as_left": bool(told["arguments_as_left"]),
        }
        return About(**(told | made))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Damaged(f"{name} is no capsule that this version can read: {error}") from error


def _version(text: object) -> str:
    if not isinstance(text, str) or _VERSION.fullmatch(text) is None:
        raise ValueError("its version is none")
    return text


def misfit(about: About) -> str:
    """Say why a capsule cannot run here; "" if it can: its pickles and code objects are of one version."""
    here = _minor(sys.version)
    if _minor(about.python) != here:
        return (
            f"it was made by Python {about.python}, and this is {here}: the code in it is for the former only; type: "
            f"python{_minor(about.python)} -m hyperflow debug ..., or have that run the saved file"
        )
    if about.hyperflow != __version__:
        return (
            f"it was made by hyperflow {about.hyperflow}, and this is {__version__}; in an environment of its own, "
            f"type: pip install hyperflow=={about.hyperflow}"
        )
    return ""


def _minor(version: str) -> str:
    return ".".join(version.split(maxsplit=1)[0].split(".")[:2])


# ---- as a file to be given away --------------------------------------------------------------------------------------

_MARK = b"# ---- the call, as base64 of a checked file of hyperflow ----\n"

_PROGRAM = """\
# A function call that failed in a run of hyperflow, with all that it needs. To run it again: python FILE [--step]
# THIS FILE IS A PROGRAM. It can do all that you can do: run it only if you know whom it comes from.
import sys

try:
    from hyperflow.debugging.again import main
except ImportError as error:
    sys.exit(f"{{__file__}} needs hyperflow {version} ({{error}}); type: pip install hyperflow=={version}")
sys.exit(main(__file__))
"""

_PIECE = 60_000
"""Bytes in a line."""


def save(capsule: Capsule, path: Path) -> None:
    """Write a file that `python` runs; raises ConfigurationError if there is one of that name, or it cannot be."""
    data = capsule.contents()
    pieces = [b"#" + base64.b64encode(data[at : at + _PIECE]) + b"\n" for at in range(0, len(data), _PIECE)]
    program = _PROGRAM.format(version=capsule.about.hyperflow).encode()
    try:
        files.put_new(path.absolute(), b"".join([program, _MARK, *pieces]))
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already; name another file") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error


def saved(path: Path) -> Capsule:
    """Return the capsule in a saved file, which may have come from anywhere: what is in it is not unpickled here.

    Raises Damaged, and OSError.
    """
    _, mark, lines = path.read_bytes().partition(_MARK)
    try:
        if not mark:
            raise ValueError("there is no call in it")
        data = b"".join(base64.b64decode(line[1:].strip(), validate=True) for line in lines.splitlines())
    except (ValueError, binascii.Error) as error:
        raise Damaged(f"{path} is damaged: it was cut short or altered ({error})") from error
    return Capsule(*_taken_apart(data, str(path)))


def _taken_apart(data: bytes, name: str) -> tuple[About, bytes]:
    header, payload = checked_files.taken_apart(data, name, "capsule")
    return _about(header, name), payload
