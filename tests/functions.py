"""Functions that travel by name. This module is imported on the workers: it has to be light."""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn


def identity(x: Any) -> Any:
    """Return the argument."""
    return x


def add(a: int, b: int = 0, *, c: int = 0) -> int:
    """Return the sum."""
    return a + b + c


async def add_async(a: int, b: int = 0) -> int:
    """Return the sum, later."""
    import asyncio

    await asyncio.sleep(0)
    return a + b


class Adder:
    """A callable with a state."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        """Add."""
        return self.n + x

    def method(self, x: int) -> int:
        """Add."""
        return self.n + x

    @classmethod
    def of_class(cls, x: int) -> tuple[str, int]:
        """Return the class's name and x."""
        return cls.__name__, x

    @staticmethod
    def static(x: int) -> int:
        """Return x."""
        return x


class AsyncAdder(Adder):
    """The same, async."""

    async def __call__(self, x: int) -> int:  # type: ignore[override]
        """Add."""
        return self.n + x


class Boom(Exception):
    """A plain exception of a user's."""


class TwoArguments(Exception):
    """Hands on one argument and takes two, as many do."""

    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code
        self.where = where


class KeywordOnly(Exception):
    """Cannot be made without a keyword."""

    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class HoldsLock(Exception):
    """Cannot be pickled at all."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class BrokenStr(Exception):
    """Its text cannot be made."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Frozen(Exception):
    """Refuses every attribute, as a frozen dataclass does."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot assign {name}")


class OnlyOverThere(Exception):
    """Can be pickled and unpickled anywhere but in one process."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)

    def __reduce__(self) -> Any:
        return make_elsewhere, self.args


def make_elsewhere(pid: int) -> OnlyOverThere:
    """Refuse to work in one process."""
    if os.getpid() == pid:
        raise RuntimeError("cannot be made here")
    return OnlyOverThere(pid)


class LeavesElsewhere:
    """Can be unpickled anywhere but in one process, which is told to end."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return leave_elsewhere, (self.pid,)


def leave_elsewhere(pid: int) -> LeavesElsewhere:
    """End one process."""
    if os.getpid() == pid:
        raise SystemExit("no more")
    return LeavesElsewhere(pid)


class BrokenReduce:
    """Raises when it is pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("does not want to travel")


class BrokenArrival:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return fail, ("does not want to arrive",)


def fail(text: str = "boom") -> NoReturn:
    """Raise Boom."""
    raise Boom(text)


def fail_with(kind: type[BaseException], *args: Any, **kwargs: Any) -> NoReturn:
    """Raise."""
    raise kind(*args, **kwargs)


def fail_because() -> NoReturn:
    """Raise Boom, caused by a KeyError."""
    try:
        {}["the cause"]
    except KeyError as error:
        raise Boom("the effect") from error


def die(how: str) -> None:
    """End this process."""
    if how == "exit 0":
        os._exit(0)
    if how == "exit 3":
        os._exit(3)
    if how == "null":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, how))


def die_if(x: int, fatal: int) -> int:
    """Return x, unless it is the fatal one."""
    if x == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def spin(seconds: float) -> float:
    """Keep a CPU busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


def interval(seconds: float) -> tuple[tuple[int, ...], tuple[int, ...], float, float]:
    """Return the CPU ids, the affinity, start and end."""
    import hyperflow as hf

    start = time.monotonic()
    time.sleep(seconds)
    return hf.worker_info().cpus, tuple(sorted(os.sched_getaffinity(0))), start, time.monotonic()


def threads() -> dict[str, str | None]:
    """Return the thread variables as seen here."""
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def count_up() -> int:
    """Return how often this process has called it."""
    global _calls  # noqa: PLW0603 (what a process keeps is what this is about)
    _calls += 1
    return _calls


_calls = 0


def attempts(path: str, failures: int, how: str) -> int:
    """Fail so many times, and then return the number of the attempt; a file keeps the count."""
    with open(path, "a+") as file:
        file.write("x")
        file.seek(0)
        number = len(file.read())
    if number > failures:
        return number
    if how == "raise":
        raise Boom(f"attempt {number}")
    die(how)
    return 0


def family(path: str, stubborn: bool = False) -> None:
    """Start children and a grandchild that would live long, write down all their pids, and wait for them."""
    import subprocess

    trap = "trap '' TERM; " if stubborn else ""
    code = f"{trap}sleep 1000 & echo $$ $! >> {path}.new; wait; wait; sleep 1000"
    children = [subprocess.Popen(["sh", "-c", code]) for _ in range(2)]
    while True:
        try:
            with open(f"{path}.new") as file:
                text = file.read()
        except FileNotFoundError:
            text = ""
        if text.count("\n") == 2:
            break
        time.sleep(0.002)
    with open(f"{path}.new", "a") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(f"{path}.new", path)
    for child in children:
        child.wait()


def daemon(path: str) -> int:
    """Leave a process behind that has a session of its own and no parent; write down and return its pid."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) == 0:
            os.close(reading)
            os.close(writing)
            os.execvp("sleep", ["sleep", "1000"])
        os.write(writing, str(pid).encode())
        os._exit(0)
    os.close(writing)
    pid = int(os.read(reading, 100))
    os.close(reading)
    os.wait()
    with open(path, "w") as file:
        file.write(str(pid))
    return pid


def deep(n: int) -> Any:
    """Return a list inside a list inside ..."""
    nested: list[Any] = []
    for _ in range(n):
        nested = [nested]
    return nested


def recurse(n: int = 0) -> int:
    """Never end."""
    return recurse(n + 1) + 1


def close_all_descriptors() -> int:
    """Close what is not ours to close."""
    os.closerange(0, 256)
    return 1


def write_rubbish(rubbish: bytes) -> int:
    """Write to all descriptors that are not ours."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.write(int(name), rubbish)
            except OSError:
                continue
    return 1


def modules() -> set[str]:
    """Return what is loaded."""
    return set(sys.modules)


def keys_of(table: dict[Any, Any]) -> Any:
    """Return what only dill can pickle."""
    return table.keys()


def killed_by_itself(*_: Any) -> NoReturn:
    """End the process, whatever the arguments."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")
