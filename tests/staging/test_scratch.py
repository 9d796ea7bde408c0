"""hf.scratch, and files in evaluations: what an evaluation has on its node, and that it goes with it."""

import asyncio
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.testing import open_inline_job
from hyperflow.wire import removal, scratch
from tests.helpers import wait_until
from tests.support import Gate, local, notes, wait_at


def below(place: Path) -> list[str]:
    """Return what workers have in a scratch directory."""
    return [str(path.relative_to(place)) for path in place.glob("*/*/worker-*/*")]


def use(directory: Path) -> None:
    """Leave there what is hard to remove."""
    (directory / "a/b").mkdir(parents=True)
    (directory / "a/b/c").write_text("1")
    (directory / "link").symlink_to("/")
    (directory / "a/b").chmod(0o100)
    (directory / "a").chmod(0)


def plain(end: str = "") -> tuple[str, list[str]]:
    """On a worker: use a directory, and one within."""
    with hf.scratch() as outer, hf.scratch() as inner:
        use(outer)
        assert not os.listdir(inner)
        if end == "exit":
            os._exit(1)
        if end == "sleep":
            (outer / "here").touch()
            subprocess.run(["sleep", "1000"], check=False)
        return str(outer), [str(inner)]


async def asynchronous() -> tuple[str, list[str]]:
    """On a worker: do the same."""
    with hf.scratch() as directory:
        use(directory)
        await asyncio.sleep(0)
        return str(directory), []


async def test_in_evaluations(tmp_path: Path) -> None:
    """In plain and async functions, and in the job itself: it is on the scratch disk, and gone when the block ends."""
    async with local(1, scratch=str(tmp_path)):
        for function in (plain, asynchronous):
            directory, more = await hf.remote_eval(function)
            assert directory.startswith(f"{tmp_path}/hyperflow-{os.geteuid()}/")
            assert not any(map(os.path.exists, [directory, *more]))
    assert not os.listdir(tmp_path)
    async with open_inline_job():
        directory, _ = await hf.remote_eval(plain)
        assert not Path(directory).exists()
        with hf.scratch() as own:
            use(own)
        assert not own.parent.exists()


@pytest.mark.parametrize("end", ["exit", "cancel", "limit", "kill"])
async def test_evaluations_that_do_not_end_in_order(tmp_path: Path, end: str) -> None:
    """What an evaluation has goes with it, also if it is killed."""
    async with local(1, scratch=str(tmp_path)) as env:
        flow = hf.remote_eval(plain, "exit" if end == "exit" else "sleep")
        if end == "limit":
            flow = flow.using(time_limit=0.5)
        future = flow.start()
        if end in ("cancel", "kill"):
            await wait_until(lambda: bool(list(tmp_path.glob("*/*/worker-*/*/here"))), 20, "it is in")
        if end == "cancel":
            future.cancel()
        if end == "kill":
            (worker,) = tmp_path.glob("*/*/worker-*/scratch-*-*/here")
            os.kill(int(worker.parent.name.split("-")[1]), 9)
        with pytest.raises((hf.WorkerDied, hf.TimeLimitExceeded, asyncio.CancelledError)):
            await future
        await wait_until(lambda: not below(tmp_path), 10, "it has gone", state=lambda: below(tmp_path))
        await wait_until(lambda: not list(tmp_path.glob("*/*/trash/*")), 10, "the trash is empty")
        await wait_until(lambda: env.statistics().cpus_free == 1, 10, "the CPU is back")
    assert not os.listdir(tmp_path)


def leave() -> str:
    """On a worker: leave something beside a directory, and never end the block of another."""
    with hf.scratch() as directory:
        (directory.parent / "left").mkdir()
        (directory.parent / "left/x").write_text("1")
    hf.scratch().__enter__()
    return str(directory.parent)


async def test_what_an_evaluation_leaves_there(tmp_path: Path) -> None:
    """What is left is removed when the evaluation ends, and the worker goes on."""
    async with local(1, scratch=str(tmp_path)):
        above = await hf.remote_eval(leave)
        assert await hf.remote_eval(os.listdir, above) == []
        assert (await hf.remote_eval(plain))[0].startswith(above)


def fail(keep: str) -> None:
    """On a worker: fail in the block."""
    with hf.scratch(keep_on_failure=keep) as directory:
        (directory / "a").mkdir()
        (directory / "a/core").write_text("1")
        raise ValueError("user's own")


async def test_kept_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed block had is kept by the number of the evaluation, below the program's directory."""
    monkeypatch.chdir(tmp_path)
    async with local(1) as env:
        with pytest.raises(ValueError, match="user's own") as caught:
            await hf.remote_eval(fail, "run/debug")
        (kept,) = (tmp_path / "run/debug").iterdir()
        assert kept.name.startswith(f"{env.program.program_id}.")
        assert (kept / "a/core").read_text() == "1"
        assert str(kept) in notes(caught.value)
        with pytest.raises(ValueError, match="user's own") as caught:
            await hf.remote_eval(fail, "/proc/nowhere")
        assert "keeps not all of the scratch directory" in notes(caught.value)
        with pytest.raises(ValueError, match="user's own"):
            fail("job")
        assert len(list((tmp_path / "job").iterdir())) == 1


def nothing() -> int:
    """On a worker: need no files."""
    return 1


def read(file: hf.File) -> tuple[bytes, str]:
    """On a worker: read a file."""
    return Path(file).read_bytes(), str(file.path())


@pytest.mark.parametrize("place", ["nowhere", "file", "x/../y"])
async def test_no_scratch(tmp_path: Path, place: str) -> None:
    """A node without a place for scratch runs what needs none, and tells others what to type."""
    (tmp_path / "file").touch()
    (tmp_path / "x").touch()
    file = hf.File(tmp_path / "file")
    async with local(1, scratch=str(tmp_path / place)):
        assert await hf.remote_eval(nothing) == 1
        with pytest.raises(
            hf.FileUnavailable, match=r"there can be no scratch directory in .*HYPERFLOW_SCRATCH=/local"
        ):
            await hf.remote_eval(plain)
        with pytest.raises(hf.FileUnavailable, match="HYPERFLOW_SCRATCH=/local"):
            await hf.remote_eval(read, file)


async def test_another_users_place(tmp_path: Path) -> None:
    """A directory in our place that others can write to, or that is a link, is not used, and does not keep us out."""
    home = tmp_path / "home"
    home.mkdir()
    for make in (lambda path: path.mkdir(), lambda path: path.symlink_to(home), lambda path: path.write_text("")):
        place = tmp_path / f"hyperflow-{os.geteuid()}"
        make(place)
        if place.is_dir() and not place.is_symlink():
            place.chmod(0o777)
        async with local(1, scratch=str(tmp_path)):
            directory, _ = await hf.remote_eval(plain)
        assert directory.startswith(f"{place}-")
        assert not os.listdir(home)
        assert sorted(os.listdir(tmp_path)) == ["home", place.name]
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()


async def test_a_place_where_others_could_swap_directories(tmp_path: Path) -> None:
    """In a directory of a group there is no scratch, unless it is sticky, or nobody else comes there."""
    shared = tmp_path / "shared"
    (shared / "own").mkdir(parents=True)
    tmp_path.chmod(0o755)
    shared.chmod(0o775)
    closed = [each for each in tmp_path.parents if not each.stat().st_mode & 0o011]
    for each in closed:
        each.chmod(0o711)
    try:
        async with local(1, scratch=str(shared / "own")):
            with pytest.raises(hf.FileUnavailable, match=r"others can write to .*/shared.*chmod \+t"):
                await hf.remote_eval(plain)
        shared.chmod(0o1775)
        async with local(1, scratch=str(shared / "own")):
            assert await hf.remote_eval(plain)
        shared.chmod(0o775)
        tmp_path.chmod(0o700)
        async with local(1, scratch=str(shared / "own")):
            assert await hf.remote_eval(plain)
    finally:
        for each in closed:
            each.chmod(0o700)
    assert not os.listdir(shared / "own")


SETTINGS = [("scratch", "relative"), ("cache", "many"), ("cache", 0), ("cache", -1)]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
async def test_settings_that_make_no_sense(name: str, value: Any) -> None:
    """A setting that can be none is refused before anything starts."""
    with pytest.raises(hf.ConfigurationError, match=name):
        async with local(1, **{name: value}):
            pass


async def test_a_file_in_evaluations(tmp_path: Path) -> None:
    """As an argument, in what a function refers to, in other values, made on the worker; a copy, once for all."""
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "x.txt"
    path.write_bytes(b"content")
    file = hf.File(path)

    def refers() -> tuple[bytes, str]:
        return read(file)

    def made() -> tuple[bytes, str]:
        return read(hf.File(path))

    async with local(2, scratch=str(tmp_path / "scratch")):
        results = [
            await hf.remote_eval(read, file),
            await hf.remote_eval(refers),
            await hf.remote_eval(made),
            *await hf.remote_map(lambda pair: read(pair[1]), [(n, file) for n in range(50)]),
        ]
        assert {content for content, _ in results} == {b"content"}
        (place,) = {place for _, place in results}
        assert Path(place).name == "x.txt"
        assert place.startswith(str(tmp_path / "scratch"))
        back = await hf.remote_eval(lambda: file)
        assert (back, back.source) == (file, str(path))
    assert not os.listdir(tmp_path / "scratch")


async def test_in_use_until_the_end(tmp_path: Path) -> None:
    """What an evaluation has in use stays, and one that needs the room waits until that has ended."""
    (tmp_path / "scratch").mkdir()
    gate = Gate(tmp_path)
    files = []
    for name in "ab":
        (tmp_path / name).write_bytes(os.urandom(1000))
        files.append(hf.File(tmp_path / name))

    def hold(file: hf.File) -> bool:
        place = file.path()
        wait_at(gate.path)
        return place.exists()

    async with local(2, scratch=str(tmp_path / "scratch"), cache=1500) as env:
        first = hf.remote_eval(hold, files[0]).start()
        await gate.wait_inside()
        second = hf.remote_eval(read, files[1]).start()
        await wait_until(lambda: env.statistics().running == 2, 10, "the other waits")
        assert not second.done()
        gate.open()
        assert await first
        assert len((await second)[0]) == 1000


async def test_a_changed_file_in_evaluations(tmp_path: Path) -> None:
    """A file that was changed after the program first used it is refused on workers, with both states."""
    path = tmp_path / "x"
    path.write_text("before")
    file = hf.File(path)
    assert file.digest
    path.write_text("behind")
    async with local(1):
        with pytest.raises(hf.FileChanged, match=rf"sha256 {file.digest[:12]}"):
            await hf.remote_eval(read, file)
        assert (await hf.remote_eval(read, hf.File(path)))[0] == b"behind"


def one_full(then: Sequence[str], file: hf.File, write: Callable[..., int] = os.write) -> None:
    """On a worker: read a file while its disk is full."""

    def full(number: int, data: bytes) -> int:
        if "/files/." in os.readlink(f"/proc/self/fd/{number}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(number, data)

    os.write = full
    try:
        read(file)
    finally:
        os.write = write


async def test_a_full_disk_in_evaluations(tmp_path: Path) -> None:
    """A full scratch disk is an error that says what to type; with room it works."""
    (tmp_path / "x").write_bytes(os.urandom(10000))
    file = hf.File(tmp_path / "x")
    async with local(1):
        with pytest.raises(hf.ScratchFull, match=r"does not fit.*HYPERFLOW_SCRATCH=/large"):
            await hf.remote_eval(one_full, [], file)
        assert len((await hf.remote_eval(read, file))[0]) == 10000


@pytest.mark.unit
def test_the_rest_of_a_removal_is_stale(tmp_path: Path) -> None:
    """Whoever was killed in the middle of a removal has left something without its lock; the next one takes that."""
    made, lock = scratch.make_apart(str(tmp_path))
    os.close(lock)
    rest = made.with_name(f"{removal.GONE}{made.name}")
    made.rename(rest)
    (rest / scratch.ALIVE).unlink()
    being_made = made.with_name("being-made")
    being_made.mkdir(0o700)
    assert list(scratch.stale_in(made.parent)) == [rest]
