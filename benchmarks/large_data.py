"""What does a large array cost, there and back, beside the cheapest copies that cross processes?"""

import mmap
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import Figures, Question, Skipped
from benchmarks.ours import on_two_workers
from benchmarks.peers import PEERS, opened
from benchmarks.work import add_one
from hyperflow.wire import processes

Array = np.ndarray[Any, Any]
MEGABYTES = 100
TRIPS = 5
FEWER = 1
"""For the peers, because some need a second each, and Parsl a dozen."""
LEFT_OUT = {"multiprocessing-async", "mpire-async"}
"""One call at a time is the same there as without -async."""


def argument() -> Array:
    """Make the array."""
    return np.random.default_rng(1).random(harness.scaled(MEGABYTES) * 1_000_000 // 8)


def timed(call: Callable[[Array], Array], trips: int = TRIPS) -> Figures:
    """Make round trips after one that does not count; check the last result."""
    array = argument()
    result = call(array)
    times: list[float] = []
    for _ in range(trips):
        del result  # whoever calls has no use for the one before
        began = time.perf_counter()
        result = call(array)
        times.append(time.perf_counter() - began)
    figures = {"value": statistics.median(times) * 1e3, "head_peak_mb": peak_memory(os.getpid())}
    assert np.array_equal(result, array + 1)
    return figures


def peak_memory(pid: int | str) -> float:
    """Return the megabytes that a process had resident at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1000 if found else 0.0


@hf.job
async def trips() -> Figures:
    """Make the same round trips, and look at our processes."""
    array = argument()
    result = await hf.remote_eval(add_one, array)
    times: list[float] = []
    for _ in range(TRIPS):
        del result
        began = time.perf_counter()
        result = await hf.remote_eval(add_one, array)
        times.append(time.perf_counter() - began)
    figures = {"value": statistics.median(times) * 1e3, "head_peak_mb": peak_memory(os.getpid())}
    below = processes.descendants(os.getpid())
    workers = [pid for pid in below if not processes.children(pid)]
    figures["launcher_peak_mb"] = max(peak_memory(pid) for pid in below if pid not in workers)
    figures["worker_peak_mb"] = max(map(peak_memory, workers))
    assert np.array_equal(result, array + 1)
    return figures


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(trips, preload=["numpy"])


@contextmanager
def forked(serve: Callable[[Connection], None]) -> Iterator[Connection]:
    """Hold a process that serves at the other end of a pipe."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here
    finally:
        process.kill()
        process.join()


def kept_blocks() -> Figures:
    """Copy into shared memory, compute from there, copy into shared memory, copy out; the same memory each time."""
    size = argument().nbytes
    into, out = mmap.mmap(-1, size), mmap.mmap(-1, size)

    def serve(pipe: Connection) -> None:
        while True:
            pipe.recv_bytes()
            np.frombuffer(out)[:] = add_one(np.frombuffer(into))
            pipe.send_bytes(b"done")

    def call(array: Array) -> Array:
        np.frombuffer(into)[:] = array
        pipe.send_bytes(b"go")
        pipe.recv_bytes()
        return np.frombuffer(out).copy()

    with forked(serve) as pipe:
        return timed(call)


def new_blocks() -> Figures:
    """Likewise with new shared memory each time, in which the result then stays: a copy less, more pages to make."""
    held: list[SharedMemory] = []

    def serve(pipe: Connection) -> None:
        while True:
            into, out = SharedMemory(pipe.recv()), SharedMemory(pipe.recv())
            array, room = np.frombuffer(into.buf), np.frombuffer(out.buf)
            room[:] = add_one(array)
            pipe.send_bytes(b"done")
            del array, room
            into.close()
            out.close()

    def call(array: Array) -> Array:
        while held:
            held.pop().close()  # the result before has gone
        into, out = (SharedMemory(create=True, size=array.nbytes) for _ in range(2))
        np.frombuffer(into.buf, count=array.size)[:] = array
        pipe.send(into.name)
        pipe.send(out.name)
        pipe.recv_bytes()
        into.close()
        into.unlink()
        out.unlink()
        held.append(out)
        return np.frombuffer(out.buf, count=array.size)

    with forked(serve) as pipe:
        return timed(call)


def peer(name: str) -> Figures:
    """Take a peer's turn."""
    with opened(name) as there:
        if there.chunked is None:
            raise Skipped("its tasks return nothing to the one who submits them")
        return timed(lambda array: there.one(add_one, array), FEWER)


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with two copies and nothing else."""
    return medians["hyperflow"]["value"] <= 1.3 * medians["kept blocks"]["value"]


QUESTION = Question(
    key="large_data",
    title="x + 1 for a numpy array of 100 MB, there and back",
    unit="ms",
    better="lower",
    goal="within 1.3 of two copies into memory that is kept",
    contestants={
        "hyperflow": "benchmarks.large_data:hyperflow",
        "kept blocks": "benchmarks.large_data:kept_blocks",
        "new blocks": "benchmarks.large_data:new_blocks",
        **{name: f"benchmarks.large_data:peer {name}" for name in PEERS if name not in LEFT_OUT},
    },
    reached=reached,
    rounds=3,
)
