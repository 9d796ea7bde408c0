"""What this machine grants: the memory that is ours."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperflow.wire import machine
from hyperflow.wire.machine import Memory

GIB = 1 << 30


def files(texts: dict[str, str]) -> Callable[[str], str]:
    """Return what reads these files, and no others."""

    def read(path: str) -> str:
        if path not in texts:
            raise FileNotFoundError(path)
        return texts[path]

    return read


@pytest.mark.parametrize(
    ("texts", "environ", "memory"),
    [
        ({}, {}, None),
        ({}, {"SLURM_MEM_PER_NODE": "1024"}, Memory(GIB, "Slurm")),
        ({}, {"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "4"}, Memory(2 * GIB, "Slurm")),
        ({}, {"SLURM_MEM_PER_CPU": "512"}, None),
        ({}, {"SLURM_MEM_PER_NODE": "0"}, None),  # all of the node
        (
            {"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/memory.max": f"{GIB}\n"},
            {"SLURM_MEM_PER_NODE": "4096"},
            Memory(GIB, "control group"),
        ),
        ({"/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/a/memory.max": "max\n"}, {}, None),
        (
            {"/proc/self/cgroup": "4:memory:/c\n0::/\n", "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"},
            {},
            Memory(GIB, "control group"),
        ),
    ],
)
def test_memory(
    texts: dict[str, str], environ: dict[str, str], memory: Memory | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least that anybody allows; also where the limit is that of a group around ours, or there are no groups."""
    monkeypatch.setattr(machine, "_read", files(texts))
    monkeypatch.setattr(machine, "_all_memory", lambda: Memory(64 * GIB, "machine"))

    assert machine.memory(environ) == (memory or Memory(64 * GIB, "machine"))


def test_where_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is counted; this machine knows."""
    assert machine.memory({}).size > 0
    monkeypatch.setattr(machine, "_read", files({}))
    monkeypatch.setattr(machine, "_all_memory", Memory)
    assert machine.memory({}) == Memory()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_0\n", 42),
        ("0::/system.slice/node1_slurmstepd.scope/job_42/step_extern/user/task_special\n", 42),
        ("12:cpuset:/slurm/uid_1000/job_42/step_batch\n11:memory:/user.slice\n", 42),
        ("4:memory:/user.slice\n3:freezer:/slurm_node1/uid_1000/job_42/step_extern\n", 42),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", 0),
        ("0::/user.slice/job_42/session\n", 0),
        ("", 0),
    ],
)
def test_the_slurm_job_of_a_control_group(text: str, job: int, tmp_path: Path) -> None:
    """The job in whose control group a process is stands in the group's path, in version 2 and in version 1."""
    (tmp_path / "cgroup").write_text(text)
    assert machine.slurm_job(str(tmp_path / "cgroup")) == job
    assert machine.slurm_job(str(tmp_path / "none")) == 0
