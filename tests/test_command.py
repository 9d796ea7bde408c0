"""run_command: external programs inside evaluations."""

import asyncio
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow import command
from tests.helpers import alive, wait_until
from tests.support import local, logs

FAMILY = (
    "sleep 1000 & setsid sleep 1000 & echo $$ $! > {0}.new; "
    "sh -c 'sleep 1000; :' & echo $! >> {0}.new; mv {0}.new {0}; wait"
)


def on_worker(*words: Any, **options: Any) -> hf.Job[hf.CommandResult]:
    """Run a command in an evaluation of its own."""

    async def work() -> hf.CommandResult:
        return await hf.run_command(list(words), **options)

    return hf.remote_eval(work)


async def test_words_and_no_shell() -> None:
    """Each word reaches the program as it is, with blanks, quotes and stars; paths are words, too."""
    words = ["a b", "", "*", "$HOME", "'\"", ";echo", "é", Path("/some path")]
    show = "import sys; print(sys.argv[1:])"
    async with local():
        result = await on_worker(sys.executable, "-c", show, *words, capture=True)
    assert result.stdout.strip() == str([str(word) for word in words])
    assert result.argv == (sys.executable, "-c", show, *map(str, words))
    assert result.returncode == 0


async def test_output_to_the_log() -> None:
    """Without capture, output and error output are in the worker's log, with the command and its figures."""
    async with local() as env:
        result = await on_worker("sh", "-c", "echo to the log; echo also >&2")
        text = logs(env)
    assert (result.stdout, result.stderr) == ("", "")
    assert "to the log\nalso\n" in text
    assert "work] $ sh -c echo to the log" in text
    assert "work] sh: exit 0, wall" in text
    assert "work] wrote the unmarked lines above" in text


async def test_capture(tmp_path: Path) -> None:
    """Output can be captured, also megabytes and bytes that are no text, or be written to a file."""
    async with local() as env:
        both = await on_worker("sh", "-c", "echo out; echo err >&2", capture=True)
        assert (both.stdout, both.stderr) == ("out\n", "err\n")
        large = await on_worker("head", "-c", "5000000", "/dev/zero", capture=True)
        assert len(large.stdout) == 5_000_000
        odd = await on_worker("printf", r"\377x", capture=True)
        assert odd.stdout == "\ufffdx"
        filed = await on_worker("sh", "-c", "echo out; echo err >&2", stdout=tmp_path / "out", capture=True)
        assert (filed.stdout, filed.stderr) == ("", "err\n")
        assert (tmp_path / "out").read_text() == "out\n"
        assert "err\n" not in logs(env)


async def test_input(tmp_path: Path) -> None:
    """A program reads bytes or a file, and nothing by default."""
    (tmp_path / "in").write_bytes(b"from a file")
    async with local():
        assert (await on_worker("cat", stdin=b"x" * 300_000, capture=True)).stdout == "x" * 300_000
        assert (await on_worker("cat", stdin=tmp_path / "in", capture=True)).stdout == "from a file"
        assert (await on_worker("cat", capture=True)).stdout == ""
        with pytest.raises(FileNotFoundError):
            await on_worker("cat", stdin=tmp_path / "nothing")


async def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program sees the worker's variables, CPUs and thread counts, and not those of the step that started us."""
    names = ("PMI_RANK", "PMI_FD", "PMIX_RANK", "SLURM_CPU_BIND", "SLURM_MEM_BIND")
    for name in names:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KEPT", "yes")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def variables(result: hf.CommandResult) -> Mapping[str, str]:
        return dict(line.partition("=")[::2] for line in result.stdout.splitlines())

    async with local(cpus=3):
        plain = variables(await on_worker("env", capture=True).using(cpus=3))
        changed = variables(await on_worker("env", capture=True, threads=5, env={"MORE": "x", "KEPT": "no"}))
        there = await on_worker("pwd", capture=True, cwd=tmp_path)
    assert not set(names) & set(plain)
    assert (plain["KEPT"], plain["OMP_NUM_THREADS"], plain["MKL_NUM_THREADS"]) == ("yes", "3", "3")
    assert len(plain["HYPERFLOW_CPUS"].split(",")) == 3
    assert plain["HYPERFLOW_SERVICE_ID"].startswith("worker-")
    assert (changed["KEPT"], changed["MORE"], changed["OMP_NUM_THREADS"]) == ("no", "x", "5")
    assert there.stdout.strip() == str(tmp_path.resolve())


async def test_check() -> None:
    """An exit code is returned, or with check raised, with what the program said last."""
    async with local():
        assert (await on_worker("sh", "-c", "exit 3")).returncode == 3
        assert (await on_worker("sh", "-c", "kill -KILL $$")).returncode == -9
        assert (await on_worker("true", check=True)).returncode == 0
        with pytest.raises(hf.CommandFailed, match=r"(?s)exited with 3.*it broke") as caught:
            await on_worker("sh", "-c", "echo it broke >&2; exit 3", check=True, capture=True)
        assert caught.value.returncode == 3
        assert caught.value.argv[0] == "sh"
        with pytest.raises(hf.CommandFailed, match=r"(?s)killed by SIGKILL.*worker-.*log") as caught:
            await on_worker("sh", "-c", "kill -KILL $$", check=True)


async def test_bad_calls(tmp_path: Path) -> None:
    """A missing program, a string for a list, no words, and a call from the job itself are explained."""
    async with local():
        with pytest.raises(FileNotFoundError) as caught:
            await on_worker("no-such-program-here", cwd=tmp_path)
        text = "".join(traceback.format_exception(caught.value))
        assert text.count(os.environ["PATH"]) == text.count("PATH is") == text.count(str(tmp_path)) == 1
        with pytest.raises(FileNotFoundError) as caught:
            await on_worker("./not/there", cwd=tmp_path)
        text = "".join(traceback.format_exception(caught.value))
        assert ("PATH is" in text, text.count(str(tmp_path))) == (False, 1)
        with pytest.raises(FileNotFoundError, match=r"'/no/such/place'") as caught:
            await on_worker("true", cwd="/no/such/place")
        assert "/no/such/place" not in "".join(caught.value.__notes__[:1])
        with pytest.raises(PermissionError):
            await on_worker(tmp_path)
        with pytest.raises(hf.MisuseError, match=r"run_command\(\['echo', 'x'\]\)"):
            await hf.remote_eval(lambda: hf.run_command("echo x"))
        with pytest.raises(hf.MisuseError, match="name is missing"):
            await on_worker()
        with pytest.raises(hf.MisuseError, match=r"write str"):
            await on_worker("echo", 3)
        with pytest.raises(hf.ConfigurationError, match="threads=0"):
            await on_worker("true", threads=0)
        with pytest.raises(hf.MisuseError, match="remote_eval"):
            await hf.run_command(["true"])


async def test_resource_usage() -> None:
    """Wall, CPU time and peak memory are those of the program and its children."""
    code = "import time; b = bytearray(80_000_000); t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    async with local():
        busy = await on_worker("sh", "-c", '"$0" -c "$1"; true', sys.executable, code)
        lazy = await on_worker("sleep", "0.2")
    assert 0.3 <= busy.user + busy.system < 3
    assert busy.wall >= 0.3
    assert 80e6 < busy.peak_memory < 1e9
    assert lazy.wall >= 0.2
    assert lazy.user + lazy.system < 0.1
    assert lazy.peak_memory < 60e6


@pytest.mark.parametrize("how", ["time limit", "cancel", "crash"])
async def test_ends_with_its_evaluation(tmp_path: Path, how: str) -> None:
    """A program and all that it started end with their evaluation, however that ends."""
    path = tmp_path / "pids"

    async def work() -> None:
        running = asyncio.ensure_future(hf.run_command(["sh", "-c", FAMILY.format(path)]))
        while not path.exists():  # noqa: ASYNC110 (the program offers no event)
            await asyncio.sleep(0.005)
        if how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        await running

    async with local() as env:
        flow = hf.remote_eval(work)
        future = (flow.using(time_limit=1.5) if how == "time limit" else flow).start()
        await wait_until(path.exists, 20, "the program")
        pids = [int(pid) for pid in path.read_text().split()]
        assert len(pids) == 3
        if how == "cancel":
            future.cancel()
        kind = {"cancel": asyncio.CancelledError, "crash": hf.WorkerDied, "time limit": hf.TimeLimitExceeded}[how]
        with pytest.raises(kind):
            await future
        await wait_until(lambda: not any(map(alive, pids)), 10, "all have ended")
        await wait_until(lambda: env.statistics().cpus_free == 2, 10, "the CPUs are back")


@pytest.mark.parametrize("stubborn", [False, True])
async def test_timeout_around_it(tmp_path: Path, stubborn: bool) -> None:
    """asyncio.timeout() around it ends the program and its children, and the evaluation goes on."""
    path = tmp_path / "pids"
    trap = "trap '' TERM; " if stubborn else ""

    async def work() -> tuple[float, str]:
        began = time.monotonic()
        try:
            async with asyncio.timeout(0.3):
                await hf.run_command(["sh", "-c", trap + FAMILY.format(path)])
        except TimeoutError:
            after = await hf.run_command(["echo", "I go on"], capture=True)
            return time.monotonic() - began, after.stdout
        return 0.0, "not reached"

    async with local():
        seconds, text = await hf.remote_eval(work)
        assert text == "I go on\n"
        assert seconds < 10
        pids = [int(pid) for pid in path.read_text().split()]
        await wait_until(lambda: not any(map(alive, pids)), 5, "all have ended")


async def test_several_at_once() -> None:
    """Several programs can run in one evaluation; each has its own result."""

    async def work() -> list[str]:
        commands = (hf.run_command(["sh", "-c", f"sleep 0.0{n}; echo {n}"], capture=True) for n in range(5))
        return [result.stdout.strip() for result in await asyncio.gather(*commands)]

    async with local():
        assert await hf.remote_eval(work) == [str(n) for n in range(5)]


async def test_both_ways_to_start_a_program_are_the_same() -> None:
    """With and without a directory a program has the same descriptors, signals and variables, and fails alike."""

    async def run(cwd: str | None) -> list[str]:
        null = os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(null, True)
        found: list[str] = []
        try:
            for words in (
                ["sh", "-c", "ls /proc/$$/fd; env | sort; exec grep Sig[BI] /proc/self/status"],
                ["no-such"],
                ["/"],
                [""],
            ):
                try:
                    found.append((await hf.run_command(words, capture=True, cwd=cwd)).stdout)
                except OSError as error:
                    found.append(f"{type(error).__name__} {error.errno} {error.filename}")
        finally:
            os.close(null)
        return found

    async with local(cpus=1):
        spawned = await hf.remote_eval(run, None)
        forked = await hf.remote_eval(run, os.getcwd())

    assert "PATH=" in spawned[0]
    assert comparable(spawned[0]) == comparable(forked[0])
    assert spawned[1:] == forked[1:]


def test_a_program_that_moves(tmp_path: Path) -> None:
    """What is remembered of where a program is holds as long as it is there, for that PATH."""
    files = [tmp_path / name / "program" for name in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.touch(0o755)
    path = {b"PATH": os.fsencode(f"{files[0].parent}:{files[1].parent}")}
    assert command.found("program", path) == command.found("program", path) == str(files[0])
    assert command.found("program", {b"PATH": os.fsencode(files[1].parent)}) == str(files[1])
    assert command.found("program", path) == str(files[0])
    files[0].unlink()
    assert command.found("program", path) == str(files[1])
    files[1].chmod(0o644)
    assert command.found("program", path) is None


def comparable(text: str) -> list[str]:
    """Leave out the directory, and the two signals that the C library uses itself and treats in its own way."""
    signals = [line.partition(":\t") for line in text.splitlines() if line.startswith("Sig")]
    others = [line for line in text.splitlines() if not line.startswith(("PWD=", "Sig"))]
    return [*others, *(f"{name} {int(mask, 16) & 0x7FFFFFFF:x}" for name, _, mask in signals)]
