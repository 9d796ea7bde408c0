"""All pages as one file, hyperflow.html, which needs nothing beside it: for a cluster without a network.

It is made of the pages that were built, and not by Sphinx's builder `singlehtml`, which lets two headings with the same
words on two pages have the same anchor, and needs its pictures and styles beside it.
"""

from __future__ import annotations

import base64
import mimetypes
import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

from _site.llms import below

STYLE = """
:root { color-scheme: light dark; --line: #8886; --box: #8881; }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; display: flex; }
nav { width: 17rem; flex: none; height: 100vh; position: sticky; top: 0; overflow: auto; padding: 1rem; font-size: 90%;
  box-sizing: border-box; border-right: 1px solid var(--line); }
nav ul { list-style: none; padding-left: 0.8rem; margin: 0; }
main { min-width: 0; flex: 1; padding: 1rem 2rem; max-width: 56rem; }
article { border-bottom: 3px double var(--line); padding-bottom: 2rem; }
pre { overflow: auto; padding: 0.7rem; background: var(--box); font-size: 85%; }
code { font-size: 90%; overflow-wrap: anywhere; }
pre code { font-size: 100%; }
table { border-collapse: collapse; } td, th { border: 1px solid var(--line); padding: 0.2rem 0.5rem; text-align: left; }
.pst-scrollable-table-container { overflow-x: auto; }
img { max-width: 100%; height: auto; }
.headerlink { visibility: hidden; text-decoration: none; } :hover > .headerlink { visibility: visible; }
dt { margin-top: 1rem; } dl.field-list { margin-left: 1rem; }
@media (max-width: 50rem) { body { display: block; } nav { width: auto; height: auto; position: static; border: 0; }
  main { padding: 1rem; } }
@media print { nav { display: none; } article { break-after: page; border: 0; } pre { white-space: pre-wrap; } }
"""

DARK = "if (matchMedia('(prefers-color-scheme: dark)').matches) document.documentElement.dataset.theme = 'dark';"


def anchor(page: str, name: str = "") -> str:
    """Return what the anchor of a page, or of a place in it, is called in the one file."""
    return f"{page}--{name}" if name else page


def _data(file: Path) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _link(tag: Tag, page: str, pages: set[str]) -> None:
    """Make a link to another page one within the file; one to a file beside it is taken away."""
    parts = urlsplit(str(tag["href"]))
    if parts.scheme:
        return
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), parts.path)) if parts.path else f"{page}.html"
    name = target.removesuffix(".html")
    if name in pages:
        tag["href"] = "#" + anchor(name, unquote(parts.fragment))
    else:
        del tag["href"]


def piece(place: Path, page: str, pages: set[str]) -> str:
    """Return a page's article, with links and pictures as the one file needs them."""
    found = BeautifulSoup((place / f"{page}.html").read_text(), "html.parser").find("article", class_="bd-article")
    assert isinstance(found, Tag), page
    for tag in found.find_all(["script", "button", "iframe"]):
        tag.decompose()
    for tag in found.find_all(id=True):
        tag["id"] = anchor(page, str(tag["id"]))
    for tag in found.find_all("a", href=True):
        _link(tag, page, pages)
    for tag in found.find_all(["img", "source"], src=True):
        file = place / posixpath.dirname(page) / unquote(str(tag["src"]))
        if not urlsplit(str(tag["src"])).scheme:
            tag["src"] = _data(file)
        for name in ("srcset", "loading"):
            del tag[name]
    found.attrs = {"id": anchor(page)}
    return str(found)


def contents(env: Any, page: str) -> str:
    """Return the list of the pages below this one."""
    rows = [
        f'<li><a href="#{anchor(child)}">{env.titles[child].astext()}</a>{contents(env, child)}</li>'
        for child in env.toctree_includes.get(page, ())
    ]
    return f"<ul>{''.join(rows)}</ul>" if rows else ""


def _write(app: Any, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    place, root = Path(app.outdir), app.config.root_doc
    pages = [root, *below(app.env, root)]
    pieces = [piece(place, page, set(pages)) for page in pages]
    colours = (place / "_static" / "pygments.css").read_text()
    title = f"{app.config.project} {app.config.release}"
    (place / "hyperflow.html").write_text(
        f'<!doctype html>\n<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<style>{STYLE}</style><style>{colours}</style><script>{DARK}</script></head>\n"
        f'<body><nav aria-label="Contents"><a href="#{anchor(root)}">{title}</a>{contents(app.env, root)}</nav>\n'
        f"<main>{''.join(pieces)}</main></body></html>\n"
    )


def setup(app: Any) -> dict[str, bool]:
    """Make the file when the pages are made."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True}
