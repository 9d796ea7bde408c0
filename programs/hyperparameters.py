"""Hyperparameters: bad candidates are dropped early
=================================================

Which settings let a neural network learn best? One candidate is trained by one flow, an ordinary async function: some
passes over the data at a time, on a worker. After 1, 2, 4, 8 and 16 passes it compares itself with what the others had
reached after as many. If it is not among the better half, it ends, and its CPU goes to the next candidate at once.
Nobody waits for a round to end (asynchronous successive halving: Li and others, MLSys 2020).

So what is trained, and for how long, depends on all scores before. In a scheduler's job arrays, or in a grid search,
every candidate would be trained to its end. The state that the candidates share is a Python dictionary.

The digits are scikit-learn's. The best network is checked with digits that the search has never seen.
"""

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from matplotlib.figure import Figure

import hyperflow as hf

# %%
# **The evaluation**: train a network for some more passes. The network travels to whichever worker is free, and back,
# as bytes: the Job does not look into it. Each worker loads the data once.


@attrs.frozen
class Candidate:
    """Settings of a network."""

    rate: float
    hidden: int
    decay: float
    batch: int


@hf.per_worker
def digits() -> Any:
    """Load pictures of digits in three parts: to learn from, to choose by, and for the check."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pictures, names = load_digits(return_X_y=True)
    learn, rest, learn_names, rest_names = train_test_split(pictures / 16, names, test_size=0.4, random_state=0)
    yield {
        "learn": (learn, learn_names),
        "choose": (rest[::2], rest_names[::2]),
        "check": (rest[1::2], rest_names[1::2]),
    }


def train(candidate: Candidate, trained: bytes | None, passes: int) -> tuple[bytes, float]:
    """Train a network, or a new one, for so many passes; return it, and the part of digits that it then knows."""
    from sklearn.neural_network import MLPClassifier

    if trained is not None:
        network = pickle.loads(trained)
    else:
        how = {"alpha": candidate.decay, "learning_rate_init": candidate.rate, "batch_size": candidate.batch}
        network = MLPClassifier(candidate.hidden, random_state=0, **how)
    for _ in range(passes):
        network.partial_fit(*digits()["learn"], classes=range(10))
    return pickle.dumps(network), float(network.score(*digits()["choose"]))


def examine(trained: bytes) -> float:
    """Return which part of the digits it knows that nobody has looked at before."""
    return float(pickle.loads(trained).score(*digits()["check"]))


# %%
# **The Job**: each candidate decides by itself whether it goes on.


@attrs.frozen
class Trained:
    """What became of a candidate: its scores after 1, 2, 4... passes, and what it knows of the digits for the check."""

    candidate: Candidate
    scores: list[float]
    check: float | None


@hf.job
async def grow(candidate: Candidate, rungs: int, others: dict[int, list[float]]) -> Trained:
    """Train a candidate for as long as it is among the better half of those that have come as far."""
    network: bytes | None = None
    scores: list[float] = []
    for rung in range(rungs):
        network, score = await hf.remote_eval(train, candidate, network, max(1, 2**rung // 2))
        scores.append(score)
        others[rung].append(score)
        if score < np.median(others[rung]):
            return Trained(candidate, scores, None)
    assert network is not None
    return Trained(candidate, scores, await hf.remote_eval(examine, network))


@hf.job
async def search(candidates: int, rungs: int, seed: int) -> list[Trained]:
    """Draw candidates and train them, two for each CPU at a time."""
    rng = np.random.default_rng(seed)
    drawn = [
        Candidate(
            rate=float(10 ** rng.uniform(-4, -0.5)),
            hidden=int(rng.integers(8, 65)),
            decay=float(10 ** rng.uniform(-5, 0)),
            batch=int(2 ** rng.integers(5, 9)),
        )
        for _ in range(candidates)
    ]
    others = defaultdict[int, list[float]](list)
    cpus = (await hf.ask()).statistics().cpus
    return await hf.map_concurrently(lambda candidate: grow(candidate, rungs, others), drawn, limit=2 * cpus)


# %%
# **The Master** checks and draws.


@hf.cluster
async def hyperparameters(*, candidates: int = 24, rungs: int = 5, needed: float = 0.95, seed: int = 1) -> None:
    """Look for the settings with which a network learns to read digits.

    Args:
        candidates: How many settings are tried.
        rungs: How often a candidate is compared: after 1, 2, 4... passes over the data.
        needed: Which part of the digits for the check the best network has to know.
        seed: For the choice of candidates.
    """
    with hf.using(sbatch=hf.SbatchOptions(ntasks_per_node=2, time="10:00")):
        found = await hf.remote_eval_job(search(candidates, rungs, seed))
    picture = (await hf.ask()).program.data_dir / "hyperparameters.png"
    draw(found, picture)
    best = max((one for one in found if one.check is not None), key=lambda one: one.scores[-1])
    passes, full = sum(2 ** (len(one.scores) - 1) for one in found), candidates * 2 ** (rungs - 1)
    print(f"best      {best.candidate}\npasses    {passes} over the data; {full} without dropping any")
    print(f"picture   {picture}")
    print(f"check     {best.check:.3f} of the digits, {needed:g} are needed")
    if best.check is None or best.check < needed:
        raise ArithmeticError(f"the best network knows {best.check} of the digits, not {needed:g}")


def draw(found: list[Trained], path: Path) -> None:
    """Draw how each candidate has learnt, and which settings went how far."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rungs = [2**rung for rung in range(max(len(one.scores) for one in found))]
    for one in sorted(found, key=lambda one: len(one.scores)):
        colour, width = ("#9aa5b1", 1) if one.check is None else ("#2a6fb5", 2)
        left.plot(rungs[: len(one.scores)], one.scores, "o-", ms=4, color=colour, lw=width)
    left.plot([], [], "o-", color="#9aa5b1", label="dropped")
    left.plot([], [], "o-", color="#2a6fb5", label="trained to the end")
    left.set_xscale("log", base=2)
    left.set_xticks(rungs, [str(passes) for passes in rungs])
    left.set(xlabel="passes over the data", ylabel="part of the digits known", ylim=(0, 1.02))
    left.legend(loc="lower right", frameon=False)
    left.spines[["top", "right"]].set_visible(False)
    x, y = [one.candidate.rate for one in found], [one.candidate.hidden for one in found]
    reached = [2 ** (len(one.scores) - 1) for one in found]
    sizes, scores = [20 + 10 * passes for passes in reached], [one.scores[-1] for one in found]
    dots = right.scatter(x, y, sizes, scores, edgecolors="white")
    figure.colorbar(dots, ax=right, label="part of the digits known at the end")
    right.set(xscale="log", xlabel="learning rate", ylabel="hidden neurons", title="larger: trained for longer")
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(hyperparameters)
