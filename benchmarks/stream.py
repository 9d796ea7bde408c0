"""Does memory stay flat while a million evaluations stream through? In head, launcher and workers, and on the disk."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled
from hyperflow.wire import processes

EVALUATIONS = scaled(1_000_000)
WARM_UP = scaled(50_000)
LIMIT = 1000


def identity(x: int) -> int:
    """Cost nothing: as many evaluations as possible."""
    return x


def resident() -> dict[str, float]:
    """Return the resident memory of each of our processes, in MB, by role and number."""
    launcher_and_workers = processes.descendants(os.getpid())
    found = {f"head {os.getpid()}": _megabytes(os.getpid())}
    for pid in launcher_and_workers:
        depth = 0
        parent = pid
        while parent != os.getpid():
            parent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
            depth += 1
        role = {1: "keeper", 2: "launcher"}.get(depth, "worker")
        found[f"{role} {pid}"] = _megabytes(pid)
    return found


def _megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@hf.job
async def evaluate() -> Figures:
    """Stream; look at the memory after the warm-up, and then every now and then."""
    sums = done = 0
    before: dict[str, float] = {}
    growth: dict[str, float] = {}
    began = time.perf_counter()
    numbers: Iterator[int] = iter(range(EVALUATIONS))
    async for x, result in hf.as_completed(lambda x: hf.remote_eval(identity, x), numbers, LIMIT):
        if x != result:
            raise AssertionError("a wrong result")
        sums += result
        done += 1
        if done % WARM_UP == 0:
            now = resident()
            before = before or now
            if before.keys() != now.keys():
                raise AssertionError(f"other processes: {sorted(before)}, {sorted(now)}")
            growth = {name: max(growth.get(name, 0), now[name] - before[name]) for name in now}
    seconds = time.perf_counter() - began
    if sums != sum(range(EVALUATIONS)):
        raise AssertionError("wrong results")
    by_role = {role: max(grown for name, grown in growth.items() if name.startswith(role)) for role in ROLES}
    files = [path for path in (await hf.ask()).program.log_dir.rglob("*") if path.is_file()]
    return {
        "value": max(by_role.values()),
        **{f"{role}_mb": grown for role, grown in by_role.items()},
        "files": len(files),
        "log_mb": sum(path.stat().st_size for path in files) / 1e6,
        "us_each": seconds / EVALUATIONS * 1e6,
    }


ROLES = ("head", "launcher", "worker")


def stream() -> Figures:
    """Return the growth of memory, with two workers on this machine."""
    return hf.run_job_local(evaluate(), cpus=2)


def reached(medians: Mapping[str, Figures]) -> bool:
    """Flat, and a few files."""
    return medians[OURS]["value"] < 30 and medians[OURS]["files"] <= 10


QUESTION = Question(
    key="stream",
    title="1,000,000 evaluations streamed through as_completed, 1,000 at a time",
    unit="MB that the process grew by which grew most, after the first 50,000",
    better="lower",
    goal="flat memory in head, launcher and workers: under 30 MB; a number of files that grows with the workers only",
    contestants={OURS: "benchmarks.stream:stream"},
    reached=reached,
    rounds=1,
    limit=600,
)
