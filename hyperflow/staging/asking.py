"""Asking the head for a file that this node does not see."""

from __future__ import annotations

from pathlib import Path

from hyperflow.errors import FileUnavailable


def fetch(digest: str, size: int, source: str, into: Path) -> Path:
    """Have a file of this content come from the head, or from another node; return where it is in that directory.

    Its digest is compared by the caller, too. Raises FileUnavailable.
    """
    raise FileUnavailable(f"{source} is not seen on this node")
