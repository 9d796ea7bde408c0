"""Post-mortem copies: a failing evaluation's process, forked where it failed, to be looked at while the worker goes on.

Guarantees: the copy is no part of the worker. It has a session of its own, and the launcher is its parent. It closes
all descriptors but its end of a socket, so it holds no stream and no lock of files, and waits there for questions. It
ends with that socket, and with the launcher. It never goes on with the function: what is asked can only look, and call.

In the copy there is one thread. A fork copies no memory, but pages that the worker writes to afterwards are there
twice. So the kernel is told to take the copy first when memory runs out, and there is none where it might not fit.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import select
import signal
import socket
import sys
import time
import types
import warnings
from typing import Any, NoReturn

from hyperflow.saying import short_str
from hyperflow.wire import frames, gpus, messages, processes
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import Inspect, Inspected
from hyperflow.wire.numbers import TaskNumber
from hyperflow.worker.stream import Stream

FORK_SECONDS = 5
"""How long the fork may take."""

LINE_SECONDS = 60.0
"""How long one question may take."""

LONGEST_ANSWER = 100_000
"""Characters of an answer."""

REFUSED = frozenset(
    [
        "c",
        "cont",
        "continue",
        "n",
        "next",
        "s",
        "step",
        "r",
        "return",
        "unt",
        "until",
        "j",
        "jump",
        "run",
        "restart",
        "interact",
        "debug",
        "q",
        "quit",
        "exit",
        "EOF",
        "commands",
    ]
)
"""Commands of pdb that would let the function go on, or end the copy."""


def leave(stream: Stream, task: TaskNumber, error: BaseException) -> str:
    """Leave a copy of this process, and hand its socket to the launcher; return why not, or ""."""
    if why_not := _refusal():
        return why_not
    theirs, ours = socket.socketpair()
    reading, writing = os.pipe()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are threads: the copy needs none of them
            between = os.fork()
        if between == 0:
            _fork_copy(ours, writing, error)
        os.close(writing)
        writing = -1
        pid = _number_from(reading)
        if not pid:
            processes.kill_all([between])
        with contextlib.suppress(ChildProcessError):  # the function ignores SIGCHLD
            os.waitpid(between, 0)
        if not pid:
            return "it could not be forked"
        stream.send_fd(frames.frame(Kind.KEPT, body=frames.KEPT.pack(task, pid)), theirs.fileno())
    except OSError as trouble:
        return str(trouble)
    finally:
        ours.close()
        theirs.close()
        for fd in (reading, writing):
            if fd >= 0:
                os.close(fd)
    return ""


def _number_from(reading: int) -> int:
    """Return the number of the copy's process; 0 if what a library does at a fork ends or stops it."""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    return int(os.read(reading, 20) or b"0") if poll.poll(1000 * FORK_SECONDS) else 0


def _refusal() -> str:
    """Return why there should be no copy of this process."""
    if gpus.are_in_use():
        return "it uses a GPU, and what a GPU does cannot be copied"
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with open("/proc/meminfo") as file:
        free = next((int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")), size)
    return "" if size <= free else f"it has {size:,} bytes of memory, and only {free:,} are free"


def _fork_copy(ours: socket.socket, writing: int, error: BaseException) -> NoReturn:
    """Between the worker and the copy: fork it, and end, so that the launcher becomes its parent."""
    try:
        between = os.getpid()
        copy = os.fork()
        if copy:
            os.write(writing, str(copy).encode())
            os._exit(0)
        os.setsid()
        _settle(ours, between)
        _answer(ours, error)
    except BaseException:
        pass
    finally:
        os._exit(0)


def _settle(ours: socket.socket, between: int) -> None:
    """Let go of all that is the worker's."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != ours.fileno():
            with contextlib.suppress(OSError):
                os.close(int(name))
    sys.stdin = sys.stdout = sys.stderr = io.StringIO()
    sys.settrace(None)
    sys.setprofile(None)
    gc.disable()  # it would write to each object, and so copy its page
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    with contextlib.suppress(OSError):
        os.nice(19)
    while os.getppid() == between:
        time.sleep(0.0005)
    processes.die_with_parent(signal.SIGKILL)  # of the launcher's only thread


def _answer(ours: socket.socket, error: BaseException) -> None:
    """Answer questions until the launcher has closed the other end."""
    prompt: Prompt | None = None
    reader = frames.Reader()
    while data := ours.recv(frames.CHUNK):
        for _, _, body in reader.feed(data):
            asked = messages.read(Inspect, body)
            prompt = prompt or Prompt(error.__traceback__, error)
            ours.sendall(messages.framed(Inspected(asked.task, asked.serial, prompt.answer(asked.line))))


class _TooLong(BaseException):
    """A question takes too long."""


def _give_up(*_: object) -> NoReturn:
    raise _TooLong(f"ended after {LINE_SECONDS:g} s")


class Prompt:
    """pdb at the place of a failure, line by line."""

    def __init__(self, trace: types.TracebackType | None, error: BaseException) -> None:
        import pdb  # noqa: PLC0415 (only a copy that is asked needs it)

        self._out = io.StringIO()
        self._pdb: Any = pdb.Pdb(stdin=io.StringIO(), stdout=self._out, nosigint=True, readrc=False)
        self._pdb.use_rawinput = False
        self._pdb.reset()
        self._pdb.setup(None, trace)
        self._error = error
        signal.signal(signal.SIGALRM, _give_up)

    def answer(self, line: str) -> str:
        """Carry out a line, and return what it prints; without one, show where the failure was."""
        self._out.seek(0)
        self._out.truncate()
        command = self._pdb.parseline(line)[0] or ""
        if command in REFUSED:
            return f"{command}: this is a copy of a process that has failed; it can be looked at, and does not go on\n"
        try:
            signal.setitimer(signal.ITIMER_REAL, LINE_SECONDS)
            try:
                self._run(line)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as trouble:
            self._out.write(f"\n{type(trouble).__name__}: {short_str(trouble, 200)}\n")
        text = self._out.getvalue()
        return text if len(text) <= LONGEST_ANSWER else text[:LONGEST_ANSWER] + "...\n"

    def _run(self, line: str) -> None:
        if line.strip():
            self._pdb.onecmd(line)
            return
        self._out.write(f"{type(self._error).__name__}: {short_str(self._error, 1000)}\n")
        self._pdb.print_stack_entry(self._pdb.stack[self._pdb.curindex])
