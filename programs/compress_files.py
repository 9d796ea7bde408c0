"""Compress every file named on the command line with an external program, many at the same time. Work Queue's example.

What holds, whatever the files are called and whatever goes wrong:
- A name under which a compressed file is found is never a half-written one: a file gets its name when it is whole.
- The external program sees neither names nor a shell: it reads its standard input and writes its standard output. So
  names may hold spaces, quotes, newlines, leading dashes and bytes that are no text.
- The same input gives the same output: no name and no time is recorded inside. Permissions and times of a file are
  those of its source.
- A file that fails does not stop the others; all failures are told at the end, and the exit code is 1.
"""

import contextlib
import fcntl
import filecmp
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import attrs
from commandline import Cpus, Slurm, run, run_job
from progress import progress

import hyperflow as hf

PART = ".compress_files-"
"""How the names of unfinished files begin."""


@attrs.frozen
class Compressor:
    """An external program that compresses its standard input."""

    compress: tuple[str, ...]
    decompress: tuple[str, ...]
    suffix: str


COMPRESSORS = {
    "gzip": Compressor(("gzip", "-nc"), ("gzip", "-dc"), ".gz"),
    "bzip2": Compressor(("bzip2", "-c"), ("bzip2", "-dc"), ".bz2"),
    "xz": Compressor(("xz", "-cT1"), ("xz", "-dc"), ".xz"),  # several threads would give other bytes
    "zstd": Compressor(("zstd", "-qc"), ("zstd", "-qdc"), ".zst"),
}


@attrs.frozen
class Settings:
    """How files are compressed."""

    compressor: Compressor
    verify: bool
    force: bool


@attrs.frozen
class Task:
    """One file to compress."""

    source: Path
    target: Path
    how: Settings


@attrs.frozen
class Compressed:
    """What it took to compress one file."""

    bytes_in: int
    bytes_out: int
    cpu: float
    peak_memory: int


@attrs.frozen
class Failed:
    """Why a file was not compressed."""

    source: Path
    reason: str


# ---- runs on a worker -----------------------------------------------------------------------------------------------


async def compress(task: Task) -> Compressed:
    """Compress one file, verify it if that is wanted, and give it its name."""
    if not stat.S_ISREG(task.source.stat().st_mode):
        raise OSError("not a regular file")  # a pipe could keep us waiting for ever
    task.target.parent.mkdir(parents=True, exist_ok=True)
    with part(task.target.parent) as packed:
        results = [await pipe(task.how.compressor.compress, task.source, packed)]
        if task.how.verify:
            with part(task.target.parent) as unpacked:
                results.append(await pipe(task.how.compressor.decompress, packed, unpacked))
                if not filecmp.cmp(task.source, unpacked, shallow=False):
                    raise OSError("decompressing gave something else; has the file changed meanwhile?")
        sizes = task.source.stat().st_size, packed.stat().st_size
        give_name(task, packed)
    return Compressed(*sizes, sum(r.user + r.system for r in results), max(r.peak_memory for r in results))


def give_name(task: Task, packed: Path) -> None:
    """Let a whole compressed file take its place, with the permissions and times of its source."""
    shutil.copystat(task.source, packed)
    if not task.how.force and os.path.lexists(task.target):  # made since the head node looked for it
        raise FileExistsError(exists(task.target))
    packed.replace(task.target)


async def pipe(argv: Iterable[str], source: Path, target: Path) -> hf.CommandResult:
    """Run a program from one file to another; what it complains about becomes part of the error."""
    return await hf.run_command(list(argv), stdin=source, stdout=target, capture=True, check=True)


@contextlib.contextmanager
def part(directory: Path) -> Iterator[Path]:
    """Make a file for unfinished output that nobody else uses, and remove it at the end if it is still there."""
    path = directory / (PART + secrets.token_hex(8))
    # Readable for us alone until it has the permissions of its source. The lock tells `sweep` that we live.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: then nothing is swept there
            fcntl.flock(file, fcntl.LOCK_EX)
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


# ---- runs on the head node ------------------------------------------------------------------------------------------


@hf.job
async def compress_all(tasks: list[Task]) -> list[Compressed | Failed]:
    """Compress all files, as many at a time as there are CPUs."""
    outcomes: list[Compressed | Failed] = []
    with progress("files", total=len(tasks)) as done:
        async for _, outcome in hf.as_completed(attempt, tasks):
            outcomes.append(outcome)
            done()
    return outcomes


@hf.job
async def attempt(task: Task) -> Compressed | Failed:
    """Compress one file; a failure is a result too, so that it does not cancel the others."""
    try:
        return await hf.remote_eval(compress, task)
    except OSError as error:
        return Failed(task.source, why(error, task.source))
    except hf.HyperflowError as error:
        return Failed(task.source, str(error))


def why(error: OSError, source: Path) -> str:
    """Return an error's text, with the name of the file if that is another one than the source."""
    if error.strerror is None:
        return str(error)
    file = error.filename2 or error.filename  # where a file was to be renamed to, if that is what failed
    return error.strerror if file in (None, str(source)) else f"{error.strerror}: {shown(Path(file))}"


# ---- which files, and where to --------------------------------------------------------------------------------------


def plan(files: Iterable[Path], output_dir: Path | None, how: Settings) -> tuple[list[Task], list[Failed]]:
    """Find out where each file goes, and refuse those that would get into another's way."""
    sources = dict.fromkeys(Path(os.path.abspath(file)) for file in files)  # each once; `..` must not leave output_dir
    tasks: dict[Path, Task] = {}
    failed: list[Failed] = []
    for source in sources:
        target = Path(f"{placed(source, output_dir)}{how.compressor.suffix}")
        if target in sources:
            failed.append(Failed(source, f"{shown(target)}, where it would go, is to be compressed itself"))
        elif target in tasks:
            failed.append(Failed(source, f"{shown(target)} is where {shown(tasks[target].source)} goes"))
        else:
            tasks[target] = Task(source, target, how)
    return list(tasks.values()), failed


def placed(source: Path, output_dir: Path | None) -> Path:
    """Return where a file goes: beside itself, or the same way down from output_dir as from here (or from /)."""
    if output_dir is None:
        return source
    here = Path.cwd()
    return output_dir.absolute() / source.relative_to(here if source.is_relative_to(here) else source.anchor)


def exists(target: Path) -> str:
    """Say that something is in the way."""
    return f"{shown(target)} exists; --force overwrites it"


def sweep(directories: Iterable[Path]) -> None:
    """Remove what an interrupted run has left: unfinished files that nobody holds a lock on."""
    for directory in directories:
        for path in directory.glob(PART + "*"):
            with contextlib.suppress(OSError), path.open("r+b") as file:  # in use, not ours, or gone already
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


# ---- what the user sees ---------------------------------------------------------------------------------------------


def shown(path: Path) -> str:
    """Return a name as it is if it can be printed, else as Python would write it."""
    return str(path) if str(path).isprintable() else repr(str(path))


def report(done: list[Compressed], failed: list[Failed], wall: float) -> None:
    """Print what was done on standard output, and what was not on standard error."""
    bytes_in, bytes_out = sum(one.bytes_in for one in done), sum(one.bytes_out for one in done)
    print(f"files          {len(done)} compressed, {len(failed)} failed")
    if done:
        print(
            f"bytes          {bytes_in} in, {bytes_out} out, ratio {bytes_in / max(bytes_out, 1):.2f}\n"
            f"wall time      {wall:.2f} s, {len(done) / wall:.0f} files/s\n"
            f"CPU time       {sum(one.cpu for one in done):.2f} s in the external program\n"
            f"peak memory    at most {max(one.peak_memory for one in done) / 1e6:.1f} MB in one of them"
        )
    sys.stdout.flush()
    for one in failed:
        print(f"{shown(one.source)}: {one.reason}", file=sys.stderr)


def main(
    *files: Path,
    program: Literal["gzip", "bzip2", "xz", "zstd"] = "gzip",
    output_dir: Path | None = None,
    skip_existing: bool = False,
    force: bool = False,
    verify: bool = False,
    cpus: Cpus = None,
    slurm: Slurm = False,
    base_dir: Path | None = None,
) -> int:
    """Compress files with an external program, many at the same time; the sources stay.

    The exit code is 0 when all files were compressed, 1 when some were not, 2 when the command makes no sense.

    Args:
        files: What to compress. After -- also names that begin with a dash.
        program: What to compress with.
        output_dir: Where compressed files go, in the same tree as here; by default each beside its source.
        skip_existing: Leave out files whose compressed file is there: go on after an interruption.
        force: Overwrite compressed files that are there.
        verify: Decompress each file and compare it with its source before it gets its name.
        base_dir: Where the run's logs go, in a directory of its own; by default they are removed at the end.
    """
    if not files:
        raise hf.ConfigurationError("no files to compress; --help shows how to name them")
    if force and skip_existing:
        raise hf.ConfigurationError("--force and --skip-existing contradict each other")
    if output_dir is not None and output_dir.exists() and not output_dir.is_dir():
        raise hf.ConfigurationError(f"--output-dir {shown(output_dir)}: is not a directory")
    if shutil.which(program) is None:
        raise hf.ConfigurationError(f"--program {program}: there is no such program in {os.environ.get('PATH')}")
    tasks, failed = plan(files, output_dir, Settings(COMPRESSORS[program], verify, force))
    if not force:
        there = dict.fromkeys(task for task in tasks if os.path.lexists(task.target))
        tasks = [task for task in tasks if task not in there]
        if skip_existing:
            print(f"skipped        {len(there)} that are compressed already")
        else:
            failed += [Failed(task.source, exists(task.target)) for task in there]
    sweep({task.target.parent for task in tasks})
    began = time.monotonic()
    outcomes: list[Compressed | Failed] = []
    if tasks:
        where = hf.ProgramInfo.new(base_dir) if base_dir is not None else None
        outcomes = run_job(compress_all(tasks), cpus, where, slurm)
    failed += [one for one in outcomes if isinstance(one, Failed)]
    report([one for one in outcomes if isinstance(one, Compressed)], failed, time.monotonic() - began)
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
