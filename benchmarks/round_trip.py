"""How long does one evaluation take that is awaited before the next one is made?"""

import os
import pickle
import socket
import statistics
import struct
import time
from collections.abc import Callable, Mapping

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import Figures, Question
from benchmarks.ours import on_two_workers
from benchmarks.peers import PEERS, opened
from benchmarks.work import identity

TRIPS = 1000
RELAY = "bare relay"
FEWER = {
    "Work-Queue": 20,
    "Dask": 300,
    "Ray": 300,
    "Parsl": 300,
    "executorlib": 300,
    "ipyparallel": 300,
    "HyperQueue": 20,
}
LEFT_OUT = {"multiprocessing-async", "mpire-async"}
"""One call at a time is the same there as without -async."""


@hf.job
async def trips() -> Figures:
    """Make one round trip after the other."""
    times: list[float] = []
    for x in range(harness.scaled(TRIPS)):
        began = time.perf_counter()
        result = await hf.remote_eval(identity, x)
        times.append(time.perf_counter() - began)
        assert result == x
    return {"value": statistics.median(times) * 1e6}


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(trips)


def peer(name: str) -> Figures:
    """Take a peer's turn."""
    times: list[float] = []
    with opened(name) as there:
        for x in range(harness.scaled(FEWER.get(name, TRIPS))):
            began = time.perf_counter()
            result = there.one(identity, x)
            times.append(time.perf_counter() - began)
            assert result == x
    return {"value": statistics.median(times) * 1e6}


HEADER = struct.Struct("<IQBI")
"""As large as that of a frame."""


def forked(serve: Callable[[], None]) -> None:
    """Serve in a process of its own; the end of its sockets ends it, or turn.py."""
    if os.fork() == 0:
        try:
            serve()
        finally:
            os._exit(0)


def bare_relay() -> Figures:
    """Send a pickled call through a process that reads a header and passes it on, to one on a CPU of its own."""
    here, relay_in = socket.socketpair()
    relay_out, there = socket.socketpair()

    def relay() -> None:
        while data := relay_in.recv(1 << 16):
            HEADER.unpack_from(data)
            relay_out.sendall(data)
            answer = relay_out.recv(1 << 16)
            HEADER.unpack_from(answer)
            relay_in.sendall(answer)

    def worker() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # as a worker is
        while data := there.recv(1 << 16):
            fn, args = pickle.loads(memoryview(data)[HEADER.size :])
            there.sendall(HEADER.pack(1, 2, 3, 4) + pickle.dumps(fn(*args)))

    forked(worker)
    forked(relay)
    times: list[float] = []
    for x in range(harness.scaled(TRIPS)):
        began = time.perf_counter()
        here.sendall(HEADER.pack(1, 2, 3, 4) + pickle.dumps((identity, (x,))))
        answer = here.recv(1 << 16)
        result = pickle.loads(memoryview(answer)[HEADER.size :])
        times.append(time.perf_counter() - began)
        assert result == x
    return {"value": statistics.median(times) * 1e6}


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with the fastest, and with next to nothing."""
    ours, relay = medians["hyperflow"]["value"], medians[RELAY]["value"]
    return ours <= 3 * relay and ours < min(harness.peers(medians, RELAY).values())


QUESTION = Question(
    key="round_trip",
    title="round trip of one identity evaluation at a time",
    unit="us",
    better="lower",
    goal="below every peer; at most 3 times a bare relay: three Python processes, pinned alike",
    contestants={
        "hyperflow": "benchmarks.round_trip:hyperflow",
        RELAY: "benchmarks.round_trip:bare_relay",
        **{name: f"benchmarks.round_trip:peer {name}" for name in PEERS if name not in LEFT_OUT},
    },
    reached=reached,
    rounds=3,
)
