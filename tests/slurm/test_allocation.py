"""The allocation: read from what a real Slurm puts into the environment, and refused where that contradicts itself."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from hyperflow.errors import SlurmError
from hyperflow.slurm import allocation, scontrol
from hyperflow.slurm.allocation import Allocation, Node
from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.slurm import golden

VERSIONS = sorted(path.name for path in golden.GOLDEN.iterdir())


def environment(text: str) -> dict[str, str]:
    """Read a golden file."""
    return dict(line.split("=", 1) for line in text.splitlines())


EXPECTED = {
    golden.BATCH: Allocation(
        job_id=2,
        nodes=(Node("node1", 4, 2), Node("node2", 4, 2), Node("node3", 2, 2)),
        head="node1",
        here="node1",
        end_time=golden.START + 300.0,
    ),
    golden.SALLOC: Allocation(
        job_id=3,
        nodes=(Node("node1", 2, 2), Node("node2", 1, 1)),
        head="node1",
        end_time=golden.START + 420.0,
    ),
    golden.STEP: Allocation(
        job_id=4,
        nodes=(Node("node1", 2, 1), Node("node2", 1, None)),
        head="node1",
        here="node1",
        end_time=golden.START + 420.0,
    ),
    golden.PTY: Allocation(
        job_id=5,
        nodes=(Node("node1", 3, 3), Node("node2", 1, 1), Node("node3", 1, 1)),
        head="node1",
        here="node1",
    ),
    golden.REQUEUED: Allocation(job_id=1, nodes=(Node("node3", 1, 1),), head="node3", here="node3", restart_count=1),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", EXPECTED)
def test_golden(version: str, way: str) -> None:
    """In a batch script, in salloc on the login host, in srun --pty: nodes, CPUs, place and end are Slurm's."""
    environ = environment((golden.GOLDEN / version / f"{way}.environment").read_text())
    record = (golden.GOLDEN / version / f"{way}.scontrol").read_text()
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str], variables: Mapping[str, str]) -> str:
        asked.append(argv)
        return record

    found = allocation.find(environ, run)

    assert found == EXPECTED[way]
    assert asked == [["scontrol", "show", "job", "-d", str(found.job_id), "-o"]]
    assert found.cpus == sum(node.cpus for node in found.nodes)


def test_golden_files_are_what_slurm_says(needs_cluster: None) -> None:
    """The installed Slurm says what is in the files. If it should differ: `python -m tests.slurm.golden`, and look."""
    with held_cluster(cpus=golden.CPUS) as c:
        directory = golden.GOLDEN / golden.version(c)
        if not directory.is_dir():
            pytest.skip(f"no golden files for Slurm {directory.name}: python -m tests.slurm.golden makes them")
        made = golden.make(c)

    assert made == {path.name: path.read_text() for path in directory.iterdir()}


def test_in_real_allocations(cluster: Cluster, tmp_path: Path) -> None:
    """The real thing, asked by the real scontrol, in a batch script and in salloc on the login host."""
    script = tmp_path / "show.py"
    script.write_text(
        "import os, time\n"
        "from hyperflow.slurm import allocation\n"
        "a = allocation.find(os.environ)\n"
        "print([n.name for n in a.nodes], a.cpus, a.head, a.here, 200 < a.end_time - time.time() <= 300)\n"
    )
    tell = shlex.join([sys.executable, str(script)])
    job = cluster.slurm.sbatch(f"exec {tell}", nodes=3, ntasks_per_node=4, time=5)
    cluster.slurm.wait_for(job)
    interactive = cluster.login.run(["salloc", "-N2", "--time=5", sys.executable, str(script)]).stdout

    assert cluster.slurm.output(job) == "['node1', 'node2', 'node3'] 12 node1 node1 True\n"
    assert interactive == "['node1', 'node2'] 2 node1 None True\n"


# ------------------------------------------------------------------------------------------ variables

ENVIRON = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-3]",
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2),2",
    "SLURM_TASKS_PER_NODE": "2(x3)",
    "SLURM_JOB_END_TIME": "1000",
}


def test_few_variables_are_enough() -> None:
    """What has to be there is the job's id, its nodes and their CPUs."""
    needed = {name: ENVIRON[name] for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_CPUS_PER_NODE")}

    found = allocation.read(needed)

    assert found == Allocation(7, (Node("n1", 4), Node("n2", 4), Node("n3", 2)), head="n1")
    assert found.cpus == 10


def test_scontrol_is_asked_again() -> None:
    """While Slurm is away, or says what makes no sense, it is asked again; the job does not fail."""
    there = golden.GOLDEN / VERSIONS[0]
    environ = environment((there / f"{golden.BATCH}.environment").read_text())
    record = (there / f"{golden.BATCH}.scontrol").read_text()
    answers = iter([SlurmError("away"), "rubbish", record])

    def run(argv: Sequence[str], variables: Mapping[str, str]) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert allocation.find(environ, run, pauses=(0, 0)) == EXPECTED[golden.BATCH]


def test_without_scontrol(caplog: pytest.LogCaptureFixture) -> None:
    """If it never answers, the end is not known, and a warning says so and why."""
    environ = {name: value for name, value in ENVIRON.items() if name != "SLURM_JOB_END_TIME"}

    def run(argv: Sequence[str], variables: Mapping[str, str]) -> str:
        raise SlurmError("slurmctld is away")

    found = allocation.find(environ, run, pauses=(0,))

    assert (found.cpus, found.end_time) == (10, None)
    assert "not known when this allocation ends" in caplog.text
    assert "slurmctld is away" in caplog.text


def test_scontrol_is_not_asked_in_vain() -> None:
    """Where the environment knows the end, nobody is asked."""

    def run(argv: Sequence[str], variables: Mapping[str, str]) -> str:
        raise AssertionError

    assert allocation.find(ENVIRON, run).end_time == 1000.0


@pytest.mark.parametrize(
    ("variables", "hostname", "here"),
    [
        ({"SLURMD_NODENAME": "n2"}, "login", "n2"),
        ({}, "login", None),
        ({}, "n3", "n3"),
        ({}, "n3.cluster.example", "n3"),
        ({"SLURMD_NODENAME": "other7"}, "other7", None),  # salloc inside another job
        ({"SLURMD_NODENAME": "other7"}, "n1", "n1"),
    ],
)
def test_where_we_are(variables: dict[str, str], hostname: str, here: str | None) -> None:
    """By slurmd's word, else by this machine's name; None if no node of the allocation is this one."""
    assert allocation.read({**ENVIRON, **variables}, hostname=hostname).here == here


def test_tasks_by_the_users_wish() -> None:
    """Where Slurm does not say how many tasks it plans, the user's --ntasks-per-node counts."""
    environ = {**ENVIRON, "SLURM_TASKS_PER_NODE": "", "SLURM_NTASKS_PER_NODE": "5"}

    assert [node.tasks for node in allocation.read(environ).nodes] == [5, 5, 5]


def test_tasks_of_a_step() -> None:
    """Inside srun they are those of the step's nodes."""
    environ = {**ENVIRON, "SLURM_TASKS_PER_NODE": "1,3", "SLURM_STEP_NODELIST": "n[2-3]"}

    assert [node.tasks for node in allocation.read(environ).nodes] == [None, 1, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"SLURM_JOB_ID": None}, ["SLURM_JOB_ID is not set", "not inside a Slurm allocation", "run_job_local"]),
        ({"SLURM_JOB_ID": "7_3"}, ["SLURM_JOB_ID='7_3' is not a number"]),
        ({"SLURM_JOB_NODELIST": None}, ["SLURM_JOB_NODELIST is not set", "SLURM_JOB_ID=7"]),
        ({"SLURM_JOB_NODELIST": ""}, ["SLURM_JOB_NODELIST is empty"]),
        ({"SLURM_JOB_NODELIST": ","}, ["SLURM_JOB_NODELIST=','", "no node"]),
        ({"SLURM_JOB_NODELIST": "n[1-3"}, ["SLURM_JOB_NODELIST", "never closed", "n[1-3\n"]),
        ({"SLURM_JOB_NODELIST": "n1,n[1-2]"}, ["SLURM_JOB_NODELIST=n1,n[1-2]", "n1 more than once"]),
        ({"SLURM_JOB_NUM_NODES": "2"}, ["SLURM_JOB_NUM_NODES=2", "SLURM_JOB_NODELIST=n[1-3] has 3"]),
        ({"SLURM_JOB_NUM_NODES": "x"}, ["SLURM_JOB_NUM_NODES='x'"]),
        ({"SLURM_JOB_CPUS_PER_NODE": None}, ["SLURM_JOB_CPUS_PER_NODE is not set"]),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2)"}, ["SLURM_JOB_CPUS_PER_NODE=4(x2) is for 2 nodes", "n[1-3] has 3"]),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2),2(y)"}, ["SLURM_JOB_CPUS_PER_NODE", "'2(y)'"]),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2),"}, ["SLURM_JOB_CPUS_PER_NODE", "''"]),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2),0"}, ["SLURM_JOB_CPUS_PER_NODE=4(x2),0", "no CPU"]),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x999999999)"}, ["SLURM_JOB_CPUS_PER_NODE", "more than"]),
        ({"SLURM_TASKS_PER_NODE": "2,2"}, ["SLURM_TASKS_PER_NODE=2,2", "2 nodes", "SLURM_JOB_NODELIST=n[1-3]"]),
        (
            {"SLURM_TASKS_PER_NODE": "2,2", "SLURM_STEP_NODELIST": "n1"},
            ["SLURM_TASKS_PER_NODE=2,2", "SLURM_STEP_NODELIST=n1"],
        ),
        ({"SLURM_TASKS_PER_NODE": "some"}, ["SLURM_TASKS_PER_NODE='some'"]),
        ({"SLURM_JOB_END_TIME": "soon"}, ["SLURM_JOB_END_TIME='soon'"]),
        ({"SLURM_RESTART_COUNT": "-1"}, ["SLURM_RESTART_COUNT='-1'"]),
        ({"SLURM_HET_SIZE": "2"}, ["SLURM_HET_SIZE=2", "heterogeneous"]),
    ],
)
def test_missing_and_contradictory(changes: dict[str, str | None], words: list[str]) -> None:
    """The error names the variable and what was found there."""
    environ = {name: value for name, value in {**ENVIRON, **changes}.items() if value is not None}

    with pytest.raises(SlurmError) as caught:
        allocation.read(environ)

    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (scontrol.JobRecord(8, "n[1-3]", "n1", None, 0), ["SLURM_JOB_ID=7", "job 8"]),
        (scontrol.JobRecord(7, "n[1-2]", "n1", None, 0), ["SLURM_JOB_NODELIST=n[1-3]", "n[1-2]", "resize"]),
    ],
)
def test_scontrol_says_otherwise(record: scontrol.JobRecord, words: list[str]) -> None:
    """A record that is of another job, or has other nodes since the job was resized, is an error."""
    with pytest.raises(SlurmError) as caught:
        allocation.read(ENVIRON, record=record)

    for word in words:
        assert word in str(caught.value)


def test_gpus_and_memory_of_nodes() -> None:
    """Slurm's record has them node by node; what it does not have may be in the variables."""
    details = (("n[1-2]", ("0", "1"), 0), ("n3", (), 1 << 30))
    record = scontrol.JobRecord(7, "n[1-3]", "n1", None, 0, details)

    told = allocation.read(ENVIRON, record=record).nodes
    per_node = allocation.read({**ENVIRON, "SLURM_MEM_PER_NODE": "2048"}, record=record).nodes
    per_cpu = allocation.read({**ENVIRON, "SLURM_MEM_PER_CPU": "512"}).nodes

    assert [(node.gpus, node.memory) for node in told] == [(("0", "1"), None)] * 2 + [((), 1 << 30)]
    assert [node.memory for node in per_node] == [2 << 30, 2 << 30, 1 << 30]
    assert [(node.gpus, node.memory) for node in per_cpu] == [(None, 2 << 30)] * 2 + [(None, 1 << 30)]


def test_a_job_with_gpus_is_asked_about() -> None:
    """Also where the environment has its end: it tells the GPUs of one node only."""
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str], _: Mapping[str, str]) -> str:
        asked.append(argv)
        raise SlurmError("no answer")

    found = allocation.find({**ENVIRON, "SLURM_JOB_GPUS": "0"}, run, pauses=())

    assert len(asked) == 1
    assert [node.gpus for node in found.nodes] == [None] * 3
