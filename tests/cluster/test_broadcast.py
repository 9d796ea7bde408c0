"""A large array for many nodes, in real allocations: who sends it to whom."""

import shlex

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.runs import prepare

MAIN = """
import hashlib
import numpy
from hyperflow.head.link import Link

send = Link.write_block

def counted(self, number, block):
    tell("sent", self.node)
    send(self, number, block)

Link.write_block = counted

def use(data, x):
    (place / f"held.{hf.worker_info().node}").touch()
    while len(list(place.glob("held.*"))) < 3:
        time.sleep(0.01)
    return [hf.worker_info().node, hashlib.sha256(data).hexdigest()]

async def main():
    data = numpy.frombuffer(os.urandom(1 << 16) * 320, dtype="u1")
    whole = hashlib.sha256(data).hexdigest()
    results = await hf.map_concurrently(lambda x: hf.remote_eval(use, data, x), range(3))
    return [sorted(node for node, _ in results), {digest for _, digest in results} == {whole}]
"""


@pytest.mark.parametrize(("transport", "node_to_node", "sent"), [("ssh", "auto", 2), ("srun", "off", 3)])
def test_one_array_for_three_nodes(cluster: Cluster, transport: str, node_to_node: str, sent: int) -> None:
    """The head sends it to two of them, and the third one gets it from one of these; unless that is switched off."""
    run, command, env = prepare(cluster, MAIN, transport=transport, node_to_node=node_to_node)

    cluster.login.run(["salloc", "--nodes=3", "--ntasks-per-node=1", *shlex.split(command)], env=env)

    assert run.result() == [["node1", "node2", "node3"], True]
    assert len(run.all("sent")) == sent
    assert not run.logged("could not get")
