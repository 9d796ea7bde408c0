"""Private directories: what others can swap, and what they cannot."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow import checked_files, private
from hyperflow.errors import ConfigurationError
from hyperflow.private import Held

STRANGER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a directory of a group, in which its members can rename what they like."""
    base = tmp_path / "shared"
    base.mkdir()
    base.chmod(0o2777)
    return base


@pytest.fixture
def umask() -> Iterator[None]:
    """Work as a user who shares all with the group, and even less careful."""
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_a_held_directory_stays(shared: Path) -> None:
    """What is read and written through a held directory is in that one, whatever gets its name."""
    (shared / "mine").mkdir(mode=0o700)
    with Held.open(shared / "mine") as held:
        checked_files.write_checked(held / "call", "call", b"mine")
        os.rename(shared / "mine", shared / "away")
        (shared / "mine").mkdir(mode=0o700)
        checked_files.write_checked(shared / "mine" / "call", "call", b"theirs")
        assert checked_files.read_checked(held / "call", "call")[1] == b"mine"
        checked_files.write_checked(held / "more", "call", b"more")
        assert held.names() == os.listdir(shared / "away")
        assert not (shared / "mine" / "more").exists()


def test_a_link_in_place_of_a_directory(shared: Path) -> None:
    """A symbolic link is not followed in place of a directory that has to be private, nor in place of a file."""
    (shared / "other").mkdir(mode=0o700)
    checked_files.write_checked(shared / "other" / "call", "call", b"theirs")
    (shared / "mine").symlink_to(shared / "other")
    with pytest.raises(ConfigurationError, match="mine is a symbolic link"):
        Held.open(shared / "mine")
    with Held.open(shared / "other") as held:
        (shared / "other" / "link").symlink_to(shared / "other" / "call")
        (shared / "other" / "below").symlink_to(shared / "other")
        with pytest.raises(OSError, match="symbolic links"):
            checked_files.read_checked(held / "link", "call")
        with pytest.raises(ConfigurationError, match="below is a symbolic link"):
            held.enter("below")


@needs_root
def test_a_strangers_link_on_the_way(shared: Path) -> None:
    """On the way, a stranger's link in a directory that others can write to is not followed; one's own is."""
    (shared / "real" / "mine").mkdir(mode=0o700, parents=True)
    link = shared / "link"
    link.symlink_to("real")
    Held.open(link / "mine").close()
    os.lchown(link, STRANGER, STRANGER)
    with pytest.raises(ConfigurationError, match=f"symbolic link of user {STRANGER}, a stranger here"):
        Held.open(link / "mine")
    shared.chmod(0o755)  # only its owner can have put it there
    Held.open(link / "mine").close()


def test_links_in_a_circle(tmp_path: Path) -> None:
    """Links that lead to each other are an error, not an endless way; relative ones and .. lead where they say."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigurationError, match="symbolic links"):
        Held.open(tmp_path / "a" / "mine")
    (tmp_path / "x" / "y").mkdir(parents=True, mode=0o700)
    (tmp_path / "x").chmod(0o700)
    (tmp_path / "x" / "up").symlink_to("../x/y/..")
    with Held.open(tmp_path / "x" / "up" / "y") as held:
        assert os.path.samestat(os.fstat(held.number), (tmp_path / "x" / "y").stat())


@needs_root
def test_somebody_elses(tmp_path: Path) -> None:
    """A directory of another user is refused, also where he has taken the name of one that is just being made."""
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    with pytest.raises(ConfigurationError, match=f"belongs to user {STRANGER}"):
        Held.open(tmp_path / "theirs")
    tmp_path.chmod(0o700)
    with Held.open(tmp_path) as held, pytest.raises(ConfigurationError, match=f"belongs to user {STRANGER}"):
        held.make("theirs")


@pytest.mark.usefixtures("umask")
def test_directories_are_private_whatever_the_umask(tmp_path: Path) -> None:
    """What a program makes, the base directory and what is above it included, is for the user alone."""
    program = hf.ProgramInfo.new(tmp_path / "deep" / "runs")
    for path in (
        program.log_dir,
        program.data_dir,
        program.log_dir.parent,
        tmp_path / "deep" / "runs",
        tmp_path / "deep",
    ):
        assert path.stat().st_mode & 0o777 == 0o700, path


def test_directories_are_usable_whatever_the_umask(tmp_path: Path) -> None:
    """A umask that takes the user's own rights does not."""
    before = os.umask(0o777)
    try:
        private.make_all(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
