"""`hyperflow tasks`, `output` and `wait` from the login host, of an array that runs in a Slurm job."""

import json
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.commands.test_array_on_slurm import typed
from tests.helpers import block_until


def test_an_array_on_nodes_is_looked_at_from_outside(cluster: Cluster, tmp_path: Path) -> None:
    """What runs, and what it has written so far, is in the files of its job; it is followed, and waited for."""
    script = "echo begun {n}; while ! test -e go; do sleep 0.1; done; echo ended {n}"
    asked = ("--nodes", "2", "--ntasks-per-node", "1", "--time", "5", "--detach")
    assert typed(cluster, tmp_path, "array", "--range", "1-3", *asked, "--", "sh", "-c", script).code == 0

    def states() -> list[str]:
        shown = typed(cluster, tmp_path, "tasks", "--json")
        return [json.loads(line)["state"] for line in shown.out.splitlines()]

    block_until(lambda: states().count("running") == 2, 50, "two tasks run")
    running = states().index("running") + 1
    block_until(lambda: typed(cluster, tmp_path, "output", str(running)).out == f"begun {running}\n", 20, "its output")
    assert typed(cluster, tmp_path, "wait", "--timeout", "0.3").code == 124
    (tmp_path / "go").touch()
    followed = typed(cluster, tmp_path, "output", str(running), "--follow")
    assert (followed.code, followed.out) == (0, f"begun {running}\nended {running}\n"), followed.err
    waited = typed(cluster, tmp_path, "wait")
    assert waited.code == 0, waited.err
    assert states() == ["done"] * 3
    assert typed(cluster, tmp_path, "output").out == "".join(f"begun {n}\nended {n}\n" for n in (1, 2, 3))
