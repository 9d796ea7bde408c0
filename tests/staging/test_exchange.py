"""Directories that take the place of others."""

import errno
import os
from pathlib import Path

import pytest

from hyperflow.staging import exchange
from hyperflow.wire import removal


def tree(path: Path, content: str) -> Path:
    """Make a directory with a file."""
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("kernel", ["new", "old"])
def test_a_directory_takes_the_place_of_another(tmp_path: Path, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one is there as a whole, and nothing is left of the old one; also where the kernel cannot exchange."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "no exchange here")

    if kernel == "old":
        monkeypatch.setattr(exchange, "_exchange", refuse)
    place = tmp_path / "place"
    exchange.replace_directory(str(tree(tmp_path / "first", "1")), str(place))
    (place / "more").write_text("")
    exchange.replace_directory(str(tree(tmp_path / "second", "2")), str(place))
    assert os.listdir(tmp_path) == ["place"]
    assert os.listdir(place) == ["file"]
    assert (place / "file").read_text() == "2"


def test_remove_what_is_locked(tmp_path: Path) -> None:
    """Directories that a program has locked go as well, and links are not followed."""
    (tmp_path / "keep").write_text("")
    top = tree(tmp_path / "top", "x")
    (top / "link").symlink_to(tmp_path)
    (top / "file").chmod(0)
    tree(top / "below", "y").chmod(0)
    removal.remove(str(top))
    assert os.listdir(tmp_path) == ["keep"]
