"""Docstrings as Sphinx wants them: an indented block is an example, and `->` in lists of names is what it is."""

from __future__ import annotations

import re
from typing import Any

_SECTION = re.compile(r"^(Args|Arguments|Raises|Returns|Yields|Attributes|Guarantees|Example|Examples|Note):$")


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


def _convert(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    lines[:] = examples(lines)


def setup(app: Any) -> dict[str, bool]:
    """Come before napoleon."""
    app.connect("autodoc-process-docstring", _convert, priority=100)
    return {"parallel_read_safe": True}
