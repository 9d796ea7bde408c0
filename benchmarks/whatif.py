"""Does `hyperflow whatif` foretell what is true? `python -m benchmarks.whatif` runs programs, small and large.

Words on the command line choose programs by their names; `--quick` does a tenth of the work.

Each program runs on few CPUs. From that run's event log, its time there and on eight times as many CPUs (twice as many
where it computes) is foretold; then it runs there. What sleeps may have more "CPUs" than the machine.

It prints a table in Markdown, which docs/design.md shows. A machine that has something else to do spoils what computes.
"""

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

import hyperflow as hf
from hyperflow.events import reader
from hyperflow.viewing.flows import course
from hyperflow.viewing.replay import replay

QUICK = "--quick" in sys.argv
"""A tenth of the work: to see that everything works. The figures mean nothing."""


ROUNDS = 1 if QUICK else 3
"""How often each program runs on more CPUs; the median counts."""


def scaled(count: int) -> int:
    """Return how many there are to be."""
    return max(count // 10, 2) if QUICK else count


def lengths(count: int, shortest: float, longest: float) -> list[float]:
    """Return the same numbers at each call."""
    draw = random.Random(1)
    return [draw.uniform(shortest, longest) for _ in range(count)]


def sleep(seconds: float) -> float:
    """Need no CPU."""
    time.sleep(seconds)
    return seconds


def compute(steps: float) -> int:
    """Need a CPU, some 0.1 s for a million steps."""
    total = 0
    for number in range(int(steps * 1e6)):
        total += number & 3
    return total


@hf.job
async def side_by_side() -> None:
    """Evaluate all at once."""
    await hf.map_concurrently(lambda x: hf.remote_eval(sleep, x), lengths(scaled(250), 0.1, 0.6))


@hf.job
async def chain(times: list[float]) -> None:
    """Evaluate one after the other."""
    for seconds in times:
        await hf.remote_eval(sleep, seconds)


def chains(count: int, length: int, shortest: float, longest: float) -> list[list[float]]:
    """Return the times of chains of evaluations."""
    times = iter(lengths(count * length, shortest, longest))
    return [[next(times) for _ in range(length)] for _ in range(count)]


@hf.job
async def bisections() -> None:
    """Run chains side by side."""
    await hf.map_concurrently(chain, chains(24, scaled(12), 0.2, 0.4))


@hf.job
async def with_a_limit() -> None:
    """Keep ten under way: eight times as many CPUs are not of use."""
    await hf.map_concurrently(lambda x: hf.remote_eval(sleep, x), lengths(scaled(250), 0.1, 0.6), limit=10)


@hf.job
async def scan(times: list[float]) -> None:
    """Evaluate some, wait for all of them, and then a last one."""
    await hf.map_concurrently(lambda x: hf.remote_eval(sleep, x), times)
    await hf.remote_eval(sleep, 0.1)


@hf.job
async def rounds() -> None:
    """Run nested flows; between rounds all wait for the slowest."""
    for _ in range(scaled(5)):
        await hf.map_concurrently(scan, chains(5, 9, 0.1, 0.6))


@hf.job
async def chunks() -> None:
    """Map over plain calls."""
    await hf.remote_map(sleep, lengths(scaled(600), 0.05, 0.2))


@hf.job
async def pondered(times: list[float]) -> None:
    """Think for a while before each evaluation; each third one wants two CPUs."""
    for number, seconds in enumerate(times):
        await asyncio.sleep(0.1)
        await hf.remote_eval(sleep, seconds).using(cpus=1 + (number % 3 == 0))


@hf.job
async def thoughtful() -> None:
    """Run chains that think."""
    await hf.map_concurrently(pondered, chains(12, scaled(16), 0.1, 0.6))


@hf.job
async def computed() -> None:
    """Compute all at once."""
    await hf.map_concurrently(lambda x: hf.remote_eval(compute, x), lengths(scaled(120), 1.0, 4.0))


@hf.job
async def computed_chain(times: list[float]) -> None:
    """Compute one after the other."""
    for steps in times:
        await hf.remote_eval(compute, steps)


@hf.job
async def computed_chains() -> None:
    """Compute chains side by side."""
    await hf.map_concurrently(computed_chain, chains(4, scaled(30), 1.0, 4.0))


PROGRAMS: dict[str, tuple[Callable[[], hf.Job[None]], int, int]] = {
    "250 sleeps side by side": (side_by_side, 2, 16),
    "24 chains of 12 sleeps": (bisections, 2, 16),
    "250 sleeps, limit=10": (with_a_limit, 2, 16),
    "5 rounds of 5 nested scans": (rounds, 2, 16),
    "remote_map of 600 sleeps": (chunks, 2, 16),
    "12 chains that think, some want 2 CPUs": (thoughtful, 2, 16),
    "120 that compute, side by side": (computed, 1, 2),
    "4 chains of 30 that compute": (computed_chains, 1, 2),
}
"""Each with the CPUs that it is recorded on, and those that it is foretold for."""


@attrs.frozen
class Row:
    """A program: what was foretold, and what was true."""

    name: str
    recorded: float
    own: float
    foretold: float
    truth: float
    sizes: str

    def cells(self) -> tuple[str, ...]:
        """Return what the table shows."""
        own, other = self.own / self.recorded - 1, self.foretold / self.truth - 1
        times = (f"{seconds:.2f} s" for seconds in (self.recorded, self.own, self.foretold, self.truth))
        recorded, at_own, foretold, truth = times
        return self.name, self.sizes, recorded, at_own, f"{own:+.1%}", foretold, truth, f"{other:+.1%}"


def run(job: hf.Job[None], cpus: int, base: Path) -> Path:
    """Run a program; return its event log."""
    program = hf.ProgramInfo.new(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are not so many CPUs
        hf.run_job_local(job, cpus=cpus, program=program, progress=False)
    return program.log_dir / "events.jsonl"


def rows(base: Path) -> Iterator[Row]:
    """Run each program on few CPUs, foretell, and run it on more."""
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    for name, (make, few, many) in PROGRAMS.items():
        if words and not any(word in name for word in words):
            continue
        known = course(reader.read(run(make(), few, base)))
        own, foretold = replay(known, [few]).seconds, replay(known, [many]).seconds
        truths = [course(reader.read(run(make(), many, base))).seconds for _ in range(ROUNDS)]
        yield Row(name, known.seconds, own, foretold, statistics.median(truths), f"{few} to {many}")


def main() -> None:
    """Print the table."""
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print("| program | CPUs | took | foretold | | on more CPUs, foretold | took | |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as base:
        for row in rows(Path(base)):
            print(f"| {' | '.join(row.cells())} |", flush=True)


if __name__ == "__main__":
    main()
