"""What comes of outputs in posts: whole, under names that stay in the output."""

import hashlib
import os
from pathlib import Path

import pytest

from hyperflow.staging.arrivals import Arrivals
from hyperflow.staging.parts import Entry, EntryKind, Piece


def piece(name: str, content: bytes, offset: int = 0) -> Piece:
    """Make a piece of an output."""
    return Piece("token", "run", "d/", name, offset, content)


def entry(name: str, content: bytes = b"", kind: EntryKind = "file", **more: str) -> Entry:
    """Say what was sent."""
    return Entry("d/", name, kind, 0o640, more.get("target", ""), len(content), hashlib.sha256(content).hexdigest())


def test_a_tree_in_pieces(tmp_path: Path) -> None:
    """Files in directories come in pieces; empty ones, links and modes are as they were."""
    arrivals, part = Arrivals(), str(tmp_path / "part")
    arrivals.write(part, piece("a/x", b"one"), True)
    arrivals.write(part, piece("y", b""), True)
    arrivals.write(part, piece("a/x", b"two", 3), True)
    told = [entry("", kind="directory"), entry("empty", kind="directory"), entry("a", kind="directory")]
    arrivals.complete(part, [*told, entry("a/x", b"onetwo"), entry("y"), entry("l", kind="link", target="a/x")])
    assert (tmp_path / "part" / "l").read_bytes() == b"onetwo"
    assert (tmp_path / "part" / "a" / "x").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(part)) == ["a", "empty", "l", "y"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\0b", ".."])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    """A name that would leave the output is refused, in pieces and in what is said of them."""
    arrivals, part = Arrivals(), str(tmp_path / "part")
    with pytest.raises(ValueError, match="no name in an output"):
        arrivals.write(part, piece(name, b"x"), True)
    with pytest.raises(ValueError, match="no name in an output"):
        arrivals.complete(part, [entry("", kind="directory"), entry(name, b"x")])
    with pytest.raises(ValueError, match="no name in an output"):
        arrivals.write(part, piece("a", b"x"), False)
    assert sorted(os.listdir(tmp_path)) in ([], ["part"])


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../x"])
def test_links_that_lead_out(tmp_path: Path, target: str) -> None:
    """A link out of the output is refused."""
    with pytest.raises(ValueError, match="a link out of the output"):
        Arrivals().complete(str(tmp_path / "p"), [entry("", kind="directory"), entry("l", kind="link", target=target)])


def test_what_is_missing_or_wrong(tmp_path: Path) -> None:
    """A piece that is missing, too little, and other bytes than were sent, are noticed."""
    part = str(tmp_path / "part")
    arrivals = Arrivals()
    arrivals.write(part, piece("", b"abc"), False)
    with pytest.raises(ValueError, match="is missing before byte 7"):
        arrivals.write(part, piece("", b"abc", 7), False)
    with pytest.raises(ValueError, match="3 bytes, and 4 were sent"):
        arrivals.complete(part, [entry("", b"abcd")])
    with pytest.raises(ValueError, match="its digest is another one"):
        arrivals.complete(part, [entry("", b"abx")])
    arrivals.complete(part, [entry("", b"abc")])
    arrivals.close()


def test_a_part_that_somebody_swaps(tmp_path: Path) -> None:
    """In the place of a group somebody else puts a link in its place: nothing comes to where it leads."""
    arrivals, part, home = Arrivals(), tmp_path / "part", tmp_path / "home"
    home.mkdir(0o750)
    arrivals.write(str(part), piece("x", b"one"), True)
    part.rename(tmp_path / "aside")
    part.symlink_to(home)
    arrivals.write(str(part), piece("a/y", b"two"), True)
    arrivals.complete(str(part), [entry("", kind="directory"), entry("x", b"one"), entry("a/y", b"two")])
    arrivals.close()
    assert not os.listdir(home)
    assert home.stat().st_mode & 0o777 == 0o750
    with pytest.raises(OSError, match=r"Not a directory|symbolic link"):
        Arrivals().complete(str(part), [entry("", kind="directory")])
