"""Files that are whole or not there, and the tail of a file."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperflow import files

WRITERS = [files.write_whole, files.put_new]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("durable", [True, False])
def test_private_and_alone(tmp_path: Path, write: Callable[..., None], durable: bool) -> None:
    """What is written is all there, for the user alone, and no draft is left."""
    write(tmp_path / "file", b"contents", durable=durable)
    assert (tmp_path / "file").read_bytes() == b"contents"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_write_whole_replaces(tmp_path: Path) -> None:
    """An older file gives way; who has it open goes on reading the old one. A link is replaced, not followed."""
    path, other = tmp_path / "file", tmp_path / "other"
    files.write_whole(path, b"old")
    with path.open() as reader:
        files.write_whole(path, b"new")
        assert reader.read() == "old"
    assert path.read_bytes() == b"new"
    other.write_bytes(b"mine")
    path.unlink()
    path.symlink_to(other)
    files.write_whole(path, b"new")
    assert other.read_bytes() == b"mine"
    assert not path.is_symlink()


def test_put_new_refuses(tmp_path: Path) -> None:
    """A file that is there stays as it is, also if it is a link to nowhere."""
    path, link = tmp_path / "file", tmp_path / "link"
    files.put_new(path, b"first")
    link.symlink_to(tmp_path / "nowhere")
    for each in (path, link):
        with pytest.raises(FileExistsError):
            files.put_new(each, b"second")
    assert path.read_bytes() == b"first"
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_put_new_has_one_winner(tmp_path: Path) -> None:
    """Of many who try at the same time one succeeds, and the file is that one's."""
    won: list[int] = []
    ready = threading.Barrier(8)

    def attempt(number: int) -> None:
        ready.wait()
        try:
            files.put_new(tmp_path / "file", b"%d" % number)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [int((tmp_path / "file").read_bytes())] == won


def no_links(*_: Any, **__: Any) -> None:
    """Be a file system without links."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_put_new_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no links, the file is still written once and not replaced."""
    monkeypatch.setattr(files.os, "link", no_links)
    files.put_new(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        files.put_new(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_put_new_when_the_answer_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS may link, lose the answer, ask again, and find its own link there: that is no other's file."""
    link = os.link

    def twice(*args: Any, **options: Any) -> None:
        link(*args, **options)
        link(*args, **options)

    monkeypatch.setattr(files.os, "link", twice)
    files.put_new(tmp_path / "file", b"first")
    assert (tmp_path / "file").read_bytes() == b"first"


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("fails", ["fsync", "replace", "link"])
def test_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None], fails: str
) -> None:
    """A disk that is full at any step leaves no file, half a file or draft behind, and an older file as it was."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails == "link":
        monkeypatch.setattr(shutil, "copyfileobj", full)  # what is done in its place fails, too
    monkeypatch.setattr(files.os, fails, full)
    if (write, fails) in {(files.write_whole, "link"), (files.put_new, "replace")}:
        write(tmp_path / "file", b"contents")  # it does not need that
        return
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file", b"contents")
    assert os.listdir(tmp_path) == []


def test_durable_means_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contents come to the disk before the name, and the name before the function returns; or none of it."""
    steps: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def step(*args: Any, name: str = name, real: Callable[..., Any] = real) -> None:
            steps.append(name)
            real(*args)

        monkeypatch.setattr(files.os, name, step)
    files.write_whole(tmp_path / "file", b"contents")
    assert steps == ["fsync", "replace", "fsync"]
    files.write_whole(tmp_path / "file", b"contents", durable=False)
    assert steps[3:] == ["replace"]


def test_read_text(tmp_path: Path) -> None:
    """What a file says, whatever its bytes are; "" if there is none."""
    assert files.read_text(tmp_path / "file") == ""
    (tmp_path / "file").write_bytes(b"a\xff\n")
    assert files.read_text(tmp_path / "file") == "a\N{REPLACEMENT CHARACTER}\n"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path.name)])
def test_what_is_no_file_says_nothing(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe, a directory or a link to itself in the place of a file is not waited for."""
    make(tmp_path / "file")

    assert (files.read_text(tmp_path / "file"), files.tail(tmp_path / "file")) == ("", "")


def test_tail(tmp_path: Path) -> None:
    """The last lines, of the last bytes, from a position on; "" if there is no file; any bytes will do."""
    path = tmp_path / "log"
    assert files.tail(path) == ""
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(5000)) + b"\xff end")
    assert files.tail(path, lines=2) == "line 4999\n\N{REPLACEMENT CHARACTER} end"
    assert files.tail(str(path), size=8) == "99\n\N{REPLACEMENT CHARACTER} end"
    end = path.stat().st_size
    assert files.tail(path, start=end - 3) == "end"
    assert files.tail(path, start=end + 100) == ""
    assert len(files.tail(path).splitlines()) == 15


def test_removing_a_directory_leaves_what_it_only_links_to(tmp_path: Path) -> None:
    """All below goes; a directory of others, to which a link there points, stays as it is."""
    others, ours = tmp_path / "others", tmp_path / "ours"
    (ours / "deep" / "deeper").mkdir(parents=True)
    (ours / "deep" / "file").touch()
    others.mkdir()
    (others / "file").touch()
    (ours / "deep" / "link").symlink_to(others)

    files.remove_tree(ours)

    assert not ours.exists()
    assert (others / "file").exists()
