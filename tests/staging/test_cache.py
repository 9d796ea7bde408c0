"""The node's cache: what is in it is what was asked for, once, within its bound, whoever damages it or dies."""

import errno
import multiprocessing
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.staging import asking, cache, copying
from hyperflow.staging.cache import NodeCache
from hyperflow.staging.shelf import Note, Shelf
from hyperflow.wire.scratch import TRASH
from tests.helpers import block_until

SIZE = 3_000_000


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Make the place of a cache, as a launcher does."""
    place = tmp_path / "node"
    (place / TRASH).mkdir(parents=True)
    (place / "files").mkdir(mode=0o700)
    return place / "files"


def a_file(path: Path, size: int = SIZE) -> hf.File:
    """Make a file of random bytes, whose digest is known."""
    path.write_bytes(os.urandom(size))
    file = hf.File(path)
    assert file.digest
    return file


def seen(place: Path) -> list[str]:
    """Return the contents that are there."""
    return sorted(name for name in os.listdir(place) if not name.startswith("."))


def test_a_copy(node: Path, tmp_path: Path) -> None:
    """What comes is read-only, ends as the original does, and is there once."""
    file = a_file(tmp_path / "x.fa.gz")
    worker, other = NodeCache(node, 10 * SIZE), NodeCache(node, 10 * SIZE)
    there = worker.get(file)

    assert there.read_bytes() == Path(file.source).read_bytes()
    assert stat.S_IMODE(there.stat().st_mode) == 0o555
    assert worker.named(file).name == "x.fa.gz"
    assert worker.named(file).read_bytes() == there.read_bytes()
    before = there.stat()
    assert other.get(file) == there
    assert there.stat() == before
    worker.ended()
    other.ended()
    assert seen(node) == [file.digest]


def test_a_directory(node: Path, tmp_path: Path) -> None:
    """A directory is copied with its links, and nobody can write into the copy; a pattern brings what fitted it."""
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (top / "a/x.csv").write_text("1")
    (top / "run").write_text("2")
    (top / "run").chmod(0o755)
    (top / "l").symlink_to("a/x.csv")
    worker = NodeCache(node, 10 * SIZE)
    there, part = worker.get(hf.File(top)), worker.get(hf.File(tmp_path / "*/*/*.csv"))

    assert (there / "l").read_text() == "1"
    assert os.readlink(there / "l") == "a/x.csv"
    modes = {name: stat.S_IMODE((there / name).stat().st_mode) for name in (".", "a", "a/x.csv", "run")}
    assert modes == {".": 0o555, "a": 0o555, "a/x.csv": 0o444, "run": 0o555}
    assert [str(path.relative_to(part)) for path in part.rglob("*")] == ["top", "top/a", "top/a/x.csv"]
    worker.ended()


def flip(path: Path) -> None:
    """Change a byte, and put the time back."""
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        byte = file.read(1)
        file.seek(SIZE // 2)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o555)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_off(path: Path) -> None:
    """Leave the first half."""
    path.chmod(0o600)
    os.truncate(path, SIZE // 2)


def put_another(path: Path) -> None:
    """Put another file there by hand."""
    path.unlink()
    path.write_bytes(os.urandom(SIZE))


def put_link(path: Path) -> None:
    """Put a symbolic link there, to the right content even."""
    path.rename(path.with_name("aside"))
    path.symlink_to("aside")


def put_directory(path: Path) -> None:
    """Put a directory there."""
    path.unlink()
    path.mkdir()
    (path / "x").touch()


DAMAGE = [flip, cut_off, put_another, put_link, put_directory, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("in_use", [True, False])
def test_damage(node: Path, tmp_path: Path, damage: Callable[[Path], Any], in_use: bool) -> None:
    """What is not what it was is found and replaced, at once, whether another evaluation has it in use or not."""
    file = a_file(tmp_path / "x")
    user = NodeCache(node, 10 * SIZE)
    there = user.get(file)
    if not in_use:
        user.ended()
    with there.open("rb") as held:
        damage(there)
        worker = NodeCache(node, 10 * SIZE)
        assert worker.get(file).read_bytes() == Path(file.source).read_bytes()
        assert there.is_file()
        assert not there.is_symlink()
        if damage is not flip and damage is not cut_off:
            assert held.read() == Path(file.source).read_bytes()
    worker.ended()
    user.ended()
    assert not os.listdir(node.parent / TRASH)


def test_damage_in_a_directory(node: Path, tmp_path: Path) -> None:
    """So is a directory in which a file was changed, or is one too many."""
    (tmp_path / "top/a").mkdir(parents=True)
    (tmp_path / "top/a/x").write_text("right")
    worker = NodeCache(node, SIZE)
    for damage in ("changed", "more"):
        there = worker.get(hf.File(tmp_path / "top"))
        worker.ended()
        (there / "a").chmod(0o700)
        if damage == "more":
            (there / "a/y").touch()
        else:
            (there / "a/x").chmod(0o600)
            (there / "a/x").write_text("wrong")
        assert os.listdir(worker.get(hf.File(tmp_path / "top")) / "a") == ["x"]
        assert (there / "a/x").read_text() == "right"
        worker.ended()


def test_what_fits_by_chance_is_taken(node: Path, tmp_path: Path) -> None:
    """A file put there by hand that is the right one is looked at, and not copied."""
    file = a_file(tmp_path / "x")
    shutil.copy(file.source, node / file.digest)
    Path(file.source).unlink()
    worker = NodeCache(node, 10 * SIZE)
    assert worker.get(file).stat().st_size == SIZE
    worker.ended()


def test_the_place_of_another_user(tmp_path: Path) -> None:
    """A directory that others can write to is no cache."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files").chmod(0o777)
    with pytest.raises(hf.FileUnavailable, match="can be written by others"):
        NodeCache(tmp_path / "files", SIZE)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(hf.FileUnavailable):
        NodeCache(tmp_path / "link", SIZE)
    with pytest.raises(hf.FileUnavailable, match="No such file"):
        NodeCache(tmp_path / "nothing", SIZE)


def test_the_oldest_goes(node: Path, tmp_path: Path) -> None:
    """What was not used for longest goes first, and never what is in use or kept."""
    files = [a_file(tmp_path / f"{number}") for number in range(5)]
    user, worker = NodeCache(node, 4 * SIZE), NodeCache(node, 4 * SIZE)
    user.get(files[0])
    kept = worker.put(Path(shutil.copy(files[1].source, tmp_path / "made")), files[1].digest)
    for number in (2, 3, 2):
        worker.get(files[number])
        worker.ended()
        os.utime(node / ".locks" / files[number].digest, (1000 + number % 3,) * 2)
    worker.get(files[4])
    assert seen(node) == sorted(
        [files[0].digest, files[1].digest, f"{kept.name}.kept", files[2].digest, files[4].digest]
    )
    worker.ended()
    user.ended()
    os.unlink(f"{kept}.kept")
    worker.get(files[3])
    worker.ended()
    assert len(seen(node)) == 4
    used = sum(path.stat().st_size for path in node.rglob("*") if path.is_file() and path.parent == node)
    assert used <= 4 * SIZE


def test_more_than_fits(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who alone wants more than there is room for is told the sizes at once; who does not fit beside others, later."""
    one, other = a_file(tmp_path / "1"), a_file(tmp_path / "2")
    worker, second = NodeCache(node, SIZE + 1), NodeCache(node, SIZE + 1)
    worker.get(one)
    with pytest.raises(
        hf.ScratchFull, match=r"2.86M are wanted, besides 2.86M .* in use already.*2.86M together.*CACHE=6M"
    ):
        worker.get(other)
    monkeypatch.setattr(cache, "PATIENCE", 0.2)
    with pytest.raises(hf.ScratchFull, match=r"2.86M are wanted, and of the 2.86M .*2.86M are in use"):
        second.get(other)
    worker.ended()
    assert second.get(other).read_bytes() == Path(other.source).read_bytes()
    assert seen(node) == [other.digest]
    second.ended()
    with pytest.raises(hf.ScratchFull, match="are wanted, and all files"):
        NodeCache(node, 1000).get(one)


def test_changed_source(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that was changed after its first use is refused, with both states; nothing of it is kept."""

    def refuse(*_: Any) -> Path:
        raise hf.FileUnavailable("nobody has it")

    monkeypatch.setattr(asking, "fetch", refuse)
    file = a_file(tmp_path / "x")
    Path(file.source).write_bytes(b"1" * SIZE)
    worker = NodeCache(node, 10 * SIZE)
    with pytest.raises(hf.FileChanged, match=rf"2.86M, sha256 {file.digest[:12]}; here it has 2.86M of .*sha256"):
        worker.get(file)
    Path(file.source).write_bytes(b"1")
    with pytest.raises(hf.FileChanged, match="here it has 1 bytes"):
        worker.get(file)
    Path(file.source).unlink()
    with pytest.raises(hf.FileUnavailable):
        worker.get(file)
    assert seen(node) == []
    assert not [name for name in os.listdir(node) if name.endswith(".part")]


class Full:
    """A disk that is full when so many writes are done; so often."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.writes = 0
        self.write = os.write

    def __call__(self, number: int, data: Any) -> int:
        self.writes += 1
        if self.writes == 2 and self.times:
            self.writes, self.times = 0, self.times - 1
            self.write(number, bytes(data)[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.write(number, data)


def test_full_disk(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full, what nobody uses goes; if that does not help, the error says what to type; nothing stays."""
    old, file = a_file(tmp_path / "old"), a_file(tmp_path / "x")
    worker = NodeCache(node, 10 * SIZE)
    worker.get(old)
    worker.ended()
    monkeypatch.setattr(copying.os, "write", Full(1))
    assert worker.get(file).read_bytes() == Path(file.source).read_bytes()
    assert seen(node) == [file.digest]
    worker.ended()
    monkeypatch.setattr(copying.os, "write", Full(2))
    with pytest.raises(hf.ScratchFull, match=r"does not fit.*HYPERFLOW_SCRATCH="):
        worker.get(old)
    monkeypatch.undo()
    assert seen(node) == []
    assert not list(node.glob(".*.part"))
    worker.get(old)
    worker.ended()


def test_put(node: Path, tmp_path: Path) -> None:
    """What is put there is moved; what is not what it was said to be stays where it was."""
    file = a_file(tmp_path / "x")
    worker = NodeCache(node, 10 * SIZE)
    with pytest.raises(hf.FileChanged):
        worker.put(Path(file.source), "0" * 64)
    assert Path(file.source).stat().st_size == SIZE
    there = worker.put(Path(file.source), file.digest)
    assert not Path(file.source).exists()
    assert there.stat().st_size == SIZE
    assert worker.get(file) == there
    worker.ended()


def fetched(digest: str, size: int, source: str, into: Path) -> Path:
    """Stand in for the head, which sees what we do not: `far/x` is `x`."""
    content = Path(source.replace("/far/", "/")).read_bytes()
    into = into / f".fetched-{os.urandom(4).hex()}" if into.is_dir() else into
    into.write_bytes(content)
    assert digest
    assert size == len(content)
    return into


def test_fetched(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not seen here is asked for: files, and directories file by file."""
    monkeypatch.setattr(asking, "fetch", fetched)
    file = a_file(tmp_path / "x")
    top = tmp_path / "top"
    (top / "a/b").mkdir(parents=True)
    (top / "a/run").write_text("1")
    (top / "a/run").chmod(0o755)
    (top / "l").symlink_to("a/run")
    listing = tmp_path / "listing"
    directory = hf.File(top)
    listing.write_bytes(cache.content.manifest(directory._entries()))
    far = hf.File.known(f"{tmp_path}/far/x", file.digest, SIZE)
    far_top = hf.File.known(
        f"{tmp_path}/far/top", directory.digest, 1, is_dir=True, listing=(str(listing), listing.stat().st_size)
    )
    worker = NodeCache(node, 10 * SIZE)

    assert worker.get(far).read_bytes() == Path(file.source).read_bytes()
    assert hf.File(worker.get(far_top)) == directory
    assert os.access(worker.get(far_top) / "l", os.X_OK)
    worker.ended()
    assert seen(node) == sorted([file.digest, directory.digest])


def ask(node: Path, file: hf.File, copies: Path, start: tuple[int, int]) -> None:
    """In a process of its own: ask for a file when the pipe ends, and leave a mark for each copy."""
    copy_file = copying.copy_file

    def counted(*args: Any, **kwargs: Any) -> None:
        (copies / f"{os.getpid()}").touch()
        copy_file(*args, **kwargs)

    copying.copy_file = counted
    os.close(start[1])
    os.read(start[0], 1)
    worker = NodeCache(node, 10 * SIZE)
    assert worker.get(file).stat().st_size == SIZE
    worker.ended()


@pytest.mark.process
def test_many_ask_at_once(node: Path, tmp_path: Path) -> None:
    """Sixteen workers that ask at the same time get one copy."""
    file = a_file(tmp_path / "x")
    context = multiprocessing.get_context("fork")
    copies, start = tmp_path / "copies", os.pipe()
    copies.mkdir()
    processes = [context.Process(target=ask, args=(node, file, copies, start)) for _ in range(16)]
    for process in processes:
        process.start()
    for end in start:
        os.close(end)
    for process in processes:
        process.join(50)
    assert [process.exitcode for process in processes] == [0] * 16
    assert len(list(copies.iterdir())) == 1


def copy_forever(node: Path, file: hf.File) -> None:
    """In a process of its own: begin to copy a file, and never end."""
    write = os.write
    copying.os.write = lambda number, data: (write(number, bytes(data)[:1000]), signal.pause())[0]  # type: ignore[assignment]
    NodeCache(node, 10 * SIZE).get(file)


@pytest.mark.process
def test_the_one_that_copies_is_killed(node: Path, tmp_path: Path) -> None:
    """If the worker that copies is killed in the middle, the next one copies anew, and nothing of the first is left."""
    file = a_file(tmp_path / "x")
    process = multiprocessing.get_context("fork").Process(target=copy_forever, args=(node, file))
    process.start()
    part = node / f".{file.digest}.part"
    block_until(lambda: part.exists() and part.stat().st_size > 0, 20, "it copies")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()

    worker = NodeCache(node, 10 * SIZE)
    assert worker.get(file).read_bytes() == Path(file.source).read_bytes()
    assert not part.exists()
    worker.ended()


def test_what_has_another_name_is_not_taken_away(node: Path, tmp_path: Path) -> None:
    """A file with two names, and one of a directory in the cache, are copied: who has them keeps them as they are."""
    one = tmp_path / "one"
    one.write_text("one")
    one.chmod(0o640)
    os.link(one, tmp_path / "two")
    worker = NodeCache(node, 10 * SIZE)
    assert worker.put(tmp_path / "two", hf.File(one).digest).read_text() == "one"
    assert one.stat().st_mode & 0o777 == 0o640
    top = tmp_path / "top"
    top.mkdir()
    (top / "x").write_text("x")
    there = worker.get(hf.File(top))
    assert worker.put(there / "x", hf.File(top / "x").digest).read_text() == "x"
    assert (there / "x").read_text() == "x"
    worker.ended()


def test_many_small_files_are_not_counted_for_each_one(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is looked for when there is none, and then for some more; the limit holds all the same."""
    shelf, looks = Shelf(node, 1000), list[int]()
    notes = Shelf._notes

    def counted(self: Shelf, but: str) -> Iterator[tuple[str, tuple[float, Note]]]:
        looks.append(1)
        return notes(self, but)

    monkeypatch.setattr(Shelf, "_notes", counted)
    for number in range(1500):
        use = shelf.use(f"{number:064x}")
        assert shelf.reserve(use, f"{number:064x}", Note(1)) is None
        (node / f"{number:064x}").write_text("1")
        use.end()
        if number % 100 == 0:
            assert sum(each.size for _, (_, each) in notes(shelf, "")) <= 1000
    assert len(looks) < 20
    assert 900 < len([name for name in os.listdir(node) if len(name) == 64]) <= 1000


def test_a_sum_that_is_wrong(node: Path) -> None:
    """One that a kill has left too large, or half written, is counted anew."""
    shelf = Shelf(node, 1000)
    for said in ("", "99999", "x", "00000000000000000999"):
        (node / ".locks" / "all").write_text(said)
        use = shelf.use("a")
        assert shelf.reserve(use, "a", Note(600)) is None
        use.end()
        assert int((node / ".locks" / "all").read_text()) == 600
