"""A file for three nodes of a real cluster: who sends it to whom, and what a task that comes meanwhile waits."""

import shlex

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.runs import prepare

MAIN = """
import hashlib
from hyperflow.head.pump import Pump
from hyperflow.staging import asking
from hyperflow.wire import scratch

SIZE = 20 << 20
add = Pump.add

def counted(self, file):
    tell("sent", self._link.node)
    add(self, file)

Pump.add = counted

def get(digest, source, x):
    (place / f"held.{hf.worker_info().node}").touch()
    while len(list(place.glob("held.*"))) < 3:
        time.sleep(0.01)
    path = asking.fetch(digest, SIZE, source, scratch.place / "files")
    return [hf.worker_info().node, hashlib.sha256(path.read_bytes()).hexdigest()]

async def main():
    source = place / "source"
    source.write_bytes(os.urandom(1 << 16) * (SIZE >> 16))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    results = await hf.map_concurrently(lambda x: hf.remote_eval(get, digest, str(source), x), range(3))
    return [sorted(node for node, _ in results), {found for _, found in results} == {digest}]
"""


@pytest.mark.parametrize(("transport", "node_to_node", "sent"), [("ssh", "auto", 2), ("srun", "off", 3)])
def test_one_file_for_three_nodes(cluster: Cluster, transport: str, node_to_node: str, sent: int) -> None:
    """The head sends it to two of them, and the third one gets it from one of these; unless that is switched off."""
    run, command, env = prepare(cluster, MAIN, transport=transport, node_to_node=node_to_node)

    cluster.login.run(["salloc", "--nodes=3", "--ntasks-per-node=1", *shlex.split(command)], env=env)

    assert run.result() == [["node1", "node2", "node3"], True]
    assert len(run.all("sent")) == sent
    assert not run.logged("could not get")
