"""Functions that use GPUs, and jobs that evaluate them. (Beside the tests, workers would import pytest for them.)"""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hyperflow as hf

VISIBLE = "CUDA_VISIBLE_DEVICES"


def seen() -> tuple[str, tuple[str, ...]]:
    """Return the GPUs that a worker sees, and those that it is told."""
    return os.environ[VISIBLE], hf.worker_info().gpus


@hf.job
async def looks() -> list[tuple[str, tuple[str, ...]]]:
    """Look with no GPU, with one, with two, and with the half of one."""
    none = await hf.remote_eval(seen)
    with hf.using(gpus=1):
        one = await hf.remote_eval(seen)
    with hf.using(gpus=2):
        both = await hf.remote_eval(seen)
    with hf.using(gpus=0.5):
        half = await hf.remote_eval(seen)
    return [none, one, both, half]


@hf.job
async def commands() -> list[str]:
    """Return what a command sees, without a GPU and with one."""
    show = ["sh", "-c", f'printf %s "${VISIBLE}"']

    def shown() -> str:
        return asyncio.run(_run(show))

    return [await hf.remote_eval(shown), await hf.remote_eval(shown).using(gpus=1)]


async def _run(argv: list[str]) -> str:
    return (await hf.run_command(argv, capture=True)).stdout


@hf.per_worker
def slow_to_close() -> Iterator[int]:
    """Take a moment to close."""
    yield os.getpid()
    time.sleep(0.2)


def after(before: int) -> tuple[int, bool]:
    """Return the worker's pid, and whether the one before it is still there."""
    return slow_to_close(), before > 0 and Path(f"/proc/{before}").exists()


@hf.job
async def follow() -> list[bool]:
    """Tell of each worker whether the one before it had its GPU still."""
    pid, found = 0, list[bool]()
    for gpus in (1, 0.5, 1):
        pid, is_there = await hf.remote_eval(after, pid).using(gpus=gpus)
        found.append(is_there)
    return found


def hold(directory: str, number: int, gpus: float) -> tuple[str, tuple[str, ...]]:
    """Take the places of the GPUs that it has, two on each, which fails if another one has them; maybe fail."""
    node, ids = hf.worker_info().node, hf.worker_info().gpus
    assert os.environ[VISIBLE] == ",".join(ids)
    places = [Path(directory, f"{node}-{gpu}-{part}") for gpu in ids for part in "ab"]
    mine: list[Path] = []
    for place in places:
        with contextlib.suppress(FileExistsError):
            place.touch(exist_ok=False)
            mine.append(place)
        if gpus < 1 and mine:
            break
    assert len(mine) == (1 if gpus < 1 else len(places)), f"somebody else has {places}"
    for place in mine:
        place.unlink()
    if number % 50 == 7:
        os._exit(3)
    if number % 20 == 5:
        raise ValueError(number)
    return node, ids


@hf.job
async def holds(directory: str, count: int) -> Counter[str]:
    """Evaluate with one GPU, the half of one, or two, twenty times each; return how often each node's ids had one."""

    @hf.job
    async def one(number: int) -> str:
        gpus = (1, 0.5, 2)[number // 20 % 3]
        try:
            node, ids = await hf.remote_eval(hold, directory, number, gpus).using(gpus=gpus)
        except (ValueError, hf.WorkerDied) as error:
            return type(error).__name__
        return " ".join((node, *ids))

    return Counter(await hf.map_concurrently(one, range(count)))


@hf.job
async def looks_at() -> dict[str, Any]:
    """Return what a job has: the GPUs, named by an evaluation that has all of them; memory; licences."""
    stands = (await hf.ask()).statistics()
    gpus = (await hf.remote_eval(seen).using(gpus=stands.gpus))[0]
    return {"gpus": gpus, "memory": stands.memory, "licences": stands.tokens["licence"]}
