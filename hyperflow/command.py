"""External programs, run from inside an evaluation.

Guarantees: no shell. The program belongs to the worker's process group, so it ends with its evaluation, however that
ends. The CPUs and thread counts that it sees are those of the evaluation. Its time and memory are returned and logged.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import attrs

from hyperflow.errors import CommandFailed, ConfigurationError, MisuseError
from hyperflow.staging.file import File
from hyperflow.wire import processes
from hyperflow.wire.machine import THREAD_VARIABLES
from hyperflow.worker.worker import WorkerInfo, log_line, worker_info

KILL_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL when the await is cancelled."""

MOST_KEPT = 1500
"""Bytes that are kept of the output, and of the error output, of a program that was ended."""

_NOT_PASSED_ON = (b"PMI_", b"PMIX_", b"SLURM_CPU_BIND", b"SLURM_MEM_BIND")
"""Variables of the step that started the launcher. With them a program would bind its threads to the wrong CPUs, or
wait for MPI peers that do not exist."""


SOUGHT_AGAIN = 1.0
"""Seconds after which a program is sought in PATH again; to go through it takes a quarter of what it costs to start."""


@attrs.frozen
class CommandResult:
    """How an external program ended and what it used.

    Args:
        argv: The command.
        returncode: Its exit code, or minus the number of the signal that ended it.
        stdout: Its output, if it was captured, else ""; `stderr` likewise.
        wall: Seconds from start to end.
        user: Seconds of CPU time in the program and its children; `system`: in the kernel for them.
        peak_memory: Bytes of resident memory of the largest of them; an upper bound, because Linux counts in the peak
            of the worker that started it (at least 25 MB).
        files: Its outputs, where it was given some (`remote_command`), by what each was called there; of a pattern,
            each file by its own name.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    wall: float
    user: float
    system: float
    peak_memory: int
    files: Mapping[str, File] = attrs.field(factory=dict[str, File])


async def run_command(
    argv: Sequence[str | os.PathLike[str]],
    *,
    capture: bool = False,
    check: bool = False,
    stdin: bytes | os.PathLike[str] | None = None,
    stdout: os.PathLike[str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> CommandResult:
    """Run an external program and wait for it; only in a function that runs on a worker.

    Args:
        argv: The program and its arguments, as separate words, without a shell.
        capture: Return its output and error output as text; otherwise they go to the worker's log.
        check: Raise CommandFailed unless it exits with 0.
        stdin: Bytes or a file for it to read; nothing by default.
        stdout: A file for its output, byte by byte.
        cwd: The directory to start it in.
        env: Variables to add to the worker's.
        threads: The value of OMP_NUM_THREADS and the like; by default the evaluation's number of CPUs.

    Raises:
        CommandFailed: With `check`, it exited with another code than 0, or a signal ended it.
        OSError: It could not be started (FileNotFoundError: there is no such program).
        MisuseError: Not on a worker, or argv is one string.

    Cancelling sends SIGTERM to the program and all its descendants, and SIGKILL two seconds later. What was captured
    until then is kept: the end of it stands in a note of the CancelledError, and in the worker's log; in that also when
    the evaluation's time is up, or it is cancelled from outside.
    """
    words = words_of(argv)
    info = info_of(words)
    variables = environment_of(info, env, threads)
    result = await run(words, variables, info, capture=capture, stdin=stdin, stdout=stdout, cwd=cwd)
    if check and result.returncode != 0:
        raise CommandFailed(words, result.returncode, result.stderr, "" if capture else info.log_file)
    return result


async def run(
    words: list[str],
    variables: Any,  # bytes; on Windows it would have to be text
    info: WorkerInfo,
    *,
    capture: bool = False,
    stdin: bytes | os.PathLike[str] | None = None,
    stdout: os.PathLike[str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> CommandResult:
    """Run a program with these variables and no others, and wait for it."""
    with ExitStack() as stack:
        out, err = _outputs(stack, capture, stdout)
        source = _input(stack, stdin)
        log_line("$ " + " ".join(words))
        began = time.monotonic()
        try:
            pid = start(words, (source, out, err), cwd, variables)
        except OSError as error:
            error.add_note(f"(run_command({words!r}) on {info.node}{sought(words[0], error, cwd, variables)})")
            raise
        if capture:
            stack.enter_context(_kept(words[0], [file for file in (out, err) if not isinstance(file, int)]))
        returncode, usage = await _wait(pid)
        wall = time.monotonic() - began
        result = CommandResult(
            tuple(words),
            returncode,
            _text(out) if capture and stdout is None else "",
            _text(err) if capture else "",
            wall,
            usage.ru_utime,
            usage.ru_stime,
            usage.ru_maxrss * 1024,
        )
    log_line(
        f"{words[0]}: exit {returncode}, wall {wall:.3f} s, user {result.user:.3f} s, "
        f"system {result.system:.3f} s, peak memory at most {result.peak_memory / 1e6:.1f} MB"
    )
    return result


class _Capture:
    """The files with what a program has written so far."""

    def __init__(self, program: str, captured: list[IO[bytes]]) -> None:
        self.program = program
        self.captured = captured

    def end(self) -> str:
        """Return the end of what was captured."""
        texts: list[str] = []
        for file in self.captured:
            size = os.fstat(file.fileno()).st_size
            data = os.pread(file.fileno(), MOST_KEPT, max(size - MOST_KEPT, 0))
            texts.append(data.decode(errors="replace").rstrip("\n"))
        return "\n".join(text for text in texts if text)

    def log(self) -> str:
        """Write that into the worker's log, and return it."""
        text = self.end()
        log_line(f"{self.program} was ended; " + ("what it had written:" if text else "it had written nothing"))
        for line in text.splitlines():
            log_line(f"  | {line}")
        return text


_captures: list[_Capture] = []
"""What is captured just now, for the moment when this process is told to end."""


@contextmanager
def _kept(program: str, captured: list[IO[bytes]]) -> Iterator[None]:
    """Keep what a program has written within the scope, if it is cancelled there or this process is told to end."""
    capture = _Capture(program, captured)
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # another handler is the user's
        signal.signal(signal.SIGTERM, _on_term)
    _captures.append(capture)
    try:
        yield
    except asyncio.CancelledError as error:
        if text := capture.log():
            error.add_note(f"(run_command: {program} had written, before it was cancelled:\n{text})")
        raise
    finally:
        _captures.remove(capture)
        if main and not _captures and signal.getsignal(signal.SIGTERM) is _on_term:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_term(number: int, _frame: object) -> None:
    """The launcher ends this worker: its time is up, or nobody waits for it any more."""
    try:
        for capture in _captures:
            capture.log()
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def info_of(words: list[str]) -> WorkerInfo:
    """Return where this runs; raises MisuseError unless it is a worker."""
    try:
        return worker_info()
    except MisuseError:
        raise MisuseError(
            f"run_command({words!r}) belongs in a function that runs on a worker, whose CPUs the program then has; "
            f"write: await hyperflow.remote_eval(hyperflow.run_command, {words!r})"
        ) from None


def words_of(argv: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the words of a command; raises MisuseError."""
    if isinstance(argv, (str, bytes)):
        raise MisuseError(f"run_command takes a list of words, no shell: run_command({argv.split()!r})")
    try:
        words = [os.fspath(word) for word in argv]
    except TypeError as error:
        raise MisuseError(f"run_command takes a list of words and paths: {error} in {argv!r}; write str(...)") from None
    if not words:
        raise MisuseError("run_command([]): the program's name is missing")
    return words


def sought(program: str, error: OSError, cwd: str | os.PathLike[str] | None, variables: Mapping[bytes, bytes]) -> str:
    """Return where a program that could not be started was sought; what the error says itself is not repeated."""
    where = os.fspath(cwd) if cwd is not None else os.getcwd()
    said = f", in {where}" if str(error.filename) != where else ", which was to be its directory"
    return said if "/" in program else f"{said}; PATH is {os.fsdecode(variables.get(b'PATH', b'empty'))}"


def _outputs(stack: ExitStack, capture: bool, stdout: os.PathLike[str] | None) -> tuple[Any, Any]:
    # Files and not pipes: nobody has to read while the program runs, so it never blocks on a full pipe.
    out: Any = 1
    err: Any = 2
    if stdout is not None:
        out = stack.enter_context(Path(stdout).open("wb"))
    elif capture:
        out = stack.enter_context(tempfile.TemporaryFile())
    if capture:
        err = stack.enter_context(tempfile.TemporaryFile())
    return out, err


def _input(stack: ExitStack, stdin: bytes | os.PathLike[str] | None) -> IO[bytes] | int:
    if stdin is None:
        return subprocess.DEVNULL
    if isinstance(stdin, bytes):
        file = stack.enter_context(tempfile.TemporaryFile())
        file.write(stdin)
        file.seek(0)
        return file
    return stack.enter_context(Path(stdin).open("rb"))


def environment_of(info: WorkerInfo, env: Mapping[str, str] | None, threads: int | None) -> dict[bytes, bytes]:
    """Return the variables that a program sees."""
    if threads is not None and threads < 1:
        raise ConfigurationError(f"threads={threads!r}: a whole number of at least 1 is needed")
    built = _passed_on()
    more = {"HYPERFLOW_CPUS": ",".join(map(str, info.cpus)), "HYPERFLOW_BIND": "1" if info.pinned else ""}
    if threads is not None:
        more |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    more |= env or {}
    return built | {os.fsencode(name): os.fsencode(value) for name, value in more.items()}


class _PassedOn(NamedTuple):
    """The variables of this process as they were, and those of them that programs see."""

    seen: dict[Any, Any]
    passed: dict[bytes, bytes]


_last = _PassedOn({}, {})


def _passed_on() -> dict[bytes, bytes]:
    """Return the variables of this process that programs see; they are gone through again where one has changed."""
    global _last  # noqa: PLW0603
    # To go through them takes a tenth of the time to start a small program; as bytes, half of what it does as texts.
    seen = vars(os.environb).get("_data")
    if seen is None or seen != _last.seen:
        passed = {name: value for name, value in os.environb.items() if not name.startswith(_NOT_PASSED_ON)}
        _last = _PassedOn(dict(seen or {}), passed)
    return _last.passed


def start(
    words: list[str],
    streams: tuple[IO[bytes] | int, IO[bytes] | int, IO[bytes] | int],
    cwd: str | os.PathLike[str] | None,
    variables: Any,  # bytes; on Windows it would have to be text
    unwanted: Collection[int] | None = None,
) -> int:
    """Start a program as a child of this process, without waiting for it; return its pid.

    `unwanted` are the descriptors that it is not to inherit, where that was found out before.

    posix_spawn takes half the CPU time of subprocess.Popen. It knows no directory, and says little about what is
    wrong: then it is done by the latter.
    """
    program = found(words[0], variables) if cwd is None else None
    if program is not None:
        with suppress(OSError):
            return os.posix_spawn(
                program, words, variables, file_actions=_actions(streams, unwanted), setsigdef=_IGNORED
            )
    source, out, err = streams
    process = subprocess.Popen(words, stdin=source, stdout=out, stderr=err, cwd=cwd, env=variables)
    process.returncode = 0  # it is waited for below
    return process.pid


_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that Python ignores, which a program must not inherit."""


class _Sought(NamedTuple):
    """Where a program was found last, by its name and PATH."""

    program: str
    path: bytes
    file: str
    time: float


_last_sought = _Sought("", b"", "", -1.0)


def found(program: str, variables: Mapping[bytes, bytes]) -> str | None:
    """Return the file of a program; None if it is not where it seems to be.

    The last one found counts for SOUGHT_AGAIN as long as it is there: ten thousand short commands are mostly the same.
    """
    global _last_sought  # noqa: PLW0603
    if "/" in program:
        return program
    path, now, last = variables.get(b"PATH", b""), time.monotonic(), _last_sought
    if (program, path) == last[:2] and now < last.time + SOUGHT_AGAIN and os.access(last.file, os.X_OK):
        return last.file
    for directory in os.fsdecode(path).split(":"):
        file = f"{directory}/{program}"
        if os.path.isabs(file) and os.access(file, os.X_OK) and os.path.isfile(file):
            _last_sought = _Sought(program, path, file, now)
            return file
    return None


def _actions(streams: tuple[IO[bytes] | int, ...], unwanted: Collection[int] | None) -> list[tuple[Any, ...]]:
    """Return what the program is to have open: these three, and nothing that C code has left to be inherited."""
    actions: list[tuple[Any, ...]] = []
    for target, stream in enumerate(streams):
        if stream == subprocess.DEVNULL:
            actions.append((os.POSIX_SPAWN_OPEN, target, os.devnull, os.O_RDWR, 0))
        else:
            fd = stream if isinstance(stream, int) else stream.fileno()
            actions.append((os.POSIX_SPAWN_DUP2, fd, target))
    closed = inheritable() if unwanted is None else unwanted
    return actions + [(os.POSIX_SPAWN_CLOSE, fd) for fd in closed]


def inheritable() -> list[int]:
    """Return the descriptors that a program would inherit beside the standard ones."""
    found: list[int] = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the list's own
            if (fd := int(name)) > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


async def _wait(pid: int) -> tuple[int, Any]:
    """Wait for the end without blocking the loop; return exit code and resource usage."""
    try:
        await _wait_for_end(pid)
    except asyncio.CancelledError:
        await _end(pid)
        raise
    finally:
        _, status, usage = os.wait4(pid, 0)  # noqa: ASYNC222 (it has ended)
    return os.waitstatus_to_exitcode(status), usage


async def _wait_for_end(pid: int) -> None:
    """Wait until a child has ended, without reaping it."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # a kernel before 5.3
        pause = 0.001
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:  # noqa: ASYNC222 (WNOHANG)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def _end(pid: int) -> None:
    """End a child and all its descendants, even if this task is cancelled again."""
    below = [pid, *processes.descendants(pid)]
    processes.kill_all(below, signal.SIGTERM)
    try:
        async with asyncio.timeout(KILL_GRACE):
            await _wait_for_end(pid)
    except (TimeoutError, asyncio.CancelledError):
        pass
    processes.kill_all([*below, *processes.descendants(pid)])


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
