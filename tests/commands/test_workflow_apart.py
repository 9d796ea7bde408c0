"""A whole small workflow on nodes that share no directory with the program, nor with each other.

The nodes of the cluster see one file system, as those of most clusters do. Here the program's directory is hidden from
each of them by an empty one, and each has a scratch directory of its own; they join by themselves, with a copy of the
access file. So programs and inputs can come to them through the stream only, and outputs can come back through it only.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.host import Command, Host
from tests.helpers import block_until
from tests.imports import TOP

pytestmark = pytest.mark.timeout(120)

PARTS = 12
ACCESS, SCRATCH = "/run/access", "/run/scratch"
"""On each host its own."""

LOGS = "*/hyperflow-node-*"
"""Of workers of nodes that have joined: they stay, for nobody else has them."""

PICK = """#!/bin/sh
# pick COUNT PART ROWS OUT: every COUNTth row
awk -v n="$1" -v r="$2" 'NR % n == r { print $1 * 2 }' "$3" > "$4"
hostname
sleep 0.3
"""

PROGRAM = f"""
import json, os, sys
from pathlib import Path
import hyperflow as hf

def length(file):
    with hf.scratch() as d:
        (d / "copy").write_bytes(file.path().read_bytes())
        return len((d / "copy").read_text().splitlines()), sorted(map(str, Path(sys.argv[0]).parent.glob("*")))

@hf.job
async def workflow():
    pick, rows = hf.File("pick"), hf.File("rows")
    found = await hf.map_concurrently(lambda n: hf.remote_command(
        [pick, "{PARTS}", str(n), rows, hf.Output(f"parts/{{n}}", keep="node" if n % 2 else "home")],
        capture=True, check=True), range({PARTS}))
    parts = [file for one in found for file in one.files.values()]
    whole = await hf.remote_command(
        ["sort", "-n", "-o", hf.Output("whole"), *parts], check=True, outputs=[])
    failed = await hf.remote_command(
        ["sh", "-c", "echo why > why; mkdir all; echo 1 > all/one; exit 3"],
        outputs=[hf.Output("why", on_failure=True), hf.Output("never")])
    makes = ["sh", "-c", "mkdir all; echo 1 > all/one; echo 2 > all/two"]
    await hf.remote_command(makes, outputs=["all/"], check=True)
    lines, seen = await hf.remote_eval(length, whole.files["whole"])
    return {{"hosts": [one.stdout.strip() for one in found], "lines": lines, "seen": seen, "failed": failed.returncode}}

result = hf.run_job_pool(workflow(), hf.NodePool(listen=0), progress=False)
print(json.dumps(result))
"""


@contextlib.contextmanager
def _hidden(host: Host, directory: Path) -> Iterator[None]:
    """Let a host see an empty directory in place of this one."""
    host.run(["mount", "-t", "tmpfs", "tmpfs", str(directory)])
    try:
        yield
    finally:
        host.run(["umount", "--lazy", str(directory)])


def _joins(host: Host, access: str) -> Command:
    """Have a host join, with a copy of the access file."""
    host.run(["sh", "-c", f"umask 077; mkdir -p {SCRATCH}; cat > {ACCESS}"], input=access)
    env = {"PYTHONPATH": str(TOP), "TMPDIR": SCRATCH}
    words = ["node", "join", "--access", ACCESS, "--cpus", "2", "--name", host.name]
    return host.start([sys.executable, "-m", "hyperflow", *words], env=env, cwd="/run")


def test_a_workflow(cluster: Cluster) -> None:
    """Programs and inputs come by `File`, outputs by `Output`; nothing is left in any node's scratch."""
    place = cluster.home / "apart"
    place.mkdir()
    (place / "program.py").write_text(PROGRAM)
    (place / "pick").write_text(PICK)
    (place / "pick").chmod(0o755)
    (place / "rows").write_text("".join(f"{row}\n" for row in range(30_000)))
    env = {"PYTHONPATH": str(TOP), "HYPERFLOW_PROGRESS": "0"}
    nodes = list(cluster.nodes.values())
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.enter_context(_hidden(node, place))
            assert node.run(["ls", str(place)]).stdout == ""
        log = stack.enter_context((place / "log").open("wb"))
        program = stack.enter_context(
            cluster.login.start([sys.executable, "program.py"], env=env, cwd=place, stderr=log)
        )
        asked = [sys.executable, "-m", "hyperflow", "pool", "access"]

        def access() -> str:
            assert program.poll() is None, (place / "log").read_text()
            return cluster.login.run(asked, env=env, cwd=place, check=False).stdout

        said = block_until(access, 20, "the pool listens")
        joined = [stack.enter_context(_joins(node, said)) for node in nodes]

        def seen() -> str:
            """Say how the nodes are, and what there is in logs."""
            words = [sys.executable, "-m", "hyperflow", "nodes", "--all"]
            nodes = cluster.login.run(words, env=env, cwd=place, check=False)
            logs = [path.read_text()[-1000:] for path in place.glob("hyperflow-runs/*/log/*.log")]
            return "\n".join([(place / "log").read_text(), nodes.stdout, nodes.stderr, *logs])

        block_until(lambda: program.poll() is not None, 40, "it ends", state=seen)
        out, _ = program.communicate()
        assert program.returncode == 0, (place / "log").read_text()
        for one in joined:
            told = one.communicate(timeout=20)
            assert one.returncode == 0, told
        left = {
            node.name: node.run(["find", SCRATCH, "-mindepth", "1", "-not", "-path", LOGS]).stdout for node in nodes
        }
    result = json.loads(out.splitlines()[-1])
    assert set(result["hosts"]) == set(cluster.nodes)
    assert result["seen"] == []
    assert (result["lines"], result["failed"]) == (30_000, 3)
    assert (place / "whole").read_text() == "".join(f"{2 * row}\n" for row in range(30_000))
    assert sorted(path.name for path in (place / "parts").iterdir()) == sorted(map(str, range(0, PARTS, 2)))
    assert {path.name: path.read_text() for path in (place / "all").iterdir()} == {"one": "1\n", "two": "2\n"}
    assert ((place / "why").read_text(), (place / "never").exists()) == ("why\n", False)
    assert left == dict.fromkeys(cluster.nodes, "")
