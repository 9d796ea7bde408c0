"""What a notebook shows of our objects: small pieces of HTML, made of texts only.

Guarantees: all texts are escaped, and none is long; so an object of the user's cannot break the page, nor fill it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

from hyperflow import saying

LONGEST = 20_000
"""So many characters of one text are shown."""

SHORT = 20
"""So many characters stay in one line."""


def table(title: str, headings: Iterable[str], rows: Iterable[Iterable[str]], note: str = "") -> str:
    """Return a table with a title above and a note below it."""
    head = "".join(_cell("th", one) for one in headings)
    body = "".join(f"<tr>{''.join(_cell('td', one) for one in row)}</tr>" for row in rows)
    return _block(title, f"<table><tr>{head}</tr>{body}</table>", note)


def facts(title: str, known: Mapping[str, str], note: str = "") -> str:
    """Return names with what is known of each, one in a line."""
    body = "".join(f"<tr>{_cell('th', name)}{_cell('td', what)}</tr>" for name, what in known.items())
    return _block(title, f"<table>{body}</table>", note)


def code(text: str, remark: str, corrected: str) -> str:
    """Return a line with some code, a remark about it, and what to write."""
    return f"<div><code>{_text(text)}</code> {_text(remark)} <code>{_text(corrected)}</code></div>"


def line(text: str) -> str:
    """Return a text in one line."""
    return _block("", "", text)


def error(title: str, problem: BaseException) -> str:
    """Return an error: its class, its text and its notes (the remote traceback, the call, the log)."""
    name = saying.kind_name(problem)
    says = saying.short_str(problem, LONGEST)
    notes: object = getattr(problem, "__notes__", None)
    told = "\n".join(map(str, notes)) if isinstance(notes, list) else ""
    return _block(title or name, _pre(f"{name}: {says}" if title else says) + (_pre(told) if told else ""), "")


def _cell(kind: str, text: str) -> str:
    whole = "; white-space:nowrap" if len(text) <= SHORT else ""
    return f"<{kind} style='text-align:left; vertical-align:top{whole}'>{_text(text)}</{kind}>"


def _block(title: str, body: str, note: str) -> str:
    before = f"<b>{_text(title)}</b>" if title else ""
    after = f"<div>{_text(note)}</div>" if note else ""
    return f"<div>{before}{body}{after}</div>"


def _pre(text: str) -> str:
    return f"<pre style='white-space:pre-wrap'>{_text(text)}</pre>"


def _text(text: str) -> str:
    return html.escape(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")
