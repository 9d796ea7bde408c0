"""`hyperflow docs`: the pages of the documentation, in the terminal."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.markdown import Markdown
from rich.theme import Theme

from hyperflow import pages
from hyperflow.cli.answers import answering
from hyperflow.config import read_settings
from hyperflow.errors import ConfigurationError
from hyperflow.saying import in_short

UNKNOWN = 2
"""Exit code: there is no such page."""

WIDEST = 100
"""Prose is not set wider than this."""

LONGEST = 90
"""Characters of the line that says what a page is about."""

ROOMS = ("start", "guides", "gallery", "coming-from", "sites")
"""Directories of pages, in the order of the list."""

_PACKAGE = Path(__file__).resolve().parent.parent

PLACES = (_PACKAGE / "_docs", _PACKAGE.parent / "docs")
"""Where the pages are: in a wheel, in a checkout."""


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(docs))


def docs(
    page: Annotated[str, Parameter(help="An error, a guide, or part of a name; nothing lists all pages.")] = "",
) -> int:
    """Show a page of the documentation. It needs no network.

    PAGE is the name of an error (WorkerDied), of a guide (resources), or a page with its directory (sites/load). With
    #SECTION it shows one section (resources#memory). Without PAGE, it lists all pages. In a pipe it prints Markdown.

    The exit code is 2 if there is no such page; then it names those whose names are nearest.
    """
    root = place()
    known = {str(file.relative_to(root).with_suffix("")): file for file in sorted(root.rglob("*.md"))}
    known = {name: file for name, file in known.items() if not name.startswith(("_", "."))}
    if not page:
        print(_listed(known))
        return 0
    name, _, part = page.removesuffix(".md").partition("#")
    found = matching(name, known)
    if len(found) != 1:
        print(_unknown(name, found, known), file=sys.stderr)
        return UNKNOWN
    text = readable(known[found[0]].read_text(encoding="utf-8"), found[0], known)
    if part:
        if part not in (sections := headings(text)):
            print(f"hyperflow: {found[0]} has no section {part!r}; it has {', '.join(sections)}", file=sys.stderr)
            return UNKNOWN
        text = section(text, part)
    if site := read_settings().docs_url:
        text += f"\n{pages.link(found[0] + (f'#{part}' if part else ''), site)}\n"
    _print(text)
    return 0


def place() -> Path:
    """Return the directory of the pages."""
    found = next((one for one in PLACES if one.is_dir()), None)
    if found is None:
        raise ConfigurationError(f"the pages of the documentation are not installed: there is no {PLACES[0]}")
    return found


def matching(name: str, known: Mapping[str, object]) -> list[str]:
    """Return the pages that a name means: one by its whole name, or those that end with it, or all that have it."""
    wanted = name.lower().strip("/")
    if not wanted:
        return []
    folded = {one: one.lower().removesuffix("/index") for one in known}
    whole = [one for one, low in folded.items() if low == wanted]
    last = [one for one, low in folded.items() if low.endswith(f"/{wanted}")]
    return whole[:1] or last or [one for one, low in folded.items() if wanted in low.rpartition("/")[2]]


def _unknown(name: str, found: list[str], known: Mapping[str, object]) -> str:
    if found:
        return f"hyperflow: several pages are called like {name!r}: {', '.join(map(_shown, found))}"
    names = {_shown(one).rpartition("/")[2].lower(): _shown(one) for one in known}
    near = [names[one] for one in difflib.get_close_matches(name.lower().rpartition("/")[2], names, n=4, cutoff=0.5)]
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"hyperflow: there is no page {name!r}; {meant}`hyperflow docs` lists all"


def _shown(page: str) -> str:
    return page.removesuffix("/index").removeprefix(pages.ERRORS)


def _listed(known: Mapping[str, Path]) -> str:
    """Return a line for each page, in the order in which people read them: what to type, and what it is about."""
    names = sorted(known.keys() - {"index"}, key=lambda name: (_rank(name), name.removesuffix("/index")))
    texts = {_shown(name): readable(known[name].read_text(encoding="utf-8"), name, known) for name in names}
    told = {name: about(text, name) for name, text in texts.items()}
    width = max(map(len, told), default=0)
    return "\n".join(f"{name:{width}}  {text}" for name, text in told.items() if text)


def _rank(name: str) -> int:
    """Return the place of a page's directory in the list; errors come last, others after the rooms."""
    if name.startswith(pages.ERRORS) and not name.endswith("/index"):
        return len(ROOMS) + 1
    room = name.partition("/")[0]
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def about(text: str, name: str) -> str:
    """Return in short what a page is about: its title, or its first sentence if the title says only its name."""
    title, first = [*(block for block in re.split(r"\n\n+", text.strip()) if block), "", ""][:2]
    title = title.lstrip("# ")
    says_more = title.lower() != name.rpartition("/")[2].lower().replace("-", " ")
    is_prose = re.match(r"[A-Za-z*`]", first) and not first.startswith("```")
    return in_short(re.sub(r"[`*]", "", title if says_more or not is_prose else first), LONGEST)


# ---- Markdown as people read it --------------------------------------------------------------------------------------

_COMMENT = re.compile(r"<!--.*?-->|^<a id=.*?></a>\n", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})(?P<kind>[^\n]*)\n(?P<body>.*?)^(?P=fence)[ ]*$\n?", re.DOTALL | re.MULTILINE
)
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<page>[^)\s:#]*?)(?:\.md)?(?P<part>#[\w-]+)?\)")
_ROLE = re.compile(r"\{\w+\}`(?P<text>[^`<]+?) <[^`>]+>`")
_PICTURE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")


def readable(text: str, page: str, known: Collection[str]) -> str:
    """Return a page without what is meant for machines: comments, directives, and targets of links that nobody sees.

    Pages that are not among those that are known, such as those that the site's build makes, are not named.
    """
    text = _COMMENT.sub("", text)
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(text):
        parts += [_linked(text[end : fence.start()], page, known), _fenced(fence)]
        end = fence.end()
    whole = "".join([*parts, _linked(text[end:], page, known)])
    return re.sub(r"\n{3,}", "\n\n", whole).strip() + "\n"


def _fenced(fence: re.Match[str]) -> str:
    """Return a block of code with the first word of its kind only; nothing for a directive."""
    kind = fence["kind"].strip()
    if kind.startswith("{"):
        return ""
    return f"{fence['fence']}{kind.split()[0] if kind else ''}\n{fence['body']}{fence['fence']}\n"


def _linked(text: str, page: str, known: Collection[str]) -> str:
    """Return prose that names the pages that it has links to, as `hyperflow docs` takes them."""

    def named(link: re.Match[str]) -> str:
        here = page if not link["page"] else os.path.normpath(os.path.join(os.path.dirname(page), link["page"]))
        if here not in known:
            return link["text"]
        told = f"`{_shown(here)}{link['part'] or ''}`"
        return told if link["text"].strip("`") == told.strip("`") else f"{link['text']} ({told})"

    return _LINK.sub(named, _PICTURE.sub(r"(picture: \1)", _ROLE.sub(r"\g<text>", text)))


_HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)


def headings(text: str) -> dict[str, int]:
    """Return the names of a page's sections, as links have them, and where each begins."""
    code = [(fence.start(), fence.end()) for fence in _FENCE.finditer(text)]
    found = (one for one in _HEADING.finditer(text) if not any(low <= one.start() < high for low, high in code))
    return {re.sub(r"[^\w\- ]", "", one[2].lower()).strip().replace(" ", "-"): one.start() for one in found}


def section(text: str, name: str) -> str:
    """Return one section of a page, with those below it."""
    starts = headings(text)
    begin = starts[name]
    depth = len(text[begin:].split(" ", 1)[0])
    later = [at for at in starts.values() if at > begin and len(text[at:].split(" ", 1)[0]) <= depth]
    return text[begin : min(later, default=len(text))]


def _print(text: str) -> None:
    """Print a page: set on a terminal, as it is in a pipe."""
    if not sys.stdout.isatty():
        print(text, end="")
        return
    console = Console(highlight=False, theme=Theme({"markdown.code": "cyan"}))  # readable on light and dark
    shown = Markdown(text, hyperlinks=False, code_theme="ansi_dark")
    console.print(shown, width=min(console.width, WIDEST))
