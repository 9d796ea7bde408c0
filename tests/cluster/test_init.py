"""`hyperflow init` on a real cluster: the doctor passes with what it writes, and Slurm runs it."""

import json
import shlex
import sys
from pathlib import Path

import hyperflow
from tests.cluster.cluster import Cluster

HYPERFLOW = [sys.executable, "-P", "-m", "hyperflow"]
NEEDED = {"PYTHONPATH": str(Path(hyperflow.__file__).parents[1])}


def test_from_the_login_host(cluster: Cluster) -> None:
    """What it writes there passes the doctor, and its script runs the doctor on two nodes, where nothing fails."""
    done = cluster.login.run([*HYPERFLOW, "init", "--time", "5"], env=NEEDED)

    assert done.stderr == ""
    config, script = cluster.home / ".config/hyperflow/config.toml", cluster.home / "job.sbatch"
    assert f"wrote {config}\nwrote job.sbatch\n" in done.stdout
    assert "next: `hyperflow doctor --nodes node1`, then `sbatch job.sbatch`" in done.stdout
    assert "ssh reaches node1" in config.read_text()
    assert "#SBATCH --partition=main\n" in script.read_text()
    assert "node1 sees it" in " ".join(script.read_text().replace("\n# ", " ").split())

    told = cluster.login.run([*HYPERFLOW, "doctor", "--json", "--nodes", "node1"], env=NEEDED)
    assert json.loads(told.stdout)["ok"]
    job = int(cluster.login.run(["sbatch", "--parsable", "job.sbatch"], env=NEEDED).stdout)
    ended = cluster.slurm.wait_for(job)
    said = cluster.slurm.output(job)
    assert ended["JobState"] == "COMPLETED", said
    assert "2 nodes" in said or "node2" in said
    assert "nothing failed" in said
    assert ended["StdOut"].endswith(f"hyperflow-{job}.out")


def test_where_ssh_is_not_let_in(cluster: Cluster) -> None:
    """From the login host the default stays, and why is said; in an allocation, in which srun works, it is "srun"."""
    (cluster.home / ".ssh" / "authorized_keys").write_text("")
    config = cluster.home / ".config/hyperflow/config.toml"
    done = cluster.login.run([*HYPERFLOW, "init", "--partition", "main", "--nodes", "3", "--cpus", "2"], env=NEEDED)

    assert '#transport = "auto"' in config.read_text()
    assert "ssh does not reach node1 from here" in config.read_text().replace("\n# ", " ")
    assert "#SBATCH --nodes=3\n" in (cluster.home / "job.sbatch").read_text()
    assert "next: `hyperflow doctor`, then" in done.stdout

    words = ["salloc", "--nodes=2", "--quiet", *HYPERFLOW, "init", "--force"]
    cluster.login.run(words, env=NEEDED)
    assert '\ntransport = "srun"\n' in config.read_text()
    job = cluster.slurm.sbatch((cluster.home / "job.sbatch").read_text(), env=NEEDED)
    assert cluster.slurm.wait_for(job)["JobState"] == "COMPLETED", cluster.slurm.output(job)


def test_a_configuration_elsewhere_and_a_program(cluster: Cluster) -> None:
    """The script names the configuration, in a directory with a blank, and runs the program on its nodes."""
    (cluster.home / "my program.py").write_text(
        "import os, sys\nimport hyperflow as hf\n\n"
        "@hf.job\nasync def nodes() -> int:\n    return (await hf.ask()).statistics().cpus\n\n"
        "print(hf.run_job_slurm(nodes()), os.environ['HYPERFLOW_CONFIG'])\n"
    )
    place = cluster.home / "my settings" / "c.toml"
    words = ["init", "my program.py", "--config", str(place), "--nodes", "2", "--cpus", "2", "--time", "5"]
    done = cluster.login.run([*HYPERFLOW, *words], env=NEEDED)

    assert f"HYPERFLOW_CONFIG={shlex.quote(str(place))} hyperflow doctor" in done.stdout
    job = int(cluster.login.run(["sbatch", "--parsable", "job.sbatch"], env=NEEDED).stdout)
    assert cluster.slurm.wait_for(job)["JobState"] == "COMPLETED", cluster.slurm.output(job)
    assert f"4 {place}\n" in cluster.slurm.output(job)


def test_without_an_answer_of_slurms(cluster: Cluster) -> None:
    """Where slurmctld does not answer, it says so in bounded time, and writes the configuration, but no script."""
    cluster.faults.stop_daemon("login", "slurmctld")
    done = cluster.login.run([*HYPERFLOW, "init", "--timeout", "2"], env=NEEDED, check=False, timeout=30)

    assert done.returncode == 1
    assert "gave no answer within 2 s" in done.stderr
    assert (cluster.home / ".config/hyperflow/config.toml").exists()
    assert not (cluster.home / "job.sbatch").exists()
