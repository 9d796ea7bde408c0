"""An evaluation that has failed on a node of Slurm's is debugged on a machine without Slurm."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.imports import TOP
from tests.support import environment

SCRIPT = """
import hyperflow as hf
import helping
class Molecule:
    def __init__(self, size):
        self.size = size
def solve(molecule):
    return helping.inverse(molecule.size - 7)
if __name__ == "__main__":
    hf.run_job_slurm(hf.remote_eval(solve, Molecule(7)))
"""

HELPING = "def inverse(x):\n    return 1 / x\n"


def test_a_failure_is_taken_home(cluster: Cluster, tmp_path: Path) -> None:
    """It fails in an allocation, is saved on the login host, and fails again elsewhere without program and run."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "script.py").write_text(SCRIPT)
    (there / "helping.py").write_text(HELPING)
    env = {"PYTHONPATH": str(TOP), "XDG_STATE_HOME": str(there / "state")}
    words = shlex.join([sys.executable, "script.py"])
    number = cluster.slurm.sbatch(f"cd {shlex.quote(str(there))}\nexec {words}", nodes=1, env=env)
    assert cluster.slurm.wait_for(number)["JobState"] == "FAILED"
    command = [sys.executable, "-m", "hyperflow", "debug", "1", "--save", "f.hfc"]
    assert "python f.hfc" in cluster.login.run(command, cwd=there, env=env).stdout

    home = tmp_path / "home"
    home.mkdir()
    (there / "f.hfc").rename(home / "f.hfc")
    shutil.rmtree(there)
    done = subprocess.run(
        [sys.executable, "f.hfc"], cwd=home, env=environment(), input="p x\nup\np molecule.size\nq\n",
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "it has failed with the same error" in done.stderr
    assert "(Pdb) 0\n" in done.stdout
    assert "(Pdb) 7\n" in done.stdout
    assert "return 1 / x" in done.stdout
