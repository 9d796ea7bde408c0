"""Private directories: what others can swap, and what they cannot."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow import checked_files, private
from hyperflow.cli import heads, runs
from hyperflow.control import client, place
from hyperflow.errors import ConfigurationError
from hyperflow.master import rundir
from hyperflow.master.rundir import HeldRun, RunDirectory
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


@pytest.fixture
def homes(shared: Path) -> tuple[Path, Path]:
    """Return two runs of one user in the directory of a group; a member can give the name of one to the other."""
    runs = [RunDirectory.open(hf.ProgramInfo.new(shared), local=True) for _ in range(2)]
    for run in runs:
        run.close()
    return runs[0].home, runs[1].home


def swap(home: Path, other: Path) -> None:
    """Do what a member of the group can do."""
    os.rename(home, home.with_name("aside"))
    os.rename(other, home)


def test_a_run_that_is_swapped_while_a_socket_is_made(
    homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control socket and its address are in the directory that was checked, whatever its name means."""
    home, other = homes
    remove = place._remove
    monkeypatch.setattr(place, "_remove", lambda *args: (remove(*args), (home / "aside").exists() or swap(home, other)))
    with place.listening(home, only_there=True):
        monkeypatch.undo()
        assert sorted(os.listdir(home.with_name("aside") / "control")) == ["master.json", "socket"]
        assert not (home / "control").exists()
    assert os.listdir(home.with_name("aside") / "control") == []


def test_a_run_that_is_swapped_while_it_is_locked(homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of a master is in the run that it holds, and no order goes to another run of the user's."""
    home, other = homes
    with closing(HeldRun.open(home)) as held:
        swap(home, other)
        lock = rundir.take_lock(held, held.program_id)
        assert (home.with_name("aside") / "master.lock").exists()
        assert not (home / "master.lock").exists()
        lock.release()
        assert not (home.with_name("aside") / "master.lock").exists()
    with pytest.raises(ConfigurationError, match=f"is run {other.name}; somebody has renamed it"):
        runs.find(home.name, home.parent)
    assert runs.find(str(home), home.parent).program_id == other.name  # who names a directory means it
    with pytest.raises(ConfigurationError, match=f"is run {other.name}"):
        heads.find(home.name, home.parent)


def test_a_variable_in_a_directory_that_is_no_longer_ours(homes: tuple[Path, Path], tmp_path: Path) -> None:
    """A link in the place of the variables is not followed, neither to read nor to write; nor is one of the file."""
    home, _ = homes
    variable = hf.ExtVar("x", 1).of(home)
    variable.set(2)
    (home / "vars").rename(tmp_path / "precious")
    (home / "vars").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        variable.get()
    with pytest.raises(ConfigurationError, match="symbolic link"):
        variable.set(3)
    assert (tmp_path / "precious" / "x.json").read_text() == "2\n"
    (home / "vars").unlink()
    variable.set(4)
    (home / "vars" / "x.json").unlink()
    (home / "vars" / "x.json").symlink_to(tmp_path / "precious" / "x.json")
    with pytest.raises(ConfigurationError, match="symbolic links"):
        variable.get()
    variable.set(5)
    assert variable.get() == 5
    assert (tmp_path / "precious" / "x.json").read_text() == "2\n"


@needs_root
def test_a_variable_of_somebody_else(homes: tuple[Path, Path]) -> None:
    """What another user has put into the place of a run's variables is not believed."""
    home, _ = homes
    variable = hf.ExtVar("x", 1).of(home)
    variable.set(2)
    os.chown(home / "vars", STRANGER, STRANGER)
    with pytest.raises(ConfigurationError, match=f"belongs to user {STRANGER}"):
        variable.get()
    assert variable.version() is None


@needs_root
def test_a_socket_of_somebody_else(tmp_path: Path) -> None:
    """A process of another user that listens at the address of a master is not asked."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        os.seteuid(STRANGER)  # the kernel notes who listens
        try:
            with pytest.raises(PermissionError):
                listener.bind(path)
        finally:
            os.seteuid(0)
        listener.bind(path)
        os.seteuid(STRANGER)
        try:
            listener.listen(1)
        finally:
            os.seteuid(0)
        with pytest.raises(client.NoMaster, match=f"is user {STRANGER}'s, not yours"):
            client.Contact(place.Address("here", os.getpid(), Path(path))).get("/jobs")
