"""The programs and their sbatch scripts, as a user starts them: from the checkout, on a real Slurm."""

import re
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.imports import TOP
from tests.programs.runs import figures


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a directory that looks like a checkout in which `make demo` has run."""
    for name in ("programs", ".venv"):
        (tmp_path / name).symlink_to(TOP / name)
    return tmp_path


def submit(cluster: Cluster, checkout: Path, name: str, *words: str) -> tuple[str, str]:
    """Submit a program's script, wait for its end, and return the job's state and output."""
    done = cluster.login.run(["sbatch", "--parsable", f"programs/{name}.sbatch", *words], cwd=checkout)
    number = int(done.stdout)
    state = cluster.slurm.wait_for(number)["JobState"]
    return state, (checkout / f"{name}-{number}.out").read_text()


def test_hello_world(cluster: Cluster, checkout: Path) -> None:
    """Every CPU of the two nodes says hello."""
    state, output = submit(cluster, checkout, "hello_world")
    assert state == "COMPLETED", output
    nodes = re.findall(r"^Hello \d from worker-\d@(\w+)", output, re.MULTILINE)
    assert len(nodes) == 4
    assert len(set(nodes)) == 2


def test_bisection(cluster: Cluster, checkout: Path) -> None:
    """From the login host, three jobs of two nodes find the levels; a run with their database computes none."""
    words = [sys.executable, "programs/bisection.py", "--width", "10", "--base-dir", "runs", "--on-error", "raise"]
    counts: list[int] = []
    for earlier in ([], ["--database", "database"]):
        ended = cluster.login.run([*words, *earlier], cwd=checkout, env={"PYTHONPATH": str(TOP)})
        counts.append(int(figures(ended.stdout)["evaluations"]))
        run = max((checkout / "runs").iterdir())
        (checkout / "database").unlink(missing_ok=True)
        (checkout / "database").symlink_to(run / "results.sqlite")
        for number in "123":
            script = (run / "jobs" / number / "script.sh").read_text()
            assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n" in script
            assert "running" in ended.stderr
    assert counts[0] > 100
    assert counts[1] == 0


def on_login(cluster: Cluster, checkout: Path, *words: str) -> str:
    """Run a program on the login host; return what it printed."""
    line = [sys.executable, f"programs/{words[0]}.py", *words[1:], "--on-error", "raise"]
    return cluster.login.run(line, cwd=checkout, env={"PYTHONPATH": str(TOP)}, timeout=50).stdout


def test_file_conversion(cluster: Cluster, checkout: Path) -> None:
    """From the login host, files are packed on two nodes; the smallest of each comes home, and is right."""
    (checkout / "numbers").write_text("".join(f"{n * 7919 % 5003}\n" for n in range(5000)))
    (checkout / "ones").write_text("1\n" * 5000)
    output = on_login(cluster, checkout, "file_conversion", "numbers", "ones", "--to", "packed")
    assert "all are right" in output
    packed = sorted((checkout / "packed").iterdir())
    assert [path.stem for path in packed] == ["numbers", "ones"]
    assert packed[1].stat().st_size < 200


def test_ensemble(cluster: Cluster, checkout: Path) -> None:
    """From the login host, an external program runs on two nodes until its mean is known well enough."""
    found = figures(on_login(cluster, checkout, "ensemble", "--precision", "0.1"))
    assert int(found["runs"]) >= 50
    assert "from the exact width" in found["band"]


def test_ring_of_ions(cluster: Cluster, checkout: Path) -> None:
    """From the login host, a job of two nodes finds the boundary, each evaluation with two CPUs."""
    words = [sys.executable, "programs/ring_of_ions.py", "--ions", "6", "--tolerance", "5e-3", "--cpus", "2"]
    ended = cluster.login.run([*words, "--on-error", "raise"], cwd=checkout, env={"PYTHONPATH": str(TOP)}, timeout=50)
    assert "0.005 is allowed" in figures(ended.stdout)["error"], ended.stderr
    (run,) = (checkout / "hyperflow-runs").iterdir()
    script = (run / "jobs" / "1" / "script.sh").read_text()
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n#SBATCH --cpus-per-task=2\n" in script
