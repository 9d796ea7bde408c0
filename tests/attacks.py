"""What a function may do to its process and to its machine, each in a small function: for workers.

Each breaks one thing and returns. This module is imported on the workers: it has to be light.
"""

import asyncio
import builtins
import contextlib
import decimal
import gc
import io
import locale
import os
import pickle
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn


def zombie_in_the_group(leave: Callable[[], None], end: Callable[[], Any]) -> Any:
    """A forks B, B ends, A leaves the worker's group without reaping it."""
    ready, tell = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        leave()
        os.write(tell, b"x")
        time.sleep(1000)
        os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(tell)
    return end()


def by_setpgid() -> None:
    """Leave the group, and stay in the session."""
    os.setpgid(0, 0)


def by_setsid() -> None:
    """Leave group and session."""
    os.setsid()


def by_return() -> str:
    """End as a function should."""
    return "ended"


def by_exit() -> NoReturn:
    """End the process."""
    os._exit(3)


def by_sleep() -> None:
    """Run into the time limit."""
    time.sleep(1000)


def alarm() -> None:
    """Leave an alarm that kills the process a little later."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.2)


def profile_timer() -> None:
    """Leave a timer that counts the time at work."""
    signal.setitimer(signal.ITIMER_PROF, 0.1)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.1)


def thread() -> None:
    """Leave a thread that ends the process a little later."""
    threading.Thread(target=lambda: (time.sleep(0.2), os._exit(9)), daemon=True).start()


async def thread_of_asyncio() -> None:
    """The same, of the event loop."""
    asyncio.get_running_loop().run_in_executor(None, lambda: (time.sleep(0.2), os._exit(9)))


async def stubborn_task() -> None:
    """Leave a task that refuses to be cancelled."""

    async def refuse() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

    globals()["kept"] = asyncio.create_task(refuse())
    await asyncio.sleep(0)


async def stubborn_and_busy() -> None:
    """Leave a task that refuses to be cancelled by never giving the loop its turn."""

    async def refuse() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            time.sleep(1000)

    globals()["kept"] = asyncio.create_task(refuse())
    await asyncio.sleep(0)


def patched_pickle() -> None:
    """Replace the functions of pickle by some that hang."""
    pickle.dumps = pickle.loads = lambda *_, **__: time.sleep(1000)  # type: ignore[assignment]


def patched_builtins() -> None:
    """Break what everything uses."""
    builtins.len = builtins.isinstance = builtins.print = None  # type: ignore[assignment]


def closed_standard_descriptors() -> None:
    """Close descriptors 0 to 2."""
    for fd in range(3):
        os.close(fd)


def replaced_standard_descriptors() -> None:
    """Let a file of the function's take the place of the log."""
    file = os.open(os.devnull, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def closed_descriptors() -> None:
    """Close all descriptors, as a daemon does."""
    os.closerange(3, 1024)


def replaced_descriptors() -> None:
    """Put pipes that never end in the place of all descriptors."""
    kept = socket.socketpair()
    globals()["kept"] = kept
    for fd in range(3, 64):
        if fd not in (kept[0].fileno(), kept[1].fileno()):
            os.dup2(kept[0].fileno(), fd)


def replaced_quietly() -> None:
    """The same, while a forked child holds on to the descriptors that were there."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
        os._exit(0)
    replaced_descriptors()


def ignored_children() -> None:
    """Have the kernel reap all children, so that nobody learns their exit codes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def blocked_signals() -> None:
    """Block every signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def stopped_child() -> None:
    """Leave a child that is stopped."""
    child = subprocess.Popen(["sleep", "1000"])
    child.send_signal(signal.SIGSTOP)
    globals()["child"] = child


async def later_callback() -> None:
    """Leave a callback in the event loop that ends the process when the loop runs again."""
    asyncio.get_running_loop().call_later(0.1, os._exit, 9)


async def reader() -> None:
    """Leave a callback for a descriptor that can be read a little later."""
    reading, writing = os.pipe()
    globals()["writer"] = subprocess.Popen(["sh", "-c", "sleep 0.1; echo"], stdout=writing)
    asyncio.get_running_loop().add_reader(reading, os._exit, 9)


def dump_later() -> None:
    """Let faulthandler end the process a little later."""
    import faulthandler

    faulthandler.dump_traceback_later(0.2, exit=True, file=open(os.devnull, "w"))


def other_cpus() -> None:
    """Leave the CPUs."""
    cpus = sorted(os.sched_getaffinity(0))
    everywhere = range(os.cpu_count() or 1)
    os.sched_setaffinity(0, [cpu for cpu in everywhere if cpu not in cpus] or everywhere)


def other_directory() -> None:
    """Go somewhere else."""
    os.chdir("/")


def other_directory_by_descriptor() -> None:
    """The same, with the other call."""
    root = os.open("/", os.O_RDONLY)
    os.fchdir(root)
    os.close(root)


def other_umask() -> None:
    """Have files made that nobody may read."""
    os.umask(0o777)


def other_environment() -> None:
    """Set, change and remove variables; the time zone counts at once."""
    os.environ["LEFT_BEHIND"] = "by a function"
    os.environ["HOME"] = "/nowhere"
    os.environ.pop("PATH", None)
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()
    os.putenv("LEFT_BEHIND_TOO", "by a function")


def no_environment() -> None:
    """Remove all variables."""
    os.environ.clear()


def other_limits() -> None:
    """Let nothing work that opens or writes a file."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    resource.prlimit(0, resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def hard_limit() -> None:
    """Set a limit that only root can raise again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def low_priority() -> None:
    """Be nicer than the next one wants to be."""
    os.nice(3)
    os.setpriority(os.PRIO_PROCESS, 0, 10)


def other_locale() -> None:
    """Read and write letters in another way."""
    locale.setlocale(locale.LC_ALL, "C" if "UTF-8" in locale.setlocale(locale.LC_ALL) else "C.UTF-8")


def impatient_sockets() -> None:
    """Give all sockets to come a short time limit."""
    socket.setdefaulttimeout(0.001)


def warnings_are_errors() -> None:
    """Let the next warning be an error."""
    warnings.simplefilter("error")
    warnings.filterwarnings("error", "all")


def few_digits() -> None:
    """Calculate with two digits from now on."""
    decimal.getcontext().prec = 2


async def few_digits_later() -> None:
    """The same, in an async function."""
    await asyncio.sleep(0)
    decimal.getcontext().prec = 2


def shallow() -> None:
    """Let the next one that calls itself fail, and never collect what it leaves."""
    sys.setrecursionlimit(90)
    gc.disable()


def other_input() -> None:
    """Leave something to read."""
    sys.stdin = io.StringIO("left behind")


SET = [
    *(other_directory, other_directory_by_descriptor, other_umask, other_environment, no_environment, other_limits),
    *(hard_limit, low_priority, other_locale, impatient_sockets, warnings_are_errors, few_digits, few_digits_later),
    *(shallow, other_input),
]
"""They set something for the whole process."""


def surroundings() -> dict[str, Any]:
    """Return what they set."""
    environment = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, check=True).stdout
    umask = os.umask(0)
    os.umask(umask)
    return {
        "directory": os.getcwd(),
        "umask": umask,
        "variables": dict(os.environ),
        "variables of children": sorted(environment.splitlines()),
        "time zone": time.tzname,
        "limits": [resource.getrlimit(which) for which in range(10)],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "locale": locale.setlocale(locale.LC_ALL),
        "sockets": socket.getdefaulttimeout(),
        "warnings": [str(each) for each in warnings.filters],
        "decimal": decimal.getcontext().prec,
        "recursion": sys.getrecursionlimit(),
        "collector": gc.isenabled(),
        "input": sys.stdin.read(),
    }


def seed() -> float:
    """Draw a number of one's own choice."""
    random.seed(1)
    return random.random()


LEFT_BEHIND = [
    *(later_callback, reader, dump_later, other_cpus),
    *(alarm, profile_timer, thread, thread_of_asyncio, stubborn_task, stubborn_and_busy, patched_pickle),
    *(closed_standard_descriptors, replaced_standard_descriptors, ignored_children, blocked_signals, stopped_child),
]
"""They return; the next evaluation must not notice."""

CUT_OFF = [patched_builtins, closed_descriptors, replaced_descriptors, replaced_quietly]
"""After these no answer can be sent, or is sent where nobody reads it."""


async def probe_async(seconds: float = 0.0) -> str:
    """Do the same in an async function, whose event loop may be an earlier one's."""
    await asyncio.sleep(seconds / 2)
    return probe(seconds / 2)


def probe(seconds: float = 0.0) -> str:
    """What the next evaluation does: wait, start a program, print, pickle; return what is wrong."""
    time.sleep(seconds)
    wrong = []
    if subprocess.run(["sh", "-c", "exit 7"], check=False).returncode != 7:
        wrong.append("exit codes get lost")
    if threading.active_count() != 1:
        wrong.append(f"threads: {threading.enumerate()}")
    if signal.pthread_sigmask(signal.SIG_BLOCK, []):
        wrong.append("signals are blocked")
    if pickle.loads(pickle.dumps(3)) != 3:
        wrong.append("pickle is broken")
    if any(signal.getitimer(which)[0] for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)):
        wrong.append("a timer runs")
    if os.readlink("/proc/self/fd/0") != os.devnull or not os.readlink("/proc/self/fd/1").endswith(".log"):
        wrong.append("descriptors 0 and 1 are not what they were")
    return "; ".join(wrong)
