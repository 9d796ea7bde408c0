"""What runs the jobs of a program: Slurm, or this machine. The master treats both in the same way.

On this machine jobs are processes of the master, with the same runner as in an allocation. They run side by side as far
as their CPUs and GPUs allow, first come, first served; each is pinned to CPUs of its own, and sees GPUs of its own: as
many as it asks Slurm for. A job that asks for more CPUs than the machine has runs alone, with as many workers as it
asked for; one that asks for more GPUs has all of them. All jobs, and all that they have started, end with the
master, however that ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol, Self

import attrs

from hyperflow.master.rundir import JobDirectory
from hyperflow.offers import Offers
from hyperflow.slurm import nodelist
from hyperflow.slurm.client import PollIntervals, SlurmClient, Watch
from hyperflow.slurm.queue import BatchState
from hyperflow.slurm.script import SbatchOptions, batch_script
from hyperflow.transports.process import python_command
from hyperflow.wire import findings, gpus, processes

logger = logging.getLogger("hyperflow")

RUNNER = python_command("hyperflow.master.runner")
"""The command that runs a job."""

TAG = "HYPERFLOW_LOCAL_JOB"

TERMINATE = 3.0
"""Seconds between asking a job to end and killing it."""

QUEUED = BatchState("pending", "PENDING", reason="CPUs")


@attrs.frozen
class Order:
    """One submission of a job: `run` is the program's id, `token` its idempotency key, `name` what lists show."""

    directory: JobDirectory
    run: str
    attempt: int
    token: str
    name: str
    options: SbatchOptions

    @property
    def command(self) -> Sequence[str]:
        return [*RUNNER, str(self.directory.path), self.run, str(self.attempt)]

    @property
    def cpus(self) -> int:
        """How many CPUs it asks for."""
        return self.options.nodes * self.options.cpus

    @property
    def gpus(self) -> int:
        """How many GPUs it asks for: `gres="gpu:2"`, on each node."""
        return self.options.nodes * self.options.gpus


class Batch(Protocol):
    """Runs jobs."""

    @property
    def local(self) -> bool:
        """Whether jobs end with the master."""
        ...

    @property
    def calls(self) -> Mapping[str, int]:
        """How often each command of Slurm was run."""
        ...

    async def submit_order(self, order: Order) -> int:
        """Submit, and return the id; raises SlurmError if it was refused."""
        ...

    async def find(self, tokens: Collection[str], /) -> Mapping[str, list[int]]:
        """Return what was submitted under each token, the oldest first."""
        ...

    def watch(self, batch_id: int, /) -> Watch: ...

    async def cancel(self, batch_ids: Collection[int], /) -> None:
        """End jobs, or take them from the queue."""


class SlurmBatch(SlurmClient):
    """Slurm, through the one client that a master has."""

    local = False

    def __init__(self, pace: PollIntervals | None = None, *, exclude_nodes: str = "") -> None:
        super().__init__(pace)
        nodelist.excluded(exclude_nodes)
        self._exclude_nodes = exclude_nodes

    async def submit_order(self, order: Order) -> int:
        """Write the script, submit it, and return the id."""
        text = script_text(order, self._exclude_nodes)
        order.directory.write_script(text)
        # Not by its path, which somebody who can write above the run directory could make another file's.
        return await self.submit(order.directory.script, order.token, text)


def script_text(order: Order, exclude_nodes: str = "") -> str:
    """Return an order's batch script; `exclude_nodes`, the setting, adds to what the order excludes itself."""
    log_file, directory, options = order.directory.output, order.directory.path, order.options
    if exclude_nodes:
        names = ",".join(filter(None, [options.extra.get("exclude"), exclude_nodes]))
        options = options.changed(extra={**options.extra, "exclude": names})
    return batch_script(
        options, name=order.name, token=order.token, command=order.command, log_file=log_file, directory=directory
    )


class Share(NamedTuple):
    """What a job has of this machine."""

    cpus: list[int]
    gpus: list[str]


class LocalBatch:
    """Runs jobs on this machine; `async with` ends all of them."""

    local = True

    def __init__(self, offers: Offers | None = None) -> None:
        """Make it; `offers`: what this machine has, where the program says so."""
        self.calls: Counter[str] = Counter()
        self._ids = sorted(os.sched_getaffinity(0))
        self._free = list(self._ids)
        found = findings.look()
        said = offers or Offers()
        self._gpus = found.gpus if said.gpus is None else said.gpus
        self._free_gpus = list(self._gpus)
        self._memory = said.memory or found.total_memory
        self._waiting: list[tuple[int, Order]] = []
        self._running: dict[int, asyncio.Task[None]] = {}
        self._watches: dict[int, Watch] = {}
        self._tokens: dict[str, int] = {}
        # Not a number of an earlier master of the same run, whose jobs have ended with it.
        self._next = int(time.time() * 1000)
        self._warned = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._waiting.clear()
        await self.cancel(list(self._running))

    async def submit_order(self, order: Order) -> int:
        order.directory.write_script(script_text(order))
        number = self._next
        self._next += 1
        self._watches[number] = Watch(number, QUEUED)
        self._tokens[order.token] = number
        self._waiting.append((number, order))
        self._start_some()
        return number

    async def find(self, tokens: Collection[str]) -> Mapping[str, list[int]]:
        return {token: [self._tokens[token]] if token in self._tokens else [] for token in tokens}

    def watch(self, batch_id: int) -> Watch:
        return self._watches.setdefault(batch_id, Watch(batch_id, BatchState("gone")))

    async def cancel(self, batch_ids: Collection[int]) -> None:
        """End jobs, and return when they are gone."""
        wanted = set(batch_ids)
        for number, _ in self._waiting:
            if number in wanted:
                self._watches[number].set(BatchState("ended", "CANCELLED"))
        self._waiting = [waiting for waiting in self._waiting if waiting[0] not in wanted]
        tasks = [self._running[number] for number in wanted if number in self._running]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start_some(self) -> None:
        while self._waiting:
            number, order = self._waiting[0]
            wanted, cards = min(order.cpus, len(self._ids)), min(order.gpus, len(self._gpus))
            if wanted > len(self._free) or cards > len(self._free_gpus):
                return
            del self._waiting[0]
            mine = Share([self._free.pop(0) for _ in range(wanted)], [self._free_gpus.pop(0) for _ in range(cards)])
            if order.cpus > len(self._ids) and not self._warned:
                self._warned = True
                text = "%s asks for %d CPUs, and this machine has %d: its evaluations share them"
                logger.warning(text, order.name, order.cpus, len(self._ids))
            task = asyncio.get_running_loop().create_task(self._run(number, order, mine))
            self._running[number] = task
            task.add_done_callback(lambda _, number=number, mine=mine: self._ended(number, mine))  # type: ignore[misc]

    def _ended(self, number: int, mine: Share) -> None:
        del self._running[number]
        self._free = sorted(self._free + mine.cpus)
        self._free_gpus += mine.gpus
        self._start_some()

    async def _run(self, number: int, order: Order, share: Share) -> None:
        memory = self._memory * len(share.cpus) // len(self._ids)
        words = ["--local", str(number), str(order.cpus), ",".join(map(str, share.cpus)), str(memory)]
        watch = self._watches[number]
        state = BatchState("ended", "CANCELLED")
        with order.directory.output.open("ab") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 (returns when it has started)
                [*order.command, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=order.directory.path,
                env={**os.environ, **gpus.environment(share.gpus), TAG: order.token},
                start_new_session=True,  # Ctrl-C in the terminal is for the master
            )
        try:
            watch.set(BatchState("running", "RUNNING", nodes=socket.gethostname()))
            code = await _exit_code(process)
            word = "COMPLETED" if code == 0 else "FAILED"
            state = BatchState("ended", word, exit_code=max(code, 0), signal=-code if code < 0 else None)
        except asyncio.CancelledError:
            process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(TERMINATE):
                    await _exit_code(process)
            process.kill()
            await _exit_code(process)
        finally:
            await _clear(f"{TAG}={order.token}")
            watch.set(state)


async def _exit_code(process: subprocess.Popen[bytes]) -> int:
    pause = 0.002
    while (code := process.poll()) is None:
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.05)
    return code


async def _clear(tag: str) -> None:
    """Wait until the processes that a job has started are gone. Its launcher ends them; what it leaves we kill."""
    deadline = time.monotonic() + TERMINATE
    while left := processes.carriers(tag):
        if time.monotonic() > deadline:
            processes.kill_all(left, signal.SIGKILL)
        await asyncio.sleep(0.02)
