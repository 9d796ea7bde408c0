"""What is printed on a worker, by whomever, ends in its log and disturbs nothing."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyperflow as hf
from tests import functions as f
from tests.helpers import wait_until
from tests.support import environment, local, logs, script

ROOT = os.geteuid() == 0


async def test_lines_are_marked() -> None:
    """Each printed line carries the number and name of its evaluation, whatever stream and however it was cut."""

    def speaks(n: int) -> None:
        print("to stdout", n)
        print("to stderr", n, file=sys.stderr)
        print("in ", end="")
        print("pieces")
        print("two\nlines")
        sys.stdout.write("without an end")

    began = time.time()
    async with local(cpus=1) as env:
        await hf.remote_eval(speaks, 1)
        await hf.remote_eval(speaks, 2)
        lines = logs(env).splitlines()
    for n in (1, 2):
        words = [f"to stdout {n}", f"to stderr {n}", "in pieces", "two", "lines", "without an end"]
        assert [line[20:] for line in lines if f" [#{n} " in line] == [f"[#{n} speaks] {text}" for text in words]
    assert len(lines) == 12
    today = {time.strftime("%Y-%m-%d %H", time.localtime(at)) for at in (began, time.time())}
    assert {line[:13] for line in lines} <= today
    assert all(re.fullmatch(r"[-\d]{10} \d\d:\d\d:\d\d ", line[:20]) for line in lines)


async def test_what_others_write_is_attributed() -> None:
    """Lines of C code and of children are in the log as they are, followed by a line that says whose they are."""

    def noisy() -> None:
        os.write(1, b"by os.write\n")
        os.system("echo by a shell; echo to stderr >&2")
        subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
        sys.stdout.buffer.write(b"bytes \xff\xfe\n")

    async with local(cpus=1) as env:
        await hf.remote_eval(noisy)
        await hf.remote_eval(f.spin, 0.001)
        text = logs(env)
    lines = text.splitlines()
    at = [lines.index(line) for line in ("by os.write", "by a shell", "to stderr", "by a child")]
    marks = [n for n, line in enumerate(lines) if line[20:] == "[#1 noisy] wrote the unmarked lines above"]
    assert len(marks) == 1
    assert max(at) < marks[0]
    assert "#2" not in text


async def test_ten_megabytes() -> None:
    """10 MB in one print, and in 100,000 prints, disturb nothing; all of it is there."""

    def much() -> int:
        print("x" * 10_000_000)
        for n in range(100_000):
            print(n, end=";")
        return 1

    async with local() as env:
        assert await hf.replicate_concurrently(2, hf.remote_eval(much)) == [1, 1]
        assert await hf.remote_eval(f.add, 1) == 1
        text = logs(env)
    assert text.count("x" * 10_000_000) == 2
    assert text.count(";99999;") == 2


async def test_child_that_goes_on_printing() -> None:
    """A child that prints after its evaluation has ended, and while others run, reaches the log only."""

    def leaves_a_printer() -> int:
        return subprocess.Popen(["sh", "-c", "while :; do echo noise; done"]).pid

    async with local(cpus=1) as env:
        await hf.remote_eval(leaves_a_printer)
        before = len(logs(env))
        assert await hf.map_concurrently(lambda n: hf.remote_eval(f.add, n), range(500)) == list(range(500))
        await wait_until(lambda: len(logs(env)) > before, 20, "it goes on printing")
        assert await hf.map_concurrently(lambda n: hf.remote_eval(f.add, n), range(500)) == list(range(500))


async def test_threads_print() -> None:
    """Nothing of what threads print at the same time is lost."""

    def threads() -> None:
        import threading

        def speak(n: int) -> None:
            for i in range(500):
                print(f"<line {n} {i}>")

        started = [threading.Thread(target=speak, args=(n,)) for n in range(8)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    async with local(cpus=1) as env:
        await hf.remote_eval(threads)
        text = logs(env)
    assert sorted(re.findall("<.*?>", text)) == sorted(f"<line {n} {i}>" for n in range(8) for i in range(500))


async def test_replaced_and_closed_streams() -> None:
    """A function that replaces, closes or asks for the streams does not take them from the next one."""

    def replaces() -> str:
        import io
        import logging

        logging.basicConfig()
        sys.stdout.flush()
        assert not sys.stdout.isatty()
        assert sys.stderr.fileno() == 2
        sys.stdout = io.StringIO()
        print("into a string")
        return sys.stdout.getvalue()

    def closes() -> None:
        sys.stdout.close()
        sys.stderr.close()

    async with local(cpus=1) as env:
        assert await hf.remote_eval(replaces) == "into a string\n"
        await hf.remote_eval(print, "after replacing")
        await hf.remote_eval(closes)
        await hf.remote_eval(print, "after closing")
        text = logs(env)
    assert "[#2 print] after replacing" in text
    assert "[#4 print] after closing" in text


async def test_number_of_files() -> None:
    """300 fresh processes, and workers that die, need no more files than there are workers."""
    async with local() as env:
        await hf.replicate_concurrently(300, hf.remote_eval(print, "x").using(fresh_process=True))
        for _ in range(5):
            with pytest.raises(hf.WorkerDied):
                await hf.remote_eval(f.die, "exit 0")
        names = sorted(path.name for path in env.program.log_dir.iterdir())
        assert logs(env).count("x\n") == 300
    assert len(names) <= 2 * 2 + 3, names
    assert [
        name for name in names if not re.fullmatch(r"(worker|launcher)-.*\.log|events\.jsonl|run\.json|capsules", name)
    ] == []


async def test_only_the_user_can_read(tmp_path: Path) -> None:
    """Logs, which may show anything, are for their user alone."""
    program = hf.ProgramInfo.new(tmp_path)
    async with local(program=program):
        await hf.remote_eval(print, "x")
    assert [path for path in tmp_path.glob("*/**/") if path.stat().st_mode & 0o077] == []


SIMPLE = """
import sys
import hyperflow as hf
try:
    program = hf.ProgramInfo.new(sys.argv[1])
    speak = hf.map_concurrently(lambda n: hf.remote_eval(print, "y" * 20_000), range(20))
    print(hf.run_job_local(speak, cpus=1, program=program))
except hf.HyperflowError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not ROOT, reason="not root: cannot become another user")
def test_directory_of_somebody_else(tmp_path: Path) -> None:
    """A directory that may not be written is refused at the start, by name."""
    os.chmod(tmp_path, 0o755)
    for directory in list(tmp_path.parents)[:3]:
        directory.chmod(directory.stat().st_mode | 0o111)  # pytest's own are private
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable]
    done = subprocess.run(
        [*words, str(script(tmp_path, SIMPLE)), str(tmp_path / "runs")],
        env=environment(HOME="/"), capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.stdout.startswith("ConfigurationError "), done.stderr
    assert str(tmp_path / "runs") in done.stdout
    assert "Permission denied" in done.stdout


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a file system that is soon full."""
    if not ROOT:
        pytest.skip("not root: cannot mount a small file system")
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small file system: {made.stderr}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_full_disk_at_the_start(tmp_path: Path) -> None:
    """A directory on a full disk is refused at the start, by name and cause."""
    with small_disk(tmp_path / "disk", 64) as disk:
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        done = subprocess.run(
            [sys.executable, str(script(tmp_path, SIMPLE)), str(disk)],
            env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.stdout.startswith("ConfigurationError "), done.stderr
    assert "No space left on device" in done.stdout
    assert str(disk) in done.stdout


async def test_disk_that_fills_up(tmp_path: Path) -> None:
    """A log directory that becomes full costs the log and the event log, not the run."""

    async def run(program: hf.ProgramInfo) -> None:
        async with local(program=program) as env:
            speak = hf.map_concurrently(lambda n: hf.remote_eval(print, "y" * 20_000), range(40))
            assert await speak == [None] * 40
            assert await hf.map_concurrently(lambda n: hf.remote_eval(f.add, n), range(6000)) == list(range(6000))
            with pytest.raises(hf.WorkerDied):
                await hf.remote_eval(f.die, "exit 0")
            assert await hf.remote_eval(f.add, 1).using(fresh_process=True) == 1
            assert env.statistics().failed == 1

    with small_disk(tmp_path / "disk", 256) as disk:
        program = hf.ProgramInfo.new(disk, database=tmp_path / "results.sqlite")
        with pytest.warns(RuntimeWarning, match="the event log .* ends here"):
            await run(program)
