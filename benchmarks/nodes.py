"""What does the head cost with 10 to 1,000 nodes of 128 CPUs, and does it keep them busy? For more, see scale.py."""

from collections.abc import Mapping

from benchmarks.harness import Figures, Question, quick

NODES = (10, 100) if quick() else (10, 100, 1000)
CPUS = 128
ROUNDS = 3
ENOUGH = 0.9
LATEST = 0.2


def duration_of(nodes: int) -> float:
    """Return how long a task takes where nobody says it: with many nodes no head could keep up with short ones."""
    return 1.0 if nodes <= 1000 else 10.0


def name(nodes: int) -> str:
    """Return what a run of so many nodes is called."""
    return f"{nodes:,} nodes, tasks of {duration_of(nodes):g} s"


def where(nodes: int, cpus: int, seconds: float, rounds: float, way: str, lose: bool = False) -> str:
    """Return what leads a run through its life; `lose`: some of its nodes, in the end."""
    return f"benchmarks.scale:of_life {nodes} {cpus} {seconds} {rounds} {way} {'lose' * lose}".strip()


def reached(medians: Mapping[str, Figures]) -> bool:
    """All CPUs are kept busy, and the loop is never late for long while they are filled."""
    found = [medians[name(nodes)] for nodes in NODES]
    return all(figures["efficiency"] >= ENOUGH and figures["fill_lag_s"] <= LATEST for figures in found)


QUESTION = Question(
    key="nodes",
    title=f"the head with 10 to 1,000 nodes of {CPUS} CPUs, single answers, on launchers that cost nothing",
    unit="us of the head's CPU for each task",
    better="lower",
    goal=f"{ENOUGH:.0%} of all CPUs busy; the event loop at most {LATEST} s late while they are filled",
    contestants={name(nodes): where(nodes, CPUS, duration_of(nodes), ROUNDS, "map", lose=True) for nodes in NODES},
    reached=reached,
    rounds=1,
    limit=900,
)
