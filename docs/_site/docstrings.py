"""Docstrings and pages as Sphinx wants them: an indented block is an example, an anchor is a target."""

from __future__ import annotations

import re
from typing import Any

from sphinx.ext.napoleon import Config, GoogleDocstring

_SECTION = re.compile(r"^(Args|Arguments|Raises|Returns|Yields|Attributes|Guarantees|Example|Examples|Note):$")

_PATTERN = re.compile(r"(?<![*\w`])\*(?=\.\w)")
"""The beginning of a pattern for names of files, which is no emphasis."""


def examples(lines: list[str]) -> list[str]:
    """Return the lines with `::` before each indented block that no section begins."""
    result: list[str] = []
    inside = in_section = False
    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            in_section, inside = bool(_SECTION.match(line)), False
        if indented and not inside and not in_section and (not result or not result[-1].strip()):
            result += ["::", ""]
            inside = True
        result.append(line)
    return result


def _convert(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of a docstring in Google's style.

    Napoleon is not an extension here: it takes the beginning of an attribute's docstring, up to a colon, for its type.
    """
    lines[:] = [_PATTERN.sub(r"\\*", line) for line in examples(lines)]
    if what not in ("attribute", "property", "data"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, obj, options).lines()


def _anchors(app: Any, page: str, source: list[str]) -> None:  # noqa: ARG001 (as Sphinx calls it)
    """Make MyST's targets of anchors, which other readers of Markdown know."""
    source[0] = re.sub(r'^<a id="([\w-]+)"></a>$', r"(\1)=", source[0], flags=re.MULTILINE)


def setup(app: Any) -> dict[str, bool]:
    """Convert all docstrings, and anchors of pages."""
    app.connect("autodoc-process-docstring", _convert)
    app.connect("source-read", _anchors)
    return {"parallel_read_safe": True}
