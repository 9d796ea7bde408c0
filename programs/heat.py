"""Heat in a rod, on several nodes: a parallel program (MPI) as an evaluation, beside others.

Each rank has a piece of the rod. In each step it gets the temperatures at its edges from its neighbours (a halo
exchange), and computes new ones for its piece. How well heat is conducted is what is looked for: a bisection, each
step of which is a run of the parallel program, until the rod has the temperature that was measured near its hot end.

Needs an MPI with mpirun on the nodes, and `pip install mpi4py numpy`. In an allocation of at least two nodes:

    sbatch --nodes=2 --ntasks-per-node=4 --wrap "python heat.py"

On this machine alone: python heat.py --local
"""

import json
import sys
from typing import Any

import hyperflow as hf

CELLS = 200
STEPS = 500
MEASURED = 0.25


def rod(conductivity: float) -> None:
    """Be one of the ranks; the first one prints the temperature at a tenth of the rod."""
    import numpy as np
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    left = world.rank - 1 if world.rank > 0 else MPI.PROC_NULL
    right = world.rank + 1 if world.rank + 1 < world.size else MPI.PROC_NULL
    mine = np.array_split(np.arange(CELLS), world.size)[world.rank]
    heat = np.zeros(len(mine) + 2)  # with a cell of each neighbour's
    for _ in range(STEPS):
        world.Sendrecv(heat[1:2], left, recvbuf=heat[-1:], source=right)
        world.Sendrecv(heat[-2:-1], right, recvbuf=heat[:1], source=left)
        if left == MPI.PROC_NULL:
            heat[0] = 1.0  # this end is hot, the other one cold
        heat[1:-1] += conductivity * (heat[2:] - 2 * heat[1:-1] + heat[:-2])
    whole: Any = world.gather(heat[1:-1])
    nodes: Any = world.gather(MPI.Get_processor_name())
    if whole is not None:
        temperatures = np.concatenate(whole)
        print(json.dumps([temperatures[CELLS // 10], sorted(set(nodes))]))


async def temperature(conductivity: float, nodes: int, ranks: int) -> float:
    """Run the parallel program once."""
    argv = [sys.executable, __file__, "--rank", str(conductivity)]
    result = await hf.remote_command(argv, nodes=nodes, ranks_per_node=ranks, capture=True, check=True)
    value, names = json.loads(result.stdout)
    print(f"conductivity {conductivity:.4f}: temperature {value:.6f}, on {' and '.join(names)}")
    return float(value)


@hf.job
async def bisection(nodes: int, ranks: int) -> float:
    """Look for the conductivity at which the rod has the temperature that was measured."""
    low, high = 0.0, 0.5
    while high - low > 0.05:
        middle = (low + high) / 2
        if await temperature(middle, nodes, ranks) < MEASURED:
            low = middle
        else:
            high = middle
    return (low + high) / 2


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rod(float(sys.argv[2]))
    elif sys.argv[1:] == ["--local"]:
        print(hf.run_job_local(bisection(1, 2), cpus=2))
    else:
        print(hf.run_job_slurm(bisection(2, 2)))
