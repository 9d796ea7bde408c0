"""Commands with files on three nodes of a real cluster: where the shared directory is seen, and where it is not."""

import shlex
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.runs import prepare

SORT = """
async def main():
    away = pathlib.Path(tempfile.mkdtemp(dir=AWAY))
    os.chdir(away)
    chunks = []
    for number in range(6):
        lines = sorted(f"{(number * 7919 + n * 104729) % 1000003:07}" for n in range(2000))
        (away / f"chunk {number}").write_text("\\n".join(lines) + "\\n")
        chunks.append(hf.File(away / f"chunk {number}"))

    def merged(number):
        pair = chunks[2 * number:2 * number + 2]
        text = "sort -m -- \\"$1\\" \\"$2\\" > \\"$3\\"; uname -n > \\"$4\\"; sleep 1"
        return hf.remote_command(["sh", "-c", text, "sh", *pair, hf.Output(f"merged.{number}"),
                                  hf.Output(f"node.{number}")], check=True)

    results = await hf.map_concurrently(merged, range(3))
    tops = [result.files[f"merged.{number}"] for number, result in enumerate(results)]
    await hf.remote_command(["sort", "-m", *tops, "-o", hf.Output("all")], check=True)
    whole = sorted(line for number in range(6) for line in (away / f"chunk {number}").read_text().split())
    nodes = sorted((away / f"node.{number}").read_text().strip() for number in range(3))
    same = (away / "all").read_text().split() == whole
    hidden = [name for name in os.listdir(away) if name.startswith(".")]
    shutil.rmtree(away)
    return [nodes, same, hidden]
"""


@pytest.mark.parametrize("shared", [True, False])
def test_merge_on_three_nodes(cluster: Cluster, shared: bool) -> None:
    """Chunks go to nodes and sorted ones come home, through the shared directory, or where the nodes see none of it."""
    away = "str(place)" if shared else "'/dev/shm'"
    main = f"import pathlib, shutil, tempfile\nAWAY = {away}\n{SORT}"
    run, command, env = prepare(cluster, main)
    cluster.login.run(["salloc", "--nodes=3", "--ntasks-per-node=1", *shlex.split(command)], env=env)
    nodes, same, hidden = run.result()
    assert same
    assert hidden == []
    assert nodes == ["node1", "node2", "node3"]


PLACE = "/run/hyperflow-test"


@pytest.fixture
def small(cluster: Cluster) -> Iterator[list[str]]:
    """Give two nodes little scratch, and the third enough; return the names of the former."""
    names = ["node1", "node2"]
    for name, node in cluster.nodes.items():
        size = "512k" if name in names else "64m"
        node.run(["sh", "-c", f"mkdir {PLACE} && mount -t tmpfs -o size={size} test {PLACE}"])
    yield names
    for node in cluster.nodes.values():
        node.run(["sh", "-c", f"umount {PLACE} && rmdir {PLACE}"])


FULL = """
import hyperflow.environment

async def main():
    os.chdir(place)
    text = "uname -n > $1; head -c 5000000 /dev/zero > $2"

    def fill(number):
        words = ["sh", "-c", text, "sh", hf.Output(f"node.{number}"), hf.Output(f"zeros.{number}")]
        return hf.remote_command(words, check=True)

    await hf.map_concurrently(fill, range(3))
    stats = hyperflow.environment.current().statistics()
    nodes = [(place / f"node.{number}").read_text().strip() for number in range(3)]
    try:
        await hf.remote_command(["sh", "-c", "head -c 90000000 /dev/zero > x"], outputs=["x"], check=True)
    except hf.ScratchFull as error:
        return [nodes, stats.returned, stats.retried, stats.failed, str(error)]
"""


def test_the_next_node_is_tried(cluster: Cluster, small: list[str]) -> None:
    """Where scratch is full, the command runs on another node, uncharged; if all are, the error says what to do."""
    run, command, env = prepare(cluster, FULL, scratch=PLACE)
    cluster.login.run(["salloc", "--nodes=3", "--ntasks-per-node=1", *shlex.split(command)], env=env)
    nodes, returned, retried, failed, error = run.result()
    assert not set(nodes) & set(small)
    assert returned >= 2
    assert (retried, failed) == (0, 0)
    assert f"the scratch directory {PLACE}" in error
    assert "HYPERFLOW_SCRATCH=" in error
    for name, host in cluster.nodes.items():
        assert host.run(["find", PLACE, "-type", "f"]).stdout == "", name
