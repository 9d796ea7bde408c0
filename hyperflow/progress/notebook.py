"""The live display in a notebook: an output of the cell that runs, which is updated in its place."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

from hyperflow import displays
from hyperflow.progress.view import HEADINGS, View

MOST_ROWS = 20


def _in_the_newest_cell(call: Callable[..., Any], data: dict[str, str], **options: Any) -> Any:
    """Show something in an empty context: ours is that of the cell which has opened the environment, maybe long ago."""
    return contextvars.Context().run(call, data, **options)


class Notebook:
    """Shows a View below the cell that was started last."""

    def __init__(self) -> None:
        from IPython.display import display  # noqa: PLC0415 (there is IPython where this is made)

        show: Any = display
        self._handle: Any = _in_the_newest_cell(show, {"text/plain": ""}, raw=True, display_id=True)

    def draw(self, view: View) -> None:
        """Show how the run stands now."""
        rows = view.rows(MOST_ROWS)
        html = displays.table("", HEADINGS, rows, view.foot(len(rows)))
        _in_the_newest_cell(self._handle.update, {"text/html": html, "text/plain": view.line()}, raw=True)

    def close(self, line: str) -> None:
        """Leave this line."""
        _in_the_newest_cell(self._handle.update, {"text/html": displays.line(line), "text/plain": line}, raw=True)
