"""Texts with placeholders: `./simulate {line} --seed {n}`, and what stands in their places for one task.

Guarantees: what is filled in stays one argument, or part of one: it is never split, and no shell sees it. A placeholder
that there is not, and a brace by itself, are refused when the text is read, and not at the task that meets it.

Rejected: str.format, whose `{line.x}`, `{line!r}` and `{0}` reach into what they are given; a language with steps of
its own (`{.}`, `{/}`): who needs it writes a script, and runs that.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

import attrs

from hyperflow.errors import ConfigurationError
from hyperflow.saying import printable, short_repr

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

JSON = "json."
"""What the names of placeholders begin with that stand for a member of an object."""


@attrs.frozen
class Template:
    """A text: its pieces, and the names of what comes between them; `{n}.dat` is ("", ".dat") and ("n",)."""

    pieces: tuple[str, ...]
    names: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str, known: Collection[str]) -> Template:
        """Read a text.

        Args:
            text: With placeholders; `{{` and `}}` stand for braces.
            known: The names of placeholders; "json.*" for each that begins so.

        Raises:
            ConfigurationError: A placeholder is none of these, or a brace stands by itself.
        """
        pieces, names, at = [""], list[str](), 0
        for found in _PART.finditer(text):
            pieces[-1] += text[at : found.start()]
            at, name = found.end(), found[1]
            if name is not None:
                _check(name, text, known)
                names.append(name)
                pieces.append("")
            elif len(found[0]) == 2:
                pieces[-1] += found[0][0]
            else:
                raise ConfigurationError(
                    f"{short_repr(text, 100)} has a brace by itself; write {found[0] * 2} for a brace that stays one"
                )
        pieces[-1] += text[at:]
        return cls(tuple(pieces), tuple(names))

    @property
    def is_plain(self) -> bool:
        """Whether it is the same for all tasks."""
        return not self.names

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text of one task; raises KeyError if it has no such value."""
        if not self.names:
            return self.pieces[0]
        text = [self.pieces[0]]
        for name, piece in zip(self.names, self.pieces[1:], strict=True):
            text += (values[name], piece)
        return "".join(text)


def escaped(text: str) -> str:
    """Return what stands for this very text, whatever braces it has."""
    return text.replace("{", "{{").replace("}", "}}")


def meant(name: str, known: Collection[str]) -> str:
    """Return the question whether another name was meant; "" if none is like it."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f" Did you mean {printable(close[0])}?" if close else ""


def _check(name: str, text: str, known: Collection[str]) -> None:
    if name in known or (name.startswith(JSON) and len(name) > len(JSON) and f"{JSON}*" in known):
        return
    plain = [f"{{{each}}}" for each in sorted(known) if not each.endswith("*")]
    there = " and ".join([*plain, *(["{json.KEY}"] if f"{JSON}*" in known else [])])
    what = f"{{{printable(name)}}} in {short_repr(text, 100)} is no placeholder"
    braces = f"rite {printable(escaped('{' + name + '}'))} for braces that stay braces"
    if not name:  # as in parallel and xargs
        raise ConfigurationError(f"{what}: there is {there}. Did you mean {_first(known)}? W{braces}")
    if re.search(r"\s", name):
        raise ConfigurationError(f"{what}: there is {there}; w{braces}")
    raise ConfigurationError(f"{what} here: there is {there}.{_hint(name, known, plain)} W{braces}")


def _first(known: Collection[str]) -> str:
    """Return what stands for the whole of what a task is made of."""
    return "{line}" if "line" in known else "{json.KEY}" if f"{JSON}*" in known else "{n}"


def _hint(name: str, known: Collection[str], plain: Collection[str]) -> str:
    """Return what to write in place of a name that is none, or what it would need; "" if nothing is like it."""
    if name == "line":
        return " {line} needs --each-line."
    if name.startswith(JSON) and f"{JSON}*" not in known:
        return f" {{{printable(name)}}} needs --each-json."
    if name.lower() in known:
        return f" Did you mean {{{name.lower()}}}?"
    close = meant("{" + name + "}", plain)
    if f"{JSON}*" in known and name.isidentifier():
        return f" Did you mean {{json.{name}}}?"
    return close or (meant("{" + name + "}", ["{json.KEY}"]) if f"{JSON}*" in known else "")
