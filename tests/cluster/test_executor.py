"""An executor over a real allocation: its calls are spread over the nodes, and a library computes on it."""

from tests.cluster.cluster import Cluster
from tests.cluster.runs import submit

MAIN = """
def node(x):
    time.sleep(0.02)
    return x, hf.worker_info().node, len(hf.worker_info().cpus)


async def main():
    env = await hf.ask()
    with env.executor(cpus=2) as pool:
        found = await asyncio.to_thread(lambda: list(pool.map(node, range(100))))
        inside = pool.submit(os._exit, 3)  # fails alone
        crash = await asyncio.gather(asyncio.wrap_future(inside), return_exceptions=True)
        loop = asyncio.get_running_loop()
        more = await asyncio.gather(*(loop.run_in_executor(pool, pow, x, 2) for x in range(20)))
    return {
        "at_once": pool._max_workers,
        "order": [x for x, *_ in found] == list(range(100)),
        "nodes": sorted({node for _, node, _ in found}),
        "cpus": sorted({cpus for *_, cpus in found}),
        "crash": type(crash[0]).__name__,
        "more": more == [x * x for x in range(20)],
        "after": await hf.remote_eval(pow, 2, 5),
    }
"""


def test_in_an_allocation(cluster: Cluster) -> None:
    """All nodes work for it, with the CPUs that were asked for; a crash fails its own future; the job goes on."""
    assert submit(cluster, MAIN).result() == {
        "at_once": 6,
        "order": True,
        "nodes": ["node1", "node2", "node3"],
        "cpus": [2],
        "crash": "WorkerDied",
        "more": True,
        "after": 32,
    }
