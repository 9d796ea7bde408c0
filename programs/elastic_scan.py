r"""Elastic scan: the edge of a region, on nodes that come when there is work and go when there is none.

How far from the middle may a particle begin that goes round in a ring with a sextupole (Henon's map), and stay? That
depends on the tune, which is by how much of a turn it swings in each round. A scan of a grid is wide: hundreds of
evaluations at once. The search for each edge is narrow: one evaluation after the other. So the load goes up, down, and
up again, which is bad for one fixed allocation: it is too small for the scan, and idle during the search.

        head            this script, on a login node, a workstation, or in an allocation
        |
        +-- pool        allocations of Slurm (--partition, --cpus, --most), machines by ssh (--hosts), or both
            |
            +-- node    comes when evaluations wait, and is given back when it has had no work for --idle
            +-- node
            :

While it runs: `hyperflow pool info`, `hyperflow nodes`, `hyperflow pool set max_allocations 8`. With `--here` it runs
on this machine, without a pool, and finds the same.
"""

import argparse
import math
import time

import hyperflow as hf


def stays(tune: float, x: float, rounds: int, seconds: float) -> bool:
    """Follow a particle for so many rounds; say whether it stays. `seconds` is what a larger model would take."""
    time.sleep(seconds)
    cosine, sine = math.cos(2 * math.pi * tune), math.sin(2 * math.pi * tune)
    y = 0.0
    for _ in range(rounds):
        kicked = y + x * x
        x, y = x * cosine + kicked * sine, kicked * cosine - x * sine
        if x * x + y * y > 10:
            return False
    return True


@hf.job
async def scan(tunes: list[float], points: int, seconds: float) -> list[float]:
    """Find the edge for each tune: scan a grid, all at once; then halve an interval, one step after the other."""
    places = [place / points for place in range(points + 1)]

    @hf.job
    async def edge(tune: float) -> float:
        with hf.using(name="grid"):
            inside = await hf.map_concurrently(lambda x: hf.remote_eval(stays, tune, x, 200, seconds), places)
        last = inside.index(False) - 1 if False in inside else points
        low, high = places[last], places[min(last + 1, points)]
        with hf.using(name="edge"):
            while high - low > 1e-3:
                middle = (low + high) / 2
                stayed = await hf.remote_eval(stays, tune, middle, 1000, seconds)
                low, high = (middle, high) if stayed else (low, middle)
        return low

    return await hf.map_concurrently(edge, tunes)


def hosts(text: str) -> dict[str, int | None]:
    """Read "box1=32,box2": names with CPUs, all of them where none are given."""
    pairs = (each.partition("=") for each in text.split(",") if each)
    return {name: int(cpus) if cpus else None for name, _, cpus in pairs}


def pool(words: argparse.Namespace) -> hf.NodePool:
    """Make the pool that the command line asks for."""
    sbatch = None
    if words.partition is not None:
        sbatch = hf.SbatchOptions(nodes=1, ntasks_per_node=words.cpus, time="30:00", partition=words.partition)
    return hf.NodePool(sbatch=sbatch, max_allocations=words.most, idle_timeout=words.idle, hosts=words.hosts)


def main() -> None:
    """Run the scan, and print the edges."""
    parser = argparse.ArgumentParser(description="A scan on nodes that come and go.")
    parser.add_argument("--partition", help="ask Slurm for allocations in this partition")
    parser.add_argument("--cpus", type=int, default=4, help="CPUs of one allocation")
    parser.add_argument("--most", type=int, default=4, help="so many allocations at most")
    parser.add_argument("--idle", default="30s", help="an allocation without work goes back after this")
    parser.add_argument("--hosts", type=hosts, default={}, help="machines by ssh, as box1=32,box2")
    parser.add_argument("--here", action="store_true", help="on this machine, without a pool")
    parser.add_argument("--tunes", type=int, default=6, help="for so many tunes, between 0.05 and 0.4")
    parser.add_argument("--points", type=int, default=40, help="of the grid for each of them")
    parser.add_argument("--seconds", type=float, default=0.05, help="what one evaluation takes at least")
    words = parser.parse_args()
    tunes = [0.05 + 0.35 * place / max(words.tunes - 1, 1) for place in range(words.tunes)]
    job = scan(tunes, words.points, words.seconds)
    edges = hf.run_job_local(job) if words.here else hf.run_job_pool(job, pool(words))
    for tune, edge in zip(tunes, edges, strict=True):
        print(f"tune {tune:.3f}  edge at {edge:.3f}")


if __name__ == "__main__":
    main()
