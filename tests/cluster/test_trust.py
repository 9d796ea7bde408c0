"""A bad node, and an evaluation that ends its nodes, on a real Slurm: what they cost the others."""

import sys

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.runs import submit

HYPERFLOW = (sys.executable, "-m", "hyperflow")

BAD_NODE = """
def work(x):
    if hf.worker_info().node == "node2":
        raise OSError("no licence here")
    time.sleep(0.1)
    return x

async def main():
    env = await hf.ask()
    evaluations = [hf.remote_eval(work, x).using(retries=3).start() for x in range(60)]
    found = await asyncio.gather(*evaluations, return_exceptions=True)
    right = sum(y == x for x, y in enumerate(found))
    return {"right": right, "errors": [str(y) for y in found if isinstance(y, OSError)]}
"""

NODE_KILLER = """
def work(x):
    if x == 17:
        os.system("kill -9 $(ps -o ppid= -p $PPID) $PPID")  # the keeper, the launcher, and so the node
    time.sleep(0.3)
    return x

async def main():
    evaluations = [hf.remote_eval(work, x).start() for x in range(41)]
    found = await asyncio.gather(*evaluations, return_exceptions=True)
    culprit = found[17]
    return {
        "right": sum(y == x for x, y in enumerate(found)),
        "culprit": [type(culprit).__name__, sorted(culprit.nodes), len(culprit.logs), str(culprit)],
    }
"""


@pytest.mark.timeout(120)
def test_a_bad_node(cluster: Cluster) -> None:
    """One of three nodes fails all that it gets, at once: 60 of 60 evaluations are right, and it is put aside."""
    run = submit(cluster, BAD_NODE)
    assert run.result(timeout=60) == {"right": 60, "errors": []}, run.seen()
    statistics = run.statistics()
    assert (statistics["nodes"], statistics["nodes_aside"], statistics["done"]) == (3, 1, 60)
    assert statistics["retried"] <= 60
    assert run.logged("node node2 is put aside")
    shown = cluster.login.run([*HYPERFLOW, "nodes", "--base-dir", str(run.place / "runs")]).stdout
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [[f"node{n}", "ended"] for n in (1, 2, 3)]


@pytest.mark.timeout(120)
def test_an_evaluation_that_ends_its_node(cluster: Cluster) -> None:
    """One of 41 ends each node that it runs on: it costs two nodes and is named; 40 of 40 others are right."""
    run = submit(cluster, NODE_KILLER)
    found = run.result(timeout=90)
    assert found["right"] == 40, run.seen()
    name, nodes, logs, text = found["culprit"]
    assert (name, len(nodes), logs) == ("TooManyNodesLost", 2, 2)
    assert "evaluation 18 of work" in text
    statistics = run.statistics()
    assert (statistics["nodes"], statistics["nodes_lost"], statistics["done"], statistics["retried"]) == (1, 2, 40, 0)


@pytest.mark.timeout(120)
def test_excluded_nodes(cluster: Cluster) -> None:
    """A node that the settings exclude is not used, although the allocation has it."""
    run = submit(cluster, exclude_nodes="node[2-3]")
    found = run.result(timeout=60)
    assert set(found["nodes"]) == {"node1"}
    assert run.statistics()["nodes"] == 1


@pytest.mark.timeout(120)
def test_drain_from_the_login_host(cluster: Cluster) -> None:
    """`hyperflow node drain`, typed where the head is not, reaches it through ssh."""
    run = submit(cluster, "async def main():\n    return await thousand(held)\n")
    run.wait_held("node1", "node2", "node3")
    words = ["--base-dir", str(run.place / "runs")]
    said = cluster.login.run([*HYPERFLOW, "node", "drain", "node2", *words]).stdout
    assert said == "node node2: nothing more is started there\n"
    run.wait_logged("node node2 is put aside (by hand)")
    run.go()
    assert run.result()["right"]
    assert run.statistics()["nodes_aside"] == 1
