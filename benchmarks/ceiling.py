"""What can the head do at most? Its CPU time for each task, on workers that answer at once (see stand_in.py)."""

from collections.abc import Mapping

from benchmarks.harness import Figures, Question, scaled

TASKS = scaled(200_000)
MOST = {"1 x 2": 2.0, "1 x 64": 2.0, "16 x 64": 1e6 / 300_000}


def where(shape: str, way: str = "map") -> str:
    """Return what measures so many nodes times so many CPUs."""
    nodes, _, cpus = shape.split()
    return f"benchmarks.scale:of_ceiling {nodes} {cpus} {TASKS} {way}"


def reached(medians: Mapping[str, Figures]) -> bool:
    """Each of the maps."""
    return all(medians[shape]["value"] <= most for shape, most in MOST.items())


QUESTION = Question(
    key="ceiling",
    title=f"map_concurrently and as_completed over {TASKS:,} tasks that cost nothing, nodes x CPUs",
    unit="us of the head's CPU each",
    better="lower",
    goal="maps: at most 2 us on one node with 2 or 64 CPUs (500,000 a second), 3.3 us on 16 x 64 (300,000)",
    contestants={
        **{shape: where(shape) for shape in MOST},
        **{f"as_completed, {shape}": where(shape, "as_completed") for shape in MOST},
    },
    reached=reached,
    rounds=3,
)
