"""File in the program itself: what it stands for, what it refuses, what keys and pickles have of it."""

import dataclasses
import os
import pickle
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.database import keys
from hyperflow.staging import digests
from hyperflow.testing import open_inline_job


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is made absolute when the File is made; in the program itself it is the original."""
    (tmp_path / "x.fa").write_text("ACGT")
    monkeypatch.chdir(tmp_path)
    file = hf.File("x.fa")
    monkeypatch.chdir("/")

    assert (file.source, file.name, file.is_dir, file.size) == (str(tmp_path / "x.fa"), "x.fa", False, 4)
    assert Path(file).read_text() == "ACGT"
    assert file == hf.File(f"file://{tmp_path}/x.fa")


@pytest.mark.parametrize("given", ["genom.fa", "nothing/x", "*.csv", "genome.fa/x"])
def test_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """A File of what is not there is refused when it is made, as hyperflow's error and Python's."""
    (tmp_path / "genome.fa").touch()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(hf.FileMissing) as caught:
        hf.File(given)
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), hf.FileMissing)
    if given == "genom.fa":
        assert "did you mean 'genome.fa'?" in str(caught.value)


@pytest.mark.parametrize("given", ["", "a\0b", b"x"])
def test_no_path(given: str) -> None:
    """What can be no path is said to be none."""
    with pytest.raises(hf.MisuseError, match="a path or a URL is needed"):
        hf.File(given)


def test_a_pattern(tmp_path: Path) -> None:
    """A pattern stands for what fits when it is made."""
    for name in ("a/1.csv", "a/2.csv", "b/3.csv", "b/4.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    file = hf.File(tmp_path / "*/*.csv")
    (tmp_path / "b/5.csv").write_text("later")

    assert file.is_dir
    assert list(file.names or ()) == ["a/1.csv", "a/2.csv", "b/3.csv"]
    (tmp_path / "[1].txt").write_text("a name with brackets")
    assert not hf.File(tmp_path / "[1].txt").is_dir
    copy = tmp_path / "copy"
    for name in file.names or ():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(name)
    assert hf.File(copy) == file


def test_changed_in_the_program(tmp_path: Path) -> None:
    """A file that is changed after its first use is refused, with both states; one that is touched is not."""
    path = tmp_path / "x"
    path.write_text("before")
    file = hf.File(path)
    digest = file.digest
    os.utime(path, (1, 1))
    assert file.path() == path
    path.write_text("behind")

    with pytest.raises(hf.FileChanged, match=rf"then 6 bytes of .*{digest[:12]}; now 6 bytes of .*make a new File"):
        file.path()
    path.unlink()
    with pytest.raises(hf.FileChanged, match="cannot be read"):
        file.path()
    path.write_text("before")
    assert file.path() == path


def test_keys_have_the_content(tmp_path: Path) -> None:
    """Keys say nothing of a file but its content, also within other values."""

    @dataclasses.dataclass(frozen=True)
    class Sample:
        file: hf.File
        number: int

    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    one, other = hf.File(tmp_path / "a"), hf.File(tmp_path / "b")

    for wrap in (lambda file: file, lambda file: (file, 1), lambda file: [Sample(file, 2)], lambda file: {"x": file}):
        assert keys.encode(wrap(one)) == keys.encode(wrap(other))
    (tmp_path / "b").write_text("2")
    assert keys.encode(one) != keys.encode(hf.File(tmp_path / "b"))
    assert keys.decode(keys.encode(one)) == one


async def test_memoized(tmp_path: Path) -> None:
    """A memoized function is computed again when the content changes, and not when the file is touched or moved."""
    calls: list[str] = []

    @hf.memoize("lengths")
    def length(file: hf.File) -> hf.Job[tuple[int, hf.File]]:
        calls.append(file.name)
        return hf.pure((file.size, file))

    path = tmp_path / "x"
    path.write_text("abc")
    async with open_inline_job():
        assert (await length(hf.File(path)))[0] == 3
        os.utime(path, (1, 1))
        path = path.rename(tmp_path / "y")
        size, file = await length(hf.File(path))
        assert (size, file, file.source, calls) == (3, hf.File(path), str(tmp_path / "x"), ["x"])
        path.write_text("xyz")
        await length(hf.File(path))
        assert calls == ["x", "y"]


def test_a_pickle_says_what_is_known(tmp_path: Path) -> None:
    """What is unpickled is not read again."""
    (tmp_path / "x").write_text("abc")
    data = pickle.dumps(hf.File(tmp_path / "x"))
    (tmp_path / "x").unlink()
    file = pickle.loads(data)

    assert (file.name, file.size, file.source) == ("x", 3, str(tmp_path / "x"))


def settled(path: Path, size: int) -> Path:
    """Make a file that counts as old: its inode was changed just now, so the book's clock is put on."""
    path.write_bytes(os.urandom(size))
    return path


def test_the_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest in the book is not computed again unless something may have changed; a young file is not in it."""
    read: list[str] = []
    digest_file = digests.content.digest_file
    monkeypatch.setattr(digests.content, "digest_file", lambda path: (read.append(str(path)), digest_file(path))[1])
    path = settled(tmp_path / "x", digests.WORTH)
    young = hf.File(path).digest
    assert hf.File(path).digest == young
    assert len(read) == 2

    monkeypatch.setattr(digests, "YOUNG", -1)
    for _ in range(3):
        assert hf.File(path).digest == young
    assert len(read) == 3
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hf.File(path).digest != young
    assert len(read) == 4


def test_a_damaged_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged book is thrown away; a damaged row is not believed; where there can be no book, files are read."""
    monkeypatch.setattr(digests, "YOUNG", -1)
    path = settled(tmp_path / "x", digests.WORTH)
    digest = hf.File(path).digest
    with digests.opened() as book:
        assert book._database is not None
        book._database.execute("UPDATE digests SET digest = 'f00'")
        book._database.commit()
    assert hf.File(path).digest == digest
    digests.place().write_bytes(b"garbage" * 1000)
    assert hf.File(path).digest == digest
    assert digests.place().read_bytes().startswith(b"SQLite")
    digests.place().unlink()
    digests.place().mkdir()
    assert hf.File(path).digest == digest
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    assert hf.File(path).digest == digest


def test_a_book_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A book in a directory that others can write to is not read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "hyperflow").mkdir()
    (tmp_path / "hyperflow").chmod(0o777)
    with digests.opened() as book:
        assert book._database is None
