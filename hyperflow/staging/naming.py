"""What the files of a command are called in its sandbox, and where its outputs come: known before anything runs.

Guarantees: names stay in the sandbox; no two files have one name there; a word that is a file's name never looks like
an option. What makes no sense is refused here, with what to write instead.

Why at home and not on the worker: errors come before any work, a command is shown with the words that it gets, and
where outputs come can be compared with those of other commands.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import attrs

from hyperflow.errors import ConfigurationError, MisuseError
from hyperflow.saying import kind_name
from hyperflow.staging.file import File, is_url
from hyperflow.staging.output import Keep, Output

Kind: TypeAlias = Literal["file", "directory", "files"]
Word: TypeAlias = "str | os.PathLike[str] | File | Output"
Given: TypeAlias = "str | os.PathLike[str] | File"
Inputs: TypeAlias = "Mapping[str, Given] | Sequence[Given]"
Outputs: TypeAlias = "Sequence[str | os.PathLike[str] | Output]"

_GLOB = re.compile(r"[*?\[]")


@attrs.frozen
class Wanted:
    """An output.

    Args:
        asked: What the user calls it; its key in `CommandResult.files`.
        name: What it is called in the sandbox; of several ("files"), a pattern.
        kind: "file", "directory", or "files": all that fit a pattern.
        place: Where it comes, absolute; of several, the directory to which their names in the sandbox are relative.
        keep: Whether it comes home or stays on the node.
        on_failure: Whether it comes only when the command has failed.
    """

    asked: str
    name: str
    kind: Kind
    place: str
    keep: Keep = "home"
    on_failure: bool = False


@attrs.frozen(repr=False)
class Plan:
    """A command as it runs in its sandbox: its words, what is there before, what is taken from there.

    `stdin` and `stdout` are names in the sandbox; "" where they are none.
    """

    words: tuple[str, ...]
    inputs: Mapping[str, File] = attrs.field(factory=dict[str, File])
    outputs: tuple[Wanted, ...] = ()
    stdin: str = ""
    stdout: str = ""

    @property
    def at_home(self) -> list[Wanted]:
        """Return the outputs that come home."""
        return [wanted for wanted in self.outputs if wanted.keep == "home"]

    def __repr__(self) -> str:
        return repr(list(self.words))


class Planner:
    """Gives names to the files of one command.

    Args:
        base: The directory that relative paths mean.
    """

    def __init__(self, base: str) -> None:
        self.base = base
        self.inputs: dict[str, File] = {}
        self.outputs: dict[str, Wanted] = {}
        self._sources: dict[str, str] = {}  # what is in the sandbox already, by its source
        self._above: set[str] = set()  # directories in which names are

    def plan(self, words: Iterable[str], stdin: str = "", stdout: str = "") -> Plan:
        """Return all that was named."""
        return Plan(tuple(words), dict(self.inputs), tuple(self.outputs.values()), stdin, stdout)

    def add_inputs(self, inputs: Inputs | None) -> None:
        """Take the files that the command needs; a mapping says what each is called.

        Of a sequence, a relative path is called that, and all else by its last part.
        """
        if inputs is None:
            return
        if isinstance(inputs, (str, bytes, os.PathLike, File)):
            raise MisuseError(f"inputs={inputs!r} is one file: write inputs=[...], or inputs={{name: file}}")
        if isinstance(inputs, Mapping):
            for name, given in inputs.items():
                checked = inside(name, "inputs")
                self._claim(checked, f"inputs={{{name!r}: ...}}")
                self.inputs[checked] = self.file(given)
            return
        for given in inputs:
            text = "" if isinstance(given, File) else os.fspath(given)
            if not text or not _is_inside(text) or is_url(text):
                self.input(self.file(given))
                continue
            _no_nul(text, "inputs")
            for name in self._fitting(os.path.normpath(text)):
                self._claim(name, f"inputs=[{text!r}]")
                self.inputs[name] = self.file(name)

    def _fitting(self, name: str) -> list[str]:
        """Return the inputs that a name means: itself, or what fits the pattern."""
        if not _GLOB.search(name) or os.path.lexists(os.path.join(self.base, name)):
            return [name]
        if not (found := sorted(glob.glob(name, root_dir=self.base, recursive=True))):
            raise ConfigurationError(f"inputs: no file fits {name!r} in {self.base}")
        return found

    def file(self, given: Given) -> File:
        """Return what a path or URL means."""
        if isinstance(given, File):
            return given
        text = os.fspath(given)
        _no_nul(text, "inputs")
        return File(text if is_url(text) else os.path.join(self.base, text))

    def input(self, file: File) -> str:
        """Return what a file is called in the sandbox: the last part of its name, in a numbered directory if taken."""
        if (known := self._sources.get(file.source)) is None:
            known = self._free(file.name or "input")
            self._claim(known, repr(file))
            self._sources[file.source] = known
            self.inputs[known] = file
        return known

    def add_outputs(self, outputs: Outputs | None, *, on_failure: bool = False) -> None:
        """Take the files that the command makes: a text names them in the sandbox and at home alike."""
        if outputs is None:
            return
        if isinstance(outputs, (str, bytes, os.PathLike, Output)):
            raise MisuseError(f"outputs={outputs!r} is one file: write outputs=[...]")
        for given in outputs:
            if isinstance(given, Output):
                self.output(given)
                continue
            text = os.fspath(given)
            if os.path.isabs(text):
                self.output(Output(text, on_failure=on_failure))
                continue
            name = inside(text.rstrip("/"), "outputs")
            kind = _kind(text)
            place = self.base if kind == "files" else os.path.join(self.base, name)
            self._add(Wanted(text, name, kind, place, on_failure=on_failure))

    def output(self, output: Output) -> str:
        """Return what an output is called in the sandbox: the last part of where it comes."""
        asked = os.fspath(output.path)
        _no_nul(asked, "Output")
        kind, name = _kind(asked), last_part(asked)
        if name in ("", ".", ".."):
            raise ConfigurationError(f"Output({asked!r}) names no file: what is the last part of its path called?")
        if output.keep not in ("home", "node"):
            raise ConfigurationError(f'Output({asked!r}, keep={output.keep!r}): "home" or "node" is needed')
        if output.keep == "node" and kind == "directory":
            raise ConfigurationError(
                f'Output({asked!r}, keep="node"): only files stay on their node; let the command make an archive of '
                "the directory (tar), or name its files with a pattern"
            )
        above = os.path.dirname(asked.rstrip("/"))
        if kind == "files" and _GLOB.search(above):
            raise ConfigurationError(
                f"Output({asked!r}): only the last part may be a pattern; of files in several directories of the "
                f"sandbox, write the pattern as text: outputs=[{asked!r}]"
            )
        place = os.path.normpath(os.path.join(self.base, above if kind == "files" else asked))
        for other in self.outputs.values():
            if other.asked == asked:
                return other.name  # the same one, in another word
        name = name if kind == "files" else self._free(name)
        self._add(Wanted(asked, name, kind, place, output.keep, output.on_failure))
        return name

    def _add(self, wanted: Wanted) -> None:
        if wanted.asked in self.outputs:
            raise ConfigurationError(f"outputs name {wanted.asked!r} twice")
        for other in self.outputs.values():
            if other.kind != "files" != wanted.kind and other.place == wanted.place:
                raise ConfigurationError(
                    f"outputs {other.asked!r} and {wanted.asked!r} come to the same place, {wanted.place}: one would "
                    "replace the other"
                )
        if wanted.kind != "files":
            self._claim(wanted.name, f"output {wanted.asked!r}")
        self.outputs[wanted.asked] = wanted

    def _free(self, name: str) -> str:
        found, number = name, 1
        while not self._is_free(found):
            number += 1
            found = f"{number}/{name}"
        return found

    def _is_free(self, name: str) -> bool:
        taken = self.inputs.keys() | {wanted.name for wanted in self.outputs.values()}
        return name not in taken and name not in self._above and not any(above in taken for above in _above(name))

    def _claim(self, name: str, what: str) -> None:
        if not self._is_free(name):
            raise ConfigurationError(
                f"{what}: another file of this command is called {name!r} in its directory, or a directory there is; "
                "give it a name of its own: inputs={name: file}"
            )
        self._above.update(_above(name))


def as_word(name: str) -> str:
    """Return a file's name as a word of a command: it is no option."""
    return f"./{name}" if name.startswith("-") else name


def as_program(word: str, name: str) -> str:
    """Return what starts a program that is a file in the sandbox: it is not sought in PATH."""
    return word if "/" in word else f"./{name}"


def last_part(source: str) -> str:
    """Return the last part of a path or URL."""
    if is_url(source):
        source = re.split(r"[?#]", source, maxsplit=1)[0].partition("://")[2]
    name = os.path.basename(source.rstrip("/"))
    return "" if name in (".", "..") else name


def inside(name: str, where: str) -> str:
    """Return a name in the sandbox in its simplest form; raises ConfigurationError if it leads out of there."""
    _no_nul(name, where)
    if not _is_inside(name):
        raise ConfigurationError(
            f"{where}: {name!r} is to be a name in the command's own directory: relative, without `..`"
        )
    return os.path.normpath(name)


def _is_inside(name: str) -> bool:
    simple = os.path.normpath(name) if name else "."
    return not os.path.isabs(simple) and simple != "." and simple.split("/", 1)[0] != ".."


def _no_nul(text: str, where: str) -> None:
    if type(text) is not str:  # pyright: ignore[reportUnnecessaryComparison] (a path of bytes)
        raise MisuseError(f"{where}: {text!r} is {kind_name(text)}; a text or a path is needed")
    if "\0" in text:
        raise ConfigurationError(f"{where}: {text!r} has a NUL character, which no file's name can have")


def _kind(asked: str) -> Kind:
    if _GLOB.search(asked):
        if asked.endswith("/"):
            raise ConfigurationError(f"output {asked!r}: a pattern is for files; name each directory")
        return "files"
    return "directory" if asked.endswith("/") else "file"


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
