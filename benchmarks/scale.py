"""What does the head cost with many nodes? `python -m benchmarks scale`, on launchers that cost nothing (stand_in.py).

Each number of nodes goes through the life of a large run: all nodes come up; a map of tasks fills them (each first task
of a CPU forks a worker), keeps them busy and lets them drain; statistics and heartbeats; another map, in which 5% of
the nodes are lost. What is busy where, and when, the stand-in says, so the head pays nothing for being looked at.
"""

import asyncio
import contextlib
import gc
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any, Literal

import attrs
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

import hyperflow as hf
from benchmarks import harness, stand_in
from benchmarks.harness import Figures
from benchmarks.nodes import CPUS, duration_of, where
from benchmarks.stand_in import Sample, StandIn
from benchmarks.usage import resident_mb
from benchmarks.work import identity
from hyperflow._job import JobEnv, run_in_new_loop
from hyperflow.head.engine import Engine

SPREAD = 0.5
"""Tasks last between half and one and a half of what is asked for."""
LOST = 0.05
LOOK = 0.02
"""Seconds between looks at the clock of the loop."""

Work = Callable[[int], Coroutine[Any, Any, int]]
"""Makes so many evaluations, and returns how many came back."""


async def by_map(count: int) -> int:
    """Map concurrently, the plain way."""
    return len(await hf.map_concurrently(lambda x: hf.remote_eval(identity, x), range(count)))


async def by_stream(count: int) -> int:
    """Take them as they are completed."""
    done = 0
    async for _ in hf.as_completed(lambda x: hf.remote_eval(identity, x), range(count)):
        done += 1
    return done


@hf.job
async def one(x: int) -> int:
    """A flow of its own for each evaluation."""
    return await hf.remote_eval(identity, x)


async def by_jobs(count: int) -> int:
    """Map a job, so that each evaluation is awaited by a flow of its own."""
    return len(await hf.map_concurrently(one, range(count)))


WAYS: Mapping[str, Work] = {"map": by_map, "as_completed": by_stream, "jobs": by_jobs}


@attrs.frozen
class Look:
    """The head at a moment."""

    moment: float
    cpu: float
    lag: float
    """Seconds by which the event loop was late."""


@contextlib.asynccontextmanager
async def watched(every: float = LOOK) -> AsyncIterator[list[Look]]:
    """Look at the head's CPU time and at how late its event loop is, again and again."""
    looks = [Look(time.monotonic(), time.process_time(), 0.0)]

    def look() -> None:
        nonlocal handle, due
        now = time.monotonic()
        looks.append(Look(now, time.process_time(), now - due))
        due = now + every
        handle = loop.call_at(loop.time() + every, look)

    loop = asyncio.get_running_loop()
    due = time.monotonic() + every
    handle = loop.call_at(loop.time() + every, look)
    try:
        yield looks
    finally:
        handle.cancel()
        look()
        handle.cancel()


def between(looks: Sequence[Look], begin: float, end: float) -> tuple[float, float]:
    """Return the CPU seconds of the head between two moments, and how late its loop was at most."""
    inside = [look for look in looks if begin <= look.moment <= end]
    before = [look for look in looks if look.moment <= begin][-1:] or looks[:1]
    after = [look for look in looks if look.moment >= end][:1] or looks[-1:]
    return after[0].cpu - before[0].cpu, max((look.lag for look in [*inside, *after]), default=0.0)


def busy(samples: Sequence[Sample], begin: float, end: float) -> float:
    """Return how many CPUs were busy on the average."""
    inside = [sample.running for sample in samples if begin <= sample.moment <= end]
    return statistics.fmean(inside) if inside else 0.0


def first(samples: Sequence[Sample], reached: Callable[[Sample], bool]) -> float:
    """Return the moment from which something is so."""
    return next((sample.moment for sample in samples if reached(sample)), samples[-1].moment)


async def life(nodes: int, cpus: int, seconds: float, rounds: float, work: Work, lose: bool) -> Figures:
    """Lead a run of so many nodes through its life."""
    figures: Figures = {}
    gc.collect()
    memory, began, cpu = resident_mb(), time.perf_counter(), time.process_time()
    async with stand_in.opened(nodes, cpus, seconds, SPREAD) as (env, there):
        figures |= {
            "up_s": time.perf_counter() - began,
            "up_ms_each": (time.process_time() - cpu) / nodes * 1e3,
            "kb_per_node": (resident_mb() - memory) / nodes * 1e3,
        }
        figures = await filled(env, there, nodes * cpus, seconds, rounds, work) | figures
        figures |= asked(env)
        if lose:
            figures |= await lost(env, there, max(1, round(nodes * LOST)), nodes * cpus, work)
    return figures


def log_bytes(env: JobEnv) -> int:
    """Return what the event log has on the disk, with its packed parts."""
    return sum(path.stat().st_size for path in env.program.log_dir.rglob("events*") if path.is_file())


async def filled(env: JobEnv, there: StandIn, cpus: int, seconds: float, rounds: float, work: Work) -> Figures:
    """Fill all CPUs, keep them busy for some rounds, drain."""
    count = int(cpus * (1 + rounds))
    memory, logged, stood = resident_mb(), log_bytes(env), there.cpu_seconds()
    async with watched() as looks:
        begin = time.monotonic()
        if await work(count) != count:
            raise AssertionError("results are missing")
        end = time.monotonic()
    await asyncio.sleep(0.3)  # the last lines of the log and of the stand-in
    samples = [sample for sample in there.samples() if sample.moment >= begin]
    full = min(first(samples, lambda sample: sample.received >= cpus), end)
    sent = max(min(first(samples, lambda sample: sample.received >= count), end), full)
    filling, lag_filling = between(looks, begin, full)
    steady, lag_steady = between(looks, full, sent)
    draining, lag_draining = between(looks, sent, end)
    rate = count / (end - begin)
    at_full = next(sample for sample in samples if sample.moment >= full).answered
    at_sent = next((sample for sample in samples if sample.moment >= sent), samples[-1]).answered
    return {
        "value": (filling + steady + draining) / count * 1e6,
        "tasks": count,
        "fill_s": full - begin,
        "fill_us_each": filling / max(1, cpus + at_full) * 1e6,
        "fill_lag_s": lag_filling,
        "rate": (at_sent - at_full) / max(sent - full, 1e-9),
        "efficiency": busy(samples, full, sent) / cpus,
        "steady_s": sent - full,
        "steady_us_each": steady / max(1, at_sent - at_full) * 1e6,
        "steady_lag_s": lag_steady,
        "head_busy": steady / max(sent - full, 1e-9),
        "drain_s": end - sent,
        "drain_lag_s": lag_draining,
        "whole_rate": rate,
        "whole_efficiency": rate * seconds / cpus,
        "stand_in_us_each": (there.cpu_seconds() - stood) / count * 1e6,
        "log_bytes_each": (log_bytes(env) - logged) / count,
        "rss_mb": resident_mb(),
        "bytes_per_cpu": (resident_mb() - memory) * 1e6 / cpus,
    }


def asked(env: JobEnv) -> Figures:
    """Ask how things stand, and let each node give a sign of life."""
    began = time.process_time()
    env.statistics()
    told = time.process_time()
    engine = env.evaluator
    assert isinstance(engine, Engine)
    now = time.monotonic()
    for link in engine.fleet.links.values():
        link.beat(now, 0.0)
    return {"statistics_ms": (told - began) * 1e3, "beat_ms": (time.process_time() - told) * 1e3}


async def lost(env: JobEnv, there: StandIn, count: int, cpus: int, work: Work) -> Figures:
    """Lose some nodes while all are busy."""
    before = env.statistics()
    there.lose(count, cpus // 2)
    async with watched() as looks:
        if await work(cpus) != cpus:
            raise AssertionError("results are missing after the loss of nodes")
    after = env.statistics()
    if after.nodes_lost != before.nodes_lost + count:
        raise AssertionError(f"{after.nodes_lost} nodes were lost, and {count} had gone")
    return {
        "lost_nodes": count,
        "lost_returned": after.returned - before.returned,
        "lost_us_each": (looks[-1].cpu - looks[0].cpu) / cpus * 1e6,
        "lost_lag_s": max(look.lag for look in looks),
    }


async def ceiling(nodes: int, cpus: int, count: int, work: Work) -> Figures:
    """Evaluate as fast as the head can, on workers that answer at once."""
    async with stand_in.opened(nodes, cpus) as (_, there):
        for _ in range(2):
            await work(max(1000, 4 * nodes * cpus))
        stood, began, cpu = there.cpu_seconds(), time.perf_counter(), time.process_time()
        if await work(count) != count:
            raise AssertionError("results are missing")
        cpu, wall = time.process_time() - cpu, time.perf_counter() - began
        return {
            "value": cpu / count * 1e6,
            "per_cpu_second": count / cpu,
            "wall_us_each": wall / count * 1e6,
            "stand_in_us_each": (there.cpu_seconds() - stood) / count * 1e6,
            "rss_mb": resident_mb(),
        }


def of_life(nodes: str, cpus: str, seconds: str, rounds: str, way: str, lose: str = "") -> Figures:
    """Be a turn (see turn.py)."""
    return run_in_new_loop(life(int(nodes), int(cpus), float(seconds), float(rounds), WAYS[way], bool(lose)))


def of_ceiling(nodes: str, cpus: str, count: str, way: str) -> Figures:
    """Be a turn."""
    return run_in_new_loop(ceiling(int(nodes), int(cpus), int(count), WAYS[way]))


# ---- the command line -----------------------------------------------------------------------------------------------

CEILINGS = ((1, 2), (1, 64), (16, 64))
"""Nodes, and CPUs of each."""

ROWS: Mapping[str, tuple[str, str]] = {
    "up_ms_each": ("up", "ms of the head's CPU for each node"),
    "kb_per_node": ("", "kB of memory for each node"),
    "fill_s": ("fill: until as many tasks are sent as there are CPUs", "s"),
    "fill_us_each": ("", "us of the head's CPU for each CPU filled, or task done meanwhile"),
    "fill_lag_s": ("", "s by which the loop was late at most"),
    "bytes_per_cpu": ("", "bytes of memory for each CPU, with what its tasks take"),
    "rate": ("steady: until each task is at a node", "tasks a second"),
    "efficiency": ("", "of all CPUs were busy"),
    "steady_us_each": ("", "us of the head's CPU for each task"),
    "head_busy": ("", "of a CPU the head was busy"),
    "steady_lag_s": ("", "s by which the loop was late at most"),
    "drain_s": ("drain", "s"),
    "drain_lag_s": ("", "s by which the loop was late at most"),
    "whole_rate": ("all of it", "tasks a second"),
    "whole_efficiency": ("", "of what the CPUs could have done"),
    "value": ("", "us of the head's CPU for each task"),
    "stand_in_us_each": ("", "us of the stand-in's CPU for each task"),
    "log_bytes_each": ("", "bytes of the event log for each task"),
    "rss_mb": ("", "MB of memory"),
    "statistics_ms": ("statistics()", "ms"),
    "beat_ms": ("a sign of life to each node", "ms"),
    "lost_nodes": ("loss of 5% of the nodes", "nodes"),
    "lost_returned": ("", "tasks that were started anew"),
    "lost_us_each": ("", "us of the head's CPU for each task of that map"),
    "lost_lag_s": ("", "s by which the loop was late at most"),
}
"""What is shown of a life."""


def main(
    *,
    nodes: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (10, 100, 1000, 4000),
    cpus: int = CPUS,
    seconds: float | None = None,
    rounds: float = 3.0,
    way: Literal["map", "as_completed", "jobs"] = "map",
    ceilings: bool = True,
    limit: float = 900.0,
) -> int:
    """Measure the head with launchers that cost nothing, from ten nodes to thousands.

    Args:
        nodes: How many; each number is a run of its own. None if 0.
        cpus: Of each node.
        seconds: How long a task takes, half of it more or less; 1, or 10 with more than 1,000 nodes.
        rounds: How many tasks each CPU has, after the first one, which forks its worker.
        way: Which way the program evaluates: one map, a stream, or a flow for each task.
        ceilings: Also measure what the head can do at most, with workers that answer at once.
        limit: Seconds that a run may take.
    """
    console = Console(width=140)
    lives = {
        count: where(count, cpus, seconds or duration_of(count), rounds, way, lose=True) for count in nodes if count
    }
    shown(console, [(f"{count:,}", turn(life, limit)) for count, life in lives.items()], cpus, way)
    if ceilings:
        table = Table(title="Answers at once: what the head can do at most", title_justify="left")
        for heading in ("", "", "us of CPU each", "per second of CPU", "stand-in, us", "MB"):
            table.add_column(heading, justify="right")
        for which in ("map", "as_completed"):
            for count, each in CEILINGS:
                figures = turn(f"benchmarks.scale:of_ceiling {count} {each} {harness.scaled(200_000)} {which}", limit)
                numbers = (figures[key] for key in ("value", "per_cpu_second", "stand_in_us_each", "rss_mb"))
                table.add_row(which, f"{count} x {each}", *(f"{number:,.2f}" for number in numbers))
        console.print(table)
    return 0


def turn(where: str, limit: float) -> Figures:
    """Measure in a process of its own; raises Skipped."""
    return harness.turn(where, limit)


def shown(console: Console, runs: Sequence[tuple[str, Figures]], cpus: int, way: str) -> None:
    """Print what was found, a column for each number of nodes."""
    if not runs:
        return
    table = Table(title=f"Nodes of {cpus} CPUs, {way}", title_justify="left")
    table.add_column("")
    for name, _ in runs:
        table.add_column(name, justify="right")
    table.add_column("")
    for key, (phase, unit) in ROWS.items():
        table.add_row(
            phase,
            *(f"{figures[key]:,.3g}" if figures[key] < 1000 else f"{figures[key]:,.0f}" for _, figures in runs),
            unit,
        )
    console.print(table)
