"""The pages for programs that read text: llms.txt lists them, llms-full.txt has all of it (https://llmstxt.org)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.writers.text import TextTranslator, TextWriter


def below(env: Any, page: str) -> Iterator[str]:
    """Yield the pages below this one, in the order of the navigation."""
    for child in env.toctree_includes.get(page, ()):
        yield child
        yield from below(env, child)


def first_sentence(doctree: nodes.document) -> str:
    """Return the first sentence of a page's prose."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if text:
            return re.split(r"(?<=[.!?:])\s", text, maxsplit=1)[0]
    return ""


def listed(app: Any) -> str:
    """Return llms.txt: a line for each page, in sections as in the navigation."""
    env, root = app.env, app.config.root_doc

    def line(page: str) -> str:
        suffix = Path(env.doc2path(page)).suffix
        about = first_sentence(env.get_doctree(page))
        return f"- [{env.titles[page].astext()}](_sources/{page}{suffix}.txt)" + (f": {about}" if about else "")

    tops = list(env.toctree_includes.get(root, ()))
    sections = [page for page in tops if env.toctree_includes.get(page)]
    parts = [f"# {app.config.project}", "", f"> {first_sentence(env.get_doctree(root))}", ""]
    parts += [f"All pages in one file: [llms-full.txt](llms-full.txt). Version: {app.config.release}.", ""]
    for section in sections:
        pages = [section, *below(env, section)]
        parts += [f"## {env.titles[section].astext()}", "", *map(line, pages), ""]
    rest = [page for page in tops if page not in sections]
    return "\n".join([*parts, "## More", "", *map(line, rest), ""])


def _text(app: Any, page: str) -> str:
    """Return a page as text: as it is written, or as it reads if code makes it."""
    path = Path(app.env.doc2path(page))
    source = path.read_text()
    if path.suffix == ".rst" or "{eval-rst}" not in source:  # a program of the gallery, or a page that we wrote
        return source
    writer = TextWriter(app.builder)
    writer.document = app.env.get_and_resolve_doctree(page, app.builder)
    writer.visitor = TextTranslator(writer.document, app.builder)
    writer.document.walkabout(writer.visitor)
    return writer.visitor.body


def _write(app: Any, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    place, root = Path(app.outdir), app.config.root_doc
    place.joinpath("llms.txt").write_text(listed(app))
    texts = [f"<!-- {page} -->\n\n{_text(app, page).strip()}\n" for page in (root, *below(app.env, root))]
    place.joinpath("llms-full.txt").write_text("\n".join(texts))


def setup(app: Any) -> dict[str, bool]:
    """Write both files when the pages are made."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True}
