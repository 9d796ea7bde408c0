"""What the pages load is there, and comes from nowhere else: the site works without a network, and opened as files.

Sphinx checks links that are written in pages. This looks at what it has made of them, the theme's part included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.errors import ExtensionError

_TAG = re.compile(r"<(link|script|img|iframe|source|video|a)\s[^>]*?(?:src|href)=\"([^\"]*)\"[^>]*>")


def objections(place: Path) -> Iterator[str]:
    """Say what these pages load from another host, and what they name that is not there."""
    there: dict[Path, bool] = {}
    for page in sorted(place.rglob("*.html")):
        if page.is_relative_to(place / "_static"):
            continue  # the theme's own templates
        for kind, address in set(_TAG.findall(page.read_text())):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if kind != "a" and parts.scheme != "data":
                    yield f"{page.relative_to(place)} loads {address}"
            elif parts.path:
                target = page.parent / unquote(parts.path)
                if target not in there:
                    there[target] = target.exists()
                if parts.path.startswith("/") or not there[target]:
                    yield f"{page.relative_to(place)} names {address}, which is not there"


def _check(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.name == "html" and (found := list(objections(Path(app.outdir)))):
        raise ExtensionError("\n".join(found))


def setup(app: Any) -> dict[str, bool]:
    """Check the pages when all files are written."""
    app.connect("build-finished", _check, priority=950)
    return {"parallel_read_safe": True}
