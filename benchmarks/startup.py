"""What does hyperflow add to a bare Python's start: its import, and a whole program with one trivial job?"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

from benchmarks.harness import OURS, Figures, Question, scaled

PAIRS = scaled(20)
BARE = "pass"
IMPORT = "import hyperflow"
PROGRAM = "import hyperflow as hf\nassert hf.run_job_local(hf.pure(1), cpus=2) == 1"


def cost(code: str) -> tuple[float, float]:
    """Run a Python program; return its milliseconds, and those of CPU that it and its children took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    ended, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (ended - began) * 1e3, cpu * 1e3


def above_bare(code: str) -> Figures:
    """Return what a program costs above a bare Python: the median of many pairs, in turn."""
    cost(code), cost(BARE)
    pairs = [(cost(BARE), cost(code)) for _ in range(PAIRS)]
    return {
        "value": statistics.median(ours[0] - bare[0] for bare, ours in pairs),
        "cpu_ms": statistics.median(ours[1] - bare[1] for bare, ours in pairs),
        "bare_ms": statistics.median(bare[0] for bare, _ in pairs),
    }


def program() -> Figures:
    """A whole program with one job that evaluates nothing."""
    return above_bare(PROGRAM)


def import_only() -> Figures:
    """The import."""
    return above_bare(IMPORT)


def reached(medians: Mapping[str, Figures]) -> bool:
    """Both limits are kept."""
    return medians[OURS]["value"] <= 90 and medians[IMPORT]["value"] <= 60


QUESTION = Question(
    key="startup",
    title="a whole process with run_job_local(pure(1)), and `import hyperflow`",
    unit="ms above a bare Python",
    better="lower",
    goal="the whole process at most 90 ms, the import at most 60 ms",
    contestants={OURS: "benchmarks.startup:program", IMPORT: "benchmarks.startup:import_only"},
    reached=reached,
)
