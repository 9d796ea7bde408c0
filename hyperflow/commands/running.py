"""A task on a worker: the command runs, its output goes home in pieces.

Guarantees: no shell. What the command has written comes home unchanged, whatever its encoding: with the answer where it
is short, else in posts while the command runs, so that people can follow it. Another exit code than 0 is an exception,
so that `retries` counts; with it comes the same. The command belongs to the worker's process group, so it ends with its
evaluation, however that ends; what it had written by then is posted.

A plain function, and little of it, because ten thousand short commands a minute go through here: it posts nothing about
a command that ends within TELL_AFTER.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from subprocess import DEVNULL
from typing import Any, ClassVar, NamedTuple

import attrs

from hyperflow import command
from hyperflow.commands.records import OUTPUT, Stream
from hyperflow.commands.streams import Output
from hyperflow.errors import HyperflowError
from hyperflow.wire import processes
from hyperflow.worker import worker
from hyperflow.worker.worker import WorkerInfo, log_line, worker_info

TELL_AFTER = 0.5
"""Seconds after which a command that goes on is told of, and what it has written; then it is posted now and then."""

LONGEST_PAUSE = 2.0
"""Seconds between such posts, at most; they come less often the longer a command runs, because each is a row."""

QUICK = 0.003
"""Seconds in which only the end is waited for: most output of a short command fits into its pipes."""

BREATH = 0.002
"""Seconds without a look at the output after one that brought little: it costs who writes line by line little."""

LITTLE = 1 << 14
"""Bytes."""

LOOK_AGAIN = 0.1
"""Seconds after which it is looked again which descriptors C code has left to be inherited."""

PIPES = 64
"""Looks at a pipe after the end of its command, at most: more than it can hold."""

NO_PIDFD = 0.02
"""Seconds between two looks whether a command has ended, on a kernel before 5.3."""

LAST_WORDS = 0.5
"""Seconds that a command has to end, and to write why, when its worker is told to end."""

NOT_FOUND, NOT_STARTED = 127, 126
"""Exit codes, as a shell has them, of a command that is not there, and of one that could not be started."""


class TaskDone(NamedTuple):
    """How a command ended.

    Args:
        exit_code: Its exit code, or minus the number of the signal that ended it.
        seconds: From start to end.
        cpu_seconds: User and system time, of it and its children.
        memory: Bytes of resident memory of the largest of them; an upper bound, as for `run_command`.
        node: Where it ran.
        attempt: Which try it was.
        out: The end of its output, that was not posted; `err`: of its error output.
        out_posted: Bytes before that, posted or dropped; `err_posted` likewise.
        token: Names this try; under it, its pieces are recorded.
    """

    exit_code: int
    seconds: float
    cpu_seconds: float
    memory: int
    node: str
    attempt: int
    out: bytes
    err: bytes
    out_posted: int
    err_posted: int
    token: str = ""


class Posted(NamedTuple):
    """What a task posts: a piece of its output; or, with stream "", that it runs."""

    number: int
    attempt: int
    stream: str
    place: int
    data: bytes
    token: str
    node: str


@attrs.define(slots=False, repr=False)
class TaskFailed(HyperflowError):
    """A task's command ended with another exit code than 0.

    Args:
        number: Of the task.
        argv: The command.
        done: How it ended, and the end of what it wrote.
    """

    has_capsule: ClassVar[bool] = False
    """A command that fails is no function to look into; what it has written is recorded, and it can be run by hand."""

    number: int
    argv: list[str]
    done: TaskDone

    @property
    def how(self) -> str:
        """In words, how it ended."""
        code = self.done.exit_code
        return f"was killed by {_signal(-code)}" if code < 0 else f"exited with {code}"

    def __str__(self) -> str:
        last = self.done.err.decode(errors="replace").splitlines()[-20:]
        first = f"task {self.number}, {self.argv!r:.300}, {self.how} on {self.done.node}"
        return "\n".join([first, *("  | " + line for line in last)])


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def run_task(number: int, argv: Sequence[str], cwd: str, env: Mapping[str, str] | None, stdin: str) -> TaskDone:
    """Run a task's command and wait for it; only on a worker.

    Args:
        number: Of the task.
        argv: The program and its arguments.
        cwd: The directory to start it in; "" for the worker's.
        env: Variables to add to the worker's.
        stdin: A file for it to read; "" for nothing.

    Raises:
        TaskFailed: It exited with another code than 0, or a signal ended it; 127 if there is no such program, 126 if
            it could not be started.
    """
    info = worker_info()
    variables = command.environment_of(info, env, None)
    task = _Task(number, info)
    try:
        began = time.monotonic()
        try:
            pid = _start(list(argv), cwd, stdin, variables, task)
        except OSError as error:
            raise TaskFailed(number, list(argv), task.not_started(argv[0], error, cwd, variables)) from None
        status, usage = task.wait(pid)
        done = task.done(status, usage, time.monotonic() - began)
    finally:
        task.close()
    if done.exit_code != 0:
        raise TaskFailed(number, list(argv), done)
    return done


def _start(words: list[str], cwd: str, stdin: str, variables: dict[bytes, bytes], task: _Task) -> int:
    """Start the command; in its directory the worker is for that moment only, because posix_spawn knows none."""
    source = os.open(stdin, os.O_RDONLY | os.O_CLOEXEC) if stdin else DEVNULL
    try:
        streams = (source, task.out.write_fd, task.err.write_fd)
        if not cwd or cwd == os.getcwd():
            return command.start(words, streams, None, variables, _unwanted())
        if threading.active_count() > 1:  # they are in that directory, too
            return command.start(words, streams, cwd, variables)
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.chdir(cwd)
            return command.start(words, streams, None, variables, _unwanted())
        finally:
            os.fchdir(before)
            os.close(before)
    finally:
        if source != DEVNULL:
            os.close(source)


_looked: tuple[float, list[int]] = (-1.0, [])


def _unwanted() -> list[int]:
    """Return what a command is not to inherit. To look takes a thirtieth of the time of a short one: not each looks."""
    global _looked  # noqa: PLW0603
    now = time.monotonic()
    if now > _looked[0] + LOOK_AGAIN:
        _looked = now, command.inheritable()
    return _looked[1]


class _Task:
    """A command that runs, and its output."""

    def __init__(self, number: int, info: WorkerInfo) -> None:
        self.number = number
        self.info = info
        self.token = f"{time.time_ns():x}"
        self._posting = False
        self.out = Output("out", self._post)
        self.err = Output("err", self._post)
        self._pid = 0
        self._end: int = -1  # a pidfd

    def _post(self, stream: Stream | str, place: int, data: bytes) -> None:
        posted = Posted(self.number, self.info.attempt, stream, place, data, self.token, self.info.node)
        self._posting = True
        worker.post(OUTPUT, tuple(posted))
        self._posting = False

    def wait(self, pid: int) -> tuple[int, Any]:
        """Wait for the end, and take meanwhile what is written; return exit code and resource usage."""
        self._pid = pid
        with suppress(OSError):  # a kernel before 5.3
            self._end = os.pidfd_open(pid)
        try:
            if not self._ended(QUICK):
                self._watch()
        except BaseException:  # what it writes cannot be posted, say: nobody would hear of its end
            processes.kill_all([pid, *processes.descendants(pid)])
            os.wait4(pid, 0)
            raise
        finally:
            if self._end >= 0:
                os.close(self._end)
                self._end = -1
        _, status, usage = os.wait4(pid, 0)
        self._take_all()
        return os.waitstatus_to_exitcode(status), usage

    def _take_all(self) -> None:
        """Take what is there, after the end; a process that was left behind and goes on writing is not waited for."""
        for output in (self.out, self.err):
            for _ in range(PIPES):
                if not output.take():
                    break

    def _ended(self, timeout: float, *fds: int) -> bool:
        """Wait for the end of the command, or for one of these; return whether it has ended."""
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        if self._end < 0:
            poller.poll(min(timeout, NO_PIDFD) * 1000)
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        poller.register(self._end, select.POLLIN)
        return any(fd == self._end for fd, _ in poller.poll(timeout * 1000))

    def _watch(self) -> None:
        """Take what is written until the command has ended; post it now and then."""
        began = time.monotonic()
        if self._look_until(began + TELL_AFTER):
            return
        self._post("", 0, b"")
        with self._last_words():
            while True:
                self.out.post()
                self.err.post()
                now = time.monotonic()
                if self._look_until(now + min(max(TELL_AFTER, (now - began) / 100), LONGEST_PAUSE)):
                    return

    def _look_until(self, due: float) -> bool:
        """Take what is written until then, or until the command has ended: return whether it has."""
        while (left := due - time.monotonic()) > 0:
            if self._ended(left, self.out.read_fd, self.err.read_fd):
                return True
            came = self.out.take() + self.err.take()
            if 0 < came < LITTLE and self._ended(BREATH):
                return True
        return False

    @contextmanager
    def _last_words(self) -> Iterator[None]:
        """Within the scope, this process posts what the command has written before it ends by SIGTERM."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # another handler is the user's
            yield
            return
        signal.signal(signal.SIGTERM, self._on_term)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _on_term(self, number: int, _frame: object) -> None:
        """The launcher ends this worker, and the command with it: its time is up, or nobody waits for it any more."""
        try:
            due = time.monotonic() + LAST_WORDS
            if self._posting:  # half of a post may be on its way
                log_line(f"task {self.number} was ended while its output was sent")
            else:
                self._look_until(due)
                self._take_all()
                self.out.post()
                self.err.post()
        finally:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def done(self, exit_code: int, usage: Any, seconds: float) -> TaskDone:
        """Return how it ended."""
        cpu_seconds, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        out, err, info = self.out, self.err, self.info
        return TaskDone(
            exit_code, seconds, cpu_seconds, memory, info.node, info.attempt,
            out.held, err.held, out.place, err.place, self.token,
        )  # fmt: skip

    def not_started(self, program: str, error: OSError, cwd: str, variables: Mapping[bytes, bytes]) -> TaskDone:
        """Return the same for a command that could not be started, with the reason as its error output."""
        code = NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) and error.filename == program else NOT_STARTED
        text = f"hyperflow: {error}{command.sought(program, error, cwd or None, variables)}\n"
        err = text.encode(errors="surrogateescape")
        return TaskDone(code, 0.0, 0.0, 0, self.info.node, self.info.attempt, b"", err, 0, 0, self.token)

    def close(self) -> None:
        """Close its pipes."""
        self.out.close()
        self.err.close()
