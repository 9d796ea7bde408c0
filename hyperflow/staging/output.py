"""Output: a file that a command makes, and where it is to be afterwards."""

from __future__ import annotations

import os
from typing import Literal

import attrs

Keep = Literal["home", "node"]


@attrs.frozen
class Output:
    """A file, a directory ("results/") or several ("*.csv") that a command makes.

    Args:
        path: Where it comes, relative to the program's directory; the command writes the last part of that.
        keep: "home": it comes here. "node": it stays where it was made, as a File that other evaluations can use.
        on_failure: It comes only when the command has failed.
    """

    path: str | os.PathLike[str]
    keep: Keep = attrs.field(default="home", kw_only=True)
    on_failure: bool = attrs.field(default=False, kw_only=True)
