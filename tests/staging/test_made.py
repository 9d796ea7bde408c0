"""What commands leave in their sandboxes, and what of it is refused."""

import os
import socket
from pathlib import Path

import pytest

from hyperflow.staging.delivery import pieces_of
from hyperflow.staging.made import Made, Unfit
from hyperflow.staging.naming import Kind, Wanted
from hyperflow.staging.parts import PIECE


def wanted(name: str, kind: Kind = "file") -> Wanted:
    """Ask for an output."""
    return Wanted(name, name, kind, "/elsewhere")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a sandbox with an input, and a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "digest").write_text("input")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "input").symlink_to(tmp_path / "cache" / "digest")
    return tmp_path / "work"


def made(home: Path) -> Made:
    """Look at a sandbox."""
    return Made(str(home), ["input"], [str(home.parent / "cache" / "digest")])


def names(home: Path, name: str, kind: Kind = "file") -> list[tuple[str, str]]:
    """Return what an output consists of."""
    return [(found.name, found.kind) for found in made(home).find(wanted(name, kind))]


def test_files_and_directories(home: Path) -> None:
    """A file is itself; of a directory all comes, empty directories and links within it included."""
    (home / "a").write_text("a")
    (home / "d" / "e").mkdir(parents=True)
    (home / "d" / "f").write_text("f")
    (home / "d" / "e" / "up").symlink_to("../f")
    (home / "d" / "e" / "whole").symlink_to(home / "d" / "f")
    (home / "d" / "loop").symlink_to(".")
    assert names(home, "a") == [("", "file")]
    assert names(home, "d", "directory") == [
        ("", "directory"), ("f", "file"), ("loop", "link"),
        ("e", "directory"), ("e/up", "link"), ("e/whole", "link"),
    ]  # fmt: skip
    links = {found.name: found.target for found in made(home).find(wanted("d", "directory")) if found.kind == "link"}
    assert links == {"e/up": "../f", "e/whole": "../f", "loop": "."}


def test_patterns(home: Path) -> None:
    """A pattern means files that the command has made, in directories as well, and no inputs or hidden ones."""
    (home / "out").mkdir()
    for name in ("x.csv", "out/y.csv", ".hidden.csv", "z.dat"):
        (home / name).write_text(name)
    (home / "dir.csv").mkdir()
    assert names(home, "*.csv", "files") == [("x.csv", "file")]
    assert names(home, "**/*.csv", "files") == [("out/y.csv", "file"), ("x.csv", "file")]
    assert names(home, "*", "files") == [("x.csv", "file"), ("z.dat", "file")]
    with pytest.raises(Unfit, match=r"no file .* fits it; there is: '.hidden.csv', 'x.csv', 'z.dat', "):
        names(home, "*.txt", "files")
    with pytest.raises(Unfit, match="only directories fit"):
        names(home, "dir*", "files")


def test_links_to_inputs_are_followed(home: Path) -> None:
    """An output that is a link to an input is what the input is."""
    (home / "same").symlink_to("input")
    (home / "d").mkdir()
    (home / "d" / "same").symlink_to("../input")
    [found] = made(home).find(wanted("same"))
    assert Path(found.path).read_text() == "input"
    assert names(home, "d", "directory") == [("", "directory"), ("same", "file")]


@pytest.mark.parametrize("to", ["../secret", "/etc/passwd", "../" * 20 + "etc/passwd", "/proc/self/environ", ".."])
def test_links_that_lead_out(home: Path, to: str) -> None:
    """A link out of the sandbox is refused, wherever it is."""
    (home / "out").symlink_to(to)
    (home / "d" / "e").mkdir(parents=True)
    (home / "d" / "e" / "out").symlink_to(to if to.startswith("/") else f"../../{to}")
    for name, kind in (("out", "file"), ("d", "directory"), ("o*", "files")):
        with pytest.raises(Unfit, match="leads out of the command's directory"):
            names(home, name, kind)  # type: ignore[arg-type]


def test_through_a_directory_that_is_a_link(home: Path) -> None:
    """A name is followed to its end: a directory on the way that leads out is no way out."""
    (home / "way").symlink_to("..")
    with pytest.raises(Unfit, match="leads out"):
        names(home, "way/secret")
    with pytest.raises(Unfit, match="leads out"):
        names(home, "way/sec*", "files")


def test_dangling_links_and_circles(home: Path) -> None:
    """A link that leads nowhere is refused."""
    (home / "gone").symlink_to("nothing")
    (home / "round").symlink_to("round")
    for name in ("gone", "round"):
        with pytest.raises(Unfit, match="leads nowhere"):
            names(home, name)


def test_special_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipes, sockets and devices are refused, and never opened."""
    os.mkfifo(home / "pipe")
    monkeypatch.chdir(home)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for name, what in (("pipe", r"a pipe \(FIFO\)"), ("socket", "a socket")):
            with pytest.raises(Unfit, match=what):
                names(home, name)
        with pytest.raises(Unfit, match="only files, directories and links"):
            names(home, "*", "files")
    (home / "null").symlink_to("/dev/null")
    with pytest.raises(Unfit, match="leads out"):
        names(home, "null")


def test_of_the_wrong_kind(home: Path) -> None:
    """A directory in the place of a file, and a file in that of a directory, are refused, with what to write."""
    (home / "d").mkdir()
    (home / "f").write_text("")
    with pytest.raises(Unfit, match="write 'd/'"):
        names(home, "d")
    with pytest.raises(Unfit, match="without the slash"):
        names(home, "f", "directory")


def test_what_is_there_instead(home: Path) -> None:
    """Of an output that never appeared it is said what is there, ten names at most, and no inputs."""
    with pytest.raises(Unfit, match="never made; the command has made no file"):
        names(home, "x")
    for number in range(100):
        (home / f"f{number:02}").write_text("")
    with pytest.raises(Unfit) as caught:
        names(home, "x")
    assert str(caught.value).endswith("'f08', 'f09', ...")


def test_what_is_put_in_its_place_afterwards(tmp_path: Path) -> None:
    """A process that the command has left swaps a file, or a directory above it, for a link: that is not read."""
    outside, home = tmp_path / "outside", tmp_path / "home"
    for place in (outside, home / "a"):
        place.mkdir(parents=True)
        (place / "x").write_text(place.name)
    path = os.path.join(os.path.realpath(home), "a", "x")
    assert b"".join(pieces_of(path)) == b"a"
    (home / "a").rename(home / "b")
    (home / "a").symlink_to(outside)
    with pytest.raises(OSError, match="replaced"):
        list(pieces_of(path))
    (home / "a").unlink()
    (home / "b").rename(home / "a")
    (home / "a" / "x").unlink()
    (home / "a" / "x").symlink_to(outside / "x")
    with pytest.raises(OSError, match="symbolic links"):
        list(pieces_of(path))


def test_what_is_written_to_all_the_time(tmp_path: Path) -> None:
    """A file that grows while it is read is no end of it, and no whole output; nor is one that is cut off."""
    path = tmp_path / "x"
    for size in (3 * PIECE, PIECE + 1):
        path.write_bytes(b"1" * 2 * PIECE)
        pieces = pieces_of(os.path.realpath(path))
        assert len(next(pieces)) == PIECE
        os.truncate(path, size)
        with pytest.raises(OSError, match="does it leave a process"):
            list(pieces)
