"""What a command has made in its sandbox: found by name, and refused where it is not what was asked for.

Guarantees: nothing is taken that is outside of the sandbox, except what its own inputs lead to. Nothing is opened that
is no ordinary file. A link within an output stays one; another one is followed.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Collection, Iterator

import attrs

from hyperflow.staging.naming import Wanted
from hyperflow.staging.parts import EntryKind

MOST_SHOWN = 10
"""Names of what is there instead."""

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Unfit(Exception):
    """An output is not there, or is something else; the text says what, and what to do."""


@attrs.frozen
class Found:
    """A file, directory or link of an output: its place in it, and where it is."""

    name: str
    kind: EntryKind
    path: str
    mode: int = 0o644
    target: str = ""


class Made:
    """What is in a sandbox.

    Args:
        home: The directory of the command.
        inputs: What was there before, as names.
        known: Where inputs lead to.
    """

    def __init__(self, home: str, inputs: Collection[str], known: Collection[str]) -> None:
        self._home = os.path.realpath(home)
        self._inputs = inputs
        self._known = [os.path.realpath(path) for path in known]

    def find(self, wanted: Wanted) -> list[Found]:
        """Return all of an output, directories before what is in them; raises Unfit."""
        if wanted.kind == "files":
            return self._matches(wanted)
        path = os.path.join(self._home, wanted.name)
        if not os.path.lexists(path):
            raise Unfit(f"it was never made; {self._instead()}")
        real = self._resolved(path, wanted.name)
        if wanted.kind == "file":
            return [self._file("", real, wanted.name)]
        if not os.path.isdir(real):
            raise Unfit(
                f"it is {what_is(real)}, and not a directory; for a file, write it without the slash at its end"
            )
        return list(self._tree(real, wanted.name))

    def _matches(self, wanted: Wanted) -> list[Found]:
        names = sorted(glob.iglob(wanted.name, root_dir=self._home, recursive=True))
        names = [name for name in names if os.path.normpath(name) not in self._inputs]
        paths = {name: self._resolved(os.path.join(self._home, name), name) for name in names}
        found = [self._file(name, path, name) for name, path in paths.items() if not os.path.isdir(path)]
        if not found:
            only = f"only directories fit it ({', '.join(map(repr, names[:3]))}); " if names else ""
            raise Unfit(f"{only}no file that the command has made fits it; {self._instead()}")
        return found

    def _file(self, name: str, real: str, shown: str) -> Found:
        status = os.lstat(real)
        if stat.S_ISDIR(status.st_mode):
            raise Unfit(f"{shown!r} is a directory, and a file is wanted; for all of it, write '{shown}/'")
        if not stat.S_ISREG(status.st_mode):
            raise Unfit(f"{shown!r} is {what_is(real)}; only files, directories and links to them can come")
        return Found(name, "file", real, stat.S_IMODE(status.st_mode) & 0o777)

    def _tree(self, root: str, shown: str) -> Iterator[Found]:
        waiting = [""]
        while waiting:
            above = waiting.pop()
            place = os.path.join(root, above) if above else root
            yield Found(above, "directory", place, stat.S_IMODE(os.lstat(place).st_mode) & 0o777)
            with os.scandir(place) as entries:
                below = sorted(entries, key=lambda entry: entry.name)
            for entry in below:
                name = os.path.join(above, entry.name)
                if entry.is_symlink():
                    yield self._link(name, entry.path, root, os.path.join(shown, name))
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                else:
                    yield self._file(name, entry.path, os.path.join(shown, name))

    def _link(self, name: str, path: str, root: str, shown: str) -> Found:
        real = self._resolved(path, shown)
        if _is_within(real, root):
            target = os.path.relpath(real, os.path.dirname(os.path.join(root, name)))
            return Found(name, "link", path, target=target)
        if os.path.isdir(real):
            raise Unfit(f"{shown!r} is a link to a directory that is not part of this output ({os.readlink(path)!r})")
        return self._file(name, real, shown)

    def _resolved(self, path: str, shown: str) -> str:
        """Return what a path leads to; raises Unfit if that is outside or not there."""
        try:
            real = os.path.realpath(path, strict=True)
        except OSError as error:
            leads = f"a link to {os.readlink(path)!r}" if os.path.islink(path) else "gone"
            raise Unfit(f"{shown!r} is {leads}, which leads nowhere: {error.strerror}") from None
        if _is_within(real, self._home) or any(_is_within(real, known) for known in self._known):
            return real
        raise Unfit(
            f"{shown!r} leads out of the command's directory, to {real}: only what is in there can come; let the "
            "command copy it"
        )

    def _instead(self) -> str:
        """Say what the command has left."""
        names: list[str] = []
        for place, directories, files in os.walk(self._home):
            directories.sort()
            relative = os.path.relpath(place, self._home)
            names += (os.path.normpath(os.path.join(relative, name)) for name in sorted(files))
            if not directories and not files and relative != ".":
                names.append(f"{relative}/")
            if len(names) > 2 * MOST_SHOWN + len(self._inputs):
                break
        names = [name for name in names if name not in self._inputs]
        if not names:
            return "the command has made no file in its directory; is it written somewhere else?"
        more = ", ..." if len(names) > MOST_SHOWN else ""
        return f"there is: {', '.join(map(repr, names[:MOST_SHOWN]))}{more}"


def what_is(path: str) -> str:
    """Say what something is, as far as it is no file."""
    mode = os.lstat(path).st_mode
    return next((said for is_it, said in _KINDS if is_it(mode)), "a file" if stat.S_ISREG(mode) else "something else")


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
