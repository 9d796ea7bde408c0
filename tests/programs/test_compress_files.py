"""programs/compress_files.py: exact names and bytes, never half a file, and every failure told."""

import bz2
import gzip
import itertools
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import alive, block_until
from tests.programs.runs import command, figures, run, surroundings

LIBRARY = Path(os.__file__).parent
PACKAGES = ("asyncio", "email", "json", "unittest", "xml", "multiprocessing")

ODD_NAMES = (
    b"-x.txt",
    b"--help",
    b" leading and trailing space ",
    b'it\'s "quoted" `$(here)` ${HOME}',
    b"two\nlines",
    b"*",
    b"\xff\xfe not UTF-8",
    "Größe".encode(),
    b".hidden",
    b"a" * 252,  # with .gz, the longest name there may be
)

# Stops half-way in a file that begins with STOP, and leaves its number where the test looks for it.
HALTING_GZIP = """#!/bin/sh
IFS= read -r line
if [ "$line" = STOP ]; then
    printf 'half a file'
    echo $$ >"$HALTED.new"
    mv "$HALTED.new" "$HALTED"
    exec sleep 60
fi
{{ printf '%s\\n' "$line"; cat; }} | {gzip} "$@"
"""


def files_below(directory: Path) -> set[str]:
    """Return the names of all files below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


def test_standard_library_comes_back(tmp_path: Path) -> None:
    """Several hundred files, compressed into another tree, decompress to what they were; the figures agree."""
    sources = sorted(itertools.chain(LIBRARY.glob("*.py"), *((LIBRARY / name).glob("*.py") for name in PACKAGES)))
    assert len(sources) > 200

    ended = run("compress_files.py", "--output-dir", "out", *sources, cwd=tmp_path)

    numbers = figures(ended.stdout)
    packed = {source: tmp_path / "out" / f"{source.relative_to('/')}.gz" for source in sources}
    assert files_below(tmp_path / "out") == {str(one.relative_to(tmp_path / "out")) for one in packed.values()}
    for source, target in packed.items():
        assert gzip.decompress(target.read_bytes()) == source.read_bytes()
        assert target.stat().st_mtime_ns == source.stat().st_mtime_ns
        assert target.stat().st_mode == source.stat().st_mode
    bytes_in, bytes_out = re.findall(r"\d+", numbers["bytes"])[:2]
    assert numbers["files"].split()[0] == str(len(sources))
    assert int(bytes_in) == sum(source.stat().st_size for source in sources)
    assert int(bytes_out) == sum(target.stat().st_size for target in packed.values())
    assert re.search(r"[\d.]+ s, \d+ files/s", numbers["wall time"])
    assert re.search(r"[\d.]+ MB", numbers["peak memory"])
    assert all(line.startswith("files: ") for line in ended.stderr.splitlines())  # progress, on a slow machine


@pytest.mark.parametrize(("program", "suffix"), [("gzip", "gz"), ("xz", "xz"), ("bzip2", "bz2"), ("zstd", "zst")])
def test_every_program_gives_the_same_again(tmp_path: Path, program: str, suffix: str) -> None:
    """The output depends on the content only, not on name or time, and is verified by the program itself."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    data = b"the same again " * 10_000
    for name in ("one", "other"):
        (tmp_path / name).write_bytes(data)
    os.utime(tmp_path / "one", (1, 1))

    run("compress_files.py", "--verify", "--program", program, "one", "other", cwd=tmp_path)

    packed = (tmp_path / f"one.{suffix}").read_bytes()
    assert packed == (tmp_path / f"other.{suffix}").read_bytes()
    assert len(packed) < len(data)
    known = {"gz": gzip.decompress, "xz": lzma.decompress, "bz2": bz2.decompress}
    if suffix in known:
        assert known[suffix](packed) == data


def test_odd_names_are_exact(tmp_path: Path) -> None:
    """Spaces, quotes, newlines, dashes, bytes that are no text, and the longest names stay what they are."""
    here = os.fsencode(tmp_path)
    for number, name in enumerate(ODD_NAMES):
        Path(os.fsdecode(os.path.join(here, name))).write_bytes(name * number)

    run("compress_files.py", "--verify", "--", *ODD_NAMES, cwd=tmp_path)

    assert set(os.listdir(here)) == {*ODD_NAMES, *(name + b".gz" for name in ODD_NAMES)}
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(here, name + b".gz"), "rb") as file:
            assert gzip.decompress(file.read()) == name * number


def test_failures_are_told_and_the_rest_is_done(tmp_path: Path) -> None:
    """What cannot be compressed is listed at the end, each with its reason, and does not stop the others."""
    (tmp_path / "good").write_text("good")
    (tmp_path / "done").write_text("new")
    (tmp_path / "done.gz").write_text("old")
    (tmp_path / ("b" * 254)).write_text("its name is too long already")
    (tmp_path / "directory").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pair").write_text("a")
    (tmp_path / "pair.gz").write_text("b")
    words = ("good", "done", "b" * 254, "directory", "dangling", "pipe", "pair", "pair.gz", "missing\n", "./good")
    ended = run("compress_files.py", *words, cwd=tmp_path, code=1)

    told = dict(line.rsplit(": ", 1) for line in ended.stderr.splitlines() if "too long" not in line)
    assert figures(ended.stdout)["files"].strip() == "2 compressed, 7 failed"
    assert gzip.decompress((tmp_path / "good.gz").read_bytes()) == b"good"
    assert gzip.decompress((tmp_path / "pair.gz.gz").read_bytes()) == b"b"
    assert (tmp_path / "done.gz").read_text() == "old"
    assert "--force" in told[f"{tmp_path}/done"]
    assert "itself" in told[f"{tmp_path}/pair"]
    assert told[f"{tmp_path}/directory"] == told[f"{tmp_path}/pipe"] == "not a regular file"
    assert told[f"{tmp_path}/dangling"] == "No such file or directory"
    assert told[repr(f"{tmp_path}/missing\n")] == "No such file or directory"
    assert "too long" in ended.stderr
    assert not [name for name in os.listdir(tmp_path) if "compress_files" in name]


def test_existing_files_are_overwritten_only_by_force(tmp_path: Path) -> None:
    """Without --force nothing is overwritten; with it, what is there is replaced as a whole."""
    (tmp_path / "x").write_text("new")
    (tmp_path / "x.gz").write_text("old")
    run("compress_files.py", "x", cwd=tmp_path, code=1)
    assert (tmp_path / "x.gz").read_text() == "old"

    run("compress_files.py", "x", "--force", cwd=tmp_path)

    assert gzip.decompress((tmp_path / "x.gz").read_bytes()) == b"new"


def test_output_stays_below_its_directory(tmp_path: Path) -> None:
    """Names with `..` and absolute ones keep their tree inside --output-dir."""
    (tmp_path / "here" / "below").mkdir(parents=True)
    (tmp_path / "here" / "below" / "x").write_text("x")
    (tmp_path / "y").write_text("y")

    run("compress_files.py", "below/../below/x", "../y", "--output-dir", "out/deep", cwd=tmp_path / "here")

    expected = {"below/x.gz", f"{(tmp_path / 'y').relative_to('/')}.gz"}
    assert files_below(tmp_path / "here" / "out" / "deep") == expected


def test_wrong_output_is_not_kept(tmp_path: Path) -> None:
    """With --verify a program that gives something else than its input back fails, and leaves no file."""
    wrong = tmp_path / "bin" / "gzip"
    wrong.parent.mkdir()
    wrong.write_text("#!/bin/sh\nhead -c 3\n")
    wrong.chmod(0o700)
    (tmp_path / "x").write_text("content")
    path = {"PATH": f"{wrong.parent}:{os.environ['PATH']}"}

    ended = run("compress_files.py", "x", "--verify", cwd=tmp_path, code=1, env=path)

    assert "something else" in ended.stderr
    assert sorted(os.listdir(tmp_path)) == ["bin", "x"]


def test_failing_program_is_quoted(tmp_path: Path) -> None:
    """What the external program said is in the report, with its exit code; a half output is not kept."""
    failing = tmp_path / "bin" / "gzip"
    failing.parent.mkdir()
    failing.write_text("#!/bin/sh\necho half\necho no space left >&2\nexit 7\n")
    failing.chmod(0o700)
    (tmp_path / "x").write_text("content")

    ended = run("compress_files.py", "x", cwd=tmp_path, code=1, env={"PATH": f"{failing.parent}:{os.environ['PATH']}"})

    assert "exited with 7" in ended.stderr
    assert "no space left" in ended.stderr
    assert sorted(os.listdir(tmp_path)) == ["bin", "x"]


def test_killed_run_leaves_no_half_file(tmp_path: Path) -> None:
    """A kill in the middle of a file leaves nothing under its name, no process, and a rerun finishes and cleans up."""
    halting = tmp_path / "bin" / "gzip"
    halting.parent.mkdir()
    halting.write_text(HALTING_GZIP.format(gzip=shutil.which("gzip")))
    halting.chmod(0o700)
    work = tmp_path / "work"
    work.mkdir()
    for number in range(30):
        (work / f"{number:02}").write_text(f"{'STOP' if number == 20 else 'go on'}\n" + "line\n" * 1000)
    names = sorted(os.listdir(work))
    halted = tmp_path / "halted"
    words = command("compress_files.py", "--cpus", "1", "--base-dir", tmp_path / "base", *names)
    env = surroundings(PATH=f"{halting.parent}:{os.environ['PATH']}", HALTED=str(halted))

    with subprocess.Popen(words, cwd=work, env=env, stdout=subprocess.DEVNULL) as process:
        block_until(halted.exists, 20, "half a file")
        process.kill()
    program = int(halted.read_text())
    block_until(lambda: not alive(program), 10, "the end of the external program")

    finished = {name for name in names if (work / f"{name}.gz").exists()}
    assert "20" not in finished
    assert 0 < len(finished) < 30
    for name in finished:
        assert gzip.decompress((work / f"{name}.gz").read_bytes()) == (work / name).read_bytes()

    ended = run("compress_files.py", "--skip-existing", *names, cwd=work)

    assert figures(ended.stdout)["skipped"].split()[0] == str(len(finished))
    assert set(os.listdir(work)) == {*names, *(f"{name}.gz" for name in names)}
    for name in names:
        assert gzip.decompress((work / f"{name}.gz").read_bytes()) == (work / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "no files to compress"),
        (("x", "--program", "rar"), "rar"),
        (("x", "--cpus", "-1"), "--cpus"),
        (("x", "--force", "--skip-existing"), "contradict"),
        (("x", "--output-dir", "x"), "not a directory"),
        (("-x",), "-x"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    """What makes no sense is told in one line, with exit code 2, before any file is touched."""
    (tmp_path / "x").write_text("x")

    ended = run("compress_files.py", *words, cwd=tmp_path, code=2)

    assert complaint in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["x"]


def test_help_tells_every_option(tmp_path: Path) -> None:
    """--help names the options."""
    output = run("compress_files.py", "--help", cwd=tmp_path).stdout

    names = ("program", "output-dir", "skip-existing", "force", "verify", "cpus", "base-dir")
    assert all(f"--{name}" in output for name in names)
