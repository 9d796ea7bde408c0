"""How a freshly forked copy of the launcher becomes a worker: its streams, its signals, its CPUs, its GPUs."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from hyperflow.wire import blas, gpus, processes
from hyperflow.wire.machine import THREAD_VARIABLES


def settle(log_file: str, service_id: str, cpus: Sequence[int], pinned: bool, ids: Sequence[str] = ()) -> None:
    """Make a freshly forked copy of the launcher into a worker."""
    processes.die_with_parent(signal.SIGKILL)
    os.setsid()
    for signum in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # blocked by the launcher for the time of the fork
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit._clear()  # pyright: ignore[reportPrivateUsage] (what the launcher registered is the launcher's)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:  # the head tried the directory; a disk that is full by now costs the log, not the work
        log = os.dup(null)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
    os.environ["HYPERFLOW_SERVICE_ID"] = service_id
    os.environ.update(gpus.environment(ids))
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # numbers mean what they mean to nvidia-smi and to Slurm
    os.environ.pop(gpus.OPENCL, None)  # Slurm's counts all GPUs of the node, and AMD's runtime those that are left
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(len(cpus)))
    if pinned:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cpus)
    with contextlib.suppress(OSError):
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"500")  # if memory runs out, an evaluation shall go, not the launcher
        os.close(score)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        blas.follow_environment()
    if numpy is not None and len(cpus) > 1:
        # It was imported while the variables said 1, see the launcher's `prepare`.
        with contextlib.suppress(ImportError):
            import threadpoolctl  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415

            threadpoolctl.threadpool_limits(len(cpus))
