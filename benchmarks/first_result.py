"""How long does a script take to its first result, beside one with multiprocessing.Pool?"""

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import OURS, Figures, Question, Skipped, scaled

RUNS = scaled(7)
BEYOND = 60.0
POOL = "multiprocessing"
LIBRARIES = ", numpy and scipy"

TEXTS = {
    OURS: """
import hyperflow as hf

def double(x):
    return 2 * x

@hf.job
async def main():
    print(await hf.remote_eval(double, 1), flush=True)

hf.run_job_local(main(), cpus=2)
""",
    POOL: """
from multiprocessing import Pool

def double(x):
    return 2 * x

if __name__ == "__main__":
    with Pool(2) as pool:
        print(pool.apply(double, (1,)), flush=True)
""",
}
IMPORTS = """
import numpy as np
import scipy.linalg
import scipy.optimize
"""


def first_line(script: Path) -> float:
    """Run a script and return the milliseconds to what it prints first."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
        _, errors = process.communicate()
    if b"No module named" in errors:
        raise Skipped("not installed: scipy")
    assert line == b"2\n", errors.decode()
    return seconds * 1e3


def of(name: str, libraries: str = "") -> Figures:
    """Take a turn."""
    with TemporaryDirectory() as place:
        script = Path(place, "prog.py")
        script.write_text((IMPORTS if libraries else "") + TEXTS[name])
        first_line(script)
        times = [first_line(script) for _ in range(RUNS)]
    return {"value": statistics.median(times), "least_ms": min(times)}


def reached(medians: Mapping[str, Figures]) -> bool:
    """Both of them."""
    return all(medians[OURS + what]["value"] <= medians[POOL + what]["value"] + BEYOND for what in ("", LIBRARIES))


QUESTION = Question(
    key="first_result",
    title="the first result of `python prog.py`, also with numpy and scipy imported in the script",
    unit="ms",
    better="lower",
    goal=f"at most {BEYOND:g} ms more than with multiprocessing, both",
    contestants={
        **{name: f"benchmarks.first_result:of {name}" for name in (OURS, POOL)},
        **{name + LIBRARIES: f"benchmarks.first_result:of {name} libraries" for name in (OURS, POOL)},
    },
    reached=reached,
    rounds=3,
)
