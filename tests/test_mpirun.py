"""The command lines of mpirun and srun, what they say, and what remote_command refuses. The real ones: test_ranks."""

import subprocess

import pytest

import hyperflow as hf
from hyperflow import mpirun
from hyperflow.testing import open_inline_job

NODES = ("node1", "node2")

OPENMPI = "mpirun noticed that process rank 3 with PID 0 on node node2 exited on signal 9 (Killed)."
OPENMPI_CODE = """
mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[31177,1],2]
  Exit code:    5
"""
OPENMPI_LOST = """
ORTE has lost communication with a remote daemon.

  HNP daemon   : [[8370,0],0] on node node1
  Remote daemon: [[8370,0],1] on node node2
"""
MPICH = """
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 4711 RUNNING AT node2
=   EXIT CODE: 9
"""
INTEL = "=   RANK 1 PID 4711 RUNNING AT node1\n=   KILLED BY SIGNAL: 9 (Killed)\n"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (OPENMPI, "rank 3 on node2 was ended by signal 9"),
        (OPENMPI_CODE, "rank 2 on node2 exited with 5"),
        ("MPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD", "rank 0 on node1 has called MPI_Abort"),
        (OPENMPI_LOST, "node2 was lost"),
        (MPICH, "a rank on node2 exited with 9"),
        (INTEL, "rank 1 on node1 was ended by signal 9"),
        ("srun: error: node2: task 2: Killed", "rank 2 on node2: Killed"),
        ("Segmentation fault", ""),
    ],
)
def test_blame(said: str, cause: str) -> None:
    """Which rank has ended how is found in what each of them says."""
    assert mpirun.blame(f"some words\n{said}\nmore", NODES, 2) == cause


def test_lines() -> None:
    """Each gets as many ranks on each of the nodes that were given."""
    assert mpirun.mpirun("mpirun", False, NODES, 64) == ["mpirun", "-np", "128", "--host", "node1:64,node2:64"]
    hydra = ["mpirun", "-n", "128", "-ppn", "64", "-hosts", "node1,node2"]
    assert mpirun.mpirun("mpirun", mpirun.is_hydra("HYDRA build details:"), NODES, 64) == hydra
    line = mpirun.srun("srun", NODES, 64, mpirun.best_mpi("MPI plugin types are...\n\tnone\n\tpmix\n\tpmi2\n"))
    assert {"--overlap", "--nodes=2", "--ntasks=128", "--ntasks-per-node=64", "--nodelist=node1,node2"} < set(line)
    assert line[-1] == "--mpi=pmix"


def test_variables() -> None:
    """What says which rank we are, and what would be an option of srun, is not passed on."""
    ours = {b"PMI_RANK": b"1", b"OMPI_COMM_WORLD_RANK": b"1", b"OMPI_MCA_btl": b"self", b"SLURM_JOB_ID": b"7"}
    ours |= {b"SLURM_NTASKS": b"4", b"SLURM_CONF": b"x", b"PATH": b"/bin"}
    found = mpirun.of_no_rank(ours.items())
    assert sorted(mpirun.for_mpirun(found.items())) == [b"OMPI_MCA_btl", b"PATH"]
    assert sorted(mpirun.for_srun(found.items())) == [b"OMPI_MCA_btl", b"PATH", b"SLURM_CONF", b"SLURM_JOB_ID"]


@pytest.mark.process
def test_shares() -> None:
    """Each rank of a node has its share of the CPUs, and its words as they are, whatever MPI tells it its number."""
    words = mpirun.wrapped(["sh", "-c", 'echo "$HYPERFLOW_CPUS $OMP_NUM_THREADS $X $0"', "a b'"], 2, 2, {"X": "it's"})
    for name in ("OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID"):
        env = {"PATH": "/usr/bin:/bin", "HYPERFLOW_CPUS": "3,5,6,9", name: "1"}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == "6,9 2 it's a b'\n"


def test_what_makes_no_sense() -> None:
    """It is refused where it is written."""
    with pytest.raises(hf.MisuseError, match="no shell"):
        print(hf.remote_command("lmp -in x"))
    with pytest.raises(hf.ConfigurationError, match="ranks_per_node=0"):
        print(hf.remote_command(["lmp"], ranks_per_node=0))
    with pytest.raises(hf.ConfigurationError, match="nodes=0"):
        print(hf.remote_command(["lmp"], nodes=0))
    with pytest.raises(hf.ConfigurationError, match="launcher='ssh'"):
        print(hf.remote_command(["lmp"], launcher="ssh"))  # type: ignore[arg-type]


@pytest.mark.process
async def test_inline() -> None:
    """In a test without workers, a plain program runs in this process's environment; there is one node."""
    async with open_inline_job(cpus=2):
        result = await hf.remote_command(["sh", "-c", "echo out"], capture=True)
        assert (result.returncode, result.stdout) == (0, "out\n")
        with pytest.raises(hf.CommandFailed, match="exited with 3"):
            await hf.remote_command(["sh", "-c", "exit 3"], check=True)
        with pytest.raises(hf.ImpossibleRequest, match="there is 1 node"):
            await hf.remote_command(["sh", "-c", "exit 3"], nodes=2)


@pytest.mark.process
def test_what_is_a_nodes_own() -> None:
    """On each node, a rank of srun's has the CPUs and GPUs of that node."""
    lines = mpirun.choosing([("n1", (0, 1), ("0",)), ("n2", (4, 5), ("1", "2"))], pinned=False)
    words = mpirun.wrapped(["sh", "-c", "echo $HYPERFLOW_CPUS $CUDA_VISIBLE_DEVICES"], 1, 1, {})
    env = {"PATH": "/usr/bin:/bin", "HYPERFLOW_HERE": lines, "CUDA_VISIBLE_DEVICES": "0", "SLURM_LOCALID": "1"}
    done = subprocess.run(words, env={**env, "SLURMD_NODENAME": "n2"}, capture_output=True, text=True, check=True)
    assert done.stdout == "5 1,2\n"
