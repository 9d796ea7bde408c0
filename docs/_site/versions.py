"""The versions of the site, which lie side by side: docs/_build/html/dev, docs/_build/html/1.2.3.

Which ones there are is what lies there, so that no link leads nowhere. A version that is copied away knows itself.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DEV = "dev"


def order(name: str) -> tuple[int, ...]:
    """Return the key that sorts versions."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def found(place: Path) -> list[str]:
    """Return the versions in this directory: the newest release first, dev last."""
    names = [index.parent.name for index in place.glob("*/index.html")]
    releases = sorted((name for name in names if re.match(r"\d+\.\d+", name)), key=order, reverse=True)
    return releases + [DEV] * (DEV in names)


def described(place: Path) -> list[dict[str, Any]]:
    """Return the name, title and pages of each version in this directory."""
    names = found(place)
    newest = names[0]
    pages: dict[str, list[str]] = {}
    for name in names:
        top = place / name
        pages[name] = sorted(str(page.relative_to(top).with_suffix("")) for page in top.rglob("*.html"))
    title = {newest: f"{newest} (newest)"} if newest != DEV else {}
    return [{"name": name, "title": title.get(name, name), "pages": pages[name]} for name in names]


def write(place: Path) -> None:
    """Write what the choice of a version shows, and the page that leads to the newest."""
    versions = described(place)
    (place / "versions.js").write_text(f"window.hyperflowVersions = {json.dumps(versions)};\n")
    target = f"{versions[0]['name']}/index.html"
    (place / "index.html").write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>hyperflow</title>\n'
        f'<meta http-equiv="refresh" content="0; url={target}"></head>\n'
        f'<body><p><a href="{target}">The documentation of hyperflow</a></p></body></html>\n'
    )


def _context(app: Any, page: str, template: str, context: dict[str, Any], doctree: object) -> None:  # noqa: ARG001
    context["site_version"] = Path(app.outdir).name


def _finish(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        write(Path(app.outdir).parent)


def setup(app: Any) -> dict[str, bool]:
    """Tell the templates which version this is; at the end, write what lies beside all versions."""
    app.connect("html-page-context", _context)
    app.connect("build-finished", _finish, priority=900)
    return {"parallel_read_safe": True}
