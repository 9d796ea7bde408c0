"""Removing directories: whatever is done to them, and nothing outside of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperflow.wire import removal


def test_nothing_that_is_put_in_its_place_meanwhile_is_removed(tmp_path: Path) -> None:
    """Who can write beside it, and swaps it for a link, does not have the user's own files removed."""
    home, top = tmp_path / "home", tmp_path / "top"
    (home / "below").mkdir(parents=True)
    (home / "below" / "precious").write_text("")
    home.chmod(0o750)
    top.mkdir()
    for number in range(1000):
        (top / f"{number}").write_text("")
    steps = removal.removing(top)
    next(steps)
    top.rename(tmp_path / "aside")
    top.symlink_to(home)
    for _ in steps:
        pass
    assert (home / "below" / "precious").exists()
    assert home.stat().st_mode & 0o777 == 0o750
    assert not os.listdir(tmp_path / "aside")


def test_nor_is_what_a_directory_below_is_swapped_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that becomes a link between two looks is not entered."""
    home, below = tmp_path / "home", tmp_path / "top" / "below"
    home.mkdir(0o750)
    (home / "precious").write_text("")
    below.mkdir(parents=True)
    enter: Callable[[str, int], int] = removal._entered

    def swapped(name: str, above: int) -> int:
        if name == "below":
            below.rmdir()
            below.symlink_to(home)
        return enter(name, above)

    monkeypatch.setattr(removal, "_entered", swapped)
    removal.remove(tmp_path / "top")
    assert os.listdir(home) == ["precious"]
    assert home.stat().st_mode & 0o777 == 0o750
    assert os.listdir(tmp_path) == ["home"]


def test_another_file_system_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program has mounted below, and left mounted, is somebody's data."""
    mounted = tmp_path / "top" / "mounted"
    mounted.mkdir(parents=True)
    (mounted / "precious").write_text("")
    (tmp_path / "top" / "file").write_text("")
    node = mounted.stat().st_ino
    ask = os.fstat

    def told(number: int) -> os.stat_result:
        found = ask(number)
        return os.stat_result((*found[:2], found.st_dev + (found.st_ino == node), *found[3:]))

    monkeypatch.setattr(os, "fstat", told)
    removal.remove(tmp_path / "top")
    assert os.listdir(tmp_path / "top") == ["mounted"]
    assert os.listdir(mounted) == ["precious"]


def test_locked_directories(tmp_path: Path) -> None:
    """Rights that are missing are taken, at each level."""
    place = tmp_path / "top"
    for name in ("a", "b", "c"):
        place.mkdir()
        (place / "file").write_text("")
        place /= name
    for locked in (place.parent, place.parent.parent, tmp_path / "top"):
        locked.chmod(0)
    removal.remove(tmp_path / "top")
    assert not (tmp_path / "top").exists()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Not even if the removing is given up half way."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(300):
        (tmp_path / "top" / f"{number}").mkdir(parents=True)
    steps = removal.removing(tmp_path / "top")
    next(steps)
    steps.close()
    removal.remove(tmp_path / "top")
    assert len(os.listdir("/proc/self/fd")) == before
    assert not (tmp_path / "top").exists()
