"""Pages that are made from the code: the API, the command line, the configuration, the errors. They are not in git."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import attrs
from cyclopts.docs.markdown import generate_markdown_docs

import hyperflow
from hyperflow.cli.main import command_line
from hyperflow.config import PREFIX, Settings
from hyperflow.errors import HyperflowError


def api() -> str:
    """Return the page of all public names but the errors."""
    parts = ["# API", "", "```{eval-rst}", ".. currentmodule:: hyperflow", ""]
    for name in sorted(hyperflow.__all__, key=str.lower):
        found = getattr(hyperflow, name)
        if inspect.isclass(found) and not issubclass(found, Exception):
            parts += [f".. autoclass:: {name}", "   :members:", ""]
        elif inspect.isroutine(found):
            parts += [f".. autofunction:: {name}", ""]
    return "\n".join([*parts, "```", ""])


def errors() -> dict[str, str]:
    """Return a page for each error, and one that lists them as a tree."""
    found = {name: getattr(hyperflow, name) for name in hyperflow.__all__}
    classes = {name: one for name, one in found.items() if inspect.isclass(one) and issubclass(one, HyperflowError)}
    pages: dict[str, str] = {}
    for name in classes:
        pages[name] = f"# {name}\n\n```{{eval-rst}}\n.. autoexception:: hyperflow.{name}\n   :show-inheritance:\n```\n"
    tree = inspect.getdoc(importlib.import_module("hyperflow.errors")) or ""
    names = "\n".join(sorted(classes))
    pages["index"] = f"# Errors\n\n```\n{tree}\n```\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"
    return pages


def configuration() -> str:
    """Return the page of the settings."""
    module = inspect.getdoc(importlib.import_module("hyperflow.config")) or ""
    head = ["# Configuration", "", module.partition("\n\n")[0], ""]
    rows = [f"| `{one.name}` | `{PREFIX}{one.name.upper()}` | `{one.default!r}` |" for one in attrs.fields(Settings)]
    table = ["| key | variable | default |", "|---|---|---|", *rows, ""]
    return "\n".join([*head, *table, "```{eval-rst}", ".. autoclass:: hyperflow.config.Settings", "```", ""])


def commands() -> str:
    """Return the page of the command line."""
    return generate_markdown_docs(command_line(), recursive=True, generate_toc=False)


def write(app: Any) -> None:
    """Write them, as far as they have changed."""
    place = Path(app.srcdir) / "reference"
    pages = {"api": api(), "commands": commands(), "configuration": configuration()}
    pages |= {f"errors/{name}": text for name, text in errors().items()}
    for name, text in pages.items():
        file = place / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before they are read."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
