"""Commands with files, by real programs on real workers: what comes home, what does not, and what is left."""

import asyncio
import hashlib
import os
import stat
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.staging import delivery, landings
from hyperflow.wire import scratch
from tests.helpers import wait_until
from tests.support import Gate, local, notes
from tests.worker.test_log import small_disk

SHOUT = """
#include <stdio.h>
#include <ctype.h>
int main(int count, char **words) {
    FILE *in = fopen(words[1], "r"), *out = fopen(words[2], "w");
    for (int c; (c = getc(in)) != EOF;) putc(toupper(c), out);
    return fclose(out);
}
"""

SEEN = ["seen", "unseen"]
"""Whether the worker sees where outputs come."""


@pytest.fixture(autouse=True)
def _in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")


def blind() -> None:
    """On a worker: see no destination from now on."""
    delivery.is_there = lambda *_: False


@asynccontextmanager
async def worker(sight: str = "seen", **options: Any) -> AsyncIterator[hf.JobEnv]:
    """Open a job with one worker."""
    async with local(cpus=1, **options) as env:
        if sight == "unseen":
            await hf.remote_eval(blind)
        yield env
        assert await hf.remote_eval(left_in_scratch) == []


def left_in_scratch() -> list[str]:
    """On a worker: return what evaluations have left there."""
    assert scratch.worker is not None
    place = scratch.directory_of(scratch.worker)
    return sorted(os.listdir(place)) if place is not None and place.exists() else []


def sh(text: str, *words: Any, **more: Any) -> hf.Job[hf.CommandResult]:
    """Run a line of a shell as a command with files."""
    return hf.remote_command(["sh", "-c", text, "sh", *words], **more)


def files_in(directory: str = ".") -> dict[str, str]:
    """Return all that is in a directory, hidden parts included."""
    return {str(path): path.read_text() for path in sorted(Path(directory).rglob("*")) if path.is_file()}


@pytest.mark.parametrize("sight", SEEN)
async def test_a_compiled_program(sight: str) -> None:
    """A C program that is a file reads one and makes another one; what comes home is known by its content."""
    Path("shout.c").write_text(SHOUT)
    subprocess.run(["cc", "-o", "shout", "shout.c"], check=True)
    os.chmod("shout", 0o755)
    Path("in put").write_text("quiet\n")
    async with worker(sight):
        command = [hf.File("shout"), hf.File("in put"), hf.Output("deep/er/out put")]
        result = await hf.remote_command(command, cpus=1, memory="100M", check=True)
        assert Path("deep/er/out put").read_text() == "QUIET\n"
        assert result.files["deep/er/out put"].digest == hf.File("deep/er/out put").digest
        assert result.argv == ("./shout", "in put", "out put")
        again = await hf.remote_command(["cat", result.files["deep/er/out put"]], capture=True)
        assert again.stdout == "QUIET\n"
    assert sorted(os.listdir("deep/er")) == ["out put"]


@pytest.mark.parametrize("sight", SEEN)
async def test_directories_and_patterns(sight: str) -> None:
    """A directory takes the place of the one before as a whole; files that fit a pattern come one by one."""
    Path("results").mkdir()
    Path("results/old").write_text("old")
    Path("b.csv").write_text("old")
    Path("c.csv").write_text("stays")
    text = (
        "mkdir -p results/empty results/d; echo new > results/d/x; ln -s d/x results/l; : > results/nothing;"
        "chmod 750 results/d/x; echo a > a.csv; echo b > b.csv; mkdir -p out; echo y > out/y.dat"
    )
    async with worker(sight):
        result = await sh(text, outputs=["results/", "*.csv", "out/*.dat", hf.Output("else/*.csv")], check=True)
    assert files_in() == {
        "a.csv": "a\n", "b.csv": "b\n", "c.csv": "stays", "else/a.csv": "a\n", "else/b.csv": "b\n", "out/y.dat": "y\n",
        "results/d/x": "new\n", "results/l": "new\n", "results/nothing": "",
    }  # fmt: skip
    assert os.readlink("results/l") == "d/x"
    assert Path("results/empty").is_dir()
    assert stat.S_IMODE(os.stat("results/d/x").st_mode) == 0o750
    assert sorted(result.files) == ["a.csv", "b.csv", "out/y.dat", "results/"]


async def test_large_outputs_in_pieces() -> None:
    """Twenty megabytes come unchanged from a worker that does not see the place, in pieces."""
    async with worker("unseen"):
        await sh("head -c 20000000 /dev/urandom > x; sha256sum < x > sum", outputs=["x", "sum"], check=True)
    assert hashlib.sha256(Path("x").read_bytes()).hexdigest() == Path("sum").read_text().split()[0]


async def test_where_a_command_runs() -> None:
    """It starts in a directory of its own with its inputs only; TMPDIR is another one, and both are empty before."""
    Path("x").write_text("x")
    async with worker():
        result = await sh("pwd; ls -A; ls -A $TMPDIR; echo $TMPDIR", inputs={"a/b": "x", "-c": "x"}, capture=True)
        home, *names, temporary = result.stdout.split()
        assert names == ["-c", "a"]
        assert Path(home).parent == Path(temporary).parent
        assert home != os.getcwd()
        assert not Path(home).exists()


async def test_standard_streams() -> None:
    """What a command reads from and writes to may be files, too."""
    Path("in").write_text("b\na\n")
    async with worker():
        result = await hf.remote_command(["sort"], stdin=hf.File("in"), stdout=hf.Output("sorted"), check=True)
        assert Path("sorted").read_text() == "a\nb\n"
        await hf.remote_command(
            ["sort", "-r"], stdin=result.files["sorted"], stdout=Path("turned"), outputs=[], check=True
        )
    assert Path("turned").read_text() == "b\na\n"


async def test_files_in_evaluations() -> None:
    """`run_command` takes files as words: the paths that they have there."""
    Path("x").write_text("x")

    async def look(file: hf.File) -> str:
        return (await hf.run_command(["cat", file], capture=True)).stdout

    async with worker():
        assert await hf.remote_eval(look, hf.File("x")) == "x"


@pytest.mark.parametrize("sight", SEEN)
async def test_outputs_of_failures(sight: str) -> None:
    """Some come only when the command fails, the others only when it does not; what was there stays as it was."""
    Path("out").write_text("old")
    wanted = [hf.Output("core", on_failure=True), hf.Output("never", on_failure=True), "out"]
    text = "echo $1 > out; echo seen > core; kill -$2 $$; exit $3"
    async with worker(sight):
        result = await sh(text, "one", "0", "3", outputs=wanted)
        assert (result.returncode, sorted(result.files)) == (3, ["core"])
        assert files_in() == {"core": "seen\n", "out": "old"}
        os.unlink("core")
        with pytest.raises(hf.CommandFailed, match="SIGTERM") as caught:
            await sh(text, "two", "TERM", "0", outputs=wanted, check=True)
        assert f"come home, because it has failed: {Path('core').absolute()}" in notes(caught.value)
        assert files_in() == {"core": "seen\n", "out": "old"}
        os.unlink("core")
        result = await sh(text, "three", "0", "0", outputs=wanted)
        assert sorted(result.files) == ["out"]
    assert files_in() == {"out": "three\n"}


HOSTILE = {
    "never": (":", "out", "never made; there is: 'good'"),
    "elsewhere": ("echo > other", "out", "there is: 'good', 'other'"),
    "directory": ("mkdir out", "out", "write 'out/'"),
    "file": (": > out", "out/", "without the slash"),
    "link out": ("ln -s /etc/passwd out", "out", "leads out of the command's directory"),
    "deep link out": ("mkdir -p out/d; ln -s ../../../.. out/d/l", "out/", "leads out of the command's directory"),
    "pipe": ("mkfifo out", "out", r"a pipe \(FIFO\)"),
    "pipe within": ("mkdir out; mkfifo out/p", "out/", r"a pipe \(FIFO\)"),
    "pattern": ("ln -s /etc/passwd out.csv", "*.csv", "leads out of the command's directory"),
    "circle": ("ln -s out out", "out", "leads nowhere"),
}


async def test_hostile_outputs() -> None:
    """What is missing, of another kind, or leads out, is refused by name; nothing comes, and nothing is left."""
    Path("good").write_text("old")
    async with worker():
        for text, name, says in HOSTILE.values():
            with pytest.raises(hf.OutputFailed, match=says) as caught:
                await sh(f"echo new > good; {text}", outputs=["good", name])
            assert caught.value.output == name
    assert files_in() == {"good": "old"}
    assert os.listdir() == ["good"]


async def test_programs_that_spoil_their_directory() -> None:
    """Directories without rights, thousands of files and strange names are removed; inputs are as they were."""
    Path("x").write_text("x")
    text = 'rm -f x; mkdir -p a/b; : > a/b/c; chmod 0 a/b a; i=0; while [ $i -lt 500 ]; do : > "f $i"; i=$((i+1)); done'
    async with worker():
        await sh(text, inputs=["x"], check=True)
        result = await hf.remote_command(["cat", hf.File("x")], capture=True, check=True)
        assert result.stdout == "x"
    assert files_in() == {"x": "x"}


async def test_programs_that_write_to_their_inputs() -> None:
    """A program that writes to an input, as root may, does not change what others get."""
    Path("x").write_text("x")
    async with worker():
        await sh("cat x; chmod u+w x; echo spoiled > x; true", inputs=["x"])
        result = await hf.remote_command(["cat", hf.File("x")], capture=True, check=True)
        assert result.stdout == "x"
    assert files_in() == {"x": "x"}


@pytest.mark.parametrize(
    ("made", "output", "says"),
    [
        ("file", "file/below", "part of its path is a file"),
        ("dir/", "dir", "is a directory. If the command makes a directory"),
        ("file", "file/", "is there, and is no directory"),
        ("dir/", "../home/", "the program runs in it"),
    ],
)
async def test_places_that_cannot_be(made: str, output: str, says: str) -> None:
    """A place that cannot be written is refused before anything runs."""
    Path(made).mkdir() if made.endswith("/") else Path(made).write_text("")
    async with local(cpus=1) as env:
        with pytest.raises(hf.ConfigurationError, match=says):
            await hf.remote_command(["touch", "../ran"], outputs=[hf.Output(output)])
        assert env.statistics().done + env.statistics().running == 0
    assert os.listdir() == [made.rstrip("/")]


async def test_one_place_for_two(tmp_path: Path) -> None:
    """While a command is under way, another one with its place is refused by both their names; later it is not."""
    gate = Gate(tmp_path)
    async with local(cpus=2):
        first = hf.remote_command(["cp", gate.path, hf.Output("out")]).start()
        tree = sh("mkdir tree; read x < $1; : > tree/x", gate.path, outputs=["tree/"]).start()
        await wait_until(lambda: len(os.listdir()) == 2, 20, "both are under way")
        for output in ("out", hf.Output("../home/out"), "tree/", "tree/x"):
            with pytest.raises(hf.ConfigurationError, match=r"'touch'.* command \['(cp|sh)'.* under way"):
                await hf.remote_command(["touch"], outputs=[output])
        first.cancel()
        tree.cancel()
        await asyncio.wait([first, tree])
        assert os.listdir() == []
        await hf.remote_command(["touch", hf.Output("out")], check=True)
    assert os.listdir() == ["out"]


@pytest.mark.parametrize("sight", SEEN)
async def test_cancel_while_outputs_come(sight: str, tmp_path: Path) -> None:
    """A cancel in the midst of it leaves what was there, and nothing else."""
    Path("out").write_text("old")

    def slow(path: str) -> None:
        pieces = delivery.pieces_of

        def slowly(source: str) -> Any:
            for piece in pieces(source):
                yield piece
                Path(path).touch()
                time.sleep(3600)

        delivery.pieces_of = slowly

    async with local(cpus=1):
        if sight == "unseen":
            await hf.remote_eval(blind)
        await hf.remote_eval(slow, str(tmp_path / "begun"))
        future = sh("head -c 5000000 /dev/zero > out", outputs=["out"]).start()
        await wait_until((tmp_path / "begun").exists, 20, "it comes")
        await wait_until(lambda: len(os.listdir()) == 3, 20, "a part is there")
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert files_in() == {"out": "old"}
        await wait_until(lambda: os.listdir() == ["out"], 5, "nothing else is left")


async def test_a_hundred_side_by_side() -> None:
    """A hundred commands with two files each, from one input, some of which fail."""
    Path("in").write_text("x\n" * 1000)

    def one(number: int) -> hf.Job[hf.CommandResult]:
        return sh(
            f"wc -l < in > count; exit {number % 10 == 0:d}",
            inputs=["in"], outputs=[hf.Output(f"out/{number}/count")], check=True,
        )  # fmt: skip

    async with local(cpus=4):
        results = await hf.map_concurrently(one, range(100), errors="return")
    assert [type(result) is hf.Failed for result in results] == [number % 10 == 0 for number in range(100)]
    assert files_in("out") == {f"out/{number}/count": "1000\n" for number in sorted(range(100), key=str) if number % 10}
    assert len(os.listdir("out")) == 90


async def test_few_have_a_place_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that wait for CPUs have no markers on the disk; a cancel gives their turn to others."""
    monkeypatch.setattr(landings, "UNDER_WAY", 4)
    gate = Gate(tmp_path)
    async with local(cpus=1):
        futures = [sh("read x < $1; : > $2", gate.path, hf.Output(f"out.{n}")).start() for n in range(20)]
        await wait_until(lambda: len(os.listdir()) == 6, 20, "six have a place")
        for future in futures[1:18]:
            future.cancel()
        await wait_until(lambda: len(os.listdir()) == 3, 20, "three are left")
        for future in (futures[0], *futures[18:]):
            while not future.done():
                await asyncio.to_thread(gate.open)
                await asyncio.wait([future], timeout=0.1)
            await future
    assert sorted(os.listdir()) == ["out.0", "out.18", "out.19"]


async def test_tries(tmp_path: Path) -> None:
    """A command that succeeds at its second try has the outputs of that."""
    text = f"echo x >> {tmp_path}/tries; wc -l < {tmp_path}/tries > out; [ $(cat out) = 2 ]"
    async with worker():
        await sh(text, outputs=["out", hf.Output("bad", on_failure=True)], check=True).using(retries=3)
    assert files_in() == {"out": "2\n"}


@pytest.mark.parametrize("sight", SEEN)
async def test_a_place_without_room(sight: str, tmp_path: Path) -> None:
    """An output larger than the disk where it comes is an error that says so; what was there is untouched."""
    with small_disk(tmp_path / "disk", 1024) as disk:
        (disk / "out").write_text("old")
        async with worker(sight):
            with pytest.raises(hf.OutputFailed, match=r"no room for it in .*disk .*keep=\"node\"") as caught:
                await sh("head -c 3000000 /dev/urandom > out", outputs=[hf.Output(disk / "out")])
            assert caught.value.output == str(disk / "out")
        assert os.listdir(disk) == ["out"]
        assert (disk / "out").read_text() == "old"


async def test_scratch_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that finds no room in scratch is told of as such, with what to type; nothing is left there."""
    with small_disk(tmp_path / "disk", 2048) as disk:
        monkeypatch.setenv("HYPERFLOW_SCRATCH", str(disk))
        async with local(cpus=1):
            with pytest.raises(hf.ScratchFull, match="HYPERFLOW_SCRATCH="):
                await sh("head -c 9000000 /dev/zero > out", outputs=["out"])
            assert await hf.remote_eval(left_in_scratch) == []
            await sh("echo x > out", outputs=["out"], check=True)
    assert files_in() == {"out": "x\n"}


@pytest.mark.process
async def test_inline() -> None:
    """The same in the environment for tests, without workers."""
    from hyperflow.testing import open_inline_job

    Path("in").write_text("b\na\n")
    async with open_inline_job():
        result = await hf.remote_command(["sort", hf.File("in"), "-o", hf.Output("out")], check=True)
        assert result.files["out"].digest == hf.File("out").digest
    assert files_in() == {"in": "b\na\n", "out": "a\nb\n"}


async def test_outputs_that_stay() -> None:
    """An output may stay on its node; it is a file for others, and nothing comes home."""
    async with worker():
        made = await sh(
            "echo big > x; echo y > y.csv", outputs=[hf.Output("x", keep="node"), hf.Output("*.csv", keep="node")]
        )
        assert sorted(made.files) == ["x", "y.csv"]
        result = await hf.remote_command(["cat", made.files["x"], made.files["y.csv"]], capture=True, check=True)
        assert result.stdout == "big\ny\n"
        del made
    assert os.listdir() == []
